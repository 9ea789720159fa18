"""What `place_exits` found."""

import msgspec

from ...units import show_share, show_us

__all__ = ["ExitSet", "PlacedExits", "Rival"]


class ExitSet(msgspec.Struct, frozen=True, kw_only=True):
    """Exits at some of the places, and what they give on the reporting samples.

    Attributes:
        places: the names of the places, shallowest first.
        latency_s: of leaving at each exit, the last one too.
        is_measured: True if these latencies were measured; else they are added up of what stages and heads take.
        area: the area under accuracy over mean latency, from no time to the latency of the whole network, as a share: the mean
            accuracy of all products that may take less time than the whole network, each as long as the others.
        area_interval: where it is with 95 % probability, for other samples of the same kind.
        thresholds: those chosen for the target; None without a target, or if none meet it.
        mean_latency_s, accuracy: what they give on the reporting samples; None without thresholds.

    Example:
        >>> from offramp.sweep import ExitSet
        >>> latency_s = (0.0001, 0.0004)
        >>> exits = ExitSet(places=("2",), latency_s=latency_s, is_measured=True, area=0.7, area_interval=(0.68, 0.72))
        >>> print(f"an exit at {exits.places[0]}: area {exits.area:.0%}")
        an exit at 2: area 70%
    """

    places: tuple[str, ...]
    latency_s: tuple[float, ...]
    is_measured: bool
    area: float
    area_interval: tuple[float, float]
    thresholds: tuple[float, ...] | None = None
    mean_latency_s: float | None = None
    accuracy: float | None = None


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """Another set of exits beside the chosen one.

    Attributes:
        name: how its places came about: `auto`, `equal shares`, `second best`, or `stem alone`.
        exits: the set.
        gain: the area of the chosen set less its own.
        gain_interval: where that is with 95 % probability, on the same samples.

    Example:
        >>> from offramp.sweep import ExitSet, Rival
        >>> latency_s = (0.0001, 0.0004)
        >>> exits = ExitSet(places=("2",), latency_s=latency_s, is_measured=True, area=0.7, area_interval=(0.68, 0.72))
        >>> rival = Rival(name="auto", exits=exits, gain=0.01, gain_interval=(-0.01, 0.03))
        >>> rival.gain_interval[0] > 0  # surely worse than the chosen set?
        False
    """

    name: str
    exits: ExitSet
    gain: float
    gain_interval: tuple[float, float]


class PlacedExits(msgspec.Struct, frozen=True, kw_only=True):
    """The best set of exits, and others beside it; `print` shows a table.

    Attributes:
        bundle: the folder of the bundle with the chosen exits.
        variant: the variant in it that has them and no others.
        chosen: the set that was chosen.
        tuned: the same after tuning, which changes no latency; None if nothing was tuned.
        rivals: the second best by the records; the places nearest to the shares of the work that `attach(at="auto")` takes, and
            to equal shares, as many as were chosen; each place alone.
        random_area: the mean area of all sets of as many exits, which is what drawing one gives.
        random_beaten: the share of those sets that have a smaller area than the chosen one.
        sets: how many sets were tried.
        selecting, reporting: how many samples chose, and how many others gave the figures.
        places: the names of all places.
        static_s: the latency of the static network that ends at each place, and of the whole network.
        passing_s: what an exit at each place takes from samples that do not leave there: its head, its call, and what the engine
            cannot fuse across the cut.
        prediction_error: by how much the latencies of the measured sets had been predicted wrongly, at most, as a fraction.

    Example:
        >>> from offramp.sweep import ExitSet, PlacedExits
        >>> times = {"latency_s": (0.0001, 0.0004), "is_measured": True}
        >>> exits = ExitSet(places=("2",), area=0.7, area_interval=(0.68, 0.72), **times)
        >>> placed = PlacedExits(
        ...     bundle="placing/placed.offramp", variant="fp32", chosen=exits, tuned=None, rivals=(), random_area=0.6,
        ...     random_beaten=0.5, sets=3, selecting=500, reporting=500, places=("2", "4"), static_s=(0.0001, 0.0002, 0.0004),
        ...     passing_s=(0.00002, 0.00002), prediction_error=0.02,
        ... )
        >>> print(placed)
        The best of 3 sets of 2 places, chosen by 500 samples; figures are of 500 others.
        ...
        bundle: placing/placed.offramp, variant fp32
    """

    bundle: str
    variant: str
    chosen: ExitSet
    tuned: ExitSet | None
    rivals: tuple[Rival, ...]
    random_area: float
    random_beaten: float
    sets: int
    selecting: int
    reporting: int
    places: tuple[str, ...]
    static_s: tuple[float, ...]
    passing_s: tuple[float, ...]
    prediction_error: float

    def __str__(self) -> str:
        is_aimed = self.chosen.thresholds is not None
        head = (
            "",
            "area",
            "95 % interval",
            "chosen gains",
            "95 % interval",
            *(("mean us", "accuracy") if is_aimed else ()),
        )
        rows = [(*head, "exits at")]

        def add(name: str, exits: ExitSet, gain: tuple[str, str] = ("", "")) -> None:
            area = f"{exits.area:.2%}", "{:.2%} to {:.2%}".format(*exits.area_interval)
            rows.append((name, *area, *gain, *(_show_point(exits) if is_aimed else ()), ", ".join(exits.places)))

        add("chosen", self.chosen)
        if self.tuned is not None:
            add("chosen, tuned", self.tuned)
        for rival in self.rivals:
            add(rival.name, rival.exits, (f"{rival.gain:+.2%}", "{:+.2%} to {:+.2%}".format(*rival.gain_interval)))
        by_chance = f"{self.random_area:.2%}", "", f"{self.chosen.area - self.random_area:+.2%}"
        rows.append(("drawn at random", *by_chance, *[""] * (len(head) - 3)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        form = "  ".join(f"{{:{width}}}" for width in widths) + "  {}"
        return "\n".join(
            [
                f"The best of {self.sets} sets of {len(self.places)} places, chosen by {self.selecting} samples; figures are of "
                f"{self.reporting} others.",
                *(form.format(*row).rstrip() for row in rows),
                f"The chosen set has a larger area than {show_share(self.random_beaten)} of the sets of as many exits. "
                f"The whole network takes {show_us(self.static_s[-1])}.",
                f"bundle: {self.bundle}, variant {self.variant}",
            ]
        )


def _show_point(exits: ExitSet) -> tuple[str, str]:
    if exits.mean_latency_s is None or exits.accuracy is None:
        return "missed", ""
    return f"{exits.mean_latency_s * 1e6:.0f}", f"{exits.accuracy:.2%}"
