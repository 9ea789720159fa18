"""Train a network with exits on handwritten digits, export it, calibrate it, and compare it with what it must beat.

python samples/quickstart/quickstart.py

Early exit is measured beside every static network, each of which ends at one exit, and beside a cascade of two networks that
nobody trained together. A second run does again only what has changed.
"""

import argparse
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from whole_way import draw

import digits
from offramp.bundle import open_bundle, read_calibration
from offramp.calibrate import Benchmark, Target, calibrate, report
from offramp.errors import OfframpError
from offramp.export import cascade, export
from offramp.files import write_atomically
from offramp.runtime import load, load_static
from steps import Report, Steps, describe_machine, list_sources

FOLDER = digits.WEIGHTS.parent
EARLY, BOTH = FOLDER / "network.offramp", FOLDER / "cascade.offramp"
PAGE, PICTURE, FIGURES = FOLDER / "report.html", FOLDER / "comparison.png", FOLDER / "comparison.json"
TARGET = Target(max_drop=0.01)  # the least mean latency at which at most one point of accuracy is lost


def make_all(options: argparse.Namespace) -> None:
    """Do every step from the data to the pictures."""
    steps, sources = Steps(FOLDER), (Path(digits.__file__), Path(__file__))
    images, training = options.images, {"epochs": options.epochs, "images": options.images, "seed": options.seed}

    def train(progress: Report) -> None:
        digits.train(**training, unfinished=steps.unfinished, progress=progress)

    def train_small(progress: Report) -> None:
        kept = steps.unfinished
        digits.train(**training, make=digits.Small, weights=digits.SMALL_WEIGHTS, unfinished=kept, progress=progress)

    title = f"train three exits on {min(images, digits.TRAIN)} digits in clutter"
    steps.do(title, digits.WEIGHTS, train, sources[0], training)
    steps.do("train a small network alone, for the cascade", digits.SMALL_WEIGHTS, train_small)

    def export_early(progress: Report) -> None:
        shutil.rmtree(EARLY, ignore_errors=True)  # of an earlier run: another network takes its place
        export(digits.network(), digits.calibration(images)[0][:3], EARLY, progress=progress)

    def export_cascade(progress: Report) -> None:
        shutil.rmtree(BOTH, ignore_errors=True)
        members = [digits.small(), digits.whole()]
        cascade(members, digits.calibration(images)[0][:3], BOTH, progress=progress)

    steps.do("export: cut the network into stages, and verify them", EARLY, export_early, *sources, *list_sources())
    steps.do("join the small network and the whole one", BOTH, export_cascade)

    def calibrate_early(progress: Report) -> None:
        calibrate(EARLY, digits.calibration(images), TARGET, replace=True, progress=progress)

    def calibrate_cascade(progress: Report) -> None:
        calibrate(BOTH, digits.calibration(images), TARGET, replace=True, progress=progress)

    title = f"calibrate on {min(images, digits.CALIBRATION)} others: at most 1 point may be lost"
    steps.do(title, EARLY / "calibrations", calibrate_early, describe_machine())
    steps.do("calibrate the cascade likewise", BOTH / "calibrations", calibrate_cascade)
    title = f"compare on {min(images, digits.TEST)} that calibration never saw"
    steps.do(title, FIGURES, lambda progress: compare(digits.test(images), progress))


def compare(test: digits.Samples, progress: Report) -> None:
    """Measure early exit, the static networks and the cascade side by side, and write the figures, a page and a picture."""
    with ExitStack() as stack:
        beside = {}
        for k in range(len(open_bundle(EARLY).variant().exits) - 1):
            beside[f"static to exit {k}"] = stack.enter_context(load_static(EARLY, exit=k))
        chain = read_calibration(open_bundle(BOTH).calibrations()[0]).early
        if chain.exits_early:  # else no thresholds of the cascade keep the limit
            beside["small, then whole"] = stack.enter_context(load(BOTH, point=chain.name))
        page = report(EARLY, test, output=PAGE, beside=beside, progress=progress)
    if page.measured is None or page.measured.benchmark is None:
        raise SystemExit(f"No thresholds keep the limit: {page.calibration.point.verdict}")
    draw(page.measured.benchmark, page.calibration, PICTURE)
    write_atomically(FIGURES, msgspec.json.encode(page.measured.benchmark))


def show() -> None:
    """Print what was found."""
    found = msgspec.json.decode(FIGURES.read_bytes(), type=Benchmark)
    point = read_calibration(open_bundle(EARLY).calibrations()[0]).early
    low, high = found.drop_interval
    print(f"\n{found.table()}\n")
    print(f"The promise: {point.promise}")
    print(f"Checked on {found.samples} samples that calibration never saw: {found.drop:.2%} lost, ", end="")
    most = TARGET.limits["max_drop"]
    kept = "It is kept." if high <= most else "It is broken." if low > most else "They do not tell whether it is kept."
    print(f"95 % interval {low:.2%} to {high:.2%}. {kept}")
    shares = ", ".join(f"{share:.1%} at exit {k}" for k, share in enumerate(found.exit_shares))
    print(f"Digits leave where they are easy enough: {shares}.")
    print(f"\npicture: {PICTURE}\nreport, a page to open in a browser: {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=digits.EPOCHS, help="how long to train")
    most = "how many images to train, calibrate and test on at most"
    parser.add_argument("--images", type=int, default=digits.TEST, help=most)
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    try:
        make_all(parser.parse_args())
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it was.", file=sys.stderr)
        sys.exit(130)
    except OfframpError as error:
        sys.exit(f"\n{error}")
    show()


if __name__ == "__main__":
    main()
