"""What a cascade's members make of the bundle's input and what it takes over from them; refusals speak of the user's files."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from offramp.errors import OfframpError, UsageError
from offramp.export import Member, Preprocess, cascade, export
from offramp.export.cascades.resizing import make_resizing
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.onnx_files import convolutions, images, run, write, write_product

HALF, IMAGENET = (
    Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)


class Two(nn.Module):
    def __init__(self, *widths, stacks=False):
        super().__init__()
        self.parts, self.stacks = nn.ModuleList([convolutions(width) for width in widths]), stacks

    def forward(self, x):
        answers = [part(x) for part in self.parts]
        return torch.stack(answers) if self.stacks else answers


class ChannelsLast(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write(folder / "small.onnx", convolutions(8), shape=(3, 24, 20))
    write(folder / "two.onnx", Two(4, 9).eval(), shape=(3, 40, 40), outputs=("e0", "e1"))
    write(folder / "other.onnx", Two(5, 7).eval(), shape=(3, 24, 20), outputs=("e0", "e1"))
    write(folder / "stack.onnx", Two(2, 3, stacks=True).eval(), shape=(3, 40, 40), outputs=("stack",))
    export(folder / "two.onnx", images(3), folder / "two.offramp", preprocess=IMAGENET, class_names=list("abcde"))
    export(folder / "other.onnx", images(3, 24)[:, :, :20], folder / "other.offramp", preprocess=HALF)
    return folder


def test_beside_variants_that_take_images_members_make_their_own_of_them(folder, tmp_path):
    base = shutil.copytree(folder / "two.offramp", tmp_path / "base.offramp")
    small = Member(folder / "small.onnx", preprocess=HALF, bgr=True)
    bundle = cascade([small, folder / "other.offramp", f"{base}:fp32"], None, base, beside="joined")
    pictures = images(12)
    resized = np.stack([np.asarray(Image.fromarray(x).resize((20, 24), Image.BILINEAR)) for x in pictures])
    by_hand = [run(folder / "small.onnx", ((resized / 255 - 0.5) / 0.5)[..., ::-1].transpose(0, 3, 1, 2))]
    for path, x in ((folder / "other.offramp", resized), (base, pictures)):
        with load_uncalibrated(path, logits=True) as net:
            by_hand += [net.every_exit(x).parts(k)["logits"] for k in range(2)]
    with load_uncalibrated(bundle, variant="joined", logits=True) as net:
        ours = net.every_exit(pictures)
    for k, logits in enumerate(by_hand):
        assert np.abs(ours.parts(k)["logits"] - logits).max() < (
            2e-3 if k < 3 else 1e-5
        )  # Pillow rounds to whole steps


@pytest.mark.parametrize("by", ["file", pytest.param("torch", marks=pytest.mark.slow)])
def test_floats_with_the_channel_last_are_resized_too(folder, tmp_path, by):
    large = write(tmp_path / "large.onnx", ChannelsLast(convolutions(16)).eval(), shape=(40, 40, 3))
    x = np.random.default_rng(0).standard_normal((9, 40, 40, 3)).astype(np.float32)
    rows, columns = make_resizing((40, 40), (24, 20), HALF)
    by_hand = run(folder / "small.onnx", rows @ x.transpose(0, 3, 1, 2) @ columns)
    same = ChannelsLast(convolutions(8)).eval()
    small = Member(same, size=(24, 20)) if by == "torch" else write(tmp_path / "last.onnx", same, shape=(24, 20, 3))
    bundle = cascade([folder / "small.onnx", small, large], x[:3], tmp_path / "b.offramp")
    with load_uncalibrated(bundle, logits=True) as net:
        ours = net.every_exit(x)
    for k, logits in enumerate((by_hand, by_hand, run(large, x))):
        assert np.allclose(ours.parts(k)["logits"], logits, atol=1e-5)


def test_names_of_classes_are_taken_over_and_must_not_contradict(folder, tmp_path):
    given = [folder / "two.offramp", folder / "other.offramp"]
    bundle = cascade(given, images(3), tmp_path / "b.offramp")
    assert bundle.manifest.class_names == tuple("abcde")
    export(
        folder / "other.onnx",
        images(3, 24)[:, :, :20],
        tmp_path / "x.offramp",
        preprocess=HALF,
        class_names=list("abxde"),
    )
    with pytest.raises(UsageError, match="two-fp32 calls class 2 c, x-fp32 x: give classes="):
        cascade([folder / "two.offramp", tmp_path / "x.offramp"], images(3), tmp_path / "no.offramp")


def test_a_copy_under_another_name_is_no_other_network(folder, tmp_path):
    shutil.copy(folder / "small.onnx", tmp_path / "copy.onnx")
    shutil.copytree(folder / "two.offramp", tmp_path / "copy.offramp")
    for members in (
        [folder / "small.onnx", tmp_path / "copy.onnx"],
        [folder / "two.offramp", tmp_path / "copy.offramp"],
    ):
        with pytest.raises(UsageError, match="copy.* is the same network as .*: give every network once"):
            cascade(members, images(3), tmp_path / "no.offramp")
    graph = onnx.load(write_product(tmp_path / "x.onnx", ["x"]))
    for name in "ab":  # the same graph with other weights, which stand in files of their own
        (tmp_path / name).mkdir()
        graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((8, 5), ord(name), np.float32), "w_x"))
        onnx.save_model(
            onnx.ModelProto.FromString(graph.SerializeToString()),
            tmp_path / name / "net.onnx",
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
    paths = [tmp_path / name / "net.onnx" for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    bundle = cascade(paths, np.eye(8, dtype=np.float32), tmp_path / "b.offramp")
    assert [exit_.name for exit_ in bundle.variant().exits] == ["net-0", "net-1"]


@pytest.mark.parametrize(
    ("members", "example", "words"),
    [
        (
            lambda f: [Member(f / "stack.onnx", rule="margin"), f / "small.onnx"],
            None,
            "Return a list of them",
        ),
        (
            lambda f: [f / "two.onnx", f / "small.onnx"],
            images(3),
            "uint8 images, but members take floats: say how each",
        ),
        (lambda f: [f / "two.onnx", f / "small.onnx"], "two", "The example has 2 inputs; the cascade takes 1"),
    ],
)
def test_a_refusal_says_what_to_do_and_names_no_file_of_ours(folder, tmp_path, members, example, words):
    zeros = np.zeros((3, 3, 40, 40), np.float32)
    given = zeros if example is None else (zeros, zeros) if isinstance(example, str) else example
    with pytest.raises(OfframpError, match=words) as caught:
        cascade(members(folder), given, tmp_path / "no.offramp")
    assert ".onnx" not in str(caught.value)


def test_pixels_that_a_member_scales_itself_make_no_half_precision_of_the_cascade(folder, tmp_path):
    small = Member(folder / "small.onnx", preprocess=HALF)
    bundle = cascade([small, folder / "two.offramp"], images(3), tmp_path / "b.offramp")
    assert (bundle.variant().name, bundle.variant().precision) == ("fp32", "fp32")


class Fixed(nn.Module):
    """Fixes what its network takes by what it makes of the features."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 24 * 20, 5)

    def forward(self, x):
        return self.head(x.flatten(1))


def write_head(path, batch, node):
    """Write a linear head on images of 24 x 20, which takes images (batch, 3, h, w) as far as the file says."""
    graph = onnx.helper.make_graph(
        [node, onnx.helper.make_node("MatMul", ["a", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 3, "h", "w"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 5])],
        [
            onnx.numpy_helper.from_array(np.ones((3 * 24 * 20, 5), np.float32), "w"),
            onnx.numpy_helper.from_array(np.array([1, 3 * 24 * 20]), "shape"),
        ],
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)]), path)
    return path


def test_a_member_that_does_not_run_is_named_with_what_to_say(folder, tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 3, 40, 40)).astype(np.float32)
    one = write_head(tmp_path / "one.onnx", 1, onnx.helper.make_node("Reshape", ["x", "shape"], ["a"]))
    with pytest.raises(OfframpError, match=r"^The batch of one is fixed to one\. Export it with a dynamic batch axis"):
        cascade([Member(one, size=(24, 20)), folder / "two.onnx"], x, tmp_path / "no.offramp")
    with pytest.raises(
        OfframpError, match=r"^Fixed: it does not run on images of the bundle's size\. .* size= \(--size\)"
    ):
        cascade([Fixed().eval(), folder / "two.onnx"], x, tmp_path / "no.offramp")
    free = write_head(tmp_path / "free.onnx", "n", onnx.helper.make_node("Flatten", ["x"], ["a"]))
    with pytest.raises(OfframpError, match=r"^free: it does not run on images of the bundle's size\.") as caught:
        cascade([free, folder / "two.onnx"], x, tmp_path / "no.offramp")
    assert "from the cascade" in str(caught.value)
    bundle = cascade([Member(free, size=(24, 20)), folder / "two.onnx"], x, tmp_path / "yes.offramp")
    assert bundle.variant().exits[0].name == "free"
