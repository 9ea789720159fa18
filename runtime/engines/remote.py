"""A stage runs on a server of the Open Inference Protocol, such as `offramp serve --stages`. Its device is the model's address.

    http://box:8000/digits                               stage1.onnx runs as the model digits:stage1 of that server
    https://box/digits?as=float16&timeout_s=0.2          what crosses the boundary goes as float16

Arrays go over the network as the binary extension has them. A stage runs on a server only if a caller names the address; the
server must say that it serves the same stage.
"""

import contextlib
import http.client
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
import numpy as np
from msgspec import Struct

from ...bundle import Tensor
from ...errors import BundleError, MissingError, OfframpError, UnsupportedError, quoted
from ..protocol import DATATYPES, JSON_LENGTH, InferResponse, read_response, write_request
from . import HOST, StageFile

__all__ = ["PACKAGE", "compile_stage", "list_places"]

PACKAGE = "offramp"

TOKEN = "OFFRAMP_SERVE_TOKEN"
"""The environment variable with the token that the server wants."""

TIMEOUT_S, MOST_TIMEOUT_S = 10.0, 3600.0
"""A server that says nothing for so long has failed."""

MOST_METADATA, MOST_ROOM, MOST_UNSIZED = 1 << 20, 1 << 16, 1 << 30
"""The most bytes of a model's metadata, of a response beside its tensors, and of one whose tensors have no known sizes."""

GONE = " Does the server run, and does the network reach it?"
ADVICE = {
    401: f" The token goes into the variable {TOKEN}.",
    404: " Is that its name there, and does it serve stages (offramp serve --stages)?",
}
"""What may help where there is no answer, and by the status of an answer."""

FORMS = ("float32", "float16", "int8")
"""As what float32 goes to the server."""
MOST_FLOAT16 = 65504.0


class _Address(NamedTuple):
    """Where a server's model is, and how it is spoken to."""

    scheme: str
    host: str
    path: str
    name: str
    form: str
    timeout_s: float

    def model(self, stage: str) -> str:
        """Return the path of a stage's model."""
        return f"{self.path}/v2/models/{quote(f'{self.name}:{stage}')}"

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, which is made at its first request."""
        kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        return kind(self.host, timeout=self.timeout_s)


class _Sized(Struct, frozen=True):
    name: str
    datatype: str
    shape: list[int]


class _About(Struct, frozen=True):
    digest: str = ""
    takes: str = ""


class _Metadata(Struct, frozen=True):
    """What a server says of a model."""

    inputs: list[_Sized]
    outputs: list[_Sized]
    platform: str = ""
    parameters: _About = _About()


def list_places() -> dict[str, str]:
    """Return no place: a server is found by its address."""
    return {}


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "RemoteStage":
    """Ask a server for the model of a stage.

    Raises:
        MissingError: the server does not answer, or has no such model.
        UnsupportedError: its model is another one.
    """
    address = _parse(place)
    path = address.model(stage.path.stem)
    connection = address.connect()
    try:
        content, _ = _exchange(connection, address, "GET", path, most=MOST_METADATA)
    finally:
        connection.close()
    try:
        metadata = msgspec.json.decode(content, type=_Metadata)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedError(f"{place} is no server of the Open Inference Protocol: {quoted(error)}.") from error
    shapes = {tensor.name: (tensor.datatype, tensor.shape) for tensor in metadata.inputs}
    takes_one = False
    for tensor in stage.inputs:
        fits, single = _fits(tensor, *shapes.get(tensor.name, ("", [])))
        takes_one |= single
        if not fits:
            raise UnsupportedError(
                f"The model {path} of {address.host} has no input {tensor.name} as {stage.path.name} has."
            )
    missing = set(stage.outputs) - {tensor.name for tensor in metadata.outputs}
    if len(shapes) != len(stage.inputs) or missing:
        raise UnsupportedError(
            f"The model {path} of {address.host} has other inputs or outputs than {stage.path.name}."
        )
    if not stage.digest or metadata.parameters.digest != stage.digest:
        raise UnsupportedError(
            f"The model {path} of {address.host} is made of other files than {stage.path.name}: serve the same bundle there."
        )
    if address.form != FORMS[0] and address.form not in metadata.parameters.takes.split():
        raise UnsupportedError(f"The model {path} of {address.host} does not take {address.form}: leave out as=.")
    runs_on = f"{address.scheme}://{address.host}{path}, {quoted(metadata.platform)}"
    return RemoteStage(address, path, stage, runs_on, batches=not takes_one)


def _fits(tensor: Tensor, datatype: str, shape: Sequence[int]) -> tuple[bool, bool]:
    """Return whether a model's input is as a stage's, and whether it takes one sample only."""
    if datatype != DATATYPES[tensor.dtype] or len(shape) != len(tensor.shape):
        return False, False
    pairs = list(zip(tensor.shape, shape, strict=True))
    fits = all(
        there == (axis if isinstance(axis, int) else -1) or (axis is None and there == 1) for axis, there in pairs
    )
    return fits, any(axis is None and there == 1 for axis, there in pairs)


class RemoteStage:
    """A stage that a server runs. Any number of its bindings may run at once, each over a connection of its own.

    Attributes:
        last_bytes: the length of the last request's body and of its answer's.
    """

    memory, allocate, clones = HOST, None, True

    def __init__(self, address: _Address, path: str, stage: StageFile, runs_on: str, *, batches: bool) -> None:
        self.runs_on, self.batches, self.half = runs_on, batches, address.form != FORMS[0]
        self._address, self._path, self._stage = address, path, stage
        self.last_bytes = 0

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> "RemoteRun":
        """Tie arrays to the stage.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        self._check(inputs, list(outputs))
        return RemoteRun(self, self._address, self._path, inputs, outputs)

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the stage once into new arrays."""
        self._check(inputs, outputs)
        run = RemoteRun(self, self._address, self._path, inputs, dict.fromkeys(outputs))
        try:
            return run.ask()
        finally:
            run.close()

    def clone(self) -> "RemoteStage":
        """Return the stage itself."""
        return self

    def _check(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> None:
        if set(inputs) != {tensor.name for tensor in self._stage.inputs} or set(outputs) - set(self._stage.outputs):
            raise BundleError(f"{self._stage.path.name} has other inputs or outputs.", path=self._stage.path)


class RemoteRun:
    """Runs a stage on a server, from arrays into arrays.

    Attributes:
        is_stopped: True while runs are told to end.
    """

    def __init__(
        self, stage: RemoteStage, address: _Address, path: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> None:
        self._stage, self._address, self._path = stage, address, f"{path}/infer"
        self._inputs, self._outputs = inputs, outputs
        self._connection, self._process = address.connect(), os.getpid()
        self.is_stopped = False

    def __call__(self) -> None:
        """Run the stage.

        Raises:
            MissingError: the server does not answer in time, or answers something else.
        """
        for name, array in self.ask().items():
            place = self._outputs[name]
            if array.shape != place.shape:
                raise self._failed(f"{name} has the shape {quoted(list(array.shape))}, not {list(place.shape)}")
            place[...] = array

    def ask(self) -> dict[str, np.ndarray]:
        """Send the inputs; return the outputs."""
        if self._process != os.getpid():  # the connection of a forked child is its parent's
            self._connection, self._process = self._address.connect(), os.getpid()
        arrays, notes = _shrink(self._inputs, self._address.form)
        message = write_request(arrays, outputs=list(self._outputs), parameters=notes)
        places = [array for array in self._outputs.values() if array is not None]
        most = (
            MOST_ROOM + 2 * sum(place.nbytes for place in places) if len(places) == len(self._outputs) else MOST_UNSIZED
        )
        content, headers = _exchange(
            self._connection, self._address, "POST", self._path, message.body, message.headers, most=most, run=self
        )
        self._stage.last_bytes = len(message.body) + len(content)
        try:
            length = headers.get(JSON_LENGTH)
            response: InferResponse = read_response(content, None if length is None else int(length))
            sent = {name: response.outputs[name] for name in self._outputs}
            for name, place in self._outputs.items():
                if place is not None and sent[name].datatype != DATATYPES[place.dtype.name]:
                    raise self._failed(f"{name} is {quoted(sent[name].datatype)}")
            return {name: tensor.read() for name, tensor in sent.items()}
        except MissingError:
            raise
        except (OfframpError, KeyError, ValueError) as error:
            raise self._failed(f"its answer cannot be read: {quoted(error).rstrip('.')}") from error

    def stop(self, stops: bool) -> None:
        """Let the run that is under way end, from another thread; or let the next ones run."""
        self.is_stopped = stops
        connected = self._connection.sock
        if stops and connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __del__(self) -> None:
        """Close the connection of a network that goes."""
        self.close()

    def _failed(self, reason: str) -> MissingError:
        return _failed(self._address, reason)


def _shrink(inputs: Mapping[str, Any], form: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return arrays as they are sent, and for each that goes as int8 the value of one step: x = step * sent.

    What the smaller form cannot hold, infinity included, goes as it is.
    """
    sent: dict[str, np.ndarray] = {}
    notes: dict[str, float] = {}
    for name, array in inputs.items():
        sent[name] = array
        if array.dtype != np.float32 or form == "float32":
            continue
        largest = float(np.abs(array).max(initial=0.0))
        if form == "float16" and largest <= MOST_FLOAT16:
            sent[name] = array.astype(np.float16)
        elif form == "int8" and np.isfinite(largest):
            step = max(largest / 127, float(np.finfo(np.float32).tiny))
            sent[name] = np.rint(array / step).astype(np.int8)
            notes[f"step.{name}"] = step
    return sent, notes


def _exchange(
    connection: http.client.HTTPConnection,
    address: _Address,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    most: int,
    run: RemoteRun | None = None,
) -> tuple[bytes, http.client.HTTPMessage]:
    """Send a request; return the response's body and headers. A connection that the server closed meanwhile is made anew once.

    Raises:
        MissingError: there is no answer, or none of success.
    """
    token = os.environ.get(TOKEN)
    own = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    while True:
        is_new = connection.sock is None
        try:
            connection.request(method, path, body or None, own)
            response = connection.getresponse()
            content = response.read(most + 1)
            if len(content) > most:
                raise _failed(address, f"its answer is larger than {most} bytes")
            if response.status != 200:
                said = f"it answers {response.status}: {quoted(content.decode('utf-8', 'replace'))}"
                raise _failed(address, said, ADVICE.get(response.status, ""))
            if response.will_close:
                connection.close()
            return content, response.headers
        except (http.client.HTTPException, OSError, ValueError) as error:
            connection.close()
            is_stopped = run is not None and run.is_stopped
            if is_new or isinstance(error, TimeoutError) or is_stopped:
                words = (
                    f"no answer within {address.timeout_s:g} s" if isinstance(error, TimeoutError) else quoted(error)
                )
                raise _failed(address, words or type(error).__name__, GONE) from error
        except BaseException:
            connection.close()  # half an answer is on its way
            raise


def _failed(address: _Address, reason: str, advice: str = "") -> MissingError:
    place = f"{address.scheme}://{address.host}{address.path}/{address.name}"
    return MissingError(f"{place} failed: {reason}.{advice}")


def _parse(place: str) -> _Address:
    """Return the parts of a device such as `http://box:8000/digits?as=float16`."""
    try:
        parts = urlsplit(place)
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        form, timeout_s = given.pop("as", FORMS[0]), float(given.pop("timeout_s", TIMEOUT_S))
        path, _, name = parts.path.rpartition("/")
        is_right = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and name
            and form in FORMS
            and 0 < timeout_s <= MOST_TIMEOUT_S
            and not given
        )
        if is_right and not (parts.username or parts.fragment or parts.port == 0):
            return _Address(parts.scheme, parts.netloc, path, name, form, timeout_s)
    except ValueError:
        pass
    raise MissingError(
        f"{quoted(place)} is no address of a server's model. One is written http://box:8000/digits, with ?as=float16 or ?as=int8 "
        f"for smaller messages, and timeout_s=0.2 for the longest wait; a token goes into the variable {TOKEN}."
    )
