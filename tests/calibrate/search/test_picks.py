"""Which of several chains is picked."""

import numpy as np
import pytest

from offramp.bundle import Target
from offramp.calibrate.advice import name_unpromised, name_weak_end
from offramp.calibrate.certify.points import make_points
from offramp.calibrate.measure.tables import Costs, ExitTable
from offramp.calibrate.search import picks
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.picks import make_picks
from offramp.tests.fakes.configurations import fake_configuration


def make_chain(variant, rng, whole, *, differs, loss, costs_us):
    """A chain of two exits whose last exit differs from the whole network for a share of the samples, and loses a share."""
    n = len(whole)
    right = whole.copy()
    lost, won = ((differs + loss) / 2, (differs - loss) / 2)
    draw = rng.random(n)
    right[whole & (draw < lost / whole.mean())] = False
    right[~whole & (draw < won / (1 - whole.mean()))] = True
    score = rng.random((n, 2)).astype(np.float32)
    first = right & (rng.random(n) < 0.5 + 0.5 * score[:, 0])
    right = np.stack([first, right], 1)
    table = ExitTable(
        score=score,
        label=right.astype(int),
        right=right,
        reference_right=whole,
        differs=(right != whole[:, None]).astype(np.int8),
        costs=Costs(tuple(np.array([us, 1.001 * us]) * 1e-6 for us in costs_us)),
        is_reference=False,
    )
    return Contender(
        configuration=fake_configuration(variant, 2),
        static=None,
        selecting=table.rows(np.arange(n // 5)),
        reporting=table.rows(np.arange(n // 5, n)),
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_cheap_chain_that_may_lose_too_much_gives_way_to_one_that_can_be_promised(seed):
    rng = np.random.default_rng(seed)
    whole = rng.random(5000) < 0.92
    careful = make_chain("fp32", rng, whole, differs=0.0, loss=0.0, costs_us=(100, 400))
    cheap = make_chain("int8", rng, whole, differs=0.06, loss=0.008, costs_us=(50, 200))
    targets = {"default": Target(max_drop=0.01)}
    chosen = make_picks([careful, cheap], targets)
    assert chosen["default"].chain is careful
    point = make_points(chosen, targets, [], confidence=0.9)["default"]
    assert point.certificate is not None


def test_a_cheap_chain_that_surely_loses_little_is_picked():
    rng = np.random.default_rng(0)
    whole = rng.random(20_000) < 0.92
    careful = make_chain("fp32", rng, whole, differs=0.0, loss=0.0, costs_us=(100, 400))
    cheap = make_chain("int8", rng, whole, differs=0.01, loss=0.0, costs_us=(50, 200))
    assert make_picks([careful, cheap], {"default": Target(max_drop=0.01)})["default"].chain is cheap
    assert make_picks([cheap], {"default": Target(max_drop=0.01)})["default"].chain is cheap


def end_at(chain, k, us):
    """The static network that ends at an exit of a chain."""
    costs = Costs((np.array([us, 1.001 * us]) * 1e-6,))
    ends = {name: getattr(chain, name).columns([k], costs) for name in ("selecting", "reporting")}
    return Contender(configuration=chain.configuration, static=k, **ends)


@pytest.mark.parametrize("us", [40, 370])
def test_a_faster_static_network_that_cannot_be_promised_is_named(us):
    rng = np.random.default_rng(0)
    whole = rng.random(5000) < 0.92
    careful = make_chain("fp32", rng, whole, differs=0.0, loss=0.0, costs_us=(100, 400))
    cheap = make_chain("int8", rng, whole, differs=0.06, loss=0.0, costs_us=(50, 200))
    statics = [end_at(careful, 1, 390), end_at(cheap, 1, us)]
    targets = {"default": Target(max_drop=0.01)}
    chosen = make_picks([careful, *statics], targets)
    points = make_points(chosen, targets, statics, confidence=0.9)
    best = chosen["default"].best_static
    assert best is not None and best is statics[0]  # which is slower, and is the last exit itself
    (note,) = name_unpromised(chosen, targets, points, statics)
    assert f"the static network to exit 1 of int8 takes {us} us and meets the target on these samples too (9" in note
    assert name_unpromised(make_picks([careful, best], targets), targets, points, [best]) == []
    # so is one that the selecting samples did not take, though the reporting ones do
    assert name_unpromised(make_picks([careful, best], targets), targets, points, statics) == [note]


def test_a_whole_network_that_an_earlier_end_surely_beats_is_named():
    rng = np.random.default_rng(0)
    whole = rng.random(5000) < 0.85
    better = make_chain("fp32", rng, whole, differs=0.08, loss=-0.03, costs_us=(100, 400))
    alike = make_chain("int8", rng, whole, differs=0.08, loss=0.0, costs_us=(50, 200))
    (note,) = name_weak_end([end_at(alike, 1, 200), end_at(better, 1, 390)])
    assert note.startswith("The static network to exit 1 of fp32 is right on 3.") and "--min-accuracy" in note
    assert name_weak_end([end_at(alike, 1, 200)]) == []


def test_the_debug_log_says_why_a_chain_is_picked(monkeypatch):
    lines = []
    monkeypatch.setattr(picks._log, "debug", lambda text, *values: lines.append(text % values))
    rng = np.random.default_rng(0)
    whole = rng.random(5000) < 0.92
    careful = make_chain("fp32", rng, whole, differs=0.0, loss=0.0, costs_us=(100, 400))
    cheap = make_chain("int8", rng, whole, differs=0.06, loss=0.008, costs_us=(50, 200))
    make_picks([cheap, careful], {"default": Target(max_drop=0.01)})
    first, second = [line for line in lines if line.startswith("chain of")]
    assert first.startswith("chain of fp32 on cpu: misses 0 targets, 0 may be unprovable")
    assert second.startswith("chain of int8 on cpu: misses 0 targets, 1 may be unprovable")
