import pickle

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Tensor
from offramp.calibrate.user_code import call_function
from offramp.cli.inputs import load_batches, load_classes, load_network, load_samples
from offramp.cli.options import fit_channels, parse_pace, parse_preprocess
from offramp.errors import DataError, MissingError, ModelError, UsageError
from offramp.tests.helpers.manifests import COLOURED as CHW
from offramp.tests.helpers.manifests import manifest_of

HWC = manifest_of(Tensor(name="x", dtype="uint8", shape=(None, 4, 6, 1)))


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
        load_samples(str(tmp_path), manifest_of(Tensor(name="x", dtype="float32", shape=(None, 16))))


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable NumPy file"):
        load_samples(str(tmp_path / "x.npy"))


def test_an_archive_without_x_lists_what_it_has(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros(3))
    with pytest.raises(DataError, match="no array `x`; it has images"):
        load_samples(str(tmp_path / "d.npz"), manifest_of(Tensor(name="x", dtype="float32", shape=(None, 3))))


def test_a_function_may_import_its_neighbours_and_return_tensors(tmp_path):
    (tmp_path / "neighbour.py").write_text("import torch\nX = torch.zeros(3, 2)")
    (tmp_path / "data.py").write_text("def get():\n    import neighbour\n    return neighbour.X, [0, 1, 1]")
    x, y = load_samples(f"{tmp_path}/data.py:get")
    assert x.shape == (3, 2) and y is not None and y.tolist() == [0, 1, 1]


def test_files_of_the_same_name_in_two_folders_have_their_own_neighbours(tmp_path):
    code = "from parts import SIZE\nclass Net: pass\ndef f():\n    import parts\n    return SIZE, parts.SIZE, Net()\n"
    for size, name in enumerate(("one", "two")):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "parts" / "__init__.py").write_text("from .sizes import SIZE\n")
        (tmp_path / name / "parts" / "sizes.py").write_text(f"SIZE = {size}\n")
        (tmp_path / name / "net.py").write_text(code)
    found = [call_function(f"{tmp_path}/{name}/net.py:f") for name in ("two", "one", "two", "one")]
    assert [sizes for *sizes, _ in found] == [[1, 1], [0, 0], [1, 1], [0, 0]]
    for *_, net in found[2:]:
        assert type(pickle.loads(pickle.dumps(net))) is type(net)


def test_a_generator_may_import_its_neighbours_while_it_is_read(tmp_path):
    (tmp_path / "late_neighbour.py").write_text("X = [[1.0, 2.0], [3.0, 4.0]]")
    (tmp_path / "data.py").write_text(
        "def get():\n    import late_neighbour\n    yield from zip(late_neighbour.X, [0, 1])"
    )
    x, y = load_samples(f"{tmp_path}/data.py:get")
    assert x.tolist() == [[1, 2], [3, 4]] and y is not None and y.tolist() == [0, 1]


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


SOURCE = """
import functools
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6) % 3
loader = DataLoader(TensorDataset(x, y), 4)
layer = torch.nn.Linear(2, 3)
def make_loader(): return loader
def stream(): yield from zip(x, y)
def rounded(): return x.bfloat16(), y
def triple(): return x, y, x
def full(): return bytearray(1 << 62)
make_partial = functools.partial(TensorDataset, x, y)
def noisy():
    print("reading")
    return x, y
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    return f"{tmp_path}/mine.py"


@pytest.mark.parametrize("name", ["loader", "make_loader", "stream", "rounded", "make_partial", "noisy"])
def test_a_function_or_a_name_gives_samples_in_any_form(source, name):
    x, y = load_samples(f"{source}:{name}")
    assert x.tolist() == np.arange(12.0).reshape(6, 2).tolist() and y is not None and y.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_name_may_be_the_network_or_the_samples_themselves(source):
    assert type(load_network(f"{source}:layer")).__name__ == "Linear"
    x, y = load_samples(f"{source}:x")
    assert x.shape == (6, 2) and y is None
    with pytest.raises(UsageError, match="Unknown function in .*mine.py 'np'"):
        call_function(f"{source}:np")


def test_a_network_or_three_things_are_no_samples(source):
    with pytest.raises(UsageError, match="mine.py:layer gives the network Linear, not samples"):
        load_samples(f"{source}:layer")
    with pytest.raises(DataError, match="mine.py:triple gives 3 things"):
        load_samples(f"{source}:triple")


def test_memory_that_is_full_is_missing(source):
    with pytest.raises(MissingError, match="mine.py:full ran out of memory in line 13") as caught:
        load_samples(f"{source}:full")
    assert caught.value.exit_code == 4


def test_batches_to_train_on_come_from_a_loader_a_dataset_or_samples(source):
    for name in ("loader", "make_partial", "noisy", "stream"):
        batches = list(load_batches(f"{source}:{name}", None, batch=4, seed=0))
        assert [len(y) for _, y in batches] == [4, 2]
        assert sorted(float(row[0]) for x, _ in batches for row in x) == [0, 2, 4, 6, 8, 10]


def test_several_inputs_are_batches_by_name_or_in_order(tmp_path):
    x, y = np.arange(6, dtype=np.float32)[:, None], np.arange(6)
    np.savez(tmp_path / "two.npz", left=x, right=-2 * x, y=y)
    for batch, labels in load_batches(str(tmp_path / "two.npz"), None, batch=4, seed=0):
        assert batch["left"][:, 0].tolist() == labels.tolist() == (batch["right"][:, 0] / -2).tolist()
    (tmp_path / "two.py").write_text("import numpy as np\nX = np.zeros((3, 1), 'f4')\nPAIR = (X, X + 1), [0, 1, 2]\n")
    (((left, right), labels),) = load_batches(f"{tmp_path}/two.py:PAIR", None, batch=4, seed=0)
    assert (left + 1).tolist() == right.tolist() and sorted(labels.tolist()) == [0, 1, 2]
    np.savez(tmp_path / "two.npz", left=x, right=x[:4], y=y)
    with pytest.raises(DataError, match="differ in their number of samples: 4, 6"):
        load_batches(str(tmp_path / "two.npz"), None, batch=4, seed=0)


def test_pictures_to_train_on_have_the_size_that_the_bundle_takes(tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        Image.new("L", (12, 8)).save(tmp_path / name / "1.png")
    ((x, y),) = load_batches(str(tmp_path), HWC, batch=4, seed=0)
    assert (tuple(x.shape), sorted(y.tolist())) == ((2, 4, 6, 1), [0, 1])


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path, start):
    (tmp_path / "classes.txt").write_bytes(start + "caf\u00e9\r\ntea\r\n\r\n".encode())
    assert load_classes(str(tmp_path / "classes.txt")) == ["caf\u00e9", "tea"]


def test_names_in_place_of_a_file_of_names_are_told_apart():
    with pytest.raises(UsageError, match="one class per line.* no file coffee,tea"):
        load_classes("coffee,tea")


@pytest.mark.parametrize(
    ("mean", "std", "means", "stds"),
    [
        ("0", None, (0, 0, 0), (1, 1, 1)),
        (None, "0.5", (0, 0, 0), (0.5, 0.5, 0.5)),
        ("0.5", "0.25", (0.5,) * 3, (0.25,) * 3),
        ("0", "0.1,0.2,1", (0, 0, 0), (0.1, 0.2, 1)),
        ("0.1,0.2,0.3", None, (0.1, 0.2, 0.3), (1, 1, 1)),
    ],
)
def test_a_single_number_counts_for_every_channel(mean, std, means, stds):
    parsed = parse_preprocess(mean, std, resize="stretch", crop=1.0, interpolation="bilinear")
    fitted = fit_channels(parsed, np.zeros((2, 8, 8, 3), np.uint8))
    assert fitted is not None and (fitted.mean, fitted.std) == (means, stds)


@pytest.mark.parametrize(("text", "seconds"), [("800us", 8e-4), ("20ms", 0.02), ("0.5s", 0.5), ("2", 2.0)])
def test_a_pace_takes_the_units_of_time_that_limits_take(text, seconds):
    assert parse_pace(text) == pytest.approx(seconds)
