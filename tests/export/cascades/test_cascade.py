"""Networks that nobody trained together, joined in one bundle: answers as each gives them by hand."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from torch import nn

from offramp.bundle.manifest import NEVER
from offramp.errors import ModelError, OfframpError, UsageError
from offramp.export import Member, Preprocess, cascade, export
from offramp.export.cascades.resizing import make_resizing
from offramp.runtime import load_uncalibrated, verify
from offramp.tests.helpers.command import clear_message, offramp
from offramp.tests.zoo.two_exits import build_two_exits, vectors

HALF, IMAGENET = (
    Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)


def convolutions(width, classes=5, stride=2):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    ).eval()


def write(path, network, *, shape, opset=17):
    """Write an ONNX file as others would, by torch's older exporter."""
    torch.onnx.export(
        network,
        torch.zeros(1, *shape),
        path,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "n"}, "scores": {0: "n"}},
        opset_version=opset,
        dynamo=False,
    )
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    small = write(folder / "small.onnx", convolutions(8), shape=(3, 24, 20), opset=13)
    return small, write(folder / "large.onnx", convolutions(32, stride=1), shape=(3, 40, 40))


def images(n, side=40):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


def run(path, x):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixels": x.astype(np.float32)})[0]


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
    export(build_two_exits(), vectors(3), tmp_path / "first.offramp")
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 5)).eval()
    bundle = cascade([tmp_path / "first.offramp", plain], vectors(3), tmp_path / "both.offramp")
    names = [exit_.name for exit_ in bundle.variant().exits]
    assert names == ["first-fp32-exit0", "first-fp32-exit1", "Sequential"]
    again = cascade([f"{tmp_path}/both.offramp:fp32", build_two_exits()], vectors(3), tmp_path / "again.offramp")
    assert len(again.variant().exits) == 5
    x = vectors(20, seed=3)
    with load_uncalibrated(bundle, logits=True) as net, torch.no_grad():
        ours, expected = net.every_exit(x), [*build_two_exits()(torch.from_numpy(x)), plain(torch.from_numpy(x))]
        for k, logits in enumerate(expected):
            assert np.allclose(ours.parts(k)["logits"], logits.numpy(), atol=1e-5)
    with load_uncalibrated(bundle) as net:
        net.thresholds = [NEVER, 0.0]
        assert net(x[0]).exit == 1


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
            return {"boxes": self.boxes(y), "found": y.sum(1)}

    torch.manual_seed(0)
    members = [Boxes(8).eval(), Boxes(64).eval()]
    bundle = cascade(members, vectors(3), tmp_path / "b.offramp", answer=["boxes", "found"], rule="agreement:boxes=4")
    assert [exit_.name for exit_ in bundle.variant().exits] == ["Boxes-0", "Boxes-1"]
    x = vectors(5, seed=2)
    with load_uncalibrated(bundle) as net, torch.no_grad():
        answer = net(x[0]).answer
        assert np.allclose(answer["boxes"], members[1](torch.from_numpy(x[:1]))["boxes"].numpy(), atol=1e-5)


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
        (lambda files: small_like(files, classes=[0, 1, 2, 3, 9]), UsageError, "calls its label 4 9 in the bundle"),
        (lambda files: small_like(files, classes=[None] * 5), UsageError, "classes of small keeps none of its labels"),
        (
            lambda files: small_like(files, classes={7: 0}),
            UsageError,
            "calls its label 7 0 in the bundle: it has labels 0 to 4",
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
            lambda files: [files[0], convolutions(8, classes=7)],
            UsageError,
            "small has 5, Sequential has 7. Give classes=",
        ),
        (lambda files: [files[0], files[0].parent / "none.onnx"], UsageError, "There is no file"),
        (lambda files: [files[0], 7], UsageError, "A member is a torch.nn.Module, the path"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence_and_writes_nothing(files, tmp_path, members, error, words):
    with pytest.raises(error, match=words) as caught:
        cascade(members(files), np.zeros((3, 3, 40, 40), np.float32), tmp_path / "no.offramp")
    assert isinstance(caught.value, OfframpError) and not (tmp_path / "no.offramp").exists()


def test_members_of_other_channels_or_dtypes_are_refused(files, tmp_path):
    gray = write(
        tmp_path / "gray.onnx", nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5)), shape=(1, 4, 4)
    )
    with pytest.raises(ModelError, match="gray takes images of shape .* but the bundle's have 3 channels"):
        cascade([files[0], gray], np.zeros((3, 3, 40, 40), np.float32), tmp_path / "no.offramp")
    model = onnx.load(files[1])
    whole = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Cast", ["bytes"], ["pixels"], to=onnx.TensorProto.FLOAT),
                *model.graph.node,
            ],
            "whole",
            [onnx.helper.make_tensor_value_info("bytes", onnx.TensorProto.UINT8, ["n", 3, 40, 40])],
            list(model.graph.output),
            list(model.graph.initializer),
        ),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    onnx.save(whole, tmp_path / "bytes.onnx")
    with pytest.raises(ModelError, match="bytes takes UINT8, the first member FLOAT"):
        cascade([files[1], tmp_path / "bytes.onnx"], np.zeros((3, 3, 40, 40), np.float32), tmp_path / "no.offramp")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("given", "size"), [((48, 60), (24, 24)), ((20, 20), (33, 28))])
def test_images_are_resized_as_pillow_does_it(given, size, interpolation):
    image = np.random.default_rng(0).integers(0, 256, given).astype(np.float32)
    rows, columns = make_resizing(given, size, Preprocess(mean=(0.0,), std=(1.0,), interpolation=interpolation))
    pillow = Image.fromarray(image).resize(size[::-1], getattr(Image, interpolation.upper()))
    assert np.abs(rows @ image @ columns - np.asarray(pillow)).max() < 1e-3


def test_a_cropped_image_keeps_its_middle():
    image = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.float32)
    rows, columns = make_resizing((40, 60), (20, 20), Preprocess(mean=(0.0,), std=(1.0,), resize="crop"))
    pillow = np.asarray(Image.fromarray(image).resize((30, 20), Image.BILINEAR))[:, 5:25]
    assert np.abs(rows @ image @ columns - pillow).max() < 1e-3


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
