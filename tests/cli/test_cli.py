import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.cli import output
from offramp.cli.app import exit_code_of
from offramp.cli.output import progress_bars, spinner
from offramp.tests.helpers.briefly import brief_arguments
from offramp.tests.helpers.command import PROCESS, clear_message, in_terminal, offramp
from offramp.tests.zoo.dense import CLASSES

NETWORK = """
import torch
from offramp.tests.zoo import networks
def network(): return networks.build(networks.Plain)
def wrong(): return 1 / 0
def loud():
    import subprocess
    import numpy as np
    print("loading")
    subprocess.run(["echo", "from another program"])
    for i in range(3):
        print("reading")
        yield np.full(16, i, np.float32)
def full(): return bytearray(1 << 62)
DATA = [1.0, 2.0]
def pairs():
    x = networks.samples(60)
    return x, network()(torch.from_numpy(x))[-1].argmax(1).numpy()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, dense_onnx, labelled):
    folder = tmp_path_factory.mktemp("cli")
    x, y = labelled
    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "shape.npz", x=x[:, :3], y=y)
    np.savez(folder / "nan.npz", x=np.where(np.arange(len(x))[:, None] == 3, np.nan, x), y=y)
    np.savez(folder / "empty.npz", x=x[:0], y=y[:0])
    np.savez(folder / "labels.npz", x=x, y=y + 40)
    np.savez(folder / "unlabelled.npz", x=x)
    (folder / "text.onnx").write_text("this is no network")
    (folder / "text.npz").write_text("this is no archive")
    (folder / "net.py").write_text(NETWORK)
    (folder / "bad.offramp").mkdir()
    (folder / "bad.offramp" / "manifest.json").write_text('{"schema": 1')
    (folder / "images" / "a").mkdir(parents=True)
    done = offramp("export", dense_onnx, "-o", folder / "dense.offramp")
    assert done.returncode == 0, done.stderr
    return folder


WRONG = [
    # no file
    (["export", "{f}/nowhere.onnx", "-o", "{f}/x.offramp"], 2, ["There is no file", "nowhere.onnx"]),
    (["run", "{f}/nowhere.offramp", "{f}/data.npz"], 2, ["There is no bundle", "nowhere.offramp"]),
    (["run", "{f}/dense.offramp", "{f}/nowhere.npz"], 2, ["There is no file", "nowhere.npz"]),
    # a directory
    (["export", "{f}", "-o", "{f}/x.offramp"], 2, ["file.py:function or model.onnx"]),
    (["run", "{f}/images", "{f}/data.npz"], 5, ["is not an offramp bundle"]),
    (["run", "{f}/dense.offramp", "{f}/images"], 5, ["no images"]),
    # a file that is not what its name says
    (["export", "{f}/text.onnx", "-o", "{f}/x.offramp"], 5, ["text.onnx is not an ONNX file"]),
    (["run", "{f}/dense.offramp", "{f}/text.npz"], 5, ["text.npz is not a readable NumPy file"]),
    (["run", "{f}/dense.offramp", "{f}/text.onnx"], 2, ["Samples come from"]),
    # one thing in the place of another
    (["run", "{f}/data.npz", "{f}/dense.offramp"], 5, ["is not an offramp bundle", "These are samples."]),
    (["inspect", "{f}/net.py:network"], 2, ["There is no bundle", "names something in a Python file"]),
    (["run", "{f}/dense.offramp", "{f}/dense.offramp"], 2, ["dense.offramp is a bundle, not samples"]),
    (["run", "{f}/dense.offramp", "{f}/text.onnx"], 2, ["This is a network."]),
    (["export", "{f}/data.npz", "-o", "{f}/x.offramp"], 2, ["model.onnx, not", "These are samples."]),
    (
        ["export", "{f}/net.py:DATA", "-o", "{f}/x", "--shape", "3x4x4"],
        2,
        ["gives a list, as samples are, not a network"],
    ),
    # wrong shapes, NaN, empty, labels
    (["calibrate", "{f}/dense.offramp", "{f}/shape.npz", "--max-drop", "0.1"], 5, ["(N, 16)", "(800, 3)"]),
    (["run", "{f}/dense.offramp", "{f}/shape.npz"], 5, ["(N, 16)", "(800, 3)"]),
    (["calibrate", "{f}/dense.offramp", "{f}/nan.npz", "--max-drop", "0.1"], 5, ["Sample 3", "NaN"]),
    (["run", "{f}/dense.offramp", "{f}/nan.npz"], 5, ["Sample 3", "NaN"]),
    (["bench", "{f}/dense.offramp", "{f}/empty.npz"], 5, ["data set is empty"]),
    (["run", "{f}/dense.offramp", "{f}/empty.npz"], 5, ["no samples"]),
    (["calibrate", "{f}/dense.offramp", "{f}/labels.npz", "--max-drop", "0.1"], 5, ["Label 4", "0 to 4"]),
    (["bench", "{f}/dense.offramp", "{f}/unlabelled.npz"], 5, ["no labels"]),
    # unknown flag, command, value
    (["run", "{f}/dense.offramp", "{f}/data.npz", "--fast"], 2, ["--fast"]),
    (["banch", "{f}/dense.offramp"], 2, ["bench"]),
    (["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--goal", "energi"], 2, ["Did you mean 'energy'"]),
    (["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--max-drop", ".1", "-o", "{f}/images"], 2, ["is a folder"]),
    (["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--max-drop", ".1", "--seed", "-1"], 2, ["--seed"]),
    (["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--max-drop", "5"], 2, ["0.01 is one percent"]),
    (["export", "{f}/net.py:network", "-o", "{f}/x.offramp"], 2, ["--shape"]),
    (["export", "{f}/net.py:network", "-o", "{f}/x.offramp", "--shape", "3xx"], 2, ["3x32x32"]),
    (["export", "{f}/net.py:netwrok", "-o", "{f}/x.offramp", "--shape", "3x16x16"], 2, ["Did you mean 'network'"]),
    (["export", "{f}/net.py:wrong", "-o", "{f}/x.offramp", "--shape", "3x16x16"], 5, ["line 5", "ZeroDivisionError"]),
    (["run", "{f}/dense.offramp", "{f}/net.py:network"], 2, ["net.py:network gives the network Plain, not samples"]),
    (["run", "{f}/dense.offramp", "{f}/net.py:full"], 4, ["ran out of memory"]),
    (["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--target", "{f}/data.npz"], 5, ["is not YAML"]),
    (
        ["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--deadline-ms", "5 mJ"],
        2,
        ["--deadline-ms is a number, or one"],
    ),
    (["run", "{f}/dense.offramp", "{f}/data.npz", "--device", "tpu"], 4, ["no device 'tpu'"]),
    # unreadable bundle
    (["run", "{f}/bad.offramp", "{f}/data.npz"], 5, ["manifest.json is not a valid manifest"]),
    (["inspect", "{f}/bad.offramp"], 5, ["manifest.json is not a valid manifest"]),
    # read-only output: nobody writes into /proc
    (["export", "{f}/../onnx0/dense.onnx", "-o", "/proc/x.offramp"], 4, ["Cannot write", "permissions"]),
    (["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--max-drop", ".1", "-o", "/proc/c.json"], 4, ["Cannot write"]),
    (["export", "{f}/../onnx0/dense.onnx", "-o", "{f}/data.npz"], 2, ["is a file"]),
    # nothing meets it
    (
        ["calibrate", "{f}/dense.offramp", "{f}/data.npz", "--max-latency-ms", "1e-9"],
        3,
        ["smallest mean latency"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), WRONG, ids=[" ".join(a).replace("{f}/", "") for a, _, _ in WRONG]
)
def test_a_wrong_call_gives_one_clear_message(files, arguments, code, words, capfd, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
    code_given = exit_code_of(brief_arguments(argument.format(f=files) for argument in arguments))
    out, err = capfd.readouterr()
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("Note: "))
    clear_message(subprocess.CompletedProcess(arguments, code_given, out, err), code, *words)
    assert not (files / "x.offramp").exists()


def test_memory_that_is_full_ends_with_4(files, monkeypatch, call):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("offramp.runtime.load", fail)
    code, out, err = call("run {f}/dense.offramp {f}/data.npz")
    assert (code, out) == (4, "") and err.startswith("Error: The memory is full.")


def test_what_a_users_code_prints_is_no_part_of_the_result(files):
    done = offramp("run", files / "dense.offramp", f"{files}/net.py:loud", "--json")
    assert len(json.loads(done.stdout)) == 3
    assert "loading\n" in done.stderr and done.stderr.count("reading\n") == 3


def test_a_report_says_at_once_that_a_package_is_missing(files, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    # The samples would be refused too, if they were looked at before.
    code, out, err = call("report {f}/dense.offramp {f}/nan.npz -o {f}/report.html")
    assert (code, out) == (4, "") and "pip install 'offramp[report]'" in err


def test_a_report_without_samples_takes_nothing_that_is_of_samples(files, call):
    code, _, err = call("report {f}/dense.offramp --groups site -o {f}/report.html")
    assert code == 2 and "--groups is of samples: give DATA too" in err


def test_verify_says_what_its_samples_are(files, call):
    code, out, _ = call("verify {f}/dense.offramp")
    assert code == 0 and "3 golden samples were replayed. The export took them from its examples;" in out


def test_the_exit_code_and_the_message_reach_the_shell(files):
    for bundle, code, words in (("nowhere", 2, "There is no bundle"), ("bad", 5, "not a valid manifest")):
        command = [*PROCESS, "run", files / f"{bundle}.offramp", files / "data.npz"]
        clear_message(subprocess.run(command, capture_output=True, text=True), code, words)


def test_the_whole_way_by_commands(files, tmp_path):
    bundle = tmp_path / "b.offramp"
    manifest = json.loads(
        offramp("export", files / "net.py:network", "--shape", "3x16x16", "-o", bundle, "--json").stdout
    )
    assert manifest["classes"] == CLASSES
    data = f"{files / 'net.py'}:pairs"
    done = offramp("calibrate", bundle, data, "--max-drop", "0.2", "--json")
    calibration = json.loads(done.stdout)
    points = calibration["points"]
    early = points.get("default-early", points["default"])
    assert done.returncode == (0 if all(p["met"] for p in points.values()) else 3) and len(early["thresholds"]) == 2
    results = json.loads(subprocess.check_output([*PROCESS, "run", bundle, data, "--json"]))
    assert len(results) == 60 and set(results[0]) == {"label", "score", "exit", "latency_s", "logits", "cut", "late"}
    benchmark = json.loads(offramp("bench", bundle, data, "--json", "--plot", tmp_path / "bench.pdf").stdout)
    assert benchmark["samples"] == 60
    shown = json.loads(offramp("inspect", bundle, "--json").stdout)
    assert shown["manifest"] == manifest and shown["calibrations"]["default"] == calibration
    for command in (["inspect", bundle], ["bench", bundle, data], ["run", bundle, data]):
        done = offramp(*command)
        assert done.returncode == 0 and done.stdout
        said = [line for line in done.stderr.splitlines() if not line.startswith("Took ")]
        assert said == [] or ("run" in command and said[0].startswith("Note: ") and " runs the " in said[0])


def test_targets_come_from_flags_or_a_file_and_data_may_lack_labels(files, tmp_path, call):
    bundle = shutil.copytree(files / "dense.offramp", tmp_path / "dense.offramp")
    (tmp_path / "points.yaml").write_text("fast: {max_drop: 0.1}\nright: {goal: latency, min_accuracy: 0.5}\n")
    code, out, _ = call(f"calibrate {bundle} {{f}}/data.npz --json --target {tmp_path / 'points.yaml'}")
    points = json.loads(out)["points"]
    assert code == 0 and list(points)[:2] == ["fast", "right"]
    assert points["fast"]["target"] == {"goal": "latency", "max_drop": 0.1}
    flags = "--goal energy --max-drop 10% --deadline-ms 50ms --max-energy-mj 1000 --power-w 5"
    found = json.loads(call(f"calibrate {bundle} {{f}}/data.npz --json {flags}")[1])
    assert found["points"]["default"]["target"] == {
        "goal": "energy",
        "max_drop": 0.1,
        "deadline_s": 0.05,
        "max_late": 0.01,
        "max_energy_j": 1.0,
    }
    code, out, _ = call(f"calibrate {bundle} {{f}}/unlabelled.npz --max-disagreement 0.1")
    assert code == 0 and "disagreement" in out and "promise" in out
    assert "balanced" in call(f"calibrate {bundle} {{f}}/data.npz")[1]


def test_messages_go_to_stderr_and_results_to_stdout(files):
    done = offramp("run", files / "dense.offramp", files / "data.npz")
    assert done.stderr.startswith("Note: ") and "no calibration" in done.stderr
    assert done.stdout.splitlines()[0].split() == ["sample", "label", "score", "exit", "latency", "us"]
    assert len(done.stdout.splitlines()) == 801
    assert "dense.offramp runs the chain of fp32 on cpu, without a calibration, thresholds never, never." in done.stderr


def test_doctor_says_what_runs(files):
    report = json.loads(offramp("doctor", "--json").stdout)
    assert report["engines"][0]["version"] and report["extras"]["onnxruntime"]
    assert "onnxruntime" in offramp("doctor").stdout


def test_doctor_without_an_engine_ends_with_4():
    hide = "import sys; sys.modules |= dict.fromkeys(['onnxruntime', 'ai_edge_litert', 'ncnn', 'openvino', 'MNN'])"
    code = f"{hide}; from offramp.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 4 and "pip install 'offramp[onnxruntime]'" in done.stdout
    assert "No engine runs here" in done.stderr


def test_inspect_reads_every_byte(files, tmp_path):
    assert offramp("export", files / "../onnx0/dense.onnx", "-o", tmp_path / "b.offramp").returncode == 0
    path = tmp_path / "b.offramp/variants/fp32/golden.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    clear_message(offramp("inspect", tmp_path / "b.offramp"), 5, "golden.npz is damaged")


def test_an_interrupted_command_ends_with_130(files, tmp_path):
    command = [
        *PROCESS,
        "calibrate",
        files / "dense.offramp",
        files / "data.npz",
        "--max-drop",
        "0.1",
        "--measure-s",
        "600",
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    maps = Path(f"/proc/{running.pid}/maps")
    while running.poll() is None and "onnxruntime_pybind11_state" not in maps.read_text():
        time.sleep(0.05)  # until it loads the network: then it measures for minutes
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (130, "")
    assert err.strip() == "Interrupted. What was measured and stored is kept: the same command goes on from there."


@pytest.mark.parametrize("checkpoint", ["", "--checkpoint {f}/some.pt"])
def test_an_interrupted_training_says_whether_it_goes_on(files, call, monkeypatch, checkpoint):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("offramp.export.add_pruned", interrupt)
    code, out, err = call(
        f"prune {{f}}/net.py:network --data {{f}}/net.py:pairs -o {{f}}/x.offramp --macs .5 {checkpoint}"
    )
    kept = f"Epochs stored in {files}/some.pt are kept: the same command goes on from there."
    lost = "Nothing is half written: the same command starts again. With --checkpoint FILE it would go on."
    assert (code, out, err.strip()) == (130, "", f"Interrupted. {kept if checkpoint else lost}")


def test_progress_is_shown_to_a_person(files):
    out, shown = in_terminal("bench", files / "dense.offramp", files / "data.npz")
    assert b"measuring" in shown and b"measuring" not in out


def test_a_person_is_told_how_long_long_work_took(monkeypatch):
    class Terminal(io.StringIO):
        isatty = lambda self: True  # noqa: E731

    now = iter([0, 2, 30, 95, 95.5, 96, 100, 100, 112, 112])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(output, "monotonic", lambda: next(now))
    with progress_bars() as progress:
        progress("loading samples", 1, 1)
        progress("measuring", 1, 2)
        progress("measuring", 2, 2)
        progress("searching", 1, 1)
    told = ["Took 2.0 s: loading samples (1 sample)", "Took 1 min 33 s: measuring", "Took 1 min 36 s in all"]
    assert sys.stderr.getvalue().endswith("\n".join(told) + "\n")
    with spinner("fusing"):
        pass
    assert sys.stderr.getvalue().endswith("Took 12.0 s: fusing\n")


def test_tasks_that_take_turns_share_the_time(monkeypatch, capsys):
    now = iter([0, 2, 5, 9, 14, 14])
    monkeypatch.setattr(output, "monotonic", lambda: next(now))
    steps = output._Steps()
    for k, task in enumerate(("compiling", "measuring", "compiling", "measuring")):
        steps.report(task, k // 2 + 1, 2)
    steps.tell()
    assert capsys.readouterr().err.splitlines() == [
        "Took 6.0 s: compiling",
        "Took 8.0 s: measuring",
        "Took 14.0 s in all",
    ]


def test_a_progress_bar_follows_a_total_that_changes(monkeypatch):
    class Terminal(io.StringIO):
        isatty = lambda self: True  # noqa: E731

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bars() as progress:
        progress("measuring", 30, 30)
        progress("measuring", 30, 90)
    assert "33%" in sys.stderr.getvalue()


def test_a_reader_that_leaves_early_changes_no_exit_code(files, tmp_path):
    from offramp.runtime import load_static

    bundle = shutil.copytree(files / "dense.offramp", tmp_path / "dense.offramp")
    with np.load(files / "data.npz") as data, load_static(bundle) as whole:
        x, y = data["x"], data["y"]
        right = whole.batch(x).label == y
    np.savez(tmp_path / "right.npz", x=x[right] + np.float32(1e-6), y=y[right])  # which are not the samples that report
    missed = f"calibrate {bundle} {files}/data.npz --min-accuracy 0.9999 --outside {tmp_path}/right.npz"
    for line, code in ((f"run {bundle} {files}/data.npz", 0), (missed, 3)):
        command = shlex.join([*PROCESS, *brief_arguments(line.split())])
        for pipe in (f"2>{tmp_path}/said | true", "2>&1 | true"):
            done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} {pipe}"])
            said = (tmp_path / "said").read_text()
            assert done.returncode == code and "Broken" not in said and "Traceback" not in said, said


def test_images_run_on_a_network_that_takes_images(files, tmp_path, call):
    bundle = tmp_path / "b.offramp"
    assert call(f"export {{f}}/net.py:network --shape 3x16x16 -o {bundle}")[0] == 0
    for name, colour in (("cat", 10), ("dog", 240)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(15):
            Image.new("RGB", (40 + i, 30), (colour, i, 0)).save(tmp_path / "set" / name / f"{i}.png")
    assert len(json.loads(call(f"run {bundle} {tmp_path / 'set'} --json")[1])) == 30
    assert len(json.loads(call(f"run {bundle} {tmp_path / 'set/cat/3.png'} --json")[1])) == 1
    for file in [*(tmp_path / "set").glob("*/*.png")]:  # by what the network says of them, so that it is right
        (said,) = json.loads(call(f"run {bundle} {file} --json")[1])
        (tmp_path / "known" / str(said["label"])).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "known" / str(said["label"]) / f"{file.parent.name}-{file.name}")
    assert json.loads(call(f"bench {bundle} {tmp_path / 'known'} --json")[1])["whole"]["accuracy"] == 1
    (tmp_path / "set/dog/3.png").write_text("no image")
    code, _, err = call(f"run {bundle} {tmp_path / 'set'}")
    assert code == 5 and "3.png is not a readable image" in err
