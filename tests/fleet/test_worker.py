"""A board works for a scheduler in a process of its own, until it is told to end."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from offramp.errors import MissingError, UsageError
from offramp.fleet import Tls, run_worker
from offramp.tests.helpers.bundles import copy_archive
from offramp.tests.helpers.documents import check_documents

distributed = pytest.importorskip("distributed")

NO_TORCH = "import sys; sys.modules['torch'] = None; from offramp.cli import main; main(sys.argv[1:])"
"""The command line of a board, where torch is not installed."""


def start_scheduler(**settings):
    quiet = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}
    return distributed.LocalCluster(n_workers=0, **quiet, **settings)


def start_worker(*arguments):
    """Start a board by its command; return the process, and what it said when it was connected."""
    process = subprocess.Popen(
        [sys.executable, "-c", NO_TORCH, "worker", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line, process.stderr.read()
    check_documents(["worker"], line)
    return process, json.loads(line)


def test_a_board_calibrates_by_the_command_line_and_ends_at_sigterm(tmp_path, capfd, monkeypatch):
    from offramp.cli.app import exit_code_of

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = copy_archive(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "test.npz", x=rng.standard_normal((60, 16)).astype(np.float32))
    with start_scheduler() as cluster:
        process, said = start_worker(cluster.scheduler_address, "--name", "pi5")
        assert said["name"] == "pi5" and said["address"].startswith("tcp://127.0.0.1:")
        with pytest.raises(UsageError, match="has a board named 'pi5': give this one another name"):
            run_worker(cluster.scheduler_address, name="pi5")
        line = f"calibrate {bundle.path} {tmp_path}/test.npz --variant fp32 --measure-s 0.01 --fleet {cluster.scheduler_address}"
        code = exit_code_of([*line.split(), "--max-disagreement", "0.5", "--json"])
        out, err = capfd.readouterr()
        assert code == 0, err
        check_documents(["calibrate"], out)
        found = json.loads(out)
        assert [board["name"] for board in found["boards"]] == ["pi5"] and found["missing"] == {}
        ((file, calibration),) = found["calibrations"].items()
        assert "default-fleet" in calibration["points"] and file.startswith(str(bundle.path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not [*(tmp_path / "cache").rglob("*.offramp")]  # the bundle went with the worker
    assert exit_code_of([*line.split(), "--meter", "auto"]) == 2


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("offramp.fleet.worker.SECONDS_TO_ANSWER", 0.2)
    with pytest.raises(MissingError, match="No scheduler answers"):
        run_worker("tcp://127.0.0.1:9")
    with pytest.raises(
        MissingError, match=r"No scheduler answers at 'nowhere': missing port number .*'nowhere'\. Start"
    ):
        run_worker("nowhere")
    with pytest.raises(UsageError, match="no-ca.pem cannot be read"):
        run_worker("tls://127.0.0.1:9", tls=Tls(tmp_path / "no-ca.pem", "cert", "key"))


@pytest.mark.slow
def test_boards_with_keys_of_one_authority_know_each_other(tmp_path):
    """Takes the `openssl` command; a worker without keys is refused."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    ca, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=fleet -keyout {key} -out {ca}".split(),
        check=True,
        capture_output=True,
    )
    tls = Tls(ca, ca, key)
    from offramp.fleet.scheduler import connect, make_security

    with start_scheduler(host="tls://127.0.0.1", security=make_security(tls)) as cluster:
        keys = ["--tls-ca", str(ca), "--tls-cert", str(ca), "--tls-key", str(key)]
        process, said = start_worker(cluster.scheduler_address, "--name", "pi5", *keys)
        assert said["address"].startswith("tls://")
        with connect(cluster.scheduler_address, tls=tls) as client:
            assert client.submit(os.getpid).result() == process.pid
        process.terminate()
        assert process.wait(30) == 0
        with pytest.raises(MissingError), connect(cluster.scheduler_address):
            pass
