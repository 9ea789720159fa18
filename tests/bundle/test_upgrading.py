"""Bundles of earlier versions are rewritten to the present form, and go on computing, promising and costing the same."""

import json
import shutil
import warnings

import msgspec
import numpy as np
import pytest

from offramp import __version__
from offramp.bundle import check_bundle, open_bundle, read_calibration, upgrade, upgrading
from offramp.bundle.calibration import CALIBRATION_SCHEMA
from offramp.bundle.manifest import SCHEMA
from offramp.errors import BundleError
from offramp.runtime import UncalibratedWarning, load
from offramp.tests.helpers.bundles import ARCHIVE, edit
from offramp.tests.helpers.command import offramp

BOTH = {"calibrations/default.json": 3, "manifest.json": 2}


@pytest.fixture
def old(tmp_path):
    """A bundle of version 0.1."""
    return shutil.copytree(ARCHIVE, tmp_path / "old.offramp")


def contents(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def answers(path):
    """Return what each operating point answers, and the point."""
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    found = {}
    for name in read_calibration(path / "calibrations/default.json").points:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)  # it was made on another device
            net = load(path, "cpu", point=name)
        result = net.batch(x)
        found[name] = net.point, result.label.tolist(), result.exit.tolist(), result.score.tolist()
    return found


def test_an_old_bundle_gets_the_present_form_and_answers_as_before(old):
    before, files = answers(old), contents(old)
    manifest, calibration = open_bundle(old).manifest, read_calibration(old / "calibrations/default.json")
    done = upgrade(old)
    assert (done.rewritten, done.left) == (BOTH, {})
    assert answers(old) == before
    changes = {"offramp": __version__}
    assert check_bundle(old).manifest == msgspec.structs.replace(manifest, schema=SCHEMA, **changes)
    now = read_calibration(old / "calibrations/default.json")
    assert now == msgspec.structs.replace(calibration, schema=CALIBRATION_SCHEMA, **changes)
    assert now.variants == {variant.name: variant.digest for variant in open_bundle(old).manifest.variants}
    assert {name for name, content in contents(old).items() if content != files[name]} == BOTH.keys()


def test_what_has_the_present_form_is_not_touched(old):
    upgrade(old)
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    assert upgrade(old).rewritten == {}
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before


def test_a_kill_between_two_files_leaves_a_bundle_that_loads_and_the_next_run_goes_on(old, monkeypatch):
    before = answers(old)
    monkeypatch.setattr(upgrading, "write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        upgrade(old)
    assert answers(old) == before
    monkeypatch.undo()
    assert upgrade(old).rewritten == {"manifest.json": 2} and answers(old) == before


def test_a_damaged_calibration_stops_it_before_anything_is_written(old):
    (old / "calibrations/worse.json").write_text("{}")
    files = contents(old)
    with pytest.raises(BundleError, match="worse.json is not a valid calibration"):
        upgrade(old)
    assert contents(old) == files


def test_the_command_says_what_it_did_and_what_it_left(old):
    ancient = shutil.copy(old / "calibrations/default.json", old / "calibrations/ancient.json")
    edit(ancient, lambda c: c.update(schema=2))
    done = offramp("upgrade", old)
    assert done.returncode == 0, done.stderr
    assert "manifest.json: rewritten, it had schema 2" in done.stdout
    assert "calibrations/ancient.json: left as it is." in done.stdout and "Calibrate again" in done.stdout
    assert json.loads(ancient.read_text())["schema"] == 2
    assert json.loads(offramp("upgrade", old, "--json").stdout)["rewritten"] == {}
