"""The forms of the documents that --json prints: types of what commands return, and of what they put together themselves."""

from typing import Any, TypedDict

from ..bundle import Calibration, Manifest
from ..bundle.reuse import Reuse
from ..bundle.signing import SignedFiles
from ..bundle.upgrading import Upgraded
from ..cache import CachedBuild
from ..calibrate.asking import Asked
from ..calibrate.benchmark import Benchmark
from ..calibrate.bundle_comparison import BundleComparison
from ..calibrate.html_report.contents import Report
from ..calibrate.measure.energy import ExitEnergies
from ..devices.recording import Energy
from ..devices.watch import Power
from ..export.fusion import Fused
from ..export.networks.history import History
from ..export.networks.places import Place
from ..export.variants.comparison import Shift
from ..fleet.calibration import FleetCalibration
from ..runtime import Snapshot
from ..runtime.audit.figures import FieldAudit
from ..runtime.builds_ahead import Built
from ..runtime.chain import stats
from ..runtime.chain.faults import FaultCounts
from ..runtime.chain.stats import Stats
from ..runtime.diagnosis import Diagnosis
from ..runtime.verification import Verification
from ..sweep.table import TrialRow

__all__ = ["DOCUMENTS"]

# What the runtime only names, since a product need not load it: msgspec looks it up in the module.
vars(stats).update(Power=Power, FaultCounts=FaultCounts, FieldAudit=FieldAudit)


class AttachDocument(TypedDict):
    """What `attach` prints."""

    output: str
    places: list[Place]
    notes: list[str]


class CacheDocument(TypedDict):
    """What `cache list` prints."""

    path: str
    entries: list[CachedBuild]


class CleanedDocument(TypedDict):
    """What `cache clean` prints."""

    removed: int
    bytes: int


class StepToRun(TypedDict):
    """A step of `go`."""

    step: str
    state: str


class StepRow(StepToRun, total=False):
    """A step of `go`; one that ran has its time and what it printed."""

    seconds: float
    result: Any


class GoDocument(TypedDict):
    """What `go` prints."""

    bundle: str
    steps: list[StepRow]
    exit_code: int


class InitDocument(TypedDict):
    """What `init` prints."""

    output: str
    bundle: str
    next: list[str]


class Signer(TypedDict):
    """What a bundle's signatures say."""

    name: str
    release: int
    files: dict[str, dict[str, str]]


class InspectDocument(TypedDict):
    """What `inspect` prints."""

    path: str
    manifest: Manifest
    calibrations: dict[str, Calibration]
    builds: dict[str, list[str]]
    signed: Signer | None
    loads: dict[str, dict[str, dict[str, int]]]


class PackDocument(TypedDict):
    """What `pack` prints."""

    path: str
    bytes: int
    sha256: str
    manifest: Manifest


class MeterRail(TypedDict):
    """A rail of the meter."""

    name: str
    role: str
    covers: str


class PowerHead(TypedDict):
    """The first line of `power`."""

    meter: str
    scope: str
    grade: str
    rails: list[MeterRail]
    fingerprint: dict[str, Any]


class PowerReading(TypedDict):
    """A line of `power` between the first and the last."""

    elapsed_s: float
    power_w: dict[str, float]
    energy_j: float
    problem: str | None
    throttled: list[str]
    temperature_c: float | None


class PowerSum(TypedDict):
    """The last line of `power`."""

    sum: Power


class ProgramSum(TypedDict):
    """The last line of `power -- PROGRAM`."""

    sum: Energy
    exit_code: int | None


class QuantizeDocument(TypedDict):
    """What `quantize` prints."""

    manifest: Manifest
    shifts: list[Shift]


class RunResult(TypedDict):
    """The answer to a sample."""

    label: int
    score: float
    exit: int
    latency_s: float
    logits: list[float] | None
    cut: bool
    late: bool


RunRow = TypedDict("RunRow", {"class": str, "answer": dict[str, Any]}, total=False)
"""What the answer of some networks has beside: the name of the class, or the answer of one that does not classify."""


class RunAnswer(RunResult, RunRow):
    """A row of `run`."""


class RunDocument(TypedDict):
    """What `run --power` prints."""

    results: list[RunAnswer]
    stats: Stats
    fingerprint: dict[str, Any]


class SweepDocument(TypedDict):
    """What `sweep` prints."""

    rows: list[TrialRow]
    table: str
    bundle: str | None
    report: str | None


class WorkerDocument(TypedDict):
    """What `worker` prints."""

    name: str
    address: str


DOCUMENTS: dict[str, tuple[Any, ...]] = {
    "attach": (AttachDocument,),
    "audit": (list[FieldAudit],),
    "bench": (Benchmark,),
    "build": (list[Built],),
    "cache list": (CacheDocument,),
    "cache clean": (CleanedDocument,),
    "calibrate": (Calibration, Asked, FleetCalibration),
    "cascade": (Manifest,),
    "compare": (BundleComparison,),
    "doctor": (Diagnosis,),
    "energy": (ExitEnergies,),
    "export": (Manifest,),
    "fuse": (Fused,),
    "gate": (Manifest,),
    "go": (GoDocument,),
    "init": (InitDocument,),
    "inspect": (InspectDocument,),
    "keep": (Manifest,),
    "pack": (PackDocument,),
    "power": (PowerHead, PowerReading, PowerSum, ProgramSum),
    "prune": (Manifest,),
    "quantize": (QuantizeDocument,),
    "report": (Report,),
    "reuse": (dict[str, Reuse],),
    "run": (list[RunAnswer], RunDocument),
    "sign": (SignedFiles,),
    "sweep": (SweepDocument,),
    "top": (Snapshot,),
    "train": (History,),
    "upgrade": (Upgraded,),
    "verify": (list[Verification],),
    "worker": (WorkerDocument,),
}
"""By command, the types of its documents: several where they depend on its options, or where it prints one a line."""
