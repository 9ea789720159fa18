"""Answers given again: when they are, that they are marked and counted, and that no others are."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Reuse, read_calibration, write_calibration
from offramp.errors import DataError, OfframpError, UsageError
from offramp.runtime import Stream, load, load_static, load_uncalibrated
from offramp.runtime.chain.reuse import Reuser

NEAR = Reuse(difference=0.1, most_in_row=3)


@pytest.fixture
def net(dense):
    with load_uncalibrated(dense, logits=True) as net:
        yield net


def scene(seed=0):
    return np.random.default_rng(seed).standard_normal(16).astype(np.float32)


def nearly(x, seed=1, by=0.01):
    return x + np.float32(by) * scene(seed)


def answer(net, inputs, reuse=NEAR, **options):
    with Stream(net, iter(inputs), when_full="block", reuse=reuse, **options) as stream:
        return [reply.result for reply in stream], stream.stats()


def test_a_still_scene_gets_the_last_answer_so_often_in_a_row_and_no_more(net):
    inputs = [nearly(scene(), seed) for seed in range(9)]
    results, stats = answer(net, inputs)
    assert [result.reused for result in results] == [False, True, True, True, False, True, True, True, False]
    assert [result.score for result in results[1:4]] == [results[0].score] * 3 == [net(inputs[0]).score] * 3
    assert results[4].score == net(inputs[4]).score
    assert (stats.answered, stats.reused) == (9, 6)


def test_a_slow_drift_is_compared_with_the_sample_that_was_answered_and_not_with_the_one_before(net):
    first, last = scene(0), scene(5)
    inputs = [first + (last - first) * np.float32(k / 100) for k in range(101)]
    results, _ = answer(net, inputs, Reuse(difference=0.2, most_in_row=1000))
    ran = [k for k, result in enumerate(results) if not result.reused]
    assert 3 < len(ran) < 40
    features = np.tanh(np.array(inputs) @ weights_of(net))
    for k, result in enumerate(results):
        kept = features[max(each for each in ran if each <= k)]
        change = np.linalg.norm(features[k] - kept) / np.linalg.norm(kept)
        assert change < 0.2001 and (result.reused or k in ran)
    assert all(not results[k].reused for k in ran)


def weights_of(net):
    """Return the weights of the dense network's first layer, (16, 16), by what zeros and ones make of them."""
    net.thresholds = (2.0, 2.0)
    reuser, rows = Reuser(net, Reuse(difference=0.0)), []
    for one in np.eye(16, dtype=np.float32) * np.float32(1e-3):
        reuser(one)
        rows.append(np.arctanh(reuser._features[0][1].reshape(-1)) * 1e3)
    return np.array(rows)


def test_a_cut_is_answered_at_once(net):
    results, stats = answer(net, [scene(k) for k in range(10)])
    assert stats.reused == 0 and [result.score for result in results] == [net(scene(k)).score for k in range(10)]


def test_an_input_that_the_first_exit_is_sure_of_gets_its_own_answer(net):
    inputs = [nearly(scene(), seed) for seed in range(4)]
    net.thresholds = (0.0, 2.0)
    results, stats = answer(net, inputs)
    assert stats.reused == 0 and [result.score for result in results] == [net(x).score for x in inputs]
    assert {result.exit for result in results} == {0}
    net.thresholds = (net(inputs[0]).score, 2.0)  # the first leaves there; one that is less sure is given its answer
    results, _ = answer(net, inputs)
    assert [result.reused for result in results] == [net(x).exit > 0 for x in inputs]
    assert {result.exit for result in results} == {0} and any(result.reused for result in results)


def test_an_answer_that_was_cut_is_not_given_again(net):
    reuser = Reuser(net, NEAR)
    assert reuser(scene(), 1e-9).cut
    whole = reuser(nearly(scene()))
    assert not whole.reused and whole.exit == 2
    assert reuser(scene(), 1e-9).reused  # the answer of the last exit is there, and is no worse for the deadline
    other = reuser(scene(3), 1e-9)
    assert other.cut and reuser(nearly(scene(), 2)).score == whole.score


def test_a_hurried_answer_is_not_given_again_nor_are_answers_given_in_its_place(net):
    with Stream(net, when_full="leave_earlier", most_waiting=8, reuse=NEAR) as stream:
        for seed in range(8):
            stream.put(nearly(scene(), seed))
        stream.end()
        replies = list(stream)
    assert [reply.hurried for reply in replies] == [True] * 4 + [False] * 4
    assert [reply.result.reused for reply in replies] == [False] * 5 + [True] * 3
    assert replies[5].result.exit == 2


def test_a_refused_input_changes_nothing(net):
    reuser = Reuser(net, NEAR)
    first = reuser(scene())
    with pytest.raises(DataError, match="NaN"):
        reuser(np.full(16, np.nan, np.float32))
    assert reuser(nearly(scene())).score == first.score


def test_an_answer_of_a_call_that_failed_or_was_answered_elsewhere_is_not_given_again(net):
    memory = net._setup.memory

    def fail():
        raise RuntimeError("the engine is gone")

    class Elsewhere(type(net)):
        """Answers faults by another network, as one may that wraps calls."""

        def __call__(self, x, deadline_s=None):
            try:
                return super().__call__(x, deadline_s)
            except OfframpError:
                return replace(stand_in(x), score=0.5)

    stand_in, reuser = net.clone(), Reuser(net, NEAR)
    net.__class__ = Elsewhere
    run, *rest = memory.heads[1]
    first = reuser(scene())
    memory.heads[1] = (fail, *rest)
    assert reuser(scene(3)).score == 0.5  # it fails, and is answered elsewhere
    assert reuser(nearly(scene())).score == first.score  # nothing fails where no later stage runs
    memory.heads[1] = (run, *rest)
    last = reuser(nearly(scene(3)))
    assert not last.reused and last.score == net(nearly(scene(3))).score


def test_whoever_writes_into_an_answer_does_not_change_the_next(net):
    reuser = Reuser(net, NEAR)
    first = reuser(scene())
    expected = first.logits.copy()
    first.logits[:] = 0
    again = reuser(nearly(scene()))
    np.testing.assert_array_equal(again.logits, expected)
    again.logits[:] = 0
    np.testing.assert_array_equal(reuser(nearly(scene(), 2)).logits, expected)


def test_a_late_answer_is_marked_though_it_is_an_old_one(net):
    reuser = Reuser(net, NEAR)
    assert not reuser(scene(), 100.0).late
    again = reuser(nearly(scene()), 1e-9)
    assert again.reused and again.late and not again.cut


def test_the_networks_statistics_count_no_answer_that_was_given_again(net):
    answer(net, [nearly(scene(), seed) for seed in range(8)])
    assert net.stats().inferences == 2


@pytest.fixture
def ruled(calibrated):
    """A calibrated bundle with a rule at its point `default`, and another point without."""
    path = calibrated.calibrations()[0]
    found = read_calibration(path)
    never = replace(found.point, thresholds=(2.0, 2.0), reuse=replace(NEAR, most_in_row=100))
    found = replace(found, points={"still": never, "other": replace(never, thresholds=(2.0, 1.0), reuse=None)})
    write_calibration(path, found)
    assert read_calibration(path).point.reuse == never.reuse
    return calibrated


def test_the_rule_is_that_of_the_point_in_use(ruled):
    with load(ruled) as net, Stream(net, reuse=True) as stream:

        def ask(seed):
            stream.put(nearly(scene(), seed))
            return next(stream).result.reused

        assert [ask(seed) for seed in range(3)] == [False, True, True]
        net.use("other")
        assert [ask(seed) for seed in range(3)] == [False, False, False]
        net.use("still")
        assert [ask(seed) for seed in range(3)] == [False, True, True]
        net.thresholds = (2.0, 0.999)  # by hand: no rule was made for that
        assert [ask(seed) for seed in range(2)] == [False, False]


def test_a_stream_says_why_it_cannot_give_answers_again(dense, calibrated):
    with load_uncalibrated(dense) as net:
        with pytest.raises(UsageError, match="No operating point .* offramp reuse"):
            Stream(net, reuse=True)
        with pytest.raises(UsageError, match="reuse is True, False or a Reuse"):
            Stream(net, reuse=0.1)
    for values in ({"difference": -1.0}, {"difference": float("nan")}, {"difference": 0.1, "most_in_row": 0}):
        with pytest.raises(UsageError, match="A rule for reuse has"):
            Reuse(**values)
    with pytest.raises(UsageError, match="hands nothing on"):
        Stream(load_static(dense), reuse=NEAR)


def test_a_sequence_of_another_length_is_another_scene(zoo_sequences):
    with load_uncalibrated(zoo_sequences) as net:
        x = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
        results, _ = answer(net, [x, x, x[:7], x[:7], x])
    assert [result.reused for result in results] == [False, True, False, True, False]


@pytest.fixture
def zoo_sequences(tmp_path):
    from offramp.export import export
    from offramp.tests.zoo.dense import write_sequences

    example = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    return export(write_sequences(tmp_path / "net.onnx"), example, tmp_path / "net.offramp")
