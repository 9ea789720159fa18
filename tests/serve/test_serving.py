"""The server with the client that the protocol's authors wrote, and with clients that are wrong, slow or many."""

import json
import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton

from offramp.errors import DataError, MissingError, UsageError
from offramp.runtime import load_uncalibrated
from offramp.runtime.protocol import JSON_LENGTH, read_request, read_response, write_request
from offramp.serve import Limits, ServedModel, make_app, open_model, open_socket
from offramp.serve import connections as connections_module
from offramp.serve.stages import ServedStage
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.servers import Held, ask, infer, running, wait_until
from offramp.tests.zoo import networks

NAMES = ("a", "b", "c", "d", "e")


def load_chain():
    """Return the archived network with thresholds by which samples leave at every exit."""
    net = load_uncalibrated(ARCHIVE, logits=True)
    scores = net.every_exit(X).score
    net.thresholds = np.quantile(scores, 0.6, axis=0)[:-1]
    return net


def serve_chain(**options):
    return ServedModel("dense", load_chain(), class_names=NAMES, **options)


X = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    return load_chain()


@pytest.fixture(scope="module")
def port():
    model = serve_chain(joins=True)
    with running(model, limits=Limits(samples=40, body_bytes=40_000)) as (port, _):
        yield port


@pytest.fixture(scope="module")
def client(port):
    return triton.InferenceServerClient(f"127.0.0.1:{port}")


def sent(x, binary=True, name="x"):
    return [triton.InferInput(name, x.shape, "FP32").set_data_from_numpy(x, binary_data=binary)]


def test_tritons_client_finds_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("dense", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    about = client.get_model_metadata("dense")
    assert about["versions"] == ["1"] and about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert [output["name"] for output in about["outputs"]] == ["label", "score", "exit", "logits", "cut", "late"]
    assert about["parameters"]["class_names"] == list(NAMES) and len(about["parameters"]["exits"]) == 3


@pytest.mark.parametrize("binary", [True, False])
def test_answers_are_those_of_the_runtime(client, net, binary):
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "score", "exit", "logits")]
    expected = net.batch(X)
    assert set(expected.exit.tolist()) == {0, 1, 2}
    for first, count in ((0, 40), (0, 1), (1, 1), (2, 5)):
        part = slice(first, first + count)
        result = client.infer("dense", sent(X[part], binary), outputs=asked, request_id="7")
        assert result.get_response()["id"] == "7"
        for name in ("label", "exit"):
            assert (result.as_numpy(name) == getattr(expected, name)[part]).all()
        for name in ("score", "logits"):
            np.testing.assert_allclose(result.as_numpy(name), getattr(expected, name)[part], rtol=1e-5, atol=1e-6)


def test_without_names_a_request_gets_label_score_and_exit(client, net):
    response = client.infer("dense", sent(X[:1]), model_version="1").get_response()
    assert [output["name"] for output in response["outputs"]] == ["label", "score", "exit"]
    assert response["model_name"] == "dense" and response["model_version"] == "1" and "id" not in response
    one = net(X[0])
    assert response["parameters"] == {"exit": one.exit, "score": one.score}


def test_parameters_say_how_deep_and_how_long(client, net):
    def run(**parameters):
        asked = [triton.InferRequestedOutput(name) for name in ("exit", "cut", "late")]
        result = client.infer("dense", sent(X), outputs=asked, parameters=parameters)
        return result.as_numpy("exit"), result.as_numpy("cut"), result.get_response().get("parameters", {})

    assert set(run(exit=0)[0]) == {0} and set(run(score=2.0)[0]) == {2} and set(run(score=2, exit=1)[0]) == {1}
    assert set(run(score=0)[0]) == {0} and max(run(exit=1)[0]) == 1
    assert set(run(exit=0, camera="door")[0]) == {0}  # a client's own parameter is passed over
    exit_, cut, notes = run(deadline_s=1e-6)
    assert set(exit_) == {0} and cut.any() and notes == {"cut": True, "late": True}
    exit_, cut, notes = run(deadline_s=1000.0)
    assert (exit_ == net.batch(X).exit).all() and not cut.any() and notes == {"cut": False, "late": False}
    assert (run()[0] == exit_).all()  # and thresholds are what they were


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": {"deadline_s": 0}}, "deadline_s"),
        ({"parameters": {"deadline_s": "1"}}, "deadline_s"),
        ({"parameters": {"exit": 0.5}}, "exit"),
        ({"parameters": {"exit": True}}, "exit"),
        ({"parameters": {"score": -1}}, "score"),
        ({"parameters": {"deadline": 0.01}}, "Did you mean 'deadline_s'"),
        ({"inputs": []}, "x is missing"),
        ({"inputs": 5}, "inputs"),
        ({"outputs": [{"name": "lable"}]}, "label"),
        ({"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "classification"),
        ({"name": "y"}, "Unknown input"),
        ({"datatype": "FP64"}, "FP32"),
        ({"shape": [1, 4, 4]}, "shape"),
        ({"shape": [16]}, "shape"),
        ({"shape": []}, "shape"),
        ({"shape": [0, 16], "data": []}, "shape"),
        ({"shape": [41, 16], "data": [0.5] * 41 * 16}, "40 samples"),
        ({"shape": [10**18, 16]}, "samples"),
        ({"data": [0.5] * 15}, "16 numbers"),
        ({"data": [0.5] * 15 + [1e39]}, "infinity"),
        ({"data": [0.5] * 15 + ["1"]}, "16 numbers"),
    ],
)
def test_a_wrong_request_is_refused_with_one_sentence(port, change, words):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
    tensor |= {key: value for key, value in change.items() if key in ("name", "datatype", "shape", "data")}
    request = {"inputs": [tensor]} | {key: value for key, value in change.items() if key not in tensor}
    status, _, body = ask(port, "POST", "/v2/models/dense/infer", json.dumps(request))
    (key,) = document = json.loads(body)
    assert status == 400 and key == "error" and words in document["error"] and len(document["error"]) < 600


NAN = write_request({"x": np.full((1, 16), np.nan, np.float32)})


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code"),
    [
        ("GET", "/v2/models/other", None, {}, 404),
        ("GET", "/v2/models/dense/versions/2", None, {}, 404),
        ("GET", "/v2/models/dense:stage0", None, {}, 404),
        ("GET", "/v3", None, {}, 404),
        ("DELETE", "/v2/models/dense", None, {}, 405),
        ("GET", "/v2/models/dense/infer", None, {}, 405),
        ("POST", "/v2/models/dense/infer", b"{", {}, 400),
        ("POST", "/v2/models/dense/infer", b"", {}, 400),
        ("POST", "/v2/models/dense/infer", *NAN, 400),
        ("POST", "/v2/models/dense/infer", b"{}", {JSON_LENGTH: "-1"}, 400),
        ("POST", "/v2/models/dense/infer", b"{}", {JSON_LENGTH: "3"}, 400),
        ("POST", "/v2/models/dense/infer", b"{}", {"Content-Encoding": "gzip"}, 415),
        ("POST", "/v2/models/dense/infer", b" " * 40_001, {}, 413),
        ("POST", "/v2/models/dense/infer", iter([b" " * 1000] * 41), {}, 413),
        ("POST", "/v2/models/dense/infer", iter([b" " * 1000] * 200), {}, 413),
    ],
)
def test_what_cannot_be_answered_has_its_code(port, method, path, body, headers, code):
    if not isinstance(headers, dict):  # how long the JSON is
        headers = {JSON_LENGTH: str(headers)}
    status, sent_back, answer = ask(port, method, path, body, headers)
    assert status == code and list(json.loads(answer)) == ["error"]
    assert (status == 405) == ("Allow" in sent_back)


def test_a_body_said_to_be_too_long_is_refused_before_it_is_there(port):
    head = f"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {10**12}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), 60) as raw:
        raw.sendall(head + b" " * 90_000)
        assert b"413" in raw.makefile("rb").readline()


def test_a_head_that_is_too_long_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), 60) as raw:
        raw.sendall(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 40_000)
        assert b"400" in raw.makefile("rb").readline()


def test_stages_hand_on_what_crosses_and_end_where_the_whole_network_does(net):
    with running(open_model(ARCHIVE, "dense", stages=True, joins=False)) as (port, _):
        values = {"x": X}
        for k in range(3):
            path = f"/v2/models/dense:stage{k}"
            about = json.loads(ask(port, "GET", path)[2])
            message = write_request({tensor["name"]: values[tensor["name"]] for tensor in about["inputs"]})
            status, headers, body = ask(port, "POST", f"{path}/infer", message.body, message.headers)
            assert status == 200
            outputs = read_response(body, int(headers[JSON_LENGTH])).outputs
            values |= {name: tensor.read() for name, tensor in outputs.items()}
            assert (values[f"z{k}.label"] == net.every_exit(X).label[:, k]).all()


def test_several_networks_answer_each_under_its_name(net):
    other = ServedModel("other", load_uncalibrated(ARCHIVE))
    with running([serve_chain(), other]) as (port, _):
        for name, expected in (("dense", net), ("other", other.net)):
            status, document = infer(port, name, {"x": X}, outputs=["exit"])
            assert status == 200 and document["model_name"] == name
            assert document["outputs"][0]["data"] == expected.batch(X).exit.tolist()


def test_a_stage_in_a_thread_of_its_own_that_its_engine_forbids_is_refused(net):
    known = {tensor.name: tensor for tensor in (*net._inputs, *net._stages[0].outputs)}
    stage = ServedStage("s", net._links[0], known, "")
    stage._compiled = type("One", (), {"clone": lambda self: None})()
    with pytest.raises(UsageError, match="one worker"):
        stage.start(is_first=False)


def test_requests_that_wait_are_answered_together_and_a_wrong_one_alone(net):
    model = serve_chain(joins=True)
    held = Held(model)
    with running(model, workers=1) as (port, _), ThreadPoolExecutor(12) as pool:
        first = pool.submit(infer, port, "dense", {"x": X[:1]})
        assert held.started.wait(60)
        app_waits = [pool.submit(infer, port, "dense", {"x": X[k : k + 1]}) for k in range(10)]
        with_deadline = pool.submit(infer, port, "dense", {"x": X[:1]}, parameters={"deadline_s": 100.0})
        wait_until(lambda: b"offramp_serve_under_way 12.0" in ask(port, "GET", "/metrics")[2])
        held.go.set()
        expected = net.batch(X[:10])
        for k, waiting in enumerate(app_waits):
            status, document = waiting.result()
            assert status == 200
            label, score, exit_ = (output["data"][0] for output in document["outputs"])
            assert (label, exit_) == (expected.label[k], expected.exit[k])
            assert score == pytest.approx(expected.score[k], rel=1e-5)
        assert first.result()[0] == with_deadline.result()[0] == 200
    assert held.groups[0] == 1 and sum(held.groups) == 12 and max(held.groups) > 1


def test_beyond_the_queue_and_beyond_the_time_requests_are_refused_and_the_rest_goes_on():
    model = serve_chain()
    held = Held(model)
    limits = Limits(waiting=2, timeout_s=3.0)
    with running(model, limits=limits) as (port, _), ThreadPoolExecutor(2) as pool:
        two = [pool.submit(infer, port, "dense", {"x": X[:1]}) for _ in range(2)]
        wait_until(lambda: b"offramp_serve_under_way 2.0" in ask(port, "GET", "/metrics")[2])
        message = write_request({"x": X[:1]})
        status, headers, _ = ask(port, "POST", "/v2/models/dense/infer", *message[:1], message.headers)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert [waiting.result()[0] for waiting in two] == [504, 504]
        held.go.set()
        wait_until(lambda: infer(port, "dense", {"x": X[:1]})[0] == 200)
        counts = ask(port, "GET", "/metrics")[2].decode()
        assert 'offramp_serve_requests_total{code="504",model="dense"} 2.0' in counts


def test_bodies_that_come_too_slowly_are_refused_and_hold_nothing_up():
    with running(serve_chain(), limits=Limits(timeout_s=2.0)) as (port, _):
        slow = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(20)]
        for raw in slow:
            raw.sendall(b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        assert infer(port, "dense", {"x": X[:1]})[0] == 200
        for raw in slow:
            with raw:
                assert b"408" in raw.makefile("rb").read()


def test_all_bodies_together_are_bounded():
    head = b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    with running(serve_chain(), limits=Limits(body_bytes=1000)) as (port, _):
        held = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(16)]
        for raw in held:
            raw.sendall(head + b" " * 990)
        wait_until(lambda: infer(port, "dense", {"x": X[:1]})[0] == 503)
        for raw in held:
            raw.close()
        wait_until(lambda: infer(port, "dense", {"x": X[:1]})[0] == 200)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_died_is_not_ready():
    model = serve_chain()
    model.start = lambda *, is_first: lambda tasks: sys.exit()
    with running(model, limits=Limits(timeout_s=0.2)) as (port, _):
        paths = ("/v2/health/ready", "/v2/models/dense/ready")
        assert [ask(port, "GET", path)[0] for path in paths] == [200, 200]
        assert infer(port, "dense", {"x": X[:1]})[0] == 504
        assert [ask(port, "GET", path)[0] for path in paths] == [503, 503] and ask(port, "GET", "/v2/health/live")[
            0
        ] == 200


def test_connections_without_a_request_are_closed(monkeypatch):
    monkeypatch.setattr(connections_module, "HEAD_S", 1.5)
    with running(serve_chain()) as (port, server):
        silent = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(20)]
        for raw in silent[10:]:
            raw.sendall(b"GET /v2 HTTP/1.1\r\nHost: ")
        asked = silent.pop()
        asked.sendall(b"a\r\n\r\n")
        assert b"200" in asked.makefile("rb").readline()
        for raw in (*silent, asked):
            with raw, pytest.raises(OSError):
                while raw.recv(10_000):
                    pass
                raise OSError  # it was closed in order
        wait_until(lambda: not server.server_state.connections)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr(connections_module, "READ_S", 0.3)
    with running(serve_chain(), limits=Limits(samples=10**6, body_bytes=2**26)) as (port, server):
        message = write_request(
            {"x": np.zeros((100_000, 16), np.float32)}, outputs=["logits", "label", "exit", "cut"] * 9
        )
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", port))
            head = f"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\n{JSON_LENGTH}: {message.json_bytes}\r\n"
            raw.sendall(f"{head}Content-Length: {len(message.body)}\r\n\r\n".encode() + message.body)
            wait_until(
                lambda: b'offramp_serve_samples_total{model="dense"} 100000.0' in ask(port, "GET", "/metrics")[2]
            )
            wait_until(lambda: not server.server_state.connections)


def test_two_hundred_clients_at_once_get_their_own_answers(net):
    expected = net.batch(X)
    ready = threading.Barrier(200)

    def use(number):
        ready.wait(60)
        rows = [(number + k) % 40 for k in range(2)]
        return [(row, *infer(port, "dense", {"x": X[row : row + 1]}, id=f"{number}.{row}")) for row in rows]

    with running(serve_chain(joins=True), workers=2) as (port, _), ThreadPoolExecutor(200) as pool:
        for number, answers in enumerate(pool.map(use, range(200))):
            for row, status, document in answers:
                assert status == 200 and document["id"] == f"{number}.{row}"
                label, _, exit_ = (output["data"][0] for output in document["outputs"])
                assert (label, exit_) == (expected.label[row], expected.exit[row])


def test_at_the_end_what_is_under_way_is_answered_and_nothing_new_is_taken():
    model = serve_chain()
    held = Held(model)
    with running(model) as (port, server), ThreadPoolExecutor(5) as pool:
        under_way = [pool.submit(infer, port, "dense", {"x": X[k : k + 1]}) for k in range(5)]
        wait_until(lambda: b"offramp_serve_under_way 5.0" in ask(port, "GET", "/metrics")[2])
        server.should_exit = True
        wait_until(lambda: _refuses(port))
        held.go.set()
        assert [waiting.result()[0] for waiting in under_way] == [200] * 5


def _refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except ConnectionRefusedError:
        return True
    return False


TOKEN = "a-token-of-this-test"


def test_with_a_token_only_health_is_open():
    with running(serve_chain(), token=TOKEN) as (port, _):
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert ask(port, "GET", path)[0] == 200
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": TOKEN},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer \xff"},
        ]
        for path in ("/v2", "/v2/models/dense", "/metrics", "/openapi.json", "/v3"):
            for headers in wrong:
                status, sent_back, body = ask(port, "GET", path, headers=headers)
                assert status == 401 and sent_back["WWW-Authenticate"] == "Bearer" and b"error" in body
        assert infer(port, "dense", {"x": X[:1]})[0] == 401
        assert infer(port, "dense", {"x": X[:1]}, headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_tls_is_spoken_by_the_certificate_that_is_named(tmp_path):
    cert, key = write_certificate(tmp_path)
    with running(serve_chain(), tls=(cert, key)) as (port, _):
        client = triton.InferenceServerClient(
            f"localhost:{port}", ssl=True, ssl_context_factory=lambda: ssl.create_default_context(cafile=cert)
        )
        assert client.infer("dense", sent(X[:1])).as_numpy("label").shape == (1,)
    with pytest.raises(UsageError, match="TLS cannot use"), running(serve_chain(), tls=(key, cert)):
        pass


def write_certificate(folder):
    """Write a certificate of localhost that vouches for itself, and its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=localhost")
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *private))
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.mark.parametrize("package", ["starlette", "prometheus_client"])
def test_a_package_that_is_missing_is_named_with_its_extra(net, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError) as missing:
        make_app(ServedModel("dense", net))
    assert missing.value.extra == "serve"


def test_arguments_that_make_no_server_are_refused(net):
    model = ServedModel("dense", net)
    for options in ({"workers": 0}, {"workers": True}, {"token": "short"}, {"token": "a" * 20 + "\n"}):
        with pytest.raises(UsageError):
            make_app(model, **options)
    with pytest.raises(UsageError, match="Two models are called dense"):
        make_app([model, model])
    for fields in ({"samples": 0}, {"timeout_s": float("nan")}, {"waiting": "5"}, {"body_bytes": True}):
        with pytest.raises(UsageError):
            Limits(**fields)
    with open_socket("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="Cannot listen"):
        open_socket("127.0.0.1", taken.getsockname()[1])
    for host, port in (("127.0.0.1", 70_000), ("no such host", 0), ("a" * 70, 0)):
        with pytest.raises(UsageError):
            open_socket(host, port)
    with pytest.raises(UsageError, match="no name for an address"):
        open_model(ARCHIVE, "a/b")


@pytest.mark.parametrize("name", ["two-inputs", "keyword-spotter", "encoder"])
def test_inputs_of_any_form_are_answered_alone_and_together(zoo, name):
    """Several inputs; the batch on the second axis; an axis that differs from call to call, and indices."""
    _, bundle, _ = zoo(name)
    net = load_uncalibrated(bundle, logits=True)
    net.thresholds = [0.3] * (len(net.exits) - 1)
    model = ServedModel("net", net, joins=True)
    forms, inputs = bundle.manifest.inputs, networks.ZOO[name].draw(6, 1)
    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    arrays = {form.name: np.asarray(x) for form, x in zip(forms, inputs, strict=True)}
    held, expected = Held(model), net.batch(arrays)
    with running(model) as (port, _), ThreadPoolExecutor(6) as pool:

        def ask_for(rows):
            part = {form.name: arrays[form.name].take(rows, form.batch_axis) for form in forms}
            return infer(port, "net", part, outputs=["label", "exit", "logits"])

        waiting = [pool.submit(ask_for, rows) for rows in ([0], [1], [2, 3], [4, 5])]
        wait_until(lambda: b"offramp_serve_under_way 4.0" in ask(port, "GET", "/metrics")[2])
        held.go.set()
        for rows, each in zip(([0], [1], [2, 3], [4, 5]), waiting, strict=True):
            status, document = each.result()
            assert status == 200, document
            label, exit_, logits = (output["data"] for output in document["outputs"])
            assert label == expected.label[rows].tolist() and exit_ == expected.exit[rows].tolist()
            np.testing.assert_allclose(logits, expected.logits[rows].ravel(), rtol=1e-3, atol=1e-4)


def test_what_an_engine_cannot_run_is_refused_and_no_fault_of_the_server():
    stage = open_model(ARCHIVE, "net", joins=False, stages=True).stages[1]
    task = stage.read(read_request(*write_request({"a0": np.ones((1, 16), np.float32)})), 1)
    run = stage.start(is_first=True)
    assert run([task])[0][0].keys() == set(stage.usual)
    task.wanted = ("nothing",)
    with pytest.raises(DataError, match="net:stage1 does not run on these inputs"):
        run([task])
