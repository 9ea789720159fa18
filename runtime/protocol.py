"""The Open Inference Protocol over HTTP: tensors as JSON or, by its binary extension, as bytes behind the JSON.

    {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.5]}]}                    as JSON
    {"inputs": [{"name": "x", ..., "parameters": {"binary_data_size": 8}}]}<8 bytes, little-endian>         binary

The header `Inference-Header-Content-Length` says where the JSON ends if bytes follow. Server and client both read and write this.
Who reads a message compares a tensor's datatype and shape with what is expected before `SentTensor.read` makes an array of it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct

from ..errors import DataError, quoted

__all__ = [
    "DATATYPES",
    "JSON_LENGTH",
    "InferRequest",
    "InferResponse",
    "Message",
    "Parameters",
    "RequestedOutput",
    "SentTensor",
    "read_request",
    "read_response",
    "write_request",
    "write_response",
]

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON."""

DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
"""The protocol's names of dtypes, by NumPy's."""

DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in DATATYPES.items()}
ITEMS = {"b": list[bool], "i": list[int], "u": list[int], "f": list[float]}
"""What the values of a tensor are in JSON, by the kind of its dtype."""

MOST_TENSORS, MOST_AXES, MOST_PARAMETERS = 1000, 32, 100
"""A message has no more tensors, a tensor no more axes, and either no more parameters."""

IN_NUMBERS = b"0123456789+-.eE" + b"truefals" + b" \t\r\n"
"""The characters of numbers, of `true` and `false`, and of what may stand between them."""

T = TypeVar("T")
Parameters = Annotated[dict[str, str | int | float | bool], Meta(max_length=MOST_PARAMETERS)]


class _Head(Struct):
    """What the JSON says of a tensor."""

    name: str
    datatype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=MOST_AXES)]
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters = {}


class RequestedOutput(Struct):
    """An output that a request asks for.

    Attributes:
        name: of the output.
        parameters: `binary_data` is True if it shall come as bytes.
    """

    name: str
    parameters: Parameters = {}


class _RequestHead(Struct):
    inputs: Annotated[list[_Head], Meta(max_length=MOST_TENSORS)]
    outputs: Annotated[list[RequestedOutput], Meta(max_length=MOST_TENSORS)] = []
    id: str | None = None
    parameters: Parameters = {}


class _ResponseHead(Struct):
    outputs: Annotated[list[_Head], Meta(max_length=MOST_TENSORS)]
    model_name: str = ""
    model_version: str = ""
    id: str | None = None
    parameters: Parameters = {}


class SentTensor(NamedTuple):
    """A tensor as it was sent, not yet read.

    Attributes:
        name, datatype, shape: as the message states them.
        content: its values, as JSON or as bytes.
        is_binary: which of both.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | memoryview
    is_binary: bool

    def read(self) -> np.ndarray:
        """Return its values as an array, which may be read-only memory of the message.

        Raises:
            DataError: there is no such datatype, or the content is not what datatype and shape state.
        """
        name, dtype = quoted(self.name), DTYPES.get(self.datatype)
        if dtype is None:
            raise DataError(f"{name} has the datatype {quoted(self.datatype)}. There are {', '.join(DTYPES)}.")
        count = math.prod(self.shape)
        if not self.is_binary:
            return self._read_json(dtype, count)
        if len(self.content) != count * dtype.itemsize:
            raise DataError(
                f"{name} has {len(self.content)} bytes, but {self.datatype} of shape {quoted(list(self.shape))} takes "
                f"{quoted(count * dtype.itemsize)}."
            )
        array = np.frombuffer(self.content, np.uint8 if dtype.kind == "b" else dtype)
        if dtype.kind == "b":
            if array.size and array.max() > 1:
                raise DataError(f"{name} has a byte above 1, which is no BOOL.")
            array = array.view(np.bool_)
        return self._shape(array)

    def _shape(self, array: np.ndarray) -> np.ndarray:
        try:
            return array.reshape(self.shape)
        except ValueError as error:  # an axis of 0, and others beyond what NumPy counts
            raise DataError(f"{quoted(self.name)} cannot have the shape {quoted(list(self.shape))}.") from error

    def _read_json(self, dtype: np.dtype, count: int) -> np.ndarray:
        """Return values of JSON. What stands between the numbers is compared first, so that no more are read than expected."""
        name, content = quoted(self.name), bytes(self.content)
        between, commas = content.translate(None, IN_NUMBERS), max(0, count - 1)
        if between.count(b",") != commas or between not in (b"[%s]" % (b"," * commas), _brackets(self.shape, count)):
            raise DataError(
                f"The data of {name} is not a list of {quoted(count)} numbers, flat or nested as its shape "
                f"{quoted(list(self.shape))}."
            )
        try:
            values = msgspec.json.decode(b"[%s]" % content.translate(None, b"[]"), type=ITEMS[dtype.kind])
            with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, for others to refuse
                array = np.array(values, dtype if dtype.kind in "bf" else f"{dtype.kind}8")
        except (msgspec.MsgspecError, OverflowError) as error:
            raise DataError(f"The data of {name} is not of {self.datatype}: {quoted(error)}.") from error
        if dtype.kind in "iu" and array.size:
            limits = np.iinfo(dtype)
            if array.min() < limits.min or array.max() > limits.max:
                raise DataError(f"A value of {name} does not fit into {self.datatype}.")
        return self._shape(array.astype(dtype, copy=False))


def _brackets(shape: Sequence[int], count: int) -> bytes:
    """Return what stands between so many numbers in nested lists: [[,],[,]] for (2, 2)."""
    inside = b""
    for size in reversed(shape if count else ()):
        inside = b"[%s]" % b",".join([inside] * size)
    return inside


class InferRequest(Struct, frozen=True):
    """A request to infer.

    Attributes:
        inputs: the tensors, by name.
        outputs: those that are asked for; empty if it leaves that to the server.
        id: what the response repeats; None if there is none.
        parameters: of the request.
    """

    inputs: dict[str, SentTensor]
    outputs: list[RequestedOutput]
    id: str | None
    parameters: dict[str, str | int | float | bool]

    def wants_binary(self, output: str) -> bool:
        """Return True if an output shall come as bytes: by its own parameter, or by that of the request."""
        own = {asked.name: asked.parameters for asked in self.outputs}.get(output, {})
        return own.get("binary_data", self.parameters.get("binary_data_output")) is True


class InferResponse(Struct, frozen=True):
    """A response.

    Attributes:
        outputs: the tensors, by name.
        model, version, id: which model answers, and what the request was called.
        parameters: of the response.
    """

    outputs: dict[str, SentTensor]
    model: str
    version: str
    id: str | None
    parameters: dict[str, str | int | float | bool]


class Message(NamedTuple):
    """A body to be sent; `json_bytes` says how much of it is JSON if bytes follow."""

    body: bytes
    json_bytes: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say what it is."""
        if self.json_bytes is None:
            return {"Content-Type": "application/json"}
        return {"Content-Type": "application/octet-stream", JSON_LENGTH: str(self.json_bytes)}


def read_request(body: bytes, json_bytes: int | None = None) -> InferRequest:
    """Read a request; its tensors are not read yet.

    Args:
        body: all of it.
        json_bytes: how much of it is JSON; None if all is.

    Raises:
        DataError: it is none.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime.protocol import read_request, write_request
        >>> message = write_request({"x": np.ones((1, 2), np.float32)}, outputs=["label"])
        >>> message.headers["Inference-Header-Content-Length"] == str(message.json_bytes)
        True
        >>> read_request(*message).inputs["x"].read()
        array([[1., 1.]], dtype=float32)
    """
    head, rest = _read_head(body, json_bytes, _RequestHead)
    return InferRequest(_attach(head.inputs, rest), head.outputs, head.id, head.parameters)


def read_response(body: bytes, json_bytes: int | None = None) -> InferResponse:
    """Read a response; its tensors are not read yet.

    Args:
        body, json_bytes: as for `read_request`.

    Raises:
        DataError: it is none.
    """
    head, rest = _read_head(body, json_bytes, _ResponseHead)
    return InferResponse(_attach(head.outputs, rest), head.model_name, head.model_version, head.id, head.parameters)


def _read_head(body: bytes, json_bytes: int | None, kind: type[T]) -> tuple[T, memoryview]:
    """Return what the JSON of a body says, and the bytes behind it."""
    if json_bytes is not None and not 0 <= json_bytes <= len(body):
        raise DataError(f"{JSON_LENGTH} is {json_bytes}, but the body has {len(body)} bytes.")
    end = len(body) if json_bytes is None else json_bytes
    try:
        head = msgspec.json.decode(memoryview(body)[:end], type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"The body is not as the protocol wants it: {quoted(error)}.") from error
    except RecursionError as error:
        raise DataError("The body is nested too deeply.") from error
    return head, memoryview(body)[end:]


def _attach(heads: Sequence[_Head], rest: memoryview) -> dict[str, SentTensor]:
    """Return tensors with their values: those in the JSON, or their part of the bytes behind it."""
    tensors: dict[str, SentTensor] = {}
    for head in heads:
        name, data = quoted(head.name), head.data
        size = head.parameters.get("binary_data_size")
        if head.name in tensors:
            raise DataError(f"There are two tensors {name}.")
        if size is None:
            content: bytes | memoryview = bytes(data)
            if not content:
                raise DataError(f"The tensor {name} has neither data nor binary_data_size.")
        else:
            if bytes(data) or type(size) is not int or not 0 <= size <= len(rest):
                raise DataError(f"The tensor {name} has data twice, or its binary_data_size does not fit the body.")
            content, rest = rest[:size], rest[size:]
        tensors[head.name] = SentTensor(head.name, head.datatype, head.shape, content, size is not None)
    if len(rest):
        raise DataError(f"{len(rest)} bytes behind the JSON belong to no tensor.")
    return tensors


def write_request(
    inputs: Mapping[str, np.ndarray],
    *,
    outputs: Sequence[str] = (),
    id: str | None = None,
    parameters: Mapping[str, str | int | float | bool] | None = None,
    binary: bool = True,
) -> Message:
    """Write a request.

    Args:
        inputs: arrays by name.
        outputs: the names of those that are asked for; none leaves that to the server.
        id: what the response shall repeat.
        parameters: of the request.
        binary: True if tensors go as bytes, in both directions.

    Raises:
        DataError: an array has a dtype that the protocol has not.
    """
    head: dict[str, Any] = {} if id is None else {"id": id}
    if parameters := dict(parameters or {}) | ({"binary_data_output": True} if binary else {}):
        head["parameters"] = parameters
    if outputs:
        head["outputs"] = [{"name": name} for name in outputs]
    return _write(head, "inputs", inputs, inputs if binary else ())


def write_response(
    outputs: Mapping[str, np.ndarray],
    *,
    model: str,
    version: str,
    binary: Collection[str] = (),
    id: str | None = None,
    parameters: Mapping[str, str | int | float | bool] | None = None,
) -> Message:
    """Write a response.

    Args:
        outputs: arrays by name.
        model, version: which model answers.
        binary: the names of the outputs that go as bytes.
        id: that of the request.
        parameters: of the response.

    Raises:
        DataError: an output that goes as JSON holds NaN or infinity, which JSON has not.
    """
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if id is not None:
        head["id"] = id
    if parameters:
        head["parameters"] = parameters
    return _write(head, "outputs", outputs, binary)


def _write(head: dict[str, Any], key: str, arrays: Mapping[str, np.ndarray], binary: Collection[str]) -> Message:
    tensors, behind = [], []
    for name, array in arrays.items():
        datatype = DATATYPES.get(array.dtype.name)
        if datatype is None:
            raise DataError(f"{quoted(name)} is {array.dtype}. The protocol has {', '.join(DATATYPES)}.")
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if name in binary:
            behind.append(np.ascontiguousarray(array, DTYPES[datatype]).tobytes())
            tensor["parameters"] = {"binary_data_size": len(behind[-1])}
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{quoted(name)} holds NaN or infinity, which JSON has not. Ask for it as binary data.")
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    text = msgspec.json.encode({**head, key: tensors})
    return Message(b"".join([text, *behind]), len(text) if behind else None)
