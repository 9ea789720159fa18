"""Bundles and calibrations are written whole, or stay as they were."""

import errno
import fcntl
import os
import shutil
import sys
import warnings

import msgspec
import pytest

from offramp.bundle import check_bundle, read_calibration, write_calibration
from offramp.bundle.writing import check_replaceable, commit, list_files, new_variant
from offramp.errors import BundleError, MissingError, UsageError
from offramp.export import export, keep
from offramp.runtime import load, verify
from offramp.tests.zoo.dense import write_onnx


def manifest_of(bundle):
    return bundle.path / "manifest.json"


def test_a_folder_with_other_things_is_not_written_into(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match=r"holiday.jpg"), new_variant(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_what_a_mac_adds_to_a_bundle_is_left_alone(calibrated):
    added = [calibrated.path / ".DS_Store", *(calibrated.path / n for n in ("._x", "calibrations/._default.json"))]
    for path in added:
        path.write_bytes(b"\0\5\26\7")
    assert [path.name for path in calibrated.calibrations()] == ["default.json"]
    assert load(calibrated.path).point.name == "default"
    keep(calibrated.path, [0, 2])
    assert all(path.exists() for path in added)


def test_a_failed_export_removes_nothing_of_the_users(tmp_path):
    (tmp_path / "variants" / "thesis").mkdir(parents=True)
    (tmp_path / "variants" / "thesis" / "a.txt").touch()
    with pytest.raises(UsageError, match="variants/thesis"), new_variant(tmp_path):
        pass
    assert (tmp_path / "variants" / "thesis" / "a.txt").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError), new_variant(tmp_path / "empty"):
        raise RuntimeError
    assert (tmp_path / "empty").exists()


def test_a_bundle_that_lost_its_manifest_is_not_emptied_by_a_failed_export(dense):
    manifest_of(dense).unlink()
    with pytest.raises(RuntimeError), new_variant(dense.path):
        raise RuntimeError
    assert (dense.path / dense.variant().folder / "weights.bin").exists()


def test_a_manifest_that_could_not_be_read_back_is_not_committed(dense):
    wrong = msgspec.structs.replace(dense.manifest, classes=-1)
    with pytest.raises(BundleError, match="does not fit into a bundle"), new_variant(dense.path) as folder:
        commit(dense.path, folder, fill(folder, wrong, b"wrong"))
    assert check_bundle(dense.path).manifest == dense.manifest


def test_what_may_not_be_read_or_written_is_named(dense):
    path = dense.path / dense.variant().folder / "weights.bin"
    path.chmod(0)
    for folder in (dense.path, *dense.path.parents):
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(MissingError, match=r"Cannot read .*weights.bin: Permission denied"):
            load(dense.path)
        with pytest.raises(MissingError, match=r"Cannot write .*Permission denied"), new_variant("/usr/b.offramp"):
            pass
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_drive_that_cannot_be_told_to_write_holds_bundles(dense, monkeypatch, code):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    assert check_bundle(rewrite(dense, b"new").path).manifest.network == "new"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_drive_without_locks_holds_bundles_with_a_warning(dense, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.warns(UserWarning, match="on a drive without locks .*one process at a time"):
        assert check_bundle(rewrite(dense, b"new").path).manifest.network == "new"


def test_a_full_disk_is_still_a_reason_to_fail(dense, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MissingError, match="Input/output error"):
        rewrite(dense, b"new")
    assert check_bundle(dense.path).manifest == dense.manifest


def test_what_a_new_export_removes_is_said(calibrated, tmp_path):
    keep(calibrated.path, [0, 2], name="two")
    other = write_onnx(tmp_path / "other.onnx", seed=1)
    words = (
        r"variants two are removed.*; .*\.json was calibrated for what is gone and is not used: run offramp calibrate"
    )
    with pytest.raises(UsageError, match=f"loses what was made of that: {words}.*--replace"):
        export(other, None, calibrated.path)
    assert [variant.name for variant in check_bundle(calibrated.path).manifest.variants] == ["fp32", "two"]
    with pytest.warns(UserWarning, match=f"is replaced: {words}"):
        bundle = export(other, None, calibrated.path, replace=True)
    assert [variant.name for variant in bundle.manifest.variants] == ["fp32"] and len(bundle.calibrations()) == 1


def test_more_calibrations_than_are_looked_through_stop_no_commit_halfway(dense):
    (dense.path / "calibrations").mkdir()
    for i in range(501):
        (dense.path / f"calibrations/{i}.json").touch()
    assert rewrite(dense, b"new").manifest.network == "new"
    assert len(list((dense.path / "variants").iterdir())) == 1


def test_what_fits_a_new_export_of_the_same_network_stays(calibrated):
    bundle = keep(calibrated.path, [0, 2], name="two")
    first = bundle.manifest.variants[0]
    with warnings.catch_warnings(), new_variant(bundle.path) as folder:
        warnings.simplefilter("error")
        for name in first.files:
            shutil.copy(bundle.path / first.folder / name, folder)
        again = commit(bundle.path, folder, msgspec.structs.replace(bundle.manifest, variants=(first,)))
        assert load(again).point is not None
    assert [(v.name, v.digest) for v in again.manifest.variants] == [
        (v.name, v.digest) for v in bundle.manifest.variants
    ]
    assert again.variant().folder != first.folder == again.variant("two").folder
    assert all(verification.passed for verification in verify(check_bundle(bundle.path)))


def test_a_second_writer_is_refused(dense):
    with (
        new_variant(dense.path),
        pytest.raises(UsageError, match="Another process is writing"),
        new_variant(dense.path),
    ):
        pass


def fill(folder, manifest, content):
    """Write a variant's files anew, all of them different from before."""
    names = list(manifest.variants[0].files)
    for name in names:
        (folder / name).write_bytes(content + name.encode())
    variant = msgspec.structs.replace(manifest.variants[0], files=list_files(folder))
    return msgspec.structs.replace(manifest, network=content.decode(), variants=(variant,))


def rewrite(bundle, content):
    with new_variant(bundle.path) as folder:
        return commit(bundle.path, folder, fill(folder, bundle.manifest, content))


FILE_EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "shutil.rmtree",
    "tempfile.mkstemp",
}


def killed_at(step, work):
    """Run work in a child that is killed before its file operation number `step`; True if it lived to the end."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def watch(event, arguments):
            nonlocal count
            if event in FILE_EVENTS:
                count += 1
                if count > step:
                    os._exit(9)

        sys.addaudithook(watch)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_kill_between_any_two_file_operations_leaves_the_old_bundle_or_the_new(dense):
    old, seen, step = rewrite(dense, b"old"), set(), 0
    while True:
        lived = killed_at(step, lambda: rewrite(old, b"new"))
        found = check_bundle(old.path)
        seen.add(found.manifest.network)
        if lived:
            break
        rewrite(found, b"old")
        step += 1
    assert step > 30 and seen == {"old", "new"}
    assert found.manifest.network == "new"
    left = {path.name for path in (old.path / "variants").iterdir()}
    assert left == {found.variant().folder.removeprefix("variants/")}


def test_a_kill_during_the_first_write_leaves_no_bundle_or_a_whole_one(dense, tmp_path):
    step = 0
    while True:
        path = tmp_path / f"first{step}"

        def write(path=path):
            with new_variant(path) as folder:
                commit(path, folder, fill(folder, dense.manifest, b"first"))

        lived = killed_at(step, write)
        if (path / "manifest.json").exists():
            check_bundle(path)
        else:
            write()
            check_bundle(path)
        if lived:
            break
        step += 1
    assert step > 20


def test_a_kill_while_a_calibration_is_written_leaves_the_old_or_the_new(calibrated):
    path = calibrated.calibrations()[0]
    old = read_calibration(path)
    new = msgspec.structs.replace(old, seed=99)
    step = 0
    while not killed_at(step, lambda: write_calibration(path, new)):
        assert read_calibration(path) in (old, new)
        assert calibrated.calibrations() == [path]
        step += 1
    assert step >= 3 and read_calibration(path) == new


def test_a_read_only_place_is_named(dense, calibrated, tmp_path):
    calibration = read_calibration(calibrated.calibrations()[0])
    with pytest.raises(MissingError, match="Cannot write /proc"):
        write_calibration("/proc/nowhere/c.json", calibration)
    with pytest.raises(MissingError, match="Cannot write /proc"), new_variant("/proc/nowhere"):
        pass


def test_what_is_nested_too_deeply_to_read_is_no_calibration_to_replace(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"schema": 1, "points": {"a": ' + "[" * 100_000)
    with pytest.raises(UsageError, match="is no calibration"):
        check_replaceable(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_was_forked_while_a_bundle_was_written_does_not_hold_its_lock(tmp_path):
    from offramp.bundle.writing import _locked

    with _locked(tmp_path):
        wait, go = os.pipe()
        child = os.fork()
        if not child:
            os.close(go)
            os.read(wait, 1)
            os._exit(0)
        os.close(wait)
    with _locked(tmp_path):
        os.close(go)
    os.waitpid(child, 0)
