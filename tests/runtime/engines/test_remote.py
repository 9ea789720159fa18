"""A stage on a server gives the answers that it gives here, or an error, in time."""

import gc
import threading
import urllib.request
import warnings

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target, open_bundle, read_calibration, write_calibration
from offramp.calibrate.measure.link import link_bytes, read_link_price
from offramp.calibrate.measure.tables import Costs
from offramp.errors import MissingError, UnsupportedError, UsageError
from offramp.runtime import load, load_uncalibrated, verify
from offramp.runtime.chain.samples import check_samples
from offramp.runtime.engines.remote import _shrink
from offramp.runtime.protocol import write_response
from offramp.serve import open_model
from offramp.tests.fakes.inference_server import FakeLink, FakeServer
from offramp.tests.helpers.command import clear_message, offramp
from offramp.tests.helpers.servers import running
from offramp.tests.zoo.dense import forge

THRESHOLDS = (0.7, 0.8)


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def served(shared_dense):
    """The address of the dense network on a server, each stage a model of its own."""
    with running(open_model(shared_dense, "dense", stages=True)) as (port, _):
        yield f"http://127.0.0.1:{port}/dense"


def load_far(bundle, address, **options):
    """Load the dense network, its last stage on a server."""
    net = load_uncalibrated(bundle, ["cpu", "cpu", address], **options)
    net.thresholds = THRESHOLDS
    return net


@pytest.mark.parametrize(("form", "most"), [("", 0.0), ("?as=float16", 2e-3), ("?as=int8", 3e-2)])
def test_a_stage_on_a_server_answers_as_one_that_is_here(shared_dense, served, form, most):
    x = draw(120)
    with (
        load_uncalibrated(shared_dense, logits=True) as near,
        load_far(shared_dense, served + form, logits=True) as far,
    ):
        near.thresholds = THRESHOLDS
        right, found = [near(sample) for sample in x], [far(sample) for sample in x]
        assert {result.exit for result in right} == {0, 1, 2}
        assert [result.exit for result in found] == [result.exit for result in right]
        for ours, theirs in zip(right, found, strict=True):
            assert abs(ours.score - theirs.score) <= most
            assert np.abs(ours.logits - theirs.logits).max() <= 30 * most
            assert ours.label == theirs.label or (ours.exit == 2 and most > 0)
        assert np.abs(far.every_exit(x, size=8).score - near.every_exit(x).score).max() <= max(most, 1e-6)
        stage = far.provenance.stages[2]
        assert stage.device == served + form and stage.runs_on.startswith(served.replace("/dense", "/v2/models/dense"))
        assert stage.half == bool(form)
    assert all(each.passed for each in verify(shared_dense, ["cpu", "cpu", served + form]))


def test_clones_speak_to_the_server_at_the_same_time(shared_dense, served):
    x = draw(40)
    with load_far(shared_dense, served) as net:
        right, found = [net(sample) for sample in x], {}
        clones = [net.clone() for _ in range(3)]

        def run(k):
            found[k] = [clones[k](sample) for sample in x]

        threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for k in range(3):
        assert [(r.label, r.exit, r.score) for r in found[k]] == [(r.label, r.exit, r.score) for r in right]


def test_a_network_that_is_closed_leaves_no_connection_open(shared_dense, served):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        with load_far(shared_dense, served) as net:
            assert 2 in [net(sample).exit for sample in draw(40)]
        gc.collect()
    assert not told


def test_a_server_of_another_bundle_is_refused(shared_dense, served, dense):
    forge(dense, "stage2.onnx", lambda path: path.write_bytes(path.read_bytes() + b"\x32\x01x"))  # a note in the file
    with pytest.raises(UnsupportedError, match="is made of other files than stage2.onnx: serve the same bundle there"):
        load_far(open_bundle(dense.path), served)


def test_a_server_without_stages_is_told_from_one_that_is_gone(shared_dense):
    with (
        running(open_model(shared_dense, "dense")) as (port, _),
        pytest.raises(MissingError, match=r"answers 404.*There is no model dense:stage2.*offramp serve --stages\)\?$"),
    ):
        load_far(shared_dense, f"http://127.0.0.1:{port}/dense")


@pytest.mark.parametrize("body", [b"<html>", b'{"platform": "\xff"}', b'{"x":' * 100_000, b"[]"])
def test_what_is_no_server_of_the_protocol_is_refused(shared_dense, body):
    server = FakeServer(lambda path, sent: (200, {}, body))
    try:
        with pytest.raises(UnsupportedError, match="is no server of the Open Inference Protocol"):
            load_far(shared_dense, f"http://127.0.0.1:{server.port}/dense")
    finally:
        server.close()


def test_a_server_that_is_gone_is_named_and_one_that_is_back_answers(shared_dense):
    x = draw(40)
    with running(open_model(shared_dense, "dense", stages=True)) as (port, _):
        net = load_far(shared_dense, f"http://127.0.0.1:{port}/dense?timeout_s=60")
        right = [net(sample) for sample in x]
    late = [k for k, result in enumerate(right) if result.exit == 2]
    with pytest.raises(MissingError, match=r"127\.0\.0\.1:\d+/dense failed: .*refused.* Does the server run") as caught:
        net(x[late[0]])
    assert caught.value.stage == "stage2.onnx" and caught.value.device.startswith("http://127.0.0.1")
    assert net(x[next(k for k in range(40) if k not in late)]).exit < 2  # what needs no server goes on
    with running(open_model(shared_dense, "dense", stages=True), port=port):
        assert net(x[late[0]]).score == right[late[0]].score
    with pytest.raises(MissingError, match="refused"):
        load_far(shared_dense, f"http://127.0.0.1:{port}/dense")


def test_a_deadline_ends_the_wait_for_a_server_and_the_exit_before_answers(shared_dense, served):
    answers, waits = threading.Event(), threading.Event()
    net, server = through_fake(
        shared_dense, served, lambda path, body: (waits.set(), answers.wait(60), (500, {}, b""))[2]
    )
    sample = next(x for x in draw(40) if net_near(shared_dense)(x).exit == 2)
    net.stops_stages = True
    result = net(sample, deadline_s=1.0)
    assert (result.exit, result.cut) == (1, True) and waits.is_set()
    assert result.label == net_near(shared_dense, (0.0, 0.0), exits=1)(sample).label
    answers.set()
    server.close()


def net_near(bundle, thresholds=THRESHOLDS, exits=None):
    net = load_uncalibrated(bundle)
    net.thresholds = thresholds if exits is None else (2.0, 0.0)
    return net


def through_fake(bundle, served, handle, timeout_s=60):
    """Load the dense network through a fake server, which says of the model what the real one says."""
    with urllib.request.urlopen(served.replace("/dense", "/v2/models/dense:stage2")) as response:
        about = response.read()
    server = FakeServer(lambda path, body: (200, {}, about))
    net = load_far(bundle, f"http://127.0.0.1:{server.port}/dense?timeout_s={timeout_s}")
    server.handle = handle
    return net, server


GOOD = {"z2.score": np.full(1, 0.5, np.float32), "z2.label": np.full(1, 3, np.int64)}


def respond(outputs, **changes):
    message = write_response(outputs, model="dense:stage2", version="1", binary=list(outputs))
    return changes.get("status", 200), dict(message.headers) | changes.get("headers", {}), message.body


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: (500, {}, b'{"error": "no"}'), "it answers 500"),
        (lambda: (302, {"Location": "http://127.0.0.1:1/"}, b""), "it answers 302"),
        (lambda: (200, {}, b"<html>"), "its answer cannot be read"),
        (lambda: (200, {}, b"{}"), "its answer cannot be read"),
        (lambda: (200, {}, b'{"outputs": []}'), "its answer cannot be read"),
        (lambda: respond(GOOD, headers={"Inference-Header-Content-Length": "-4"}), "its answer cannot be read"),
        (lambda: respond(GOOD, headers={"Inference-Header-Content-Length": "many"}), "its answer cannot be read"),
        (lambda: respond({**GOOD, "z2.score": np.full(2, 0.5, np.float32)}), r"z2.score has the shape \[2\]"),
        (lambda: respond({**GOOD, "z2.score": np.full(1, 0.5)}), "z2.score is FP64"),
        (lambda: (200, {}, bytes(1 << 20)), "its answer is larger than"),
        (
            lambda: (200, {"Content-Length": "10", "Connection": "close"}, b"{}"),
            "its answer cannot be read: .*`outputs`\\.$",
        ),
    ],
)
def test_a_server_that_answers_something_else_is_an_error_never_an_answer(shared_dense, served, answer, words):
    net, server = through_fake(shared_dense, served, lambda path, body: answer())
    sample = next(x for x in draw(40) if net_near(shared_dense)(x).exit == 2)
    try:
        with pytest.raises(MissingError, match=words):
            net(sample)
        server.handle = lambda path, body: respond(GOOD)
        assert (net(sample).label, net(sample).score) == (3, 0.5)
    finally:
        server.close()


def test_scores_that_no_exit_gives_are_refused_from_a_server_too(shared_dense, served):
    net, server = through_fake(
        shared_dense, served, lambda path, body: respond({**GOOD, "z2.label": np.full(1, 99, np.int64)})
    )
    sample = next(x for x in draw(40) if net_near(shared_dense)(x).exit == 2)
    with pytest.raises(Exception, match="99"):
        net(sample)
    server.close()


def test_over_a_link_that_stalls_and_breaks_each_call_is_right_or_an_error(shared_dense, served):
    link = FakeLink(int(served.split(":")[2].split("/")[0]), cut=0.1, stall=0.03)
    x, near = draw(150), net_near(shared_dense)
    while True:
        try:
            net = load_far(shared_dense, f"http://127.0.0.1:{link.port}/dense?timeout_s=0.3")
            break
        except MissingError:
            continue
    failed = 0
    for sample in x:
        right = near(sample)
        try:
            found = net(sample)
        except MissingError:
            failed += 1
        else:
            assert (found.exit, found.label, found.score) == (right.exit, right.label, right.score)
    assert failed  # how many depends on the machine, too
    link.close()


@pytest.mark.parametrize(
    "address",
    [
        "http:",
        "http://",
        "http://box",
        "http://box:8000",
        "http://box:8000/",
        "http://box:many/dense",
        "http://box:8000/dense?as=int4",
        "http://box:8000/dense?as",
        "http://box:8000/dense?timeout_s=0",
        "http://box:8000/dense?timeout_s=nan",
        "http://box:8000/dense?color=red",
        "http://user:password@box:8000/dense",
        "http://[box/dense",
    ],
)
def test_what_is_no_address_is_refused(shared_dense, address):
    with pytest.raises(MissingError, match="is no address of a server's model. One is written http://box:8000/digits"):
        load_far(shared_dense, address)


def test_a_calibration_sends_nothing_to_a_server_that_the_caller_did_not_name(calibrated, served):
    path = calibrated.calibrations()[0]
    calibration = read_calibration(path)
    places = ("cpu", "cpu", served)
    points = {name: replace(point, placement=places, static=None) for name, point in calibration.points.items()}
    write_calibration(path, replace(calibration, points=points))
    with pytest.raises(UsageError, match="places a stage on http.*, where inputs would be sent"):
        load(calibrated.path)
    with load(calibrated.path, places) as net:
        assert net.provenance.devices == places


@pytest.mark.parametrize("prefix", ["", "remote:"])
def test_nor_does_any_other_entry_of_a_calibration(calibrated, prefix):
    path, address = calibrated.calibrations()[0], f"{prefix}http://127.0.0.1:9/dense"
    calibration = read_calibration(path)
    points = {name: replace(point, placement=(address,) * 3, static=None) for name, point in calibration.points.items()}
    chains = tuple(replace(chain, placement=(address,) * 3) for chain in calibration.chains)
    write_calibration(path, replace(calibration, chains=chains))
    for command in ("verify", "build"):
        clear_message(offramp(command, calibrated.path), 2, "where inputs would be sent")
    write_calibration(path, replace(calibration, points=points))
    with pytest.raises(UsageError, match="where inputs would be sent"):
        load(calibrated.path)


@pytest.mark.parametrize(
    ("form", "values", "dtype"),
    [
        ("float16", [65504, -1], "float16"),
        ("float16", [7e4, 1], "float32"),
        ("float16", [-np.inf, 1], "float32"),
        ("int8", [3e38, 0], "int8"),
        ("int8", [1e-45, 0], "int8"),
        ("int8", [np.inf, 1], "float32"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_a_smaller_form_cannot_hold_goes_as_it_is(form, values, dtype):
    array = np.array([values], np.float32)
    sent, notes = _shrink({"a": array}, form)
    assert sent["a"].dtype == dtype
    assert np.allclose(sent["a"] * np.float32(notes.get("step.a", 1.0)), array, rtol=1e-2, atol=1e-38)


def test_only_http_is_spoken(shared_dense):
    with pytest.raises(MissingError, match="is no address of a server's model"):
        load_far(shared_dense, "remote:ftp://127.0.0.1:9/dense")


def test_a_token_is_shown_to_a_server_that_wants_one(shared_dense, monkeypatch):
    with running(open_model(shared_dense, "dense", stages=True), token="a secret of enough length") as (port, _):
        address = f"http://127.0.0.1:{port}/dense"
        with pytest.raises(MissingError, match="it answers 401.*goes into the variable OFFRAMP_SERVE_TOKEN"):
            load_far(shared_dense, address)
        monkeypatch.setenv("OFFRAMP_SERVE_TOKEN", "a secret of enough length")
        assert load_far(shared_dense, address)(draw(1)[0]).score > 0


def test_bytes_of_the_link_are_part_of_an_energy_at_the_price_that_the_target_names(shared_dense, served):
    with load_far(shared_dense, served) as net, load_uncalibrated(shared_dense) as near:
        samples = check_samples(draw(2), net._inputs)
        first, second, third = link_bytes(net, samples)
        assert first == second == 0 and 300 < third < 3000
        assert (link_bytes(near, samples) == 0).all()
    costs = Costs((np.full(4, 0.001), np.full(4, 0.002)), power_w=np.array([2.0, 2.0])).with_link(
        1e-6 * np.array([0, 500])
    )
    assert np.allclose(costs.energy_j, [0.002, 0.0045])
    with pytest.raises(UsageError, match="link_j_per_byte is part of an energy"):
        Target(max_drop=0.1, link_j_per_byte=1e-7)
    with pytest.raises(UsageError, match="a fact of the link"):
        read_link_price([Target(max_energy_j=1, link_j_per_byte=1e-7), Target(max_energy_j=1)])
    assert read_link_price([Target(max_drop=0.1), Target(max_energy_j=1, link_j_per_byte=1e-7)]) == 1e-7
