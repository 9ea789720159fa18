"""The runtime, which ships in the product: load a bundle, run it, leave early. Needs numpy, msgspec and an engine, no torch."""

from typing import TYPE_CHECKING

from .. import late_names

from ..errors import AuditWarning, EngineWarning, MeterWarning, UncalibratedWarning  # isort: skip

# numpy comes last, with the chain: its BLAS threads spin for a while, during which other imports take twice as long.
from .loading import load, load_static, load_uncalibrated  # isort: skip
from .chain.lazy import Loads  # isort: skip
from .chain.net import Net  # isort: skip
from .chain.results import BatchResult, EveryExit, Provenance, Result, StageProvenance  # isort: skip
from .chain.stats import Stats  # isort: skip

if TYPE_CHECKING:
    from ..cache import CachedBuild, clean_cache, list_cache
    from .audit.figures import FieldAudit, read_audits
    from .audit.keeping import Alarm
    from .audit.options import Audit
    from .builds_ahead import Built, build
    from .chain.faults import FaultCounts
    from .diagnosis import Diagnosis, EngineSeen, MeterSeen, RailSeen, diagnose
    from .golden_check import AnswerCheck, ExitCheck
    from .governor import Governor, Move
    from .metrics.collection import Metrics
    from .metrics.following import follow_metrics
    from .metrics.snapshot import ExitCounts, Histogram, Snapshot, read_snapshot
    from .replies import Reply, StreamStats
    from .smoothing import smooth_labels
    from .streams import Stream
    from .verification import Verification, verify

__all__ = [
    "Alarm",
    "AnswerCheck",
    "Audit",
    "AuditWarning",
    "BatchResult",
    "Built",
    "CachedBuild",
    "Diagnosis",
    "EngineSeen",
    "EngineWarning",
    "EveryExit",
    "ExitCheck",
    "ExitCounts",
    "FaultCounts",
    "FieldAudit",
    "Governor",
    "Histogram",
    "Loads",
    "MeterSeen",
    "MeterWarning",
    "Metrics",
    "Move",
    "Net",
    "Provenance",
    "RailSeen",
    "Reply",
    "Result",
    "Snapshot",
    "StageProvenance",
    "Stats",
    "Stream",
    "StreamStats",
    "UncalibratedWarning",
    "Verification",
    "build",
    "clean_cache",
    "diagnose",
    "follow_metrics",
    "list_cache",
    "load",
    "load_static",
    "load_uncalibrated",
    "read_audits",
    "read_snapshot",
    "smooth_labels",
    "verify",
]


# Few products that run a network audit it, govern it or have streams; fewer diagnose the board, look after the cache or compare
# golden samples.
__getattr__ = late_names(
    __name__,
    dict.fromkeys(("Diagnosis", "EngineSeen", "MeterSeen", "RailSeen", "diagnose"), "diagnosis")
    | dict.fromkeys(("AnswerCheck", "ExitCheck"), "golden_check")
    | dict.fromkeys(("Verification", "verify"), "verification")
    | dict.fromkeys(("Governor", "Move"), "governor")
    | dict.fromkeys(("ExitCounts", "Histogram", "Snapshot", "read_snapshot"), "metrics.snapshot")
    | {"Metrics": "metrics.collection", "follow_metrics": "metrics.following"}
    | dict.fromkeys(("Reply", "StreamStats"), "replies")
    | {"Stream": "streams", "Built": "builds_ahead", "build": "builds_ahead"}
    | {"smooth_labels": "smoothing"}
    | dict.fromkeys(("FieldAudit", "read_audits"), "audit.figures")
    | {"Alarm": "audit.keeping", "Audit": "audit.options", "FaultCounts": "chain.faults"}
    | dict.fromkeys(("CachedBuild", "clean_cache", "list_cache"), ".cache"),
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
