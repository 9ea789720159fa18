"""What a report holds."""

from msgspec import Struct

from ...bundle import Calibration
from ...bundle.calibration import Chain
from ..benchmark import Benchmark
from .answer_examples import AnswerExamples
from .examples import Group
from .exit_losses import ExitLosses
from .reliability import Reliability

PERCENTILE_COUNT = 201
"""Number of percentiles that describe a distribution of latencies: 0, 0.5, ..., 100."""


class Distribution(Struct, frozen=True):
    """Latencies of one network: their number, their mean, and `PERCENTILE_COUNT` percentiles, in seconds."""

    name: str
    samples: int
    mean_s: float
    percentiles_s: tuple[float, ...]


class Measured(Struct, frozen=True, kw_only=True):
    """What was measured on samples that calibration never saw.

    Attributes:
        samples, data_sha256: how many samples there are, and their digest.
        seed: seed for the order of measurement and the examples.
        point: name of the operating point that was measured; None if none exits early.
        variant, rule: name of the variant that ran, and the rule by which it makes scores.
        thresholds: thresholds of the point; empty if there is no point.
        benchmark: the chain beside static networks; None if no point exits early.
        distributions: latencies of leaving at each exit, of early exit as it runs, and of the whole static network.
        reliability: one entry for each exit.
        examples: groups of samples; empty if no point exits early, or the network does not classify.
        loss: the name of what says how wrong answers are; None if the network classifies.
        losses: one entry for each exit; empty if the network classifies.
        answers: samples and their answers; None if the network classifies, or no point exits early.
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
    loss: str | None = None
    losses: tuple[ExitLosses, ...] = ()
    answers: AnswerExamples | None = None


class Report(Struct, frozen=True, kw_only=True):
    """Everything on the page.

    Attributes:
        bundle, network: their names.
        class_names: one name for each class; None if the bundle names none.
        made, calibrated: when the report was made, and when the calibration's file was last written, in UTC.
        offramp: the version that made the report.
        sha256: digests of the manifest and the calibration, by file name, and of the variants that were measured.
        point: name of the operating point that the report is about.
        elsewhere: how this device differs from the one that was calibrated, in words; empty if it does not.
        calibration: the calibration that the report shows.
        chain: the measured chain of the point; for a static network the chain beside it.
        measured: what the samples gave; None without samples.

    Example:
        >>> from offramp.calibrate import report
        >>> page = report("digits.offramp", output="report.html")
        >>> page.bundle, len(page.chain.exits), page.measured
        ('digits.offramp', 3, None)
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
