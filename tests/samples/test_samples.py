"""The samples run by their one command, on their shortest setting."""

import io
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

import networks

ROOT = Path(__file__).parents[2]


def test_the_quickstart_prints_the_comparison_and_where_the_picture_lies(checkout, quickstart_output):
    for words in ("early exit", "whole static network", "share measured", "share predicted", "paired 95 % interval"):
        assert words in quickstart_output
    picture = checkout / quickstart_output.split("picture: ")[1].strip()
    with Image.open(picture) as image:
        assert image.width > 800


def test_the_cifar10_sample_takes_a_network_and_data_that_the_user_names(tmp_path, brief):
    rng = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 40)):
        files = []
        for i in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, "jpeg")
            files.append(buffer.getvalue())
        offset = np.cumsum([0, *map(len, files)])
        jpeg = np.frombuffer(b"".join(files), np.uint8)
        np.savez(tmp_path / f"cifar10_{part}.npz", jpeg=jpeg, offset=offset, label=rng.integers(0, 5, count))
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
