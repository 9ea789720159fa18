"""Export, calibrate and compare a multi-exit CIFAR-10 network.

    python samples/cifar10/cifar10.py --network my_network.py:network --data FOLDER

FOLDER holds cifar10_train.npz and cifar10_test.npz. Each has three arrays: `jpeg`, uint8, the bytes of all images one after the
other; `offset`, where image i is `jpeg[offset[i]:offset[i+1]]`; and `label`. The network takes normalised images, float32
(N, 3, 32, 32), and returns the logits of its exits. It must not have been trained on the calibration images, which --seed draws
from the training images.
"""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from whole_way import whole_way

from offramp.cli.inputs import load_network

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read_images(path: Path, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised images float32 (N, 3, 32, 32) and labels, of all images or of the given rows."""
    with np.load(path) as file:
        jpeg, offset, label = file["jpeg"], file["offset"], file["label"]
    rows = np.arange(len(label)) if rows is None else rows
    images = [np.asarray(Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()))) for i in rows]
    x = (np.stack(images).astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), label[rows].astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True, help="file.py:function or model.onnx")
    parser.add_argument("--data", required=True, type=Path, help="folder of cifar10_train.npz and cifar10_test.npz")
    parser.add_argument(
        "--output", type=Path, default=Path("build/cifar10"), help="folder for the bundle and the picture"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of calibration images")
    parser.add_argument(
        "--calibration", type=int, default=5000, help="how many of the training images are for calibration"
    )
    parser.add_argument("--test", type=int, help="how many test images to use; all by default")
    parser.add_argument("--max-drop", type=float, default=0.01, help="accuracy that may be lost, as a fraction")
    options = parser.parse_args()
    with np.load(options.data / "cifar10_train.npz") as file:
        count = len(file["label"])
    rows = np.random.RandomState(options.seed).permutation(count)[: options.calibration]
    calibration = read_images(options.data / "cifar10_train.npz", rows)
    test = read_images(options.data / "cifar10_test.npz", None if options.test is None else np.arange(options.test))
    whole_way(load_network(options.network), calibration, test, options.output, max_drop=options.max_drop)


if __name__ == "__main__":
    main()
