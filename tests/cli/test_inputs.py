import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Manifest, Tensor
from offramp.cli.inputs import call_function, load_network, load_samples
from offramp.errors import DataError, ModelError, UsageError


def bundle_with(*inputs, names=None, preprocess=None):
    """The manifest of a bundle with these inputs."""
    return Manifest(
        schema=1,
        offramp="0",
        network="Net",
        captured="onnx",
        classes=3,
        class_names=names,
        preprocess=preprocess,
        inputs=inputs,
        variants=(),
    )


CHW = bundle_with(Tensor(name="x", dtype="float32", shape=(None, 3, 4, 6)))
HWC = bundle_with(Tensor(name="x", dtype="uint8", shape=(None, 4, 6, 1)))


def test_images_come_in_the_layout_of_the_network(tmp_path):
    Image.fromarray(np.full((8, 12, 3), [255, 0, 51], np.uint8)).save(tmp_path / "red.png")
    x, y = load_samples(str(tmp_path / "red.png"), CHW)
    assert y is None and x.shape == (1, 3, 4, 6) and x.dtype == np.float32
    assert np.allclose(x[0, :, 0, 0], [1, 0, 0.2])
    x, _ = load_samples(str(tmp_path / "red.png"), HWC)
    assert x.shape == (1, 4, 6, 1) and x.dtype == np.uint8


def test_class_folders_are_labelled_in_their_sorted_order(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 4)).save(tmp_path / name / "1.png")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    with pytest.warns(UserWarning, match="in the order of their names: a 0, b 1, c 2. .*--classes"):
        x, y = load_samples(str(tmp_path), CHW)
    assert y is not None and y.tolist() == [0, 1, 2] and len(x) == 3


def test_class_folders_whose_names_are_numbers_are_those_classes(tmp_path):
    for name in ("10", "2", "0"):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 4)).save(tmp_path / name / "1.png")
    with pytest.warns(UserWarning, match="the numbers of their classes; torchvision's ImageFolder"):
        y = load_samples(str(tmp_path), CHW)[1]
    assert y is not None and sorted(y.tolist()) == [0, 2, 10]
    (tmp_path / "10").rename(tmp_path / "1")
    y = load_samples(str(tmp_path), CHW)[1]
    assert y is not None and y.tolist() == [0, 1, 2]


def test_a_network_that_takes_no_images_is_not_given_any(tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="no images.*give arrays"):
        load_samples(str(tmp_path), bundle_with(Tensor(name="x", dtype="float32", shape=(None, 16))))


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable NumPy file"):
        load_samples(str(tmp_path / "x.npy"))


def test_an_archive_without_x_lists_what_it_has(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros(3))
    with pytest.raises(DataError, match="no array `x`; it has images"):
        load_samples(str(tmp_path / "d.npz"))


def test_a_function_may_import_its_neighbours_and_return_tensors(tmp_path):
    (tmp_path / "neighbour.py").write_text("import torch\nX = torch.zeros(3, 2)")
    (tmp_path / "data.py").write_text("def get():\n    import neighbour\n    return neighbour.X, [0, 1, 1]")
    x, y = load_samples(f"{tmp_path}/data.py:get")
    assert x.shape == (3, 2) and y is not None and y.tolist() == [0, 1, 1]


def test_a_function_that_fails_names_its_line(tmp_path):
    (tmp_path / "data.py").write_text("def get():\n    x = 1\n    return x.nothing")
    with pytest.raises(ModelError, match=r"data.py:get failed in line 3: AttributeError"):
        call_function(f"{tmp_path}/data.py:get")
    (tmp_path / "broken.py").write_text("def get(:")
    with pytest.raises(ModelError, match="SyntaxError"):
        call_function(f"{tmp_path}/broken.py:get")


def test_a_relative_file_with_dataclasses_runs_and_names_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: int = 0\n\n"
        "def get():\n    return A().y\n"
    )
    with pytest.raises(ModelError, match="failed in line 9: AttributeError"):
        call_function("mine.py:get")


def test_a_truncated_image_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:700])
    with pytest.raises(DataError, match=r"a.jpg is not a readable image"):
        load_samples(str(tmp_path), CHW)


def test_other_names_say_what_is_taken():
    with pytest.raises(UsageError, match=r"file.py:function or model.onnx"):
        load_network("resnet18")
