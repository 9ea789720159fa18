"""Scores that are fitted to samples: what they are, what stays as it was, and which samples they may not meet again."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec.structs import replace
from scipy.optimize import minimize

from offramp.bundle import Target, check_bundle, open_bundle
from offramp.calibrate import bench, calibrate
from offramp.calibrate.fitting_samples import check_fitting_samples, check_unhashed
from offramp.calibrate.labels import check_data
from offramp.cli.describe import describe_bundle
from offramp.errors import DataError, UsageError
from offramp.export import export, fuse, gate, keep, quantize
from offramp.export.variants.fitted_scores import fit_exit
from offramp.runtime import load_static, load_uncalibrated, verify
from offramp.tests.zoo.dense import CLASSES, write_onnx


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def every_exit(bundle, variant, x):
    with load_uncalibrated(bundle, variant=variant, logits=True) as net:
        return net.every_exit(x)


@pytest.fixture(scope="module")
def gated(dense_onnx, tmp_path_factory):
    """The dense network with fitted scores, and those with int8 before and after. Nobody writes into it."""
    bundle = export(dense_onnx, None, tmp_path_factory.mktemp("gated") / "b.offramp")
    bundle = gate(bundle, (draw(400), None))
    bundle = quantize(bundle, draw(400), variant="fp32-gate")
    return gate(quantize(bundle, draw(400), variant="fp32"), (draw(400), None), variant="int8")


def expected_scores(logits, label, keeps):
    """Fit and score in another way: the same loss given to a general minimiser, and the features written out again."""
    scores = []
    for k in range(logits.shape[1] - 1):
        z = logits[:, k].astype(np.float64)
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        two = np.sort(z, -1)[:, -2:]
        columns = [p.max(-1), two[:, 1] - two[:, 0], 1 + (p * np.log(p)).sum(-1) / math.log(CLASSES)]
        columns += [np.mean([label[:, j] == label[:, k] for j in range(k)], 0)] if k else []
        x = np.stack(columns, 1)
        x = np.c_[np.ones(len(x)), (x - x.mean(0)) / x.std(0)]
        sign = np.where(keeps[:, k], 1, -1)
        found = minimize(
            lambda w, x=x, sign=sign: np.logaddexp(0, -sign * (x @ w)).sum() + (w[1:] ** 2).sum() / 2,
            np.zeros(x.shape[1]),
        )
        scores.append(1 / (1 + np.exp(-x @ found.x)))
    return np.stack(scores, 1)


@pytest.mark.parametrize(("opset", "has_softmax"), [(11, True), (21, False)])
def test_a_score_is_the_fitted_probability_that_leaving_loses_nothing(opset, has_softmax, tmp_path):
    path = write_onnx(tmp_path / "net.onnx", opset=opset)
    x = draw(300)
    plain = every_exit(export(path, None, tmp_path / "plain.offramp"), None, x)
    if has_softmax:
        model = onnx.load(path)
        for k in range(3):
            model.graph.node.append(onnx.helper.make_node("Softmax", [f"z{k}"], [f"p{k}"], axis=-1))
            model.graph.output[k].name = f"p{k}"
        onnx.save(model, path)
    y = np.where(np.arange(300) % 3, plain.label[:, -1], plain.label[:, 0])
    keeps = (plain.label == y[:, None]) | (plain.label[:, -1:] != y[:, None])
    bundle = gate(export(path, None, tmp_path / "b.offramp"), (x, y))
    answers = every_exit(bundle, "fp32-gate", x)
    assert np.allclose(answers.score[:, :-1], expected_scores(plain.logits, plain.label, keeps), atol=2e-4)
    assert np.allclose(answers.score[:, -1], plain.score[:, -1], atol=1e-6)
    assert (answers.label == plain.label).all()


def test_without_labels_it_is_fitted_to_what_the_whole_network_says(gated):
    x = draw(400)
    plain, answers = every_exit(gated, "fp32", x), every_exit(gated, "fp32-gate", x)
    same = plain.label == plain.label[:, -1:]
    assert np.allclose(answers.score[:, :-1], expected_scores(plain.logits, plain.label, same), atol=2e-4)


def test_an_exit_on_which_too_few_samples_tell_keeps_its_score(dense):
    plain = every_exit(dense, None, draw(400))
    same = plain.label == plain.label[:, -1:]
    rows = np.r_[np.flatnonzero(same.all(1))[:9], np.flatnonzero(~same[:, 0] & same[:, 1])[:9]]
    with pytest.warns(UserWarning, match="The scores of z1 stay as they are: .* fewer than 3 of the 18 samples"):
        bundle = gate(dense, (draw(400)[rows], None))
    answers = every_exit(bundle, "fp32-gate", draw(400))
    assert np.allclose(answers.score[:, 1:], plain.score[:, 1:], atol=1e-6)
    assert not np.allclose(answers.score[:, 0], plain.score[:, 0], atol=1e-2)


def test_everything_else_is_as_it_was(gated):
    bundle, x = check_bundle(gated.path), draw(20, 1)
    old, new = bundle.variant("fp32"), bundle.variant("fp32-gate")
    assert (new.rule, new.folder, new.weights) == ("fitted", old.folder, old.weights)
    assert [exit_.macs for exit_ in new.exits] == [exit_.macs for exit_ in old.exits]
    assert np.abs(every_exit(bundle, "fp32-gate", x).logits - every_exit(bundle, "fp32", x).logits).max() < 1e-5
    with load_static(bundle, variant="fp32-gate", exit=1) as net:
        assert (net.every_exit(x).score == 1).all()
    assert "scores fitted, from fp32: samples 400, fitted_to the whole network" in describe_bundle(bundle)


def test_int8_before_and_after_and_the_fused_file_have_the_scores(gated, tmp_path):
    assert [each.name for each in gated.manifest.variants] == [
        "fp32",
        "fp32-gate",
        "fp32-gate-int8",
        "int8",
        "int8-gate",
    ]
    assert all(each.passed for each in verify(gated))
    x = draw(20, 1)
    score = every_exit(gated, "fp32-gate", x).score
    assert np.abs(every_exit(gated, "fp32-gate-int8", x).score - score).max() < 0.1
    fused = fuse(gated, tmp_path / "fused.onnx", variant="fp32-gate", thresholds=[0.0, 0.0])
    session = onnxruntime.InferenceSession(tmp_path / "fused.onnx")
    _, first, *_ = session.run(None, {session.get_inputs()[0].name: x[:1]})
    assert fused and np.allclose(first, score[:1, 0], atol=1e-6)


def test_a_fit_finds_the_weights_that_made_the_data_and_stays_finite():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20_000, 3)) * [1, 5, 0.1]
    chance = 1 / (1 + np.exp(-(0.5 + features @ [1.0, -0.2, 3.0])))
    bias, weights = fit_exit(features, rng.random(20_000) < chance)
    assert np.allclose([bias, *weights], [0.5, 1.0, -0.2, 3.0], atol=0.4) and abs(bias - 0.5) < 0.1
    features[:, 2] = 7.0  # the same for all
    bias, weights = fit_exit(features, features[:, 0] > 0)  # and two kinds that a line parts
    assert weights[2] == 0 and weights[0] > 3 and np.isfinite([bias, *weights]).all()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (draw(50), UsageError, "data is a pair"),
        ((draw(50), np.zeros(49, int)), DataError, "one for each of the 50 samples"),
        ((draw(50), np.zeros(50)), DataError, "whole numbers from 0 to 4"),
        ((draw(50), np.full(50, CLASSES)), DataError, "int64 of shape .50,., 5 to 5"),
        ((draw(2), None), DataError, "No score can be fitted: at each exit .* fewer than 3 of the 2 samples"),
        ((draw(50)[:, :3], None), DataError, "shape"),
    ],
)
def test_samples_that_do_not_fit_are_refused_and_change_nothing(dense, data, error, words):
    with pytest.raises(error, match=words):
        gate(dense, data)
    assert open_bundle(dense.path).manifest == dense.manifest


def test_no_exit_is_dropped_afterwards_but_before(dense):
    bundle = gate(keep(dense, [0, 2]), (draw(400), None), variant="fp32-exits0-2", name="two")
    with pytest.raises(UsageError, match="fit scores to that"):
        keep(bundle, [0, 1], variant="two")
    assert [exit_.name for exit_ in bundle.variant("two").exits] == ["z0", "z2"]


def test_samples_that_fitted_the_scores_are_refused_by_calibrate(gated, labelled):
    with pytest.raises(UsageError, match="About 100.* of the samples in data served to fit the scores of fp32-gate"):
        calibrate(gated, (draw(400), None), Target(max_disagreement=0.1), variant="fp32-gate-int8")
    variants, manifest = [gated.variant("fp32-gate")], gated.manifest

    def data(count):
        return check_data((np.concatenate([draw(400)[:count], labelled[0][: 400 - count]]), None), manifest)

    with pytest.raises(UsageError, match="name others than fp32-gate"):
        check_fitting_samples(data(40), manifest, variants)
    assert check_fitting_samples(data(0), manifest, variants) == ()
    assert check_fitting_samples(data(400), manifest, [gated.variant("fp32")]) == ()
    (note,) = check_fitting_samples(data(2), manifest, variants)
    assert "0.50% of the samples in data served to fit" in note
    few = np.sort(data(0).hashes)[:50].tolist()  # one copy among so few that are known does not show a share of 1 %
    with pytest.raises(UsageError, match="About 100.* name others than fp32-gate-int8"):
        bench(gated, (draw(400), np.zeros(400, int)), variant="fp32-gate-int8")
    assert check_unhashed(data(400).x, gated, gated.variant("fp32")) == ()
    with pytest.raises(UsageError, match="name others than fp32-gate "):
        check_unhashed(data(40).x, gated, gated.chain("fp32:0+fp32-gate"))
    origin = replace(variants[0].origin, fitted_on=(f"{few[10]:016x}", f"{few[-1] + 1:016x}"))
    assert len(check_fitting_samples(data(0), manifest, [replace(variants[0], origin=origin)])) == 1
