"""ONNX files whose weights are links: those of a cache of blobs are followed, those that lead elsewhere are not."""

import numpy as np
import onnx
import pytest

from offramp.errors import ModelError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import write_onnx


@pytest.fixture
def blobs(tmp_path):
    """A network as Hugging Face's cache holds it: snapshots/<revision>/<name> -> ../../blobs/<hash>."""
    snapshot, store = tmp_path / "snapshots/abc", tmp_path / "blobs"
    for folder in (snapshot, store):
        folder.mkdir(parents=True)
    model = onnx.load(write_onnx(tmp_path / "dense.onnx"))
    onnx.save(model, store / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    for name, blob in (("model.onnx", "0a1b"), ("model.onnx_data", "2c3d")):
        (store / name).rename(store / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return snapshot / "model.onnx"


def test_a_network_in_a_cache_of_blobs_is_exported(blobs, dense_onnx, tmp_path):
    bundle = export(blobs, None, tmp_path / "b.offramp")
    plain = export(dense_onnx, None, tmp_path / "plain.offramp")
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    answers = [load_uncalibrated(each, logits=True).every_exit(x).logits for each in (bundle, plain)]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5
    assert not [path for path in bundle.path.rglob("*") if path.is_symlink()]


def test_weights_that_a_link_fetches_from_elsewhere_are_not_read(blobs, tmp_path):
    data = blobs.with_name("model.onnx_data")
    (tmp_path / "private.bin").write_bytes(data.read_bytes())
    graph = blobs.read_bytes()
    for file in (data, blobs):
        file.unlink()
    blobs.write_bytes(graph)
    data.symlink_to(tmp_path / "private.bin")
    with pytest.raises(ModelError, match="not an ONNX file that ONNX Runtime loads"):
        export(blobs, None, tmp_path / "b.offramp")
