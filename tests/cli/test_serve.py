"""The command `offramp serve` in a process of its own, ended under load; and what it refuses."""

import contextlib
import http.client
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from offramp.runtime.protocol import write_request
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.command import PROCESS, clear_message, offramp
from offramp.tests.helpers.servers import WAIT_S, ask

TOKEN = "a-token-of-this-test"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text(f"{TOKEN}\n")
    return path


@contextlib.contextmanager
def killed(process):
    """Leave no process behind, whatever fails."""
    try:
        yield
    finally:
        process.kill()


def test_ended_under_load_it_answers_what_it_took_and_ends_well(token_file):
    command = [*PROCESS, "serve", ARCHIVE, "--name", "dense", "--port", "0", "--stages", "--token-file", token_file]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, killed(process):
        lines = iter(process.stderr.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"serving dense at .*:(\d+)", line)))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert ask(port, "GET", "/v2/models/dense:stage2", headers=headers)[0] == 200
        with ThreadPoolExecutor(8) as pool:
            answered = [pool.submit(ask_until_it_ends, port, headers) for _ in range(8)]
            while ask(port, "GET", "/metrics", headers=headers)[2].count(b'code="200",model="dense"') == 0:
                pass
            process.send_signal(signal.SIGTERM)
            counts = [each.result(WAIT_S) for each in answered]
        assert process.wait(WAIT_S) == 0 and sum(counts) > 0
        assert "Traceback" not in process.stderr.read()


def ask_until_it_ends(port, headers):
    """Send requests until the server is gone; return how many were answered. A request is answered whole, or not at all."""
    message, count = write_request({"x": np.ones((1, 16), np.float32)}), 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    while True:
        try:
            connection.request("POST", "/v2/models/dense/infer", message.body, message.headers | headers)
            response = connection.getresponse()
        except TimeoutError:
            raise
        except OSError:  # refused, reset, or closed before an answer began
            return count
        assert response.status == 200 and b'"score"' in response.read()
        count += 1


def test_what_makes_no_server_is_said_before_it_starts(token_file, tmp_path, monkeypatch):
    clear_message(offramp("serve", ARCHIVE, ARCHIVE, "--name", "one"), 2, "2 bundles and 1 names")
    clear_message(offramp("serve", ARCHIVE, "--token-file", tmp_path / "none"), 2, "Cannot read a token")
    clear_message(offramp("serve", ARCHIVE, "--port", "0", "--workers", "0"), 2, "workers")
    clear_message(offramp("serve", ARCHIVE, "--most-samples", "0"), 2, "samples")
    clear_message(offramp("serve", ARCHIVE, "--most-body-mb", "nan"), 2, "body_bytes is a number from above 0")
    clear_message(offramp("serve", ARCHIVE, ARCHIVE, "--port", "0"), 2, "Two models are called v0.1-dense")
    clear_message(offramp("serve", ARCHIVE, "--port", "0", "--tls-cert", token_file), 2, "certificate and its key")
    monkeypatch.setenv("OFFRAMP_SERVE_TOKEN", "short")
    clear_message(offramp("serve", ARCHIVE, "--port", "0"), 2, "A token has 16")
