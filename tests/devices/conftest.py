import errno
import os
import sys
from itertools import count, cycle
from pathlib import Path
from types import ModuleType

import pytest

from offramp.devices.meters import choose_meter
from offramp.devices.recording import Recording
from offramp.devices.simulated import SimulatedClock
from offramp.tests.fakes.boards import plant


@pytest.fixture
def board(tmp_path):
    """Plants a board in a new folder of tmp_path, returns its root: board("orin-nx", **{path: new content or None})."""
    numbers = count()
    return lambda name, **changes: plant(name, tmp_path / f"{next(numbers)}-{name}", **changes)


@pytest.fixture
def failing(monkeypatch):
    """A fake of drivers that fail, since tests run as root and plain files cannot fail.

    failing(path, errno.ENODATA) makes reads of a file fail from now on, those of open descriptors too; failing(path,
    None) mends it. As in the kernel, what may not be read (EACCES, EPERM) fails to open, while an open descriptor of it
    goes on; any other error comes from the read, without a file name. The descriptor of a file that is gone fails with
    ENODEV, as sysfs has it.
    """
    codes: dict[str, int] = {}
    true_open, true_pread, true_read_bytes = os.open, os.pread, Path.read_bytes

    def check_open(path):
        code = codes.get(os.path.realpath(path))
        if code in (errno.EACCES, errno.EPERM):
            raise OSError(code, os.strerror(code), str(path))

    def check_read(target):
        code = errno.ENODEV if target.endswith(" (deleted)") else codes.get(target)
        if code is not None and code not in (errno.EACCES, errno.EPERM):
            raise OSError(code, os.strerror(code))

    def fake_open(path, *arguments, **options):
        check_open(path)
        return true_open(path, *arguments, **options)

    def fake_pread(fd, *arguments):
        check_read(str(Path(f"/proc/self/fd/{fd}").readlink()))
        return true_pread(fd, *arguments)

    def fake_read_bytes(path):
        check_open(path)
        check_read(os.path.realpath(path))
        return true_read_bytes(path)

    monkeypatch.setattr(os, "open", fake_open)
    monkeypatch.setattr(os, "pread", fake_pread)
    monkeypatch.setattr(Path, "read_bytes", fake_read_bytes)

    def fail(path, code):
        assert path.exists(), path
        if code is None:
            codes.pop(os.path.realpath(path), None)
        else:
            codes[os.path.realpath(path)] = code

    return fail


@pytest.fixture
def simulate():
    """Gives a meter simulated time and returns its clock; simulate(meter, path, *values) shows these in turn."""

    def start(meter, path=None, *values):
        meter.clock, shown = SimulatedClock(), cycle(values)
        if path is not None:
            meter.clock.every(0.01, lambda: path.exists() and path.write_text(f"{next(shown)}\n"))
        return meter.clock

    return start


@pytest.fixture
def counted(board, failing, simulate):
    """Reads a RAPL counter once a second, which shows these microjoules or, where None, fails; returns its energy."""

    def count(*values):
        root = board("intel-n100")
        path = root / "sys/class/powercap/intel-rapl:0/energy_uj"
        meter = choose_meter("rapl", root=root)
        clock, recording = simulate(meter), Recording(meter, meter.total)
        for value in values:
            failing(path, errno.EIO if value is None else None)
            path.write_text(f"{value or 0}\n")
            recording.poll()
            clock.advance(1.0)
        return recording.integrate_rail(meter.rails[0], 0.0, len(values) - 1.0)

    return count


@pytest.fixture(autouse=True)
def no_nvml(monkeypatch):
    """No test sees what is installed here."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def fake_nvml(monkeypatch):
    """Puts FakeNvml, a fake of nvidia-ml-py with one card, into sys.modules; what answers None is not supported."""

    def install(name="NVIDIA GeForce RTX 4070", energy_mj=None, power_mw=None, start=0, **more):
        fake = ModuleType("FakeNvml")
        fake.NVMLError = type("NVMLError", (Exception,), {})

        def answer(value):
            def query(*_):
                if value is None:
                    raise fake.NVMLError("Not Supported")
                return value

            return query

        fake.nvmlInit, fake.nvmlDeviceGetCount = answer(start), answer(1)
        fake.nvmlDeviceGetHandleByIndex, fake.nvmlDeviceGetName = answer(0), answer(name)
        fake.nvmlDeviceGetTotalEnergyConsumption = answer(energy_mj)
        fake.nvmlDeviceGetPowerUsage = answer(power_mw)
        for query, value in more.items():
            setattr(fake, query, answer(value))
        monkeypatch.setitem(sys.modules, "pynvml", fake)

    return install
