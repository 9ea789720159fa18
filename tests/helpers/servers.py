"""Servers of the Open Inference Protocol in a thread of this process, and requests to them."""

import contextlib
import http.client
import json
import threading
import time

from offramp.runtime.protocol import write_request
from offramp.serve import make_app, open_socket
from offramp.serve.serving import make_server

WAIT_S = 60
"""Nothing here takes so long, however busy the machine is."""


@contextlib.contextmanager
def running(models, tls=None, *, port=0, **options):
    """Run a server on a free port of 127.0.0.1, or on this one; yield its port and uvicorn's server."""
    listening = open_socket("127.0.0.1", port)
    cert, key = tls or (None, None)
    server = make_server(make_app(models, **options), tls_cert=cert, tls_key=key)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield listening.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


def wait_until(holds):
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def ask(port, method, path, body=None, headers=None):
    """Send one request; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def infer(port, model, inputs, headers=None, **options):
    """Send arrays as JSON; return status and document."""
    message = write_request(inputs, binary=False, **options)
    status, _, body = ask(port, "POST", f"/v2/models/{model}/infer", message.body, message.headers | (headers or {}))
    return status, json.loads(body)


class Held:
    """Makes a model wait in its worker until it is let go."""

    def __init__(self, model):
        self.started, self.go = threading.Event(), threading.Event()
        self.groups: list[int] = []
        begin = model.start

        def start(*, is_first):
            answer = begin(is_first=is_first)

            def hold(tasks):
                self.groups.append(len(tasks))
                self.started.set()
                assert self.go.wait(WAIT_S)
                return answer(tasks)

            return hold

        model.start = start
