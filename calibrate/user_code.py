"""Functions in a user's Python file, named `file.py:function`."""

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import MissingError, ModelError, OfframpError, UsageError, unknown_name
from ..runtime.engines._stdout import printing_to_stderr

__all__ = ["call_function", "executing", "read_callable", "read_function"]

_neighbours: dict[Path, dict[str, ModuleType]] = {}
"""By folder, the modules that files in it imported from it, by name."""


def read_function(source: str) -> Any:
    """Import a file and return what it calls by a name: `file.py:function`.

    The file's folder is on the import path while it runs, so that it may import its neighbours. Files and neighbours of the same
    name in several folders are modules of their own.

    Raises:
        UsageError: there is no such file or function.
        ModelError: the file fails; the message names the line.
        MissingError: it runs out of memory.
    """
    name, _, function = source.rpartition(":")
    path = Path(name)
    if not name:
        raise UsageError(f"{source} names no function: write file.py:function.", path=Path(source))
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", path=path)
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"offramp_source_{path.stem}_{digest}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with executing(source):
        spec.loader.exec_module(module)
    target = getattr(module, function, None)
    if target is None or isinstance(target, ModuleType):
        raise unknown_name(
            f"function in {path}", function, [key for key, value in vars(module).items() if callable(value)]
        )
    return target


def read_callable(source: str, what: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` names, which messages call `what`.

    Raises:
        UsageError, ModelError, MissingError: as for `read_function`, or it is no function.
    """
    target = read_function(source)
    if not callable(target):
        raise UsageError(f"The {what} {source} is no function: it is {type(target).__name__}.")
    found: Callable[..., Any] = target
    return found


def call_function(source: str) -> Any:
    """Call `file.py:function` without arguments and return what it returns. What is no function is returned itself.

    Raises:
        UsageError, ModelError, MissingError: as for `read_function`, or the function fails.
    """
    target = read_function(source)
    with executing(source):
        return target() if _is_function(target) else target


@contextlib.contextmanager
def executing(source: str) -> Iterator[None]:
    """Have the folder of `file.py:function` on the import path, and what it prints on stderr, since stdout is for results.

    Raises:
        ModelError: what runs meanwhile fails; the message names the line.
        MissingError: it runs out of memory.
    """
    path = Path(source.rpartition(":")[0]).resolve()
    sys.path.insert(0, str(path.parent))
    before = _bring_neighbours(path.parent)
    try:
        with printing_to_stderr():
            yield
    except OfframpError:
        raise
    except MemoryError as error:
        raise MissingError(f"{source} ran out of memory{_show_line(error, path)}.", path=path) from error
    except (Exception, SystemExit) as error:  # a script may end with sys.exit()
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{source} failed{_show_line(error, path)}: {reason}", path=path) from error
    finally:
        sys.path.remove(str(path.parent))
        new = [(name, module) for name, module in list(sys.modules.items()) if name not in before]
        found = {name: module for name, module in new if _is_neighbour(name, module, path.parent)}
        _neighbours.setdefault(path.parent, {}).update(found)


def _bring_neighbours(folder: Path) -> set[str]:
    """Have imports mean the files of a folder, also where a file of another folder has the same name and was imported before.

    Returns:
        The names of the modules that are imported now.
    """
    for other, modules in _neighbours.items():
        for name, module in modules.items():
            top = folder / name.partition(".")[0]
            is_here = top.is_dir() or top.with_name(f"{top.name}.py").is_file()
            if other != folder and is_here and sys.modules.get(name) is module:
                del sys.modules[name]
    for name, module in _neighbours.get(folder, {}).items():
        sys.modules.setdefault(name, module)
    return set(sys.modules)


def _is_neighbour(name: str, module: ModuleType, folder: Path) -> bool:
    """Return whether a module comes from a folder: `layers` or `layers.conv`, but not what lies in an environment there."""
    spec = getattr(module, "__dict__", {}).get("__spec__")  # what is no module may stand in sys.modules too
    files = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    top = name.partition(".")[0]
    return top != __name__.partition(".")[0] and any(
        Path(file).is_relative_to(folder / top) or Path(file) == folder / f"{top}.py" for file in files if file
    )


def _is_function(target: Any) -> bool:
    """Return whether what a name means is to be called: a function or a class, not a network, a loader or an array."""
    is_network = hasattr(target, "state_dict") and hasattr(target, "parameters")
    return isinstance(target, type) or (callable(target) and not is_network)


def _show_line(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f" in line {lines[-1]}" if lines else ""
