"""Answers of exits that differ in their shapes, and what holds of a queue that nobody waits for."""

import asyncio
import shutil

import numpy as np
import pytest

from offramp.bundle import Tensor, pack
from offramp.errors import DataError
from offramp.runtime import Result, load_uncalibrated
from offramp.runtime.chain.samples import Samples
from offramp.runtime.protocol import read_request, write_request
from offramp.serve import ServedModel, open_model
from offramp.serve.models import _finish, _take_results
from offramp.serve.tasks import ServedTensors, Task
from offramp.serve.workers import Workers
from offramp.tests.helpers.bundles import ARCHIVE


def make_task(model, rows=2, **options):
    sent = read_request(*write_request({"x": np.zeros((rows, 16), np.float32)}, **options))
    return model.read(sent, 100)


def test_the_name_is_that_of_the_folder_or_file_or_of_the_link_to_it(tmp_path, monkeypatch):
    own = shutil.copytree(ARCHIVE, tmp_path / "dense.offramp")  # which is locked while it is packed
    packed = pack(own, tmp_path / "digits.offramp.zip").path
    (tmp_path / "current").symlink_to(packed)
    assert open_model(packed, joins=False).name == "digits"
    assert open_model(tmp_path / "current", joins=False).name == "current"
    monkeypatch.chdir(ARCHIVE)
    assert open_model(".", joins=False).name == ARCHIVE.name.removesuffix(".offramp")


def test_parts_of_other_shapes_are_refused_where_they_are_asked_for():
    model = ServedModel("dense", load_uncalibrated(ARCHIVE))
    values = _take_results([Result(-1, 0.5, k, 0.1, answer={"map": np.ones((2 + k, 3))}) for k in (0, 1)])
    task = make_task(model)
    assert set(_finish(values, task)[0]) == {"label", "score", "exit"}
    task.wanted = ("map",)
    with pytest.raises(DataError, match="one sample in each"):
        _finish(values, task)
    same = _take_results([Result(-1, 0.5, 0, 0.1, answer={"map": np.ones((2, 3))})] * 2)
    assert _finish(same, task)[0]["map"].shape == (2, 2, 3)


def test_inputs_of_several_samples_are_refused_unless_they_are_as_many():
    class Pair(ServedTensors):
        inputs = tuple(Tensor(name=name, dtype="float32", shape=(None, 2)) for name in "ab")
        outputs = usual = ()

        def make_task(self, arrays, request):
            return Task(Samples(tuple(arrays.values())), request)

        def start(self, *, is_first):
            raise AssertionError("no request comes so far")

    def make(a, b):
        arrays = {"a": np.ones((a, 2), np.float32), "b": np.ones((b, 2), np.float32)}
        return Pair().read(read_request(*write_request(arrays)), 9)

    assert make(3, 3).count == 3
    with pytest.raises(DataError, match="b has 1 samples, and another input has more or fewer"):
        make(3, 1)


def test_what_nobody_waits_for_is_not_answered_and_a_long_request_goes_alone():
    model = ServedModel("dense", load_uncalibrated(ARCHIVE), joins=True)
    workers = Workers(model, 1)
    tasks = [make_task(model, rows) for rows in (1, 1, 1, 15, 16, 1)]
    for task in tasks:
        workers.put(task)
    workers.drop(tasks[0])
    workers.drop(tasks[0])
    assert len(workers._tasks) == 5
    assert [[task.count for task in workers._take()] for _ in range(4)] == [[1, 1], [15], [16], [1]]
    loop = asyncio.new_event_loop()
    workers.start(loop)
    workers.stop(60.0)
    loop.close()


@pytest.mark.parametrize("number", [10**400, 10**17])
def test_numbers_that_no_float_holds_are_no_fault_of_the_server(number):
    network = open_model(ARCHIVE, "dense", joins=False, stages=True)
    stage = network.stages[1]
    head = '{"inputs": [{"name": "%s", "datatype": "%s", "shape": [1, 16], "data": [%s]}], "parameters": {"%s": %d}}'
    values = ",".join("1" * 16)
    assert network.read(read_request((head % ("x", "FP32", values, "deadline_s", number)).encode()), 1).end_s < 1e10
    sent = read_request((head % ("a0", "INT8", values, "step.a0", number**3)).encode())
    with pytest.raises(DataError, match=r"step.a0 is the value of 1, above 0 and at most 2.68e\+36"):
        stage.read(sent, 1)
