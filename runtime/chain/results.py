"""What a network answers."""

import numpy as np
from msgspec import Struct


class Result(Struct, frozen=True, gc=False):
    """What the network says of one sample.

    Attributes:
        label: index of the class.
        score: how sure the exit is, 0 to 1.
        exit: where the sample left, the index of its name in `Net.exits`; a static network has one exit only, 0.
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


class StageProvenance(Struct, frozen=True):
    """What runs a stage.

    Attributes:
        device: the name of the device.
        runs_on: what really runs it, as the engine reports it.
        built: where its compiled form comes from: `now`, `cache` or `bundle`.
        fallback: why it does not run on the device that was asked for; None where it does.
        half: whether float32 is computed in half precision.
    """

    device: str
    runs_on: str
    built: str
    fallback: str | None = None
    half: bool = False


class Provenance(Struct, frozen=True):
    """What runs each stage of a network and, where `auto` chose the devices, why it chose them."""

    stages: tuple[StageProvenance, ...]
    chosen: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each stage: ("cpu", "cuda:0")."""
        return tuple(stage.device for stage in self.stages)
