"""Chains across two variants are found where they pay, measured, promised and run."""

import functools
import importlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target
from offramp.bundle.across import count_loaded, find_across
from offramp.bundle.golden import read_golden
from offramp.bundle.manifest import NEVER
from offramp.calibrate import bench
from offramp.calibrate.measure.configurations import Answers, Configuration
from offramp.calibrate.measure.tables import Costs
from offramp.calibrate.search.across import join_configurations, try_across
from offramp.calibrate.search.contenders import Contender
from offramp.errors import BundleError, UsageError
from offramp.export import export, fuse
from offramp.runtime import EveryExit, build, load, load_static, load_uncalibrated
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts
from offramp.tests.calibrate.search.test_gains import make_table
from offramp.tests.helpers import briefly
from offramp.tests.helpers.command import offramp
from offramp.tests.helpers.points import make_point
from offramp.tests.helpers.times import let_calls_take
from offramp.tests.zoo import dense
from offramp.tests.zoo.two_networks import draw_pair, write_pair

TARGET = Target(max_drop=0.05)
SMALL_US, LARGE_US = (10, 15), (90, 100)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair") / "pair.offramp")


def calibrate_pair(patch, bundle, data, target, *, small_us=SMALL_US, **options):
    """Calibrate with chains across variants, where the small network takes a tenth of the large one's time, or as a test says."""
    patch.setattr(importlib.import_module("offramp.calibrate.pipeline"), "try_across", try_across)
    let_calls_take(patch, functools.partial(seconds_of, small_us))
    return briefly.calibrate(bundle, data, target, measure_s=0.02, **options)


def seconds_of(small_us, network, exit_):
    name = network.split(" of ")[1]
    if "+" not in name:
        return (small_us if name == "small" else LARGE_US)[exit_] * 1e-6
    before, _, after = name.partition("+")
    first, last = before.split(":")
    ours, theirs = (small_us, LARGE_US) if first == "small" else (LARGE_US, small_us)
    if exit_ <= int(last):
        return ours[exit_] * 1e-6
    k = 1 if ":" in after else exit_ - int(last) - 1
    return (ours[int(last)] + theirs[k]) * 1e-6


@pytest.fixture(scope="module")
def found(pair):
    """The bundle calibrated where a chain across variants is best, and the calibration."""
    with pytest.MonkeyPatch.context() as patch:
        return calibrate_pair(patch, pair, draw_pair(500)[:2], TARGET)


def test_a_small_network_before_a_large_one_is_chosen_measured_and_promised(pair, found):
    point = found.point
    assert point.variant == "small:0+fp32:1" and point.placement == ("cpu",) * 2 and point.exits_early
    assert point.pays and point.certificate is not None and point.drop < 0.05
    is_hard = draw_pair(500)[2].mean()
    assert point.exit_shares[1] == pytest.approx(is_hard, abs=0.08)
    assert point.exit_latency_s == pytest.approx((10e-6, 110e-6))
    assert point.latency_s == pytest.approx(10e-6 + 100e-6 * point.exit_shares[1])
    chain = next(chain for chain in found.chains if chain.variant == point.variant)
    assert len(chain.exits) == 2 and chain.accuracy[1] > 0.98
    assert point.variant in [tradeoff.variant for tradeoff in found.frontier]
    assert {static.variant for static in found.statics} == {"fp32", "small"}
    (note,) = (note for note in found.notes if note.startswith("small:0+fp32:1 ("))
    assert "small up to exit 0, then fp32 from the input, its static network to exit 1) is the best chain" in note


def test_its_answers_are_those_of_both_networks_run_by_hand(pair, found):
    x = draw_pair(100, seed=1)[0]
    with load(pair) as net, load_static(pair, variant="small", exit=0) as small, load_static(pair) as large:
        assert net.exits == ("small:z0", "fp32:z1")
        ours, theirs = small.batch(x), large.batch(x)
        leaves = ours.score >= net.thresholds[0]
        assert 0 < leaves.sum() < len(x)
        for results in (net.batch(x), [net(sample) for sample in x]):
            rows = results if isinstance(results, list) else [results]
            label, exit_, score = (
                np.hstack([getattr(row, name) for row in rows]) for name in ("label", "exit", "score")
            )
            assert (label == np.where(leaves, ours.label, theirs.label)).all() and (exit_ == ~leaves).all()
            assert (score == np.where(leaves, ours.score, theirs.score)).all()
        assert net.stats().exit_counts == (2 * leaves.sum(), 2 * (~leaves).sum())
        assert str(net.provenance.network) == "the chain of small:0+fp32:1"


def test_a_chain_of_the_second_variant_keeps_its_exits_and_boundaries(pair):
    x = draw_pair(60, seed=2)[0]
    nets = [load_uncalibrated(pair, variant=name) for name in ("fp32:1+small", "fp32", "small")]
    joined, large, small = (net.every_exit(x, size=10) for net in nets)
    assert nets[0].exits == ("fp32:z0", "fp32:z1", "small:z0", "small:z1")
    assert (joined.score == np.hstack([large.score, small.score])).all()
    assert (joined.label == np.hstack([large.label, small.label])).all()
    golden = read_golden(pair, pair.chain("fp32:1+small"))
    assert golden.score.shape[1] == 4 and golden.answers[2]["logits"].shape[1] == 5


def test_a_point_across_variants_runs_in_every_command_that_can_run_it(pair, found):
    bundle = str(pair.path)
    inspected = offramp("inspect", bundle).stdout
    sizes = count_loaded(pair.chain("small:0+fp32:1"))
    large = pair.variant("fp32")
    assert sizes["fp32"] == sum(large.files[name].bytes for name in (large.exits[1].static, large.weights))
    assert (
        f"point default loads {sum(sizes.values()) / 1e6:.3g} MB of files: small {sizes['small'] / 1e6:.3g}, fp32"
        in inspected
    )
    assert json.loads(offramp("inspect", bundle, "--json").stdout)["loads"]["default"]["default"] == sizes
    with pytest.raises(UsageError, match=r"static network to exit 1. A fused file holds one variant"):
        fuse(pair, pair.path.with_name("fused.onnx"))
    assert build(pair, "cpu", variant="small:0+fp32") == ()
    x, y, _ = draw_pair(200, seed=3)
    measured = bench(pair, (x, y))
    assert measured.exit_shares[1] == pytest.approx(0.3, abs=0.15) and len(measured.stages) == 2


def test_one_variant_stays_where_two_save_less_than_the_least_gain(pair, monkeypatch):
    x, y, is_hard = draw_pair(500)
    us = 97 - 100 * is_hard.mean(), 98  # the chain across both takes 97 us in the mean, the large network 100
    found = calibrate_pair(monkeypatch, pair, (x, y), TARGET, small_us=us, output=pair.path.with_name("one.json"))
    assert "+" not in found.early.variant and not any("+" in chain.variant for chain in found.chains)


def test_exits_that_are_never_taken_are_joined_in_the_first_variant_alone(pair):
    variant, x = pair.chain("fp32:1+small"), draw_pair(40, seed=4)[0]
    point = make_point(variant, (NEVER, 0.9999, NEVER))
    parts, points = chain_parts(pair, variant), {"default": point}
    with (
        load_uncalibrated(pair, variant=variant.name) as single,
        open_network(parts, "cpu", LoadOptions(), point=point, points=points) as joined,
    ):
        single.thresholds = point.thresholds
        for sample in x:
            ours, theirs = joined(sample), single(sample)
            assert (ours.label, ours.exit) == (theirs.label, theirs.exit)
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
        assert joined.joins_stages and len(joined._setup.steps) == 3


def test_an_exit_of_the_second_variant_is_predicted_to_cost_what_both_take(pair):
    def contend(name, us, power_w):
        variant = pair.variant(name)
        costs = Costs(
            tuple(np.array([each, each + 2.0]) * 1e-6 for each in us), power_w=np.array(power_w), waiting_j=1e-6
        )
        table = replace(make_table((100, 400)), costs=costs)
        answers = EveryExit(table.label, table.score)
        configuration = Configuration(
            variant=variant,
            placement=("cpu", name),
            answers=Answers(answers, (answers, answers)),
            outside_answers=None,
            chain=costs,
            statics=(costs, costs),
            reference_s=1e-4,
            drifts_with_reference=True,
        )
        return Contender(configuration=configuration, static=None, selecting=table, reporting=table)

    first, second = contend("small", (10, 20), (1.0, 2.0)), contend("fp32", (100, 200), (3.0, 4.0))
    bundle = SimpleNamespace(manifest=pair.manifest)
    measured = SimpleNamespace(reference=SimpleNamespace(latency_s=1e-4))
    joined = join_configurations(first, 1, second, measured, SimpleNamespace(bundle=bundle))
    assert joined.variant.name == "small:1+fp32" and joined.placement == ("cpu", "small", "cpu", "fp32")
    assert joined.chain.latency_s * 1e6 == pytest.approx([11, 21, 122, 222])
    assert joined.chain.energy_j * 1e6 == pytest.approx([12, 43, 43 + 303, 43 + 804])
    assert joined.answers.chain.score.shape[1] == 4 and joined.statics == joined.passing_s == ()


@pytest.mark.parametrize(
    "name", ["small:2+fp32", "small:0+small", "small:0+fp32:2", "small:0+no", "small:+fp32", "a:0+b"]
)
def test_a_name_of_no_chain_is_refused_as_other_names_are(name, pair):
    assert find_across(pair.manifest, name) is None
    with pytest.raises(UsageError, match="variant"):
        load_uncalibrated(pair, variant=name)


def test_a_calibration_of_another_second_variant_is_not_used(pair, found, tmp_path):
    path = tmp_path / "other.json"
    text = (pair.path / "calibrations" / "default.json").read_text()
    path.write_text(text.replace(pair.chain("small:0+fp32:1").digest, "0" * 64))
    with pytest.raises(BundleError, match="made for another export"):
        load(pair, calibration=path)


def test_an_export_that_takes_a_variant_away_warns_of_the_calibration(pair, found, tmp_path):
    path = shutil.copytree(pair.path, tmp_path / "pair.offramp")
    with pytest.warns(UserWarning, match=r"variants small are removed .* default.json was calibrated for what is gone"):
        export(dense.write_onnx(tmp_path / "other.onnx"), None, path, replace=True)
