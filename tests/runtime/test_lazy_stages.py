"""Which stages are lazy, and how they are opened again: joined ones, those that share a file, builds in the bundle."""

import json
from typing import cast

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.errors import BundleError
from offramp.runtime import StageProvenance, build, load_uncalibrated
from offramp.runtime.building import Jobs
from offramp.runtime.engines import Compiled
from offramp.runtime.lazy_stages import make_lazy
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts
from offramp.tests.helpers.bundles import ARCHIVE, copy_archive
from offramp.tests.helpers.points import make_point

NEVER = 2.0


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def open_point(thresholds, **options):
    bundle = open_bundle(ARCHIVE)
    variant = bundle.variant()
    return open_network(
        chain_parts(bundle, variant), "cpu", LoadOptions(**options), point=make_point(variant, thresholds)
    )


def test_joined_stages_are_lazy_where_all_of_them_are():
    eager, x = load_uncalibrated(ARCHIVE), draw(20)
    with open_point((0.4, NEVER), lazy=True) as net:
        eager.thresholds = (0.4, NEVER)
        assert len(net._setup.steps) == 2 and net.stats().lazy.here == 0
        results = [net(sample) for sample in x]
        assert [result.exit for result in results] == [eager(sample).exit for sample in x]
        assert np.allclose([r.score for r in results], [eager(sample).score for sample in x], atol=1e-6)
        assert net.stats().lazy.loads == 1  # the single ones stay away
        assert (net.every_exit(x).score == eager.every_exit(x).score).all() and net.stats().lazy.loads == 3
    with open_point((NEVER, 0.6), lazy=True) as net:  # half of what could be joined would have to wait
        assert len(net._setup.steps) == 3 and not net._joined
    with open_point((NEVER, 0.6), lazy=2) as net:
        assert len(net._setup.steps) == 2 and len(net.lazy_stages) == 1


def test_a_deadline_cuts_between_stages_that_are_joined():
    with open_point((NEVER, NEVER)) as net:
        assert len(net._setup.steps) == 1
        result = net(draw(1)[0], deadline_s=1e-9)
        assert (result.exit, result.cut, result.late) == (0, True, True)


def test_a_file_that_an_earlier_stage_uses_stays():
    class Fake:
        runs_on, memory, allocate, batches, clones, half = "fake", "host", None, True, True, False

    parts = chain_parts(open_bundle(ARCHIVE), open_bundle(ARCHIVE).variant())
    a, b, c = (cast(Compiled, Fake()) for _ in range(3))
    provenance = [StageProvenance("cpu", "fake", "now", load_s=0.25)] * 3
    assert make_lazy(parts, [a, b, b], provenance, LoadOptions(lazy=2)) == [a, b, b]
    first, *others = make_lazy(parts, [a, b, b], provenance, LoadOptions(lazy=1))
    assert first is a and others[0] is others[1] is not b and others[0].is_here
    first, second, third = make_lazy(parts, [a, b, c], provenance, LoadOptions(lazy=2))
    assert (first, second) == (a, b) and third is not c


def test_what_was_read_to_compile_stages_is_let_go():
    bundle = open_bundle(ARCHIVE)
    parts = chain_parts(bundle, bundle.variant())
    with Jobs(parts, LoadOptions()) as jobs:
        stage = jobs.job("stage1.onnx", "cpu").stage
        assert stage.read(stage.path) is stage.read(stage.path)
    assert jobs._read.cache_info().currsize == 0


def test_load_notes_what_a_stage_took():
    net = load_uncalibrated(ARCHIVE, lazy=True)
    assert [stage.wait_s for stage in net.lazy_stages] == [stage.load_s for stage in net.provenance.stages[1:]]
    assert all(stage.load_s > 0 for stage in net.provenance.stages)


def test_a_build_in_the_bundle_is_compared_with_the_one_that_was_checked(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle, device = copy_archive(tmp_path), "openvino:CPU"
    build(bundle, device, into_bundle=True)
    net, x = load_uncalibrated(bundle, device, lazy=True), draw(1)[0]
    assert net.provenance.stages[1].built == "bundle" and net.stats().lazy.loads == 0
    score = net(x).score
    clone = net.clone()
    assert clone.lazy_stages != net.lazy_stages and clone.stats().lazy.here == 0 and clone(x).score == score
    for stage in net.lazy_stages:
        stage.let_go()
    assert net(x).score == score
    for stage in net.lazy_stages:
        stage.let_go()
    (record,) = (bundle.path / "engines").glob("*/fp32/stage1.*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"label": "another"}))
    with pytest.raises(BundleError, match=r"build of stage1.onnx .* was replaced since the network was loaded"):
        net(x)
