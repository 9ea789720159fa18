"""The samples run by their one command, on their shortest setting."""

import io
import json
import re
import runpy
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.bundle import open_bundle
from offramp.bundle.calibration import WHOLE_NETWORK_PROMISE
from offramp.calibrate.user_code import call_function
from offramp.export.networks.pruning import count_macs, prune
from offramp.runtime import load
from offramp.tests.helpers.pages import ROOT, run_script


def write_images(folder, **counts):
    """Write grey noise, the brighter the higher its class, as the CIFAR-10 samples read it: cifar10_<part>.npz for each part."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        files = []
        label = rng.integers(0, 5, count)
        for each in label:
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(50 * each, 50 * each + 50, (32, 32, 3), np.uint8)).save(buffer, "jpeg")
            files.append(buffer.getvalue())
        offset = np.cumsum([0, *map(len, files)])
        jpeg = np.frombuffer(b"".join(files), np.uint8)
        np.savez(folder / f"cifar10_{part}.npz", jpeg=jpeg, offset=offset, label=label)


BRIGHTNESS = """
import torch

CLASSES = (torch.tensor([25.0, 75, 125, 175, 225]) / 255 - 0.47) / 0.25

class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.grey, self.same = torch.nn.Conv2d(3, 1, 1), torch.nn.Conv2d(1, 1, 1)
        for layer in self.grey, self.same:
            torch.nn.init.constant_(layer.weight, 1 / layer.in_channels)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x):
        early = self.grey(x)
        return [-4 * (y.mean((2, 3)) - CLASSES) ** 2 for y in (early, self.same(early))]

def network():
    return Brightness()
"""


def test_the_cifar10_sample_takes_a_network_and_data_that_the_user_names(tmp_path, checkout):
    write_images(tmp_path, train=80, test=40)
    (tmp_path / "mine.py").write_text(BRIGHTNESS)
    options = ["--network", tmp_path / "mine.py:network", "--data", tmp_path, "--output", tmp_path / "out"]
    printed = run_script(checkout, "samples/cifar10/cifar10.py", *options, "--calibration", "60", "--max-drop", "0.3")
    assert "on 40 samples" in printed and (tmp_path / "out/comparison.png").exists()
    assert (tmp_path / "out/network.offramp/manifest.json").exists()


@pytest.mark.slow
def test_the_cascade_sample_compares_both_chains_and_all_static_networks(tmp_path, checkout, cifar10_folder):
    if cifar10_folder is None:
        pytest.skip("needs --cifar10 FOLDER: the networks that it joins are trained on CIFAR-10")
    options = ("--data", cifar10_folder, "--output", tmp_path / "out", "--calibration", 500, "--test", 100)
    printed = run_script(checkout, "samples/cascade/cascade.py", *options)
    for name in (
        "static fp32 to exit0",
        "static fp32 to exit2",
        "static cascade to resnet8",
        "static cascade to resnet",
    ):
        assert name in printed


def test_the_cifar10_networks_train_by_one_command_and_load_what_it_wrote(tmp_path, checkout):
    write_images(tmp_path, train=60)
    (tmp_path / "resnets.py").write_bytes((ROOT / "samples/cifar10/resnets.py").read_bytes())
    shared = ["--data", tmp_path, "--epochs", 1, "--batch", 27, "--lr", 0.01]
    teacher = tmp_path / "teacher.safetensors"
    runs = [
        ("teacher", "joint", []),
        ("resnet", "distill", ["--teacher", teacher, "--seconds", "600"]),
        ("resnet8", "gated", ["--weights", "1", "1", "2"]),
    ]
    for name, recipe, more in runs:
        options = ["--network", name, "--recipe", recipe, "--out", tmp_path / f"{name}.safetensors", *shared, *more]
        make = f"{tmp_path / 'resnets.py'}:{'make_teacher' if name == 'teacher' else name}"
        random = call_function(make).state_dict()
        assert run_script(checkout, "samples/cifar10/train.py", *options).startswith("epoch   1: loss")
        log = json.loads((tmp_path / f"{name}.json").read_text())
        assert log["recipe"] == recipe and log["data"]["trained"] == 54
        if name == "teacher":
            continue
        assert len(log["history"][0]["validation"]) == 3
        network = call_function(make)
        assert not network.training and [z.shape for z in network(torch.zeros(2, 3, 32, 32))] == [(2, 10)] * 3
        for key, value in network.state_dict().items():
            if value.ndim:
                assert not torch.equal(value, random[key]), key
            if value.ndim > 1:  # stored as float16
                assert torch.equal(value, value.half().float()), key


def test_pruned_weights_load_in_the_sizes_that_pruning_left(tmp_path):
    resnets = runpy.run_path(str(ROOT / "samples/cifar10/resnets.py"))
    x = torch.randn(2, 3, 32, 32)
    smaller = prune(resnets["make_resnet8"](), x, macs=0.5)
    (tmp_path / "smaller.safetensors").write_bytes(resnets["save"](smaller))
    loaded = resnets["load"](resnets["make_resnet8"](), tmp_path / "smaller.safetensors")
    assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(smaller(x), loaded(x), strict=True))
    whole, pruned = (
        call_function(f"{ROOT / 'samples/cifar10/resnets.py'}:{name}") for name in ("resnet", "resnet_pruned50")
    )
    assert 0.4 < count_macs(pruned, (x[:1],)) / count_macs(whole, (x[:1],)) <= 0.5


@pytest.fixture
def run_sample(checkout):
    """Run samples/<name>/<name>.py with options from a checkout, measuring briefly; returns what it printed."""
    return lambda name, *options: run_script(checkout, f"samples/{name}/{name}.py", *options)


@pytest.mark.slow
def test_the_sweep_sample_leaves_a_bundle_that_calibrate_can_choose_from(run_sample, checkout):
    printed = run_sample("sweep", "--trials", 1, "--epochs", 1, "--rungs", 1, "--images", 60, "--workers", 0)
    assert "rung 1 of 1, to epoch 1: 1 of 1 trials" in printed and "now: offramp calibrate" in printed
    variants = open_bundle(checkout / "build/sweep/out/survivors.offramp").manifest.variants
    assert [variant.precision for variant in variants] == ["fp32", "int8"]


def percents(line):
    return [float(number) / 100 for number in re.findall(r"([\d.]+)%", line)]


def line_with(words, text):
    return next(line for line in text.splitlines() if words in line)


def check_table(printed, *, chance, exits):
    """See that a comparison was printed with accuracy above chance, the shares of all exits, and a promise in words."""
    for row in ("early exit  ", "whole static network"):
        assert percents(line_with(row, printed))[0] > 2 * chance
    shares = percents(line_with("share measured", printed))
    assert len(shares) == exits and sum(shares) == pytest.approx(1, abs=0.01)
    promises = "With 90% confidence", "cannot be promised", "Nothing is promised", WHOLE_NETWORK_PROMISE
    assert any(promise in printed for promise in promises)  # which network is recommended is the clock's affair


def test_the_attach_sample_trains_heads_alone_and_leaves_the_network_as_it_was(run_sample, checkout):
    printed = run_sample("attach", "--epochs", 3, "--head-epochs", 2, "--images", 600)
    check_table(printed, chance=0.1, exits=4)
    assert "the plain network's own logits: the same as before" in printed
    trained, total = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) of ([\d,]+) parameters", printed)[0]
    )
    assert 0 < trained < total / 4
    accuracies = percents(line_with("accuracy on the test samples, exit by exit", printed))
    assert len(accuracies) == 4 and min(accuracies) > 0.4
    with load(checkout / "build/attach/network.offramp") as net:
        assert net(np.zeros((1, 28, 28), np.float32)).label in range(10)


def test_the_sensor_sample_says_what_so_few_samples_can_promise(run_sample, checkout):
    printed = run_sample("sensor", "--epochs", 2)
    check_table(printed, chance=1 / 7, exits=3)
    assert "1199 train, 665 calibrate, 505 test" in printed
    promises = printed.split("promises for each of the three people")[1].splitlines()[1:]
    assert len(promises) == 2 and all(
        "in each of the 3 groups" in each or "Nothing is promised" in each for each in promises
    )
    manifest = json.loads((checkout / "build/sensor/network.offramp/manifest.json").read_text())
    assert manifest["class_names"][0] == "pendulum"


@pytest.mark.slow
def test_the_regression_sample_compares_angles_by_their_errors(run_sample, checkout):
    printed = run_sample("regression", "--epochs", 1, "--images", 600)
    assert "loss added" in printed and "mean error in degrees, exit by exit" in printed
    with load(checkout / "build/regression/network.offramp") as net:
        assert -90 < float(net(np.zeros((1, 28, 28), np.float32)).answer["angle"]) < 90


@pytest.mark.slow
def test_the_refinement_sample_compares_early_exit_with_every_number_of_passes(run_sample, checkout):
    printed = run_sample("refinement", "--steps", 150, "--puzzles", 600)
    assert "8 stages are 2 files" in printed and "mean loss added" in printed
    table = printed.split("passes   grids solved")[1].splitlines()[1:10]
    assert [line.split()[0] for line in table[:8]] == [str(k + 1) for k in range(8)] and "early exit" in table[8]
    assert (checkout / "build/refinement/passes.png").exists()
    with load(checkout / "build/refinement/network.offramp") as net:
        grid = net(np.zeros(36, np.float32)).answer["cells"]
        assert grid.shape == (36,) and set(grid.tolist()) <= set(range(1, 7))


@pytest.mark.slow
def test_the_segmentation_sample_compares_masks_and_draws_them(run_sample, checkout):
    printed = run_sample("segmentation", "--epochs", 1, "--images", 600)
    assert "loss added" in printed and "mean loss, exit by exit" in printed
    assert Image.open(checkout / "build/segmentation/masks.png").size > (1000, 500)
    with load(checkout / "build/segmentation/network.offramp") as net:
        answer = net(np.zeros((1, 96, 96), np.float32)).answer
        assert {name: part.shape for name, part in answer.items()} == {"map": (11, 24, 24), "ink": (96, 96)}


@pytest.mark.slow
def test_the_detection_sample_compares_boxes_and_draws_them(run_sample, checkout):
    printed = run_sample("detection", "--epochs", 1, "--images", 600)
    assert "loss added" in printed and "answer boxes (4, 12, 12), classes (11, 12, 12)" in printed
    assert "loss mean_average_precision" in printed
    assert (checkout / "build/detection/boxes.png").exists()


def test_boxes_are_found_once_and_precision_is_the_area_below_the_curve():
    detection = runpy.run_path(str(ROOT / "samples/detection/detection.py"))
    classes, boxes = np.zeros((2, 11, 12, 12), np.float32), np.zeros((2, 4, 12, 12), np.float32)
    classes[:, 10] = 20
    boxes[0, :, 3, 3], boxes[0, :, 3, 4], boxes[1, :, 0, 0] = (20, 20, 40, 40), (21, 20, 41, 40), (50, 50, 60, 60)
    classes[0, 7, 3, 3], classes[0, 7, 3, 4], classes[1, 7, 0, 0] = 25, 24, 22
    answer = {"boxes": boxes, "classes": classes}
    found = detection["decode"](answer)
    assert [each.tolist() for each in found] == [[[20, 20, 40, 40, 7]], [[50, 50, 60, 60, 7]]]
    both = [np.array([[20.0, 20, 40, 42, 7]]), np.array([[50.0, 50, 60, 60, 7]])]
    measure = detection["mean_average_precision"]
    assert measure(answer, both) == pytest.approx(0.1)  # one of ten digits, wholly right
    assert measure(answer, [np.array([[60.0, 60, 80, 80, 7]]), both[1]]) == pytest.approx(0.1 * 0.5 * 0.5)


@pytest.mark.slow
def test_the_transformer_sample_runs_sequences_of_their_own_lengths(run_sample, checkout):
    printed = run_sample("transformer", "--epochs", 3, "--images", 600)
    check_table(printed, chance=0.1, exits=4)
    longest, own = (line_with(steps, printed) for steps in ("20 steps  ", " to 20 steps"))
    assert min(*percents(longest), *percents(own)) > 0.3
    with load(checkout / "build/transformer/network.offramp") as net:
        for length in (1, 9, 20):
            assert net(np.zeros((length, 28), np.float32)).label in range(10)


def test_the_fused_sample_agrees_with_offramp_in_every_language_that_is_here(
    calibrated, labelled, run_sample, tmp_path
):
    np.savez(tmp_path / "x.npz", x=labelled[0], y=labelled[1])
    output = tmp_path / "fused"
    printed = run_sample("fused", "--bundle", calibrated.path, "--data", tmp_path / "x.npz", "--output", output)
    rows = re.findall(r"sample (\d+), (.*)\n((?:  .*\n)+)", printed)
    assert len(rows) > 1 and "DIFFERS" not in printed  # samples that leave at different exits
    with load(calibrated) as net:
        for row, file, answers in rows:
            result = net(labelled[0][int(row)])
            assert np.array_equal(np.fromfile(file, np.float32), labelled[0][int(row)])
            assert f"offramp    label {result.label} score {result.score:.4f} exit {result.exit}" in answers
            for language in ("javascript", "c++"):
                assert (language in answers) != (f"{language}: left out, " in printed)


@pytest.mark.parametrize(("language", "tool"), [("javascript", "node"), ("c++", "g++")])
def test_the_fused_file_runs_in_another_language(calibrated, labelled, run_sample, tmp_path, language, tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    np.save(tmp_path / "x.npy", labelled[0][:50])
    printed = run_sample(
        "fused", "--bundle", calibrated.path, "--data", tmp_path / "x.npy", "--output", tmp_path / "out"
    )
    if f"{language}: left out, " in printed:
        pytest.skip(line_with(f"{language}: left out", printed))
    assert len(re.findall(rf"^  {re.escape(language)} +label \d+ score 0\.\d+ exit \d$", printed, re.M)) > 1
