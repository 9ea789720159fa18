"""What the bytes of a graph say in numbers: operators with their settings, and weights. Without the package `onnx`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .graph_bytes import (
    GRAPH,
    INITIALIZER,
    INPUT,
    NODE,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OUTPUT,
    VALUE,
    VALUE_NAME,
    WEIGHT_NAME,
    Field,
    Graph,
    GraphNode,
    read_fields,
    read_graph,
    read_node,
    read_text,
    read_varint,
    write_field,
    write_number,
)

__all__ = [
    "Operator",
    "edit_nodes",
    "inline_weights",
    "read_array",
    "read_model",
    "read_operator",
    "take_floats",
    "without_unread_inputs",
    "write_array",
    "write_node",
]

OPERATOR_TYPE, DOMAIN = 4, 7
"""Fields of a node."""

ATTRIBUTE_NAME, FLOAT, INTEGER, STRING, TENSOR, FLOATS, INTEGERS, ATTRIBUTE_TYPE = 1, 2, 3, 4, 5, 7, 8, 20
"""Fields of an attribute."""

INTEGERS_TYPE = 7
"""What the type of an attribute with several whole numbers is called."""

DIMS, DATA_TYPE, FLOAT_DATA, INT32_DATA, INT64_DATA, RAW_DATA, DOUBLE_DATA = 1, 2, 4, 5, 7, 9, 10
EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of a weight."""

ELEMENT_TYPE = 2, 1, 1
"""Fields that lead from an input to its dtype."""

DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
"""NumPy's dtypes by the numbers that ONNX has for them."""


class Operator(NamedTuple):
    """A node: its operator, what it reads and makes by name (empty where nothing is given), and its settings."""

    kind: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    settings: dict[str, Any]


def read_model(model: bytes) -> Graph:
    """Return the graph of a model.

    Raises:
        ValueError: it is no ONNX model.
    """
    for field in read_fields(model):
        if field.number == GRAPH:
            return read_graph(field.content)
    raise ValueError("there is no graph")


def read_operator(node: GraphNode) -> Operator:
    """Return what a node does. One of a domain of its own is called `domain.Operator`. Graphs inside it are left out.

    Raises:
        ValueError: the bytes are no node.
    """
    kind = domain = ""
    reads, makes, settings = list[str](), list[str](), dict[str, Any]()
    for field in read_fields(node.content):
        if field.number == NODE_INPUT:
            reads.append(field.content.decode())
        elif field.number == NODE_OUTPUT:
            makes.append(field.content.decode())
        elif field.number == OPERATOR_TYPE:
            kind = field.content.decode()
        elif field.number == DOMAIN:
            domain = field.content.decode()
        elif field.number == NODE_ATTRIBUTE:
            settings[read_text(field.content, ATTRIBUTE_NAME).decode()] = _read_setting(field.content)
    return Operator(f"{domain}.{kind}" if domain else kind, tuple(reads), tuple(makes), settings)


def _read_setting(attribute: bytes) -> Any:
    """Return the value of an attribute; None for a graph."""
    several: list[float] = []
    for field in read_fields(attribute):
        if field.number == FLOAT:
            return float(np.frombuffer(field.whole[-4:], "<f4")[0])
        if field.number == INTEGER:
            return _read_integer(field)
        if field.number == STRING:
            return field.content.decode()
        if field.number == TENSOR:
            return read_array(field.content)
        if field.number == FLOATS:
            packed = field.content if field.whole[0] & 7 == 2 else field.whole[-4:]
            several += np.frombuffer(packed, "<f4").tolist()
        elif field.number == INTEGERS:
            several += _read_integers(field)
    return several or None


def read_array(weight: bytes, external: bytes = b"") -> np.ndarray:
    """Return the array of a weight, whose data may lie in a file of that content.

    Raises:
        ValueError: its dtype is not known, or the data is of another size.
    """
    fields = list(read_fields(_inline(weight, external)))
    shape = [number for field in fields if field.number == DIMS for number in _read_integers(field)]
    code = next((_read_integer(field) for field in fields if field.number == DATA_TYPE), 0)
    if code not in DTYPES:
        raise ValueError(f"{code} is no dtype that is known")
    dtype = np.dtype(DTYPES[code])
    for field in fields:
        if field.number == RAW_DATA or (field.number, code) in ((FLOAT_DATA, 1), (DOUBLE_DATA, 11)):
            return np.frombuffer(field.content, dtype).reshape(shape)
    numbers = [n for f in fields if f.number in (INT32_DATA, INT64_DATA) for n in _read_integers(f)]
    if code == 10:
        return np.array(numbers, np.uint16).view(dtype).reshape(shape)
    return np.array(numbers, dtype).reshape(shape)


def inline_weights(model: bytes, external: bytes) -> bytes:
    """Return a model that holds its weights itself, of which some lie in a file of that content.

    Raises:
        ValueError: the file is too short for them.
    """
    whole = []
    for field in read_fields(model):
        if field.number != GRAPH:
            whole.append(field.whole)
            continue
        parts = (
            write_field(INITIALIZER, _inline(part.content, external)) if part.number == INITIALIZER else part.whole
            for part in read_fields(field.content)
        )
        whole.append(write_field(GRAPH, b"".join(parts)))
    return b"".join(whole)


def without_unread_inputs(model: bytes) -> bytes:
    """Return a model without the inputs that none of its nodes reads."""
    read = {name for node in read_model(model).nodes for name in (*node.reads, *node.inner_reads)}
    whole = []
    for field in read_fields(model):
        if field.number == GRAPH:
            parts = [
                f for f in read_fields(field.content) if f.number != INPUT or read_text(f.content, VALUE_NAME) in read
            ]
            whole.append(write_field(GRAPH, b"".join(part.whole for part in parts)))
        else:
            whole.append(field.whole)
    return b"".join(whole)


def take_floats(model: bytes, names: Collection[str]) -> bytes:
    """Return a model whose inputs of those names are float32, as is what was cast to float32 behind them."""
    float32 = next(number for number, dtype in DTYPES.items() if dtype == "<f4")
    whole = []
    for field in read_fields(edit_nodes(model, lambda node: _drop_cast(node, float32))):
        if field.number != GRAPH:
            whole.append(field.whole)
            continue
        parts = []
        for part in read_fields(field.content):
            if part.number == INPUT and read_text(part.content, VALUE_NAME).decode() in names:
                parts.append(write_field(INPUT, _replace(part.content, ELEMENT_TYPE, float32)))
            elif part.number != VALUE:  # whose dtypes no longer hold
                parts.append(part.whole)
        whole.append(write_field(GRAPH, b"".join(parts)))
    return b"".join(whole)


def _drop_cast(node: GraphNode, to: int) -> bytes | None:
    kind, reads, makes, settings = read_operator(node)
    return write_node("Identity", reads, makes[0]) if kind == "Cast" and settings.get("to") == to else None


def _replace(message: bytes, path: Sequence[int], value: int) -> bytes:
    """Return a message with another number in a field, to which a path of fields leads."""
    first, *rest = path
    new = [
        field.whole
        if field.number != first
        else write_field(first, _replace(field.content, rest, value))
        if rest
        else write_number(first, value)
        for field in read_fields(message)
    ]
    return b"".join(new)


def _inline(weight: bytes, external: bytes) -> bytes:
    """Return a weight with its external data in it."""
    fields = list(read_fields(weight))
    entries = {read_text(f.content, 1): read_text(f.content, 2) for f in fields if f.number == EXTERNAL_DATA}
    if not entries:
        return weight
    start, length = int(entries.get(b"offset", b"0")), int(entries[b"length"])
    if start < 0 or length < 0 or start + length > len(external):
        raise ValueError(f"a weight ends at byte {start + length} of {len(external)}")
    kept = [field.whole for field in fields if field.number not in (EXTERNAL_DATA, DATA_LOCATION)]
    return b"".join([*kept, write_field(RAW_DATA, external[start : start + length])])


def _read_integers(field: Field) -> Iterator[int]:
    """Yield the numbers of a field that has several, packed or one by one."""
    if field.whole[0] & 7 == 0:
        yield _read_integer(field)
    at = 0
    while at < len(field.content):
        value, at = read_varint(field.content, at)
        yield _signed(value)


def _read_integer(field: Field) -> int:
    _, at = read_varint(field.whole, 0)
    return _signed(read_varint(field.whole, at)[0])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def edit_nodes(model: bytes, edit: Callable[[GraphNode], bytes | None]) -> bytes:
    """Return a model in which some nodes are replaced by fields of a graph, as `write_node` and `write_array` make them."""
    whole = []
    for field in read_fields(model):
        if field.number != GRAPH:
            whole.append(field.whole)
            continue
        parts = []
        for part in read_fields(field.content):
            new = edit(read_node(part.content)) if part.number == NODE else None
            parts.append(part.whole if new is None else new)
        whole.append(write_field(GRAPH, b"".join(parts)))
    return b"".join(whole)


def write_node(
    kind: str, reads: Sequence[str], makes: str, like: GraphNode | None = None, **integers: list[int]
) -> bytes:
    """Return a graph's field with a node that has the settings of another one, but for lists of numbers that are given."""
    texts = [*((NODE_INPUT, name) for name in reads), (NODE_OUTPUT, makes), (OPERATOR_TYPE, kind)]
    written = [write_field(number, text.encode()) for number, text in texts]
    for field in read_fields(like.content) if like is not None else ():
        if field.number == NODE_ATTRIBUTE and read_text(field.content, ATTRIBUTE_NAME).decode() not in integers:
            written.append(field.whole)
    for name, values in integers.items():
        numbers = b"".join(write_number(INTEGERS, value) for value in values)
        setting = write_field(ATTRIBUTE_NAME, name.encode()) + numbers + write_number(ATTRIBUTE_TYPE, INTEGERS_TYPE)
        written.append(write_field(NODE_ATTRIBUTE, setting))
    return write_field(NODE, b"".join(written))


def write_array(name: str, values: Sequence[int]) -> bytes:
    """Return a graph's field with a weight of whole numbers."""
    fields = [write_number(DIMS, len(values)), write_number(DATA_TYPE, 7), write_field(WEIGHT_NAME, name.encode())]
    return write_field(INITIALIZER, b"".join([*fields, write_field(RAW_DATA, np.array(values, "<i8").tobytes())]))
