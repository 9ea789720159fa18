"""A server that answers requests as a test wants it to, and a link that delays and cuts connections at random."""

import contextlib
import http.server
import random
import socket
import threading
from collections.abc import Callable

Answer = tuple[int, dict[str, str], bytes]


class FakeServer:
    """An HTTP server on a free port, which answers what `handle(path, body)` returns.

    Attributes:
        handle: may be replaced between requests; what waits in it lets the client wait.
        seen: the paths of all requests.
    """

    def __init__(self, handle: Callable[[str, bytes], Answer]) -> None:
        self.handle, self.seen = handle, list[str]()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, content = outer.handle(self.path, body)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class FakeLink:
    """A port that passes bytes on to another one, and now and then cuts the connection, or lets nothing through any more.

    Attributes:
        cut: the chance that a piece of bytes is the connection's last.
        stall: the chance that it is neither passed on nor refused.
    """

    def __init__(self, port: int, *, cut: float, stall: float, seed: int = 0) -> None:
        self.cut, self.stall, self._target = cut, stall, port
        self._random = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        is_stalled = False
        while True:
            try:
                piece = source.recv(4096)
                drawn = self._random.random()
                if not piece or drawn < self.cut:
                    break
                is_stalled |= drawn > 1 - self.stall
                if not is_stalled:
                    sink.sendall(piece)
            except OSError:
                break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
