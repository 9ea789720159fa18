"""What a network answers."""

import numpy as np
from msgspec import Struct


class Result(Struct, frozen=True, gc=False):
    """What the network says of one sample.

    Attributes:
        label: index of the class.
        score: how sure the exit is, 0 to 1.
        exit: where the sample left, from 0.
        latency_s: time from the call to the result.
        logits: float array (classes,) of that exit, if the network was loaded with `logits=True`.
    """

    label: int
    score: float
    exit: int
    latency_s: float
    logits: np.ndarray | None = None


class BatchResult(Struct, frozen=True):
    """What the network says of many samples: `label` int64 (N,), `score` float32 (N,), `exit` int64 (N,).

    `latency_s` is the time of the whole batch. `logits` as in `Result`, (N, classes).
    """

    label: np.ndarray
    score: np.ndarray
    exit: np.ndarray
    latency_s: float
    logits: np.ndarray | None = None


class EveryExit(Struct, frozen=True):
    """What every exit says of every sample: `label` int64 (N, exits), `score` float32 (N, exits), `logits` (N, exits, C)."""

    label: np.ndarray
    score: np.ndarray
    logits: np.ndarray | None = None
