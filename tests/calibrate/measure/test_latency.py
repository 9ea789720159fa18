import numpy as np

from offramp.calibrate.measure.latency import force_exits, leave_at_each, measure
from offramp.runtime import load_uncalibrated
from offramp.runtime.chain.samples import Samples
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts
from offramp.tests.helpers.points import make_point


def test_exits_are_forced_in_some_of_the_blocks(dense):
    x, rng = Samples((np.zeros((128, 16), np.float32),)), np.random.default_rng(0)
    with load_uncalibrated(dense) as net:
        turns = {every: force_exits(net, (1 / 3,) * 3, rng=rng, every=every) for every in (1, 4)}
        results = measure(turns, x, rng=rng, progress=lambda *_: None)
    counts = {every: sum(map(len, exits)) for every, exits in results.items()}
    assert counts == {1: 8 * 35, 4: 2 * 35}  # 16 samples in a block, each exit drawn twice for each, and once more


def test_forced_samples_go_the_way_of_the_point_in_use(dense):
    points = {name: make_point(dense.variant(), ends) for name, ends in (("a", (0.7, 2.0)), ("b", (2.0, 2.0)))}
    x = np.zeros(16, np.float32)
    with open_network(
        chain_parts(dense, dense.variant()), "cpu", LoadOptions(), point=points["a"], points=points
    ) as net:
        for name, ends in (("a", [0, 2]), ("b", [2])):
            net.use(name)
            *_, whole = forced = leave_at_each(net)
            assert [
                step[0] for step in whole._setup.steps
            ] == ends  # an exit that the point may take is not joined away
            assert [chain(x).exit for chain in forced] == [0, 1, 2]
