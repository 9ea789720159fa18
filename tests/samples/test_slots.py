"""The recipe for updates: whenever the power fails, the product's link leads to the old network or the new one, whole."""

import contextlib
import itertools
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from offramp.bundle import check_bundle, open_bundle, pack
from offramp.errors import BundleError, OfframpError, UsageError
from offramp.runtime import load
from offramp.tests.helpers.bundles import ARCHIVE, edit

SAMPLE = Path(__file__).parents[2] / "samples/update/slots.py"
slots = SimpleNamespace(**runpy.run_path(str(SAMPLE)))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two packed bundles that say which they are."""
    folder = tmp_path_factory.mktemp("networks")
    for name in ("old", "new"):
        bundle = shutil.copytree(ARCHIVE, folder / name)
        edit(bundle / "manifest.json", lambda manifest, name=name: manifest.update(network=name))
        pack(bundle, folder / f"{name}.zip")
    return folder


def name_of(link):
    return check_bundle(link).manifest.network


class Disk:
    """A folder on a disk that keeps only what it was told to, and fails before an operation of some number.

    In the worst case the content of files that were not synced is lost, and so is each name that was not synced with its folder:
    `losing` says of each such name whether it is.
    """

    def __init__(self, folder, monkeypatch, fails_at, losing):
        self.folder, self.losing, self.fails_at, self.count = folder, losing, fails_at, itertools.count()
        self.synced, self.before = set(), {}
        self.real_replace, self.real_symlink_to = Path.replace, Path.symlink_to
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(Path, "replace", lambda *paths: self.replace(*paths))
        monkeypatch.setattr(Path, "symlink_to", lambda *paths: self.symlink_to(*paths))

    def step(self):
        if next(self.count) == self.fails_at:
            self.fail()
            raise SystemExit("the power failed")

    def fsync(self, descriptor):
        self.step()
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.is_dir():
            self.before.clear()
        else:
            self.synced.add(os.fstat(descriptor).st_ino)

    def replace(self, source, target):
        self.step()
        kept = None
        if os.path.lexists(target):
            kept = target.with_name(f"{target.name}.kept")
            kept.unlink(missing_ok=True)
            target.rename(kept)
        self.before.setdefault(target, kept)
        self.real_replace(source, target)

    def symlink_to(self, path, target):
        self.step()
        self.real_symlink_to(path, target)

    def fail(self):
        for target, kept in self.before.items():
            if next(self.losing):
                target.unlink()
                if kept is not None:
                    kept.rename(target)
        for path in self.folder.iterdir():
            if not path.is_symlink() and path.is_file() and path.stat().st_ino not in self.synced:
                os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("losing", [(True,), (True, False), (False,)], ids=["all", "the first", "none"])
def test_a_power_cut_before_any_operation_leaves_the_old_network_or_the_new(networks, tmp_path, losing):
    seen = []
    for k in itertools.count():
        folder = tmp_path / str(k)
        slots.install(folder, networks / "old.zip", check_bundle)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(folder, patch, k, itertools.cycle(losing))
            disk.synced |= {path.stat().st_ino for path in folder.iterdir()}
            with contextlib.suppress(SystemExit):
                slots.install(folder, networks / "new.zip", check_bundle)
        seen.append(name_of(folder / "current"))
        slots.install(folder, networks / "new.zip", check_bundle)  # the next one is not blocked
        assert name_of(folder / "current") == "new"
        if next(disk.count) <= k:
            break
    assert len(seen) > 5 and set(seen) == {"old", "new"} and seen == sorted(seen, reverse=True)


def test_the_disk_of_these_tests_loses_what_was_not_synced(networks, tmp_path, monkeypatch):
    """A recipe without syncing the file fails the test above."""
    slots.install(tmp_path, networks / "old.zip", check_bundle)
    disk = Disk(tmp_path, monkeypatch, 10**9, itertools.cycle([False]))
    disk.synced |= {path.stat().st_ino for path in tmp_path.iterdir()}
    shutil.copy(networks / "new.zip", tmp_path / "b.offramp.zip")
    slots.turn(tmp_path, "b.offramp.zip")
    disk.fail()
    with pytest.raises(OfframpError):
        name_of(tmp_path / "current")


def test_a_kill_at_a_random_moment_leaves_the_old_network_or_the_new(networks, tmp_path):
    folder, rng = tmp_path / "net", np.random.default_rng(0)
    slots.install(folder, networks / "old.zip", check_bundle)
    for _ in range(12):
        new = "new" if name_of(folder / "current") == "old" else "old"
        pid = os.fork()
        if pid == 0:
            slots.install(folder, networks / f"{new}.zip", check_bundle)
            os._exit(0)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert name_of(folder / "current") in ("old", "new")
    assert {path.name for path in folder.iterdir()} <= {
        *slots.SLOTS,
        "current",
        "current.part",
        "a.offramp.part",
        "b.offramp.part",
    }


def test_a_network_that_does_not_pass_is_not_taken_and_the_one_before_comes_back(networks, tmp_path):
    folder = tmp_path / "net"
    slots.install(folder, networks / "old.zip", check_bundle)
    broken = bytearray((networks / "new.zip").read_bytes())
    broken[
        broken.index(open_bundle(networks / "new.zip").read(open_bundle(networks / "new.zip").variant(), "weights.bin"))
    ] ^= 1
    (tmp_path / "broken.zip").write_bytes(broken)
    with pytest.raises(BundleError):
        slots.install(folder, tmp_path / "broken.zip", check_bundle)
    assert name_of(folder / "current") == "old" and {path.name for path in folder.iterdir()} == {
        "a.offramp.zip",
        "current",
    }
    with pytest.raises(UsageError, match="There is no bundle"):
        slots.go_back(folder, check_bundle)
    net = load(folder / "current", lazy=True)
    slots.install(folder, networks / "new.zip", check_bundle)
    assert name_of(folder / "current") == "new" and net(np.zeros(16, np.float32)).label in range(5)
    with pytest.raises(BundleError):
        slots.install(folder, tmp_path / "broken.zip", check_bundle)
    slots.go_back(folder, check_bundle)
    assert name_of(folder / "current") == "old"


def test_the_command_verifies_what_it_installs(networks, tmp_path):
    run = [sys.executable, SAMPLE, "install", tmp_path / "net", networks / "new.zip"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{tmp_path}/net/current is a.offramp.zip\n", done.stderr
    done = subprocess.run([sys.executable, SAMPLE, "back", tmp_path / "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "stays as it was." in done.stderr
