"""What lies in a folder that a project may begin with: networks and samples, as defaults for questions."""

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LAST", "OTHERS", "TRAINING", "find_network", "find_samples"]

NETWORKS = ("network", "plain", "model", "net")
"""Functions that are likely called so, the likeliest first."""

TRAINING, OTHERS, LAST = ("train", "training"), ("calibration", "val", "validation", "valid", "data"), ("test",)
"""What functions, files and folders of samples are likely called, by what they are for."""

MOST_FILES, MOST_BYTES = 50, 1 << 20
"""So many Python files are looked at, and none that is larger."""


def find_network(folder: Path) -> str | None:
    """Return what is likely the network in a folder: a function in a Python file, or an ONNX file; None if there is none."""
    found = sorted((NETWORKS.index(name), file) for file, name in _list_functions(folder) if name in NETWORKS)
    if found:
        return f"{found[0][1]}:{NETWORKS[found[0][0]]}"
    return next((path.name for path in sorted(folder.glob("*.onnx"))), None)


def find_samples(folder: Path, names: tuple[str, ...]) -> str | None:
    """Return what are likely samples of one kind in a folder: a function, a file or a folder of images; None if there are none.

    Args:
        folder: where to look.
        names: `TRAINING`, `OTHERS` or `LAST`.
    """
    functions = list(_list_functions(folder))
    for name in names:
        for path in (folder / f"{name}.npz", folder / f"{name}.csv", folder / name, folder / "data" / name):
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                return str(path.relative_to(folder))
        if found := next((f"{file}:{each}" for file, each in functions if each == name), None):
            return found
    return None


def _list_functions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the functions in Python files that can be called without arguments, each with its file, without running any."""
    for path in sorted(folder.glob("*.py"))[:MOST_FILES]:
        try:
            if path.stat().st_size > MOST_BYTES:
                continue
            body = ast.parse(path.read_bytes()).body
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for each in body:
            if isinstance(each, ast.FunctionDef):
                given = each.args
                needed = len(given.posonlyargs) + len(given.args) - len(given.defaults) + given.kw_defaults.count(None)
                if not needed:
                    yield path.name, each.name
