"""Samples from files of NumPy's, and where large ones lie."""

import io
import os
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Tensor
from offramp.cache import check_cache
from offramp.calibrate import load_samples, sample_memory
from offramp.errors import DataError, MissingError, UsageError
from offramp.tests.helpers.manifests import GREY, manifest_of

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.arange(6) % 3
TWO = manifest_of(
    Tensor(name="a", dtype="float32", shape=(None, 4)), Tensor(name="b", dtype="float32", shape=(None, 4))
)


@pytest.mark.parametrize("name", ["data.NPZ", "data.Npz", "Data.npz"])
def test_the_case_of_a_name_does_not_matter(tmp_path, name):
    content = io.BytesIO()
    np.savez(content, x=X, y=Y)
    (tmp_path / name).write_bytes(content.getvalue())
    x, y = load_samples(tmp_path / name)
    assert np.array_equal(x, X) and np.array_equal(y, Y)


def test_what_an_array_file_is_counts_and_not_its_suffix(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert np.array_equal(load_samples(tmp_path / "x.npz")[0], X)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x,y\n1,2\n", r"is not a readable NumPy file: it begins with b'x,y.*numpy\.savez"),
        (b"", "is not a readable NumPy file: it is empty"),
        (b"\x80\x04\x95", r"it begins with b'\\x80"),
        (b"PK\x03\x04 and no more", "is not a readable NumPy file of numbers"),
        (b"\x93NUMPY and no more", "is not a readable NumPy file of numbers"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_another_file_under_the_name_gets_no_advice_to_unpickle(tmp_path, content, words, suffix):
    (tmp_path / f"data{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        load_samples(tmp_path / f"data{suffix}")
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_objects_of_python_are_not_read(tmp_path, suffix):
    objects = np.array([{"a": 1}, None], dtype=object)
    (np.savez if suffix == ".npz" else np.save)(tmp_path / f"x{suffix}", objects)
    if suffix == ".npz":
        np.savez(tmp_path / "x.npz", x=objects)
    with pytest.raises(DataError, match=r"it holds Python objects; texts are saved after \.astype\(str\)") as caught:
        load_samples(tmp_path / f"x{suffix}")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "labels"),
    [
        ("x", "y"),
        ("test_x", "test_y"),
        ("X_test", "y_test"),
        ("X", "Y"),
        ("images", "labels"),
        ("val-data", "val-labels"),
        ("x1", "y1"),
    ],
)
def test_labels_lie_beside_the_samples(tmp_path, samples, labels):
    np.save(tmp_path / f"{samples}.npy", X)
    np.save(tmp_path / f"{labels}.npy", Y)
    with pytest.warns(UserWarning, match=f"{samples}.npy: its labels come from {labels}.npy"):
        x, y = load_samples(tmp_path / f"{samples}.npy")
    assert np.array_equal(x, X) and np.array_equal(y, Y)


def test_an_array_alone_has_no_labels(tmp_path):
    np.save(tmp_path / "max.npy", X)
    np.save(tmp_path / "may.npy", Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_samples(tmp_path / "max.npy")[1] is None


def test_a_folder_may_hold_arrays_by_name(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name, array in (("one/x", X), ("one/y", Y), ("one/other", X), ("two/a", X), ("two/b", -X)):
        np.save(tmp_path / f"{name}.npy", array)
    x, y = load_samples(tmp_path / "one")
    assert np.array_equal(x, X) and np.array_equal(y, Y)
    x, y = load_samples(tmp_path / "two", TWO)
    assert y is None and list(x) == ["a", "b"] and np.array_equal(x["b"], -X)


def test_an_array_is_mapped_not_read_and_stays_as_it_is_on_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", X)
    before = (tmp_path / "x.npy").read_bytes()
    x, _ = load_samples(tmp_path / "x.npy")
    assert isinstance(x, np.memmap)
    x[0] = 99  # as a program may that normalises in place
    del x
    assert (tmp_path / "x.npy").read_bytes() == before


def test_large_sets_of_images_lie_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_memory, "LARGE_BYTES", 100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for value in range(5):
        Image.new("L", (6, 4), value).save(tmp_path / f"images/{value}.png")
    before = os.umask(0)
    try:
        x, _ = load_samples(tmp_path / "images", GREY)
    finally:
        os.umask(before)
    check_cache()  # which nobody else may write to
    assert isinstance(x, np.memmap) and x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert not [*(tmp_path / "cache/offramp/engines").iterdir()]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")  # where nobody writes
    assert np.array_equal(load_samples(tmp_path / "images", GREY)[0], x)


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "folder/x.npy"])
def test_an_array_that_claims_more_than_its_file_has_is_damaged(tmp_path, name):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 60,)})
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(header.getvalue())
    if name == "x.npz":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.npy", header.getvalue())
    with pytest.raises(
        DataError, match=r"not a readable NumPy file.* claims to have 46\d+ bytes and has 128"
    ) as caught:
        load_samples((tmp_path / name).parent if name.startswith("folder") else tmp_path / name)
    assert caught.value.exit_code == 5


def test_samples_that_do_not_fit_into_memory_are_no_damaged_file(tmp_path, monkeypatch):
    def run_out(*arguments, **options):
        raise MemoryError

    np.savez(tmp_path / "x.npz", x=X)
    monkeypatch.setattr(np, "load", run_out)
    with pytest.raises(MissingError, match="do not fit into memory: give fewer") as caught:
        load_samples(tmp_path / "x.npz")
    assert caught.value.exit_code == 4


def test_other_files_say_what_is_taken(tmp_path):
    (tmp_path / "x.parquet").touch()
    with pytest.raises(
        UsageError, match=r"Samples come from \.npz, \.npy, an image, a folder of images or a \.csv file"
    ):
        load_samples(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="Images need a bundle that says their size"):
        load_samples(tmp_path)
