"""What mkdocs does besides rendering: it finds the package, generates references, and leaves out pages that are not there."""

import atexit
import importlib
import inspect
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import griffe
import msgspec
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
GUIDES = {"devices/jetson.md": "samples/jetson/README.md", "devices/npu.md": "samples/npu/README.md"}
"""Pages that lie elsewhere in the repository."""

SEVERAL = re.compile(r"^( *)(\w+(?:, \w+)+): (.*\n(?:\1    .*\n)*)", re.M)
"""An item of a docstring that describes several names at once."""


@cache
def link_package() -> str:
    """Make a folder in which the package lies under its name, without what else is in the repository."""
    folder = Path(tempfile.mkdtemp(prefix="offramp-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = folder / "offramp"
    package.mkdir()
    for entry in ROOT.iterdir():
        if entry.suffix == ".py" or (entry / "__init__.py").exists():
            (package / entry.name).symlink_to(entry)
    sys.path.insert(0, str(folder))
    return str(folder)


def on_startup(**_: Any) -> None:
    """Find the package, before plugins look for it."""
    link_package()


def on_config(config: Any) -> Any:
    """Leave out of the navigation what is not there."""
    config.nav = _existing(config.nav)
    return config


def _existing(entries: list[Any]) -> list[Any]:
    kept = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, inside),) = entry.items()
            inside = _existing(inside if isinstance(inside, list) else [inside])
            kept += [{title: inside[0] if inside == list(entry.values()) else inside}] if inside else []
        elif (ROOT / GUIDES.get(entry, f"docs/{entry}")).exists():
            kept.append(entry)
    return kept


def on_files(files: Any, config: Any) -> Any:
    """Add the guides. Their links lead to files beside them, which the site does not have."""
    for page, source in GUIDES.items():
        if (ROOT / source).exists():
            text = re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", (ROOT / source).read_text())
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is generated in the place of `{{ fields Struct }}`, `{{ api package }}`, and of the names of other makers.

    Links of the how-to pages to the guides lead to where they lie in the repository, and here to their pages.
    """
    makers: dict[str, Callable[..., str]] = {
        "fields": fields_table,
        "api": list_public,
        "errors": errors_table,
        "metrics": metrics_table,
        "commands": describe_commands,
    }

    def make(found: re.Match[str]) -> str:
        name, *arguments = found[1].split()
        return makers[name](*arguments)

    for page, source in GUIDES.items():
        markdown = markdown.replace(f"](../../{source}", f"](../{page}")
    return re.sub(r"\{\{ (.+?) \}\}", make, markdown)


def list_public(package: str) -> str:
    """Return what a package offers, for mkdocstrings: each name by the module that defines it, since packages load names late."""
    module = importlib.import_module(package)
    return "\n".join(f"::: {getattr(module, name).__module__}.{name}" for name in module.__all__)


def errors_table() -> str:
    """Return a table of the errors, with the exit code of the command line."""
    from offramp import errors

    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.OfframpError)]
    rows = [
        f"| `{one.__name__}` | `{one.__mro__[1].__name__}` | {one.exit_code} | {(one.__doc__ or '').partition(chr(10))[0]} |"
        for one in kinds
    ]
    return "\n".join(["| error | is a | exit code | raised for |", "|---|---|---|---|", *rows])


def metrics_table() -> str:
    """Return a table of the metrics of a product, by their names at Prometheus."""
    from offramp.runtime.metrics.families import FAMILIES

    rows = [f"| `{one.full_name}` | {', '.join(one.labels)} | {one.help} |" for one in FAMILIES]
    return "\n".join(["| name | labels, beside `net` | what it is |", "|---|---|---|", *rows])


def describe_commands() -> str:
    """Return a section for each command: what it does, and its options as its help shows them."""
    from offramp.cli.app import app

    return "\n".join(_describe_command(app, click.Context(app, info_name="offramp"), 2))


def _describe_command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    records = [one.get_help_record(context) for one in command.params if isinstance(one, click.Option)]
    options = [f"| `{option}` | {said} |" for option, said in filter(None, records)]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'#' * level} {context.command_path}\n\n{inspect.cleandoc(command.help or '')}\n\n```text\n{usage}\n```\n"
    if options:
        yield "\n".join(["| option | |", "|---|---|", *options, ""])
    if command.epilog:  # its examples
        yield "```text\n{}\n```\n".format(command.epilog.removeprefix("\b\n"))
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _describe_command(inner, click.Context(inner, info_name=name, parent=context), level + 1)


def fields_table(path: str) -> str:
    """Return what a struct is, and a table of its fields: types, constraints, defaults and what they mean."""
    module, name = path.rsplit(".", 1)
    struct = getattr(importlib.import_module(module), name)
    said, meanings = "", {}
    docstring = griffe.Docstring(split_names(struct.__doc__), lineno=1)
    for section in griffe.parse_google(docstring, warnings=False):
        if section.kind is griffe.DocstringSectionKind.attributes:
            meanings = {one.name: " ".join(one.description.split()) for one in section.value}
        elif section.kind is griffe.DocstringSectionKind.text:
            said += section.value
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    if missing := [field.name for field in info.fields if field.name not in meanings]:
        raise ValueError(f"the docstring of {path} does not say what {', '.join(missing)} mean")
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for field in info.fields:
        made = field.default_factory is not msgspec.NODEFAULT
        default = "" if field.required else f", default {_json(field.default_factory() if made else field.default)}"
        rows.append(f"| `{field.encode_name}` | {describe(field.type)}{default} | {meanings[field.name]} |")
    return re.sub(r"`?\bNone\b`?", "`null`", "\n".join([said, "", *rows]))


def describe(kind: msgspec.inspect.Type) -> str:
    """Say in words what JSON a type of msgspec allows."""
    info = msgspec.inspect
    match kind:
        case info.IntType():
            return f"integer{_limits(kind)}"
        case info.FloatType():
            return f"number{_limits(kind)}"
        case info.StrType():
            return f"string `{kind.pattern}`" if kind.pattern else "string, not empty" if kind.min_length else "string"
        case info.BoolType():
            return "boolean"
        case info.NoneType():
            return "null"
        case info.LiteralType():
            return ", ".join(map(_json, kind.values))
        case info.UnionType():
            return " or ".join(sorted(map(describe, kind.types), key=lambda text: text == "null"))
        case info.VarTupleType():
            return f"array of {describe(kind.item_type)}{_limits(kind)}"
        case info.TupleType():
            return f"array of {len(kind.item_types)}: {', '.join(map(describe, kind.item_types))}"
        case info.DictType():
            return f"object by name, of {describe(kind.value_type)}{_limits(kind)}"
        case info.StructType():
            return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
    raise TypeError(f"tables of fields do not know {kind}")


def _limits(kind: msgspec.inspect.Type) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least"}
    found = {sign: getattr(kind, name, None) for name, sign in signs.items()}
    return "".join(f", {sign} {value}" for sign, value in found.items() if value is not None)


def _json(value: Any) -> str:
    return f"`{msgspec.json.encode(value).decode()}`"


class SplitNames(griffe.Extension):
    """Let a docstring say of several parameters at once what they are: griffe checks and shows one item for each."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Split the docstring of a function."""
        if func.docstring is not None:
            func.docstring.value = split_names(func.docstring.value)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Split the docstring of a class."""
        if cls.docstring is not None:
            cls.docstring.value = split_names(cls.docstring.value)


def split_names(docstring: str) -> str:
    """Repeat items that describe several names, once for each."""

    def split(found: re.Match[str]) -> str:
        indent, names, meaning = found.groups()
        return "".join(f"{indent}{name}: {meaning}" for name in names.split(", "))

    # griffe shows a section as code if it is called `Examples:`, and takes `Example:` for text.
    return re.sub(r"^( *)Example:$", r"\1Examples:", SEVERAL.sub(split, f"{docstring}\n"), flags=re.M)
