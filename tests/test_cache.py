"""Stages built ahead: kept under a key of everything that matters, in the cache or in the bundle."""

import logging
import multiprocessing
import os
import re
import time
import warnings

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.cache import (
    ABANDONED_S,
    LIMIT_BYTES,
    cache_folder,
    cache_limit,
    clean_cache,
    digest_key,
    fetch,
    list_cache,
    read_build,
    store,
    write_build,
)
from offramp.errors import BundleError, MissingError, UsageError
from offramp.export import export
from offramp.runtime import EngineWarning, build, load_uncalibrated
from offramp.runtime.engines import openvino
from offramp.tests.zoo.dense import write_onnx

DEVICE = "openvino:CPU"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/offramp/engines"


@pytest.fixture
def builds(monkeypatch):
    """The stages that are really built."""
    found, original = [], openvino.build

    def spy(source, place, **rest):
        found.append(source.path.name)
        return original(source, place, **rest)

    monkeypatch.setattr(openvino, "build", spy)
    return found


def states(net):
    return [stage.built for stage in net.provenance.stages]


def test_a_stage_is_built_once_and_then_taken_from_the_cache(dense, builds):
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    done = []
    first = load_uncalibrated(dense, DEVICE, progress=lambda what, n, total: done.append((what, n, total)))
    second = load_uncalibrated(dense, DEVICE)
    assert states(first) == ["now"] * 3 and states(second) == ["cache"] * 3 and len(builds) == 3
    assert (first.every_exit(x).score == second.every_exit(x).score).all()
    assert done[0] == ("compiling", 0, 3) and done[-1] == ("compiling", 3, 3)


def test_building_ahead_leaves_loading_nothing_to_do(dense, builds):
    found = build(dense, DEVICE)
    assert [one.stage for one in found] == ["stage0.onnx", "stage1.onnx", "stage2.onnx"] and not found[0].was_there
    assert states(load_uncalibrated(dense, DEVICE)) == ["cache"] * 3
    assert all(one.was_there for one in build(dense, DEVICE)) and len(builds) == 3
    assert [one.stage for one in build(dense, (DEVICE, "cpu", "cpu"))] == ["stage0.onnx"]
    assert build(dense, "cpu") == ()


def test_what_is_built_into_the_bundle_travels_with_it(dense, builds, cache, tmp_path):
    build(dense, DEVICE, into_bundle=True)
    moved = dense.path.rename(tmp_path / "elsewhere.offramp")
    assert states(load_uncalibrated(open_bundle(moved), DEVICE)) == ["bundle"] * 3
    assert len(builds) == 3 and not cache.exists()
    build(open_bundle(moved), DEVICE, into_bundle=True)
    assert len(builds) == 3


def test_a_build_larger_than_a_stage_explains_is_not_read(tmp_path):
    write_build(tmp_path / "record", tmp_path / "built", {"device": DEVICE}, "label", bytes(100))
    assert read_build(tmp_path / "record", tmp_path / "built", {"device": DEVICE}, most=100)[1] is None
    assert "has 100 bytes by its record, and builds of this stage at most 99" in str(
        read_build(tmp_path / "record", tmp_path / "built", {"device": DEVICE}, most=99)[1]
    )


def test_a_build_for_another_version_is_built_anew_and_it_is_said_what_differs(dense, builds, monkeypatch):
    build(dense, DEVICE)
    describe = openvino.describe_build
    monkeypatch.setattr(openvino, "describe_build", lambda place: {**describe(place), "engine": "openvino 2099.1"})
    with pytest.warns(
        EngineWarning, match=r"stage0.onnx is built anew for openvino:CPU: engine was .* and is openvino 2099.1"
    ):
        net = load_uncalibrated(dense, DEVICE)
    assert states(net) == ["now"] * 3 and len(builds) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_uncalibrated(dense, DEVICE)


def test_weights_that_changed_are_built_anew_and_named(tmp_path, builds):
    path = tmp_path / "b.offramp"
    load_uncalibrated(export(write_onnx(tmp_path / "one.onnx"), None, path), DEVICE)
    again = export(write_onnx(tmp_path / "two.onnx", seed=1), None, path)
    with pytest.warns(EngineWarning, match="weights was"):
        load_uncalibrated(again, DEVICE)


def test_other_threads_or_outputs_are_not_stale(dense):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_uncalibrated(dense, DEVICE)
        load_uncalibrated(dense, DEVICE, threads=2)
        load_uncalibrated(dense, DEVICE, logits=True)


@pytest.mark.parametrize("where", ["cache", "bundle"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "record"])
def test_a_damaged_build_is_built_anew_and_it_is_said(dense, builds, cache, where, damage):
    build(dense, DEVICE, into_bundle=where == "bundle")
    built = sorted((cache if where == "cache" else dense.path / "engines").rglob("*built"))[0]
    content = bytearray(built.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        built.write_bytes(content)
    elif damage == "cut":
        built.write_bytes(content[:-1])
    elif damage == "gone":
        built.unlink()
    else:
        record = built.parent / "entry.json" if where == "cache" else built.with_name(f"{built.name}.json")
        record.write_text("{")
    with pytest.warns(EngineWarning, match=r"is built anew for openvino:CPU: .*(damaged|cannot be read)"):
        net = load_uncalibrated(dense, DEVICE)
    assert states(net).count("now") == 1 and len(builds) == 4
    assert "now" not in states(load_uncalibrated(dense, DEVICE))


def test_files_are_checked_before_they_are_built(dense):
    weights = dense.path / dense.variant().folder / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        load_uncalibrated(dense, DEVICE)


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(dense, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(EngineWarning, match="at every load: Cannot write"):
        assert states(load_uncalibrated(dense, DEVICE)) == ["now"] * 3
    with pytest.raises(MissingError, match="Cannot write"):
        build(dense, DEVICE)


@pytest.mark.parametrize(
    "way", ["link", "link above", "another user's", "open to the group", "open to all", "open above"]
)
def test_a_cache_that_others_may_have_filled_is_not_used(cache, way, tmp_path):
    key = {"device": "d", "threads": "1", "outputs": ""}
    store(key, "stage0", b"planted")
    assert fetch(key, "stage0")[0] == b"planted"
    folder = cache.parent if "above" in way else cache
    if "link" in way:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif way == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder to another user")
        os.chown(folder, 65534, 65534)
    else:
        folder.chmod(0o775 if "group" in way else 0o777)
    assert fetch(key, "stage0") == (None, None)
    for work in (lambda: store(key, "stage0", b"mine"), list_cache, clean_cache):
        with pytest.raises(MissingError, match="is not used as cache") as refused:
            work()
        assert refused.value.path == folder
    assert (cache / digest_key(key) / "built").read_bytes() == b"planted"  # what is not ours is left alone


@pytest.mark.parametrize("way", ["folder open", "folder's owner", "build's owner", "record's owner", "folder a link"])
def test_an_entry_that_another_may_have_put_into_the_own_cache_is_not_used(cache, way, tmp_path):
    """As where the cache was open to others once, or its folder is moved away between check and use."""
    key = {"device": "d", "threads": "1", "outputs": ""}
    before = os.umask(0)
    try:
        store(key, "stage0", b"planted")
    finally:
        os.umask(before)
    folder = cache / digest_key(key)
    assert folder.stat().st_mode & 0o777 == 0o700
    if way == "folder open":
        folder.chmod(0o777)
    elif way == "folder a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    else:
        os.chown(folder / {"b": "built", "r": "entry.json", "f": ""}[way[0]], 65534, 65534)
    content, problem = fetch(key, "stage0")
    assert content is None and problem is not None
    assert not list(cache.iterdir())
    store(key, "stage0", b"mine")
    assert fetch(key, "stage0") == (b"mine", None)


def test_the_cache_may_lie_where_others_have_theirs(tmp_path, monkeypatch):
    """As below /tmp: nobody else can move away what is ours. Who took the name first keeps it, and it is not used."""
    shared, key = tmp_path / "shared", {"device": "d", "threads": "1", "outputs": ""}
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    store(key, "stage0", b"mine")
    assert fetch(key, "stage0")[0] == b"mine"
    (tmp_path / "linked").symlink_to(shared)  # a link of the user's own
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "linked"))
    assert fetch(key, "stage0")[0] == b"mine"


def test_an_unsafe_cache_is_no_reason_to_fail(dense, cache):
    build(dense, DEVICE)
    cache.chmod(0o777)
    with pytest.warns(EngineWarning, match="at every load: .* is not used as cache: others may write to it"):
        assert states(load_uncalibrated(dense, DEVICE)) == ["now"] * 3


def test_the_cache_is_made_for_its_user_alone(cache):
    before = os.umask(0)
    try:
        store({"device": "d", "threads": "1", "outputs": ""}, "stage0", b"built")
    finally:
        os.umask(before)
    assert [folder.stat().st_mode & 0o777 for folder in (cache.parent, cache)] == [0o700, 0o700]


@pytest.mark.parametrize("way", ["pipe", "larger", "record", "deep record"])
def test_a_build_in_the_bundle_that_takes_forever_or_gigabytes_is_not_read(dense, builds, way):
    build(dense, DEVICE, into_bundle=True)
    path = dense.path / "engines/openvino-CPU/fp32/stage0.built"
    record = path.with_name("stage0.built.json")
    if way == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif way == "larger":
        record.write_text(re.sub('"bytes": [0-9]+', f'"bytes": {2**40}', record.read_text()))
        os.truncate(path, 2**40)  # takes no room on the disk
    else:
        record.write_bytes(b"[" * 10**5 if way == "deep record" else b"a" * 2 * 10**6)
    with pytest.warns(EngineWarning, match="stage0.onnx is built anew"):
        assert states(load_uncalibrated(dense, DEVICE)) == ["now", "bundle", "bundle"]


def test_a_build_in_the_bundle_that_lies_outside_is_refused(dense, builds, tmp_path):
    build(dense, DEVICE, into_bundle=True)
    path = dense.path / "engines/openvino-CPU/fp32/stage0.built"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"stage0\.built leads outside the bundle through a link"):
        load_uncalibrated(dense, DEVICE)


def test_the_cache_is_kept_below_its_limit(dense, monkeypatch):
    build(dense, DEVICE)
    sizes = {one.folder: one.entry.bytes for one in list_cache()}
    oldest, middle, newest = reversed([one.folder for one in list_cache()])
    for age, folder in enumerate((newest, middle, oldest)):
        os.utime(cache_folder() / folder, (1e9 - age, 1e9 - age))
    count, freed = clean_cache(sizes[newest] + sizes[middle])
    assert (count, freed) == (1, sizes[oldest]) and {one.folder for one in list_cache()} == {
        newest,
        middle,
    }
    monkeypatch.setenv("OFFRAMP_CACHE_MB", "0")
    load_uncalibrated(dense, DEVICE)
    assert len(list_cache()) == 1  # what was just built stays
    monkeypatch.setenv("OFFRAMP_CACHE_MB", "many")
    with pytest.raises(UsageError, match="OFFRAMP_CACHE_MB"):
        cache_limit()
    assert clean_cache() == (1, pytest.approx(sizes[oldest], rel=1)) and not list(cache_folder().iterdir())


def test_what_killed_processes_left_goes_when_it_is_old_whatever_the_limit(dense, cache):
    build(dense, DEVICE)
    there = {one.name for one in cache.iterdir()}
    for name, age_s in ((".new-killed", 2 * ABANDONED_S), (".new-at-work", 10.0)):
        (cache / name).mkdir()
        (cache / name / "built").write_bytes(bytes(1000))
        os.utime(cache / name, (time.time() - age_s,) * 2)
    assert clean_cache(LIMIT_BYTES) == (0, 0)
    assert {one.name for one in cache.iterdir()} == there | {".new-at-work"}


def _store_many(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        k = int(rng.integers(4))
        content, _ = fetch({"device": "d", "threads": "1", "outputs": "", "k": str(k)}, "x")
        assert content in (None, bytes([k]) * 1000)
        if content is None or rng.random() < 0.2:
            store({"device": "d", "threads": "1", "outputs": "", "k": str(k)}, "x", bytes([k]) * 1000)
        if rng.random() < 0.2:
            clean_cache(int(rng.integers(4)) * 1000)


def test_processes_may_use_the_cache_at_once(cache):
    workers = [multiprocessing.get_context("fork").Process(target=_store_many, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    clean_cache()
    assert not list(cache.iterdir())


def test_a_build_that_the_engine_refuses_is_built_anew(dense, builds, monkeypatch):
    original, refused = openvino.build, []
    monkeypatch.setattr(openvino, "build", lambda *_, **__: b"not a blob")
    with pytest.raises(BundleError, match="cannot load the build of"):
        load_uncalibrated(dense, DEVICE)
    build(dense, DEVICE)
    monkeypatch.setattr(openvino, "build", lambda *a, **k: (refused.append(1), original(*a, **k))[1])
    with pytest.warns(EngineWarning, match="built anew .* cannot load the build of"):
        load_uncalibrated(dense, DEVICE)
    assert len(refused) == 3 and states(load_uncalibrated(dense, DEVICE)) == ["cache"] * 3


def test_a_user_without_a_home_has_no_cache(dense, monkeypatch):
    load_uncalibrated(dense, DEVICE)  # OpenVINO's own import looks for a home
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    with pytest.warns(EngineWarning, match="at every load: There is no folder for the cache.* XDG_CACHE_HOME"):
        assert states(load_uncalibrated(dense, DEVICE)) == ["now"] * 3


def test_the_log_says_what_the_cache_does(cache):
    lines = []

    class Collector(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage().partition(str(cache))[0])

    handler, logger = Collector(), logging.getLogger("offramp.cache")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        key = {"device": "d", "threads": "1", "outputs": "", "engine": "1"}
        fetch(key, "stage0")
        store(key, "stage0", b"built")
        fetch(key, "stage0")
        fetch({**key, "engine": "2"}, "stage0")
        clean_cache()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert lines == [
        "miss: stage0: not built for this device before",
        "stored: stage0 in ",
        "hit: stage0 in ",
        "miss: stage0: engine was 1 and is 2",
        "removed: stage0, 5 bytes, beyond the limit of 0",
    ]


def test_auto_is_not_built_for(dense):
    with pytest.raises(UsageError, match="name the device"):
        build(dense, "auto")
    with pytest.raises(UsageError, match="2 devices for 3 stages"):
        build(dense, ("cpu", "cpu"))
