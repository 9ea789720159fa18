"""ONNX graphs as the bytes of their files: several joined to one without the package `onnx`, which devices need not have.

A message in the protobuf format is a list of fields: a number, and a content that may be a message again.

    ModelProto  --- 7 ---> GraphProto --- 1 ---> NodeProto --- 5 ---> AttributeProto --- 6, 11 ---> GraphProto
                                      --- 5 ---> TensorProto           11, 12, 13 ---> ValueInfoProto
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct

__all__ = [
    "Graph",
    "GraphNode",
    "join_graphs",
    "read_fields",
    "read_graph",
    "read_node",
    "read_text",
    "read_varint",
    "write_field",
    "write_number",
]

IR_VERSION, GRAPH, OPSET, FUNCTION = 1, 7, 8, 25
"""Fields of a model."""

NODE, NAME, INITIALIZER, INPUT, OUTPUT, VALUE, SPARSE_INITIALIZER = 1, 2, 5, 11, 12, 13, 15
"""Fields of a graph."""

NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_ATTRIBUTE = 1, 2, 3, 5
ATTRIBUTE_GRAPHS = (6, 11)
VALUE_NAME, WEIGHT_NAME = 1, 8

RENAMED = b".joined-graph"
"""What is put behind the names of values that are called like other ones, and the number of their graph."""

MOST_VARINT_BYTES, MOST_FIELDS = 10, 50_000
"""A number is no longer, and a message has no more fields: one of two bytes takes a hundred bytes of memory here."""


class Field(Struct, frozen=True, gc=False):
    """A field of a message.

    Attributes:
        number: which field it is.
        content: the bytes of a text or of a message; empty for a number.
        whole: the bytes with which the message has it.
    """

    number: int
    content: bytes
    whole: bytes


class GraphNode(Struct, frozen=True):
    """A node of a graph, with the names of what it makes, what it reads, and what its branches and loops read."""

    content: bytes
    makes: tuple[bytes, ...]
    reads: tuple[bytes, ...]
    inner_reads: frozenset[bytes]

    def renamed(self, names: Mapping[bytes, bytes]) -> "GraphNode":
        """Return the node with other names for some values.

        Raises:
            ValueError: its branches or loops read one of them.
        """
        if names.keys().isdisjoint((*self.makes, *self.reads, *self.inner_reads)):
            return self
        if not names.keys().isdisjoint(self.inner_reads):
            raise ValueError("a branch or loop reads a value that is called like another one")
        return read_node(_rename(self.content, (NODE_INPUT, NODE_OUTPUT), names))


class Graph(Struct, frozen=True):
    """The parts of a graph; all but the nodes by their names."""

    nodes: list[GraphNode]
    weights: dict[bytes, bytes]
    inputs: dict[bytes, bytes]
    outputs: dict[bytes, bytes]
    values: dict[bytes, bytes]


def join_graphs(models: Sequence[bytes], outputs: Collection[str]) -> bytes:
    """Join the graphs of models, each of which may read what earlier ones make, to one model.

    Nodes that serve none of the outputs are left out. Values inside a graph that are called like other ones get another name.

    Args:
        models: ONNX files whose inputs and outputs are called alike if they are the same; the external data of all lies in one
            file.
        outputs: the names of those outputs that the joined graph has.

    Raises:
        ValueError: a file is no ONNX model, or they cannot be joined: they differ in their opsets, or their names are in the way.
    """
    try:
        files = [list(read_fields(model)) for model in models]
        versions = [sorted(f.whole for f in file if f.number in (IR_VERSION, OPSET, FUNCTION)) for file in files]
        if any(other != versions[0] for other in versions):
            raise ValueError("the graphs have different opsets")
        if any(RENAMED in model for model in models):
            raise ValueError("the graphs hold names that are given to values renamed")
        joined = _join([read_graph(f.content) for file in files for f in file if f.number == GRAPH], outputs)
    except RecursionError:
        raise ValueError("graphs lie in one another too deep") from None
    return b"".join(f.whole for f in files[0] if f.number != GRAPH) + write_field(GRAPH, joined)


def _join(graphs: Sequence[Graph], outputs: Collection[str]) -> bytes:
    """Return the content of a graph made of several."""
    wanted = {name.encode() for name in outputs}
    results = {name: value for graph in graphs for name, value in graph.outputs.items() if name in wanted}
    if missing := wanted - results.keys():
        raise ValueError(f"no graph has the output {min(missing)!r}")
    whole = Graph([], {}, {}, results, {})
    made: dict[bytes, GraphNode] = {}
    for k, graph in enumerate(graphs):
        given = {name for before in graphs[:k] for name in before.outputs}
        whole.inputs.update((name, value) for name, value in graph.inputs.items() if name not in given)
        names: dict[bytes, bytes] = {}
        for name, weight in graph.weights.items():
            if whole.weights.get(name, weight) != weight:
                names[name] = b"%s%s%d" % (name, RENAMED, k)
            new = _rename(weight, (WEIGHT_NAME,), names)
            whole.weights[names.get(name, name)] = new
        for old in graph.nodes:
            node = old.renamed(names)
            known = [made.get(name) for name in node.makes]
            if node in known:  # it serves both graphs
                continue
            if any(known):
                names |= {name: b"%s%s%d" % (name, RENAMED, k) for name in old.makes}
                node = old.renamed(names)
            made.update((name, node) for name in node.makes)
            whole.nodes.append(node)
        if strange := names.keys() & (graph.inputs.keys() | graph.outputs.keys()):
            raise ValueError(f"two values are called {min(strange)!r}")
        for name, value in (graph.outputs | graph.values).items():
            whole.values[names.get(name, name)] = _rename(value, (VALUE_NAME,), names)
    if strange := made.keys() & (whole.inputs.keys() | whole.weights.keys()):
        raise ValueError(f"two values are called {min(strange)!r}")
    return _write_graph(whole)


def _write_graph(graph: Graph) -> bytes:
    """Return the content of a graph, without the nodes and weights that serve none of its outputs."""
    read, kept = set(graph.outputs), list[GraphNode]()
    for node in reversed(graph.nodes):
        if not read.isdisjoint(node.makes):
            kept.append(node)
            read |= {*node.reads, *node.inner_reads}
    made = {name for node in kept for name in node.makes} - graph.outputs.keys()
    return b"".join(
        [
            *(write_field(NODE, node.content) for node in reversed(kept)),
            write_field(NAME, b"joined"),
            *(write_field(INITIALIZER, weight) for name, weight in graph.weights.items() if name in read),
            *(write_field(INPUT, value) for value in graph.inputs.values()),
            *(write_field(OUTPUT, value) for value in graph.outputs.values()),
            *(write_field(VALUE, value) for name, value in graph.values.items() if name in made),
        ]
    )


def read_graph(content: bytes) -> Graph:
    """Return the parts of a graph.

    Raises:
        ValueError: it is none, or a weight is sparse.
    """
    graph = Graph([], {}, {}, {}, {})
    named = {INPUT: graph.inputs, OUTPUT: graph.outputs, VALUE: graph.values}
    for field in read_fields(content):
        if field.number == NODE:
            graph.nodes.append(read_node(field.content))
        elif field.number == INITIALIZER:
            graph.weights[read_text(field.content, WEIGHT_NAME)] = field.content
        elif field.number in named:
            named[field.number][read_text(field.content, VALUE_NAME)] = field.content
        elif field.number == SPARSE_INITIALIZER:
            raise ValueError("a weight is sparse")
    return graph


def read_node(content: bytes) -> GraphNode:
    """Return a node without its own name, since two graphs may call their nodes alike."""
    fields = [field for field in read_fields(content) if field.number != NODE_NAME]
    makes, reads = (
        tuple([f.content for f in fields if f.number == number and f.content]) for number in (NODE_OUTPUT, NODE_INPUT)
    )
    inner = {name for f in fields if f.number == NODE_ATTRIBUTE for name in _inner_reads(f.content)}
    return GraphNode(b"".join([field.whole for field in fields]), makes, reads, frozenset(inner))


def _inner_reads(attribute: bytes) -> Iterator[bytes]:
    """Yield the names that a branch or a loop reads or returns."""
    for field in read_fields(attribute, ATTRIBUTE_GRAPHS):
        for part in read_fields(field.content, (NODE, OUTPUT)):
            if part.number == NODE:
                node = read_node(part.content)
                yield from (*node.reads, *node.inner_reads)
            else:  # a branch may return what was made outside
                yield read_text(part.content, VALUE_NAME)


def _rename(message: bytes, numbers: Sequence[int], names: Mapping[bytes, bytes]) -> bytes:
    """Return a message with other names in its fields of some numbers."""
    if not names:
        return message
    fields = read_fields(message)
    return b"".join(
        write_field(f.number, names.get(f.content, f.content)) if f.number in numbers else f.whole for f in fields
    )


def read_text(message: bytes, number: int) -> bytes:
    """Return the content of a message's field of a number; empty if there is none."""
    return next((field.content for field in read_fields(message, (number,))), b"")


def read_fields(message: bytes, numbers: Collection[int] | None = None) -> Iterator[Field]:
    """Yield the fields of a message, or those of some numbers, for which the others are only passed over.

    Raises:
        ValueError: the bytes are none.
    """
    at, count, end = 0, 0, len(message)
    while at < end:
        start, count = at, count + 1
        if count > MOST_FIELDS:
            raise ValueError(f"a message has more than {MOST_FIELDS} fields")
        tag, begin = message[at], 0
        at += 1
        if tag > 127:
            tag, at = read_varint(message, start)
        kind = tag & 7
        if kind == 2:
            size, at = (message[at], at + 1) if at < end and message[at] < 128 else read_varint(message, at)
            begin, at = at, at + size
        elif kind == 0:
            _, at = read_varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"{kind} is no kind of field")
        if at > end:
            raise ValueError("a field has no end")
        if numbers is None or tag >> 3 in numbers:
            yield Field(tag >> 3, message[begin:at] if begin else b"", message[start:at])


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, seven bits a byte, and the place behind it."""
    if at < len(message) and message[at] < 128:  # as most numbers are
        return message[at], at + 1
    value = 0
    for shift, byte in enumerate(message[at : at + MOST_VARINT_BYTES]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, at + shift + 1
    raise ValueError("a number has no end")


def write_field(number: int, content: bytes) -> bytes:
    """Return a field with a text or message."""
    return _write_varint(number << 3 | 2) + _write_varint(len(content)) + content


def write_number(number: int, value: int) -> bytes:
    """Return a field with a whole number."""
    return _write_varint(number << 3) + _write_varint(value & (1 << 64) - 1)


def _write_varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
