"""Two files that others have exported, all the way: joined, verified, calibrated, fused and run, beside running them by hand."""

import functools
import runpy

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from offramp.calibrate import Target, calibrate
from offramp.export import fuse
from offramp.runtime import load
from offramp.tests.helpers.command import offramp
from offramp.tests.helpers.pages import ROOT, blocks

INPUTS = 500


def export_as_before(export, network, x, path, **_):
    """Write a file by torch's older exporter, whatever the script asked for."""
    export(
        network, x[:1], path, input_names=["image"], dynamic_axes={"image": {0: "n"}}, opset_version=13, dynamo=False
    )


def run_by_hand(path, images, mean, std):
    """Return the probabilities that a file gives for images: resized by Pillow, in floats, and normalised as it was trained."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    side = given.shape[2]
    planes = [
        [Image.fromarray(plane).resize((side, side), Image.BILINEAR) for plane in x]
        for x in images.transpose(0, 3, 1, 2)
    ]
    x = (np.array([[np.asarray(plane) for plane in each] for each in planes], np.float32) / 255 - mean) / std
    logits = session.run(None, {given.name: x.astype(np.float32)})[0]
    z = np.exp(logits - logits.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


@pytest.mark.slow
def test_two_files_answer_as_they_do_by_hand_all_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = next(block for block in blocks(ROOT / "docs" / "how-to" / "cascade.md") if block.title == "two.py")
    (tmp_path / "two.py").write_text(script.text)
    two = runpy.run_path("two.py")
    two["train"](2, 12, 0.5, 0.5, "small.onnx")
    monkeypatch.setattr(torch.onnx, "export", functools.partial(export_as_before, torch.onnx.export))
    two["train"](12, 32, 0.45, 0.22, "large.onnx")
    scales = ["--mean", "0.5", "--mean", "0.45", "--std", "0.5", "--std", "0.22"]
    for command in (
        ["cascade", "small.onnx", "large.onnx", "--data", "two.py:samples", *scales, "-o", "both.offramp"],
        ["verify", "both.offramp"],
    ):
        done = offramp(*command)
        assert done.returncode == 0, done.stderr
    calibration = calibrate("both.offramp", two["samples"](), Target(max_drop=0.02))
    point = next(name for name, each in calibration.points.items() if each.exits_early)
    fuse("both.offramp", "both.onnx", point=point)
    images, labels = two["draw"](INPUTS, 5)

    floats = images.astype(np.float32)
    small, large = run_by_hand("small.onnx", floats, 0.5, 0.5), run_by_hand("large.onnx", floats, 0.45, 0.22)
    rounded = run_by_hand("small.onnx", images, 0.5, 0.5)  # as Pillow does it with bytes
    fused = onnxruntime.InferenceSession("both.onnx", providers=["CPUExecutionProvider"])
    takes = fused.get_inputs()[0].name
    with load("both.offramp", point=point) as net:
        for threshold in (net.thresholds[0], float(np.sort(small.max(1))[INPUTS // 2 - 1 : INPUTS // 2 + 1].mean())):
            net.thresholds = [threshold]
            results = [net(image) for image in images]
            given = {"thresholds": np.array([threshold], np.float32)}
            told = [fused.run(["label", "exit"], {takes: image[None], **given}) for image in images]
            leaves = small.max(1) >= threshold
            by_hand = np.where(leaves, small.argmax(1), large.argmax(1))
            assert np.array_equal([result.label for result in results], by_hand)
            assert np.array_equal([result.exit == 0 for result in results], leaves)
            assert np.array_equal([label[0] for label, _ in told], by_hand)
            assert np.array_equal([exit_[0] == 0 for _, exit_ in told], leaves)
            as_bytes = np.where(rounded.max(1) >= threshold, rounded.argmax(1), large.argmax(1))
            assert (as_bytes == by_hand).mean() > 0.99
            print(
                f"{INPUTS} inputs, threshold {threshold:.3f}: {leaves.mean():.1%} left at the small network, "
                f"{(by_hand == labels).mean():.1%} right; labels of bundle and fused file are those by hand, which are "
                f"{(as_bytes == by_hand).mean():.1%} those with Pillow's rounding to bytes"
            )
    assert 0.1 < leaves.mean() < 0.9
