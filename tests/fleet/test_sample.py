"""The sample runs by its one command."""

import numpy as np
import pytest

from offramp.tests.helpers.bundles import copy_archive
from offramp.tests.helpers.pages import run_script

pytest.importorskip("distributed")


@pytest.mark.slow
def test_the_sample_calibrates_three_processes_and_says_how_long_they_take(tmp_path, checkout):
    bundle, rng = copy_archive(tmp_path), np.random.default_rng(0)
    x = rng.standard_normal((200, 16)).astype(np.float32)
    np.savez(tmp_path / "test.npz", x=x)
    printed = run_script(
        checkout,
        "samples/fleet/fleet.py",
        bundle.path,
        tmp_path / "test.npz",
        "--max-disagreement",
        0.5,
        "--measure-s",
        0.1,
    )
    assert printed.count("beside its kind") == 3 and "the same on 3 boards" in printed
