"""A project: the steps from a network to a calibrated bundle in one file, and which of them are done already."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from .. import __version__
from ..bundle.decoding import MANIFEST
from ..calibrate.yaml_files import read_yaml
from ..errors import DataError, UsageError, unknown_name
from ..files import hash_file, os_errors_explained, read_file, sha256, write_atomically

__all__ = ["DoneSteps", "Project", "ProjectStep", "find_first", "read_done", "read_project", "set_aside", "write_done"]

MOST_BYTES, MOST_STEPS, MOST_DEPTH = 1 << 16, 100, 5
"""How long the file of done steps may be, how many steps there may be, and how deep lies what an option may be a list of."""

MAKE_BUNDLE = ("cascade", "export", "prune")
"""The commands that make a bundle."""

MAKE_VARIANTS = (*MAKE_BUNDLE, "quantize", "keep", "gate")
"""The commands that make a bundle or add to it: where one of them changes, all of them run again, into a new bundle."""

MEASURE = ("calibrate", "bench", "energy", "reuse", "verify", "build")
"""The commands whose results hold on one machine, with the engines that it has."""

OTHERS = ("attach", "train", "report", "fuse", "pack", "sign", "inspect")

PRINTED = ("as_json", "json_schema")
"""Options that a step does not have: `go` itself has them."""

NO_INPUTS = ("output", "bundle", "ask", "checkpoint")
"""Options that name what a step writes."""


class ProjectStep(Struct, frozen=True):
    """A command with its arguments.

    Attributes:
        command: its name.
        arguments: as on the command line, without the command.
        inputs: texts among the arguments that may name files and folders which are read.
        output: what it writes; None if that is the bundle.
    """

    command: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str | None

    @property
    def makes_variant(self) -> bool:
        """True if the step makes the bundle or adds to it."""
        return self.command in MAKE_VARIANTS

    @property
    def makes_bundle(self) -> bool:
        """True if the step makes the bundle, rather than adds to one that is there."""
        return self.command in MAKE_BUNDLE and self.output is None and "--beside" not in self.arguments

    def digest(self) -> str:
        """The command, and the sha256 of everything that decides what the step does, but for the bundle."""
        facts: list[Any] = [__version__, self.arguments, [_digest_input(path) for path in self.inputs]]
        if self.command in MEASURE:
            from ..devices import fingerprint
            from ..runtime.engines import engines

            fields = fingerprint(packages=sorted({engine.PACKAGE for engine in engines().values()}))
            facts.append({field: fields.get(field) for field in ("soc", "module", "cores", "engine")})
        return f"{self.command} {sha256(json.dumps(facts).encode())}"


class Project(Struct, frozen=True):
    """What a project's file says.

    Attributes:
        path: of the file.
        bundle: the bundle that the steps make.
        steps: in the order in which they run.
    """

    path: Path
    bundle: str
    steps: tuple[ProjectStep, ...]

    @property
    def state(self) -> Path:
        """The file that remembers which steps are done."""
        return self.path.with_name(f".{self.path.name}.done")

    def digest_bundle(self) -> str | None:
        """The sha256 of the bundle's manifest; None without a bundle."""
        manifest = Path(self.bundle, MANIFEST)
        return hash_file(manifest) if manifest.is_file() else None


class DoneSteps(Struct, frozen=True):
    """Which steps are done.

    Attributes:
        bundle: the digest of the bundle's manifest after the last of them.
        steps: their digests, as `ProjectStep.digest` gives them.
    """

    bundle: str | None = None
    steps: tuple[str, ...] = ()


def read_project(path: Path, commands: Mapping[str, click.Command]) -> Project:
    """Read a project's file.

    Args:
        path: a YAML file with `bundle`, and `steps`: a list of commands, each with its options by their names.
        commands: the commands that there are.

    Raises:
        UsageError: there is no file, or a command or an option is unknown.
        DataError: the file is not YAML, or holds something else.
        MissingError: it cannot be read, or PyYAML is not installed.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Make one: offramp init.", path=path)
    document = read_yaml(path, "project", most_depth=MOST_DEPTH)
    if not isinstance(document, dict):
        raise DataError(f"{path} holds no project: it has `bundle:` and `steps:`. Make one: offramp init.", path=path)
    if strange := document.keys() - {"bundle", "steps"}:
        raise unknown_name("key", str(min(strange, key=str)), ("bundle", "steps"), path=path)
    bundle, steps = document.get("bundle"), document.get("steps")
    if not isinstance(bundle, str) or not isinstance(steps, list) or not 0 < len(steps) <= MOST_STEPS:
        raise DataError(
            f"{path} holds no project: it has `bundle`, a folder's name, and `steps`, a list. Make one: offramp init.",
            path=path,
        )
    known = {name: command for name, command in commands.items() if name in (*MAKE_VARIANTS, *MEASURE, *OTHERS)}
    return Project(path, bundle, tuple(_read_step(step, bundle, known, path) for step in steps))


def _read_step(step: Any, bundle: str, commands: Mapping[str, click.Command], path: Path) -> ProjectStep:
    """Return a step of `{command: options}`, or of a command's name."""
    if isinstance(step, str):
        step = {step: None}
    if not isinstance(step, dict) or len(step) != 1:
        raise DataError(
            f"{path}: a step is a command with its options, such as `- verify:`, not {step!r:.60}.", path=path
        )
    ((name, options),) = step.items()
    if name not in commands:
        raise unknown_name("step", str(name), commands, path=path)
    if not isinstance(options, dict | None):
        raise DataError(f"{path}: the options of {name} are `name: value`, not {options!r:.60}.", path=path)
    given: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if (known_as := str(key).replace("-", "_")) in given:
            raise DataError(f"{path}: {name} has {key} twice, with a hyphen and with an underscore.", path=path)
        given[known_as] = value
    parameters = {_name_of(each): each for each in commands[name].params if each.name not in PRINTED}
    role = "output" if name in ("cascade", "export", "prune") else "bundle"
    if role in parameters:
        given = {role: bundle} | given
    if strange := [key for key in given if key not in parameters]:
        known = [key.replace("_", "-") for key in parameters]
        raise unknown_name(f"option of {name}", strange[0].replace("_", "-"), known, path=path)
    arguments: list[str] = []
    for key, parameter in parameters.items():
        if key in given:
            arguments += _write_option(parameter, given[key], f"{path}: {key} of {name}", path)
    inputs = tuple(text for key, value in given.items() if key not in NO_INPUTS for text in _texts(value))
    output = given.get("output")
    return ProjectStep(name, tuple(arguments), inputs, None if output in (None, bundle) else str(output))


def _name_of(parameter: click.Parameter) -> str:
    """Return what a file calls a parameter: the long option, or the argument's name."""
    longest = max(parameter.opts, key=len)
    return longest.lstrip("-").replace("-", "_")


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _write_option(parameter: click.Parameter, value: Any, what: str, path: Path) -> list[str]:
    """Return a parameter as on the command line. A list is the values of one that may be repeated, or a text with commas."""
    if any(each is None or isinstance(each, dict | list) for each in (value if isinstance(value, list) else [value])):
        raise DataError(f"{what} is a text, a number, true or false, or a list of these, not {value!r:.60}.", path=path)
    if isinstance(parameter, click.Argument):
        return [f"./{text}" if text.startswith("-") else text for text in _texts(value)]  # else it would be an option
    option = max(parameter.opts, key=len)
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise DataError(f"{what} is true or false, not {value!r:.60}.", path=path)
        return [option] if value else []
    texts = _texts(value) if parameter.multiple else [",".join(_texts(value))]
    return [part for text in texts for part in (option, text)]


def _input_path(text: str) -> Path | None:
    """Return the file or folder that an argument names, as `net.py:network` names net.py; None if it names none."""
    path = Path(text.partition(".py:")[0] + ".py" if ".py:" in text else text)
    try:
        return path if path.exists() else None
    except (OSError, ValueError):  # no path: too long, or with a zero
        return None


def _digest_input(text: str) -> list[Any]:
    """Return what changes when a file or folder does: a file's hash; names, sizes and times of a folder's files.

    With a Python file count those beside and below it, which it may import; with an ONNX file its weights, `net.onnx.data`.
    """
    path = _input_path(text)
    if path is None:
        return [text]
    with os_errors_explained(path, "read"):
        if path.is_dir():
            return [text, sorted(_list_files(path))]
        files = [path]
        if path.suffix == ".py":
            files = list(_list_python(path.parent))
        elif path.suffix == ".onnx":
            files = sorted(each for each in path.parent.iterdir() if each.name.startswith(path.name))
        return [text, [(str(file), hash_file(file)) for file in files if file.is_file()]]


def _list_python(folder: Path) -> Iterator[Path]:
    """Yield the Python files in a folder, and in each folder below that has some."""
    for where, folders, names in os.walk(folder):
        python = sorted(name for name in names if name.endswith(".py"))
        folders[:] = sorted(name for name in folders if python and not name.startswith("."))
        yield from (Path(where, name) for name in python)


def _list_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in folder.rglob("*"):
        if path.is_file():
            facts = path.stat()
            yield str(path.relative_to(folder)), facts.st_size, facts.st_mtime_ns


def read_done(project: Project) -> DoneSteps:
    """Return which steps are done; none where the file is missing or is something else."""
    try:
        document = json.loads(read_file(project.state, most=MOST_BYTES))
        return DoneSteps(document["bundle"], tuple(map(str, document["steps"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return DoneSteps()


def write_done(project: Project, digests: list[str]) -> None:
    """Remember which steps are done."""
    document = {"bundle": project.digest_bundle(), "steps": digests}
    write_atomically(project.state, json.dumps(document, indent=1).encode() + b"\n")


def find_first(project: Project, digests: list[str], done: DoneSteps) -> int:
    """Return the number of the first step that must run: all behind it run, too.

    Args:
        digests: of all steps, as they are now.
        done: which were done before.
    """
    first = next(
        (
            k
            for k, (step, digest) in enumerate(zip(project.steps, digests, strict=True))
            if k >= len(done.steps) or done.steps[k] != digest or (step.output and not Path(step.output).exists())
        ),
        len(project.steps),
    )
    start = next((k for k, step in enumerate(project.steps) if step.makes_bundle), 0)
    is_foreign = project.digest_bundle() != done.bundle
    has_others = any(digest.partition(" ")[0] in MAKE_VARIANTS for digest in done.steps[first:])
    return min(first, start) if is_foreign or has_others else first


def set_aside(project: Project) -> Path | None:
    """Move a bundle that is made anew out of the way, in place of the one before it; return where it lies, if there was one."""
    path = Path(project.bundle)
    before = Path(f"{path}.before")
    if not Path(path, MANIFEST).is_file():
        return None
    with os_errors_explained(path, "write"):
        if Path(before, MANIFEST).is_file():
            shutil.rmtree(before)
        path.rename(before)
    return before
