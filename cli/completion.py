"""What a shell proposes behind Tab: files, names that stand in a bundle, devices, and words of a fixed set."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..files import read_file

__all__ = ["add_completion"]

FILES = (
    *(
        "bundle",
        "bundles",
        "calibration",
        "checkpoint",
        "classes",
        "clips",
        "data",
        "file",
        "first",
        "inputs",
        "key",
        "labels",
        "network",
    ),
    *(
        "networks",
        "output",
        "outside",
        "plot",
        "project",
        "second",
        "source",
        "states",
        "target_file",
        "test",
        "tls_ca",
        "tls_cert",
        "tls_key",
    ),
    *("token_file", "train_data", "trust", "validation", "weights"),
)
"""Parameters that are files or folders, or may be."""

SAFE = re.compile(r"[\w.:+-]+")
"""What a shell takes as a word: names in a bundle are a stranger's, and `$(command)` would be run."""

MOST_BYTES = 1 << 26
"""No file is read that is longer."""

DEVICES = ("cpu", "auto", "cuda:0", "openvino:CPU", "openvino:GPU", "openvino:NPU", "mnn:cpu", "litert:cpu", "ncnn:cpu")

CHOICES: dict[str, tuple[str, ...]] = {
    "by": ("class", "group"),
    "device": DEVICES,
    "fallback": DEVICES,
    "goal": ("latency", "energy", "accuracy"),
    "interpolation": ("bilinear", "bicubic", "nearest"),
    "ranges": ("minmax", "percentile"),
    "recipe": ("joint", "distill", "gated", "heads"),
    "resize": ("stretch", "crop", "pad"),
    "rule": ("max_softmax", "entropy", "margin", "ensemble", "patience", "gate", "gate_logit"),
    "spread": ("uniform", "global"),
    "to": ("int8", "fp16"),
    "train_on": ("cpu", "cuda"),
}
"""By parameter, the words that it may be, or the most usual ones. They stand here again, since libraries take long to import."""


def add_completion(command: click.Command) -> None:
    """Let shells propose values for a command's arguments and options that are texts."""
    for parameter in command.params:
        propose = PROPOSALS.get(parameter.name or "")
        if propose is not None and parameter.type is click.STRING:
            parameter.type = _Proposed(propose)


class _Proposed(type(click.STRING)):  # type: ignore[misc]
    """Any text, for which a shell proposes some."""

    def __init__(self, propose: "Callable[[click.Context], Iterator[str] | None]") -> None:
        self._propose = propose

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what begins as the text does; where the shell proposes files, it says so."""
        try:
            proposed = self._propose(ctx)
            if proposed is None:
                return [CompletionItem(incomplete, type="file")]
            found = [text for text in proposed if isinstance(text, str) and SAFE.fullmatch(text)]
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return []  # a shell has no place for an error, and what a bundle holds may be anything
        return [CompletionItem(text) for text in found if text.startswith(incomplete)]


def _variants(ctx: click.Context) -> Iterator[str]:
    yield from (each["name"] for each in _read(_bundle(ctx) / "manifest.json").get("variants", ()))


def _points(ctx: click.Context) -> Iterator[str]:
    files = sorted(_bundle(ctx).glob("calibrations/*.json"))
    yield from dict.fromkeys(name for file in files for name in _read(file).get("points", {}))


def _bundle(ctx: click.Context) -> Path:
    """Return the bundle that a line names; where an option still lacks its value, click has not told which word that is."""
    words = [ctx.params.get("bundle"), *ctx.args]
    return next((Path(word) for word in words if word and Path(word, "manifest.json").is_file()), Path("nowhere"))


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file; nothing if it is not one, as where another calibration is whole."""
    try:
        found = json.loads(read_file(path, most=MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _propose_files(_: click.Context) -> None:
    """Leave it to the shell."""


def _propose_words(words: tuple[str, ...], _: click.Context) -> Iterator[str]:
    return iter(words)


PROPOSALS: dict[str, Callable[[click.Context], Iterator[str] | None]] = {
    **dict.fromkeys(FILES, _propose_files),
    **{name: functools.partial(_propose_words, words) for name, words in CHOICES.items()},
    **dict.fromkeys(("variant", "variants"), _variants),
    **dict.fromkeys(("point", "points"), _points),
}
