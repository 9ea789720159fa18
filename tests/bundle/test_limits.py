"""A bundle takes no more memory, time and room on the screen than its size explains."""

import json
import os
import shutil

import numpy as np
import pytest

from offramp import files
from offramp.bundle import check_bundle, open_bundle, read_calibration, reading
from offramp.bundle.golden import read_golden
from offramp.errors import OfframpError
from offramp.export import export, fuse, keep
from offramp.runtime import build, load
from offramp.tests.helpers.bundles import ARCHIVE, copy_archive, edit, refuse, refuse_any, replace_file
from offramp.tests.helpers.command import clear_message, offramp

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\x9bcat\u202e"


@pytest.fixture
def dense(tmp_path):
    return copy_archive(tmp_path)


@pytest.fixture
def calibration(dense):
    shutil.copytree(ARCHIVE / "calibrations", dense.path / "calibrations")
    return dense.calibrations()[0]


@pytest.fixture
def manifest(dense):
    return dense.path / "manifest.json"


def test_a_manifest_of_gigabytes_is_not_read(dense, manifest):
    os.truncate(manifest, 5 << 30)  # takes no room on the disk
    refuse(manifest, lambda: open_bundle(dense.path), "larger than 32 MiB, which no manifest is")


def test_a_calibration_of_gigabytes_is_not_read(dense, calibration):
    os.truncate(calibration, 33 << 20)
    refuse(calibration, lambda: load(dense.path), "larger than 32 MiB, which no calibration is")
    os.truncate(calibration, 5 << 30)
    refuse(calibration.parent, lambda: load(dense.path), "have 5120 MiB, and at most 64 MiB are looked through")
    refuse(calibration, lambda: read_calibration(calibration), "larger than 32 MiB, which no calibration is")


def test_golden_samples_of_gigabytes_are_not_read(dense, manifest):
    golden = dense.path / dense.variant().folder / "golden.npz"
    os.truncate(golden, 5 << 30)
    edit(manifest, lambda m: m["variants"][0]["files"]["golden.npz"].update(bytes=5 << 30))
    bundle = open_bundle(dense.path)
    refuse(golden, lambda: read_golden(bundle, bundle.variant()), "larger than 2 GiB, which no golden samples are")


def test_thousands_of_calibrations_are_not_looked_through(dense, calibration):
    for i in range(500):
        os.link(calibration, calibration.with_name(f"copy{i}.json"))
    refuse(calibration.parent, lambda: load(dense.path), "has 501 calibrations.*name the one to use")
    assert read_calibration(calibration).points


def test_a_file_that_many_variants_name_is_hashed_once(dense, manifest, monkeypatch):
    edit(manifest, lambda m: m["variants"].extend([{**m["variants"][0], "name": f"v{i}"} for i in range(50)]))
    hashed = []
    monkeypatch.setattr(reading, "hash_open", lambda file: hashed.append(file.name) or files.hash_open(file))
    check_bundle(dense.path)
    assert len(hashed) == len(set(hashed)) == sum(len(variant.files) for variant in dense.manifest.variants)


def test_no_text_of_a_bundle_steers_the_terminal(dense, manifest, calibration, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((2, 16), np.float32))
    edit(manifest, lambda m: m.update(class_names=[f"{HOSTILE}{i}\n" for i in range(5)], network=HOSTILE))
    edit(calibration, lambda c: c.update(notes=[HOSTILE], meter=HOSTILE))
    edit(calibration, lambda c: c["fingerprint"].update(cpu=HOSTILE))
    for command in ("inspect",), ("run", tmp_path / "x.npz"):
        for form in (), ("--json",):
            done = offramp(command[0], dense.path, *command[1:], *form)
            assert done.returncode == 0, done.stderr
            printed = (done.stdout + done.stderr).replace("\n", "")
            assert printed.isprintable() and "\\u001b" in printed
            assert not form or json.loads(done.stdout)


def test_a_link_to_itself_is_no_place_to_write(dense, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for work in (
        lambda: fuse(dense, loop / "fused.onnx", thresholds=[0.5, 0.5]),
        lambda: keep(loop, [0, 2]),
        lambda: export(dense.path / dense.variant().folder / "whole.onnx", None, loop),
        lambda: build(loop, "cpu"),
        lambda: load(dense, calibration=loop),
    ):
        with pytest.raises(OfframpError, match="loop"):
            work()


def test_an_engine_that_cannot_even_say_what_is_wrong_prints_nothing(dense, tmp_path):
    path = dense.path / dense.variant().folder / "stage0.onnx"
    replace_file(dense, "stage0.onnx", path.read_bytes().replace(b"Tanh", b"T\xe7nh"))
    np.savez(tmp_path / "x.npz", x=np.ones((2, 16), np.float32))
    clear_message(offramp("run", dense.path, tmp_path / "x.npz"), 5, "stage0.onnx")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update({HOSTILE + "\n" + "a" * 10**6: 1}),
        lambda m: m.update(schema=9, offramp=HOSTILE + "\n" + "a" * 10**6),
        lambda m: m["variants"][0].update(precision=HOSTILE + "\n" + "a" * 10**6),
        lambda m: m["variants"][0]["stages"][1]["inputs"][0].update(name=HOSTILE + "\n" + "a" * 10**6),
    ],
    ids=["field", "version", "value", "name"],
)
def test_a_message_repeats_little_of_a_text_and_no_control_character(dense, manifest, change):
    edit(manifest, change)
    message = str(refuse_any(lambda: open_bundle(dense.path), "manifest.json"))
    assert len(message) <= 600 and message.isprintable()
