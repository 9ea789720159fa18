"""Commands that write, interrupted by `tests/benchmarks/interruptions.py`: what is there is whole, and the next run works."""

import shutil
import sys

import pytest

from offramp.tests.benchmarks import interruptions
from offramp.tests.helpers.bundles import ARCHIVE

HOWS = ["kill", "disk", "files", "permission"]


@pytest.mark.skipif(sys.platform == "win32", reason="bundles are not written on Windows")
def test_commands_that_copy_bundles_survive_interruptions(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "template").mkdir()
    shutil.copytree(ARCHIVE, tmp_path / "template/dense.offramp")
    names = ["pack", "encrypt", "cache clean"]
    hows = HOWS if interruptions.limits_of(interruptions.random.Random(0)).keys() >= {"permission"} else HOWS[:-1]
    results = interruptions.run_all(tmp_path, len(names) * len(hows), names=names, hows=hows)
    assert [result for result in results if result["problem"]] == []
    assert {result["code"] for result in results} >= {0, 4}


@pytest.mark.slow
def test_every_command_that_writes_survives_interruptions(tmp_path, python):
    """In a process of its own, in which no engine has started that children would take over."""
    python(f"import sys; sys.argv[1:] = [{str(tmp_path)!r}, '--runs', '300']; {RUN}")
    python(f"import sys; sys.argv[1:] = [{str(tmp_path)!r}, '--runs', '48', '--how', 'disk,files,permission']; {RUN}")


RUN = "from offramp.tests.benchmarks.interruptions import main; main()"
