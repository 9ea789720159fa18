"""What --json prints, held against the JSON Schema that the same command prints."""

import json
from functools import cache
from typing import Any

import jsonschema_rs

from offramp.cli.app import app

LINES = ("power", "top")
"""Commands that print a document a line."""


def command_of(words: list[str]) -> str:
    """Return the command that a command line begins with: `run`, `cache list`."""
    return " ".join(words[: 2 if words[0] == "cache" else 1])


def schema_of(command: str) -> dict[str, Any]:
    """Return the schema that a command prints, from the same function."""
    from offramp.cli.schemas import make_schema

    return make_schema(command)


@cache
def _validator(command: str) -> Any:
    schema = schema_of(command)
    for form in schema["$defs"].values():
        if "properties" in form:
            form["additionalProperties"] = False  # else a field that the schema does not name would pass
    return jsonschema_rs.validator_for(schema)


def check_documents(words: list[str], text: str) -> None:
    """See that what a command line printed with --json is as its command's schema says, field by field."""
    command = command_of(words)
    assert command.split()[0] in app.commands
    for document in text.splitlines() if command in LINES else [text]:
        found = _validator(command).iter_errors(json.loads(document))
        errors = [f"{list(error.instance_path)}: {error.message:.600}" for error in found]
        assert not errors, (command, errors)
