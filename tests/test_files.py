"""Files are written whole or not at all, and the folders of a user are found."""

import errno
import os
from pathlib import Path

import pytest

from offramp import files
from offramp.errors import MissingError, UsageError


@pytest.mark.parametrize(
    ("find", "variable", "default"),
    [(files.cache_home, "XDG_CACHE_HOME", ".cache"), (files.data_home, "XDG_DATA_HOME", ".local/share")],
)
def test_the_folders_of_a_user_follow_the_xdg_specification(find, variable, default, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path))
    assert find() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative/path"):
        monkeypatch.setenv(variable, ignored)
        assert find() == tmp_path / "home" / default
    for none in ("", ".", "relative/path"):
        monkeypatch.setenv("HOME", none)
        assert find() == Path("/dev/null")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(files.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert not (find() / "anything").exists()
    with pytest.raises(MissingError), files.os_errors_explained(find(), "write"):
        (find() / "anything").mkdir(parents=True)


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(MissingError, match="No space left on device. Check permissions and free space") as full:
        files.write_atomically(path, b"new")
    assert full.value.path == path and path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="is a folder. Name a file to write") as refused:
        files.check_writable(tmp_path)
    assert refused.value.path == tmp_path


def test_no_pipe_and_no_device_is_replaced_by_a_file(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (pipe, link, Path("/dev/null"), Path("/dev/stdout"), Path("/dev/new-file-of-a-test")):
        for write in (files.check_writable, lambda path: files.write_atomically(path, b"new")):
            with pytest.raises(UsageError, match="is a device or a pipe. Name a file to write") as refused:
                write(path)
            assert refused.value.path == path
    assert pipe.is_fifo() and link.is_symlink() and Path("/dev/null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_folder_that_may_not_be_listed_is_not_taken_for_empty(tmp_path, monkeypatch):
    for name in ("engines/cpu/fp32/stage0.built", "engines/cpu/fp32/stage0.json", "engines/cpu/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = files.Folder(tmp_path)
    assert folder.glob("engines/*/*/*.built") == [tmp_path / "engines/cpu/fp32/stage0.built"]
    assert folder.glob("calibrations/*.json") == []
    listdir = os.listdir

    def forbid(path):
        if Path(path).name == "fp32":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbid)
    with pytest.raises(MissingError, match="Cannot read .*fp32: Permission denied"):
        folder.glob("engines/*/*/*.built")
