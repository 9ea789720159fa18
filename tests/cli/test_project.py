"""`init` writes a project's file, and `go` runs its steps once."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.cli.app import app, exit_code_of
from offramp.cli.project import Project, read_done, read_project
from offramp.errors import DataError, UsageError
from offramp.tests.helpers.documents import check_documents
from offramp.tests.zoo.dense import write_onnx

PROJECT = """\
bundle: dense.offramp
steps:
  - export:
      network: dense.onnx
  - quantize:
      data: x.npz
  - verify:
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "dense.onnx")
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32))
    return tmp_path


def go(capsys, *options):
    """Run the project; return the exit code, and what became of each step."""
    capsys.readouterr()
    code = exit_code_of(["go", "--json", *options])
    printed = capsys.readouterr().out
    check_documents(["go"], printed)
    found = json.loads(printed)
    assert found["exit_code"] == code
    return code, [step["state"] for step in found["steps"]]


def test_what_is_done_is_not_done_again(folder, capsys):
    path = Path("offramp.yaml")
    path.write_text(PROJECT)
    assert go(capsys) == (0, ["done"] * 3)
    assert [variant.name for variant in open_bundle("dense.offramp").manifest.variants] == ["fp32", "int8"]
    assert go(capsys) == (0, ["nothing changed"] * 3)
    path.write_text(PROJECT.replace("verify:", "verify: {threads: 2}"))
    assert go(capsys) == (0, ["nothing changed", "nothing changed", "done"])
    path.write_text(PROJECT + "  - pack: {output: dense.zip}\n")
    assert go(capsys) == (0, ["nothing changed", "nothing changed", "done", "done"])
    Path("dense.zip").unlink()
    assert go(capsys) == (0, [*["nothing changed"] * 3, "done"])
    assert exit_code_of(["go"]) == 0
    told = capsys.readouterr().out
    assert "pack wrote dense.zip before" in told and "Wrote" not in told
    assert go(capsys, "--again") == (0, ["done"] * 4)


def test_a_bundle_is_made_anew_where_its_variants_change(folder, capsys):
    path = Path("offramp.yaml")
    path.write_text(PROJECT)
    assert go(capsys)[0] == 0
    path.write_text(PROJECT.replace("data: x.npz", "data: x.npz\n      samples: 20"))
    assert go(capsys) == (0, ["done"] * 3)
    settings = open_bundle("dense.offramp").variant("int8").origin.settings
    assert settings["samples"] == 20 and open_bundle("dense.offramp.before").variant("int8") is not None
    np.savez("x.npz", x=np.zeros((40, 16), np.float32))
    assert go(capsys) == (0, ["done"] * 3)
    shutil.rmtree("dense.offramp")
    assert go(capsys) == (0, ["done"] * 3)


def test_a_step_that_fails_ends_it_and_comes_first_the_next_time(folder, capsys):
    Path("offramp.yaml").write_text(PROJECT.replace("x.npz", "later.npz"))
    assert go(capsys) == (2, ["done", "failed", "not run"])
    assert exit_code_of(["go"]) == 2
    out, err = capsys.readouterr()
    assert "quantize  failed" in out and "goes on with the step that failed" in out and "later.npz" in err
    Path("x.npz").rename("later.npz")
    assert go(capsys) == (0, ["nothing changed", "done", "done"])


def test_variants_of_steps_that_were_removed_go(folder, capsys):
    path = Path("offramp.yaml")
    path.write_text(PROJECT)
    assert go(capsys)[0] == 0
    path.write_text(PROJECT.replace("  - quantize:\n      data: x.npz\n", ""))
    assert go(capsys) == (0, ["done", "done"])
    assert [variant.name for variant in open_bundle("dense.offramp").manifest.variants] == ["fp32"]


def test_a_bundle_that_no_step_makes_stays_where_it_is(folder, capsys):
    assert exit_code_of(["export", "dense.onnx", "-o", "dense.offramp"]) == 0
    Path("offramp.yaml").write_text(PROJECT.replace("export:\n      network: dense.onnx", "verify:"))
    assert go(capsys) == (0, ["done"] * 3)
    assert not Path("dense.offramp.before").exists()
    Path("offramp.yaml").write_text("bundle: dense.offramp\nsteps: [inspect]\n")
    assert go(capsys) == (0, ["done"])
    assert exit_code_of(["keep", "dense.offramp", "--exits", "0,2"]) == 0
    assert go(capsys) == (0, ["done"])
    shutil.rmtree("dense.offramp")
    assert go(capsys) == (2, ["failed"])


def test_what_changes_while_a_step_runs_is_seen_the_next_time(folder, capsys):
    code = "import pathlib, numpy\ndef data():\n    pathlib.Path('beside.py').touch()\n    return numpy.load('x.npz')['x']\n"
    Path("samples.py").write_text(code)
    Path("offramp.yaml").write_text(PROJECT.replace("x.npz", "samples.py:data"))
    assert go(capsys) == (0, ["done"] * 3)
    assert go(capsys) == (0, ["done"] * 3)
    assert go(capsys) == (0, ["nothing changed"] * 3)


@pytest.mark.parametrize(
    ("name", "changed"), [("net.py:network", "parts/layers/conv.py"), ("dense.onnx", "dense.onnx.data")]
)
def test_what_belongs_to_a_network_counts(folder, name, changed):
    for each in ("net.py", "parts/__init__.py", "parts/layers/__init__.py"):
        Path(each).parent.mkdir(parents=True, exist_ok=True)
        Path(each).touch()
    Path("offramp.yaml").write_text(f"bundle: b\nsteps: [export: {{network: {name}}}]\n")
    (step,) = read_project(Path("offramp.yaml"), app.commands).steps
    before = step.digest()
    Path(changed).touch()
    assert step.digest() != before


@pytest.mark.parametrize("content", [b"[" * 60_000, b"\xff", b"{}", b'{"bundle": 1, "steps": 2}', bytes(70_000)])
def test_a_damaged_file_of_done_steps_counts_as_none(folder, content):
    project = Project(Path("offramp.yaml"), "b.offramp", ())
    project.state.write_bytes(content)
    assert read_done(project).steps == ()


def test_a_calibration_that_adds_a_variant_and_fails_makes_no_new_bundle(folder, capsys):
    code = "import offramp.export\ndef data():\n    offramp.export.keep('dense.offramp', ['0', '2'])\n    raise ValueError\n"
    Path("samples.py").write_text(code)
    Path("offramp.yaml").write_text(PROJECT.split("  - quantize")[0] + "  - calibrate: {data: 'samples.py:data'}\n")
    assert go(capsys) == (5, ["done", "failed"])
    assert len(open_bundle("dense.offramp").manifest.variants) == 2
    assert go(capsys) == (2, ["nothing changed", "failed"])  # it is there already


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("[exprot: {network: a}]", "Unknown step 'exprot'.*export"),
        ("[export: {netwrok: a}]", "Unknown option of export 'netwrok'.*network"),
        ("[export: 3]", "the options of export are"),
        ("[quantize: {data: {a: b}}]", "data of quantize is a text"),
        ("[quantize: {data: }]", "data of quantize is a text.*None"),
        ("[quantize: {replace: 3}]", "replace of quantize is true or false"),
        ("[[verify]]", "a step is a command"),
        ("[]", "holds no project"),
        ("[serve: {}]", "Unknown step 'serve'"),
        ("[verify: {json-schema: true}]", "Unknown option of verify 'json-schema'"),
        ("[calibrate: {data: x.npz, max-drop: 0.1, max_drop: 0.5}]", "calibrate has max_drop twice"),
    ],
)
def test_what_no_step_can_be_is_named(folder, steps, expected):
    Path("p.yaml").write_text(f"bundle: b.offramp\nsteps: {steps}\n")
    with pytest.raises((UsageError, DataError), match=f"p.yaml.*{expected}|{expected}"):
        read_project(Path("p.yaml"), app.commands)


def test_a_name_that_begins_with_a_hyphen_is_no_option(folder, capsys):
    """`offramp verify --help` would end with 0, and count as done."""
    Path("offramp.yaml").write_text("bundle: --help\nsteps: [verify]\n")
    assert go(capsys) == (2, ["failed"])
    Path("offramp.yaml").write_text(PROJECT.replace("dense.offramp", "-v.offramp"))
    assert go(capsys) == (0, ["done"] * 3)


def test_what_is_no_project_is_named(folder, capsys):
    assert exit_code_of(["go"]) == 2
    assert "offramp init" in capsys.readouterr().err
    Path("offramp.yaml").write_text("- 1")
    assert exit_code_of(["go"]) == 5
    Path("offramp.yaml").write_text("bundel: a")
    assert exit_code_of(["go"]) == 2
    assert "bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--network", "net.onnx"], ["export", "calibrate", "verify"]),
        (
            ["--network", "net.py:network", "--exits", "--train-data", "t.npz", "--test", "j.npz"],
            ["export", "quantize", "calibrate", "verify", "bench", "report"],
        ),
        (
            ["--network", "net.py:network", "--plain", "--train-data", "t", "--shape", "8x8x3", "--mean", "0.5"],
            ["attach", "train", "export", "quantize", "calibrate", "verify"],
        ),
    ],
)
def test_a_file_that_init_wrote_is_a_project(folder, capsys, options, steps):
    assert exit_code_of(["init", "--data", "x.npz", *options]) == 0
    project = read_project(Path("offramp.yaml"), app.commands)
    assert [step.command for step in project.steps] == steps and project.bundle == "net.offramp"
    if "--shape" in options:
        assert all(step.arguments[-6:-4] == ("--shape", "8x8x3") for step in project.steps[:1])
    assert "classes: classes.txt" not in Path("offramp.yaml").read_text()  # x.npz has no folders of classes
    assert exit_code_of(["init", "--data", "x.npz", *options]) == 2
    assert "offramp.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a: b #1", "no", "2024", "null", "'x", "x:", "{a}", "- x", "bilder/ä ö", '"'])
def test_names_are_read_as_they_were_given(folder, name):
    assert exit_code_of(["init", "--network", "net.onnx", "--data", name, "--bundle", name]) == 0
    project = read_project(Path("offramp.yaml"), app.commands)
    assert project.bundle == name and project.steps[0].inputs == ("net.onnx", name)


def test_in_a_terminal_init_asks_and_proposes_what_lies_in_the_folder(folder):
    Path("models.py").write_text(
        "raise RuntimeError('not to be run')\ndef plain(width=3): ...\ndef network(width): ...\n"
    )
    np.savez("train.npz", x=np.zeros(1))
    np.savez("val.npz", x=np.zeros(1))
    answers = {  # the last words of a question, and what is typed
        "[models.py:plain]": "",
        "[Y/n]": "n",
        "[val.npz]": "",
        "[train.npz]": "",
        "[-]": "later.npz",
        "[0.01]": "0.02",
        "5ms (- for none) [-]": "800us",
        "[cpu]": "auto",
    }
    terminal, end = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "offramp", "init"], stdin=end, stdout=subprocess.DEVNULL, stderr=end
    )
    os.close(end)
    shown = ""
    for question, answer in answers.items():
        while not shown.endswith(f"{question}: "):
            shown += os.read(terminal, 1000).decode()
        os.write(terminal, f"{answer}\n".encode())
        shown = ""
    assert child.wait(60) == 0
    os.close(terminal)
    steps = read_project(Path("offramp.yaml"), app.commands).steps
    assert [step.command for step in steps] == [
        *("attach", "train", "export", "quantize", "calibrate", "verify", "bench", "report")
    ]
    assert steps[1].arguments[:2] == ("models.py:plain", "train.npz")
    assert {"--max-drop", "0.02", "--max-latency-ms", "800us", "--device", "auto"} < set(steps[4].arguments)
    assert "later.npz" in steps[6].arguments


def test_without_a_terminal_limits_and_what_lies_here_are_said(folder, capsys):
    assert exit_code_of(["init", "--network", "dense.onnx", "--data", "x.npz", "--max-latency-ms", "2 ms"]) == 0
    assert "--max-latency-ms" in read_project(Path("offramp.yaml"), app.commands).steps[1].arguments
    assert exit_code_of(["init", "-o", "p.yaml", "--network", "a.onnx", "--data", "x", "--max-latency-ms", "2 mJ"]) == 2
    assert exit_code_of(["init", "-o", "p.yaml", "--network", "a.onnx", "--data", "x", "--max-drop", "2"]) == 2
    capsys.readouterr()
    assert exit_code_of(["init", "-o", "p.yaml"]) == 2
    assert "Here lies dense.onnx" in capsys.readouterr().err and not Path("p.yaml").exists()


def test_what_several_steps_would_note_is_noted_once(folder, capsys):
    code = "import warnings, numpy\ndef data():\n    warnings.warn('mind this')\n    return numpy.load('x.npz')['x']\n"
    Path("samples.py").write_text(code)
    twice = "  - quantize: {data: 'samples.py:data', name: %s}\n"
    Path("offramp.yaml").write_text(PROJECT.split("  - quantize")[0] + twice % "one" + twice % "two")
    assert exit_code_of(["go"]) == 0
    assert capsys.readouterr().err.count("Note: mind this") == 1
    assert exit_code_of(["go", "--again"]) == 0
    assert capsys.readouterr().err.count("Note: mind this") == 1


def test_a_folder_of_images_lets_init_say_how_its_classes_are_named(folder):
    Path("images").mkdir()
    assert exit_code_of(["init", "--data", "images", "--network", "net.onnx"]) == 0
    text = Path("offramp.yaml").read_text()
    assert "      # classes: classes.txt" in text
    Path("offramp.yaml").write_text(text.replace("# classes:", "classes:"))
    (export, *_) = read_project(Path("offramp.yaml"), app.commands).steps
    assert export.arguments[-2:] == ("--classes", "classes.txt") and "classes.txt" in export.inputs


def test_without_a_terminal_what_is_missing_is_named(folder, capsys):
    assert exit_code_of(["init", "--network", "net.py:network"]) == 2
    assert "--plain or --exits" in capsys.readouterr().err
    assert exit_code_of(["init", "--network", "net.onnx"]) == 2
    assert "--data" in capsys.readouterr().err
