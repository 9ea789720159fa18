"""Targets from a YAML file."""

import os
from pathlib import Path
from typing import Any

from ..bundle import Target
from ..errors import UsageError, require, unknown_name
from ..files import os_errors_explained

KEYS = Target.__struct_fields__


def read_targets(path: str | os.PathLike[str]) -> Target | dict[str, Target]:
    """Read a target, or several by the names of their points, the first one first.

        max_drop: 0.01              eco: {goal: energy, max_drop: 0.02}
        deadline_s: 0.005           fast: {max_latency_s: 0.001}

    Args:
        path: a YAML file whose keys are the fields of `Target`, or names with such fields below.

    Raises:
        UsageError: there is no file, it is no YAML, or a key or value is not one of a target's.
        MissingError: it cannot be read, or PyYAML is not installed.
    """
    path, yaml = Path(path), require("yaml", extra="calibrate")
    with os_errors_explained(path, "read"):
        if not path.is_file():
            raise UsageError(f"There is no file {path}.")
        content = path.read_bytes()
    try:
        said = _load(yaml, content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict) or not said:
        raise UsageError(f"{path} holds no target: it looks like `max_drop: 0.01`, or `eco: {{max_drop: 0.01}}`.")
    if strange := [name for name in said if not isinstance(name, str)]:
        raise UsageError(
            f"{path}: YAML takes the name {strange[0]!r} for something else than a text: write it in quotes."
        )
    if any(isinstance(value, dict) for value in said.values()):
        return {name: _make(value, f"{path}, {name}") for name, value in said.items()}
    return _make(said, str(path))


def _load(yaml: Any, content: bytes) -> Any:
    """Read YAML in which no key stands twice: the library would take the last without a word."""
    loader = yaml.SafeLoader(content)
    try:
        node = loader.get_single_node()
        nodes = [node] if node is not None else []
        while nodes:
            one = nodes.pop()
            if isinstance(one, yaml.MappingNode):
                keys = [key.value for key, _ in one.value]
                if twice := [key for key in keys if keys.count(key) > 1]:
                    raise UsageError(
                        f"The key {twice[0]!r} stands twice in line {one.start_mark.line + 1} and after it."
                    )
                nodes += [value for _, value in one.value]
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _make(fields: Any, where: str) -> Target:
    if not isinstance(fields, dict):
        raise UsageError(f"{where}: a target has fields such as max_drop, not {fields!r}.")
    for key in fields:
        if key not in KEYS:
            raise UsageError(
                f"{where}: {unknown_name('key', str(key), KEYS)} Times are in seconds, energies in joules."
            )
    numbers = {key: _number(key, value, where) for key, value in fields.items() if key != "goal"}
    try:
        return Target(goal=fields.get("goal"), **numbers)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _number(key: str, value: Any, where: str) -> float:
    """Return a number; YAML 1.1 takes 1e-3, which has no point, for a text."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UsageError(f"{where}: {key} is a number, not {value!r}.")
