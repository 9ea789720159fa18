"""Networks that do not classify go the whole way: export, cut, batches, verify, keep, quantize, fuse, OpenVINO, TensorRT."""

import shutil
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from offramp.bundle import open_bundle
from offramp.bundle.golden import read_golden, write_golden
from offramp.bundle.manifest import reads_earlier_exits
from offramp.errors import BundleError, CheckError, ModelError, UnsupportedError, UsageError
from offramp.export import export, fuse, keep, quantize
from offramp.export.graph.running import describe_difference, relative_error
from offramp.runtime import load_static, load_uncalibrated, verify
from offramp.runtime.engines import StageFile
from offramp.runtime.engines.tensorrt.builder import build_plan
from offramp.runtime.golden_check import check_answers, check_exits, compare_parts
from offramp.runtime.request import chain_parts
from offramp.tests.helpers.bundles import edit, replace_file
from offramp.tests.runtime.engines.test_tensorrt import fake
from offramp.tests.zoo.answers import ANSWERS, Detector, Segmenter, Words, parts_of

EVERY = pytest.mark.parametrize("name", ANSWERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a network of the zoo of answers, and its bundle, each exported once."""
    done = {}

    def make(name):
        if name not in done:
            entry = ANSWERS[name]
            net, path = entry.build(), tmp_path_factory.mktemp("answers") / "b.offramp"
            done[name] = net, export(net, entry.draw(4), path, **entry.options)
        return done[name]

    return make


def expected(name, net, x):
    with torch.no_grad():
        return parts_of(net(torch.from_numpy(x)), ANSWERS[name].options["answer"])


def close(ours, theirs):
    if theirs.dtype.kind != "f":
        return np.array_equal(ours, theirs)
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@EVERY
@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_every_exit_answers_as_torch_does(made, name, device):
    net, bundle = made(name)
    with load_uncalibrated(bundle, device) as chain:
        for batch, size in ((1, 1), (2, 1), (2, 2), (7, 1), (7, 7)):
            x = ANSWERS[name].draw(batch, batch)
            answers = chain.every_exit(x, size=size)
            for ours, theirs in zip(answers.answers, expected(name, net, x), strict=True):
                assert list(ours) == list(theirs) and all(close(ours[part], theirs[part]) for part in theirs)
            assert answers.logits is None and (answers.label == -1).all()
            assert ((answers.score >= 0) & (answers.score <= 1)).all()


@EVERY
def test_a_sample_leaves_with_the_answer_of_its_exit_alone_and_in_a_batch(made, name):
    net, bundle = made(name)
    x = ANSWERS[name].draw(40, 3)
    wanted = expected(name, net, x)
    with load_uncalibrated(bundle) as chain:
        score = chain.every_exit(x).score
        chain.thresholds = np.quantile(score[:, :-1], 0.6, axis=0).clip(1e-3, 1)
        batch = chain.batch(x)
        assert len(set(batch.exit.tolist())) > 1
        for i in range(len(x)):
            one, k = chain(x[i]), batch.exit[i]
            assert one.exit == k and one.label == batch.label[i] == -1 and one.logits is None
            for part, theirs in wanted[k].items():
                assert close(one.answer[part], theirs[i]) and close(batch.answer[part][i], theirs[i])
                assert one.answer[part].flags.owndata  # not the chain's memory, which the next call overwrites


@EVERY
def test_a_batch_has_arrays_where_the_exits_have_one_shape_else_one_array_for_each_sample(made, name):
    _, bundle = made(name)
    with load_uncalibrated(bundle) as chain:
        answer = chain.batch(ANSWERS[name].draw(3)).answer
    shapes = {part: {exit_.answer[part].shape for exit_ in bundle.variant().exits} for part in answer}
    assert all((array.dtype == object) == (len(shapes[part]) > 1) for part, array in answer.items())
    assert all(len(array) == 3 for array in answer.values())


@EVERY
@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_it_is_verified_quantised_kept_and_verified_again(made, name, device, tmp_path):
    _, bundle = made(name)
    path = tmp_path / "b.offramp"
    shutil.copytree(bundle.path, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantize(path, ANSWERS[name].draw(32, 5))
    assert not [str(each.message) for each in caught if "label" in str(each.message)]
    if reads_earlier_exits(bundle.variant().rule):
        with pytest.raises(UsageError, match="made of several heads"):
            keep(path, [0, -1])
    else:
        keep(path, [0, -1])
    checks = verify(path, device)
    assert all(check.passed for check in checks), [str(check) for check in checks if not check.passed]
    assert not any("label" in line or "logit" in line for check in checks for line in str(check).splitlines())
    answers = [{*exit_.answer} for check in open_bundle(path).manifest.variants for exit_ in check.exits]
    assert answers.count(set(ANSWERS[name].options["answer"])) == len(answers)
    x = ANSWERS[name].draw(7, 7)
    for variant in open_bundle(path).manifest.variants[1:]:
        with load_uncalibrated(path, device, variant=variant.name) as chain:
            alone = chain.every_exit(x, size=1).answers
            for size in (2, 7):
                for ours, theirs in zip(chain.every_exit(x, size=size).answers, alone, strict=True):
                    assert all(close(ours[part], values) for part, values in theirs.items())


@EVERY
def test_the_fused_file_gives_exit_score_and_the_parts(made, name, tmp_path):
    _, bundle = made(name)
    x = ANSWERS[name].draw(6, 9)
    with load_uncalibrated(bundle) as chain:
        chain.thresholds = limits = np.quantile(chain.every_exit(x).score[:, :-1], 0.5, axis=0).astype(np.float32)
        fused = fuse(bundle, tmp_path / "one.onnx", thresholds=limits.tolist())
        assert fused.outputs == ("score", "exit", *ANSWERS[name].options["answer"])
        session = onnxruntime.InferenceSession(fused.path)
        (entry,) = fused.inputs
        for sample in x:
            score, exit_, *parts = session.run(list(fused.outputs), {entry: sample[None]})
            ours = chain(sample)
            assert (exit_[0], len(score)) == (ours.exit, 1)
            assert all(close(part[0], ours.answer[p]) for part, p in zip(parts, fused.outputs[2:], strict=True))
        openvino = pytest.importorskip("openvino")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(fused.path, "CPU", settings)
        for sample in x:
            ours, theirs = chain(sample), compiled({entry: sample[None]})
            assert theirs["exit"][0] == ours.exit
            assert all(close(theirs[part][0], values) for part, values in ours.answer.items())


BUILT = ("fp32 detector", "fp32 segmenter", "fp32 words", "int8 refiner")
"""What every run builds with TensorRT; the others are `slow`."""


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        pytest.param(precision, name, marks=[pytest.mark.slow] * (f"{precision} {name}" not in BUILT))
        for precision in ("fp32", "fp16", "int8")
        for name in ANSWERS
    ],
)
def test_every_stage_is_built_by_tensorrt(made, precision, name, tmp_path):
    """By TensorRT-RTX, whose parser and builder need no GPU; int8 without zero points."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    bundle = made(name)[1]
    if precision != "fp32":
        path = shutil.copytree(bundle.path, tmp_path / "b.offramp")
        settings = {"to": "fp16"} if precision == "fp16" else {"symmetric": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bundle = quantize(path, ANSWERS[name].draw(16, 1), **settings)
    variant = bundle.manifest.variants[-1]
    files = {
        stage.file: (stage, exit_) for stage, exit_ in reversed([*zip(variant.stages, variant.exits, strict=True)])
    }
    for stage, exit_ in files.values():
        outputs = tuple(dict.fromkeys([*(tensor.name for tensor in stage.outputs), *exit_.outputs]))
        source = StageFile(path=bundle.path / variant.folder / stage.file, inputs=stage.inputs, outputs=outputs)
        if name == "words":  # whose length is open
            with pytest.raises(UnsupportedError, match="fixed shapes only, and the axis time of"):
                build_plan(trt, source)
        else:
            assert len(build_plan(trt, source)[0]) > 1000


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "words"])
def test_a_chain_on_a_fake_gpu_answers_as_on_the_cpu(made, name, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake(monkeypatch)
    bundle, x = made(name)[1], ANSWERS[name].draw(7, 2)
    with load_uncalibrated(bundle) as cpu, load_uncalibrated(bundle, "tensorrt:0") as gpu:
        for size in (1, 2, 7):
            ours, theirs = (net.every_exit(x[:size], size=size) for net in (gpu, cpu))
            assert np.abs(ours.score - theirs.score).max() < 1e-5
            for one, other in zip(ours.answers, theirs.answers, strict=True):
                assert all(close(one[part], values) for part, values in other.items())


def test_passes_of_a_block_share_a_file(made):
    _, bundle = made("refiner")
    stages = bundle.variant().stages
    assert len({stage.file for stage in stages}) < len(stages)


def test_a_static_network_of_a_rule_that_compares_exits_is_without_the_earlier_ones(made):
    net, bundle = made("detector")
    x = ANSWERS["detector"].draw(3)
    for k, exit_ in enumerate(bundle.variant().exits):
        session = onnxruntime.InferenceSession(bundle.file(bundle.variant(), exit_.static))
        assert sum(n.name.startswith("exit") for n in session.get_outputs()) == 3
        with load_static(bundle, exit=k) as static:
            answers = static.every_exit(x)
        assert (answers.score == 1).all()
        assert close(answers.answers[0]["boxes"], expected("detector", net, x)[k]["boxes"])


def test_agreement_is_1_less_the_scaled_distance_to_the_exit_before(made):
    net, bundle = made("detector")
    x = ANSWERS["detector"].draw(5)
    first, second, _ = expected("detector", net, x)
    far = np.abs(first["boxes"] - second["boxes"]).mean((1, 2)) / 2
    other = (first["classes"] != second["classes"]).mean((1, 2))
    with load_uncalibrated(bundle) as chain:
        score = chain.every_exit(x).score
    assert (score[:, 0] == 0).all()
    assert np.abs(score[:, 1] - (1 - np.maximum(far, other).clip(0, 1))).max() < 1e-5


def test_pixel_share_and_mean_softmax_are_over_all_pixels(made, tmp_path):
    net, bundle = made("segmenter")
    x = ANSWERS["segmenter"].draw(5)
    p = torch.from_numpy(expected("segmenter", net, x)[0]["map"]).softmax(1).amax(1).numpy()
    with load_uncalibrated(bundle) as chain:
        assert np.abs(chain.every_exit(x).score[:, 0] - (p >= 0.6).mean((1, 2))).max() < 1e-6
    other = export(net, x, tmp_path / "b.offramp", answer=["map"], rule="mean_softmax")
    with load_uncalibrated(other) as chain:
        assert np.abs(chain.every_exit(x).score[:, 0] - p.mean((1, 2))).max() < 1e-6


def test_patience_is_the_share_of_heads_in_a_row_that_give_the_label(tmp_path):
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(4, 3) for _ in range(4)])
            self.parts = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])

        def forward(self, x):
            exits = []
            for part, head in zip(self.parts, self.heads, strict=True):
                x = torch.relu(part(x)) + x
                exits.append(5 * head(x))
            return exits

    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    bundle = export(Three().eval(), x[:3], tmp_path / "b.offramp", rule="patience")
    with load_uncalibrated(bundle) as chain:
        answers = chain.every_exit(x)
        runs = np.ones(answers.label.shape)
        for k in range(1, 4):
            runs[:, k] = np.where(answers.label[:, k] == answers.label[:, k - 1], runs[:, k - 1] + 1, 1)
        assert np.abs(answers.score - runs / 4).max() < 1e-6 and len(np.unique(runs[:, 3])) > 2
        chain.thresholds = [2 / 4 - 1e-3] * 3  # two heads in a row
        assert (chain.batch(x).exit == np.where((runs >= 2).any(1), (runs >= 2).argmax(1), 3)).all()
    assert all(check.passed for check in verify(bundle))


class TimeFirst(Words):
    """A tagger whose scores are (batch, time, classes)."""

    def forward(self, x):
        return [{"tokens": exit_["tokens"].transpose(1, 2)} for exit_ in super().forward(x)]


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (Detector, {}, ModelError, "answer=\\['boxes', 'classes'\\]"),
        (Detector, {"answer": ["boxes"], "rule": "entropy"}, UsageError, "'entropy'"),
        (Detector, {"answer": ["boxes", "kinds"], "rule": "agreement"}, ModelError, "Exit exit0 has no kinds"),
        (Detector, {"answer": ["score"], "rule": "agreement"}, UsageError, "cannot be called 'score'"),
        (Detector, {"answer": ["_boxes"], "rule": "agreement"}, UsageError, "begin with a letter"),
        (Detector, {"answer": ["boxes", "boxes"], "rule": "agreement"}, UsageError, "named twice"),
        (Detector, {"answer": "boxes", "rule": "agreement"}, UsageError, "a list of names"),
        (Detector, {"answer": ["boxes", "classes"], "rule": "agreement:box=2"}, UsageError, "'box'"),
        (Detector, {"answer": ["boxes"], "rule": "agreement:boxes=-2"}, UsageError, "no number above 0"),
        (Detector, {"answer": ["boxes"], "rule": "agreement:boxes=0"}, UsageError, "'0' for boxes, which is no number"),
        (Detector, {"answer": ["boxes"], "rule": "pixel_share:boxes=2"}, UsageError, "up to 1"),
        (Detector, {"answer": ["boxes"], "rule": "pixel_share:boxes=0"}, UsageError, "up to 1"),
        (Detector, {"answer": ["boxes", "classes"], "rule": "mean_softmax"}, UsageError, "one part"),
        (Detector, {"answer": ["boxes"], "rule": "mean_softmax:boxes=3"}, UsageError, "takes no number"),
        (Detector, {"answer": ["boxes"], "rule": "agreement", "temperatures": [1, 1, 1]}, UsageError, "temperature"),
        (Detector, {"answer": ["boxes"], "rule": "agreement", "class_names": ["a", "b"]}, UsageError, "class_names"),
        (Segmenter, {"answer": ["map"], "rule": "agreement"}, ModelError, "have other shapes"),
        (TimeFirst, {"answer": ["tokens"], "rule": "mean_softmax"}, ModelError, r"x\.transpose\(1, 2\)"),
        (Segmenter, {"answer": ["map"], "rule": "agreement", "exits": ["exit0", "exit9"]}, UsageError, "'exit9'"),
        (Segmenter, {"answer": ["map"], "rule": "agreement", "exits": ["exit0"]}, ModelError, "at least two"),
        (Detector, {"answer": ["boxes"], "rule": "agreement", "exits": ["exit0", "exit1"] * 2}, UsageError, "twice"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(make, options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        x = torch.randn(3, 12, 6) if make is TimeFirst else torch.randn(3, 1, 16, 16)
        axes = {"axes": ("batch", "time", None)} if make is TimeFirst else {}
        export(make().eval(), x, tmp_path / "b.offramp", **options, **axes)
    assert not (tmp_path / "b.offramp").exists()


class Odd(nn.Module):
    """A detector whose answers are spoilt by a function of all its exits."""

    def __init__(self, spoil):
        super().__init__()
        self.detector, self.spoil = Detector(), spoil

    def forward(self, x):
        exits = self.detector(x)
        exits[1]["boxes"] = self.spoil(exits[1]["boxes"])
        return exits


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda boxes: boxes.mean(0), "the first axis of an answer's part is the batch"),
        (lambda boxes: boxes.sum(), "the first axis of an answer's part is the batch"),
        (lambda boxes: boxes.permute(1, 0, 2), "the first axis of an answer's part is the batch"),
        (lambda boxes: boxes / 0, "NaN or infinity"),
        (lambda boxes: torch.complex(boxes, boxes), "complex64"),
        (lambda boxes: boxes.double(), "in several dtypes: exit0.boxes is float32, exit1.boxes is float64"),
    ],
)
def test_a_part_that_is_no_batch_of_numbers_is_refused(spoil, words, tmp_path):
    with pytest.raises(ModelError, match=words):
        export(Odd(spoil).eval(), torch.randn(3, 1, 16, 16), tmp_path / "b", answer=["boxes"], rule="agreement")
    assert not (tmp_path / "b").exists()


def test_exits_with_different_names_are_refused(tmp_path):
    class Renamed(Detector):
        def forward(self, x):
            first, second, third = super().forward(x)
            return [first, {"boxes": second["boxes"], "labels": second["classes"]}, third]

    with pytest.raises(ModelError, match="Exit exit1 has no classes, which is named as a part of every answer"):
        export(
            Renamed().eval(),
            torch.randn(3, 1, 16, 16),
            tmp_path / "b",
            answer=["boxes", "classes"],
            rule="agreement:boxes=2",
        )
    assert not (tmp_path / "b").exists()


def test_a_network_that_mixes_the_samples_of_a_batch_is_refused(tmp_path):
    with pytest.raises(CheckError, match="mixes the samples"):
        export(
            Odd(lambda boxes: boxes - boxes.mean(0, keepdim=True)).eval(),
            torch.randn(3, 1, 16, 16),
            tmp_path / "b",
            answer=["boxes"],
            rule="agreement",
        )


def test_whole_numbers_that_differ_are_counted_and_named(tmp_path):
    net = Extra(lambda exit_: (exit_["boxes"] > exit_["boxes"].mean(0, keepdim=True)).long()).eval()
    words = r"in \d+ of the 240 whole numbers of its extra; 1% may differ\..*Break ties by a little"
    with pytest.raises(CheckError, match=words):
        export(net, ANSWERS["detector"].draw(4), tmp_path / "b", answer=["boxes", "extra"], rule="agreement:boxes")


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (np.ones((2, 3)), np.full((2, 3), 2.0), "by 0.5 of the largest value of its extra; 1e-05 is allowed."),
        (np.ones((2, 3)), np.ones((2, 4)), "in the shape of its extra: (2, 3) in place of (2, 4)."),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "in its extra: a value is infinite or no number."),
    ],
)
def test_a_difference_names_its_part(ours, theirs, words):
    same = {"boxes": np.ones((2, 3))}
    ours, theirs = same | {"extra": ours}, same | {"extra": theirs}
    assert describe_difference(ours, theirs, relative_error(ours, theirs), 1e-5) == words


def test_a_part_that_an_earlier_exit_computed_already_is_an_answer_of_both(tmp_path):
    class Same(Detector):
        def forward(self, x):
            exits = super().forward(x)
            exits[2]["classes"] = exits[1]["classes"]
            return exits

    net = Same().eval()
    x = ANSWERS["detector"].draw(4)
    bundle = export(net, x, tmp_path / "b.offramp", answer=["boxes", "classes"], rule="agreement:boxes")
    with torch.no_grad(), load_uncalibrated(bundle) as chain:
        wanted = parts_of(net(torch.from_numpy(x)), ["classes"])
        assert np.array_equal(chain.every_exit(x).answers[2]["classes"], wanted[2]["classes"])


def test_a_part_may_be_the_same_for_every_sample(tmp_path):
    class Anchored(Detector):
        def forward(self, x):
            return [exit_ | {"anchors": torch.arange(8.0).expand(x.shape[0], 8)} for exit_ in super().forward(x)]

    net, x = Anchored().eval(), ANSWERS["detector"].draw(4)
    bundle = export(net, x, tmp_path / "b.offramp", answer=["boxes", "anchors"], rule="agreement:boxes")
    with load_uncalibrated(bundle) as chain:
        assert (chain.batch(x).answer["anchors"] == np.arange(8)).all()


@pytest.mark.parametrize("answer", [("boxes",), ("classes", "boxes"), ()])
def test_a_variant_beside_others_has_their_parts(made, tmp_path, answer):
    net, bundle = made("detector")
    with pytest.raises(UsageError, match="the bundle's with boxes, classes: name the same parts"):
        export(net, None, bundle.path, beside="other", answer=answer, rule="agreement" if answer else "entropy")
    assert len(open_bundle(bundle.path).manifest.variants) == 1


class Extra(nn.Module):
    """A detector with another part: nothing, floats or whole numbers, the same grid for every sample, or a gate."""

    def __init__(self, make):
        super().__init__()
        self.detector, self.make = Detector(), make

    def forward(self, x):
        return [exit_ | {"extra": self.make(exit_)} for exit_ in self.detector(x)]


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_parts_may_be_empty(kind, tmp_path):
    net, x = Extra(lambda exit_: exit_["boxes"][:, :0].to(kind)).eval(), ANSWERS["detector"].draw(4)
    bundle = export(net, x, tmp_path / "b.offramp", answer=["boxes", "extra"], rule="agreement:boxes")
    quantize(bundle.path, x)
    assert all(check.passed for check in verify(bundle.path))
    with load_uncalibrated(bundle) as chain:
        assert chain.batch(x).answer["extra"].shape == (4, 0, 16)


def test_a_part_in_half_precision_leaves_the_variant_in_fp32(tmp_path):
    net, x = Extra(lambda exit_: exit_["boxes"].half().transpose(1, 2)).eval(), ANSWERS["detector"].draw(4)
    bundle = export(net, x, tmp_path / "b.offramp", answer=["boxes", "extra"], rule="agreement:boxes")
    assert [variant.name for variant in bundle.manifest.variants] == ["fp32"]
    assert {exit_.answer["extra"].dtype for exit_ in bundle.variant().exits} == {"float16"}
    quantize(bundle.path, to="fp16")
    assert all(check.passed for check in verify(bundle.path))
    assert verify(bundle.path, "openvino:CPU", variant="fp32")[0].passed


def test_a_value_in_half_precision_may_be_rounded_to_its_neighbour():
    theirs = np.array([[1000.0, 0.001]], np.float16)
    ours = np.nextafter(theirs, np.float16(np.inf))
    assert compare_parts({"extra": ours}, {"extra": theirs})[0] == 0
    assert compare_parts({"extra": ours + np.float16(1)}, {"extra": theirs})[0] > 0.9


def test_a_gate_may_be_a_part_of_the_answer(tmp_path):
    net, x = Extra(lambda exit_: exit_["boxes"][:, :1, 0].sigmoid()).eval(), ANSWERS["detector"].draw(4)
    options = {"rule": "gate", "gates": [f"exit{k}.extra" for k in range(3)]}
    bundle = export(net, x, tmp_path / "b.offramp", answer=["boxes", "extra"], **options)
    with load_uncalibrated(bundle) as chain:
        answers = chain.every_exit(x)
        assert all(close(part["extra"][:, 0], answers.score[:, k]) for k, part in enumerate(answers.answers))


def test_a_wrong_golden_answer_fails_the_verification(made, tmp_path):
    _, bundle = made("detector")
    path = tmp_path / "b.offramp"
    shutil.copytree(bundle.path, path)
    golden = read_golden(open_bundle(path), bundle.variant())
    for part in ("boxes", "classes"):
        answers = [dict(answer) for answer in golden.answers]
        answers[1][part] = answers[1][part] + 1
        wrong = type(golden)(golden.inputs, golden.label, golden.score, tuple(answers))
        with load_uncalibrated(bundle) as net:
            checks = check_exits(bundle.variant(), net, wrong)
            answer = check_answers(
                chain_parts(bundle, bundle.variant()), net, wrong, "the chain"
            )  # as builds are checked
        assert [check.passed for check in checks] == [True, False, True] and not answer.passed
    lost = [dict(answer) for answer in golden.answers]
    lost[1]["more"] = np.full((len(golden.score), 2), np.nan, np.float32)
    assert compare_parts(lost[1] | {"more": np.zeros_like(lost[1]["more"])}, lost[1]) == (np.inf, 1)
    write_golden(tmp_path / "golden.npz", golden)
    assert set(np.load(tmp_path / "golden.npz")) >= {"input0", "score", "exit0.boxes", "exit2.classes"}


def swap(variant):
    """Give the parts of one exit's answer in another order."""
    variant["exits"][1]["answer"] = dict(reversed(variant["exits"][1]["answer"].items()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap, "answers with classes, boxes, others with boxes, classes"),
        (lambda variant: variant["exits"][0].update(logits="x"), "the answer of another task"),
    ],
)
def test_a_manifest_whose_exits_answer_otherwise_is_refused(made, tmp_path, change, words):
    path = tmp_path / "b.offramp"
    shutil.copytree(made("detector")[1].path, path)
    edit(path / "manifest.json", lambda manifest: change(manifest["variants"][0]))
    with pytest.raises(BundleError, match=words):
        open_bundle(path)


def test_golden_answers_that_are_not_finite_are_refused(made, tmp_path):
    path = tmp_path / "b.offramp"
    shutil.copytree(made("detector")[1].path, path)
    golden = read_golden(open_bundle(path), open_bundle(path).variant())
    golden.answers[1]["boxes"][0, 0] = np.inf
    write_golden(tmp_path / "golden.npz", golden)
    replace_file(open_bundle(path), "golden.npz", (tmp_path / "golden.npz").read_bytes())
    with pytest.raises(BundleError, match="not finite"):
        verify(path)
