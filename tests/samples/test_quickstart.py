"""What the quickstart does once: its steps, its training, and the installation before it."""

import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.tests.helpers.pages import ROOT

QUICKSTART = ROOT / "samples/quickstart"


@pytest.fixture
def steps_in(tmp_path, capsys):
    """Return what does three steps, the second of which is made of something, and says which were done."""
    make = runpy.run_path(str(QUICKSTART / "steps.py"))["Steps"]

    def run(fact, fails=False):
        steps, done = make(tmp_path), []

        def work(name):
            if fails and name == "c":
                steps.unfinished.write_text("half")
                raise KeyboardInterrupt
            done.append(name)
            (tmp_path / name).write_text(name)

        for name, *made_of in (("a", 1), ("b", fact), ("c",)):
            steps.do(f"make {name}", tmp_path / name, lambda progress, name=name: work(name), *made_of)
        return SimpleNamespace(done=done, said=capsys.readouterr().out)

    return run


def test_a_step_is_done_again_where_it_or_one_before_has_changed(steps_in, tmp_path):
    assert steps_in(1).done == ["a", "b", "c"]
    again = steps_in(1)
    assert again.done == [] and again.said.count("done before") == 3
    assert steps_in(2).done == ["b", "c"]
    (tmp_path / "b").unlink()
    assert steps_in(2).done == ["b"]
    source = tmp_path / "source.py"
    source.write_text("1")
    assert steps_in(source).done == ["b", "c"] and steps_in(source).done == []
    source.write_text("2")
    assert steps_in(source).done == ["b", "c"]


def test_an_interrupted_step_is_done_again_and_keeps_what_it_goes_on_from(steps_in, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        steps_in(1, fails=True)
    (kept,) = tmp_path.glob("*.unfinished")
    assert steps_in(1).done == ["c"] and not kept.exists()
    with pytest.raises(KeyboardInterrupt):
        steps_in(2, fails=True)
    assert steps_in(3).done == ["b", "c"]
    assert not list(tmp_path.glob("*.unfinished"))


def test_training_goes_on_exactly_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(QUICKSTART))
    digits = runpy.run_path(str(QUICKSTART / "digits.py"))
    x, y = np.random.default_rng(0).random((128, 1, 28, 28), np.float32), np.arange(128) % 10
    monkeypatch.setitem(digits["train"].__globals__, "training", lambda most: (x, y))
    unfinished, options = tmp_path / "unfinished", {"epochs": 2, "make": digits["Small"]}

    def interrupt(what, done, total):
        if what == "epoch 2 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digits["train"](**options, weights=tmp_path / "a.pt", unfinished=unfinished, progress=interrupt)
    assert not (tmp_path / "a.pt").exists()
    told = []
    went_on = {
        "weights": tmp_path / "a.pt",
        "unfinished": unfinished,
        "progress": lambda *figures: told.append(figures),
    }
    digits["train"](**options, **went_on)
    digits["train"](**options, weights=tmp_path / "b.pt")
    assert [what for what, *_ in told] == ["epoch 2 of 2"] * 2
    load = digits["torch"].load
    first, second = (load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert all(digits["torch"].equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_another_network_takes_the_place_of_one_that_was_calibrated(tmp_path, monkeypatch, calibrated):
    """Export refuses to lose a calibration, unless somebody says so; the quickstart's own folder may go."""
    import torch

    for name in ("network", "cascade"):
        shutil.copytree(calibrated.path, tmp_path / f"{name}.offramp")
    monkeypatch.syspath_prepend(str(QUICKSTART))
    monkeypatch.setenv("DIGITS_WEIGHTS", str(tmp_path / "digits.pt"))
    for module in ("digits", "steps", "whole_way"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    quickstart = runpy.run_path(str(QUICKSTART / "quickstart.py"))
    digits, shared = quickstart["digits"], quickstart["make_all"].__globals__

    def end(*_, **__):
        raise KeyboardInterrupt

    def train(*, make=digits.Digits, weights=digits.WEIGHTS, **_):
        torch.save(make().state_dict(), weights)

    monkeypatch.setattr(digits, "train", train)
    monkeypatch.setattr(digits, "calibration", lambda most: (np.zeros((3, 1, 28, 28), np.float32), np.arange(3)))
    monkeypatch.setitem(shared, "calibrate", end)
    with pytest.raises(KeyboardInterrupt):
        quickstart["make_all"](SimpleNamespace(images=3, epochs=1, seed=0))
    for path in (shared["EARLY"], shared["BOTH"]):
        assert open_bundle(path).manifest.classes == 10 and not open_bundle(path).calibrations()


PIP = """
import sys
print("Collecting torch==2.13.0 (from offramp)")
print("  Downloading torch-2.13.0-cp311-manylinux.whl.metadata (28 kB)")
print("  Downloading https://example.org/whl/torch-2.13.0-cp311-manylinux.whl (198.5 MB)")
print("Collecting rich")
print("  Using cached rich-15.0.0-py3-none-any.whl (243 kB)")
print("Installing collected packages: torch, rich")
print("ERROR: no room on the disk", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 1])
def test_installing_says_what_pip_does_in_few_lines_and_why_it_failed(tmp_path, code):
    (tmp_path / "pip.py").write_text(PIP)
    command = [sys.executable, ROOT / "samples/installing.py", sys.executable, tmp_path / "pip.py", str(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line.partition("  ")[2].split("  ", 1)[-1] for line in done.stdout.splitlines()]
    assert lines[:2] == ["1 package, 199 MB; downloading torch, 198 MB", "2 packages, 199 MB; installing 2 packages"]
    assert done.returncode == code and done.stderr == ""
    assert (lines[2:] == ["2 packages, 199 MB; done"]) if code == 0 else "no room on the disk" in done.stdout
