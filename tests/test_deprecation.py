"""What is deprecated warns users, and is gone after two minor versions."""

import ast
import warnings
from pathlib import Path

import pytest

from offramp import __version__
from offramp.deprecation import DeprecatedWarning, Deprecation

ROOT = Path(__file__).parents[1]
FOLDERS = ("bundle", "calibrate", "cli", "devices", "export", "runtime")


def find_deprecations(sources):
    """Return what the package's sources call deprecated."""
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        Deprecation(
            *map(ast.literal_eval, call.args), **{each.arg: ast.literal_eval(each.value) for each in call.keywords}
        )
        for call in calls
        if getattr(call.func, "id", getattr(call.func, "attr", "")) == "Deprecation"
    ]


def find_outlived(deprecations, version):
    """Return what was to be gone in a version."""

    def key(text):
        return tuple(map(int, text.split(".")[:2]))

    return [each.what for each in deprecations if key(version) >= key(each.gone_in)]


def test_nothing_deprecated_has_outlived_its_two_minor_versions():
    files = [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    assert find_outlived(find_deprecations(file.read_text() for file in files), __version__) == []


def test_what_has_outlived_them_would_be_found():
    source = 'def load(half=None):\n    Deprecation("load(half=)", since="0.9", instead="Give precision=.").warn()\n'
    (found,) = find_deprecations([source])
    assert found.gone_in == "0.11"
    assert [find_outlived([found], version) for version in ("0.9.0", "0.10.7", "0.11.0", "1.0.0")] == [
        *([], []),
        *(["load(half=)"], ["load(half=)"]),
    ]


def test_python_shows_the_warning_at_the_callers_line():
    def load():
        Deprecation("load(half=)", since="0.2", instead="Give precision=.").warn()

    words = r"^load\(half=\) is deprecated since offramp 0.2 and is gone in 0.4. Give precision=.$"
    with pytest.warns(DeprecatedWarning, match=words) as seen:
        load()
    assert seen[0].filename == __file__ and "load()" in Path(__file__).read_text().splitlines()[seen[0].lineno - 1]
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        for kind in (
            DeprecationWarning,
            PendingDeprecationWarning,
            ImportWarning,
            ResourceWarning,
        ):  # Python's defaults
            warnings.simplefilter("ignore", kind)
        load()
    assert len(shown) == 1
