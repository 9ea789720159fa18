"""Builds that came with a bundle: no hash in the manifest covers them, so they must give the golden answers."""

import json
import shutil

import numpy as np
import pytest

from offramp import cache
from offramp.bundle import open_bundle
from offramp.errors import BundleError
from offramp.runtime import build, load_static, load_uncalibrated, verify
from offramp.runtime.building import Jobs
from offramp.runtime.request import LoadOptions, chain_parts, static_parts
from offramp.tests.helpers.bundles import copy_archive
from offramp.tests.helpers.command import offramp
from offramp.tests.zoo.dense import forge

DEVICE = "openvino:CPU"


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy_archive(tmp_path)


def shift(path):
    np.roll(np.fromfile(path, np.float32), 1).tofile(path)


def spoil(path):
    np.full_like(np.fromfile(path, np.float32), np.nan).tofile(path)


def plant(bundle, make_parts, tmp_path, change=shift):
    """Put builds of the network with changed weights into a bundle, with the records that the right ones would have."""
    evil = open_bundle(shutil.copytree(bundle.path, tmp_path / "evil.offramp"))
    forge(evil, "weights.bin", change)
    evil = open_bundle(evil.path)
    for right, wrong in zip(make_parts(bundle), make_parts(evil), strict=True):
        for stage in right.stages:
            job, wrong_job = (Jobs(parts, LoadOptions()).job(stage.file, DEVICE) for parts in (right, wrong))
            content = job.device.engine.build(wrong_job.stage, "CPU", threads=1)
            job.path_in_bundle.parent.mkdir(parents=True, exist_ok=True)
            cache.write_build(job.record, job.path_in_bundle, job.key, job.label, content)


def chain(bundle):
    return [chain_parts(bundle, bundle.variant())]


def statics(bundle):
    return [static_parts(bundle, bundle.variant(), k) for k in range(3)]


def test_builds_of_another_network_do_not_run(bundle, tmp_path):
    plant(bundle, chain, tmp_path)
    with pytest.raises(BundleError, match=r"builds in .*engines do not answer as fp32 did.*Remove") as refused:
        load_uncalibrated(bundle, DEVICE)
    assert refused.value.path == bundle.path / "engines"
    shutil.rmtree(bundle.path / "engines")
    assert load_uncalibrated(bundle, DEVICE).provenance.stages[0].built != "bundle"


def test_builds_that_give_no_numbers_are_blamed_and_not_the_samples(bundle, tmp_path):
    plant(bundle, chain, tmp_path, spoil)
    with pytest.raises(BundleError, match="do not answer as fp32 did.*a score is off by inf.*Remove"):
        load_uncalibrated(bundle, DEVICE)


def test_verify_runs_the_builds_that_load_runs(bundle, tmp_path):
    assert build(bundle, DEVICE, into_bundle=True)
    (honest,) = verify(bundle, DEVICE, variant="fp32")
    assert honest.passed and honest.networks[0].built == ("bundle",) and "built in the bundle" in str(honest)
    plant(bundle, chain, tmp_path)
    (planted,) = verify(bundle, DEVICE, variant="fp32")
    assert not planted.passed and all(check.passed for check in planted.exits)  # with logits other builds are used
    assert [check.network for check in planted.networks if not check.passed] == ["the chain"]
    done = offramp("verify", bundle.path, "--device", DEVICE, "--variant", "fp32")
    assert done.returncode == 3 and "the chain (built in the bundle)" in done.stdout and "FAILED" in done.stdout


def test_verify_runs_the_static_networks_too(bundle, tmp_path):
    plant(bundle, statics, tmp_path)
    (verification,) = verify(bundle, DEVICE, variant="fp32")
    assert not verification.passed
    failed = [check.network for check in verification.networks if not check.passed]
    assert failed == [f"the static network to exit {k}" for k in range(3)]
    with pytest.raises(BundleError, match="do not answer as fp32 did"):
        load_static(bundle, DEVICE, exit=1)


def test_a_static_network_that_computes_something_else_fails_on_every_device(bundle):
    folder = bundle.path / bundle.variant().folder
    forge(bundle, "static1.onnx", lambda path: shutil.copy(folder / "static0.onnx", path))

    def rename(path):
        import onnx

        model = onnx.load(path, load_external_data=False)
        names = [(getattr(bundle.variant().exits[0], part), getattr(bundle.variant().exits[1], part)) for part in PARTS]
        for node in model.graph.node:
            for old, new in names:
                node.output[:] = [new if name == old else name for name in node.output]
                node.input[:] = [new if name == old else name for name in node.input]
        for value in model.graph.output:
            value.name = dict(names).get(value.name, value.name)
        onnx.save(model, path)

    forge(bundle, "static1.onnx", rename)
    (verification,) = verify(bundle.path, variant="fp32")
    assert not verification.passed and all(check.passed for check in verification.exits)
    assert [check.network for check in verification.networks if not check.passed] == ["the static network to exit 1"]


PARTS = ("logits", "score", "label")


def test_inspect_says_that_builds_come_with_the_bundle(bundle):
    assert "engines/" not in offramp("inspect", bundle.path).stdout
    build(bundle, DEVICE, into_bundle=True)
    text = offramp("inspect", bundle.path).stdout
    assert json.loads(offramp("inspect", bundle.path, "--json").stdout)["builds"]["openvino-CPU/fp32"]
    assert "openvino-CPU/fp32: stage0.built" in text and "no hash in the manifest covers them" in text
