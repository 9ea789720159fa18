"""Promises over groups of samples that depend on each other, and in every class or group."""

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Certificate, Target
from offramp.calibrate.certify.choice_bias import correct
from offramp.calibrate.certify.points import describe_promise
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.measure.tables import Costs, ExitTable
from offramp.calibrate.parts import Parts
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.independence import check_groups, split_groups
from offramp.calibrate.search.objective import find_thresholds, meets_limits
from offramp.calibrate.search.predictions import predict_point
from offramp.errors import UsageError
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import make_table

STATIC = np.zeros((1, 0), np.float32)


def static_network(lost, **options):
    """A network of one exit that loses some samples against a reference that is always right."""
    return ExitTable(
        score=np.ones((len(lost), 1), np.float32),
        label=lost[:, None].astype(int),
        right=~lost[:, None],
        reference_right=np.ones(len(lost), bool),
        differs=lost[:, None].astype(np.int8),
        costs=Costs((np.full(2, 1e-3),)),
        **options,
    )


def test_a_promise_over_groups_holds_where_that_of_their_samples_is_broken():
    """Of groups of ten a few lose nine in ten, so that the true drop is just above what is promised."""
    rng, target, groups, runs = np.random.default_rng(0), Target(max_disagreement=0.05), 150, 100
    broken = {"plain": 0, "groups": 0}
    group = np.repeat(np.arange(groups), 10)
    for _ in range(runs):
        is_bad = rng.random(groups) < 0.051 / 0.9
        table = static_network(is_bad[group] & (rng.random(len(group)) < 0.9))
        for way, numbers in (("plain", None), ("groups", group)):
            broken[way] += certify_path(replace(table, groups=numbers), target, STATIC, delta=0.1)[0] is not None
    assert broken["groups"] <= 0.13 * runs and broken["plain"] > 0.18 * runs


def test_groups_of_one_sample_have_the_means_of_samples():
    rng = np.random.default_rng(0)
    table = make_table(500, 3)
    contenders = [
        Contender(configuration=fake_configuration("fp32", 3), static=None, selecting=each, reporting=each)
        for each in (table, replace(table, groups=rng.permutation(500)))
    ]
    plain, grouped = (predict_point(each, (0.9, 0.9), Target(max_drop=0.1)) for each in contenders)
    for name in ("accuracy", "full_accuracy", "drop", "disagreement", "latency_s", "exit_shares", "drop_interval"):
        assert getattr(grouped, name) == pytest.approx(getattr(plain, name), abs=1e-2)


def test_each_group_counts_alike_in_every_figure():
    lost = np.r_[
        np.ones(90, bool), np.zeros(10, bool)
    ]  # one large group that loses all, nine small ones that lose nothing
    table = static_network(lost, groups=np.r_[np.zeros(91, int), np.arange(1, 10)])
    contender = Contender(configuration=fake_configuration("fp32", 1), static=0, selecting=table, reporting=table)
    point = predict_point(contender, (), Target(max_drop=0.5))
    assert point.drop == pytest.approx(90 / 91 / 10) and point.accuracy == pytest.approx(1 - 90 / 91 / 10) and point.met
    assert point.drop_interval[0] < 0 < point.drop < point.drop_interval[1]


def test_few_groups_say_how_many_would_do():
    table = static_network(np.zeros(5000, bool), groups=np.repeat(np.arange(5), 1000))
    step, why = certify_path(table, Target(max_drop=0.02), STATIC, delta=0.08)
    assert step is None and why.startswith("Nothing is promised: 5 groups cannot show at 92% confidence")
    needed = int(why.split("About ")[1].split()[0])
    more = replace(static_network(np.zeros(needed, bool)), groups=np.arange(needed))
    assert certify_path(more, Target(max_drop=0.02), STATIC, delta=0.08)[0] == 0
    words = describe_promise(Certificate({"max_drop": 0.02}, 0.9, 1, 5000, 0, 1, groups=needed), Target(max_drop=0.02))
    assert f"inputs of other groups like these, which count alike, is at most 2.00%, by {needed} groups (5000" in words


def test_groups_stay_on_one_side_whatever_their_sizes():
    rng = np.random.default_rng(0)
    groups = np.repeat(rng.permutation(40), rng.integers(1, 60, size=40))
    selecting, reporting = split_groups(rng.permutation(len(groups)), groups, len(groups) // 5)
    assert not set(groups[selecting]) & set(groups[reporting]) and len(selecting) + len(reporting) == len(groups)
    assert set(groups[selecting]) == set(range(8))  # the first ones by their numbers, which are drawn
    assert len(split_groups(np.arange(len(groups)), groups, 0)[0]) == 0


def test_groups_that_share_samples_count_for_fewer():
    hashes = np.tile(np.arange(100, dtype=np.uint64), 2)
    apart, shared = np.repeat(np.arange(20), 10), np.repeat(np.arange(2), 100)
    found = check_groups(hashes, shared)
    assert found.share == 0.5 and "the 2 groups count for 1" in found.notes[0]
    assert check_groups(np.arange(200, dtype=np.uint64), apart) == check_groups(np.arange(200, dtype=np.uint64), apart)
    assert check_groups(np.arange(200, dtype=np.uint64), apart).share == 1


def classes(counts, lost):
    """Samples of some classes, of which so many are lost."""
    label = np.repeat(np.arange(len(counts)), counts)
    is_lost = np.concatenate([np.arange(n) < k for n, k in zip(counts, lost, strict=True)])
    names = tuple(f"class{k}" for k in range(len(counts)))
    return static_network(is_lost, parts={"class": Parts(names, label)})


def test_a_promise_by_class_holds_in_each_or_names_those_that_lack_samples():
    target = Target(max_disagreement=0.05, by="class")
    assert certify_path(classes([300, 300, 300], [3, 0, 4]), target, STATIC, delta=0.1) == (0, "")
    few = classes([300, 20, 300, 30], [3, 0, 4, 0])
    step, why = certify_path(few, target, STATIC, delta=0.1)
    assert step is None and "for 2 of the 4 classes too few samples" in why
    assert "class1 (20; about " in why and "class3 (30; about " in why and "class0" not in why
    worse = classes([300, 300], [0, 30])
    step, why = certify_path(worse, target, STATIC, delta=0.1)
    assert step is None and why.endswith(
        "a disagreement with the whole network of 10.00% on these samples in class class1."
    )
    assert certify_path(worse, Target(max_disagreement=0.08), STATIC, delta=0.1)[0] == 0  # over all it is 5 %
    certificate = Certificate(target.limits, 0.9, 1, 900, 0, 1, parts=3)
    assert "another label than the whole network gives them in each of the 3 classes, by" in describe_promise(
        certificate, target
    )
    assert "gives them in the only class, by" in describe_promise(replace(certificate, parts=1), target)


def test_nothing_is_promised_of_a_class_or_group_whose_samples_all_choose():
    table = replace(classes([300, 300], [0, 3]), parts={"group": Parts(("a", "b", "c"), np.repeat([2, 0], 300))})
    step, why = certify_path(table, Target(max_disagreement=0.05, by="group"), STATIC, delta=0.1)
    assert step is None and "of group b no sample is there to test" in why


def test_the_search_and_the_figures_hold_every_class_to_the_limit():
    table, target = classes([300, 300], [0, 30]), Target(max_drop=0.07, by="class")
    taken = np.zeros(600, int)
    assert meets_limits(table, replace(target, by=None), taken) and not meets_limits(table, target, taken)
    assert find_thresholds(table, replace(target, by=None), margin=0.0) == ()
    assert find_thresholds(table, target, margin=0.0) is None
    contender = Contender(configuration=fake_configuration("fp32", 1), static=0, selecting=table, reporting=table)
    worst = predict_point(contender, (), target).worst
    assert [(part.name, part.of, part.samples, part.value) for part in worst] == [
        ("class1", 2, 300, 0.1),
        ("class0", 2, 300, 0.0),
    ]
    assert worst[0].interval[0] < 0.1 < worst[0].interval[1]
    same = replace(classes([300, 300], [0, 0]), is_reference=True)
    point = predict_point(replace(contender, reporting=same), (), target)
    assert point.drop_interval == (0.0, 0.0) and point.worst == ()  # nothing is uncertain of a network against itself


def test_thresholds_by_class_spare_the_class_that_loses():
    """One class is wrong early and the others are not: over all it hardly shows."""
    rng, n = np.random.default_rng(0), 2000
    label = rng.integers(10, size=n)
    right = np.ones((n, 2), bool)
    right[:, 0] = (label != 3) | (rng.random(n) < 0.5)
    score = np.stack([np.where(label == 3, 0.6, 0.8) + 0.1 * rng.random(n), np.ones(n)], 1).astype(np.float32)
    table = ExitTable(
        score=score,
        label=np.where(right, 0, 1),
        right=right,
        reference_right=right[:, 1],
        differs=(~right).astype(np.int8),
        costs=Costs((np.full(2, 1e-3), np.full(2, 2e-3))),
        parts={"class": Parts(tuple(map(str, range(10))), label)},
    )
    over_all = find_thresholds(table, Target(max_disagreement=0.1), margin=0.0)
    by_class = find_thresholds(table, Target(max_disagreement=0.1, by="class"), margin=0.0)
    assert over_all[0] < 0.6 < by_class[0] <= 0.8  # a class may miss its limit by a standard error: the test decides
    path = np.array([[2.0], [0.75], over_all], np.float32)
    assert certify_path(table, Target(max_disagreement=0.1, by="class"), path, delta=0.1)[0] == 1
    assert certify_path(table, Target(max_disagreement=0.1), path, delta=0.1)[0] == 2


@pytest.mark.parametrize("by", [None, "class"])
def test_the_figures_of_groups_are_corrected_for_the_choice(by):
    table = make_table(1200, 3)
    table = replace(table, groups=np.arange(1200) // 4, parts={"class": Parts(("a", "b"), np.arange(1200) // 4 % 2)})
    target = Target(max_drop=0.1, by=by)
    path = np.linspace([1.0, 1.0], [0.6, 0.6], 40).astype(np.float32)
    step, _ = certify_path(table, target, path, delta=0.1)
    contender = Contender(configuration=fake_configuration("fp32", 3), static=None, selecting=table, reporting=table)
    point = predict_point(contender, tuple(path[step].tolist()), target)
    corrected = correct(point, table, path, delta=0.1)
    assert (
        step
        and abs(corrected.choice_bias) < 0.02
        and corrected.drop == pytest.approx(point.drop + corrected.choice_bias)
    )


def test_a_target_by_class_is_none_without_it():
    target = Target(max_drop=0.01, max_latency_s=0.01, by="class")
    assert (
        target.describe_limits()
        == "an accuracy drop of at most 1.00% in every class and a mean latency of at most 10000 us"
    )
    assert b"by" not in msgspec.json.encode(
        Target(max_drop=0.01)
    )  # an offramp that does not know it reads this, and refuses:
    assert msgspec.json.decode(msgspec.json.encode(target))["by"] == "class"
    with pytest.raises(UsageError, match="Unknown by 'person'"):
        Target(max_drop=0.01, by="person")
    with pytest.raises(UsageError, match="needs a limit of what each class may lose"):
        Target(max_latency_s=0.01, by="class")
