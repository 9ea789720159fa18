"""Train one of the two networks in resnets.py on CIFAR-10.

    python samples/cifar10/train.py --data FOLDER --network resnet --recipe distill --device cuda --out resnet.safetensors

FOLDER holds cifar10_train.npz: `jpeg` uint8, all images' bytes one after the other; `offset`, where image i is
`jpeg[offset[i]:offset[i+1]]`; and `label`. A tenth of the images, the first that numpy.random.RandomState(0).permutation names,
is held back, since it chooses thresholds and certifies later; each epoch's accuracy on it is printed and chooses nothing. The
test images are not read. Beside the weights, a file of the same name that ends in .json says how they were made.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from offramp.export.train import Epoch, train
from offramp.files import check_writable, hash_file, write_atomically

import resnets

SETTINGS = {"resnet": (resnets.make_resnet, 5e-4, 8), "resnet8": (resnets.make_resnet8, 1e-4, 0)}
"""How to make the network; its weight decay; the side of the square that is cut out, which a network that small cannot afford."""


class Batches:
    """Images on a device, shuffled and augmented anew each time they are iterated if there is a generator."""

    def __init__(self, x: Tensor, y: Tensor, size: int, generator: torch.Generator | None = None, cut: int = 0) -> None:
        self.x, self.y, self.size, self.generator, self.cut = x, y, size, generator, cut
        self.mean = torch.tensor(resnets.MEAN, device=x.device).view(3, 1, 1)
        self.std = torch.tensor(resnets.STD, device=x.device).view(3, 1, 1)

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.x), device=self.x.device)
        if self.generator is not None:
            order = torch.randperm(len(self.x), device=self.x.device, generator=self.generator)
        for rows in order.split(self.size):
            x = (self.x[rows].float() / 255 - self.mean) / self.std
            yield (x if self.generator is None else self.augment(x)), self.y[rows]

    def augment(self, x: Tensor) -> Tensor:
        """Move each image by up to 4 pixels, mirror half of them, and blank a square of each."""
        count, side, line = len(x), x.shape[-1], torch.arange(x.shape[-1], device=x.device)
        x = F.pad(x, (4, 4, 4, 4), mode="reflect")
        mirrored = self.draw(2, count)[:, None].bool()
        rows = self.draw(9, count)[:, None] + line
        columns = self.draw(9, count)[:, None] + torch.where(mirrored, side - 1 - line, line)
        images = torch.arange(count, device=x.device)[:, None, None]
        x = x.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if self.cut:
            inside = [(line - self.draw(side, count)[:, None] + self.cut // 2) for _ in range(2)]
            down, across = ((part >= 0) & (part < self.cut) for part in inside)
            x = x.masked_fill((down[:, :, None] & across[:, None, :])[:, None], 0.0)
        return x

    def draw(self, end: int, count: int) -> Tensor:
        return torch.randint(end, (count,), device=self.x.device, generator=self.generator)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of cifar10_train.npz")
    parser.add_argument("--out", required=True, type=Path, help="file for the weights, .safetensors")
    parser.add_argument("--network", choices=list(SETTINGS), default="resnet")
    parser.add_argument("--recipe", default="distill", help="joint, distill or gated")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.4, help="the highest rate")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="file to go on from after an interruption")
    options = parser.parse_args()
    start, path = time.perf_counter(), options.data / "cifar10_train.npz"
    check_writable(options.out)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    make, weight_decay, cut = SETTINGS[options.network]
    network = make()
    images, labels = (torch.from_numpy(part).to(options.device) for part in read_images(path))
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(images))).to(options.device)
    held, rest = order[: len(order) // 10], order[len(order) // 10 :]
    generator = torch.Generator(options.device).manual_seed(options.seed)
    history = train(
        network,
        Batches(images[rest], labels[rest], options.batch, generator, cut),
        validation=Batches(images[held], labels[held], options.batch),
        recipe=options.recipe,
        epochs=options.epochs,
        lr=options.lr,
        weight_decay=weight_decay,
        device=options.device,
        checkpoint=options.checkpoint,
        progress=lambda epoch: print(describe(epoch), flush=True),
    )
    write_atomically(options.out, resnets.save(network))
    log = {
        "network": options.network,
        "recipe": options.recipe,
        "epochs": options.epochs,
        "batch": options.batch,
        "lr": options.lr,
        "weight_decay": weight_decay,
        "seed": options.seed,
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
