"""What a report holds."""

from msgspec import Struct

from ...bundle import Calibration
from ...bundle.calibration import Chain
from ..benchmark import Benchmark
from .examples import Group
from .reliability import Reliability

LATENCY_PERCENTILES = 201
"""A distribution of latencies is kept as its percentiles from 0 to 100 in this many equal steps, both ends included."""


class Distribution(Struct, frozen=True):
    """Latencies of one contender: how many were measured, their mean, and `LATENCY_PERCENTILES` of them, in seconds."""

    name: str
    samples: int
    mean_s: float
    percentiles_s: tuple[float, ...]


class Measured(Struct, frozen=True, kw_only=True):
    """What samples say that calibration never saw.

    Attributes:
        samples, data_sha256: how many there are, and the digest of them.
        seed: drew the order of measurement and the examples.
        point: the name of the operating point that was measured; None where none exits early.
        variant, rule: what ran, and how its scores are made.
        thresholds: of the point; empty where there is none.
        benchmark: the chain beside static networks; None where no point exits early.
        distributions: of latency: leaving at each exit, early exit as it runs, the whole static network.
        reliability: of each exit.
        examples: where the samples are images.
    """

    samples: int
    data_sha256: str
    seed: int
    point: str | None
    variant: str
    rule: str
    thresholds: tuple[float, ...]
    benchmark: Benchmark | None
    distributions: tuple[Distribution, ...]
    reliability: tuple[Reliability, ...]
    examples: tuple[Group, ...]


class Report(Struct, frozen=True, kw_only=True):
    """All that the page says.

    Attributes:
        bundle, network: their names.
        class_names: one per class, where there are some.
        made, calibrated: when the report was made, and when the calibration's file was last written, in UTC.
        offramp: the version that made the report.
        sha256: of the manifest and the calibration, by the files' names, and the digests of the variants that were measured.
        point: the name of the operating point that the report is about.
        elsewhere: what differs between this device and the one of the calibration, in words; empty where nothing does.
        calibration: what it says.
        chain: the chain of the point, or, where that is a static network, the one beside it.
        measured: what samples say; None where none were given.
    """

    bundle: str
    network: str
    class_names: tuple[str, ...] | None
    made: str
    calibrated: str
    offramp: str
    sha256: dict[str, str]
    point: str
    elsewhere: str
    calibration: Calibration
    chain: Chain
    measured: Measured | None
