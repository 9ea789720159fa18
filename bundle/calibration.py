"""The calibration file: operating points, their promises, and what was measured. Typed, and validated while it is decoded."""

from typing import Annotated

from msgspec import Meta

from .manifest import NEVER, Count, Positive, Record
from .target import Target

CALIBRATION_SCHEMA = 3
"""The version of calibrations that this offramp writes, and the only one that it reads."""

BESIDE = "-early"
"""Suffix of the early-exit point stored next to a recommended static network: `balanced` and `balanced-early`."""

THE_WHOLE = "It is the whole network: against itself nothing is lost."
"""Promise text of the whole network: losses are measured against it, so it loses nothing."""

Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Joules = Annotated[float, Meta(ge=0)]
Threshold = Annotated[float, Meta(ge=0, le=NEVER)]


class Certificate(Record, frozen=True):
    """A promise about inputs that were not measured: that a point's target is kept. `OperatingPoint.promise` says it in words.

    Attributes:
        limits: what is promised, by the names of `Target`.
        confidence: all promises of the calibration are true together with at least this probability over the samples drawn.
        promises: how many there are; each is tested at (1 - confidence) / promises.
        samples: how many it was tested on, which neither chose the thresholds nor laid the path.
        step, steps: which candidate of how many along the path was certified.
    """

    limits: dict[str, float]
    confidence: Share
    promises: Positive
    samples: Positive
    step: Count
    steps: Positive


class OperatingPoint(Record, frozen=True, kw_only=True):
    """One way to run, and what it is predicted to give; all from samples that had no part in choosing it.

    Attributes:
        variant: what runs.
        placement: the device of each stage.
        target: what it was chosen for.
        static: the exit at which a static network ends that runs instead of the chain: no early exit. None for the chain.
        thresholds: one for each exit but the last, exact float32 values; 2.0 means never.
        accuracy: share of right labels; None without labels.
        full_accuracy: that of the whole network of the bundle's first variant; None without labels.
        drop: `full_accuracy - accuracy`; None without labels.
        drop_interval: its paired 95 % interval.
        disagreement: share of the inputs that get another label than the whole network gives them.
        latency_s: mean latency predicted from the exit shares and `exit_latency_s`.
        exit_shares: share of the samples that leave at each exit; they sum to 1.
        late: share predicted to take longer than the target's deadline.
        energy_j: mean energy predicted alike.
        exit_latency_s: measured mean latency of leaving at each exit, in the mix in which this point leaves there.
        met: whether these samples keep the target's limits.
        certificate: what is promised; None where nothing is.
        promise: that, or why nothing is promised, in words.
        rival: the best static network, as an index into the calibration's `statics`: the cheapest that meets the target by enough
            to be proven, else the cheapest that meets it; None if none does.
        pays: True if the target is met and that network is beaten.
        verdict: whether early exit pays, in words.
    """

    variant: str
    placement: tuple[str, ...]
    target: Target
    thresholds: tuple[Threshold, ...]
    accuracy: Share | None
    full_accuracy: Share | None
    drop: float | None
    drop_interval: tuple[float, float] | None
    disagreement: Share
    latency_s: Seconds
    exit_shares: tuple[Share, ...]
    exit_latency_s: tuple[Seconds, ...]
    met: bool
    static: Count | None = None
    late: Share | None = None
    energy_j: Joules | None = None
    certificate: Certificate | None = None
    promise: str = ""
    rival: Count | None = None
    pays: bool = False
    verdict: str = ""

    def __post_init__(self) -> None:
        exits = len(self.exit_shares)
        if not len(self.placement) == len(self.exit_latency_s) == len(self.thresholds) + 1 == exits:
            raise ValueError(
                f"an operating point has {len(self.thresholds)} thresholds, {len(self.placement)} devices and "
                f"{len(self.exit_latency_s)} latencies for {exits} exits"
            )
        if self.static is not None and exits > 1:
            raise ValueError(f"an operating point of a static network has {exits} exits")
        if abs(sum(self.exit_shares) - 1) > 1e-6:
            raise ValueError(f"the exit shares of an operating point add up to {sum(self.exit_shares):.3g}, not 1")

    @property
    def is_promised(self) -> bool:
        """True if a certificate exists, or if the point is the whole network itself, which cannot lose against itself."""
        return self.certificate is not None or self.promise == THE_WHOLE

    @property
    def exits_early(self) -> bool:
        """Whether it runs the chain, in which samples may leave early; else it runs a static network."""
        return self.static is None

    @property
    def engines(self) -> str:
        """What runs: points that say the same can be switched between."""
        what = "the chain" if self.static is None else f"the static network to exit {self.static}"
        return f"{what} of {self.variant} on {', '.join(self.placement)}"


class Latency(Record, frozen=True):
    """Measured latency of leaving at one exit, in seconds.

    Attributes:
        mean_s: over all calls.
        p50_s, p90_s, p99_s: its percentiles.
    """

    mean_s: Seconds
    p50_s: Seconds
    p90_s: Seconds
    p99_s: Seconds


class Chain(Record, frozen=True, kw_only=True):
    """A variant where it was placed, as it was measured.

    Attributes:
        variant: which one.
        placement: the device of each stage.
        exits: latency of leaving at each exit, forced, end to end.
        passing_s: what each exit but the last takes from those that do not leave there: its head, its call, and what the engine
            cannot join across the cut. Without that exit, later ones are faster by it. Empty where stages run on several devices.
        exit_energy_j: mean energy of leaving at each exit, the board's rest included; empty where none was measured.
        accuracy: of each exit alone; empty without labels.
    """

    variant: str
    placement: tuple[str, ...]
    exits: tuple[Latency, ...]
    passing_s: tuple[float, ...]
    exit_energy_j: tuple[Joules, ...] = ()
    accuracy: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        exits = len(self.exits)
        if not exits or len(self.placement) != exits:
            raise ValueError(f"a chain of {exits} exits has {len(self.placement)} devices")
        for name, fits in (("passing_s", exits - 1), ("exit_energy_j", exits), ("accuracy", exits)):
            if len(getattr(self, name)) not in (0, fits):
                raise ValueError(f"a chain of {exits} exits has {len(getattr(self, name))} values of {name}")


class StaticPoint(Record, frozen=True, kw_only=True):
    """The static network that ends at one exit, without the earlier heads; figures are of the same samples as the points'.

    Attributes:
        variant, device: what ran where.
        exit: which exit it ends at.
        accuracy: share of right labels; None without labels.
        drop: against the whole network of the bundle's first variant; None without labels.
        disagreement: share of the inputs that get another label than that network gives them.
        latency_s: mean latency.
        energy_j: its time by the power that the chain drew up to that exit; None where no energy was measured.
    """

    variant: str
    device: str
    exit: Count
    accuracy: Share | None
    drop: float | None
    disagreement: Share
    latency_s: Seconds
    energy_j: Joules | None = None


class Exclusion(Record, frozen=True, kw_only=True):
    """A compressed variant that was barred from the search, because it is slower or much worse than its parent on this device.

    Attributes:
        variant, placement: the variant, and the device of each of its stages.
        parent: the variant it was compared with.
        latency_s, parent_latency_s: median latency to the last exit.
        accuracy, parent_accuracy: share of right labels on the selecting samples, at the exit that loses most beyond the limit;
            at the last exit if none does. None if unknown.
        reason: why it was barred, in words.
    """

    variant: str
    placement: tuple[str, ...]
    parent: str
    latency_s: Seconds
    parent_latency_s: Seconds
    accuracy: Share | None
    parent_accuracy: Share | None
    reason: str


class Tradeoff(Record, frozen=True, kw_only=True):
    """A way to run that no other one beats in accuracy, latency and energy at once. Nothing is promised of it.

    Attributes:
        variant, placement, static, thresholds: as in `OperatingPoint`.
        accuracy: share of right labels; without labels agreement with the whole network.
        latency_s, energy_j: means; `energy_j` is None where no energy was measured.
    """

    variant: str
    placement: tuple[str, ...]
    static: Count | None
    thresholds: tuple[Threshold, ...]
    accuracy: Share
    latency_s: Seconds
    energy_j: Joules | None


class Conditions(Record, frozen=True):
    """The board before and after measuring.

    Attributes:
        clock_hz: the fastest core's clock, before and after; None where it is unknown.
        temperature_c: of the hottest zone, before and after; None where it is unknown.
        throttled: what slowed the board down meanwhile.
    """

    clock_hz: tuple[float | None, float | None]
    temperature_c: tuple[float | None, float | None]
    throttled: tuple[str, ...]


class Calibration(Record, frozen=True, kw_only=True):
    """What calibration measured and found on one device.

    Attributes:
        schema: the version of this form.
        offramp: the version of offramp that wrote it.
        variants: `Variant.digest` by name: of the first variant, whose whole network losses are counted against, and of all that
            were measured.
        fingerprint: the device and software it was measured on; see `devices.fingerprint`.
        conditions: of the board meanwhile.
        confidence, seed: as they were given.
        select_samples, report_samples: how many samples chose the thresholds, and how many gave the figures.
        outside: whether the first came from outside, and are none of the samples that were given.
        meter: what measured energy, and its scope.
        chains, statics: what was measured.
        gates: which of that took no part in the search, and why.
        frontier: what can be had, by rising latency.
        points: by name; the first is what `load` takes. Where a static network is recommended, `<name>-early` is the best
            point with early exit.
        notes: what is worth knowing besides, in words.
    """

    schema: int
    offramp: str
    variants: Annotated[dict[str, str], Meta(min_length=1)]
    fingerprint: dict[str, str]
    conditions: Conditions
    confidence: Share
    seed: int
    select_samples: Positive
    report_samples: Positive
    outside: bool
    meter: str | None
    chains: Annotated[tuple[Chain, ...], Meta(min_length=1)]
    statics: tuple[StaticPoint, ...]
    frontier: tuple[Tradeoff, ...]
    points: Annotated[dict[str, OperatingPoint], Meta(min_length=1)]
    gates: tuple[Exclusion, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, point in self.points.items():
            if point.variant not in self.variants:
                raise ValueError(f"operating point {name} is of variant {point.variant}, which was not measured")
            if point.rival is not None and point.rival >= len(self.statics):
                raise ValueError(f"operating point {name} names static network {point.rival} of {len(self.statics)}")

    @property
    def asked_for(self) -> dict[str, OperatingPoint]:
        """The points that targets were given for, by name, without those that stand beside one of a static network."""
        return {name: point for name, point in self.points.items() if not name.endswith(BESIDE)}

    @property
    def met(self) -> bool:
        """Whether every target is met on the samples that did not choose."""
        return all(point.met for point in self.asked_for.values())

    def took_part(self, static: StaticPoint) -> bool:
        """Return True if a static network took part in the search; its chain was not excluded."""
        excluded = {(exclusion.variant, exclusion.placement) for exclusion in self.gates}
        return any(
            (chain.variant, chain.placement) not in excluded
            and chain.variant == static.variant
            and static.exit < len(chain.placement)
            and chain.placement[static.exit] == static.device
            for chain in self.chains
        )

    @property
    def point(self) -> OperatingPoint:
        """The first point."""
        return next(iter(self.points.values()))

    @property
    def early(self) -> OperatingPoint:
        """The first point with early exit; where none keeps its target, the first point."""
        return next((point for point in self.points.values() if point.static is None), self.point)

    @property
    def verdict(self) -> str:
        """What the first point says of early exit."""
        return self.point.verdict
