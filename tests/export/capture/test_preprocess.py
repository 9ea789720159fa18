"""Scaling and normalising in the first stage, on images as a camera gives them."""

import msgspec
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from offramp.calibrate.images import load_images, resize
from offramp.errors import DataError, ModelError, UsageError
from offramp.export import Preprocess, export, fuse
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import write_convolutions

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESS = Preprocess(mean=MEAN, std=STD)


def images(n, seed=0, size=16):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


def normalised(x):
    return ((x / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


def test_the_bundle_takes_uint8_and_says_what_the_network_says_of_normalised_pixels(tmp_path):
    net = networks.build(networks.Plain)
    bundle = export(net, images(2), tmp_path / "b.offramp", preprocess=PREPROCESS)
    (tensor,) = bundle.manifest.inputs
    assert (tensor.name, tensor.dtype, tensor.shape) == ("x", "uint8", (None, 16, 16, 3))
    assert bundle.manifest.preprocess == PREPROCESS
    x = images(5, 1)
    with torch.no_grad():
        expected = np.stack([y.numpy() for y in net(torch.from_numpy(normalised(x)))], 1)
    with load_uncalibrated(bundle, logits=True) as chain:
        for size in (1, 5):
            assert np.abs(chain.every_exit(x, size=size).logits - expected).max() <= 1e-5 * np.abs(expected).max()
        with pytest.raises(DataError, match="takes uint8"):
            chain(normalised(x)[0].transpose(1, 2, 0))


@pytest.mark.parametrize("example", [None, images(3, size=12)], ids=["random", "given"])
def test_onnx_files_are_preprocessed_too_and_so_is_the_fused_file(example, tmp_path):
    import onnxruntime

    path = write_convolutions(tmp_path / "net.onnx")
    bundle = export(path, example, tmp_path / "b.offramp", preprocess=PREPROCESS)
    x = images(4, 1, size=12)
    expected = onnxruntime.InferenceSession(path).run(["z1"], {"x": normalised(x)})[0]
    assert np.allclose(load_uncalibrated(bundle, logits=True).every_exit(x).logits[:, 1], expected, atol=1e-4)
    fused = onnxruntime.InferenceSession(fuse(bundle, tmp_path / "one.onnx", thresholds=[2.0]).path)
    assert fused.get_inputs()[0].type == "tensor(uint8)"
    assert np.allclose(fused.run(["logits"], {"x": x[:1]})[0], expected[:1], atol=1e-4)


def test_a_network_with_channels_last_needs_no_transpose(tmp_path):
    path = write_convolutions(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 12, 12, 3]))
    onnx.save(model, path)
    bundle = export(path, None, tmp_path / "b.offramp", preprocess=PREPROCESS)
    assert bundle.manifest.inputs[0].shape == (None, 12, 12, 3)


@pytest.mark.parametrize(
    ("example", "preprocess", "error", "words"),
    [
        (networks.samples(3), PREPROCESS, DataError, r"uint8 images \(N, height, width, 3\), not float32"),
        (images(3)[..., :1], PREPROCESS, DataError, r"not uint8 \(3, 16, 16, 1\)"),
        (images(3), Preprocess(mean=(0.5,), std=(0.5,)), DataError, r"\(N, height, width, 1\)"),
        ((images(3), images(3)), PREPROCESS, UsageError, "one image"),
    ],
)
def test_examples_that_are_no_images_are_refused(example, preprocess, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export(networks.build(networks.Plain), example, tmp_path / "b.offramp", preprocess=preprocess)


def test_a_network_that_takes_no_images_cannot_be_preprocessed(dense_onnx, tmp_path):
    with pytest.raises(ModelError, match="preprocess is for images of 3 channels"):
        export(dense_onnx, None, tmp_path / "b.offramp", preprocess=PREPROCESS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": 0.5, "std": 0.5}, r"mean is a tuple of numbers, one for each channel, such as \(0.5,\), not 0.5"),
        ({"mean": (0.5,), "std": np.ones(1)}, "std is a tuple of numbers"),
        ({"mean": MEAN, "std": (1.0,)}, "mean has 3 channels and std 1"),
        ({"mean": MEAN, "std": (0.0, 1.0, 1.0)}, "std is above 0"),
        ({"mean": MEAN, "std": STD, "resize": "croped"}, "Unknown resize 'croped'. Did you mean 'crop'"),
        ({"mean": MEAN, "std": STD, "interpolation": "cubic"}, "Did you mean 'bicubic'"),
        ({"mean": MEAN, "std": STD, "crop": 1.5}, "crop between 0 and 1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Preprocess(**options)


def test_class_names_must_be_as_many_as_the_classes(dense_onnx, tmp_path):
    bundle = export(dense_onnx, None, tmp_path / "b.offramp", class_names=list("abcde"))
    assert bundle.manifest.class_names == ("a", "b", "c", "d", "e")
    with pytest.raises(UsageError, match="3 class names for 5 classes"):
        export(dense_onnx, None, tmp_path / "c.offramp", class_names=list("abc"))


def gradient(width, height):
    """An image whose red is the column and whose green is the row, in eighths of its size."""
    x, y = np.meshgrid(np.arange(width) * 8 // width, np.arange(height) * 8 // height)
    return Image.fromarray(np.stack([x * 30, y * 30, np.full_like(x, 99)], -1).astype(np.uint8))


def test_images_are_stretched_cropped_or_padded():
    wide = gradient(160, 80)

    def resized(**policy):
        return np.asarray(resize(wide, 8, 8, Preprocess(mean=MEAN, std=STD, interpolation="nearest", **policy)))

    stretched = resized(resize="stretch")
    assert (stretched[..., 0] == np.arange(8) * 30).all() and (stretched[:, 0, 1] == np.arange(8) * 30).all()
    cropped = resized(resize="crop")  # the middle half of the columns, every row
    assert cropped[0, :, 0].tolist() == [60, 60, 90, 90, 120, 120, 150, 150]
    assert (cropped[:, 0, 1] == np.arange(8) * 30).all()
    middle = resized(resize="crop", crop=0.5)  # of an image twice as large
    assert middle[:, 0, 1].tolist() == [60, 60, 90, 90, 120, 120, 150, 150]
    padded = resized(resize="pad")
    assert (padded[:2] == 0).all() and (padded[6:] == 0).all() and (padded[2:6, :, 2] == 99).all()


@pytest.mark.parametrize("size", [(224, 224), (640, 480), (333, 500), (3, 900)])
def test_a_crop_is_what_torchvision_would_cut_out(size):
    preprocess = Preprocess(mean=MEAN, std=STD, resize="crop", crop=0.875)
    assert resize(gradient(*size), 224, 224, preprocess).size == (224, 224)


def test_image_files_come_as_the_bundle_wants_them(tmp_path):
    gradient(40, 20).save(tmp_path / "a.png")
    net = networks.build(networks.Plain)
    preprocess = msgspec.structs.replace(PREPROCESS, resize="pad")
    bundle = export(net, images(3), tmp_path / "b.offramp", preprocess=preprocess)
    x = load_images([tmp_path / "a.png"], bundle.manifest)
    assert x.dtype == np.uint8 and x.shape == (1, 16, 16, 3) and (x[0, :4] == 0).all() and (x[0, 8] > 0).any()


def test_images_for_a_second_input_are_refused_not_left_out(tmp_path):
    path = write_convolutions(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="one image"):
        export(path, (images(3, size=12), images(3, size=12)), tmp_path / "b.offramp", preprocess=PREPROCESS)
