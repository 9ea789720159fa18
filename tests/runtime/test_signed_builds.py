"""Builds in a signed bundle: what was added, altered or moved is refused before the engine sees it."""

import json
import shutil

import pytest

from offramp.bundle import Trust, open_bundle, sign_bundle
from offramp.errors import TrustError
from offramp.files import hash_file
from offramp.runtime import build, load_uncalibrated
from offramp.tests.helpers.bundles import copy_archive, edit
from offramp.tests.helpers.signing import KeyPair, alter_byte

DEVICE = "openvino:CPU"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return KeyPair(folder, "release"), KeyPair(folder, "board")


@pytest.fixture(scope="module")
def signed(tmp_path_factory, keys):
    """A released bundle, for which a board has made builds."""
    pytest.importorskip("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        bundle = copy_archive(tmp_path_factory.mktemp("signed"))
        sign_bundle(bundle.path, keys[0].path, release=1)
        build(bundle, DEVICE, into_bundle=True)
        yield bundle.path


@pytest.fixture
def bundle(signed, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = shutil.copytree(signed, tmp_path / "dense.offramp")
    sign_bundle(path, keys[1].path)
    return path


def use(path, keys, **options):
    trust = Trust(release_keys=(str(keys[0].public),), board_keys=(str(keys[1].public),))
    return load_uncalibrated(open_bundle(path, trust=trust), DEVICE, **options)


def test_signed_builds_run(bundle, keys):
    with use(bundle, keys) as net:
        assert [stage.built for stage in net.provenance.stages] == ["bundle"] * 3


def alter_record(folder):
    edit(folder / "stage0.built.json", lambda record: record["key"].update(threads="1", note="more"))


def alter_both(folder):
    alter_byte(folder / "stage0.built", 100)
    record = json.loads((folder / "stage0.built.json").read_text())
    record["sha256"] = hash_file(folder / "stage0.built")
    (folder / "stage0.built.json").write_text(json.dumps(record))


def swap(folder):
    for name in ("stage0.built", "stage0.built.json"):
        shutil.copy(folder / name.replace("0", "1"), folder / name)


@pytest.mark.parametrize("cheat", [alter_record, alter_both, swap])
def test_what_was_altered_is_refused(bundle, keys, cheat):
    cheat(bundle / "engines/openvino-CPU/fp32")
    with pytest.raises(TrustError, match=r"stage0.built.json is refused: it was altered after it was signed"):
        use(bundle, keys, fallback="cpu")


def test_what_nobody_signed_is_refused(bundle, keys):
    next((bundle / "signatures").glob("later-*")).unlink()
    with pytest.raises(TrustError, match=r"stage0.built.json is refused: it is not signed by a trusted key. Remove it"):
        use(bundle, keys)
    shutil.rmtree(bundle / "engines")
    with use(bundle, keys) as net:
        assert net.provenance.stages[0].built == "now"


def test_a_build_that_is_not_what_its_record_says_does_not_run(bundle, keys):
    alter_byte(bundle / "engines/openvino-CPU/fp32/stage0.built", 100)
    with use(bundle, keys) as net:
        assert net.provenance.stages[0].built == "now"
