"""Chains across two variants: one variant up to one of its exits, then another from the network's inputs.

`int8:0+fp32` is int8 up to exit 0, then the chain of fp32; `int8:0+fp32:2` ends with the static network of fp32 to exit 2. Such a
chain has no files of its own and no place in the manifest: its name says all of it. No variant's name holds `:` or `+`.
"""

import re
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..files import sha256
from .calibration import Calibration, OperatingPoint
from .manifest import PLAIN_NAME, Exit, Manifest, Stage, Variant
from .tensor import Tensor

__all__ = ["Across", "Source", "count_loaded", "find_across", "find_measured", "join_variants"]

NAME = rf"({PLAIN_NAME}):(\d{{1,4}})\+({PLAIN_NAME})(?::(\d{{1,4}}))?"

FOLDER = "variants"
"""The folder in which the variants' folders lie."""

LOOSENESS = ("fp64", "fp32", "fp16", "int8")
"""Precisions, the one whose answers differ most between engines last."""


class Source(Struct, frozen=True):
    """A stage as the variant has it that holds its file.

    Attributes:
        variant: that variant.
        stage, exit: under the names that the file has for their tensors.
    """

    variant: Variant
    stage: Stage
    exit: Exit


class Across(Variant, frozen=True, kw_only=True, dict=True):
    """A chain across two variants, as a variant: stages and exits of the first, then of the second.

    Files are named from the folder of all variants: `int8/stage0.onnx`. Weights, the whole network and golden samples are the
    second's. Both variants name tensors alike: the second's are called `fp32/exit0.score`. Exits are `int8:exit0`, `fp32:exit0`.

    Attributes:
        sources: of each stage.
        first, exit: the first variant, and the number of the last of its exits.
        second, end: the second, and the exit at which its static network ends; None if its chain runs.
    """

    sources: tuple[Source, ...]
    first: Variant
    exit: int
    second: Variant
    end: int | None

    def __post_init__(self) -> None:
        """Leave out what a variant of the manifest is checked for; its parts were."""

    @property
    def digest(self) -> str:
        """The sha256 of all that decides what it computes."""
        parts = [self.first.digest, self.exit, self.second.digest, self.end]
        return sha256(msgspec.json.encode(parts))

    def find_exit(self, k: int) -> tuple[Variant, int]:
        """Return the variant that exit k belongs to, and its number there."""
        if k <= self.exit:
            return self.first, k
        return self.second, k - self.exit - 1 if self.end is None else self.end

    @property
    def words(self) -> str:
        """What runs, in words."""
        then = "its chain" if self.end is None else f"its static network to exit {self.end}"
        return f"{self.first.name} up to exit {self.exit}, then {self.second.name} from the input, {then}"


def find_across(manifest: Manifest, name: str) -> Across | None:
    """Return the chain across two variants of that name; None if the bundle has none."""
    if (match := re.fullmatch(NAME, name)) is None:
        return None
    first, exit_, second, end = match.groups()
    variants = {variant.name: variant for variant in manifest.variants}
    if first == second or first not in variants or second not in variants:
        return None
    if int(exit_) >= len(variants[first].exits) or int(end or 0) >= len(variants[second].exits):
        return None
    return join_variants(manifest, variants[first], int(exit_), variants[second], None if end is None else int(end))


def find_measured(manifest: Manifest, calibration: Calibration, point: OperatingPoint) -> Variant | None:
    """Return the variant, or the chain across two, that a point is of, if the bundle holds what was measured; else None."""
    named = [variant for variant in manifest.variants if variant.name == point.variant]
    variant = named[0] if named else find_across(manifest, point.variant)
    return variant if variant is not None and variant.digest == calibration.variants[point.variant] else None


def count_loaded(variant: Variant, static: int | None = None) -> dict[str, int]:
    """Return the bytes of graphs and weights that a chain loads, or the static network to an exit, by the variant that has them.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> from offramp.bundle.across import count_loaded
        >>> list(count_loaded(open_bundle("digits.offramp").chain("int8:0+fp32")))
        ['int8', 'fp32']
    """
    if static is not None:
        owner, k = variant.find_exit(static) if isinstance(variant, Across) else (variant, static)
        files = [(owner, owner.exits[k].static)]
    elif isinstance(variant, Across):
        files = [(source.variant, source.stage.file) for source in variant.sources]
    else:
        files = [(variant, stage.file) for stage in variant.stages]
    files += [(owner, owner.weights) for owner, _ in files]
    loaded: dict[str, int] = {}
    for owner, name in {(owner.folder, name): (owner, name) for owner, name in files}.values():
        loaded[owner.name] = loaded.get(owner.name, 0) + owner.files[name].bytes
    return loaded


def join_variants(manifest: Manifest, first: Variant, exit_: int, second: Variant, end: int | None) -> Across:
    """Return the chain of one variant up to an exit, and then another variant's chain, or its static network to exit `end`."""
    inputs = {tensor.name for tensor in manifest.inputs}
    before = list(zip(first.stages[: exit_ + 1], first.exits, strict=False))
    after = list(zip(second.stages, second.exits, strict=True))
    if end is not None:
        last = second.exits[end]
        after = [(Stage(file=last.static, inputs=manifest.inputs, outputs=(), macs=last.macs), last)]
    stages = [_in_folder(first, stage) for stage, _ in before]
    stages += [_in_folder(second, _rename_stage(second, stage, inputs)) for stage, _ in after]
    exits = [_name_exit(first, each) for _, each in before]
    exits += [_name_exit(second, _rename_exit(second, each)) for _, each in after]
    return Across(
        name=f"{first.name}:{exit_}+{second.name}" + ("" if end is None else f":{end}"),
        folder=FOLDER,
        precision=max(first.precision, second.precision, key=LOOSENESS.index),
        rule=", then ".join(dict.fromkeys((first.rule, second.rule))),
        weights=_path(second, second.weights),
        whole=_path(second, second.whole),
        golden=_path(second, second.golden),
        stages=tuple(stages),
        exits=tuple(exits),
        files={
            f"{folder}/{name}": file
            for folder, files in ((Path(variant.folder).name, variant.files) for variant in (first, second))
            for name, file in files.items()
        },
        own_error=max(first.own_error or 0.0, second.own_error or 0.0),
        sources=(*_find_sources(first, before), *_find_sources(second, after)),
        first=first,
        exit=exit_,
        second=second,
        end=end,
    )


def _find_sources(variant: Variant, pairs: list[tuple[Stage, Exit]]) -> list[Source]:
    """Return the source of each stage. Stages that share a file share its names, which are those of the first of them."""
    owners: dict[str, Source] = {}
    return [owners.setdefault(stage.file, Source(variant, stage, exit_)) for stage, exit_ in pairs]


def _path(variant: Variant, name: str) -> str:
    return f"{Path(variant.folder).name}/{name}"


def _in_folder(variant: Variant, stage: Stage) -> Stage:
    guarded = None if stage.guarded is None else _path(variant, stage.guarded)
    return replace(stage, file=_path(variant, stage.file), guarded=guarded)


def _rename_stage(variant: Variant, stage: Stage, inputs: set[str]) -> Stage:
    """Return a stage whose tensors have the variant's name before theirs, but for the network's inputs."""
    own, others = (
        tuple(each if each.name in inputs else _rename(variant, each) for each in tensors)
        for tensors in (stage.inputs, stage.outputs)
    )
    return replace(stage, inputs=own, outputs=others)


def _rename(variant: Variant, tensor: Tensor) -> Tensor:
    return replace(tensor, name=f"{variant.name}/{tensor.name}")


def _rename_exit(variant: Variant, exit_: Exit) -> Exit:
    logits, score, label = (name and f"{variant.name}/{name}" for name in (exit_.logits, exit_.score, exit_.label))
    answer = {name: _rename(variant, tensor) for name, tensor in exit_.answer.items()}
    return replace(exit_, logits=logits, score=score, label=label, answer=answer)


def _name_exit(variant: Variant, exit_: Exit) -> Exit:
    return replace(exit_, name=f"{variant.name}:{exit_.name}", static=_path(variant, exit_.static))
