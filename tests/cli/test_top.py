"""`offramp top` of a file, of a page and of a bundle: what it prints, at 80 columns, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys

import msgspec
import pytest
from msgspec.structs import replace

from offramp.bundle import pack
from offramp.cli.metrics_view import describe_snapshot, watch_snapshots
from offramp.errors import MissingError
from offramp.runtime import Histogram, Metrics, Snapshot, StreamStats, follow_metrics, load_uncalibrated
from offramp.runtime.metrics import following
from offramp.runtime.metrics.snapshot import ExitCounts
from offramp.tests.helpers.command import PROCESS


def one_exit(k, answers, scale=1):
    latency = Histogram((0.001, 0.01, 10.0), (answers // 2, answers - answers // 2, 0, 0), 0.005 * answers * scale)
    return ExitCounts(
        exit=k, name=f"exit_with_a_long_name_{k}", answers=answers, calibrated_share=0.5, latency_s=latency,
        score=Histogram((0.5, 1.0), (0, answers, 0), 0.9 * answers),
    )  # fmt: skip


FULL = Snapshot(
    at_s=1_000_000.0, started_s=990_000.0, every_s=5.0, name="door", runs="the chain of int8-and-a-name-without-end " * 3,
    devices=("cpu", "cuda:0"), point="balanced", points=("balanced", "eco"), exits=(one_exit(0, 75_000_000), one_exit(1, 25)),
    cut=34, late=12, errors={"DataError": 2}, faults={"hangs": 1}, away="stage1.onnx on cuda:0 gave NaN",
    last_answer_s=999_999.0, temperature_c=61.0,
    stream=StreamStats(came=10**9, answered=10**9 - 44, hurried=7, dropped=40, refused=2, waiting=2), audited=5000,
    disagreeing=31.0, alarms=("shares", "scores"), energy_j=5e5, meter_problem="VDD_IN: nothing was read", moves=12,
    governor_problem="7.30 W of 6.00 W",
)  # fmt: skip


def test_everything_is_shown_within_80_columns():
    text = describe_snapshot(FULL, now_s=1_000_001.0)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "door: the chain of int8", "point balanced of 2, up 3 h", "ok: 75000025 answers", "75,000,025, 7500.0 a second",
        "12 late, 34 cut", "DataError 2", "hangs 1", "gave NaN",
        "100.0%", "50.0%", "p50 1000 us", "40 dropped", "50 W", "nothing was read",
        "61 C", "12 moves: 7.30 W", "5,000 audited, 31 disagree, ALARM of shares and scores", "since the start",
    ):  # fmt: skip
        assert words in text, words


def test_what_is_too_long_for_a_line_goes_on_in_the_next_and_percentiles_have_the_digits_of_their_bins():
    away = "stage2.onnx on http://box:8000/digits?as=float16&timeout_s=0.3 failed: no answer within 0.3 s. Does it run?"
    failing = replace(
        FULL, runs="the chain", away=away, last_error_s=FULL.at_s, last_error=f"DataError: {'not these 7 ' * 9}values"
    )
    text = describe_snapshot(failing, now_s=1_000_001.0)
    assert max(map(len, text.splitlines())) <= 80 and "characters" not in text
    words = " ".join(text.split())
    assert f"away {away}" in words and "not these 7 values" in words
    latency = text.partition("latency    ")[2].splitlines()[0]
    assert latency == "p50 1000 us  p90 8200 us  p99 9800 us  p99.9 10 ms"


def test_what_is_old_is_said_with_its_age():
    assert "STALE" not in describe_snapshot(FULL, now_s=1_000_014.0)
    assert "STALE: this is 73 s old." in describe_snapshot(FULL, now_s=1_000_073.0)


def test_a_snapshot_with_nothing_in_it_is_shown():
    text = describe_snapshot(Snapshot(at_s=5.0, started_s=5.0), now_s=5.0)
    assert "waiting: no call has ended yet" in text and "no operating point" in text


def test_names_of_strangers_steer_no_terminal(capsys):
    hostile = replace(FULL, name="\x1b[2J", runs="[red]x\n\nok", errors={"\x1b]0;x": 1}, last_error="a\nb")
    watch_snapshots(iter([hostile]), 1.0, as_json=False)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "[red]x\\n\\nok" in out


def test_shares_and_latencies_are_those_since_the_snapshot_before(capsys):
    later = replace(FULL, at_s=FULL.at_s + 10, exits=(one_exit(0, 75_000_000), one_exit(1, 125, 2)))
    watch_snapshots(iter([FULL, later]), 1.0, as_json=False)
    out = capsys.readouterr().out
    first, second = out.split("door:")[1:]
    assert "since the start" in first and "25   0.0%" in first
    assert "of the last 10 s" in second and "10.0 a second" in second and "100 100.0%" in second


def test_a_terminal_is_drawn_anew(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    watch_snapshots(iter([FULL, replace(FULL, cut=35)]), 1.0, as_json=False)
    assert "34 cut" in screen.getvalue() and "35 cut" in screen.getvalue() and "\x1b[" in screen.getvalue()


@pytest.fixture(scope="module")
def files(shared_dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("top")
    with load_uncalibrated(shared_dense) as net, Metrics(net, file=folder / "metrics.json", every_s=1000):
        pass
    (folder / "net.offramp").symlink_to(shared_dense.path)
    pack(shared_dense, folder / "net.zip")
    (folder / "torn.json").write_text("{")
    return folder


def test_once_a_file(call):
    code, out, _ = call("top {f}/metrics.json --once")
    assert code == 0 and "net: the chain of fp32 on cpu" in out
    code, out, _ = call("top {f}/metrics.json --once --json")
    assert code == 0 and msgspec.json.decode(out, type=Snapshot).runs == "the chain of fp32"


@pytest.mark.parametrize("name", ["net.offramp", "net.zip"])
def test_once_a_bundle_runs_it_on_its_golden_samples(call, name):
    code, out, _ = call(f"top {{f}}/{name} --once --json --every 0.1s")
    document = json.loads(out)
    assert code == 0 and document["name"] == name and document["exits"][-1]["answers"] > 0


def test_what_is_not_there_ends_with_its_code(call):
    assert call("top {f}/missing.json")[0] == 2
    assert call("top {f}/torn.json --once")[0] == 5
    assert "network roof, but of net." in call("top {f}/metrics.json --once --net roof")[2]
    code, _, err = call("top http://127.0.0.1:1 --once")
    assert code == 4 and "Does the product run" in err


def test_the_last_snapshot_comes_again_when_the_product_is_gone(shared_dense, monkeypatch):
    with load_uncalibrated(shared_dense) as net, Metrics(net) as metrics:
        snapshots = follow_metrics(f"http://127.0.0.1:{metrics.serve(0)}/metrics", every_s=0.001)
        first = next(snapshots)
        metrics.close()
        assert next(snapshots) is first
    monkeypatch.setattr(following, "PATIENCE_S", 0.1)
    with pytest.raises(MissingError):
        next(follow_metrics("http://127.0.0.1:1/"))


def test_an_interrupt_ends_it_with_code_0(files):
    command = [*PROCESS, "top", files / "metrics.json", "--json", "--every", "0.1s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as running:
        assert running.stdout.readline() and running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
