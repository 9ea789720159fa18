"""Measure every configuration: a variant where it is placed, as a chain and as the static networks that end at its exits.

Each configuration is loaded, recorded and measured, and let go before the next. Configurations are measured minutes apart and the
machine's speed drifts, so the reference network runs beside each. Latencies of different configurations are scaled to one latency
of the reference (`Configuration.drift`), if the reference runs on one of their devices.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Variant
from ...runtime import EveryExit, Net
from ...runtime.chain.samples import Samples
from ..labels import check_asked_labels, check_labels
from ..requests import Request
from .energy import ExitEnergies, measure_energy, model_energy, stated_power
from .latency import Turn, force_exits, run_alone
from .link import link_bytes, read_link_price
from .resume import Part, Work
from .session import TIMED_SAMPLES, LoadedConfiguration, Session
from .tables import Costs

__all__ = ["Answers", "Configuration", "Measurements", "Reference", "check_measured", "measure_all", "record_all"]


class Answers(Struct, frozen=True):
    """Answers to some samples: of a chain's exits, and of the static network that ends at each.

    An engine may compute a static network otherwise than the stages, so that its labels differ. One that gives the same to some
    hundred samples is taken to do so to all, until a promise is made of it; see `record_answers`. Never so the reference.
    """

    chain: EveryExit
    statics: tuple[EveryExit, ...]

    @property
    def labels(self) -> list[np.ndarray]:
        """The labels that the chain's exits give, (N, exits), and each static network, (N, 1)."""
        return [self.chain.label, *(static.label for static in self.statics)]


class Configuration(Struct, frozen=True, kw_only=True, eq=False):
    """A variant where it is placed, as it was measured. Two configurations are equal only if they are the same object.

    Attributes:
        variant, placement: the variant, and the device of each stage.
        answers, outside_answers: to the given samples, and to those from outside if there are any.
        chain: costs of leaving at each exit of the chain.
        statics: costs of the static network that ends at each exit; empty for a chain across two variants.
        reference_s: median latency of the reference, measured at the same time.
        drifts_with_reference: True if the reference runs on one of its devices, so that it shows how that device drifts.
    """

    variant: Variant
    placement: tuple[str, ...]
    answers: Answers
    outside_answers: Answers | None
    chain: Costs
    statics: tuple[Costs, ...]
    reference_s: float
    drifts_with_reference: bool

    def __str__(self) -> str:
        return f"{self.variant.name} on {', '.join(dict.fromkeys(self.placement))}"

    @property
    def is_on_one_device(self) -> bool:
        """True if all stages run on one device."""
        return len(set(self.placement)) == 1

    def drift(self, reference_s: float) -> float:
        """Return by what factor its latencies change when the reference takes `reference_s`; 1 if it does not show that."""
        return reference_s / self.reference_s if self.drifts_with_reference else 1.0

    @property
    def passing_s(self) -> tuple[float, ...]:
        """The time that each exit but the last takes from samples that do not leave there; see `bundle.calibration.Chain`."""
        if not self.is_on_one_device or not self.statics:
            return ()
        extra = self.chain.latency_s - np.array([static.latency_s[0] for static in self.statics])
        return tuple(np.diff(extra).tolist())


class Reference(Struct, frozen=True, kw_only=True):
    """The whole network of the first variant, which losses are counted against.

    Attributes:
        device: where it runs.
        answers, outside_answers: to the given samples, and to those from outside if there are any.
        configuration: the configuration whose last static network it is; None if none was measured where it runs.
        latency_s: its median latency while the last configuration was measured.
    """

    device: str
    answers: EveryExit
    outside_answers: EveryExit | None
    configuration: Configuration | None
    latency_s: float

    @property
    def labels(self) -> np.ndarray:
        """Its labels of the given samples, (N,)."""
        return self.answers.label[:, 0]


class Measurements(Struct, frozen=True):
    """All configurations, and the reference."""

    configurations: tuple[Configuration, ...]
    reference: Reference


def measure_all(session: Session) -> Measurements:
    """Record and measure every configuration that was asked for, and the reference.

    Raises:
        DataError: the reference is no better than chance on the labels.
        MeasurementError: the meter failed; see `measure_runs`.
    """
    request = session.request
    read_link_price(request.targets.values())  # before anything takes time
    found: list[Configuration] = []
    for loaded in session.open_each():
        session.tell_whole(len(found))
        found.append(measure_configuration(session, loaded))
    session.tell_whole(len(found))
    configurations = tuple(found)
    measured = Measurements(configurations, _describe_reference(session, configurations))
    check_measured(measured, request)
    return measured


def check_measured(measured: Measurements, request: Request) -> None:
    """Refuse labels that the answers match no better than by chance.

    Raises:
        DataError: they do.
    """
    y, classes, reference = request.samples.y, request.bundle.manifest.classes, measured.reference
    if request.samples.has_unknown and isinstance(y, np.ndarray):
        said = [
            reference.labels[:, None],
            *(label for each in measured.configurations for label in each.answers.labels),
        ]
        check_asked_labels(y, np.hstack(said), classes)
    elif isinstance(y, np.ndarray):
        check_labels(y, reference.labels, classes)


def record_all(session: Session) -> tuple[list[tuple[LoadedConfiguration, Answers]], EveryExit]:
    """Record what every configuration that was asked for and the reference answer to the given samples; measure nothing.

    A calibration of the same samples in the same places goes on from there.
    """
    request, reference = session.request, None
    recorded: list[tuple[LoadedConfiguration, Answers]] = []
    for loaded in session.open_each():
        session.tell_whole(len(recorded))
        recorded.append((loaded, _record(session, loaded, request.samples.x, "given")))
        if reference is None and _ends_as_reference(session, loaded.variant, loaded.placement):
            reference = recorded[-1][1].statics[-1]
    session.tell_whole(len(session.placed) + 1)
    return recorded, reference or session.record(session.reference, request.samples.x, _reference_part(session))


def measure_configuration(
    session: Session, loaded: LoadedConfiguration, *, recorded: tuple[Answers, Answers | None] | None = None
) -> Configuration:
    """Record the answers to all samples, and measure the costs of leaving at each exit, all exits in equal shares.

    `recorded` are the answers to the given samples and to those from outside, if they are known.
    """
    request, exits = session.request, len(loaded.net.exits)
    answers, outside = _record_all(session, loaded) if recorded is None else recorded
    turns: dict[Net, Turn] = {
        loaded.net: force_exits(loaded.net, (1 / exits,) * exits, rng=request.rng, pace=request.pace)
    }
    turns |= {static: run_alone(static, pace=request.pace) for static in loaded.statics}
    costs, reference_s = session.measure_turns(turns, seconds=request.measure_s / 2)
    chain = costs[loaded.net]
    if request.meter is not None:
        energies = _measure_energy(session, loaded, chain)
        chain = chain.with_energies(energies)
    price = read_link_price(request.targets.values())
    return Configuration(
        variant=loaded.variant,
        placement=loaded.placement,
        answers=answers,
        outside_answers=outside,
        chain=chain.with_link(price * link_bytes(loaded.net, request.samples.x)),
        statics=tuple(
            costs[static].with_power_of(chain, slice(k, k + 1)).with_link(price * link_bytes(static, request.samples.x))
            for k, static in enumerate(loaded.statics)
        ),
        reference_s=float(np.median(reference_s)),
        drifts_with_reference=session.reference_device in loaded.placement,
    )


def _record_all(session: Session, loaded: LoadedConfiguration) -> tuple[Answers, Answers | None]:
    """Record the answers to the given samples, and to those from outside if there are any."""
    given, outside = session.request.samples.x, session.request.outside
    answers = _record(session, loaded, given, "given")
    return answers, None if outside is None else _record(session, loaded, outside.x, "outside")


def _record(session: Session, loaded: LoadedConfiguration, x: Samples, work: Work) -> Answers:
    """Record the chain, and every static network by itself, unless it answers as the chain's exit on some hundred samples.

    The reference always answers by itself: promises count losses against its answers.
    """

    def part(static: int | None) -> Part:
        return Part(variant=loaded.variant, placement=loaded.placement, work=work, static=static)

    chain = session.record(loaded.net, x, part(None))
    exits: list[EveryExit | None] = [
        EveryExit(chain.label[:, k : k + 1], chain.score[:, k : k + 1]) for k in range(len(loaded.statics))
    ]
    if _ends_as_reference(session, loaded.variant, loaded.placement):
        exits[-1] = None
    statics = zip(loaded.statics, exits, strict=True)
    return Answers(
        chain, tuple(session.record(static, x, part(k), like=like) for k, (static, like) in enumerate(statics))
    )


def _ends_as_reference(session: Session, variant: Variant, placement: tuple[str, ...]) -> bool:
    """Return True if the last static network of a configuration is the reference."""
    return variant is session.request.reference_variant and placement[-1] == session.reference_device


def _reference_part(session: Session) -> Part:
    first = session.request.reference_variant
    return Part(variant=first, placement=(session.reference_device,), work="given", static=len(first.exits) - 1)


def _describe_reference(session: Session, configurations: Sequence[Configuration]) -> Reference:
    """Return the reference with its answers: from a configuration whose last static network it is, else recorded by itself."""
    request, device = session.request, session.reference_device
    for configuration in configurations:
        if _ends_as_reference(session, configuration.variant, configuration.placement):
            outside = configuration.outside_answers
            answers = configuration.answers.statics[-1]
            outside_answers = None if outside is None else outside.statics[-1]
            break
    else:
        configuration = None
        part = _reference_part(session)
        answers, outside_answers = session.record(session.reference, request.samples.x, part), None
        if request.outside is not None:
            part = replace(part, work="outside")
            outside_answers = session.record(session.reference, request.outside.x, part)
    return Reference(
        device=device,
        answers=answers,
        outside_answers=outside_answers,
        configuration=configuration,
        latency_s=configurations[-1].reference_s,
    )


def _measure_energy(session: Session, loaded: LoadedConfiguration, costs: Costs) -> ExitEnergies:
    request = session.request
    assert request.meter is not None
    if request.meter.grade == "modelled":
        return model_energy(costs.latency_s.tolist(), stated_power(request.meter))
    part = Part(variant=loaded.variant, placement=loaded.placement, work="energy")
    if (content := session.resume.load(part)) is not None:
        return msgspec.json.decode(content, type=ExitEnergies)
    x, every_s = request.samples.x[:TIMED_SAMPLES], request.pace.every_s
    energies = measure_energy(loaded.net, x, request.meter, every_s=every_s, progress=request.progress)
    session.resume.save(part, msgspec.json.encode(energies))
    return energies
