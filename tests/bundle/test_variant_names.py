"""A new variant takes the place of one of its name only where that is asked for, and then whole or not at all."""

import numpy as np
import pytest

from offramp.bundle import check_bundle, writing
from offramp.errors import UsageError
from offramp.export import export, gate, keep
from offramp.runtime import verify


def files_of(bundle):
    return {str(path.relative_to(bundle.path)) for path in (bundle.path / "variants").rglob("*") if path.is_file()}


def fit(bundle, count=400, **options):
    x = np.random.default_rng(count).standard_normal((count, 16)).astype(np.float32)
    return gate(bundle, (x, None), **options)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path, exits, **options: keep(path, exits, name="new", **options), "new"),
        (lambda path, exits, **options: fit(path, 400 + sum(exits), **options), "fp32-gate"),
    ],
)
def test_a_variant_takes_the_place_of_its_namesake_if_that_is_asked_for(dense, make, name):
    before = make(dense.path, [0, 2])
    with pytest.raises(UsageError, match=rf"already has a variant {name}. Replace it with .*--replace"):
        make(dense.path, [1, 2])
    after = check_bundle(make(dense.path, [1, 2], replace=True).path)
    assert [variant.name for variant in after.manifest.variants] == ["fp32", name]
    assert after.variant(name).digest != before.variant(name).digest
    assert files_of(after) == {f"{v.folder}/{file}" for v in after.manifest.variants for file in v.files}
    assert all(verification.passed for verification in verify(after))


def test_what_is_replaced_is_whole_until_the_manifest_is_written(dense, monkeypatch):
    before = keep(dense.path, [0, 2], name="new")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_atomically", fail)
    with pytest.raises(KeyboardInterrupt):
        keep(dense.path, [1, 2], name="new", replace=True)
    assert check_bundle(dense.path).manifest == before.manifest


def test_an_export_beside_others_takes_the_place_of_its_namesake(dense, dense_onnx):
    export(dense_onnx, None, dense.path, beside="same")
    with pytest.raises(UsageError, match="already has a variant same. Replace it"):
        export(dense_onnx, None, dense.path, beside="same")
    after = export(dense_onnx, None, dense.path, beside="same", rule="entropy", replace=True)
    assert [(variant.name, variant.rule) for variant in after.manifest.variants] == [
        ("fp32", "max_softmax"),
        ("same", "entropy"),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [("fp32", "two is made from it"), ("two", "two-gate is made from it")],
)
def test_a_variant_that_others_were_made_from_stays(dense, name, words):
    fit(keep(dense.path, [0, 2], name="two"), variant="two")
    with pytest.raises(UsageError, match=f"{name} cannot be replaced: {words}"):
        keep(dense.path, [1, 2], name=name, replace=True)


def test_the_first_variant_stays(dense, dense_onnx):
    with pytest.raises(UsageError, match="it is the first, against which losses are measured"):
        export(dense_onnx, None, dense.path, beside="fp32", replace=True)
