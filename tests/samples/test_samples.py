"""The samples run by their one command, on their shortest setting."""

import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from offramp.export.prune import count_macs, prune
from offramp.sources import call_function

import networks

ROOT = Path(__file__).parents[2]


def write_images(folder, **counts):
    """Write noise as the CIFAR-10 samples read it: cifar10_<part>.npz for each part."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        files = []
        for i in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, "jpeg")
            files.append(buffer.getvalue())
        offset = np.cumsum([0, *map(len, files)])
        jpeg = np.frombuffer(b"".join(files), np.uint8)
        np.savez(folder / f"cifar10_{part}.npz", jpeg=jpeg, offset=offset, label=rng.integers(0, 5, count))


def test_the_cifar10_sample_takes_a_network_and_data_that_the_user_names(tmp_path, brief):
    write_images(tmp_path, train=80, test=40)
    (tmp_path / "mine.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(networks.__file__).parent)!r})\n"
        "import networks\ndef network(): return networks.build(networks.Plain)\n"
    )
    command = brief(f"runpy.run_path({str(ROOT / 'samples/cifar10/cifar10.py')!r}, run_name='__main__')")
    options = ["--network", tmp_path / "mine.py:network", "--data", tmp_path, "--output", tmp_path / "out"]
    done = subprocess.run(
        [*command, *options, "--calibration", "60", "--max-drop", "0.3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "on 40 samples" in done.stdout and (tmp_path / "out/comparison.png").exists()
    assert (tmp_path / "out/network.offramp/manifest.json").exists()


def test_the_cifar10_networks_train_by_one_command_and_load_what_it_wrote(tmp_path):
    write_images(tmp_path, train=60)
    (tmp_path / "resnets.py").write_bytes((ROOT / "samples/cifar10/resnets.py").read_bytes())
    command = [sys.executable, ROOT / "samples/cifar10/train.py", "--data", tmp_path, "--epochs", "1", "--batch", "27"]
    teacher = tmp_path / "teacher.safetensors"
    runs = [
        ("teacher", "joint", []),
        ("resnet", "distill", ["--teacher", teacher, "--seconds", "600"]),
        ("resnet8", "gated", ["--weights", "1", "1", "2"]),
    ]
    for name, recipe, more in runs:
        options = [
            "--network",
            name,
            "--recipe",
            recipe,
            "--lr",
            "0.01",
            "--out",
            tmp_path / f"{name}.safetensors",
            *more,
        ]
        make = f"{tmp_path / 'resnets.py'}:{'make_teacher' if name == 'teacher' else name}"
        random = call_function(make).state_dict()
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("epoch   1: loss")
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
