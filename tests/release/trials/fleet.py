"""A board in a process of its own calibrates a bundle for the hub."""

import numpy as np
from distributed import LocalCluster

from offramp.bundle import Target
from offramp.fleet import calibrate_fleet

if __name__ == "__main__":
    samples = np.load("samples.npz")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        found = calibrate_fleet(
            "dense.offramp",
            (samples["x"], samples["y"]),
            cluster.scheduler_address,
            Target(max_disagreement=0.5),
            measure_s=0.2,
        )
    print(found)
