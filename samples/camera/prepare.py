"""What the camera sample runs: a network for digits, calibrated, with rules for reuse, and a film of digits that move.

    python samples/camera/prepare.py

The network is that of the quickstart, and its weights if it has run. A clip shows one digit from those that training never saw.
It turns, shears, shrinks and moves slowly from one pose to another, under pieces of other digits; noise is new in each frame, and
less than in the quickstart's samples, which a frame by itself resembles else. Some clips find the rules, and others are the film.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))

import numpy as np
import torch
from torch.nn import functional as F

import digits
from offramp.calibrate import calibrate, calibrate_reuse
from offramp.errors import TargetError
from offramp.export import export

FOLDER = Path("build/camera")
CLIPS, FILM, FRAMES = 400, 40, 24
MAX_CHANGED = 0.05


def film(count: int, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw clips.

    Returns:
        Frames float32 (count * frames, 1, 28, 28), labels, and the clip of each frame.
    """
    rng = np.random.default_rng(seed)
    pictures, labels = (array[digits.TRAIN_DIGITS :] for array in digits.digits())
    drawn, amount = rng.integers(len(pictures), size=count), rng.random(count) ** 3
    clip = np.repeat(np.arange(count), frames)
    time = np.linspace(0, 1, frames)[None]

    def path(limit: float) -> np.ndarray:
        """Lead each clip from one value to another that is near, (count * frames,)."""
        first = rng.uniform(-1, 1, (count, 1))
        last = np.clip(first + rng.normal(0, 0.3, (count, 1)), -1, 1)
        return (limit * (0.1 + 0.9 * amount[:, None]) * (first + (last - first) * time)).ravel()

    angle, shear, scale = path(0.6), path(0.4), np.exp(path(0.35))
    rows = [
        [scale * np.cos(angle), shear - scale * np.sin(angle), path(0.35)],
        [scale * np.sin(angle), scale * np.cos(angle), path(0.35)],
    ]
    moves = torch.from_numpy(np.array(rows, np.float32).transpose(2, 0, 1))
    grid = F.affine_grid(moves, [len(clip), 1, 28, 28], align_corners=False)
    shown = torch.from_numpy(pictures[drawn][clip])
    images: np.ndarray = F.grid_sample(shown, grid, align_corners=False).numpy()
    side = digits.PIECE
    for number, pieces in enumerate(np.round(digits.PIECES * amount).astype(int)):
        scene = images[number * frames : (number + 1) * frames, 0]
        for other in rng.integers(len(pictures), size=pieces):
            (top, left), (row, column) = rng.integers(0, 28 - side, (2, 2))
            place = scene[:, top : top + side, left : left + side]
            np.maximum(place, pictures[other, 0, row : row + side, column : column + side], out=place)
    noise = 0.05 * amount[clip][:, None, None, None] * rng.standard_normal(images.shape, np.float32)
    return (images + noise).astype(np.float32), labels[drawn][clip], clip


def make(folder: Path, *, epochs: int = 2, images: int = 5000, clips: int = CLIPS) -> None:
    """Make the bundle and the film."""
    folder.mkdir(parents=True, exist_ok=True)
    if not digits.WEIGHTS.exists():
        print("training three exits on digits in clutter", flush=True)
        digits.train(epochs=epochs, images=images)
    x, y = digits.calibration(images)
    bundle = export(digits.network(), x[:3], folder / "network.offramp", replace=True)
    print("calibrating three operating points", flush=True)
    for name, point in calibrate(bundle, (x, y), measure_s=2.0).points.items():
        print(f"  {name}: {point.promise or 'nothing is promised'}")
    frames, _, clip = film(clips, FRAMES, seed=1)
    print(f"finding rules for reuse on {clips} clips", flush=True)
    try:
        made = calibrate_reuse(bundle, (frames, None), clip, max_disagreement=MAX_CHANGED)
        for name, point in made.points.items():
            if point.reuse is not None:
                print(f"  {name}: {point.reuse.promise} {point.reuse.verdict}")
    except TargetError as error:
        print(f"  {error}")
    np.savez(folder / "film.npz", x=film(FILM, FRAMES, seed=2)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2, help="how long to train")
    parser.add_argument("--images", type=int, default=5000, help="how many images to train and calibrate on at most")
    parser.add_argument("--clips", type=int, default=CLIPS, help="how many clips find the rules for reuse")
    options = parser.parse_args()
    make(FOLDER, epochs=options.epochs, images=options.images, clips=options.clips)


if __name__ == "__main__":
    main()
