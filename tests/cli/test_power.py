import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from offramp.bundle import Target
from offramp.cli.describe import describe_diagnosis
from offramp.cli.power_command import _run as run_measured
from offramp.cli.power_command import signals_interrupt
from offramp.devices.clock import wait_for
from offramp.export import keep
from offramp.runtime import diagnose
from offramp.tests.fakes.boards import BOARDS, plant
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.command import PROCESS, clear_message, offramp

METER = """
import random
import time
from offramp.devices import Meter, Probe, Rail

def supply():
    rails = Rail(name="supply", role="total", covers="12 V"), Rail(name="gpu", role="part", covers="inside supply")
    probe = Probe(rails, lambda: (7 + random.gauss(0, 0.05), 3 + random.gauss(0, 0.05)))
    return Meter("bench", [probe], scope="the 12 V supply", grade="external")

def dead():
    def read():
        raise OSError(19, "No such device")
    return Meter("bench", [Probe((Rail(name="supply", role="total", covers="12 V"),), read)], scope="the 12 V supply")

def hanging():
    return Meter(
        "bench", [Probe((Rail(name="supply", role="total", covers="12 V"),), lambda: time.sleep(99))], scope="the 12 V supply"
    )

def wrong():
    return 5
"""


@pytest.fixture
def meter(tmp_path):
    (tmp_path / "meter.py").write_text(METER)
    return lambda name: f"{tmp_path / 'meter.py'}:{name}"


@pytest.fixture
def inputs(labelled, tmp_path):
    np.savez(tmp_path / "x.npz", x=labelled[0][:100])
    return tmp_path / "x.npz"


def test_doctor_gives_board_fingerprint_engines_and_meters():
    found = json.loads(offramp("doctor", "--json").stdout)
    assert {"board", "fingerprint", "engines", "meters", "unavailable", "looked_for"} <= set(found)
    assert {one["meter"].partition(":")[0] for one in found["unavailable"]} | {
        one["name"].partition(":")[0] for one in found["meters"]
    } == set(found["looked_for"])


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_doctor_describes_every_board(name, tmp_path):
    found = diagnose(plant(name, tmp_path))
    said = describe_diagnosis(found)
    assert found.board.name in said and found.board.soc in said
    for meter in found.meters:
        assert f"meter {meter.name}" in said and meter.scope in said
        for rail in meter.rails:
            assert f"rail {rail.name}" in said and rail.problem is None and rail.power_w >= 0
    for one in found.unavailable:
        assert one.reason in said and one.remedy in said
    assert all(what in said for what in found.looked_for.values())


def test_power_shows_lines_and_the_sum_and_draws_them(meter, tmp_path):
    picture = tmp_path / "watched.pdf"
    done = offramp("power", "--meter", meter("supply"), "--for", "2500ms", "--every", "1s", "--plot", picture)
    assert done.returncode == 0 and picture.read_bytes().startswith(b"%PDF"), done.stderr
    lines = done.stdout.splitlines()
    assert "supply " in lines[0] and "gpu " in lines[1]
    assert lines[3].split() == ["rail", "min", "W", "mean", "W", "max", "W", "J"]
    assert "external, bench: the 12 V supply" in done.stdout


def test_power_streams_json_lines(meter):
    done = offramp("power", "--meter", meter("supply"), "--for", "2s", "--every", "500ms", "--json")
    head, *readings, last = map(json.loads, done.stdout.splitlines())
    assert head["meter"] == "bench" and head["grade"] == "external" and head["fingerprint"]["architecture"]
    assert 1 <= len(readings) <= 4 and readings[-1]["power_w"]["supply"] == pytest.approx(7, abs=0.2)
    assert last["sum"]["rails"]["supply"]["energy_j"] == pytest.approx(7 * last["sum"]["seen_s"], rel=0.02)


def test_an_interrupt_ends_the_watching_with_the_sum(meter):
    command = [*PROCESS, "power", "--meter", meter("supply"), "--every", "300ms"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout.readline().strip()  # it watches
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "external, bench" in out


def test_power_measures_a_command_draws_it_and_keeps_its_output_apart(meter, tmp_path):
    command = [sys.executable, "-c", "import time; print('hello'); time.sleep(2.3)"]
    picture = tmp_path / "measured.png"
    done = offramp("power", "--meter", meter("supply"), "--json", "--plot", picture, "--", *command)
    assert done.returncode == 0 and picture.read_bytes().startswith(b"\x89PNG"), done.stderr
    _, last = map(json.loads, done.stdout.splitlines())
    assert "hello" in done.stderr and last["exit_code"] == 0
    assert last["sum"]["mean_w"] == pytest.approx(7, rel=0.02) and last["sum"]["duration_s"] > 2.3


def seconds_of(text):
    """For how long a summary says that power was measured."""
    return float(re.search(r" in (\d+\.\d+) s", text)[1])


def test_a_command_that_goes_on_is_stopped_after_the_time_with_what_it_has_started(meter):
    start = time.perf_counter()
    command = ["sh", "-c", "sleep 600; true"]
    done = offramp("power", "--meter", meter("supply"), "--for", "2.2s", "--idle", "2.2s", "--", *command)
    assert done.returncode == 0 and time.perf_counter() - start < 300  # nothing holds the pipe open
    assert 2 < seconds_of(done.stdout) < 300 and "beyond idle" in done.stdout


def test_a_signal_ends_a_command_with_its_joules(meter):
    command = [*PROCESS, "power", "--meter", meter("supply"), "--", "sh", "-c", "echo up >&2; sleep 602"]
    numbers = signal.SIGINT, signal.SIGTERM
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in numbers]
    for process in processes:
        assert process.stderr.readline() == "up\n"
    time.sleep(2.3)
    for process, number in zip(processes, numbers, strict=True):
        process.send_signal(number)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and "external, bench" in out


def are_gone(text):
    """Whether no process has a text in its command line; one that was killed may take a moment."""
    for _ in range(1000):
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        if not any(text in line for line in lines):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "script",
    [
        "(sleep {0} &) ; sleep {0}",  # nobody's child any more
        "trap '' TERM; sleep {0}; sleep {0}; sleep {0}",
    ],
)
def test_signals_leave_nothing_running_however_often_they_come(monkeypatch, script):
    monkeypatch.setattr("offramp.cli.power_command.STOP_S", 0.5)
    seconds = str(7000 + os.getpid() % 1000 + len(script) / 100)  # like no other's
    signals = [threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGTERM)) for after_s in (0.5, 0.7, 0.8)]
    for timer in signals:
        timer.start()
    try:
        with signals_interrupt():
            assert run_measured(["sh", "-c", script.format(seconds)], None) is None
            for timer in signals:
                timer.join()
    except KeyboardInterrupt:  # a signal that came when it was over
        pass
    assert are_gone(seconds)


def test_what_a_meter_has_started_goes_on():
    reader = subprocess.Popen(["sh", "-c", "sleep 603; true"])  # as a meter may that reads a serial port
    while not (children := psutil.Process(reader.pid).children()):
        time.sleep(0.01)
    try:
        assert run_measured(["sleep", "604"], 0.1) is None
        assert reader.poll() is None and children[0].status() != psutil.STATUS_ZOMBIE
    finally:
        children[0].kill()
        reader.wait()


def test_a_signal_while_a_command_starts_does_not_lose_it(monkeypatch):
    started = []
    popen = subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with signals_interrupt():
        assert run_measured(["sleep", "60"], None) is None
    assert started[0].returncode is not None


def test_a_meter_whose_read_does_not_return_is_said_to_and_nothing_hangs(meter, monkeypatch):
    monkeypatch.setitem(wait_for.__kwdefaults__, "seconds", 0.2)
    clear_message(offramp("power", "--meter", meter("hanging"), "--", "sleep", "2.2"), 3, "does not return")
    done = offramp("power", "--meter", meter("hanging"), "--for", "1.5s")
    assert done.returncode == 4 and "does not return" in done.stderr


def test_a_command_that_is_too_short_or_fails_says_so(meter):
    clear_message(offramp("power", "--meter", meter("supply"), "--", "true"), 3, "too short", "at least 2 s")
    clear_message(offramp("power", "--meter", meter("supply"), "--", "false"), 3, "false ended with 1", "too short")
    clear_message(offramp("power", "--meter", meter("supply"), "--", "/no/such"), 4, "/no/such", "does not start")


def test_wrong_calls_say_what_is_right(meter, tmp_path):
    clear_message(offramp("power", "--meter", "rapll"), 2, "Did you mean 'rapl'")
    clear_message(offramp("power", "--meter", meter("wrong")), 2, "offramp.devices.Meter")
    clear_message(offramp("power", "--meter", meter("supplyy")), 2, "Did you mean 'supply'")
    clear_message(offramp("power", "--meter", meter("supply"), "--for", "3x"), 2, "--for", "10s")
    clear_message(offramp("power", "--meter", meter("supply"), "--for", "-3"), 2, "--for")
    clear_message(offramp("power", "--meter", meter("supply"), "--frobnicate"), 2, "--frobnicate")
    clear_message(offramp("power", "--meter", tmp_path / "meter.py"), 2, "meter.py:function")
    clear_message(offramp("power", "--meter", meter("supply"), "--idle", "3s"), 2, "--idle", "-- COMMAND")


def test_a_sensor_that_gives_nothing_ends_with_its_reason(meter):
    done = offramp("power", "--meter", meter("dead"), "--for", "1s", "--every", "1s")
    assert done.returncode == 4 and "No such device" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(diagnose().meter is not None, reason="this machine has a meter")
def test_without_a_sensor_power_says_what_was_looked_for_and_where():
    done = offramp("power")
    clear_message(done, 4, "No meter here covers the board's power")
    for place in (
        "/sys/class/powercap/intel-rapl:*",
        "ina3221",
        "/sys/class/hwmon",
        "vcgencmd",
        "/proc/driver/nvidia",
        "BAT*",
    ):
        assert place in done.stderr


@pytest.mark.skipif(diagnose().meter is not None, reason="this machine has a meter")
def test_without_a_sensor_energy_says_how_to_state_the_power(calibrated, inputs):
    done = offramp("energy", calibrated.path, inputs)
    clear_message(done, 4, "No meter here covers the board's power")
    assert "(--power-w 12)" in done.stderr and "--meter file.py:function" in done.stderr


def test_run_shows_the_power_meanwhile(calibrated, inputs, meter):
    done = offramp("run", calibrated.path, inputs, "--power", "--meter", meter("supply"), "--json")
    found = json.loads(done.stdout)
    assert len(found["results"]) == 100 and found["stats"]["inferences"] == 100
    assert sum(found["stats"]["exit_counts"]) == 100
    assert "architecture" in found["fingerprint"]
    done = offramp("run", calibrated.path, inputs, "--power", "--meter", meter("dead"))
    assert done.returncode == 0 and "inferences" in done.stdout and "latency p99" in done.stdout


def test_energy_is_modelled_where_there_is_no_meter(calibrated, inputs):
    done = offramp("energy", calibrated.path, inputs, "--power-w", "5", "--json")
    found = json.loads(done.stdout)
    assert found["grade"] == "modelled" and found["fingerprint"]["engine"].startswith("onnxruntime")
    for one in found["exits"]:
        assert one["energy_j"] == pytest.approx(5 * one["latency_s"]) and one["interval_j"] is None
    assert "nothing was measured" in offramp("energy", calibrated.path, inputs, "--power-w", "5").stdout


def test_energy_is_of_what_was_calibrated(dense, labelled, inputs):
    two = keep(dense.path, [0, 2], name="two")
    calibrate(two, labelled, Target(max_drop=0.05), variant="two", device="openvino:CPU")
    for place, engine in (([], "openvino"), (["--place", "0-1=cpu"], "onnxruntime")):
        found = json.loads(offramp("energy", two.path, inputs, "--power-w", "5", *place, "--json").stdout)
        assert len(found["exits"]) == 2 and found["fingerprint"]["engine"].startswith(engine)


def test_energy_refuses_what_cannot_be_measured(calibrated, inputs, meter):
    both = offramp("energy", calibrated.path, inputs, "--power-w", "5", "--meter", "rapl")
    clear_message(both, 2, "--power-w", "--meter")
    clear_message(
        offramp("energy", "no-bundle", inputs, "--power-w", "5", "--meter", "rapl"), 2, "--power-w", "--meter"
    )
    clear_message(offramp("energy", calibrated.path, inputs, "--power-w", "0"), 2, "power_w")
    short = offramp("energy", calibrated.path, inputs, "--meter", meter("supply"), "--window", "0.5s")
    clear_message(short, 3, "too short")
    few = offramp("energy", calibrated.path, inputs, "--meter", meter("supply"), "--trials", "3")
    clear_message(few, 2, "at least 10 trials")


def test_a_picture_that_cannot_be_written_is_refused_before_anything_runs(meter, tmp_path, monkeypatch):
    command = [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"]
    clear_message(
        offramp("power", "--meter", meter("supply"), "--plot", tmp_path / "power.gif", "--", *command), 2, ".svg"
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = offramp("power", "--meter", meter("supply"), "--plot", tmp_path / "power.svg", "--", *command)
    clear_message(done, 4, "pip install 'offramp[report]'")
    assert not (tmp_path / "ran").exists()
