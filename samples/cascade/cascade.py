"""Join two networks that nobody trained together, and compare them with early exit of the larger one.

    python samples/cascade/cascade.py --data FOLDER

FOLDER holds CIFAR-10 as cifar10.py beside this sample reads it. The small network is ResNet-8, the large one the ResNet of that
sample. Both are written as plain ONNX files with one output first, as yours may be; what follows needs no torch. The first
variant of the bundle is the ResNet with its three exits, the second asks ResNet-8 first and the ResNet where that is unsure.
Calibration measures both and all their static networks, on images that neither was trained on; the test images compare them.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "cifar10"))

import numpy as np

import resnets
from cifar10 import read_images
from offramp.calibrate import Target, calibrate
from offramp.export import cascade, export
from offramp.runtime import Net, Result, load, load_static


def write_plain(name: str, path: Path) -> Path:
    """Write a network that is stored with exits as an ONNX file that has its last one only."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = getattr(resnets, name)()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(x)[-1]
            return logits

    batch = torch.export.Dim("batch")
    torch.onnx.export(Plain().eval(), (torch.zeros(2, 3, 32, 32),), path, dynamic_shapes=({0: batch},), verbose=False)
    return path


def measure(nets: dict[str, Net], x: np.ndarray, y: np.ndarray) -> list[tuple[str, float, float, str]]:
    """Run all networks on the same samples, in turns of 16; return name, accuracy, mean latency and exit shares of each."""
    results: dict[str, list[Result]] = {name: [] for name in nets}
    for i in range(0, len(x), 16):
        for name, net in nets.items():
            results[name] += [net(sample) for sample in x[i : i + 16]]
    rows = []
    for name, own in results.items():
        exits = np.bincount([result.exit for result in own]) / len(own)
        shares = ", ".join(f"{share:.1%}" for share in exits) if exits.max() < 1 else ""
        right = float(np.mean([result.label == label for result, label in zip(own, y, strict=True)]))
        rows.append((name, right, float(np.mean([result.latency_s for result in own])), shares))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of cifar10_train.npz and cifar10_test.npz")
    parser.add_argument(
        "--output", type=Path, default=Path("build/cascade"), help="folder for the files and the bundle"
    )
    parser.add_argument("--calibration", type=int, default=5000, help="how many training images are for calibration")
    parser.add_argument("--test", type=int, help="how many test images to use; all by default")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    small, large = (write_plain(name, options.output / f"{name}.onnx") for name in ("resnet8", "resnet"))
    with np.load(options.data / "cifar10_train.npz") as file:
        rows = np.random.RandomState(0).permutation(len(file["label"]))[: options.calibration]
    calibration = read_images(options.data / "cifar10_train.npz", rows)
    x, y = read_images(options.data / "cifar10_test.npz", None if options.test is None else np.arange(options.test))

    print("exporting the ResNet with its exits, and beside it the cascade of two files", flush=True)
    bundle = export(resnets.resnet(), calibration[0][:3], options.output / "network.offramp", replace=True)
    bundle = cascade([small, large], calibration[0][:3], bundle.path, beside="cascade")

    with ExitStack() as stack:
        nets: dict[str, Net] = {}
        for variant, name in (("fp32", "early exit of the ResNet"), ("cascade", "ResNet-8, then the ResNet")):
            file_name = options.output / f"{variant}.json"
            found = calibrate(bundle, calibration, Target(max_drop=0.01), variant=variant, output=file_name)
            point = next((point for point, each in found.points.items() if each.exits_early), None)
            print(f"{name}: {found.verdict}\n  {found.point.promise}", flush=True)
            if point is not None:
                nets[name] = stack.enter_context(load(bundle, calibration=found, variant=variant, point=point))
            for k, exit_ in enumerate(bundle.variant(variant).exits):
                static = load_static(bundle, variant=variant, exit=k)
                nets[f"static {variant} to {exit_.name}"] = stack.enter_context(static)
        print(f"\n{'on the test images':32}{'accuracy':>9}{'mean us':>9}  exit shares")
        for name, right, seconds, shares in measure(nets, x, y):
            print(f"{name:32}{right:9.2%}{seconds * 1e6:9.1f}  {shares}")


if __name__ == "__main__":
    main()
