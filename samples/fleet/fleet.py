"""Calibrate a bundle on a fleet: here of three worker processes, which stand for boards.

    python samples/fleet/fleet.py [BUNDLE [DATA]]

Without BUNDLE and DATA it is the bundle of the quickstart, and its digits. DATA is a file or folder as `load_samples` takes it. A
scheduler and three workers are started on this machine, and end with the program. With real boards the scheduler runs on the
workstation, each board runs `offramp worker tcp://WORKSTATION:8786`, and `calibrate_fleet` gets that address.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distributed import LocalCluster

from offramp.bundle import Target
from offramp.calibrate import load_samples
from offramp.fleet import FleetCalibration, calibrate_fleet


def read(bundle: Path, data: Path | None) -> tuple[Any, Any]:
    """Return the samples of a file, or the digits of the quickstart."""
    if data is not None:
        return load_samples(data, bundle)
    sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))
    import digits

    return digits.calibration()


def calibrate(
    bundle: Path, data: Path | None, workers: int, max_disagreement: float, measure_s: float
) -> FleetCalibration:
    """Calibrate a bundle on some worker processes of this machine."""
    with (
        TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            local_directory=folder,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
    ):
        return calibrate_fleet(
            bundle,
            read(bundle, data),
            cluster.scheduler_address,
            Target(max_disagreement=max_disagreement),
            measure_s=measure_s,
        )


def main() -> None:
    """Read the options, calibrate, and print what came home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("digits.offramp"))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--max-disagreement", type=float, default=0.02)
    parser.add_argument("--measure-s", type=float, default=2.0)
    arguments = parser.parse_args()
    found = calibrate(
        arguments.bundle, arguments.data, arguments.workers, arguments.max_disagreement, arguments.measure_s
    )
    for board in found.boards:
        print(f"{board.name}: whole network {1e6 * board.reference_s:.0f} us, {board.slower:+.0%} beside its kind")
    for file, calibration in found.calibrations.items():
        print(f"{Path(file).name}:")
        for name, point in calibration.points.items():
            print(f"  {name}: {point.promise} {point.verdict}")
    for words in (*found.outliers, *found.notes, *(f"{name} is missing: {why}" for name, why in found.missing.items())):
        print(f"note: {words}")


if __name__ == "__main__":
    main()
