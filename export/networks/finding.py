"""The places for exits in a network, as they were named or nearest to shares of its work. Needs torch."""

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from numbers import Real

from torch import nn

from ...errors import ModelError, UsageError, unknown_name
from ...units import show_share
from .answer_heads import can_answer
from .answers import show_answer
from .bottlenecks import find_bottlenecks
from .inputs import ExampleInputs
from .layouts import find_layout
from .masks import find_mask
from .places import BATCH, CHANNELS, SPACE, TOKENS, Place
from .tracing import Step, trace_network

__all__ = ["PlaceFinder"]

NEAR = 0.15
"""A place is near a fraction if it is at most this share of the work away, and at most half of the fraction."""

MOST_TRIED = 8
"""Most places for a fraction, or at a depth, whose layout is looked for."""

LAST_SHARE = 0.8
"""Of all places those are left out that are nearer to the network's end than to this share of the work."""

NEAREST = "the nearest place that is not nearer to the network's end and whose axes are known"

logger = logging.getLogger(__name__)


class PlaceFinder:
    """Finds places in one network: for heads of a `kind`, or heads chosen by the answer; `answer` names its parts.

    Attributes:
        inputs: the example.
        trace: the run of the network on it.
        mask: the input that says which tokens are padding; None if there is none.
        places: what was found, in the order in which it runs.
        notes: what is not as it was asked for.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: ExampleInputs,
        layouts: Mapping[str, tuple[str, ...]],
        *,
        answer: Sequence[str] = (),
        needs_layout: bool,
        kind: type[nn.Module] | None = None,
    ) -> None:
        self.network, self.inputs, self._layouts, self._needs_layout = network, inputs, layouts, needs_layout
        self._answer, self._kind = answer, kind
        self.trace = trace_network(network, inputs, answer)
        self.mask = find_mask(network, inputs, answer)
        self._unfit: dict[Step, tuple[str, ...]] = {}
        self.places: list[Place] = []
        self.notes: list[str] = []
        for name in layouts:
            self._find_step(name)

    def take(self, names: Sequence[str]) -> None:
        """Take the places that the user named.

        Raises:
            UsageError: a module is unknown, listed twice or out of order.
            ModelError: a module does not run, its output is no features, or their layout is not known.
        """
        steps = [self._find_step(name) for name in names]
        order = [self.trace.name(step) for step in self.trace.steps if step in steps]
        if not steps or order != [self.trace.name(step) for step in steps]:
            raise UsageError(
                f"at={list(names)} must list modules once each in the order in which they run: at={order}."
            )
        for name, step in zip(names, steps, strict=True):
            place = self._make_place(step)
            if place is None:
                raise ModelError(self._explain_unknown(name, step))
            self.places.append(place)
        self._note_masks()

    def find_all(self) -> None:
        """Take one place at each depth that the whole signal passes through, none of them close to the network's end.

        Raises:
            ModelError: there is no place for an exit.
        """
        total = self.trace.steps[-1].flops
        for of_one_reading in (False, True):
            cuts = self._find_cuts(of_one_reading=of_one_reading)
            candidates = [step for step in cuts if step.batch_axis is not None]
            depths: dict[int, list[Step]] = {}
            for step in candidates:
                if abs(step.flops - LAST_SHARE * total) < total - step.flops:
                    depths.setdefault(step.flops, []).append(step)
            for steps in depths.values():
                steps.reverse()
                ranked = sorted(steps, key=_flatness)[:MOST_TRIED]
                self.places += itertools.islice(filter(None, map(self._make_place, ranked)), 1)
            if self.places:
                self._note_masks()
                return
        raise ModelError(self._explain_none(candidates, (LAST_SHARE,)))

    def find(self, fractions: Sequence[float]) -> None:
        """Take the places nearest to fractions of the multiply-accumulates, each once.

        Raises:
            UsageError: the fractions do not rise between 0 and 1.
            ModelError: there is no place for an exit.
        """
        if not isinstance(fractions, Collection) or not all(isinstance(fraction, Real) for fraction in fractions):
            raise UsageError(f"fractions is a list of numbers, not {fractions!r:.60}.")
        if not len(fractions) or not all(a < b for a, b in pairwise([0, *fractions, 1])):
            raise UsageError(f"The fractions {tuple(fractions)} do not rise within (0, 1).")
        for of_one_reading in (False, True):
            candidates = [
                step for step in self._find_cuts(of_one_reading=of_one_reading) if step.batch_axis is not None
            ]
            logger.debug("places where an exit can go: %s", ", ".join(map(self.trace.name, candidates)))
            self.notes.clear()
            for fraction in fractions:
                places = (place for step in self._rank(candidates, fraction) if (place := self._make_place(step)))
                self._place_fraction(fraction, next(places, None))
            if self.places:
                self._note_masks()
                return
        raise ModelError(self._explain_none(candidates, fractions))

    def _rank(self, candidates: Sequence[Step], fraction: float) -> list[Step]:
        """Return the steps to try for a fraction of the work, the best first: none that is nearer to the network's end.

        Several modules may end at the same depth, such as a convolution and the ReLU behind it: the last one is taken, but none
        that has flattened the features.
        """
        total = self.trace.steps[-1].flops
        goal = fraction * total
        nearer = [step for step in reversed(candidates) if abs(step.flops - goal) < total - step.flops]
        nearer.sort(key=lambda s: (abs(s.flops - goal), *_flatness(s)))
        return nearer[:MOST_TRIED]

    def _place_fraction(self, fraction: float, place: Place | None) -> None:
        """Take a place for a fraction, and note it if the place is not what was asked for."""
        if place is None:
            self.notes.append(
                f"The fraction {fraction:g} of the work got no exit: every place whose axes are known is nearer to the network's "
                "end."
            )
        elif place in self.places:
            self.notes.append(
                f"The fraction {fraction:g} of the work got no exit of its own: {place.name} at {show_share(place.share)} "
                f"already has one, and is {NEAREST}."
            )
        else:
            self.places.append(place)
            if abs(place.share - fraction) > min(NEAR, fraction / 2):
                self.notes.append(
                    f"The fraction {fraction:g} of the work got the exit at {place.name}, which is at "
                    f"{show_share(place.share)}: it is {NEAREST}."
                )

    def _find_cuts(self, *, of_one_reading: bool = False, together: bool = False) -> list[Step]:
        """Return the steps with work before and behind them that the whole signal passes through, in the order in which they run.

        The options are those of `find_bottlenecks`.
        """
        mask = None if self.mask is None else self.mask.name
        bottlenecks = find_bottlenecks(
            self.network, self.inputs, mask, self._answer, of_one_reading=of_one_reading, together=together
        )
        if bottlenecks is None:
            raise ModelError(
                "The answer has no gradient to the inputs, so the modules that the whole signal passes through cannot be found. "
                "Name modules with at=[...]."
            )
        total = self.trace.steps[-1].flops
        return [step for step in self.trace.steps if (step.module, step.run) in bottlenecks and 0 < step.flops < total]

    def _find_step(self, name: str) -> Step:
        """Return the step that a place's name means.

        Raises:
            UsageError: there is no such module.
            ModelError: it does not run, or not so often, or its output is no features.
        """
        modules = [known for known, _ in self.network.named_modules() if known]
        module, _, run = (name, "", "") if name in modules else str(name).rpartition(":")
        if module not in modules or not (run.isdecimal() or not run):
            raise unknown_name("module", str(name), modules)
        steps = [step for step in self.trace.steps if step.module == module]
        if not run and len(steps) != 1:
            hint = f" Say after which: {module}:1 to {module}:{len(steps)}." if steps else ""
            raise ModelError(f"The module {name} is run {len(steps)} times on the example.{hint}")
        number = int(run or 1)
        if not 0 < number <= len(steps):
            raise ModelError(f"The module {module} is run {len(steps)} times on the example: there is no {name}.")
        if not steps[number - 1].shape:
            raise ModelError(f"The module {name} returns no float tensor (batch, ...) for a head to read.")
        return steps[number - 1]

    def _make_place(self, step: Step) -> Place | None:
        """Return the place after a step; None if its head has to know the layout of the features and cannot read them."""
        name = self.trace.name(step)
        layout: tuple[str, ...] | None = ()
        if self._needs_layout:
            layout = self._layouts.get(name) or find_layout(self.network, self.inputs, self.trace, step)
        if layout is None:
            return None
        if layout and len(layout) != len(step.shape):
            raise UsageError(f"The layout of {name} is {layout}, but its features have the shape {step.shape}.")
        others = [i for i, axis in enumerate(layout) if axis not in (BATCH, CHANNELS)]
        is_masked = self.mask is not None and [step.shape[i] for i in others] == [self.mask.length]
        if is_masked and self.mask is not None:
            layout = tuple(TOKENS if i in others else axis for i, axis in enumerate(layout))
        if self._needs_layout and not can_answer(self.trace.answer, step.shape, layout, self._kind):
            self._unfit[step] = layout
            return None
        return Place(
            name=name,
            module=step.module,
            run=step.run,
            share=step.flops / max(self.trace.steps[-1].flops, 1),
            layout=layout,
            mask=self.mask.name if is_masked and self.mask is not None else None,
        )

    def _note_masks(self) -> None:
        """Note where a head reads padding, since the mask does not fit its features."""
        for place in self.places:
            if self.mask is not None and place.mask is None and {TOKENS, SPACE} & {*place.layout}:
                self.notes.append(
                    f"The exit at {place.name} reads padding, too: {self.mask.name} has {self.mask.length} tokens, the "
                    "features there another number."
                )

    def _explain_unknown(self, name: str, step: Step) -> str:
        shape, rows = step.shape, self.inputs.rows
        if step.batch_axis is None:
            return (
                f"The module {name} returns {shape} for {rows} samples, and no axis of it is as long as there are samples. "
                "Name a module whose output has the batch as an axis, or give a head that reads such features."
            )
        if step in self._unfit:
            others = "leave parts out with answer=[...], " if len(self.trace.answer) > 1 else ""
            return (
                f"No ready head makes the answer, {show_answer(self.trace.answer)}, of the features {shape} at {name}, "
                f"({', '.join(self._unfit[step])}): a map or grid is made of features with axes of space, and has their "
                f"proportions in its last axes. Name another module with at=[...], {others}or give a head of your own."
            )
        return (
            f"It is not known which axis of {name}, {shape} with the batch on axis {step.batch_axis}, holds the channels. Say it "
            f"with layouts={{{name!r}: (...)}}, one of {BATCH!r}, {CHANNELS!r}, {TOKENS!r}, {SPACE!r} for each axis."
        )

    def _explain_none(self, candidates: Sequence[Step], fractions: Sequence[float]) -> str:
        total = self.trace.steps[-1].flops
        if not total:
            return (
                "The fractions of the network's work are not known: none of its kernels is one whose multiply-accumulates torch "
                "counts, as in quantised networks. Name modules with at=[...]."
            )
        if any(isinstance(part, nn.RNNBase) and part.num_layers > 1 for part in self.network.modules()):
            return (
                "There is no place for an exit near these fractions. A recurrent layer with num_layers above 1 is one module, "
                "with no place inside: build it of several layers. Or name modules with at=[...]."
            )
        for fraction in fractions:
            if tried := self._rank(candidates, fraction):
                name = self.trace.name(tried[0])
                return (
                    f"No exit has a place. The nearest to {fraction:g} of the work is {name}, at "
                    f"{show_share(tried[0].flops / total)}. {self._explain_unknown(name, tried[0])}"
                )
        several = [step for step in self._find_cuts(together=True) if step not in candidates and len(step.shapes) > 1]
        if ranked := [steps[0] for fraction in fractions if (steps := self._rank(several, fraction))]:
            return self._explain_together(ranked)
        if candidates:
            first = self._rank(candidates, candidates[0].flops / total)[0]
            name, share = self.trace.name(first), show_share(first.flops / total)
            return (
                f"No exit has a place. The first module that could have one is {name}, at {share} of the work: nearer to the "
                f"network's end than to the fraction {fractions[-1]:g}, so an exit there saves little. To put one there all the "
                f"same, name it: at=[{name!r}]."
            )
        return (
            "There is no place for an exit: no module with work before and behind it carries the input on alone and gives floats "
            "with the batch as an axis, as under dense connections. Name modules with at=[...]."
        )

    def _explain_together(self, ranked: Sequence[Step]) -> str:
        """Explain that the input passes on in several tensors together; the steps are those nearest to the fractions."""
        first, names = ranked[0], list(dict.fromkeys(map(self.trace.name, ranked)))
        share = show_share(first.flops / self.trace.steps[-1].flops)
        tensors = [pair for pair in zip(first.shapes, first.batch_axes, strict=True) if pair[0]]
        explanation = (
            "No exit has a place: a head reads the first tensor that a module returns, and near these fractions none carries the "
            f"input on alone. {names[0]}, at {share} of the work, returns several: "
            f"{', '.join(str(shape) for shape, _ in tensors)} for {self.inputs.rows} samples. "
        )
        if bare := [shape for shape, axis in tensors if axis is None]:
            return (
                f"{explanation}No axis of {bare[0]} is as long as there are samples, and such a tensor cannot cross an exit: "
                "pass it on with the batch as an axis of its own, and name modules with at=[...]."
            )
        return (
            f"{explanation}Which of them an exit should read is not known. With at={names} it reads the first of each; for "
            "another, name the module that makes it."
        )


def _flatness(step: Step) -> tuple[bool, int]:
    """Rank steps of the same depth: features with axes of space come first, and modules that stand further out."""
    return len(step.shape) == 2, step.module.count(".")
