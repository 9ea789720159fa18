"""Whether chains whose stages run on QNN's simulator, OpenVINO and ONNX Runtime, mixed, say the same of real images.

    python tests/benchmarks/mixed.py --data FOLDER

FOLDER holds cifar10_train.npz and cifar10_test.npz as samples/cifar10/cifar10.py reads them: training images find the ranges of
int8. Prints for each placement how many labels are ONNX Runtime's, exit by exit, and the largest difference of a score; ends
with 1 where a placement is beyond TOLERANCE.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from offramp.bundle import Bundle
from offramp.export import export, quantize
from offramp.runtime import load_uncalibrated

sys.path.insert(0, str(Path(__file__).parents[2] / "samples/cifar10"))
import cifar10
import resnets

PLACES = ("qnn:simulator", "openvino:CPU", "cpu")

TOLERANCE = {"fp32": (0.99, 0.02), "int8": (0.97, 0.12)}
"""For each precision the least share of labels that are ONNX Runtime's at every exit, and the most a score may be off by.

The NPU computes fp32 in half precision. In int8 a value that lies between two steps may be rounded to either, and each engine
sums in another order: OpenVINO and ONNX Runtime differ on the same processor by as much.
"""


class Agreement(NamedTuple):
    """How a placement compares with ONNX Runtime: (exits,) each; the time per image, all exits."""

    devices: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    seconds: float

    def holds(self, precision: str) -> bool:
        """Tell whether it is within TOLERANCE."""
        least, most = TOLERANCE[precision]
        return bool((self.labels >= least).all() and (self.scores <= most).all())


def rotate_places(stages: int) -> list[tuple[str, ...]]:
    """Return placements such that every stage is on each engine once, with its neighbours on others."""
    return [tuple(PLACES[(k + first) % len(PLACES)] for k in range(stages)) for first in range(len(PLACES))]


def compare(bundle: Bundle, variant: str, x: np.ndarray, placements: list[tuple[str, ...]]) -> list[Agreement]:
    """Run images through every exit on each placement and on ONNX Runtime alone."""
    right = load_uncalibrated(bundle, "cpu", variant=variant).every_exit(x)
    found = []
    for devices in placements:
        net = load_uncalibrated(bundle, devices, variant=variant)
        assert list(net.provenance.devices) == list(devices)
        start = time.perf_counter()
        here = net.every_exit(x)
        seconds = (time.perf_counter() - start) / len(x)
        labels, scores = (here.label == right.label).mean(0), np.abs(here.score - right.score).max(0)
        found.append(Agreement(devices, labels, scores, seconds))
    return found


def make_bundle(folder: Path, images: np.ndarray) -> Bundle:
    """Export the stored `resnet8` in fp32, and in int8 as QNN takes it with ranges of the images."""
    export(resnets.resnet8(), images[:3], folder / "resnet8.offramp")
    return quantize(folder / "resnet8.offramp", images, float_heads=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of cifar10_train.npz and cifar10_test.npz")
    parser.add_argument("--images", type=int, default=500, help="how many test images")
    options = parser.parse_args()
    training, _ = cifar10.read_images(options.data / "cifar10_train.npz", np.arange(512))
    x, y = cifar10.read_images(options.data / "cifar10_test.npz", np.arange(options.images))
    held = True
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), training)
        for variant in bundle.manifest.variants:
            right = load_uncalibrated(bundle, variant=variant.name).every_exit(x)
            print(
                f"{variant.name}: ONNX Runtime is right on {', '.join(f'{a:.1%}' for a in (y == right.label.T).mean(1))}"
            )
            stages = len(variant.stages)
            placements = [(place,) * stages for place in PLACES[:2]] + rotate_places(stages)
            for one in compare(bundle, variant.name, x, placements):
                same = ", ".join(f"{share:.1%}" for share in one.labels)
                off = ", ".join(f"{score:.5f}" for score in one.scores)
                held &= one.holds(variant.precision)
                print(
                    f"  {' '.join(one.devices):44} same label {same}; score off by at most {off}; {one.seconds * 1e3:.0f} ms"
                )
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
