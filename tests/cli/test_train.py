"""`attach`, `train`, `export --weights`: from a plain network and images to a bundle, without other Python than the network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.cli.app import exit_code_of
from offramp.cli.commands.train import _note_weak_end
from offramp.errors import UsageError
from offramp.export import Epoch, attach, load_weights, save_weights
from offramp.runtime import load_uncalibrated
from offramp.tests.helpers.documents import check_documents

NET = """
from torch import nn

def plain(width=8):
    body = nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

def other():
    return plain(16)
"""
IMAGES = ("--shape", "8x8x3", "--mean", "0.5", "--std", "0.25")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a plain network, and images of two classes, dark and bright."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    for name, least in (("bright", 150), ("dark", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(8):
            pixels = rng.integers(least, least + 100, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*numbered in the order of their names")
def test_a_plain_network_and_a_folder_of_images_become_a_bundle(folder, capsys):
    assert (
        exit_code_of(["attach", "net.py:plain", "-o", "exits.pt", "--fractions", "0.2", "--whole", "--json", *IMAGES])
        == 0
    )
    check_documents(["attach"], capsys.readouterr().out)
    options = ["--weights", "exits.pt", "-o", "trained.pt", "--epochs", "8", "--batch", "4", "--lr", "0.05", "--json"]
    assert exit_code_of(["train", "net.py:plain", "images", *options, *IMAGES]) == 0
    printed = capsys.readouterr().out
    check_documents(["train"], printed)
    trained = json.loads(printed)["epochs"][-1]["accuracy"]
    assert trained[-1] > 0.9
    assert not (folder / "trained.pt.checkpoint").exists()
    command = ["export", "net.py:plain", "--weights", "trained.pt", "-o", "b.offramp", "--data", "images", *IMAGES]
    assert exit_code_of(command) == 0
    net = load_uncalibrated("b.offramp")
    dark, bright = (np.full((1, 8, 8, 3), value, np.uint8) for value in (40, 210))
    assert len(net.exits) == 2 and [net.every_exit(x).label[0, -1] for x in (bright, dark)] == [0, 1]


@pytest.mark.parametrize(
    ("accuracy", "validation", "named"),
    [
        ((0.9, 0.85), None, True),
        ((0.855, 0.85), None, False),
        ((0.9, 0.85), (0.8, 0.85), False),
        ((), (2.0, 1.0), False),
    ],
)
def test_an_exit_that_is_better_than_the_whole_network_is_named(capsys, accuracy, validation, named):
    _note_weak_end(Epoch(epoch=1, loss=(0.5, 0.6), accuracy=accuracy, validation=validation, seconds=1.0))
    expected = "Exit 0 is right on 90.0%, the whole network on 85.0%."
    assert (expected in capsys.readouterr().err) == named


def test_a_training_that_was_interrupted_goes_on(folder, capsys, monkeypatch):
    assert exit_code_of(["attach", "net.py:plain", "-o", "exits.pt", "--fractions", "0.2", *IMAGES]) == 0
    command = ["train", "net.py:plain", "images", "--weights", "exits.pt", "--epochs", "2", "--json", *IMAGES]
    assert exit_code_of([*command, "-o", "whole.pt"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr("offramp.cli.commands.train.show_epochs", lambda epochs: interrupt)
        assert exit_code_of([*command, "-o", "trained.pt"]) == 130
    assert (folder / "trained.pt.checkpoint").exists() and not (folder / "trained.pt").exists()
    capsys.readouterr()
    assert exit_code_of([*command, "-o", "trained.pt"]) == 0
    assert "epoch 1 of 2" not in capsys.readouterr().err
    whole, trained = (torch.load(name, weights_only=True)["state"] for name in ("whole.pt", "trained.pt"))
    assert all(torch.equal(whole[name], trained[name]) for name in whole)


def interrupt(epoch):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no file of torch's", "holds no parameters"),
        ({"offramp": 1, "state": 3}, "holds no parameters"),
        ({"offramp": 1, "state": {}, "places": ["0"]}, "holds no parameters: it is damaged"),
        ([1, 2], "holds no parameters but a list"),
        ({"weight": torch.zeros(2)}, "parameters of another network"),
        ({1: 2}, "parameters of another network"),
    ],
)
def test_what_is_no_file_of_parameters_is_named(folder, content, expected):
    if isinstance(content, bytes):
        (folder / "w.pt").write_bytes(content)
    else:
        torch.save(content, "w.pt")
    with pytest.raises(UsageError, match=f"w.pt .*{expected}"):
        load_weights(torch.nn.Linear(2, 2), "w.pt")


@pytest.mark.parametrize("wrapped", [lambda network: network, torch.nn.DataParallel])
def test_parameters_of_any_name_are_read(tmp_path, wrapped):
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.places = torch.nn.Parameter(torch.rand(3))

    network = Named()
    torch.save(wrapped(network).state_dict(), tmp_path / "w.pt")
    assert torch.equal(load_weights(Named(), tmp_path / "w.pt").places, network.places)


def test_batches_of_another_form_are_named(folder, capsys):
    loader = "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\ndef three():\n    "
    (folder / "data.py").write_text(f"{loader}return DataLoader(TensorDataset(*[torch.zeros(4, 3, 8, 8)] * 3), 2)\n")
    assert exit_code_of(["train", "net.py:plain", "data.py:three", "-o", "trained.pt"]) == 5
    assert "A batch of the loader is (inputs, labels), not a tuple of 3 parts" in capsys.readouterr().err
    assert exit_code_of(["train", "net.py:plain", "data.py:three", "-o", "images"]) == 2
    assert "images is a folder" in capsys.readouterr().err


def test_parameters_of_another_network_are_refused(folder, capsys):
    assert exit_code_of(["attach", "net.py:plain", "-o", "exits.pt", "--shape", "3x8x8"]) == 0
    assert exit_code_of(["export", "net.py:other", "--weights", "exits.pt", "-o", "b.offramp", "--shape", "3x8x8"]) == 2
    assert "exits.pt has the parameters of another network" in capsys.readouterr().err
    assert exit_code_of(["attach", "net.py:plain", "-o", "exits.pt"]) == 2
    assert exit_code_of(["train", "net.onnx", "images", "-o", "trained.pt"]) == 2


def test_inputs_by_name_are_attached_again(tmp_path):
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.more, self.out = torch.nn.Linear(4, 8), torch.nn.Linear(8, 64), torch.nn.Linear(64, 3)

        def forward(self, *, left, right):
            return self.out(self.more(self.body(left + right).relu()).relu())

    torch.manual_seed(0)
    example = {"left": torch.rand(5, 4), "right": torch.rand(5, 4)}
    attached = attach(Sum(), example, at=["body"])
    save_weights(attached, tmp_path / "w.pt", example=example)
    again = load_weights(Sum(), tmp_path / "w.pt")
    for one, other in zip(attached(**example), again(**example), strict=True):
        assert torch.equal(one, other)
