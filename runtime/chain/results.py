"""What a network answers, and what runs it."""

import numpy as np
from msgspec import Struct


class Result(Struct, frozen=True, gc=False):
    """The answer to one sample.

    Attributes:
        label: index of the class; -1 if the network does not classify.
        score: how sure the exit is, 0 to 1.
        exit: the number of the exit where the sample left, counted from 0 in the variant; of a static network its own exit.
        latency_s: time from the call to the result.
        logits: float array (classes,) of that exit; None unless the network was loaded with `logits=True`.
        answer: what that exit gives, arrays without the batch axis by name, if the network does not classify; else None.
        cut: True if the sample would have gone on, but for its deadline.
        late: True if the answer came after its deadline.
        reused: True if this is the answer to an earlier input, given again by a stream; see `Stream`.
        fault: what failed, if another exit or the fallback device answered for it: `stage1.onnx on cuda:0 gave NaN`. Nothing is
            promised of such an answer. Empty if nothing failed; see `on_fault` of `load`.

    Example:
        >>> from offramp.runtime import Result
        >>> Result(label=3, score=0.98, exit=0, latency_s=0.0002).label
        3
    """

    label: int
    score: float
    exit: int
    latency_s: float
    logits: np.ndarray | None = None
    answer: dict[str, np.ndarray] | None = None
    cut: bool = False
    late: bool = False
    reused: bool = False
    fault: str = ""


class BatchResult(Struct, frozen=True):
    """The answers to many samples.

    Attributes:
        label: index of each sample's class, int64 (N,); -1 if the network does not classify.
        score: how sure its exit is, float32 (N,).
        exit: the number of the exit where it left, as in `Result`, int64 (N,).
        latency_s: time of the whole batch.
        logits: those of its exit, float (N, classes); None unless the network was loaded with `logits=True`.
        answer: what its exit gives, by name, if the network does not classify; else None. Arrays are (N, ...); where the exits
            give other shapes, an object array (N,) of arrays.
        fault: as in `Result`, an object array (N,) of str; None if nothing failed.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import load_uncalibrated
        >>> load_uncalibrated("digits.offramp").batch(np.load("test.npz")["x"]).exit.shape
        (200,)
    """

    label: np.ndarray
    score: np.ndarray
    exit: np.ndarray
    latency_s: float
    logits: np.ndarray | None = None
    answer: dict[str, np.ndarray] | None = None
    fault: np.ndarray | None = None


class EveryExit(Struct, frozen=True):
    """The answers of every exit to every sample.

    Attributes:
        label: index of the class, int64 (N, exits); -1 if the network does not classify.
        score: how sure the exit is, float32 (N, exits).
        logits: float (N, exits, classes); None unless the network was loaded with `logits=True`.
        answers: what each exit gives, arrays (N, ...) by name, if the network does not classify; else None.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import load_uncalibrated
        >>> load_uncalibrated("digits.offramp").every_exit(np.load("test.npz")["x"]).label.shape
        (200, 3)
    """

    label: np.ndarray
    score: np.ndarray
    logits: np.ndarray | None = None
    answers: tuple[dict[str, np.ndarray], ...] | None = None

    def parts(self, k: int) -> dict[str, np.ndarray]:
        """Return what exit k gives, arrays (N, ...) by name: its logits as {"logits": ...} if the network classifies.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp", logits=True)
            >>> net.every_exit(np.load("test.npz")["x"]).parts(0)["logits"].shape
            (200, 10)
        """
        if self.answers is not None:
            return self.answers[k]
        return {} if self.logits is None else {"logits": self.logits[:, k]}


class StageProvenance(Struct, frozen=True):
    """What runs a stage.

    Attributes:
        device: the name of the device.
        runs_on: what really runs the stage, as the engine reports it.
        built: where the compiled stage comes from: `now`, `cache` or `bundle`.
        fallback: why the stage does not run on the device that was asked for; None if it does.
        half: True if float32 is computed in half precision.
        load_s: time that it took to compile the stage, or to read its build.
        digest: what the manifest says of its files: equal for stages that compute the same.

    Example:
        >>> from offramp.runtime import load_uncalibrated
        >>> stage = load_uncalibrated("digits.offramp").provenance.stages[0]
        >>> stage.device, stage.built, stage.half
        ('cpu', 'now', False)
    """

    device: str
    runs_on: str
    built: str
    fallback: str | None = None
    half: bool = False
    load_s: float = 0.0
    digest: str = ""


class Provenance(Struct, frozen=True):
    """What runs the stages of a network.

    Attributes:
        stages: what runs each stage.
        chosen: why `auto` chose the devices; None if they were named.
        network: the chain or static network that runs, and its variant, in words.

    Example:
        >>> from offramp.runtime import load_uncalibrated
        >>> provenance = load_uncalibrated("digits.offramp").provenance
        >>> provenance.devices, provenance.network
        (('cpu', 'cpu', 'cpu'), 'the chain of fp32')
    """

    stages: tuple[StageProvenance, ...]
    chosen: str | None = None
    network: str = ""

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each stage: ("cpu", "cuda:0")."""
        return tuple(stage.device for stage in self.stages)
