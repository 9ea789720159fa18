"""A signed bundle, and the keys that signed it."""

import shutil
from types import SimpleNamespace

import pytest

from offramp.bundle import sign_bundle
from offramp.tests.helpers.bundles import ARCHIVE, edit
from offramp.tests.helpers.signing import Case, KeyPair


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return SimpleNamespace(**{name: KeyPair(folder, name) for name in ("release", "board", "stranger")}, folder=folder)


@pytest.fixture(scope="session")
def signed(tmp_path_factory, keys):
    """The archived bundle as release 7, with a second calibration that the board signed."""
    path = shutil.copytree(ARCHIVE, tmp_path_factory.mktemp("signed") / "dense.offramp")
    sign_bundle(path, keys.release.path, release=7)
    edit(path / "calibrations/default.json", lambda calibration: calibration.update(notes=["made on the board"]))
    (path / "calibrations/default.json").rename(path / "calibrations/board.json")
    shutil.copy(ARCHIVE / "calibrations/default.json", path / "calibrations")
    sign_bundle(path, keys.board.path)
    return path


@pytest.fixture
def case(signed, keys, tmp_path):
    return Case(signed, keys, tmp_path)
