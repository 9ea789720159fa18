"""Streams: order, counts and memory when inputs come faster than answers."""

import asyncio
import threading
from itertools import count

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.errors import DataError, UsageError
from offramp.runtime import Stream, load_uncalibrated, smooth_labels

POLICIES = ("drop_oldest", "drop_newest", "leave_earlier", "block")


@pytest.fixture
def net(dense):
    with load_uncalibrated(dense) as net:
        yield net


def inputs(n):
    """Return inputs that differ, so that an answer tells which of them it is for."""
    return np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)


def expect_sum(stats):
    assert stats.came == stats.answered + stats.dropped + stats.refused + stats.waiting


@pytest.mark.parametrize("when_full", POLICIES)
def test_a_source_that_does_not_outrun_the_network_is_answered_whole_and_in_order(net, when_full):
    x = inputs(20)
    with Stream(net, when_full=when_full, most_waiting=40) as stream:
        for one in x:
            assert stream.put(one)
        stream.end()
        replies = list(stream)
    assert [reply.number for reply in replies] == list(range(20))
    assert [reply.result.score for reply in replies] == [net(one).score for one in x]
    assert (stream.stats().answered, stream.stats().dropped, stream.stats().waiting) == (20, 0, 0)


@pytest.mark.parametrize(
    ("when_full", "kept"), [("drop_oldest", range(12, 20)), ("drop_newest", range(8)), ("leave_earlier", range(12, 20))]
)
def test_what_is_dropped_of_a_full_queue_is_as_stated_and_counted(net, when_full, kept):
    with Stream(net, when_full=when_full, most_waiting=8) as stream:
        taken = [stream.put(one) for one in inputs(20)]
        assert taken == ([True] * 8 + [False] * 12 if when_full == "drop_newest" else [True] * 20)
        stream.end()
        replies = list(stream)
    assert [reply.number for reply in replies] == list(kept)
    assert stream.stats().dropped == 12
    expect_sum(stream.stats())


def test_inputs_leave_at_the_first_exit_while_more_than_half_of_the_queue_is_full(net):
    with Stream(net, when_full="leave_earlier", most_waiting=8) as stream:
        for one in inputs(8):
            stream.put(one)
        stream.end()
        replies = list(stream)
    assert [reply.hurried for reply in replies] == [True] * 4 + [False] * 4
    assert [reply.result.exit for reply in replies] == [0] * 4 + [len(net.exits) - 1] * 4
    assert stream.stats().hurried == 4
    assert net.thresholds == (2.0,) * (len(net.exits) - 1)


def test_a_source_that_may_wait_is_read_no_further_than_the_queue_is_long(net):
    read = []

    def source():
        for number, one in zip(count(), inputs(50), strict=False):
            read.append(number)
            yield one

    with Stream(net, source(), when_full="block", most_waiting=3) as stream:
        for reply in stream:
            assert len(read) <= reply.number + 3 + 2  # those that wait, the one answered, the one in the source's hand
    assert stream.stats().answered == 50 and not stream.stats().dropped


def crowd(net, when_full, each, producers=10):
    """Let ten threads give inputs as fast as they can; return the stream and the numbers in the order of the answers."""
    x = inputs(producers)
    numbers = []
    with Stream(net, when_full=when_full, most_waiting=16) as stream:
        threads = [
            threading.Thread(target=lambda k=k: [stream.put(x[k]) for _ in range(each)]) for k in range(producers)
        ]
        for thread in threads:
            thread.start()
        ending = threading.Thread(target=lambda: [*(thread.join() for thread in threads), stream.end()])
        ending.start()
        for reply in stream:
            numbers.append(reply.number)
            assert len(stream._inputs) <= 16
        ending.join()
    return stream, numbers


@pytest.mark.parametrize("when_full", POLICIES)
def test_ten_producers_lose_nothing_that_is_not_counted(net, when_full):
    stream, numbers = crowd(net, when_full, each=100)
    stats = stream.stats()
    assert numbers == sorted(set(numbers)) and len(numbers) == stats.answered
    assert stats.came == 1000 and stats.waiting == 0 and (stats.dropped == 0 or when_full != "block")
    expect_sum(stats)


@pytest.mark.slow
@pytest.mark.parametrize("when_full", POLICIES)
def test_a_million_inputs_of_ten_producers(net, when_full):
    stream, numbers = crowd(net, when_full, each=100_000)
    assert stream.stats().came == 1_000_000 and numbers == sorted(set(numbers))
    expect_sum(stream.stats())


def test_what_an_input_waited_is_taken_from_its_deadline(net):
    x = inputs(2)
    with Stream(net, deadline_s=3600) as stream:
        stream.put(x[0])
        result = next(stream).result
        assert (result.cut, result.late, result.exit) == (False, False, len(net.exits) - 1)
    with Stream(net, deadline_s=1e-6) as stream:
        stream.put(x[1])
        result = next(stream).result
        assert (result.cut, result.late, result.exit) == (True, True, 0)


def test_inputs_are_copied_when_they_come(net):
    frame, second = inputs(2)
    expected = net(frame).score
    with Stream(net) as stream:
        stream.put(frame)
        frame[:] = second
        assert next(stream).result.score == expected


def test_an_input_is_taken_as_a_call_takes_it(net):
    masked = np.ma.masked_greater(inputs(1)[0], 0)
    with Stream(net) as stream:
        stream.put(masked)
        with pytest.raises(DataError, match="has masked values"):
            next(stream)


def test_a_list_of_the_arrays_of_several_inputs_is_copied(net):
    first, second = inputs(2)
    net._inputs = (net._inputs[0], replace(net._inputs[0], name="other"))
    with Stream(net) as stream:
        stream.put([first, second])
        ((_, _, kept),) = stream._inputs
    assert isinstance(kept, tuple) and [array.tolist() for array in kept] == [first.tolist(), second.tolist()]
    assert kept[0] is not first


def test_hurried_inputs_need_the_network(net):
    with Stream(net, when_full="leave_earlier") as stream:
        for one in inputs(8):
            stream.put(one)
        net.close()
        with pytest.raises(UsageError, match="closed"):
            next(stream)


def test_a_refused_input_raises_at_its_turn_and_the_stream_goes_on(net):
    x = inputs(3)
    x[1] = np.nan
    with Stream(net, iter(x), when_full="block") as stream:
        assert next(stream).number == 0
        with pytest.raises(DataError, match="NaN"):
            next(stream)
        assert [reply.number for reply in stream] == [2]
    assert stream.stats().refused == 1
    expect_sum(stream.stats())


def test_an_error_of_the_source_comes_after_its_inputs_and_once(net):
    def source():
        yield from inputs(2)
        raise OSError("the camera is gone")

    stream, numbers = Stream(net, source()), list[int]()
    with pytest.raises(OSError, match="camera"):
        numbers.extend(reply.number for reply in iter(lambda: next(stream), None))
    assert stream.stats().answered == 2 and list(stream) == []


def test_close_frees_whoever_waits_for_room(net):
    stream, taken = Stream(net, when_full="block", most_waiting=1), []

    def give():
        try:
            taken.append(stream.put(inputs(1)[0]))
        except UsageError:  # it came only after the end
            taken.append(False)

    assert stream.put(inputs(1)[0])
    thread = threading.Thread(target=give)
    thread.start()
    stream.close()
    thread.join()
    assert taken == [False]
    with pytest.raises(UsageError, match="ended"):
        stream.put(inputs(1)[0])
    assert net(inputs(1)[0]).label >= 0
    expect_sum(stream.stats())


@pytest.mark.parametrize("when_full", ["block", "drop_oldest"])
def test_an_asyncio_program_reads_a_source_and_is_answered_in_order(net, when_full):
    async def source():
        for one in inputs(30):
            yield one
            await asyncio.sleep(0)

    async def run():
        stream = Stream(net, source(), when_full=when_full, most_waiting=4)
        return [reply.number async for reply in stream], stream.stats()

    numbers, stats = asyncio.run(run())
    assert numbers == sorted(numbers) and len(numbers) == stats.answered
    assert stats.came == 30 and (stats.dropped == 0 or when_full != "block")
    expect_sum(stats)


def test_a_cancelled_wait_loses_no_answer(net):
    async def run():
        stream = Stream(net)
        impatient = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        impatient.cancel()
        for one in inputs(3):
            stream.put(one)
        numbers = list[int]()
        while len(numbers) < 3:
            turn = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            if turn.cancel() and not turn.done():
                try:
                    numbers.append((await turn).number)
                except asyncio.CancelledError:
                    numbers.append((await stream.__anext__()).number)
        return numbers

    assert asyncio.run(run()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"when_full": "wait"}, "drop_oldest"),
        ({"most_waiting": 0}, "most_waiting"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"window": 0}, "window"),
        ({"window": 3, "lead": 4}, "lead is a whole number from 1 to 3"),
    ],
)
def test_arguments_that_make_no_sense_are_named(net, how, words):
    with pytest.raises(UsageError, match=words):
        Stream(net, **how)


def test_a_new_label_holds_when_it_leads():
    steady = [0] * 5 + [1] * 5
    assert smooth_labels(steady, window=5).tolist() == [0] * 7 + [1] * 3  # from the third of the new ones on
    assert smooth_labels(steady, window=5, lead=5).tolist() == [0] * 9 + [1]
    assert smooth_labels([0, 1, 0, 1, 0, 1], window=4, lead=2).tolist() == [0] * 6
    assert smooth_labels([4, 2, 3], window=1).tolist() == [4, 2, 3]


def test_replies_carry_the_smoothed_label(net):
    x = inputs(30)
    with Stream(net, iter(x), when_full="block", window=5) as stream:
        smoothed = [reply.label for reply in stream]
    assert smoothed == smooth_labels([net(one).label for one in x], window=5).tolist()
