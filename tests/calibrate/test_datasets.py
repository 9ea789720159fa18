"""Samples that programs hold, as datasets, loaders, lists and generators, are read without a copy of everything."""

import collections
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from offramp.bundle import Tensor
from offramp.calibrate import load_samples
from offramp.calibrate.labels import check_data
from offramp.errors import DataError, UsageError
from offramp.tests.helpers.manifests import COLOURED, manifest_of
from offramp.tests.zoo.few_digits import network

X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
Y = np.arange(10) % 3
FLAT = manifest_of(Tensor(name="pixels", dtype="float32", shape=(None, 4)))
TWO = manifest_of(
    Tensor(name="a", dtype="float32", shape=(None, 4)), Tensor(name="b", dtype="float32", shape=(None, 2))
)
SIDEWAYS = manifest_of(Tensor(name="x", dtype="float32", shape=(4, None)))


class Endless(Dataset[Any]):
    """A dataset that has a length and never raises IndexError."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.from_numpy(X[i % 10]), int(Y[i % 10])


class Stream(IterableDataset[Any]):
    """A dataset without a length."""

    def __iter__(self):
        yield from zip(map(torch.from_numpy, X), Y, strict=True)


class Rows:
    """What Hugging Face's Dataset is to who reads it: rows that are mappings, a shape of columns, no `__array__`."""

    column_names = ("image", "label")
    shape = (10, 2)

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        return self._rows[i]

    def __iter__(self):
        return iter(self._rows)


Batch = collections.namedtuple("Batch", "x y")
PAIRS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
SOURCES = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
    "a mapping": lambda: {"x": X, "y": Y},
    "a dataset": lambda: PAIRS,
    "a dataset that never ends": Endless,
    "a dataset without a length": Stream,
    "a subset": lambda: Subset(Endless(), range(10)),
    "a loader": lambda: DataLoader(PAIRS, 3),
    "a loader of a stream": lambda: DataLoader(Stream(), 4),
    "a loader without batches": lambda: DataLoader(PAIRS, None),
    "a list of samples": lambda: [(torch.from_numpy(X[i]), Y[i]) for i in range(10)],
    "a list of batches": lambda: [(X[:7], Y[:7]), (X[7:], Y[7:])],
    "a generator of samples": lambda: ((X[i], Y[i]) for i in range(10)),
    "a generator of batches": lambda: ((X[i : i + 4], Y[i : i + 4]) for i in range(0, 10, 4)),
    "named tuples": lambda: (Batch(X[i], Y[i]) for i in range(10)),
    "rows": lambda: Rows([{"image": X[i], "label": int(Y[i])} for i in range(10)]),
    "rows of lists": lambda: Rows([{"x": X[i].tolist(), "y": int(Y[i]), "id": "a"} for i in range(10)]),
    "rows by the input's name": lambda: Rows([{"pixels": X[i], "labels": Y[i], "id": i} for i in range(10)]),
    "batches of rows": lambda: DataLoader(Rows([{"pixels": X[i], "labels": Y[i]} for i in range(10)]), 3),
    "labels in columns": lambda: ((X[i], Y[i : i + 1]) for i in range(10)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_samples_and_labels_come_from(kind):
    x, y = load_samples(SOURCES[kind](), FLAT)
    assert np.allclose(x, X) and x.shape == X.shape and y is not None and y.tolist() == Y.tolist()


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "rows by the input's name"])
def test_they_come_without_a_bundle_too(kind):
    x, y = load_samples(SOURCES[kind]())
    assert np.allclose(x, X) and y is not None and y.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "source",
    [
        lambda: X,
        lambda: torch.from_numpy(X),
        lambda: list(X),
        lambda: (row for row in X),
        lambda: iter([X[:5], X[5:]]),
        lambda: TensorDataset(torch.from_numpy(X)),
        lambda: Rows([{"image": row} for row in X]),
    ],
)
def test_labels_may_lack(source):
    x, y = load_samples(source(), FLAT)
    assert np.array_equal(x, X) and y is None


@pytest.mark.parametrize(
    ("source", "has_labels"),
    [
        (lambda: (X, X[:, :2]), False),
        (lambda: (X, X[:, :2], Y), True),
        (lambda: ((X, X[:, :2]), Y), True),
        (lambda: ({"a": X, "b": X[:, :2]}, Y), True),
        (lambda: {"a": X, "b": X[:, :2], "y": Y}, True),
        (lambda: DataLoader(TensorDataset(*map(torch.from_numpy, (X, X[:, :2].copy(), Y))), 3), True),
        (lambda: (((X[i], X[i, :2]), Y[i]) for i in range(10)), True),
        (lambda: ((X[i], X[i, :2]) for i in range(10)), False),
        (lambda: Rows([{"b": X[i, :2], "a": X[i], "label": Y[i], "c": "text"} for i in range(10)]), True),
    ],
)
def test_several_inputs(source, has_labels):
    x, y = load_samples(source(), TWO)
    a, b = (x["a"], x["b"]) if isinstance(x, dict) else x
    assert np.array_equal(a, X) and np.array_equal(b, X[:, :2])
    assert (y is not None and y.tolist() == Y.tolist()) if has_labels else y is None


def test_the_batch_lies_where_the_network_has_it():
    assert np.array_equal(load_samples(((X[i], Y[i]) for i in range(10)), SIDEWAYS)[0], X.T)
    assert np.array_equal(load_samples(((X[i : i + 4].T, Y[i : i + 4]) for i in (0, 4, 8)), SIDEWAYS)[0], X.T)


@pytest.mark.parametrize("wrap", [list, Rows, iter])
def test_pictures_become_what_files_of_them_become(wrap, tmp_path):
    pictures = [Image.new("RGB", (30 + i, 20), (i, 0, 255)) for i in range(5)]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    rows = [{"image": picture, "label": 1} if wrap is Rows else (picture, 1) for picture in pictures]
    x, y = load_samples(wrap(rows), COLOURED)
    assert np.array_equal(x, load_samples(tmp_path, COLOURED)[0]) and y is not None and y.tolist() == [1] * 5
    x, y = load_samples((pictures, [1] * 5), COLOURED)
    assert np.array_equal(x, load_samples(tmp_path, COLOURED)[0]) and y is not None and y.tolist() == [1] * 5
    with pytest.raises(UsageError, match="gives pictures, which need a bundle"):
        load_samples(wrap(rows))


def test_pictures_that_hugging_face_did_not_decode_are_read(tmp_path):
    picture = Image.new("RGB", (30, 20), (255, 0, 0))
    picture.save(path := tmp_path / "red.png")
    encoded = [{"bytes": path.read_bytes(), "path": "red.png"}, {"bytes": None, "path": str(path)}]
    expected = load_samples([picture, picture], COLOURED)[0]
    for source in (
        encoded,
        Rows([{"image": each, "label": 1} for each in encoded]),
        iter([(each, 1) for each in encoded]),
    ):
        x, y = load_samples(source, COLOURED)
        assert np.array_equal(x, expected) and (y is None or y.tolist() == [1, 1])
    assert np.array_equal(load_samples(encoded[0], COLOURED)[0], expected[:1])
    for wrong, words in (
        ({"bytes": b"?", "path": None}, "Pillow knows"),
        ({"bytes": None, "path": "none"}, "No such file"),
    ):
        with pytest.raises(DataError, match=f"Item 0 of the list is not a readable image: .*{words}"):
            load_samples([wrong], COLOURED)


def test_a_picture_alone_is_a_sample():
    assert load_samples(Image.new("RGB", (30, 20), (255, 0, 0)), COLOURED)[0][0, :, 0, 0].tolist() == [1, 0, 0]


def test_a_picture_that_cannot_be_read_is_named():
    pictures = [Image.new("RGB", (6, 4)), Image.new("F", (6, 4))]
    with pytest.raises(DataError, match="Item 1 of the list is not a readable image: its pixels are floats"):
        load_samples(pictures, COLOURED)


def test_numbers_that_numpy_lacks_are_read_as_float32():
    x, _ = load_samples((torch.from_numpy(X).bfloat16(), Y), FLAT)
    assert x.dtype == np.float32 and np.allclose(x, X, rtol=0.01)
    assert np.array_equal(load_samples(DataLoader(TensorDataset(torch.from_numpy(X).bfloat16()), 3), FLAT)[0], x)


def fail():
    yield X[0], 0
    raise OSError("the camera is gone")


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (network, UsageError, "the Digits gives the network Digits, not samples"),
        (lambda: None, UsageError, "the NoneType gives None, not samples"),
        (lambda: 5, UsageError, "gives 5, not samples"),
        (lambda: (X, Y, X), DataError, r"gives 3 things: give the samples x, or a pair \(x, y\)"),
        (lambda: iter([]), DataError, "The data set is empty"),
        (
            lambda: (X[i % 2, : 3 + i % 2] for i in range(4)),
            DataError,
            r"Item 1 .* has the shape \(4,\), and .* before \(3,\)",
        ),
        (lambda: iter([X[0].astype(np.int32), X[1]]), DataError, "Item 1 .* is float32, and the ones before int32"),
        (fail, DataError, "Reading samples from the generator failed: OSError: the camera is gone"),
        (lambda: {"train": Rows([]), "test": Rows([])}, UsageError, "several datasets, train, test: give one"),
        (lambda: iter([object()]), DataError, "gives object where numbers are needed"),
        (lambda: iter([(X[0], 1), (X[1], None)]), DataError, "Some samples .* have labels, and some have none"),
        (lambda: Rows([{"p": X[0], "q": X[0], "label": 1}]), DataError, "Item 0 .* has p, q: which is .*pixels"),
        (lambda: (torch.from_numpy(X).to_sparse(), Y), DataError, "gives no arrays"),
        (lambda: (np.ma.masked_less(X, 0.5), Y), DataError, "has masked values"),
        (lambda: [(X[0], np.ma.array(1, mask=True))], DataError, "has masked values"),
        (lambda: iter([np.ma.masked_less(X[0], 99)]), DataError, "has masked values"),
        (lambda: ([[1.0], [2.0, 3.0]], [0, 1]), DataError, "gives no arrays"),
        (
            lambda: [(X[0], "cat"), (X[1], "dog")],
            DataError,
            "Item 0 .* gives the text .*'cat'.*; labels are whole numbers",
        ),
        (
            lambda: [(X[0], np.eye(3, dtype=int)[0])],
            DataError,
            r"Item 0 .* has labels of shape \(3,\): one whole number",
        ),
        (lambda: Path(__file__).open("rb"), UsageError, "gives an open file, not samples: give its path"),  # noqa: SIM115
        (lambda: [(X[0], {"boxes": []})], DataError, "gives dict where numbers are needed"),
    ],
)
def test_what_gives_no_samples_is_refused_with_the_reason(source, kind, words):
    with pytest.raises(kind, match=words):
        load_samples(source(), FLAT)


def test_numbers_alone_are_samples_too():
    x, y = load_samples(iter([1, 2]))
    assert x.tolist() == [1, 2] and y is None


def test_who_gives_a_dataset_where_a_pair_belongs_is_told_how_to_read_it():
    with pytest.raises(UsageError, match="data is a pair: .* load_samples makes one of a file, a folder, a dataset"):
        check_data(PAIRS, FLAT)


def test_reading_is_told_of():
    told = []
    load_samples(DataLoader(PAIRS, 4), FLAT, progress=lambda *report: told.append(report))
    assert told == [("loading samples", i, 3) for i in (1, 2, 3)]
    told.clear()
    load_samples(((X[i], Y[i]) for i in range(2)), FLAT, progress=lambda *report: told.append(report))
    assert told == [("loading samples", 1, 1), ("loading samples", 2, 2)]


def test_a_dataset_is_read_into_one_array_that_is_made_once(monkeypatch):
    from offramp.calibrate import datasets

    made = []
    monkeypatch.setattr(datasets, "make_array", lambda shape, dtype: made.append(shape) or np.empty(shape, dtype))
    for source in (PAIRS, DataLoader(PAIRS, 3), Rows([{"x": X[i], "y": Y[i]} for i in range(10)])):
        made.clear()
        load_samples(source, FLAT)
        assert len(made) == 2 and made[0][0] in (10, 12)  # samples and labels


def test_a_dataset_of_hugging_face():
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = [Image.new("RGB", (30, 20), (i, 0, 255)) for i in range(4)]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 1, 0]}, features=features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = load_samples(rows, COLOURED)
        assert x.shape == (4, 3, 4, 6) and y is not None and y.tolist() == [0, 1, 1, 0]
        assert np.array_equal(load_samples(rows.to_iterable_dataset(), COLOURED)[0], x)
        flat = datasets.Dataset.from_dict({"pixels": X.tolist(), "label": Y.tolist()})
        for given in (flat, flat.with_format("torch"), flat.with_format("numpy")):
            got, labels = load_samples(given, FLAT)
            assert np.allclose(got, X) and labels is not None and labels.tolist() == Y.tolist()
        with pytest.raises(UsageError, match="several datasets, train: give one"):
            load_samples(datasets.DatasetDict({"train": flat}), FLAT)
