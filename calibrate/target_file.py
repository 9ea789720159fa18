"""Targets from a YAML file."""

import os
from pathlib import Path
from typing import Any

from ..bundle import Target
from ..errors import UsageError, require, unknown_name
from ..files import os_errors_explained

KEYS = Target.__struct_fields__
"""Keys that a target may have."""

__all__ = ["read_targets"]


def read_targets(path: str | os.PathLike[str]) -> Target | dict[str, Target]:
    """Read a target, or several by the names of their points, the first one first.

        max_drop: 0.01              eco: {goal: energy, max_drop: 0.02}
        deadline_s: 0.005           fast: {max_latency_s: 0.001}

    Args:
        path: a YAML file whose keys are the fields of `Target`, or names with such fields below.

    Raises:
        UsageError: there is no file, it is no YAML, or a key or value is not one of a target's.
        MissingError: it cannot be read, or PyYAML is not installed.

    Example:
        >>> from offramp.calibrate import read_targets
        >>> from pathlib import Path
        >>> _ = Path("targets.yaml").write_text("eco: {max_drop: 0.02, goal: energy}")
        >>> read_targets("targets.yaml")["eco"].max_drop
        0.02
    """
    path, yaml = Path(path), require("yaml", extra="calibrate")
    with os_errors_explained(path, "read"):
        if not path.is_file():
            raise UsageError(f"There is no file {path}.", path=path)
        content = path.read_bytes()
    try:
        document = _load(yaml, content, path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}", path=path) from error
    if not isinstance(document, dict) or not document:
        raise UsageError(
            f"{path} holds no target: it looks like `max_drop: 0.01`, or `eco: {{max_drop: 0.01}}`.", path=path
        )
    if strange := [name for name in document if not isinstance(name, str)]:
        raise UsageError(f"{path}: YAML does not read the name {strange[0]!r} as text: write it in quotes.", path=path)
    if any(isinstance(value, dict) for value in document.values()):
        return {name: _make_target(fields, f"{path}, {name}", path) for name, fields in document.items()}
    return _make_target(document, str(path), path)


def _load(yaml: Any, content: bytes, path: Path) -> Any:
    """Read YAML and refuse a key that stands twice: the library would silently take the last."""
    loader = yaml.SafeLoader(content)
    try:
        node = loader.get_single_node()
        nodes = [node] if node is not None else []
        while nodes:
            current = nodes.pop()
            if isinstance(current, yaml.MappingNode):
                keys = [key.value for key, _ in current.value]
                if twice := [key for key in keys if keys.count(key) > 1]:
                    line = current.start_mark.line + 1
                    raise UsageError(f"The key {twice[0]!r} stands twice in line {line} and after it.", path=path)
                nodes += [value for _, value in current.value]
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _make_target(fields: Any, where: str, path: Path) -> Target:
    if not isinstance(fields, dict):
        raise UsageError(f"{where}: a target has fields such as max_drop, not {fields!r}.", path=path)
    for key in fields:
        if key not in KEYS:
            unknown = unknown_name("key", str(key), KEYS)
            raise UsageError(f"{where}: {unknown} Times are in seconds, energies in joules.", path=path)
    try:
        numbers = {key: _read_number(key, value) for key, value in fields.items() if key != "goal"}
        return Target(goal=fields.get("goal"), **numbers)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", path=path) from error


def _read_number(key: str, value: Any) -> float:
    """Return a number; YAML 1.1 reads 1e-3, which has no point, as text."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UsageError(f"{key} is a number, not {value!r}.")
