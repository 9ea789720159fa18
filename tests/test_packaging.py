"""What is installed with offramp, and that every command answers -h with the smallest of it."""

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import offramp
from offramp.cli.app import app
from offramp.errors import DISTRIBUTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

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
PACKAGES = ("bundle", "calibrate", "cli", "devices", "export", "fleet", "runtime", "serve", "sweep")
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


def test_whatever_is_named_as_missing_is_installed_by_the_extra_that_is_named():
    root = Path(offramp.__file__).parent
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def brought(extra):
        lines = [Requirement(line) for line in extras[extra]]
        own = {canonicalize_name(line.name) for line in lines if line.name != "offramp"}
        return own.union(*(brought(other) for line in lines if line.name == "offramp" for other in line.extras))

    files = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] in PACKAGES]
    needed = [
        pair for path in files for pair in re.findall(r'require\(f?"([\w.]+?)[.{"].*?extra="(\w+)"', path.read_text())
    ]
    assert len(needed) > 40
    for module, extra in needed:
        name = {"dask": "distributed"}.get(module) or DISTRIBUTIONS.get(module, module)  # distributed brings dask
        assert canonicalize_name(name) in brought(extra), f"{name} of {module} is not in the extra {extra}"


MISSED = {
    "calibrate absent.offramp absent.npz": ("scipy", "calibrate"),
    "bench absent.offramp absent.npz --groups 1": ("scipy", "calibrate"),
    "prune absent.py:network --data absent.npz -o absent.offramp": ("torch-pruning", "compress"),
    "serve absent.offramp": ("uvicorn", "serve"),
    "report absent.offramp -o report.html": ("jinja2", "report"),
}
"""By command line, the package that it misses before it looks for its files, and the extra that has it."""


def test_a_package_that_a_command_takes_is_missed_before_it_works():
    code = f"""if True:
        import sys
        class Hidden:
            def find_spec(name, path=None, target=None):
                if name in ("scipy", "torch_pruning", "uvicorn", "jinja2"):
                    raise ModuleNotFoundError(name=name)
        sys.meta_path.insert(0, Hidden)
        from offramp.cli.app import exit_code_of
        assert [exit_code_of(line.split()) for line in {list(MISSED)!r}] == [4] * {len(MISSED)}
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == [
        f"Error: The package {name} is not installed. Install it with: pip install 'offramp[{extra}]'"
        for name, extra in MISSED.values()
    ]
    assert done.returncode == 0


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
