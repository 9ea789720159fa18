"""Train a network of resnets.py on CIFAR-10, optionally with a larger, trained network as its teacher.

    python samples/cifar10/train.py --data FOLDER --network teacher --recipe joint --device cuda --out teacher.safetensors
    python samples/cifar10/train.py --data FOLDER --network resnet --teacher teacher.safetensors --device cuda \\
        --out resnet.safetensors
    python samples/cifar10/train.py --data FOLDER --network resnet --teacher teacher.safetensors --device cuda \\
        --start resnet.safetensors --prune 0.5 --out resnet-pruned50.safetensors

With --prune and without --teacher, the network in --start is the teacher of its pruned form. The stored weights of `resnet` and
of its pruned form were trained with --weights 1 1 2, then further with --batch 1024 --lr 0.3 --seed 1; see the .json files.

FOLDER holds cifar10_train.npz with three arrays: `jpeg`, uint8, the bytes of all images one after the other; `offset`, where
image i is `jpeg[offset[i]:offset[i+1]]`; and `label`. A tenth of the images is held back for calibration: the first tenth of
numpy.random.RandomState(0).permutation. Each epoch prints the accuracy on them, which chooses nothing. The test images are not
read. A .json file of the same name, beside the weights, records how they were trained.
"""

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import resnets
from offramp.export import Epoch, prune, train
from offramp.files import check_writable, hash_file, write_atomically


class Setup(NamedTuple):
    """How a network is trained.

    Attributes:
        make: makes the network.
        weight_decay: for `train`.
        strong: also turn, stretch, recolour and mix the images. Large networks learn the training images by heart otherwise.
    """

    make: Callable[[], resnets.Exits]
    weight_decay: float
    strong: bool


SETUPS = {
    "resnet": Setup(resnets.make_resnet, 5e-4, True),
    "resnet8": Setup(resnets.make_resnet8, 1e-4, False),
    "teacher": Setup(resnets.make_teacher, 5e-4, True),
}


class Batches:
    """Batches of images on a device. With a generator they are shuffled and augmented anew in every pass."""

    def __init__(
        self, x: Tensor, y: Tensor, size: int, generator: torch.Generator | None = None, strong: bool = False
    ) -> None:
        self.x, self.y, self.size, self.generator, self.strong = x, y, size, generator, strong
        self.mean = torch.tensor(resnets.MEAN, device=x.device).view(3, 1, 1)
        self.std = torch.tensor(resnets.STD, device=x.device).view(3, 1, 1)

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.x), device=self.x.device)
        if self.generator is not None:
            order = torch.randperm(len(self.x), device=self.x.device, generator=self.generator)
        for rows in order.split(self.size):
            x, y = (self.x[rows].float() / 255 - self.mean) / self.std, self.y[rows]
            if self.generator is not None:
                x = self.move(x)
                if self.strong:
                    x, y = self.mix(self.recolour(self.turn(x)), F.one_hot(y, resnets.CLASSES).float())
            yield x, y

    def move(self, x: Tensor) -> Tensor:
        """Shift each image by up to 4 pixels in each direction, and mirror half of the images."""
        count, side, line = len(x), x.shape[-1], torch.arange(x.shape[-1], device=x.device)
        x = F.pad(x, (4, 4, 4, 4), mode="reflect")
        mirrored = self.draw(count, 1) < 0.5
        rows = (9 * self.draw(count, 1)).long() + line
        columns = (9 * self.draw(count, 1)).long() + torch.where(mirrored, side - 1 - line, line)
        images = torch.arange(count, device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def turn(self, x: Tensor) -> Tensor:
        """Turn half of the images by up to 15 degrees and scale them by up to 15 %. The other half stays sharp."""
        chosen = (self.draw(len(x)) < 0.5).float()
        angle = chosen * math.radians(15) * self.between(-1, 1, len(x))
        scale = 1 + chosen * 0.15 * self.between(-1, 1, len(x))
        cos, sin, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle)
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def recolour(self, x: Tensor) -> Tensor:
        """Change each image's saturation, contrast and brightness."""
        grey, each = x.mean(1, keepdim=True), (len(x), 1, 1, 1)
        x = grey + (x - grey) * self.between(0.6, 1.4, *each)
        return x * self.between(0.75, 1.25, *each) + self.between(-0.3, 0.3, *each)

    def mix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Replace a rectangle of each image: in half of them by part of another image (CutMix, arXiv 1905.04899), else by grey."""
        count, line = len(x), torch.arange(x.shape[-1], device=x.device)
        mixed = self.draw(count, 1) < 0.5
        side = torch.where(mixed, len(line) * self.draw(count, 1).sqrt(), 10.0)
        down, across = ((line - len(line) * self.draw(count, 1)).abs() < side / 2 for _ in range(2))
        box = (down[:, :, None] & across[:, None, :])[:, None]
        share = box.float().mean((1, 2, 3))[:, None] * mixed
        x = torch.where(box, x.roll(1, 0) * mixed[:, :, None, None], x)
        return x, (1 - share) * y + share * y.roll(1, 0)

    def draw(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.x.device, generator=self.generator)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * self.draw(*shape)


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return all images uint8 (N, 3, 32, 32) and labels int64 (N,)."""
    with np.load(path) as file:
        jpeg, offset, label = file["jpeg"].tobytes(), file["offset"], file["label"]
    images = [np.asarray(Image.open(io.BytesIO(jpeg[a:b]))) for a, b in pairwise(offset)]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), label.astype(np.int64)


def describe(epoch: Epoch) -> str:
    def percent(shares: tuple[float, ...] | None) -> str:
        return " ".join(f"{share:6.2%}" for share in shares or ())

    loss = " ".join(f"{value:.3f}" for value in epoch.loss)
    right = f"accuracy {percent(epoch.accuracy)}, held back {percent(epoch.validation)}"
    return f"epoch {epoch.epoch:3d}: loss {loss}, {right}, {epoch.seconds:.1f} s"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of cifar10_train.npz")
    parser.add_argument("--out", required=True, type=Path, help="file for the weights, .safetensors")
    parser.add_argument("--network", choices=list(SETUPS), default="resnet")
    parser.add_argument("--recipe", default="distill", help="joint, distill or gated")
    parser.add_argument("--teacher", type=Path, help="weights that this script wrote for --network teacher")
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--mild", action="store_true", help="only shift and mirror the images")
    parser.add_argument("--prune", type=float, help="prune first; the share of multiply-accumulates that stays")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seconds", type=float, help="train fewer epochs if this script would take longer than this")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.4, help="the highest learning rate")
    parser.add_argument("--weights", type=float, nargs="+", help="one weight per exit for its loss; equal by default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="file to resume from after an interruption")
    options = parser.parse_args()
    if options.prune is not None and options.start is None:
        parser.error("--prune needs --start: the weights of the network to prune")
    return options


def describe_options(options: argparse.Namespace) -> dict[str, object]:
    """Return the options for the .json file beside the weights; `before` is that file of the weights in --start."""
    before = options.start and options.start.with_suffix(".json")
    return {
        "network": options.network,
        "recipe": options.recipe,
        "start": options.start and hash_file(options.start),
        "before": json.loads(before.read_bytes()) if before and before.exists() else None,
        "prune": options.prune,
        "mild": options.mild,
        "epochs": options.epochs,
        "seconds_at_most": options.seconds,
        "batch": options.batch,
        "lr": options.lr,
        "weights": options.weights,
        "seed": options.seed,
    }


def main() -> None:
    options = read_options()
    start, path = time.perf_counter(), options.data / "cifar10_train.npz"
    check_writable(options.out)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    setup = SETUPS[options.network]
    whole = setup.make()
    if options.start is not None:
        resnets.load(whole, options.start)
    network: torch.nn.Module = whole
    teacher: torch.nn.Module | None = None
    teacher_hash = None
    if options.teacher is not None:
        teacher_hash = hash_file(options.teacher)
        teacher = resnets.load(resnets.make_teacher(), options.teacher)
    if options.prune is not None:
        if teacher is None:
            teacher, teacher_hash = whole, hash_file(options.start)
        network = prune(whole, torch.zeros(1, 3, 32, 32), macs=options.prune)
    images, labels = (torch.from_numpy(part).to(options.device) for part in read_images(path))
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(images))).to(options.device)
    held, rest = order[: len(order) // 10], order[len(order) // 10 :]
    generator = torch.Generator(options.device).manual_seed(options.seed)
    history = train(
        network,
        Batches(images[rest], labels[rest], options.batch, generator, setup.strong and not options.mild),
        validation=Batches(images[held], labels[held], options.batch),
        recipe=options.recipe,
        teacher=teacher,
        epochs=options.epochs,
        seconds=options.seconds and max(1.0, options.seconds - (time.perf_counter() - start)),
        lr=options.lr,
        weight_decay=setup.weight_decay,
        weights=options.weights,
        device=options.device,
        checkpoint=options.checkpoint,
        progress=lambda epoch: print(describe(epoch), flush=True),
    )
    write_atomically(options.out, resnets.save(network))
    log = {
        **describe_options(options),
        "teacher": teacher_hash,
        "weight_decay": setup.weight_decay,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
        "torch": torch.__version__,
        "seconds": time.perf_counter() - start,
        "data": {"file": path.name, "sha256": hash_file(path), "trained": len(rest), "held_back": len(held)},
        "history": msgspec.to_builtins(history.epochs),
    }
    write_atomically(options.out.with_suffix(".json"), json.dumps(log, indent=1).encode())
    print(f"weights: {options.out}")


if __name__ == "__main__":
    main()
