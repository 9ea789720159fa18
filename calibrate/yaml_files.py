"""Files of YAML that people write: read with care, and what is no plain document of texts and numbers refused."""

from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError, require
from ..files import os_errors_explained

__all__ = ["read_yaml"]

MOST_BYTES = 1 << 16
"""How long such a file may be."""


def read_yaml(path: Path, what: str, *, most_depth: int) -> Any:
    """Read a file of YAML.

    It has no aliases, which may grow or never end, no depth that nobody needs, and no key that stands twice.

    Args:
        path: the file.
        what: what it holds, in messages: `target`.
        most_depth: how deep its values may lie.

    Raises:
        UsageError: there is no file, or a key stands twice.
        DataError: the file is not YAML, or holds something else.
        MissingError: it cannot be read, or PyYAML is not installed.
    """
    yaml = require("yaml", extra="calibrate")
    with os_errors_explained(path, "read"):
        if not path.is_file():
            raise UsageError(f"There is no file {path}.", path=path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    try:
        if len(content) > MOST_BYTES:
            raise DataError(f"{path} is longer than {MOST_BYTES >> 10} kB: that is no file of a {what}.", path=path)
        _check_events(yaml, content, path, what, most_depth)
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        if node is not None:
            _refuse_twice(yaml, node, path)
        return None if node is None else loader.construct_document(node)
    except (UsageError, DataError):
        raise
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(path, _explain_fault(error)) from error
    except Exception as error:  # a tag such as !!int makes its text's own errors
        raise _not_yaml(path, " ".join(str(error).split())) from error


def _not_yaml(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is not YAML: {reason[:300]}{'' if reason.endswith('^') else '.'}", path=path)


def _explain_fault(error: Any) -> str:
    """Return what is wrong and where: the line, with a mark below the place."""
    mark, problem = error.problem_mark or error.context_mark, str(error.problem or error.context)[:120]
    if "\\t" in problem:
        problem += ": indent with spaces, not tabs"
    if not mark:
        return problem
    line, _, pointer = (mark.get_snippet(indent=2, max_length=75) or "").replace("\t", " ").partition("\n")
    shown = f".\n{line}\n{pointer}" if line.strip() else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{shown}"


def _check_events(yaml: Any, content: bytes, path: Path, what: str, most_depth: int) -> None:
    """Read the file once without building anything of it."""
    depth = 0
    for event in yaml.parse(content, yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise DataError(
                f"{path}, line {line}: {what}s have no aliases (*{event.anchor[:40]}): write each out.", path=path
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > most_depth:
            raise DataError(f"{path} holds no {what}: in line {line} it is {depth} levels deep.", path=path)


def _refuse_twice(yaml: Any, node: Any, path: Path) -> None:
    """Refuse a key that stands twice: the library would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(yaml, value, path)
    if not isinstance(node, yaml.MappingNode):
        return
    keys = [key.value for key, _ in node.value]
    if twice := [key for key in keys if keys.count(key) > 1]:
        line = node.start_mark.line + 1
        raise UsageError(f"{path}: the key {twice[0]!r} stands twice in line {line} and after it.", path=path)
    for _, value in node.value:
        _refuse_twice(yaml, value, path)
