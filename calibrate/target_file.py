"""Targets from a YAML file, and limits from texts such as `5 ms`."""

import os
import warnings
from pathlib import Path
from typing import Any

from ..bundle import Target
from ..errors import DataError, UsageError, unknown_name
from .yaml_files import read_yaml

KEYS = tuple(name for name in Target.__struct_fields__ if name != "counts")
"""Keys that a target may have. What accuracy is made of follows from the network."""

TEXTS = ("goal", "by")
"""Keys that are no limits."""

OTHER_KEYS = {"max_latency_ms": "max_latency_s", "deadline_ms": "deadline_s", "max_energy_mj": "max_energy_j"}
"""Keys in thousandths, called as the options of the command line, and the keys that they stand for."""

UNITS = {
    "s": {"us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0},
    "j": {"uj": 1e-6, "\u00b5j": 1e-6, "\u03bcj": 1e-6, "mj": 1e-3, "j": 1.0},
}
"""By what a limit's name ends with, its units; other limits are fractions, whose unit is %."""

NAMES = {"s": ("s", "ms"), "j": ("J", "mJ")}
"""By what a limit's name ends with, the unit of its field, and the unit a thousandth of it, which options count in."""

MANY, FEW = 1.0, 0.01
"""A limit of so many seconds or joules, or of so few milliseconds or millijoules, was most likely meant in the other unit."""

MOST_DEPTH = 3
"""How deep values may lie: the names of points, a point's fields, a field's value."""

__all__ = ["make_target", "read_limit", "read_targets"]


def read_targets(path: str | os.PathLike[str]) -> Target | dict[str, Target]:
    """Read a target, or several by the names of their points, the first one first.

        max_drop: 0.01              eco: {goal: energy, max_drop: 2 %}
        deadline_s: 0.005           fast: {max_latency_s: 800 us}

    A number may have a unit: us, ms or s, uJ, mJ or J, or %. The keys may also be called as the options are: `deadline_ms: 5`.

    Args:
        path: a YAML file whose keys are the fields of `Target`, or names with such fields below.

    Raises:
        UsageError: there is no file, or a key or value is not one of a target's.
        DataError: the file is not YAML, or holds no target.
        MissingError: it cannot be read, or PyYAML is not installed.

    Example:
        >>> from offramp.calibrate import read_targets
        >>> from pathlib import Path
        >>> _ = Path("targets.yaml").write_text("eco: {max_drop: 2 %, goal: energy}")
        >>> read_targets("targets.yaml")["eco"].max_drop
        0.02
    """
    path = Path(path)
    document = read_yaml(path, "target", most_depth=MOST_DEPTH)
    if not isinstance(document, dict) or not document:
        raise DataError(
            f"{path} holds no target: it looks like `max_drop: 0.01`, or `eco: {{max_drop: 0.01}}`.", path=path
        )
    if strange := [name for name in document if not isinstance(name, str)]:
        raise UsageError(f"{path}: YAML does not read the name {strange[0]!r} as text: write it in quotes.", path=path)
    if any(isinstance(value, dict) for value in document.values()):
        return {name: make_target(fields, f"{path}, {name}", path) for name, fields in document.items()}
    return make_target(document, str(path), path)


def read_limit(name: str, value: Any, *, limit: str, factor: float = 1.0) -> float:
    """Return the value of a limit in seconds, joules or as a fraction.

    Args:
        name: what the limit is called in messages.
        value: a number, or a text of one that may have a unit: `5 ms`, `3 mJ`, `1 %`.
        limit: the field of `Target`, whose end says what it measures.
        factor: what a number without a unit is multiplied by. A warning names one that is most likely meant in another unit.

    Raises:
        UsageError: it is no number, or its unit is not one of the limit's.
    """
    units = UNITS.get(limit.rpartition("_")[2], {"%": 0.01})
    try:
        if isinstance(value, str):
            text = value.strip().lower()
            unit = next((unit for unit in units if text.endswith(unit)), "")
            number = float(text.removesuffix(unit))
            if unit:
                return number * units[unit]
            return _count_in_own_unit(name, number, limit, factor)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _count_in_own_unit(name, float(value), limit, factor)
    except (ValueError, OverflowError):
        pass
    known = ", ".join(unit.replace("j", "J") for unit in units if unit.isascii())
    raise UsageError(f"{name} is a number, or one with the unit {known}, not {repr(value)[:60]}.")


def _count_in_own_unit(name: str, number: float, limit: str, factor: float) -> float:
    """Return a number that has no unit times its factor, and warn where it was most likely meant in another unit."""
    large, small = NAMES.get(limit.rpartition("_")[2], ("", ""))
    own, other = (large, small) if factor == 1.0 else (small, large)
    if own and (number >= MANY if factor == 1.0 else 0 < number < FEW):
        warnings.warn(
            f"{name} without a unit counts in {own}: it is {number:g} {own}. Write {number:g} {other} if that was meant.",
            stacklevel=2,
        )
    return number * factor


def make_target(fields: Any, where: str, path: Path) -> Target:
    """Return the target that the fields of a file give; messages say where it stands.

    Raises:
        UsageError: a key or value is not one of a target's.
    """
    if not isinstance(fields, dict):
        raise UsageError(f"{where}: a target has fields such as max_drop, not {repr(fields)[:60]}.", path=path)
    limits: dict[str, float] = {}
    try:
        for name, value in fields.items():
            key = str(name).replace("-", "_")
            limit = OTHER_KEYS.get(key, key)
            if limit not in KEYS:
                unknown = unknown_name("key", str(name), (*KEYS, *OTHER_KEYS))
                raise UsageError(f"{unknown} Numbers without a unit are seconds, joules or fractions.")
            if limit in limits:
                raise UsageError(f"{limit} is given twice.")
            if limit not in TEXTS:
                limits[limit] = read_limit(key, value, limit=limit, factor=1.0 if key == limit else 1e-3)
        return Target(goal=fields.get("goal"), by=fields.get("by"), counts="labels", **limits)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", path=path) from error
