"""Networks that vote are one exit, whose label and score are as counted by hand."""

import json

import numpy as np
import pytest

from offramp.errors import UsageError
from offramp.export import Member, cascade, quantize
from offramp.runtime import load_uncalibrated, verify
from offramp.runtime.engines import StageFile
from offramp.runtime.engines.tensorrt.builder import build_plan
from offramp.tests.helpers.command import clear_message, offramp
from offramp.tests.zoo.onnx_files import convolutions, run, write

MAPS = {"a": None, "b": {0: 1, 1: 0, 2: 2, 3: 2, 4: 4}, "c": [0, None, 2, 3, None]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voters")
    small = [write(folder / f"{name}.onnx", convolutions(k), shape=(3, 8, 8)) for k, name in enumerate("abc", 2)]
    return [*small, write(folder / "large.onnx", convolutions(16, stride=1), shape=(3, 8, 8))]


@pytest.fixture(scope="module")
def samples():
    return (3 * np.random.default_rng(0).standard_normal((400, 3, 8, 8))).astype(np.float32)


def softmax(path, x):
    z = np.exp(run(path, x).astype(np.float64))
    return z / z.sum(1, keepdims=True)


def vote_by_hand(probabilities, maps, classes=5):
    """Count votes as the documentation has it; labels that the bundle has not get none."""
    votes, mean = np.zeros((2, len(probabilities[0]), classes))
    for p, given in zip(probabilities, maps, strict=True):
        pairs = (
            dict(enumerate(range(classes)))
            if given is None
            else given
            if isinstance(given, dict)
            else dict(enumerate(given))
        )
        kept = {own: label for own, label in pairs.items() if label is not None}
        sums = np.stack(
            [sum((p[:, own] for own, label in kept.items() if label == k), 0 * p[:, 0]) for k in range(classes)], 1
        )
        others = np.delete(p, list(kept), 1)
        chosen = np.hstack([sums, others]).argmax(1)
        for row in np.flatnonzero(chosen < classes):
            votes[row, chosen[row]] += 1
        mean += sums / len(maps)
    return votes, mean


@pytest.mark.parametrize("maps", [(None, None, None), tuple(MAPS.values())], ids=["same labels", "maps"])
def test_the_commonest_label_wins_and_of_several_the_most_probable(files, samples, tmp_path, maps):
    voters = [Member(path, classes=given) for path, given in zip(files, maps, strict=False)]
    bundle = cascade([voters, files[3]], samples[:3], tmp_path / "b.offramp")
    variant = bundle.variant()
    assert [exit_.name for exit_ in variant.exits] == ["vote", "large"]
    votes, mean = vote_by_hand([softmax(path, samples) for path in files[:3]], maps)
    label = np.lexsort((mean, votes))[:, -1]
    with load_uncalibrated(bundle) as net:
        ours = net.every_exit(samples)
        assert np.array_equal(ours.label[:, 0], label)
        rows = np.arange(len(samples))
        assert np.allclose(ours.score[:, 0], (votes + mean)[rows, label] / 4, atol=1e-6)
        assert np.array_equal(ours.label[:, 1], run(files[3], samples).argmax(1))
        net.thresholds = [3 / 4]  # all agree
        assert [net(x).exit == 0 for x in samples[:50]] == (votes[:50].max(1) == 3).tolist()
    counts = np.sort(votes, 1)
    assert {1, 2, 3} <= {*counts[:, -1]} and (counts[:, -1] == counts[:, -2]).any()  # ties were among them


def test_a_vote_is_built_by_tensorrt(files, samples, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    voters = [Member(path, classes=given) for path, given in zip(files, MAPS.values(), strict=False)]
    bundle = cascade([voters, files[3]], samples[:3], tmp_path / "b.offramp")
    variant = bundle.variant()
    stage, exit_ = variant.stages[0], variant.exits[0]
    outputs = (*(tensor.name for tensor in stage.outputs), exit_.score, str(exit_.label))
    path = bundle.path / variant.folder / stage.file
    assert len(build_plan(trt, StageFile(path=path, inputs=stage.inputs, outputs=outputs))[0]) > 1000


def test_a_vote_is_as_good_in_int8_and_on_openvino(files, samples, tmp_path):
    bundle = cascade([files[:3], files[3]], samples[:3], tmp_path / "b.offramp", rule="entropy")
    (checked,) = verify(bundle, "openvino:CPU")
    assert checked.passed
    bundle = quantize(bundle, samples[:100])
    with load_uncalibrated(bundle) as net, load_uncalibrated(bundle, variant="int8") as small:
        ours, rounded = net.every_exit(samples), small.every_exit(samples)
    assert (ours.label[:, 0] == rounded.label[:, 0]).mean() > 0.9
    assert len(np.unique(rounded.score[:, 0])) > 100  # counted in floats


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        (lambda f: [f[:3]], {}, "at least two members, not 1; those that vote count as one"),
        (lambda f: [[], f[3]], {}, "holds the networks that vote, and one is empty"),
        (lambda f: [[f[0], f[0]], f[3]], {}, "a.onnx is a member twice"),
        (lambda f: [[f[0], Member(f[1], rule="margin")], f[3]], {}, "leave out their rule"),
        (lambda f: [f[:3], f[3]], {"answer": ["boxes"], "rule": "agreement:boxes=1"}, "Networks vote on labels"),
        (lambda f: [[f[0], [f[1], f[2]]], f[3]], {}, "and one holds a list itself"),
    ],
)
def test_what_cannot_vote_is_refused_in_one_sentence(files, samples, tmp_path, members, options, words):
    with pytest.raises(UsageError, match=words):
        cascade(members(files), samples[:3], tmp_path / "no.offramp", **options)


def test_the_command_lets_the_first_networks_vote(files, tmp_path):
    given = ["cascade", *map(str, files), "--shape", "3x8x8"]
    done = offramp(*given, "--vote", "3", "-o", tmp_path / "b.offramp", "--json")
    manifest = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [exit_["name"] for exit_ in manifest["variants"][0]["exits"]] == ["vote", "large"]
    clear_message(offramp(*given, "--vote", "3", "--vote", "2", "-o", tmp_path / "no.offramp"), 2)
