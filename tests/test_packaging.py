"""What is installed with offramp, and that every command answers -h with the smallest of it."""

import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offramp.cli.app import app

HEAVY = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "scipy",
    "PIL",
    "yaml",
    "matplotlib",
    "torch_pruning",
)
MOST = 12
"""So many packages beyond an engine's own a product may get."""


def closure(text, found=None):
    """Every package that installing a requirement brings, by the metadata of what is installed here."""
    found = set() if found is None else found
    wanted = Requirement(text)
    key = canonicalize_name(wanted.name), frozenset(wanted.extras)
    if key in found:
        return found
    found.add(key)
    for line in requires(wanted.name) or ():
        needed = Requirement(line)
        extras = wanted.extras or {""}
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            closure(f"{needed.name}[{','.join(needed.extras)}]" if needed.extras else needed.name, found)
    return found


@pytest.mark.parametrize("extra", ["onnxruntime", "openvino"])
def test_a_product_gets_few_packages_beyond_those_of_its_engine(extra):
    ours = {name for name, _ in closure(f"offramp[{extra}]")}
    engine = {name for name, _ in closure(extra)}
    assert extra in ours and len(ours - engine - {"offramp"}) <= MOST


def test_every_command_answers_h_where_no_extra_is_installed():
    code = (
        f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
        "import click\nfrom offramp.cli.app import app\n"
        "assert 'offramp.bundle' not in sys.modules, 'which takes a fifth of the time'\n"
        "for name, command in app.commands.items():\n"
        "    print(name, len(command.get_help(click.Context(command, info_name=name))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(app.commands)
