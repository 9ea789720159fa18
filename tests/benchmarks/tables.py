"""Tables in Markdown from rows of JSON."""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

ENGINES = {
    "cpu": "ONNX Runtime",
    "openvino:CPU": "OpenVINO",
    "mnn:cpu": "MNN",
    "litert:cpu": "LiteRT",
    "ncnn:cpu": "ncnn",
}

SHOW = {
    "u": lambda seconds: f"{seconds * 1e6:,.1f}",
    "m": lambda size: f"{size / 1e6:.2f}",
    "l": lambda shares: " ".join(f"{share:.1%}" for share in shares),
    "e": lambda device: ENGINES.get(device, device),
}


class Form(string.Formatter):
    """Formats values: besides what Python knows, `!u` is seconds in us, `!m` bytes in MB, `!l` shares, `!e` a device's engine."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return SHOW[conversion](value) if conversion else value


show = Form().format


def table(rows: Iterable[dict[str, Any]], heads: str, cells: str) -> str:
    """Return a table in Markdown from its heads and how they show a row, both divided by ` | `; what a row lacks is a dash.

    Columns of numbers, but for the first, are aligned to the right.
    """

    def cell(row: dict[str, Any], form: str) -> str:
        try:
            return show(form, **row)
        except (KeyError, TypeError):
            return "-"

    shown = [[cell(row, form) for form in cells.split(" | ")] for row in rows]
    numbers = [all(re.match(r"[-+\d]", text) for text in column) for column in zip(*shown, strict=True)][1:]
    lines = [heads.split(" | "), ["---", *("---:" if number else "---" for number in numbers)], *shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
