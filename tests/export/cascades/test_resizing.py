"""Images are resized in a graph as Pillow does it."""

import numpy as np
import pytest
from PIL import Image
from torch import nn

from offramp.calibrate.images import resize
from offramp.export import Member, Preprocess, cascade
from offramp.export.cascades.resizing import make_resizing
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.onnx_files import run, write


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("given", "size"), [((48, 60), (24, 24)), ((20, 20), (33, 28))])
def test_images_are_resized_as_pillow_does_it(given, size, interpolation):
    image = np.random.default_rng(0).integers(0, 256, given).astype(np.float32)
    rows, columns = make_resizing(given, size, Preprocess(mean=(0.0,), std=(1.0,), interpolation=interpolation))
    pillow = Image.fromarray(image).resize(size[::-1], getattr(Image, interpolation.upper()))
    assert np.abs(rows @ image @ columns - np.asarray(pillow)).max() < 1e-3


@pytest.mark.parametrize(("given", "size"), [((40, 60), (20, 20)), ((61, 33), (24, 20)), ((24, 20), (24, 20))])
def test_an_image_is_cropped_as_when_samples_are_read(given, size):
    image = np.random.default_rng(0).integers(0, 256, given).astype(np.float32)
    how = Preprocess(mean=(0.0,), std=(1.0,), resize="crop", crop=0.8)
    rows, columns = make_resizing(given, size, how)
    pillow = np.asarray(resize(Image.fromarray(image), size[1], size[0], how))
    assert np.abs(rows @ image @ columns - pillow).max() < 1e-3


def test_black_and_white_edges_are_as_pillow_makes_them(tmp_path):
    how = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bicubic")
    paths = [
        write(tmp_path / f"{k}.onnx", nn.Sequential(nn.Flatten(), nn.Linear(300, 5)), shape=(3, 10, 10)) for k in "ab"
    ]
    pictures = np.repeat((np.random.default_rng(0).random((9, 20, 20, 1)) > 0.5) * np.uint8(255), 3, -1)
    bundle = cascade([Member(path, preprocess=how) for path in paths], pictures[:3], tmp_path / "b.offramp")
    x = np.stack([np.asarray(Image.fromarray(x).resize((10, 10), Image.BICUBIC)) for x in pictures])
    with load_uncalibrated(bundle, logits=True) as net:
        logits = net.every_exit(pictures).parts(0)["logits"]
    assert np.abs(logits - run(paths[0], (x / 255).transpose(0, 3, 1, 2))).max() < 0.02
