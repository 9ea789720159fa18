"""CIFAR-10 for `--train`, `--held`, `--test`: `CIFAR10=FOLDER python ... --test tests/benchmarks/cifar10_samples.py:test`.

FOLDER is one as `samples/cifar10/cifar10.py` takes it. `held` are the images that the stored weights never saw in training, as
`samples/cifar10/train.py` holds them back; `train` are some of those they saw.
"""

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "samples" / "cifar10"))
from cifar10 import read_images

TRAIN = 2000


def folder() -> Path:
    return Path(os.environ["CIFAR10"])


def rows() -> np.ndarray:
    with np.load(folder() / "cifar10_train.npz") as file:
        return np.random.RandomState(0).permutation(len(file["label"]))


def train() -> tuple[np.ndarray, np.ndarray]:
    start = len(rows()) // 10
    return read_images(folder() / "cifar10_train.npz", rows()[start : start + TRAIN])


def held() -> tuple[np.ndarray, np.ndarray]:
    return read_images(folder() / "cifar10_train.npz", rows()[: len(rows()) // 10])


def test() -> tuple[np.ndarray, np.ndarray]:
    return read_images(folder() / "cifar10_test.npz")
