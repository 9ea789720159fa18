"""Every network of the zoo goes the whole way: export, cut, fuse, keep, verify."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from offramp.errors import UnsupportedError
from offramp.export import export, fuse, keep, quantize
from offramp.runtime import load_uncalibrated, verify
from offramp.runtime.engines import Source, tensorrt
from offramp.tests.zoo import networks

EVERY = pytest.mark.parametrize("name", networks.ZOO)


def exits_of(output):
    """The tensors of logits in what a network of the zoo returns."""
    if isinstance(output, torch.Tensor):
        return list(output.unbind(0))
    if hasattr(output, "early"):
        return [output.early, output.middle, output.late]
    if isinstance(output, dict):
        return output["logits"] if "logits" in output else list(output.values())
    return list(output)


def torch_logits(net, arrays):
    with torch.no_grad():
        return np.stack([value.numpy() for value in exits_of(net(*map(torch.from_numpy, arrays)))], 1)


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def draw_singles(bundle, arrays):
    """Each sample alone, with its batch axis, by the names of the inputs."""
    axes = [tensor.shape.index(None) for tensor in bundle.manifest.inputs]
    parts = [np.split(array, array.shape[axis], axis) for array, axis in zip(arrays, axes, strict=True)]
    names = [tensor.name for tensor in bundle.manifest.inputs]
    return [dict(zip(names, sample, strict=True)) for sample in zip(*parts, strict=True)]


def draw_thresholds(rng, score):
    """Thresholds among and around the scores, so that every exit is taken by some."""
    columns = score[:, :-1]
    drawn = columns[rng.integers(len(score), size=columns.shape[1]), np.arange(columns.shape[1])]
    return (drawn + rng.uniform(-0.1, 0.1, len(drawn))).clip(0, 2).astype(np.float32)


@EVERY
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_exit_of_the_chain_equals_torch(zoo, name, batch):
    net, bundle, _ = zoo(name)
    x = networks.ZOO[name].draw(batch, batch)
    with load_uncalibrated(bundle, logits=True) as chain:
        assert close(chain.every_exit(x, size=batch).logits, torch_logits(net, x))


@EVERY
def test_a_compacted_batch_equals_single_samples(zoo, name):
    _, bundle, _ = zoo(name)
    x = networks.ZOO[name].draw(37, 5)
    with load_uncalibrated(bundle, logits=True) as chain:
        score = chain.every_exit(x).score
        # halfway between two scores, since a batch rounds otherwise than a single sample
        chain.thresholds = np.sort(score[:, :-1], axis=0)[18:20].mean(0).tolist()
        batch, single = chain.batch(x), [chain(sample) for sample in draw_singles(bundle, x)]
        assert len(set(batch.exit)) == len(chain.exits)
        assert batch.label.tolist() == [r.label for r in single]
        assert batch.exit.tolist() == [r.exit for r in single]
        assert close(batch.logits, np.stack([r.logits for r in single]))


class Tuple(torch.nn.Module):
    """What somebody wraps a network in before exporting it: every tensor it returns, in a tuple."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *inputs):
        output = self.net(*inputs)
        return (
            (*output["logits"], *output["gates"])
            if isinstance(output, dict) and "gates" in output
            else (output if isinstance(output, torch.Tensor) else tuple(exits_of(output)))
        )


def save_by_torchscript(name, net, path):
    """Save a network as a stranger would with torch's older exporter."""
    entry = networks.ZOO[name]
    tensors = tuple(map(torch.from_numpy, entry.draw(2, 0)))
    names = [f"in{i}" for i in range(len(tensors))]
    axes = {i: axis for i, axis in enumerate(entry.options.get("axes") or ["batch"]) if axis}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        dynamic = dict.fromkeys(names, axes)
        torch.onnx.export(
            Tuple(net), tensors, path, dynamo=False, opset_version=17, input_names=names, dynamic_axes=dynamic
        )
    return path


@EVERY
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_a_saved_onnx_file_is_cut_like_the_torch_network(zoo, name, dynamo, tmp_path):
    if name == "depthwise-separable" and not dynamo:
        pytest.skip("torch's older exporter cannot pool to a size that does not divide")
    net, bundle, saved = zoo(name)
    entry = networks.ZOO[name]
    path = saved if dynamo else save_by_torchscript(name, net, tmp_path / "net.onnx")
    options = {}
    if entry.options.get("rule") == "gate":
        outputs = [value.name for value in onnxruntime.InferenceSession(path).get_outputs()]
        options = {"rule": "gate", "exits": outputs[:3], "gates": outputs[3:]}
    again = export(path, entry.draw(3, 0), tmp_path / "b.offramp", **options)
    x = entry.draw(7, 3)
    with load_uncalibrated(bundle, logits=True) as one, load_uncalibrated(again, logits=True) as other:
        ours, theirs = one.every_exit(x), other.every_exit(x)
    assert close(ours.logits, theirs.logits) and np.allclose(ours.score, theirs.score, atol=1e-5)
    assert [s.macs for s in bundle.variant().stages] == pytest.approx(
        [s.macs for s in again.variant().stages], rel=0.05
    )


@EVERY
def test_the_fused_file_takes_the_exits_that_the_chain_takes(zoo, name, tmp_path):
    _, bundle, _ = zoo(name)
    fused = fuse(bundle, tmp_path / "one.onnx", thresholds=[2.0] * (len(bundle.variant().exits) - 1))
    session = onnxruntime.InferenceSession(fused.path, providers=["CPUExecutionProvider"])
    x = networks.ZOO[name].draw(20, 7)
    rng, exits = np.random.default_rng(0), set()
    with load_uncalibrated(bundle, logits=True) as chain:
        score = chain.every_exit(x).score
        for i in range(100):
            thresholds, sample = draw_thresholds(rng, score), draw_singles(bundle, x)[i % 20]
            chain.thresholds = thresholds.tolist()
            ours = chain(sample)
            label, sure, exit_, logits = session.run(None, {**sample, "thresholds": thresholds})
            if np.abs(score[i % 20, :-1] - thresholds).min() > 1e-5:
                assert (label[0], exit_[0]) == (ours.label, ours.exit)
                assert abs(sure[0] - ours.score) <= 1e-5 and close(logits[0], ours.logits)
                exits.add(ours.exit)
    assert len(exits) == len(bundle.variant().exits)


@EVERY
def test_openvino_runs_the_fused_file_with_early_exit(zoo, name, tmp_path):
    openvino = pytest.importorskip("openvino")
    _, bundle, _ = zoo(name)
    core, x = openvino.Core(), networks.ZOO[name].draw(5, 7)
    rng, exits = np.random.default_rng(0), set()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    with load_uncalibrated(bundle) as chain:
        score = chain.every_exit(x).score

        def compare(compiled, thresholds, more):
            chain.thresholds = thresholds.tolist()
            for sample, scores in zip(draw_singles(bundle, x), score, strict=True):
                ours, theirs = chain(sample), compiled({**sample, **more})
                if np.abs(scores[:-1] - thresholds).min() > 1e-5:
                    assert (theirs["label"][0], theirs["exit"][0]) == (ours.label, ours.exit)
                    exits.add(ours.exit)

        first = draw_thresholds(rng, score)
        fused = fuse(bundle, tmp_path / "one.onnx", thresholds=first.tolist())
        compare(core.compile_model(fused.path, "CPU", settings), first, {})
        # OpenVINO freezes the thresholds: without their initial value they are an input there too, and one model serves.
        model = onnx.load(fused.path)
        (initial,) = [t for t in model.graph.initializer if t.name == "thresholds"]
        model.graph.initializer.remove(initial)
        onnx.save(model, tmp_path / "open.onnx")
        compiled = core.compile_model(tmp_path / "open.onnx", "CPU", settings)
        for _ in range(20):
            thresholds = draw_thresholds(rng, score)
            compare(compiled, thresholds, {"thresholds": thresholds})
    assert len(exits) == len(bundle.variant().exits)


@EVERY
def test_the_golden_samples_pass_and_exits_can_be_dropped(zoo, name, tmp_path):
    import shutil

    _, bundle, _ = zoo(name)
    (check,) = verify(bundle)
    assert check.passed and all(e.labels_equal == e.samples for e in check.exits)
    shutil.copytree(bundle.path, tmp_path / "b.offramp")
    last = len(bundle.variant().exits) - 1
    fewer = keep(tmp_path / "b.offramp", [last - 1, last])
    assert all(check.passed for check in verify(fewer))
    x = networks.ZOO[name].draw(5, 9)
    with (
        load_uncalibrated(fewer, logits=True) as every,
        load_uncalibrated(fewer, variant=fewer.manifest.variants[1].name, logits=True) as two,
    ):
        assert close(two.every_exit(x).logits, every.every_exit(x).logits[:, -2:])


@EVERY
def test_weights_are_stored_once(zoo, name):
    net, bundle, _ = zoo(name)
    folder = bundle.path / bundle.variant().folder
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    tensors = {t.data_ptr(): t.numel() * t.element_size() for t in [*net.parameters(), *net.buffers()]}
    graphs = sum(size for file, size in files.items() if file.endswith(".onnx"))
    assert files["weights.bin"] <= 1.01 * sum(tensors.values())
    assert sum(files.values()) - files["golden.npz"] <= 1.01 * (sum(tensors.values()) + graphs)
    assert all(len(part) < 1024 for file in files if file.endswith(".onnx") for part in _inline(folder / file))


def _inline(path):
    graph = onnx.load(path, load_external_data=False).graph
    return [t.raw_data for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]


def test_a_loop_stores_and_compiles_its_stage_once(zoo, monkeypatch):
    from offramp.runtime.engines import onnxruntime

    _, bundle, _ = zoo("looped")
    files = [stage.file for stage in bundle.variant().stages]
    assert files[1:] == ["stage1.onnx"] * 3 and not (bundle.path / bundle.variant().folder / "stage2.onnx").exists()
    compiled, compile_stage = [], onnxruntime.compile_stage
    spy = lambda source, *rest, **more: (compiled.append(source.path.name), compile_stage(source, *rest, **more))[1]  # noqa: E731
    monkeypatch.setattr(onnxruntime, "compile_stage", spy)
    load_uncalibrated(bundle)
    assert compiled == ["stage0.onnx", "stage1.onnx"]


def test_boundaries_are_what_the_networks_were_written_for(zoo):
    def counts(name):
        return [len(stage.inputs) for stage in zoo(name)[1].variant().stages]

    assert counts("multi-scale-dense") == [1, 3, 3, 3] and max(counts("resolution-adaptive")) >= 6
    assert counts("plain") == [1, 1, 1]
    assert all(t.shape[0] is None for s in zoo("multi-scale")[1].variant().stages for t in s.inputs)
    shapes = [t.shape for stage in zoo("keyword-spotter")[1].variant().stages for t in stage.inputs]
    assert any(shape[0] is not None and None in shape for shape in shapes)


def test_a_sequence_may_have_another_length_in_every_call(zoo):
    net, bundle, _ = zoo("encoder")
    assert bundle.manifest.inputs[0].shape == (None, "time")
    rng = np.random.default_rng(0)
    with load_uncalibrated(bundle, logits=True) as chain:
        for length in [12, 3, 64, 1, 12, *range(20, 30), 3]:
            x = rng.integers(0, 50, (2, length))
            assert close(chain.every_exit((x,), size=2).logits, torch_logits(net, (x,)))
            alone = chain(x[0])
            assert close(alone.logits, torch_logits(net, (x[:1],))[0, -1])


def test_names_of_exits_and_inputs_come_from_the_network(zoo):
    assert [exit_.name for exit_ in zoo("reads-input-late")[1].variant().exits] == ["early", "late"]
    assert [exit_.name for exit_ in zoo("dataclass")[1].variant().exits] == ["early", "middle", "late"]
    assert [tensor.name for tensor in zoo("two-inputs")[1].manifest.inputs] == ["image", "vector"]
    assert zoo("plain")[1].manifest.captured == "dynamo"


BUILT = {
    "fp32": ("plain", "encoder", "looped", "two-inputs", "spotter-1d", "mixture-of-experts"),
    "fp16": ("multi-scale-dense", "attached"),
    "int8": ("multi-scale-dense", "attached"),
}
"""The networks that every run builds with TensorRT, by precision; the others are `slow`: all take three minutes."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=() if name in BUILT[precision] else pytest.mark.slow)
        for precision in BUILT
        for name in networks.ZOO
    ],
)
def test_every_stage_is_built_by_tensorrt(own_zoo, name, precision):
    """By TensorRT-RTX, whose parser and builder need no GPU; int8 without zero points."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    bundle = own_zoo(name)
    if precision != "fp32":
        how = {"to": "fp16"} if precision == "fp16" else {"symmetric": True}
        bundle = quantize(bundle, networks.ZOO[name].draw(16, 1), name=f"trt-{precision}", **how)
    variant = bundle.manifest.variants[-1] if precision != "fp32" else bundle.variant()
    files = {
        stage.file: (stage, exit_) for stage, exit_ in reversed([*zip(variant.stages, variant.exits, strict=True)])
    }
    for file, (stage, exit_) in files.items():
        outputs = (*(tensor.name for tensor in stage.outputs), exit_.score, exit_.label)
        source = Source(path=bundle.path / variant.folder / file, inputs=stage.inputs, outputs=outputs)
        if name == "encoder":  # whose length is open
            with pytest.raises(UnsupportedError, match="fixed shapes only, and the axis time of"):
                tensorrt.build_plan(trt, source)
        else:
            assert len(tensorrt.build_plan(trt, source)[0]) > 1000
