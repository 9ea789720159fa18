"""How the package is laid out and written: faces, folders, names, lengths, and who imports whom."""

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACES = ("bundle", "calibrate", "devices", "devices.meters", "export", "runtime", "serve", "sweep")
"""The packages whose names are public."""

NO_CODE_OF_OURS = {"build", "docs", "samples", "site", "tests"}
"""Folders in the root that hold no part of the package."""

ROOT_MODULES = {"__init__", "__main__", "cache", "deprecation", "errors", "files", "pictures", "progress", "units"}
MOST_BODY_LINES = 60
MOST_FILE_LINES = 400


def list_files():
    """Return the package's files of Python."""
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and folder.name[0] not in "._"]
    inside = [file for folder in folders if folder.name not in NO_CODE_OF_OURS for file in folder.rglob("*.py")]
    return sorted(file.relative_to(ROOT) for file in [*ROOT.glob("*.py"), *inside])


FILES = list_files()
TREES = {file: ast.parse((ROOT / file).read_text()) for file in FILES}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def face_of(name):
    """Return the package of that name and the tree of its `__init__.py`."""
    return importlib.import_module(f"offramp.{name}"), TREES[Path(*name.split("."), "__init__.py")]


def is_for_types(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def imports_of(nodes, *, within):
    """Return the names that statements import from modules of offramp, with these modules, dots as `late_names` takes them.

    `within` leaves out modules of other packages.
    """
    statements = [
        node for node in nodes if isinstance(node, ast.ImportFrom) and (node.level == 1 or (node.level and not within))
    ]
    return {
        alias.asname or alias.name: "." * (node.level - 1) + str(node.module)
        for node in statements
        for alias in node.names
    }


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_there_and_documented(face):
    module, _ = face_of(face)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        thing = getattr(module, name)
        assert thing.__doc__, name


@pytest.mark.parametrize("face", FACES)
def test_a_face_shows_every_public_function_and_class_that_it_imports_or_defines(face):
    module, tree = face_of(face)
    late = [node for statement in tree.body if is_for_types(statement) for node in statement.body]
    defined = {node.name for node in tree.body if isinstance(node, FUNCTION | ast.ClassDef)}
    names = {*imports_of([*tree.body, *late], within=True), *defined}
    assert {name for name in names if not name.startswith("_")} <= set(module.__all__)


@pytest.mark.parametrize("face", FACES)
def test_names_that_are_loaded_late_come_from_where_type_checkers_see_them(face):
    module, tree = face_of(face)
    seen = imports_of(
        [node for statement in tree.body if is_for_types(statement) for node in statement.body], within=False
    )
    get = getattr(module, "__getattr__", None)
    assert seen == (inspect.getclosurevars(get).nonlocals["homes"] if get else {})


def test_every_folder_of_the_package_is_installed():
    (text,) = re.findall(
        r"^\[tool\.setuptools\]$.*?^packages = (\[.*?\])$", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    folders = {".".join(("offramp", *file.parent.parts)) for file in FILES if file.name == "__init__.py"}
    assert ast.literal_eval(text) == sorted(folders)
    assert not [file for file in FILES if not (ROOT / file).with_name("__init__.py").exists()]


def test_the_root_holds_only_what_every_folder_uses():
    assert {file.stem for file in FILES if len(file.parts) == 1} == ROOT_MODULES


def test_no_class_name_is_defined_twice():
    places = defaultdict(list)
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_module_bears_the_name_of_a_public_function():
    functions = {
        node.name: str(file)
        for file, tree in TREES.items()
        for node in tree.body
        if isinstance(node, FUNCTION) and not node.name.startswith("_") and file.parts[0] != "cli"
    }
    modules = [file for file in FILES if file.parts[0] != "cli"]  # where a command's file is called as the command
    assert {str(file): functions[file.stem] for file in modules if file.stem in functions} == {}


def count_body_lines(function):
    """Return how many lines a function's body has, its docstring left out."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


def test_no_function_is_longer_than_a_screen():
    long = {
        f"{file}:{node.lineno} {node.name}": count_body_lines(node)
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION) and count_body_lines(node) > MOST_BODY_LINES
    }
    assert long == {}


def test_no_file_is_longer_than_a_reader_holds_in_mind():
    lengths = {str(file): len((ROOT / file).read_text().splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > MOST_FILE_LINES} == {}


PLANTED = {
    "runtime.chain": "offramp.export.pipeline",
    "export.capture": "offramp.export.variants.quantization",
    "calibrate.search": "offramp.calibrate.pipeline",
    "devices.meters": "torch",
}
"""By package, an import that a module in it must not have."""


def test_an_import_in_a_forbidden_direction_is_refused(tmp_path):
    """In a copy of the package with such imports; any other that is refused stands in the package itself."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("needs import-linter: make lint installs it")
    for file in FILES:
        (tmp_path / "offramp" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / "offramp" / file)
    for package, imported in PLANTED.items():
        (tmp_path / "offramp" / package.replace(".", "/") / "planted.py").write_text(f"import {imported}\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [program, "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    starts = re.findall(r"^-\s+(offramp\.\S+) -> (\S+)", done.stdout.partition("Broken contracts")[2], re.M)
    refused = set(starts)  # of each chain of imports the first
    assert refused == {(f"offramp.{package}.planted", imported) for package, imported in PLANTED.items()}
