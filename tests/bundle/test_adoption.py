"""A variant of one bundle is copied into another."""

import shutil

import pytest

from offramp.bundle import adopt, check_bundle, open_bundle
from offramp.errors import UsageError
from offramp.tests.helpers.bundles import ARCHIVE, copy_archive, edit


def test_variants_of_another_bundle_stand_in_a_new_one(tmp_path):
    source = open_bundle(ARCHIVE)
    adopt(tmp_path / "new.offramp", source, name="a")
    bundle = adopt(tmp_path / "new.offramp", ARCHIVE, variant="int8", name="b", parent="a")
    first, second = check_bundle(bundle.path).manifest.variants
    assert (first.name, second.name, second.origin.parent, second.origin.how) == ("a", "b", "a", "quantize")
    assert first.files == source.variant("fp32").files and second.files == source.variant("int8").files
    alone = adopt(tmp_path / "new.offramp", ARCHIVE, variant="int8").variant("int8")
    assert alone.origin is None


def test_what_cannot_stand_beside_is_refused_and_the_bundle_stays(tmp_path):
    bundle = copy_archive(tmp_path)
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="already has a variant fp32"):
        adopt(bundle.path, ARCHIVE)
    with pytest.raises(UsageError, match="Unknown variant 'whole'"):
        adopt(bundle.path, ARCHIVE, name="other", parent="whole")
    other = shutil.copytree(ARCHIVE, tmp_path / "other.offramp")
    edit(other / "manifest.json", lambda manifest: manifest.update(class_names=["a", "b", "c", "d", "e"]))
    with pytest.raises(UsageError, match="have other class names"):
        adopt(bundle.path, other, name="named")
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert len(list((bundle.path / "variants").iterdir())) == len({v.folder for v in bundle.manifest.variants})
