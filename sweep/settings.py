"""The file of a sweep: what is tried, on what, and by what it is judged; read, checked, and spread out into trials."""

import itertools
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ..bundle import Target
from ..bundle.manifest import MOST_VARIANTS
from ..calibrate.target_file import make_target
from ..calibrate.yaml_files import read_yaml
from ..errors import UsageError, unknown_name

__all__ = ["Attaching", "Choices", "Pruning", "Rung", "Settings", "Space", "read_settings"]

MOST_DEPTH, MOST_TRIALS, MOST_VALUES = 6, 10_000, 1000
"""How deep values of the file may lie; most trials of a sweep, and values of one list of its space."""

RANKING_LIMITS = ("min_accuracy", "max_loss", "max_drop")
"""What a sweep's target may limit: trials are ranked by multiply-accumulates, which say nothing of seconds and joules."""

MOST_RUNGS, MOST_NUMBER = 20, 1_000_000_000
"""Most rungs of a sweep, and the largest number in its file."""

Positive = Annotated[int, Meta(ge=1, le=MOST_NUMBER)]
Number = Annotated[float, Meta(ge=0, le=MOST_NUMBER)]  # which infinity is not
Values = Meta(min_length=1, max_length=MOST_VALUES)


class Attaching(Struct, frozen=True, kw_only=True):
    """Where exits are added to a plain network: the arguments of `attach`."""

    at: str | tuple[str, ...] = "auto"
    fractions: tuple[Number, ...] = (0.15, 0.35, 0.6)
    frozen: bool = True


class Pruning(Struct, frozen=True, kw_only=True):
    """How a network is made smaller before it trains: the arguments of `prune`."""

    macs: Number | None = None
    parameters: Number | None = None
    spread: str = "uniform"
    round_to: Positive = 8
    keep: tuple[str, ...] = ()


class Space(Struct, frozen=True, kw_only=True):
    """What is tried: a list of values each. Of these lists come the trials, all of `TRAINED`; each trial has all other forms.

    Attributes:
        attach: where exits are; None leaves the network's own.
        prune: how far the network is pruned; None not at all.
        recipe, weights, lr, weight_decay, label_smoothing: as for `train`.
        teacher: a trained network that teaches, `file.py:function`; None for none.
        rule: how scores are made.
        quantize: `int8` and `fp16`, beside the network's own precision.
    """

    attach: Annotated[tuple[Attaching | None, ...], Values] = (None,)
    prune: Annotated[tuple[Pruning | None, ...], Values] = (None,)
    recipe: Annotated[tuple[str, ...], Values] = ("joint",)
    weights: Annotated[tuple[tuple[Number, ...] | None, ...], Values] = (None,)
    teacher: Annotated[tuple[str | None, ...], Values] = (None,)
    lr: Annotated[tuple[Number, ...], Values] = (0.1,)
    weight_decay: Annotated[tuple[Number, ...], Values] = (5e-4,)
    label_smoothing: Annotated[tuple[Number, ...], Values] = (0.0,)
    rule: Annotated[tuple[str, ...], Values] = ("max_softmax",)
    quantize: tuple[Literal["int8", "fp16"], ...] = ()


class Choices(Struct, frozen=True, kw_only=True):
    """What one trial takes of the space; the fields are those of `Space` that training depends on."""

    attach: Attaching | None = None
    prune: Pruning | None = None
    recipe: str = "joint"
    weights: tuple[float, ...] | None = None
    teacher: str | None = None
    lr: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0


TRAINED = Choices.__struct_fields__


class Rung(Struct, frozen=True):
    """A step of successive halving: so many trials are trained to this epoch."""

    trials: int
    epochs: int


class Settings(Struct, frozen=True, kw_only=True):
    """A sweep's file.

    Attributes:
        network: `file.py:function` that makes the network, trained or not.
        data: what trains it, as `prune --data` takes it.
        judge: the samples that judge trials, with labels; other ones than those that train, and than those that `calibrate` gets.
        out: the sweep's folder.
        space: what is tried.
        target: what is wanted of a trial: a limit of what may be lost, at the least multiply-accumulates.
        epochs, batch: as for `train`; of the trials that are trained to the end.
        rungs, eta: after each rung but the last one in `eta` trials stays, and trains `eta` times as long.
        trials: as many are drawn from the space; None tries all of it.
        seed: of the draw, of each network and of the order of its samples.
        train_on: where to train: `cpu` or `cuda`.
    """

    network: str
    data: str
    judge: str
    out: str
    space: Space = Space()
    target: dict[str, Any] = msgspec.field(default_factory=lambda: {"max_drop": 0.01})
    epochs: Positive = 10
    batch: Positive = 64
    rungs: Annotated[int, Meta(ge=1, le=MOST_RUNGS)] = 1
    eta: Annotated[int, Meta(ge=2, le=MOST_NUMBER)] = 3
    trials: Positive | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    train_on: str = "cpu"

    def list_trials(self) -> list[Choices]:
        """Return what each trial takes of the space, by its number.

        Raises:
            UsageError: there are too many.
        """
        lists = [getattr(self.space, name) for name in TRAINED]
        size = math.prod(map(len, lists))
        count = min(size, self.trials or size)
        if count > MOST_TRIALS:
            raise UsageError(
                f"The space has {size} trials; a sweep takes {MOST_TRIALS}. Give trials: 100, to draw as many."
            )
        if count == size:
            return [Choices(**dict(zip(TRAINED, values, strict=True))) for values in itertools.product(*lists)]
        drawn = sorted(random.Random(self.seed).sample(range(size), count))
        return [self._choices_at(number, lists) for number in drawn]

    def _choices_at(self, number: int, lists: list[tuple[Any, ...]]) -> Choices:
        chosen = []
        for values in reversed(lists):
            number, index = divmod(number, len(values))
            chosen.append(values[index])
        return Choices(**dict(zip(TRAINED, reversed(chosen), strict=True)))

    def list_rungs(self) -> list[Rung]:
        """Return how many trials each rung trains, and to which epoch.

        Raises:
            UsageError: there are too few epochs for so many rungs, or too many variants would be left.
        """
        trials, rungs = len(self.list_trials()), []
        for rung in range(self.rungs):
            rungs.append(Rung(trials, max(1, round(self.epochs / self.eta ** (self.rungs - 1 - rung)))))
            trials = -(-trials // self.eta)
        forms = len(self.space.rule) * (1 + len(self.space.quantize))
        if rungs[-1].trials * forms > MOST_VARIANTS:
            raise UsageError(
                f"{rungs[-1].trials} trials would be left, with {forms} forms each; a bundle has at most {MOST_VARIANTS} "
                "variants: give more rungs, or trials: 100, to draw fewer."
            )
        if len({rung.epochs for rung in rungs}) < len(rungs):
            least = self.eta ** (self.rungs - 1)
            raise UsageError(
                f"{self.epochs} epochs are too few for {self.rungs} rungs that grow by {self.eta}: give {least} or more, or "
                "fewer rungs."
            )
        return rungs

    def make_target(self) -> Target:
        """Return the target.

        Raises:
            UsageError: it is none, or limits something else than what is lost.
        """
        target = make_target(self.target, "target", Path())
        others = [*(set(target.limits) - set(RANKING_LIMITS)), *(["by"] if target.by else [])]
        if others or target.goal != "latency":
            raise UsageError(
                f"A sweep's target limits what may be lost, by {', '.join(RANKING_LIMITS)}, at the least multiply-accumulates: "
                "they are the same on every worker. Times and energies are limited when the sweep's bundle is calibrated."
            )
        return target


def read_settings(path: str | os.PathLike[str]) -> tuple[Settings, Path]:
    """Read a sweep's file; return it, and the folder from which its names of files are read.

    Raises:
        UsageError: there is no file, or a key or value is not one of a sweep's.
        DataError: the file is not YAML.
        MissingError: it cannot be read, or PyYAML is not installed.
    """
    path = Path(path)
    document = read_yaml(path, "sweep", most_depth=MOST_DEPTH)
    try:
        _check_keys(document, Settings, "a sweep")
        for name, kind in (("attach", Attaching), ("prune", Pruning)):
            for value in _list_of(document, name):
                _check_keys(value, kind, name)
        # Not strict: YAML reads 1e-3, without a dot, as text.
        settings = msgspec.convert(document, Settings, strict=False)
        _check_values(settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}.", path=path) from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}", path=path) from error
    return settings, path.resolve().parent


def _list_of(document: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield the values of one list of the space that are mappings; and refuse a space with other keys."""
    space = document.get("space")
    if isinstance(space, dict):
        _check_keys(space, Space, "space")
        values = space.get(name)
        yield from (value for value in (values if isinstance(values, list) else ()) if isinstance(value, dict))


def _check_keys(fields: Any, kind: type[Struct], where: str) -> None:
    if not isinstance(fields, dict):
        raise UsageError(f"{where} has keys such as {kind.__struct_fields__[0]}, not {repr(fields)[:60]}.")
    if strange := [name for name in fields if name not in kind.__struct_fields__]:
        raise unknown_name(f"key of {where}", str(strange[0]), kind.__struct_fields__)


def _check_values(settings: Settings) -> None:
    """Refuse what would only fail in the trials.

    Raises:
        UsageError: a recipe or rule is unknown, a list has a value twice, the samples that train judge, or the target, the trials
            or the rungs cannot be used.
    """
    from ..export.cut.rules import check_rule
    from ..export.networks.training import RECIPES

    for name in Space.__struct_fields__:
        values = getattr(settings.space, name)
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise UsageError(f"space, {name}: {msgspec.to_builtins(twice[0])!r:.60} stands twice.")
    for recipe in settings.space.recipe:
        if recipe not in RECIPES:
            raise unknown_name("recipe", recipe, RECIPES)
    for rule in settings.space.rule:
        check_rule(rule, (), None)
    for choice in settings.space.prune:
        if choice is not None and (choice.macs is None) == (choice.parameters is None):
            raise UsageError(
                "space, prune: give macs or parameters, the share that stays, such as {macs: 0.6}; or null."
            )
    for source in (settings.network, *settings.space.teacher):
        if source is not None and ".py:" not in source:
            raise UsageError(f"A network to train is named file.py:function, not {source!r}.")
    if settings.judge == settings.data:
        raise UsageError(f"judge: {settings.judge!r:.200} trains the trials; other samples judge them.")
    settings.make_target()
    settings.list_rungs()
