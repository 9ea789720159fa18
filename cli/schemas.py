"""The version of each --json document, and --json-schema, which prints what is in it."""

import math
from typing import Any

import click
import msgspec

__all__ = ["add_json_schema", "encode_document", "make_schema"]

VERSION = 1
"""Goes up where something of a document is renamed or taken away; fields that are added leave it."""

BY_NAME = ("reuse",)
"""Commands whose document holds something by the names of points, and has no fields of its own."""

NOT_FINITE = {"enum": ["inf", "-inf", "nan"]}
"""Numbers that JSON has not."""


def add_json_schema(command: click.Command) -> None:
    """Give a command that has --json the option --json-schema."""
    if any("--json" in option.opts for option in command.params):
        command.params.append(
            click.Option(
                ["--json-schema"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_print_schema,
                help="Print the JSON Schema of what --json prints, and do nothing else.",
            )
        )


def encode_document(result: Any) -> str:
    """Return a result as one JSON document, in which what is no finite number is the text "inf", "-inf" or "nan".

    A document with fields has `schema`: of a manifest and a calibration the number of the bundle's format, of others
    `offramp.COMMAND/1`.
    """
    document = _name_numbers(msgspec.to_builtins(result))
    context = click.get_current_context(silent=True)
    if isinstance(document, dict) and context is not None and _words(context) not in BY_NAME:
        document = {"schema": _name_schema(_words(context))} | document
    return msgspec.json.encode(document).decode()


def _name_numbers(value: Any) -> Any:
    """Return a document with texts in place of floats that JSON has not, and which would be null as if they were unknown."""
    if isinstance(value, dict):
        return {key: _name_numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_name_numbers(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _words(context: click.Context) -> str:
    """Return the command of a context, such as `cache list`."""
    return context.command_path.partition(" ")[2]


def _name_schema(words: str) -> str:
    return f"offramp.{words.replace(' ', '.')}/{VERSION}"


def _print_schema(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        click.echo(msgspec.json.format(msgspec.json.encode(make_schema(_words(ctx)))).decode())
        ctx.exit()


def make_schema(words: str) -> dict[str, Any]:
    """Return the JSON Schema of what a command, such as `cache list`, prints with --json.

    Raises:
        MissingError: the extra `onnx` is missing, some of whose types are in documents.
    """
    from .documents import DOCUMENTS

    parts, components = msgspec.json.schema_components(DOCUMENTS[words], ref_template="#/$defs/{name}")
    defs = _allow_not_finite(components)
    for part in parts:
        inner = defs.get(str(part.get("$ref")).rpartition("/")[2])
        if inner is not None and "schema" not in inner["properties"]:
            inner["properties"] = {"schema": {"const": _name_schema(words)}} | inner["properties"]
            inner["required"] = ["schema", *inner["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _name_schema(words),
        **(_allow_not_finite(parts[0]) if len(parts) == 1 else {"anyOf": _allow_not_finite(parts)}),
        "$defs": defs,
    }


def _allow_not_finite(schema: Any) -> Any:
    """Return a schema whose numbers may be texts, as `encode_document` writes those that are not finite."""
    if isinstance(schema, dict):
        inner = {key: _allow_not_finite(each) for key, each in schema.items()}
        return {"anyOf": [inner, NOT_FINITE]} if schema.get("type") == "number" else inner
    return [_allow_not_finite(each) for each in schema] if isinstance(schema, (list, tuple)) else schema
