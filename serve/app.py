"""The server as an ASGI application: its addresses, what it refuses, and what it counts."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .. import __version__
from ..errors import DataError, MissingError, OfframpError, UsageError, quoted
from ..runtime.protocol import JSON_LENGTH, read_request, write_response
from .description import describe_addresses
from .tasks import Answered, Limits, ServedTensors, Task
from .workers import Workers

__all__ = ["App"]

OPEN = ("/v2/health/live", "/v2/health/ready")
"""What is answered without a token."""

BODIES_AT_ONCE = 16
"""All bodies that are held may be so many times as long as one may be."""

STOP_S = 5.0
"""A worker that runs longer after the last connection was closed is left alone."""

CLOSE = {"Connection": "close"}
AGAIN = {"Retry-After": "1"}


class App:
    """The ASGI application. Made by `make_app`.

    Args:
        models: what it answers with, and the workers of each, by name.
        limits: what it takes on.
        token: what a client must show; None if anybody may ask.
        registry: where it counts, and what `/metrics` shows.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[ServedTensors, Workers]],
        *,
        limits: Limits,
        token: str | None,
        registry: CollectorRegistry,
    ) -> None:
        self._models, self.limits, self._registry = models, limits, registry
        self._shown = None if token is None else b"Bearer " + token.encode()
        self._under_way = self._held_bytes = 0
        self._addresses = msgspec.json.encode(describe_addresses(list(models), has_token=token is not None))
        labels = ("model", "code")
        self._requests = Counter("offramp_serve_requests", "Requests to infer.", labels, registry=registry)
        self._seconds = Histogram("offramp_serve_seconds", "Time to the answer.", ("model",), registry=registry)
        self._samples = Counter("offramp_serve_samples", "Samples answered.", ("model",), registry=registry)
        gauge = Gauge("offramp_serve_under_way", "Requests to infer under way.", registry=registry)
        gauge.set_function(lambda: self._under_way)
        model = "/v2/models/{name}"
        versioned = (model, f"{model}/versions/{{version}}")
        self._app = Starlette(
            routes=[
                *(Route(path, self._show_server) for path in ("/v2", "/v2/")),
                Route("/v2/health/live", self._show_live),
                Route("/v2/health/ready", self._show_ready),
                *(Route(path, self._show_model) for path in versioned),
                *(Route(f"{path}/ready", self._show_model_ready) for path in versioned),
                *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in versioned),
                Route("/metrics", self._show_metrics),
                Route("/openapi.json", self._show_addresses),
            ],
            exception_handlers={HTTPException: _show_refusal, Exception: _show_failure},
            lifespan=self._live,
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one without the token is refused."""
        if scope["type"] == "http" and self._shown is not None and scope["path"] not in OPEN:
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._shown):
                words = "This server wants the header Authorization: Bearer, and its token."
                await _refuse(401, words, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _live(self, app: Starlette) -> AsyncIterator[None]:
        """Start the workers, and end them when the server ends."""
        for _, workers in self._models.values():
            workers.start(asyncio.get_running_loop())
        yield
        for _, workers in self._models.values():
            workers.stop(STOP_S)

    async def _show_server(self, _: Request) -> Response:
        return _json({"name": "offramp", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _show_live(self, _: Request) -> Response:
        return _json({"live": True})

    async def _show_ready(self, _: Request) -> Response:
        is_ready = all(workers.are_alive for _, workers in self._models.values())
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def _show_model(self, request: Request) -> Response:
        return _json(self._find(request)[0].describe())

    async def _show_model_ready(self, request: Request) -> Response:
        model, workers = self._find(request)
        return _json({"name": model.name, "ready": workers.are_alive}, 200 if workers.are_alive else 503)

    async def _show_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _show_addresses(self, _: Request) -> Response:
        return Response(self._addresses, media_type="application/json")

    def _find(self, request: Request) -> tuple[ServedTensors, Workers]:
        name, version = request.path_params["name"], request.path_params.get("version", "1")
        if name not in self._models or version != "1":
            which = f"{quoted(name)}" if name not in self._models else f"{quoted(name)} of version {quoted(version)}"
            raise HTTPException(404, f"There is no model {which}. There are {quoted(', '.join(self._models))}.")
        return self._models[name]

    async def _infer(self, request: Request) -> Response:
        """Answer a request to infer, and count it."""
        model, workers = self._find(request)
        start_s, code = perf_counter(), 500
        self._under_way += 1
        try:
            if self._under_way > self.limits.waiting:
                raise HTTPException(503, f"{self.limits.waiting} requests are under way already.", AGAIN)
            response = await self._answer(request, model, workers)
            code = 200
            self._seconds.labels(model.name).observe(perf_counter() - start_s)
            return response
        except HTTPException as refusal:
            code = refusal.status_code
            raise
        except ClientDisconnect:
            code = 499  # as web servers count whom nobody can answer
            return Response(status_code=400)
        finally:
            self._under_way -= 1
            self._requests.labels(model.name, code).inc()

    async def _answer(self, request: Request, model: ServedTensors, workers: Workers) -> Response:
        body = b""
        try:
            body = await self._read_body(request)
            sent = read_request(body, _json_length(request))
            task = model.read(sent, self.limits.samples)
            values, notes = await self._wait(task, workers)
            message = write_response(
                values,
                model=model.name,
                version="1",
                binary=[name for name in values if sent.wants_binary(name)],
                id=sent.id,
                parameters=notes,
            )
        except (DataError, UsageError) as error:
            raise HTTPException(400, str(error)) from error
        except MissingError as error:  # memory ran out
            raise HTTPException(503, str(error), AGAIN) from error
        except OfframpError as error:
            raise HTTPException(500, str(error)) from error
        finally:
            self._held_bytes -= len(body)
        self._samples.labels(model.name).inc(task.count)
        return Response(message.body, headers=message.headers)

    async def _wait(self, task: Task, workers: Workers) -> Answered:
        task.future = asyncio.get_running_loop().create_future()
        workers.put(task)
        try:
            return await asyncio.wait_for(task.future, self.limits.timeout_s)
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"There was no answer within {self.limits.timeout_s:g} s.") from error
        finally:
            workers.drop(task)

    async def _read_body(self, request: Request) -> bytes:
        """Return the body of a request; its length counts as held until it is answered.

        Raises:
            HTTPException: it is too long, too slow, or compressed.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "This server takes no compressed bodies.", CLOSE)
        try:
            return await asyncio.wait_for(self._gather(request), self.limits.timeout_s)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"The body did not come within {self.limits.timeout_s:g} s.", CLOSE) from error

    async def _gather(self, request: Request) -> bytes:
        most = self.limits.body_bytes
        chunks: list[bytes] = []
        got, held = 0, 0
        is_too_long = int(request.headers.get("content-length", 0)) > most
        try:
            async for chunk in request.stream():
                got += len(chunk)
                is_too_long = is_too_long or got > most
                if (
                    got > 2 * most
                ):  # until here it is read and dropped: a client that is cut off while it sends sees no answer
                    break
                if not is_too_long:
                    if self._held_bytes + len(chunk) > BODIES_AT_ONCE * most:
                        raise HTTPException(503, "Too many bodies are held already.", {**AGAIN, **CLOSE})
                    chunks.append(chunk)
                    held += len(chunk)
                    self._held_bytes += len(chunk)
            if is_too_long:
                raise HTTPException(413, f"A body may have {most:.0f} bytes.", CLOSE)
        except BaseException:
            self._held_bytes -= held
            raise
        return b"".join(chunks)


def _json_length(request: Request) -> int | None:
    """Return how much of a body is JSON, as its header says; None without one.

    Raises:
        DataError: the header is no number.
    """
    text = request.headers.get(JSON_LENGTH)
    if text is None:
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > 15:
        raise DataError(f"{JSON_LENGTH} is a number of bytes, not {quoted(text)}.")
    return int(text)


def _json(document: Mapping[str, Any], code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), code, headers, media_type="application/json")


def _refuse(code: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a refusal as the protocol wants it: one sentence under `error`."""
    return _json({"error": words}, code, headers)


async def _show_refusal(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    return _refuse(refusal.status_code, refusal.detail, refusal.headers)


async def _show_failure(_: Request, error: Exception) -> Response:
    """Answer where the server has a fault, which uvicorn then logs."""
    return _refuse(500, f"A fault in the server: {type(error).__name__}.")
