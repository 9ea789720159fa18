"""A calibration: operating points, measurements and promises as types, which are validated while they are decoded."""

from typing import Annotated

from msgspec import Meta
from msgspec.structs import force_setattr

from .findings import Exclusion, Spread, WorstPart
from .manifest import NEVER
from .record import MOST_NAMED, Count, Positive, Record, Seconds, Share, Text, Texts
from .reuse import Reuse
from .target import Target

__all__ = [
    "CALIBRATION_SCHEMA",
    "EARLY_SUFFIX",
    "OLDEST_CALIBRATION_SCHEMA",
    "WHOLE_NETWORK_PROMISE",
    "Calibration",
    "Certificate",
    "Chain",
    "Conditions",
    "Exclusion",
    "Latency",
    "OperatingPoint",
    "StaticPoint",
    "Tradeoff",
]

CALIBRATION_SCHEMA, OLDEST_CALIBRATION_SCHEMA = 4, 3
"""The version of calibrations that this offramp writes, and the oldest that it reads."""

EARLY_SUFFIX = "-early"
"""Suffix of the early-exit point stored next to a recommended static network: `balanced` and `balanced-early`."""

WHOLE_NETWORK_PROMISE = "It is the whole network: against itself nothing is lost."
"""Promise text of the whole network, against which losses are counted. Calibrations hold it and it is compared with: keep it."""

MOST_EXITS_OF_POINTS = 10_000
Joules = Annotated[float, Meta(ge=0)]
Noise = Annotated[float, Meta(ge=0)]
Threshold = Annotated[float, Meta(ge=0, le=NEVER)]


class Certificate(Record, frozen=True):
    """A promise that a point meets its target on inputs that were not measured. `OperatingPoint.promise` says it in words.

    Attributes:
        limits: the promised limits, by their names in `Target`.
        confidence: all promises of the calibration are true together with at least this probability over the samples drawn.
        promises: the number of promises in the calibration. Each is tested at an equal part of the calibration's chance of error.
        samples: the number of samples it was tested on. They chose neither the thresholds nor the path of candidates.
        step, steps: the index of the certified candidate, and how many candidates the path has.
        machine_noise: relative standard error of the machine's speed from one measurement to the next. Costs that are limited
            were taken to be twice this share higher than measured; 0 if no cost is limited.
        every_s: the pace at which limited costs were measured; None if calls were made back to back, or no cost is limited.
        question: how many questions about this network the samples were asked up to this one. A first one has 80 % of the chance
            of error 1 - confidence, the k-th has 20 % / (k (k - 1)) of it.
        independent: for how many independent samples they counted, if some are copies of others or resemble their neighbours;
            None if all count. With groups, how many groups they counted for.
        labels: how many of the samples' labels were known; None if all were, or none was needed.
        groups: of how many groups the samples are, over which it holds: each counts alike. None if each sample is one.
        parts: in how many classes or groups each limit of losses holds; None if it holds over all samples.

    Example:
        >>> from offramp.bundle import Certificate
        >>> certificate = Certificate({"max_drop": 0.01}, confidence=0.9, promises=1, samples=1600, step=3, steps=240)
        >>> certificate.limits
        {'max_drop': 0.01}
    """

    limits: Annotated[dict[Text, float], Meta(max_length=MOST_NAMED)]
    confidence: Share
    promises: Positive
    samples: Positive
    step: Count
    steps: Positive
    machine_noise: Noise = 0.0
    every_s: Seconds | None = None
    question: Positive = 1
    independent: Positive | None = None
    labels: Count | None = None
    groups: Positive | None = None
    parts: Positive | None = None


class OperatingPoint(Record, frozen=True, kw_only=True):
    """A variant, its placement, its thresholds, and what they cost and lose by the reporting samples.

    Attributes:
        name: its name in the calibration, which sets it.
        variant, placement: the variant that runs, or a chain across two, such as `int8:0+fp32` (see `bundle.across`), and the
            device of each stage.
        target: the target that it was chosen for.
        static: the exit at which a static network ends that runs without early exit; None if the chain runs.
        thresholds: one for each exit but the last, exact float32 values; 2.0 means never.
        accuracy, full_accuracy: share of right labels, and the reference's (the first variant's whole network); None if unknown.
        full_accuracy_interval: if some labels are unknown, what it lies between; `accuracy` and `full_accuracy` are then None.
        drop, drop_interval: `full_accuracy - accuracy`, also if only these are unknown, and its paired 95 % interval; or None.
        choice_bias: by how much the drop (without labels the disagreement) looked too small, because the samples that report it
            also chose the step along the path. `accuracy`, `drop`, its interval and `disagreement` are corrected by it.
        disagreement: share of the inputs with another label than the reference's; or how far answers, or else losses, are apart.
        own_disagreement: share of the inputs with another label than the chain's own last exit gives; None if that is unknown.
        score_edges, score_shares: of the scores of the first exit that is taken: edges between bins, chosen by the selecting
            samples, and the share of samples in each bin, an edge belonging to the bin above it. Empty if unknown.
        latency_s: mean latency, predicted from the exit shares and `exit_latency_s`.
        exit_shares: share of the samples that leave at each exit; they sum to 1.
        late: share predicted to take longer than the target's deadline.
        energy_j: mean energy, predicted from the exit shares.
        exit_latency_s, joined: mean latency of leaving at each exit, in this point's mix; True if measured with joined stages.
        met: whether the reporting samples meet the target's limits.
        certificate, promise: the promise, None if nothing is promised; and the promise in words, or why there is none.
        rival: index in `statics` of the best static network: the cheapest to promise the target, else to meet it. None if none.
        pays: whether the target is met at surely less cost than by the best static network, by the least gain that was asked for;
            or at a cost that is not surely higher, if this point is promised and that network is not.
        gain: the share of the best static network's mean cost that this chain saves: 0.2 is 20 % less. With the goal `accuracy`
            the difference of the accuracies, if those surely differ. None if no static network meets the target.
        gain_interval: its 95 % interval: of the samples, and of the machine's noise.
        verdict: `pays` in words.
        reuse: when a stream gives its last answer again; None if no rule was made.
        worst: the classes or groups that lose most, if the target has `by`.
        spread: how long it takes on the boards of a fleet, if its thresholds were chosen for all of them.

    Example:
        >>> from offramp.bundle import open_bundle, read_calibration
        >>> calibration = read_calibration(open_bundle("digits.offramp").calibrations()[0])
        >>> point = calibration.early
        >>> len(point.exit_shares) == len(point.placement) == len(point.thresholds) + 1
        True
    """

    variant: Text
    placement: Texts
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
    choice_bias: float = 0.0
    full_accuracy_interval: tuple[Share, Share] | None = None
    own_disagreement: Share | None = None
    score_edges: tuple[Share, ...] = ()
    score_shares: tuple[Share, ...] = ()
    static: Count | None = None
    late: Share | None = None
    energy_j: Joules | None = None
    certificate: Certificate | None = None
    promise: Text = ""
    rival: Count | None = None
    pays: bool = False
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    verdict: Text = ""
    reuse: Reuse | None = None
    worst: tuple[WorstPart, ...] = ()
    spread: Spread | None = None
    joined: bool = False
    name: Text = ""

    def __post_init__(self) -> None:
        exits = len(self.exit_shares)
        if not len(self.placement) == len(self.exit_latency_s) == len(self.thresholds) + 1 == exits:
            raise ValueError(
                f"an operating point has {len(self.thresholds)} thresholds, {len(self.placement)} devices and "
                f"{len(self.exit_latency_s)} latencies for {exits} exits"
            )
        if self.score_shares and len(self.score_shares) != len(self.score_edges) + 1:
            raise ValueError(f"{len(self.score_edges)} edges make no {len(self.score_shares)} bins of scores")
        if self.static is not None and exits > 1:
            raise ValueError(f"an operating point of a static network has {exits} exits")
        if abs(sum(self.exit_shares) - 1) > 1e-6:
            raise ValueError(f"the exit shares of an operating point add up to {sum(self.exit_shares):.3g}, not 1")

    @property
    def is_promised(self) -> bool:
        """True if a certificate exists, or if the point is the whole network itself, which cannot lose against itself."""
        return self.certificate is not None or self.promise == WHOLE_NETWORK_PROMISE

    @property
    def exits_early(self) -> bool:
        """True if the chain runs, in which samples may leave early; false if a static network runs."""
        return self.static is None

    @property
    def engines(self) -> str:
        """The chain or static network that runs, in words. A loaded network can switch between points of the same engines."""
        network = "the chain" if self.exits_early else f"the static network to exit {self.static}"
        places = self.placement if len({*self.placement}) > 1 else self.placement[:1]
        return f"{network} of {self.variant} on {', '.join(places)}"


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
    """The measurements of a variant where it was placed.

    Attributes:
        variant: the variant's name.
        placement: the device of each stage.
        exits: latency of leaving at each exit, forced, end to end.
        passing_s: the time that each exit but the last costs samples that do not leave there: its head, its call, and operators
            that the engine cannot fuse across the cut. Without that exit, later ones are faster by so much. Empty if stages run
            on several devices.
        exit_energy_j: mean energy of leaving at each exit, the rest of the board included; empty if no energy was measured.
        accuracy: accuracy of each exit alone; empty without labels.
        noise: relative standard error of its mean latency beside the reference, by parts of the measurement; 0 if unknown.
    """

    variant: Text
    placement: Texts
    exits: tuple[Latency, ...]
    passing_s: tuple[float, ...]
    exit_energy_j: tuple[Joules, ...] = ()
    accuracy: tuple[Share, ...] = ()
    noise: Noise = 0.0

    def __post_init__(self) -> None:
        exits = len(self.exits)
        if not exits or len(self.placement) != exits:
            raise ValueError(f"a chain of {exits} exits has {len(self.placement)} devices")
        for name, fits in (("passing_s", exits - 1), ("exit_energy_j", exits), ("accuracy", exits)):
            if len(getattr(self, name)) not in (0, fits):
                raise ValueError(f"a chain of {exits} exits has {len(getattr(self, name))} values of {name}")


class StaticPoint(Record, frozen=True, kw_only=True):
    """The measurements of a static network, by the same samples as the points'.

    Attributes:
        variant, device, exit: the variant's name, the device that it ran on, and the exit that it ends at.
        accuracy, drop: share of right labels, and the reference's share minus that; None without labels.
        disagreement: share of the inputs with another label than the reference's; or how far answers, or else losses, are apart.
        latency_s: mean latency.
        energy_j: its time multiplied by the power that the chain drew up to that exit; None if no energy was measured.
        noise: relative standard error of its mean latency, as of a `Chain`.
    """

    variant: Text
    device: Text
    exit: Count
    accuracy: Share | None
    drop: float | None
    disagreement: Share
    latency_s: Seconds
    energy_j: Joules | None = None
    noise: Noise = 0.0


class Tradeoff(Record, frozen=True, kw_only=True):
    """A point of the frontier: no other one is better in accuracy, latency and energy at once. Nothing is promised of it.

    Attributes:
        variant, placement, static, thresholds: as in `OperatingPoint`.
        accuracy: share of right labels, the whole network's where one is unknown; without labels, share that agrees with it.
        latency_s, energy_j: means; `energy_j` is None if no energy was measured.
    """

    variant: Text
    placement: Texts
    static: Count | None
    thresholds: tuple[Threshold, ...]
    accuracy: Share
    latency_s: Seconds
    energy_j: Joules | None


class Conditions(Record, frozen=True):
    """The board before and after measuring, and how fast it was.

    Attributes:
        clock_hz, temperature_c: of the fastest core and of the hottest zone, before and after; None if unknown.
        throttled: the causes that slowed the board down during the measurement.
        reference_s, reference_device: mean latency of the reference while the points were measured, None if unknown; its device.
    """

    clock_hz: tuple[float | None, float | None]
    temperature_c: tuple[float | None, float | None]
    throttled: Texts
    reference_s: Seconds | None = None
    reference_device: Text = ""


class Calibration(Record, frozen=True, kw_only=True):
    """The measurements and operating points of one device.

    Attributes:
        schema, offramp: the version of this form, and of the offramp that wrote it.
        variants: `Variant.digest` of each variant, by name: the reference's first, then those that were measured.
        fingerprint: the device and software of the measurement; see `devices.fingerprint`.
        conditions: the board's state during the measurement.
        confidence, least_gain, seed: as they were given.
        select_samples, report_samples: how many samples chose the thresholds, and how many gave the figures.
        outside: whether the selecting samples were given apart, so that all others gave the figures.
        labels: if some labels were unknown, how many were known, and how many could matter: where some network differs.
        groups: of how many groups the samples are that gave the figures, which are means over groups; None without groups.
        meter: the meter that measured energy, and its scope; None without one.
        every_s: the pace of the calls that were measured, from start to start; None if they were made back to back.
        chains, statics: the measurements.
        gates: the variants that were excluded from the search, and why.
        frontier: the best trade-offs, by rising latency.
        points: by name; `load` takes the first. If a static network is recommended, `<name>-early` is the best with early exit.
        notes: other things worth knowing, in words.

    Example:
        >>> from offramp.bundle import open_bundle, read_calibration
        >>> calibration = read_calibration(open_bundle("digits.offramp").calibrations()[0])
        >>> calibration.schema, calibration.point is next(iter(calibration.points.values()))
        (4, True)
    """

    schema: int
    offramp: Text
    variants: Annotated[dict[Text, Text], Meta(min_length=1, max_length=MOST_NAMED)]
    fingerprint: Annotated[dict[Text, Text], Meta(max_length=MOST_NAMED)]
    conditions: Conditions
    confidence: Share
    seed: int
    select_samples: Positive
    report_samples: Positive
    outside: bool
    meter: Text | None
    chains: Annotated[tuple[Chain, ...], Meta(min_length=1)]
    statics: tuple[StaticPoint, ...]
    frontier: tuple[Tradeoff, ...]
    points: Annotated[dict[Text, OperatingPoint], Meta(min_length=1, max_length=MOST_NAMED)]
    every_s: Seconds | None = None
    gates: tuple[Exclusion, ...] = ()
    labels: tuple[Count, Count] | None = None
    least_gain: Share = 0.0
    groups: Positive | None = None
    notes: Texts = ()

    def __post_init__(self) -> None:
        if sum(len(point.exit_shares) for point in self.points.values()) > MOST_EXITS_OF_POINTS:
            raise ValueError(f"its points have more than {MOST_EXITS_OF_POINTS} exits together")
        for name, point in self.points.items():
            force_setattr(point, "name", name)
            if point.variant not in self.variants:
                raise ValueError(f"operating point {name} is of variant {point.variant}, which was not measured")
            if point.rival is not None and point.rival >= len(self.statics):
                raise ValueError(f"operating point {name} names static network {point.rival} of {len(self.statics)}")

    @property
    def asked_for(self) -> dict[str, OperatingPoint]:
        """The points that targets were given for, by name: all but the `-early` ones next to a static network."""
        return {name: point for name, point in self.points.items() if not name.endswith(EARLY_SUFFIX)}

    @property
    def met(self) -> bool:
        """Whether every target is met on the reporting samples."""
        return all(point.met for point in self.asked_for.values())

    @property
    def is_promised(self) -> bool:
        """Whether every target is promised."""
        return all(point.is_promised for point in self.asked_for.values())

    def took_part(self, static: StaticPoint) -> bool:
        """Return True if a static network took part in the search; False if its variant was excluded."""
        excluded = {(exclusion.variant, exclusion.placement) for exclusion in self.gates}
        placements = [chain.placement for chain in self.chains if chain.variant == static.variant]
        return any(
            (static.variant, devices) not in excluded
            and static.exit < len(devices)
            and devices[static.exit] == static.device
            for devices in placements
        )

    @property
    def point(self) -> OperatingPoint:
        """The first point."""
        return next(iter(self.points.values()))

    @property
    def early(self) -> OperatingPoint:
        """The first point with early exit; the first point if no point has it."""
        return next((point for point in self.points.values() if point.exits_early), self.point)

    @property
    def verdict(self) -> str:
        """The first point's verdict on early exit."""
        return self.point.verdict
