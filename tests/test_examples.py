"""The examples in docstrings of all that is public run, each in a folder with a bundle, samples and net.py of its own."""

import doctest
import importlib
import inspect
import shutil
import sys

import numpy as np
import pytest

from offramp.bundle import Target
from offramp.export import export, quantize
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.signing import KeyPair
from offramp.tests.zoo import example_net

FACES = ("bundle", "calibrate", "devices", "export", "fleet", "runtime", "serve", "sweep")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def list_public():
    """Return the functions and classes of every face by their names there."""
    modules = {face: importlib.import_module(f"offramp.{face}") for face in FACES}
    names = {f"{face}.{name}": getattr(module, name) for face, module in modules.items() for name in module.__all__}
    return {name: thing for name, thing in names.items() if inspect.isroutine(thing) or inspect.isclass(thing)}


PUBLIC = list_public()


def find_examples(name):
    """Return the docstrings with examples of a function, or of a class and its methods."""
    return [found for found in doctest.DocTestFinder().find(PUBLIC[name], name, module=False) if found.examples]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that examples start in."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(example_net.__file__, folder / "net.py")
    train, test = example_net.data(), example_net.data(200, seed=1)
    for name, (x, y) in (("train", train), ("test", test)):
        np.savez(folder / f"{name}.npz", x=x, y=y)
    bundle = export(example_net.network(), train[0][:3], folder / "digits.offramp")
    bundle = quantize(bundle, train[0])
    calibrate(bundle, train, Target(max_drop=0.05))
    KeyPair(folder, "release")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of that folder as the current one, where `import net` finds net.py."""
    copy = shutil.copytree(made, tmp_path / "example")
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(copy)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    yield copy
    sys.modules.pop("net", None)


@pytest.mark.parametrize("name", [name for name in PUBLIC if find_examples(name)])
def test_the_examples_of_a_docstring_print_what_they_show(name, folder):
    for example in find_examples(name):
        example.globs.clear()  # as when they are pasted into a fresh Python
        printed: list[str] = []
        doctest.DocTestRunner(optionflags=FLAGS).run(example, out=printed.append)
        assert not printed, "".join(printed)


def test_every_public_function_and_class_has_an_example():
    assert [name for name in PUBLIC if not find_examples(name)] == []
