"""Bundles that earlier versions wrote go on loading, with the answers that they had then."""

import shutil
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest

from offramp.bundle import check_bundle, open_bundle, read_calibration
from offramp.bundle.golden import read_golden
from offramp.bundle.manifest import SCHEMA, Origin
from offramp.export import keep
from offramp.runtime import UncalibratedWarning, load, load_uncalibrated, verify
from offramp.tests.helpers.command import offramp

ARCHIVE = Path(__file__).parent / "archive"
SCHEMAS = {"v0.1-dense": (2, "0.1.0"), "v0.2-dense": (3, "0.2.0")}
VARIANTS = ["fp32", "int8"]


@pytest.fixture(autouse=True, params=SCHEMAS)
def archived(request):
    """A bundle of the archive; reading it changes no file of it."""
    path = ARCHIVE / f"{request.param}.offramp"
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    yield path
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_the_archive_holds_these_bundles_and_one_of_the_present_form():
    assert {path.name for path in ARCHIVE.glob("*.offramp")} == {f"{name}.offramp" for name in SCHEMAS}
    assert max(schema for schema, _ in SCHEMAS.values()) == SCHEMA


def test_every_file_is_as_it_was_written(archived):
    bundle = check_bundle(archived)
    assert (bundle.manifest.schema, bundle.manifest.offramp) == SCHEMAS[archived.stem]
    assert [variant.name for variant in bundle.manifest.variants] == VARIANTS
    assert bundle.variant("int8").origin.parent == "fp32"


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_variants_give_their_golden_answers(archived, variant):
    bundle = open_bundle(archived)
    golden = read_golden(bundle, bundle.variant(variant))
    answers = load_uncalibrated(bundle, "cpu", variant=variant, logits=True).every_exit(*golden.inputs)
    assert (answers.label == golden.label).all()
    assert np.abs(answers.score - golden.score).max() < (1e-4 if variant == "fp32" else 0.1)
    assert all(verification.passed for verification in verify(bundle, "cpu", variant=variant))


def test_the_digests_are_still_those_that_the_calibration_names(archived):
    bundle, calibration = open_bundle(archived), read_calibration(archived / "calibrations/default.json")
    assert calibration.variants == {variant.name: variant.digest for variant in bundle.manifest.variants}


def test_a_variant_that_is_added_makes_it_a_bundle_of_this_version(archived, tmp_path):
    keep(shutil.copytree(archived, tmp_path / "b.offramp"), exits=[0, 2], name="fewer")
    manifest = open_bundle(tmp_path / "b.offramp").manifest
    assert manifest.schema == SCHEMA and [variant.name for variant in manifest.variants] == [*VARIANTS, "fewer"]
    calibration = read_calibration(archived / "calibrations/default.json")
    assert calibration.variants == {variant.name: variant.digest for variant in manifest.variants[:2]}


def test_what_no_variant_uses_is_not_written():
    """An offramp that does not know a field refuses the file: it stands there only where it says something."""
    assert set(msgspec.to_builtins(Origin("fp32", "keep", {"exits": "0"}))) == {"parent", "how", "settings"}


def test_the_calibration_is_read_and_used(archived):
    calibration = read_calibration(archived / "calibrations/default.json")
    assert list(calibration.points) == ["default", "default-early"] and all(p.met for p in calibration.points.values())
    assert calibration.point.is_promised and not calibration.point.exits_early and calibration.early.exits_early
    for name, point in calibration.points.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)  # it was made on another device
            net = load(archived, "cpu", point=name)
        assert net.point == point
        x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
        assert (len(set(net.batch(x).exit.tolist())) > 1) == point.exits_early


def test_inspect_describes_it(archived):
    done = offramp("inspect", archived)
    assert done.returncode == 0 and "int8" in done.stdout and "default-early" in done.stdout, done.stderr
