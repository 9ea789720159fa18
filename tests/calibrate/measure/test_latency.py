import numpy as np

from offramp.calibrate.measure.latency import force_exits, measure
from offramp.runtime import load_uncalibrated
from offramp.runtime.chain.samples import Samples


def test_exits_are_forced_in_some_of_the_blocks(dense):
    x, rng = Samples((np.zeros((128, 16), np.float32),)), np.random.default_rng(0)
    with load_uncalibrated(dense) as net:
        turns = {every: force_exits(net, (1 / 3,) * 3, rng=rng, every=every) for every in (1, 4)}
        results = measure(turns, x, rng=rng, progress=lambda *_: None)
    counts = {every: sum(map(len, exits)) for every, exits in results.items()}
    assert counts == {1: 8 * 35, 4: 2 * 35}  # 16 samples in a block, each exit drawn twice for each, and once more
