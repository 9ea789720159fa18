"""Connections that do not wait for ever: uvicorn's own waits without end for a request's head, and for a reader."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_BYTES", "Connection"]

HEAD_BYTES, HEAD_S = 16 * 1024, 10.0
"""The longest head of a request, and the time in which it must come; a connection without a request is closed after that."""

READ_S = 30.0
"""A client that reads no faster than to leave an answer in memory for so long is cut off."""

FAREWELL_S = 0.5
"""The time for the end of an answer to be read, and for a client's farewell, when the server ends."""

MOST_CONNECTIONS = 900
"""Most systems give a process 1024 files."""


class Connection(H11Protocol):
    """A connection that is cut off if its client does not send a request, or does not read the answer."""

    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; beyond the most connections, close."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a request
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._await_head(None)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        answered = self.cycle
        super().on_response_complete()
        self._await_head(answered)

    def _await_head(self, last: Any) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(HEAD_S, self._cut_silent, last)

    def _cut_silent(self, last: Any) -> None:
        """Cut the connection off if no request has begun since the last one."""
        if self.cycle is last:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()

    def shutdown(self) -> None:
        """Close when what is under way is answered. A client of TLS that does not answer the farewell is not waited for."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(FAREWELL_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        super().connection_lost(exc)
        for timer in (self._head_timer, self._read_timer):
            if timer is not None:
                timer.cancel()
