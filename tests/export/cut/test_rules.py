"""Each rule's score beside its definition in numpy."""

import numpy as np
import onnx
import pytest

from offramp.errors import ModelError, UsageError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import CLASSES, write_onnx


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def ensemble(z):
    """The softmax of the mean log-probability of the heads so far: (N, exits, C)."""
    log_p = np.log(softmax(z))
    return softmax(np.cumsum(log_p, 1) / np.arange(1, z.shape[1] + 1)[:, None])


SCORES = {
    "max_softmax": lambda z: softmax(z).max(-1),
    "entropy": lambda z: 1 + (softmax(z) * np.log(softmax(z))).sum(-1) / np.log(CLASSES),
    "margin": lambda z: np.diff(np.sort(softmax(z), -1)[..., -2:], axis=-1)[..., 0],
    "ensemble": lambda z: ensemble(z).max(-1),
}


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def export_and_run(path, folder, **options):
    bundle = export(path, None, folder / "b.offramp", **options)
    with load_uncalibrated(bundle, logits=True) as net:
        return bundle, net.every_exit(draw(50, 1))


@pytest.fixture
def raw(dense_onnx, tmp_path):
    """The network's own logits for 50 samples, float64 (N, exits, C)."""
    bundle = export(dense_onnx, None, tmp_path / "raw.offramp")
    return load_uncalibrated(bundle, logits=True).every_exit(draw(50, 1)).logits.astype(np.float64)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_mean_softmax_is_the_softmax_of_the_likeliest_without_a_softmax(opset, tmp_path):
    path = write_onnx(tmp_path / "net.onnx", opset=opset)
    options = {"answer": ["scores"], "rule": "mean_softmax", "exits": ["z0", "z1", "z2"]}
    bundle = export(path, None, tmp_path / "b.offramp", **options)
    x = draw(50, 1) * np.geomspace(1, 1e5, 50, dtype=np.float32)[:, None]  # scores of up to a million
    with load_uncalibrated(bundle) as net:
        answers = net.every_exit(x)
    variant = bundle.variant()
    for k, stage in enumerate(variant.stages):
        z = answers.parts(k)["scores"].astype(np.float64)
        assert np.abs(answers.score[:, k] - softmax(z).max(-1)).max() < 1e-6
        graph = onnx.load(bundle.path / variant.folder / stage.file).graph
        assert "Softmax" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("rule", SCORES)
@pytest.mark.parametrize("temperatures", [None, [0.5, 2.0, 1.0]], ids=["plain", "temperatures"])
def test_a_score_is_what_its_rule_says(raw, rule, opset, temperatures, tmp_path):
    path = write_onnx(tmp_path / "net.onnx", opset=opset)
    bundle, answers = export_and_run(path, tmp_path, rule=rule, temperatures=temperatures)
    z = raw / np.reshape(temperatures or [1] * 3, (3, 1))
    assert np.allclose(answers.score, SCORES[rule](z), atol=2e-6)
    assert (answers.label == (ensemble(z) if rule == "ensemble" else z).argmax(-1)).all()
    assert bundle.variant().rule == rule
    assert [e.temperature for e in bundle.variant().exits] == (temperatures or [1.0] * 3)


def test_a_sure_exit_scores_one_and_an_unsure_one_zero(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("h"):  # all logits 0, or one of the first two very large
            value = np.zeros((16, CLASSES), np.float32)
            value[:, :2] = (1e4, -1e4) if tensor.name == "h1" else 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)
    for rule in ("entropy", "margin"):
        bundle = export(path, draw(3), tmp_path / "b.offramp", rule=rule)
        score = load_uncalibrated(bundle).every_exit(draw(50)).score
        assert np.allclose(score[:, 0], 0, atol=1e-6) and (score >= 0).all()
        assert np.allclose(score[:, 1], 1, atol=1e-6) and (score <= 1 + 1e-6).all()


def write_gated(path, *, sigmoid=True, last=False, shape=(1,)):
    """The dense network with a gate (batch, 1) or (batch,) for each exit but the last, or for all."""
    model = onnx.load(write_onnx(path))
    helper, rng, gates = onnx.helper, np.random.default_rng(3), 3 if last else 2
    for k in range(gates):
        weight = rng.standard_normal((16, 1)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"g{k}.w"))
        model.graph.node.append(helper.make_node("MatMul", [f"a{k}", f"g{k}.w"], [f"g{k}.wide"]))
        if shape == ():
            model.graph.node.append(helper.make_node("Squeeze", [f"g{k}.wide", "one"], [f"g{k}.raw"]))
        name = f"g{k}.raw" if shape == () else f"g{k}.wide"
        model.graph.node.append(helper.make_node("Sigmoid" if sigmoid else "Identity", [name], [f"g{k}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"g{k}", onnx.TensorProto.FLOAT, ["N", *shape]))
    if shape == ():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    onnx.save(model, path)
    return path, [f"g{k}" for k in range(gates)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_gate_of_the_networks_own_is_the_score(raw, last, shape, tmp_path):
    import onnxruntime

    path, gates = write_gated(tmp_path / "net.onnx", last=last, shape=shape)
    _, answers = export_and_run(path, tmp_path, rule="gate", gates=gates)
    expected = onnxruntime.InferenceSession(path).run(gates, {"x": draw(50, 1)})
    for k, gate in enumerate(expected):
        assert np.allclose(answers.score[:, k], gate.reshape(-1), atol=1e-6)
    if not last:
        assert np.allclose(answers.score[:, 2], softmax(raw[:, 2]).max(-1), atol=1e-6)


def test_a_gate_before_its_sigmoid_is_refused_until_it_is_called_one(tmp_path):
    path, gates = write_gated(tmp_path / "net.onnx", sigmoid=False)
    with pytest.raises(ModelError, match="score of exit z[01] runs from .* gate_logit"):
        export(path, draw(50), tmp_path / "b.offramp", rule="gate", gates=gates)
    _, answers = export_and_run(path, tmp_path, rule="gate_logit", gates=gates)
    assert (answers.score > 0).all() and (answers.score <= 1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "entropie"}, "Unknown rule 'entropie'. Did you mean 'entropy'"),
        ({"rule": "gate"}, "need gates="),
        ({"rule": "margin", "gates": ["g0", "g1"]}, "no other does"),
        ({"rule": "gate", "gates": ["g0", "g9"]}, "Unknown output 'g9'. Known: z0, z1, z2, g0, g1"),
        ({"rule": "gate", "gates": ["g0"]}, "1 gates for 3 exits"),
        ({"temperatures": [1.0]}, "1 temperatures for 3 exits"),
        ({"temperatures": [1.0, 0.0, 1.0]}, "above 0"),
        ({"rule": "gate", "gates": ["g0", "g1"], "temperatures": [1, 1, 1]}, "Leave temperatures out"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(options, words, tmp_path):
    path, _ = write_gated(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=words):
        export(path, None, tmp_path / "b.offramp", exits=["z0", "z1", "z2"], **options)


@pytest.mark.parametrize("rule", SCORES)
@pytest.mark.parametrize("temperatures", [None, [0.5, 2.0, 1.0]], ids=["plain", "temperatures"])
def test_exits_that_end_in_a_softmax_are_scored_by_their_probabilities(raw, rule, temperatures, tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    for k in range(3):
        model.graph.node.append(onnx.helper.make_node("Softmax", [f"z{k}"], [f"p{k}"], axis=-1))
        model.graph.output[k].name = f"p{k}"
    onnx.save(model, path)
    _, answers = export_and_run(path, tmp_path, rule=rule, temperatures=temperatures)
    z = raw / np.reshape(temperatures or [1] * 3, (3, 1))
    assert np.allclose(answers.score, SCORES[rule](z), atol=1e-5)
    if rule != "ensemble":
        assert np.allclose(answers.logits, softmax(raw), atol=1e-6)


def test_sorting_takes_temperatures_and_gates_along(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    bundle = export(path, None, tmp_path / "b.offramp", exits=["z2", "z0", "z1"], sort=True, temperatures=[1, 2, 3])
    assert [(e.name, e.temperature) for e in bundle.variant().exits] == [("z0", 2), ("z1", 3), ("z2", 1)]
    path, gates = write_gated(tmp_path / "gated.onnx", last=True)
    options = {"rule": "gate", "sort": True}
    one = export(path, None, tmp_path / "1.offramp", exits=["z0", "z1", "z2"], gates=gates, **options)
    two = export(path, None, tmp_path / "2.offramp", exits=["z2", "z0", "z1"], gates=["g2", "g0", "g1"], **options)
    scores = [load_uncalibrated(bundle).every_exit(draw(20)).score for bundle in (one, two)]
    assert (scores[0] == scores[1]).all()
    with pytest.raises(UsageError, match="The exit z1 has no gate"):
        export(path, None, tmp_path / "3.offramp", exits=["z2", "z0", "z1"], gates=["g2", "g0"], **options)


@pytest.mark.parametrize("rule", ["entropy", "margin", "ensemble"])
def test_logits_of_a_shape_that_cannot_be_inferred_are_scored(raw, rule, tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    helper = onnx.helper
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "rest"))
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["z2"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["rows"]),
            helper.make_node("Concat", ["rows", "rest"], ["flat"], axis=0),
            helper.make_node("Reshape", ["z2", "flat"], ["y2"]),
        ]
    )
    model.graph.output[2].CopyFrom(helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)
    _, answers = export_and_run(path, tmp_path, rule=rule)
    assert np.allclose(answers.score, SCORES[rule](raw), atol=1e-5)


def test_a_softmax_at_some_exits_only_is_seen_at_those(raw, tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Softmax", ["z0"], ["p0"], axis=-1))
    model.graph.output[0].name = "p0"
    onnx.save(model, path)
    for rule in ("max_softmax", "ensemble"):
        _, answers = export_and_run(path, tmp_path, rule=rule)
        assert np.allclose(answers.score, SCORES[rule](raw), atol=1e-5)
