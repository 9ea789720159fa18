"""What is to be loaded, and how: what `load`, `load_static`, `verify` and `build` hand on to each other."""

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Literal, get_args

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from ..bundle import Bundle, Exit, Stage, Variant
from ..bundle.across import Across, Source
from ..errors import MissingError, UsageError
from ..progress import Progress

if TYPE_CHECKING:
    from ..devices.meter import Meter

__all__ = ["LoadOptions", "NetworkParts", "OnFault", "chain_parts", "static_parts", "uncut_parts"]

OnFault = Literal["raise", "last_exit", "fallback"]
"""What a call does if a stage fails."""

MOST_THREADS = 512
"""Each stage starts so many at most. More than a processor has never help."""


class LoadOptions(Struct, frozen=True):
    """How stages are loaded; each field means what it means for `load`.

    Attributes:
        threads: threads that an engine may use within a stage.
        logits: True if results carry the logits of the exit taken.
        fallback: the device that takes a stage which another device cannot run.
        meter: what watches the board's power.
        progress: called with what is being done, how much is done, and how much there is.
        is_for_use: True if a network made of builds that came with the bundle must give the golden answers, and if a policy
            shall remember the bundle's release; False if it is only looked at.
        lazy: the number of the first stage that is loaded when it is used, True for 1; 0 if none is.
        release_after_s: a time without use after which such a stage is let go; None keeps it.
        on_fault: what happens when a stage fails: `raise`, `last_exit` or `fallback`.
        stage_limit_s: how long a run of a stage may take; None has no limit.
        uncut: False if stages run one by one on each engine, as a server offers them.
        joins: thresholds for which stages are joined, as for operating points, in a network that has none.

    Raises:
        UsageError: `threads` is no whole number from 1 to 512, `lazy` none of a stage, `release_after_s` or `stage_limit_s` no
            time, or `on_fault` cannot be.
    """

    threads: int = 1
    logits: bool = False
    fallback: str | None = None
    meter: "str | Meter | None" = None
    progress: Progress | None = None
    is_for_use: bool = True
    lazy: int = 0
    release_after_s: float | None = None
    on_fault: OnFault = "raise"
    stage_limit_s: float | None = None
    uncut: bool = True
    joins: Sequence[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.threads, Integral) or not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"threads is a whole number from 1 to {MOST_THREADS}, not {self.threads!r:.30}.")
        if not isinstance(self.lazy, Integral) or self.lazy < 0:
            raise UsageError(f"lazy is the number of a stage, True or False, not {self.lazy!r:.30}.")
        for name in ("release_after_s", "stage_limit_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Real) or not 0 < value <= TIMEOUT_MAX:
                raise UsageError(f"{name} is a number of seconds above 0, at most {TIMEOUT_MAX:g}, not {value!r:.30}.")
            force_setattr(self, name, float(value))  # threads wait for no float of NumPy
        if self.release_after_s is not None and not self.lazy:
            raise UsageError("release_after_s is for stages that are loaded when they are used: give lazy=, too.")
        if self.on_fault not in get_args(OnFault):
            raise UsageError(f"on_fault is 'raise', 'last_exit' or 'fallback', not {self.on_fault!r:.30}.")
        if self.on_fault == "fallback" and self.fallback is None:
            raise UsageError(
                "on_fault='fallback' goes over to the device that fallback= names: give fallback='cpu', say."
            )

    @property
    def is_guarded(self) -> bool:
        """True if the network's stages are watched for faults."""
        return self.on_fault != "raise" or self.stage_limit_s is not None


class NetworkParts(Struct, frozen=True):
    """The stages and exits that make one network: a variant's chain, or the static network to one of its exits.

    With `uncut` the file of every stage is the whole network, for an engine that stops at each exit.
    """

    bundle: Bundle
    variant: Variant
    stages: tuple[Stage, ...]
    exits: tuple[Exit, ...]
    first_exit: int = 0
    uncut: bool = False

    def __str__(self) -> str:
        is_chain = len(self.exits) == len(self.variant.exits)
        return f"{'the chain' if is_chain else f'the static network to exit {self.first_exit}'} of {self.variant.name}"

    def source(self, k: int) -> Source:
        """Return the variant that holds stage k's file, and stage and exit under the names that the file has.

        Stages that share a file share its names, which are those of the first of them.
        """
        if isinstance(self.variant, Across):
            return self.variant.sources[k]
        owner = k if self.uncut else [stage.file for stage in self.stages].index(self.stages[k].file)
        return Source(self.variant, self.stages[owner], self.exits[owner])

    def read(self, path: Path) -> bytes:
        """Return the content of a file; see `Bundle.read`."""
        return self.bundle.read(self.variant, self._name(path))

    def copy(self, path: Path, folder: Path) -> Path:
        """Copy a file into a folder; see `Bundle.copy`."""
        return self.bundle.copy(self.variant, self._name(path), folder / path.name)

    def check_builds(self, device: str) -> None:
        """Check that a device which builds stages ahead may have their files: what `load(read=)` makes of them is on no disk.

        Raises:
            MissingError: there is such a function.
        """
        if self.bundle.hook is not None:
            raise MissingError(
                f"{device} takes stages as files and builds, and what read= makes of {self.bundle.path} is kept in memory alone. "
                "Take cpu.",
                path=self.bundle.path,
            )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.bundle.path / self.variant.folder).as_posix()


def chain_parts(bundle: Bundle, variant: Variant) -> NetworkParts:
    """Return the parts of a variant's chain: a stage for each exit."""
    return NetworkParts(bundle, variant, variant.stages, variant.exits)


def uncut_parts(parts: NetworkParts) -> NetworkParts:
    """Return a variant's chain for an engine that runs it uncut: no tensor crosses from stage to stage."""
    variant, inputs = parts.variant, parts.bundle.manifest.inputs
    stages = [replace(stage, file=variant.whole, inputs=inputs, outputs=(), guarded=None) for stage in parts.stages]
    return replace(parts, stages=tuple(stages), uncut=True)


def static_parts(bundle: Bundle, variant: Variant, exit_: int) -> NetworkParts:
    """Return the parts of the static network that ends at an exit, counted from 0: one stage and one exit."""
    if isinstance(variant, Across):
        variant, exit_ = variant.find_exit(exit_)
    end = variant.exits[exit_]
    stage = Stage(file=end.static, inputs=bundle.manifest.inputs, outputs=(), macs=end.macs)
    return NetworkParts(bundle, variant, (stage,), (end,), exit_)
