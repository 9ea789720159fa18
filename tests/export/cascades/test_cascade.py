"""Networks that nobody trained together, joined in one bundle: answers as each gives them by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from offramp.bundle import open_bundle
from offramp.bundle.manifest import NEVER
from offramp.errors import OfframpError, UsageError
from offramp.export import Member, Preprocess, cascade, export, keep, quantize
from offramp.export.cascades.resizing import make_resizing
from offramp.runtime import load_uncalibrated, verify
from offramp.tests.helpers.command import clear_message, offramp
from offramp.tests.zoo.onnx_files import convolutions, images, run, write
from offramp.tests.zoo.two_exits import build_two_exits, vectors

HALF, IMAGENET = (
    Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    small = write(folder / "small.onnx", convolutions(8), shape=(3, 24, 20), opset=13)
    return small, write(folder / "large.onnx", convolutions(32, stride=1), shape=(3, 40, 40))


def test_another_cascade_takes_the_place_of_the_one_before_if_that_is_asked_for(tmp_path):
    files = [
        write(
            tmp_path / f"{width}.onnx", nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 5)), shape=(16,)
        )
        for width in (8, 32, 64)
    ]
    path = cascade(files[:2], vectors(3), tmp_path / "both.offramp").path
    keep(path, [0, 1], name="more")  # of which an export makes nothing new
    command = ["cascade", *files[1:], "--shape", "16", "-o", path]
    clear_message(offramp(*command), 2, "--replace")
    assert [variant.name for variant in open_bundle(path).manifest.variants] == ["fp32", "more"]
    assert offramp(*command, "--replace").returncode == 0
    (variant,) = open_bundle(path).manifest.variants
    assert [exit_.name for exit_ in variant.exits] == ["32", "64"]


def test_two_files_of_other_sizes_and_scales_answer_as_they_do_by_hand(files, tmp_path):
    small, large = files
    members = [Member(small, preprocess=HALF, bgr=True), Member(large, preprocess=IMAGENET)]
    bundle = cascade(members, images(3), tmp_path / "both.offramp")
    variant = bundle.variant()
    assert [exit_.name for exit_ in variant.exits] == ["small", "large"]
    assert [tensor.shape for tensor in bundle.manifest.inputs] == [(None, 40, 40, 3)]
    pictures = images(50)
    resized = np.stack([np.asarray(Image.fromarray(x).resize((20, 24), Image.BILINEAR)) for x in pictures])
    by_hand = [
        run(path, ((x / 255 - how.mean) / how.std)[..., ::order].transpose(0, 3, 1, 2))
        for path, x, how, order in ((small, resized, HALF, -1), (large, pictures, IMAGENET, 1))
    ]
    with load_uncalibrated(bundle, logits=True) as net:
        ours = net.every_exit(pictures)
        for k, (logits, tolerance) in enumerate(
            zip(by_hand, (2e-3, 1e-5), strict=True)
        ):  # Pillow rounds to whole steps
            assert np.abs(ours.parts(k)["logits"] - logits).max() < tolerance
        assert np.array_equal(ours.label[:, 1], by_hand[1].argmax(1))
        assert (ours.label[:, 0] == by_hand[0].argmax(1)).mean() >= 0.98
    (checked,) = verify(bundle, "openvino:CPU")
    assert checked.passed


def test_the_bundle_is_as_large_as_its_members(files, tmp_path):
    wide = [write(tmp_path / f"{w}.onnx", convolutions(w, classes=2000), shape=(3, 40, 40)) for w in (40, 80)]
    bundle = cascade(wide, np.zeros((3, 3, 40, 40), np.float32), tmp_path / "both.offramp")
    members = sum(path.stat().st_size for path in wide)
    weights = (bundle.path / bundle.variant().folder / bundle.variant().weights).stat().st_size
    assert 0.98 * members < weights < 1.01 * members


def test_networks_files_and_variants_are_joined_in_any_mix_with_their_exits(tmp_path):
    two = write(tmp_path / "two.onnx", build_two_exits(), shape=(16,), outputs=("exit0", "exit1"))
    export(two, vectors(3), tmp_path / "first.offramp")
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 5)).eval()
    bundle = cascade([tmp_path / "first.offramp", plain], vectors(3), tmp_path / "both.offramp")
    names = [exit_.name for exit_ in bundle.variant().exits]
    assert names == ["first-fp32-exit0", "first-fp32-exit1", "Sequential"]
    again = cascade([f"{tmp_path}/both.offramp:fp32", two], vectors(3), tmp_path / "again.offramp")
    assert len(again.variant().exits) == 5
    x = vectors(20, seed=3)
    with load_uncalibrated(bundle, logits=True) as net, torch.no_grad():
        ours, expected = net.every_exit(x), [*build_two_exits()(torch.from_numpy(x)), plain(torch.from_numpy(x))]
        for k, logits in enumerate(expected):
            assert np.allclose(ours.parts(k)["logits"], logits.numpy(), atol=1e-5)
    with load_uncalibrated(bundle) as net:
        net.thresholds = [NEVER, 0.0]
        assert net(x[0]).exit == 1


def test_bundles_that_take_images_are_members_beside_others(files, tmp_path):
    two = write(tmp_path / "two.onnx", TwoExits().eval(), shape=(3, 24, 20), outputs=("exit0", "exit1"))
    inner = export(two, images(3)[:, :24, :20], tmp_path / "inner.offramp", preprocess=IMAGENET)
    large = Member(files[1], preprocess=HALF)
    bundle = cascade([inner.path, large], images(3), tmp_path / "both.offramp")
    pictures = images(20)
    small = np.stack([np.asarray(Image.fromarray(x).resize((20, 24), Image.BILINEAR)) for x in pictures])
    with load_uncalibrated(bundle, logits=True) as net, load_uncalibrated(inner, logits=True) as alone:
        ours, expected = net.every_exit(pictures), alone.every_exit(small)
        for k in range(2):
            assert np.abs(ours.parts(k)["logits"] - expected.parts(k)["logits"]).max() < 2e-3
    with pytest.raises(UsageError, match="which it normalises itself: its preprocess has mean 0 and std 1"):
        cascade([Member(inner.path, preprocess=HALF), large], images(3), tmp_path / "no.offramp")
    with pytest.raises(UsageError, match="inner.offramp:fp32 is the same network as .*inner.offramp: give"):
        cascade([inner.path, f"{inner.path}:fp32"], images(3), tmp_path / "no.offramp")
    beside = cascade(
        [write(tmp_path / "third.onnx", convolutions(4), shape=(3, 24, 20)), two], None, inner.path, beside="c"
    )
    x = ((small / 255 - IMAGENET.mean) / IMAGENET.std).transpose(0, 3, 1, 2)
    with load_uncalibrated(beside, variant="c", logits=True) as net:
        assert np.allclose(net.every_exit(small).parts(0)["logits"], run(tmp_path / "third.onnx", x), atol=1e-5)


class TwoExits(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(60, 8), nn.Linear(8, 16)
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Linear(16, 5)])

    def forward(self, x):
        y = torch.tanh(self.first(x.mean(2).flatten(1)))
        return self.heads[0](y), self.heads[1](torch.tanh(self.second(y)))


def test_labels_are_translated_and_those_that_the_bundle_has_not_are_passed_on(files, tmp_path):
    small, large = files
    members = [
        Member(small, size=(24, 20), classes=[2, 0, None, None, None]),
        Member(large, classes={0: 0, 1: 1, 2: 2, 3: 2, 4: 2}),
    ]
    x = np.random.default_rng(1).standard_normal((60, 3, 40, 40)).astype(np.float32)
    bundle = cascade(members, x[:3], tmp_path / "both.offramp", class_names=["a", "b", "c"])
    rows, columns = make_resizing((40, 40), (24, 20), HALF)
    p = [torch.from_numpy(run(path, y)).softmax(1).numpy() for path, y in ((small, rows @ x @ columns), (large, x))]
    named = [np.stack([p[0][:, 1], 0 * p[0][:, 0], p[0][:, 0]], 1), np.c_[p[1][:, :2], p[1][:, 2:].sum(1)]]
    with load_uncalibrated(bundle) as net:
        ours = net.every_exit(x)
    for k in range(2):
        assert np.array_equal(ours.label[:, k], named[k].argmax(1))
        assert np.allclose(ours.score[:, k], named[k].max(1), atol=1e-5)
    unsure = p[0].argmax(1) >= 2
    assert unsure.any() and (ours.score[unsure, 0] < 0.5).all()
    bundle = quantize(bundle, x)
    with load_uncalibrated(bundle, variant="int8") as net:
        assert len(np.unique(net.every_exit(x).score[:, 0])) > 50  # probabilities are not rounded to 8 bits


def test_each_member_may_have_a_rule_of_its_own(files, tmp_path):
    small, large = files
    x = np.random.default_rng(2).standard_normal((20, 3, 40, 40)).astype(np.float32)
    bundle = cascade([Member(small, rule="margin"), large], x[:3], tmp_path / "both.offramp")
    rows, columns = make_resizing((40, 40), (24, 20), HALF)
    p = [
        np.sort(torch.from_numpy(run(path, y)).softmax(1).numpy())
        for path, y in ((small, rows @ x @ columns), (large, x))
    ]
    with load_uncalibrated(bundle) as net:
        ours = net.every_exit(x).score
    assert np.allclose(ours[:, 0], p[0][:, -1] - p[0][:, -2], atol=1e-5) and np.allclose(
        ours[:, 1], p[1][:, -1], atol=1e-5
    )
    with pytest.raises(UsageError, match="do not go with the rule patience: take one of max_softmax, entropy, margin"):
        cascade([Member(small, rule="margin"), large], x[:3], tmp_path / "no.offramp", rule="patience")


def test_answers_that_are_no_classes_keep_their_names(tmp_path):
    class Boxes(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner, self.boxes = nn.Linear(16, width), nn.Linear(width, 4)

        def forward(self, x):
            y = torch.tanh(self.inner(x))
            return self.boxes(y), y.sum(1)

    torch.manual_seed(0)
    members = [
        write(tmp_path / f"{width}.onnx", Boxes(width).eval(), shape=(16,), outputs=("boxes", "found"))
        for width in (8, 64)
    ]
    bundle = cascade(members, vectors(3), tmp_path / "b.offramp", answer=["boxes", "found"], rule="agreement:boxes=4")
    assert [exit_.name for exit_ in bundle.variant().exits] == ["8", "64"]
    x = vectors(5, seed=2)
    with load_uncalibrated(bundle) as net:
        assert np.allclose(net(x[0]).answer["boxes"], run(members[1], x[:1]), atol=1e-5)
    with pytest.raises(UsageError, match="Members that do not classify have no classes and no rule of their own"):
        cascade([Member(members[0], rule="margin"), members[1]], vectors(3), tmp_path / "no.offramp", answer=["boxes"])


def small_like(files, **given):
    return [Member(files[0], size=(24, 20), **given), files[1]]


@pytest.mark.parametrize(
    ("members", "error", "words"),
    [
        (lambda files: files[:1], UsageError, "A cascade has at least two members, not 1."),
        (lambda files: [files[0], files[0]], UsageError, "small.onnx is a member twice."),
        (
            lambda files: small_like(files, classes=[0, 1]),
            UsageError,
            "classes of small has 2 entries for its 5 labels",
        ),
        (lambda files: small_like(files, classes=[0, 1, 2, 3, 9]), UsageError, "makes its label 4 the bundle's 9"),
        (lambda files: small_like(files, classes=[None] * 5), UsageError, "classes of small keeps none of its labels"),
        (
            lambda files: small_like(files, classes={7: 0}),
            UsageError,
            "makes its label 7 the bundle's 0: it has labels 0 to 4",
        ),
        (lambda files: small_like(files, exits=["logits"]), UsageError, "scores"),
        (
            lambda files: small_like(files, preprocess=HALF),
            UsageError,
            "Some members have a preprocess and some have not",
        ),
        (
            lambda files: [Member(files[0], size=(9, 9)), files[1]],
            UsageError,
            "small takes images of 24 x 20, not of 9 x 9",
        ),
        (
            lambda files: [
                files[0],
                write(files[0].parent / "seven.onnx", convolutions(8, classes=7), shape=(3, 24, 20)),
            ],
            UsageError,
            "small has 5, seven has 7. Give classes=",
        ),
        (lambda files: [files[0], files[0].parent / "none.onnx"], UsageError, "There is no file"),
        (lambda files: [files[0], 7], UsageError, "A member is a torch.nn.Module, the path"),
        (lambda files: files[0], UsageError, "members is a list of networks"),
        (lambda files: small_like(files, bgr=True, preprocess=HALF)[:1] * 2, UsageError, "is a member twice"),
        (lambda files: small_like(files, classes="01234"), UsageError, "classes is a list of the bundle's label"),
        (lambda files: small_like(files, classes=[0.5] * 5), UsageError, "classes is a list of the bundle's label"),
        (lambda files: small_like(files, preprocess={"mean": 0.5}), UsageError, "preprocess is a Preprocess"),
        (lambda files: small_like(files, rule="patience"), UsageError, "Unknown rule of a member 'patience'"),
        (lambda files: small_like(files, exits="scores"), UsageError, "exits is a list of names"),
        (lambda files: [Member(files[0], size=96), files[1]], UsageError, "size is height and width"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence_and_writes_nothing(files, tmp_path, members, error, words):
    with pytest.raises(error, match=words) as caught:
        cascade(members(files), np.zeros((3, 3, 40, 40), np.float32), tmp_path / "no.offramp")
    assert isinstance(caught.value, OfframpError) and not (tmp_path / "no.offramp").exists()


def test_the_command_joins_files_and_says_what_it_made(files, tmp_path):
    small, large = map(str, files)
    given = [
        "cascade",
        small,
        large,
        "--shape",
        "40x40x3",
        "--mean",
        "0.5",
        "--std",
        "0.5",
        "--std",
        "0.25",
        "--bgr",
        small,
    ]
    done = offramp(
        *given,
        "--labels",
        f"{small}=0,1,-,-,2",
        "--labels",
        f"{large}=0,1,1,1,2",
        "-o",
        tmp_path / "b.offramp",
        "--json",
    )
    manifest = json.loads(done.stdout)
    assert done.returncode == 0 and manifest["classes"] == 3
    assert [exit_["name"] for exit_ in manifest["variants"][0]["exits"]] == ["small", "large"]
    for wrong in (["--bgr", "x.onnx"], ["--labels", "0,1"], ["--labels", f"{small}=a,b"], ["--std", "1"]):
        done = offramp(*given, *wrong, "-o", tmp_path / "no.offramp")
        clear_message(done, 2)
