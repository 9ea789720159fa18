"""Engines: what is asked for runs there, all engines say the same, and what fails says so."""

import gc
import itertools
import threading
import weakref
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from offramp.errors import BundleError, DataError, MissingError, UnsupportedError, UsageError
from offramp.export import export
from offramp.runtime import EngineWarning, build, load_static, load_uncalibrated, verify
from offramp.runtime.engines import engines, find_device, name_device, onnxruntime, openvino
from offramp.tests.helpers.logs import log_lines
from offramp.tests.zoo.dense import forge

MIXED = ("openvino:CPU", "cpu", "openvino:CPU")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/offramp/engines"


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def near(scores, thresholds):
    """Tell which samples have a score that another engine's rounding may push over a threshold."""
    return (np.abs(scores[:, :-1] - np.array(thresholds)) <= 1e-4).any(1)


@pytest.mark.parametrize("name", ["dense", "deep-residual", "multi-scale-dense", "resolution-adaptive", "two-inputs"])
def test_engines_and_mixed_placements_give_the_same_labels_and_exits_on_500_inputs(name, request):
    if name == "dense":
        bundle, x = request.getfixturevalue("dense"), draw(500)
    else:
        from offramp.tests.zoo import networks

        zoo, entry = request.getfixturevalue("zoo"), networks.ZOO
        if name not in entry:
            pytest.skip("the zoo has no network of this name")
        _, bundle, _ = zoo(name)
        x = entry[name].draw(500, 7)
    stages = len(bundle.variant().stages)
    mixed = tuple(MIXED[k % 3] for k in range(stages))
    chains = [load_uncalibrated(bundle, device) for device in ("cpu", "openvino:CPU", mixed)]
    assert [s.device for s in chains[2].provenance.stages] == list(mixed)
    scores = chains[0].every_exit(x).score
    thresholds = [float(np.quantile(scores[:, k], 0.6)) for k in range(stages - 1)]
    answers = []
    for chain in chains:
        chain.thresholds = thresholds
        answers.append(chain.batch(x))
    clear = ~near(scores, thresholds)
    assert clear.sum() > 450 and len(set(answers[0].exit)) > 1
    for other in answers[1:]:
        assert (other.exit[clear] == answers[0].exit[clear]).all()
        assert (other.label[clear] == answers[0].label[clear]).all()


def test_what_runs_a_stage_is_what_the_engine_reports(dense):
    with load_uncalibrated(dense, MIXED) as net:
        first, second, _ = net.provenance.stages
    assert first.runs_on.startswith("OpenVINO ") and first.runs_on.endswith(", CPU")
    assert second.runs_on.startswith("ONNX Runtime ") and second.runs_on.endswith("CPUExecutionProvider")
    assert first.fallback is None and net.provenance.chosen is None


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("tpu", "There is no device 'tpu'. Devices are named cpu, cuda, http://..., https://..., onnxruntime:..., "),
        ("openvino", "There is no device 'openvino'.*Did you mean 'openvino:...'"),
        ("opnvino:CPU", "Did you mean 'openvino:CPU'"),
        ("CPU", "Did you mean 'cpu'"),
        ("openvino:NPU", "OpenVINO finds no device NPU here; it finds CPU"),
        ("openvino:AUTO", "Name one device: CPU; or auto"),
        ("cuda:0", "has no CUDAExecutionProvider.*pip install onnxruntime-gpu"),
        ("cuda:first", "has no place 'cuda:first'"),
        ("cpu:1", "has no place 'cpu:1'"),
        ("onnxruntime:tensorrt:0", "has no TensorrtExecutionProvider"),
    ],
)
def test_a_device_that_is_not_here_is_an_error_that_says_how_to_get_it(dense, device, words):
    with pytest.raises(MissingError, match=words):
        load_uncalibrated(dense, device)
    if device in (
        "tpu",
        "openvino",
        "opnvino:CPU",
        "CPU",
    ):  # no engine's name: a slip of the pen, whatever may be fallen back to
        with pytest.raises(MissingError, match=words):
            load_uncalibrated(dense, device, fallback="cpu")
    else:
        with pytest.warns(EngineWarning, match=r"stage0.onnx, stage1.onnx.* run on cpu, not on") as caught:
            net = load_uncalibrated(dense, device, fallback="cpu")
        assert len(caught) == 1  # one reason is said once
        assert set(net.provenance.devices) == {"cpu"}
        assert all(stage.fallback for stage in net.provenance.stages)
        assert net(draw(1)).label >= 0


def test_a_missing_package_names_its_install_line(dense, python):
    code = (
        "import sys; sys.modules['openvino'] = None\nfrom offramp.runtime import load\n"
        "try:\n    load(sys.argv[1], 'openvino:CPU')\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    assert "pip install 'offramp[openvino]'" in (out := python(code, dense.path)) and out.startswith("MissingError")


def test_a_provider_that_did_not_load_is_an_error_and_not_the_cpu(dense, monkeypatch):
    import onnxruntime as ort

    # The CUDA provider is claimed to be part of this build; ONNX Runtime then falls back to the CPU without an error.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(MissingError, match="CUDAExecutionProvider did not load"):
        load_uncalibrated(dense, "cuda:0")
    with pytest.warns(
        EngineWarning, match="stage0.onnx, .* run on openvino:CPU, not on cuda:0: CUDAExecutionProvider did not"
    ):
        net = load_uncalibrated(dense, "cuda:0", fallback="openvino:CPU")
    first = net.provenance.stages[0]
    assert first.device == "openvino:CPU" and "did not load" in first.fallback and first.runs_on.endswith(", CPU")


def test_a_session_on_a_gpu_goes_when_nobody_has_it_any_more():
    import onnxruntime as ort

    gc.disable()  # a GPU's memory is not to wait for the garbage collector
    try:
        session = onnxruntime.OnnxRuntimeStage(ort, object(), "", memory="cuda")
        watcher = weakref.ref(session)
        del session
        assert watcher() is None
    finally:
        gc.enable()


def test_a_program_finds_what_failed_without_reading_words(dense, monkeypatch):
    compile_stage = openvino._compile

    def refuse(stage, place, *, threads):
        if stage.path.name == "stage1.onnx":
            raise UnsupportedError("It does not know Odd.", nodes=["/odd"], path=stage.path)
        return compile_stage(stage, place, threads=threads)

    monkeypatch.setattr(openvino, "_compile", refuse)
    with pytest.raises(UnsupportedError, match="--place 1=cpu") as caught:
        load_uncalibrated(dense, "openvino:CPU")
    error = caught.value
    assert (error.device, error.stage, error.nodes) == ("openvino:CPU", "stage1.onnx", ("/odd",))
    assert error.path == dense.path / "variants/fp32/stage1.onnx"
    with load_uncalibrated(dense, ("openvino:CPU", "cpu", "openvino:CPU")) as net:  # the remedy, from attributes alone
        assert net(draw(1)[0]).label >= 0
    for device in ("openvino:NPU", "cuda:0", "nowhere"):
        with pytest.raises(MissingError) as missing:
            load_uncalibrated(dense, ("cpu", device, "cpu"))
        assert missing.value.device == device
        assert missing.value.stage == (None if device == "nowhere" else "stage1.onnx")


def test_work_that_a_provider_leaves_to_the_cpu_is_named():
    class Node:
        def __init__(self, op_type):
            self.op_type, self.name = op_type, f"{op_type}_1"

    class Part:  # what ONNX Runtime reports where a GPU is: a fake, since there is none here
        def __init__(self, ep_name, *ops):
            self.ep_name, self._nodes = ep_name, [Node(op) for op in ops]

        def get_nodes(self):
            return self._nodes

    class Reported:
        def __init__(self, *parts):
            self.parts = parts

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self):
            return self.parts

    gpu = Part("CUDAExecutionProvider", "Conv", "Relu")
    shapes, work = Part("CPUExecutionProvider", "Shape", "Gather"), Part("CPUExecutionProvider", "GRU")
    check = lambda *parts: onnxruntime._assert_provider(Reported(*parts), "CUDAExecutionProvider", "cuda:0")  # noqa: E731
    assert check(gpu, shapes) == "CUDAExecutionProvider (2 nodes), CPUExecutionProvider (Gather, Shape)"
    with pytest.raises(MissingError, match="GRU would run on the CPU") as caught:
        check(gpu, work)
    assert caught.value.nodes == ("GRU_1",)
    with pytest.raises(MissingError, match="every node would run on the CPU"):
        check(shapes)


def test_tensors_stay_in_a_devices_memory_and_cross_where_they_must(dense, monkeypatch):
    # No GPU is here: the CPU provider stands in for a device whose memory is not the host's, so that tensors are handed over.
    monkeypatch.setitem(onnxruntime.PROVIDERS, "fake", ("CPUExecutionProvider", "cpu"))
    x = draw(40)
    right = load_uncalibrated(dense)
    for devices in (
        "onnxruntime:fake",
        ("onnxruntime:fake", "onnxruntime:fake", "cpu"),
        ("cpu", "onnxruntime:fake", "cpu"),
    ):
        net = load_uncalibrated(dense, devices)
        host = {name for name in net._setup.memory.single.views if name in ("a0", "a1")}
        assert len(host) == (0 if devices == "onnxruntime:fake" else 2 if devices[0] == "cpu" else 1)
        assert all(net(sample).score == right(sample).score for sample in x)
        assert np.allclose(net.batch(x).score, right.batch(x).score, atol=1e-6)


def test_a_batch_goes_the_way_that_was_faster_and_says_the_same(dense):
    x = draw(100)
    together, alone, free = (load_uncalibrated(dense) for _ in range(3))
    together._together, alone._together = True, False
    scores = together.every_exit(x).score
    for net in (together, alone, free):
        net.thresholds = [float(np.median(scores[:, k])) for k in range(2)]
    batches = [net.batch(x) for net in (together, alone, free)]
    assert all((batch.exit == batches[0].exit).all() for batch in batches)
    assert all(np.allclose(batch.score, batches[0].score, atol=1e-6) for batch in batches)
    assert free._together is not None


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_clones_and_one_chain_called_from_several_threads_give_what_one_gives_alone(dense, device):
    x = draw(200)
    net = load_uncalibrated(dense, device)
    net.thresholds = (0.9, 0.9)
    expected = [(r.label, r.exit, r.score) for r in map(net, x)]
    clones = [net.clone(), net.clone(), net, net]
    models = {id(getattr(other._links[0].compiled, "_compiled", None)) for other in clones}
    assert len(models) == (3 if device == "openvino:CPU" else 1)  # where one runs one call at a time, each has its own
    by_thread: list[Any] = [[] for _ in clones]

    def work(k):
        for _ in range(5):
            by_thread[k] = [(r.label, r.exit, r.score) for r in map(clones[k], x)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(clones))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answers == expected for answers in by_thread)


def test_threads_that_learn_lengths_at_once_get_what_one_gets_alone(zoo):
    from offramp.tests.zoo import networks

    _, bundle, _ = zoo("encoder")
    (x,) = networks.ZOO["encoder"].draw(20, 3)
    samples = [sample[: 4 + k % 5] for k, sample in enumerate(x)]
    for device in ("cpu", "openvino:CPU"):
        net = load_uncalibrated(bundle, device)
        expected = [net(sample).score for sample in samples]
        nets = [*(net.clone() for _ in range(3)), net, net]
        scores: list[Any] = [None] * len(nets)

        def work(k, nets=nets, scores=scores):
            for _ in range(5):
                scores[k] = [nets[k](sample).score for sample in samples]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert np.allclose(scores, expected, atol=1e-6)


def test_a_clone_has_thresholds_and_a_life_of_its_own(dense):
    net = load_uncalibrated(dense)
    other = net.clone()
    other.thresholds = (0.0, 2.0)
    assert other(draw(1)).exit == 0 and net(draw(1)).exit == 2
    net.close()
    assert other(draw(1)).exit == 0
    with pytest.raises(UsageError, match="closed"):
        net.clone()


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_memory_stays_where_it_was(dense, device):
    net, x, process = load_uncalibrated(dense, device), draw(1)[0], psutil.Process()

    def resident(calls):
        for _ in range(calls):
            net(x)
        gc.collect()
        return process.memory_info().rss

    after = [resident(calls) for calls in (5_000, 10_000, 10_000, 10_000)]
    # A leak shows in every block of calls; what else the process does, in one or the other. 10 bytes a call would be seen.
    assert min(b - a for a, b in itertools.pairwise(after)) < 100_000


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_an_engine_that_fails_in_the_middle_of_a_chain_says_so_and_goes_on(dense, device):
    net, x = load_uncalibrated(dense, device), draw(1)[0]
    right, memory = net(x), net._setup.memory

    def fail():
        raise RuntimeError("Exception from src/somewhere.cpp:1:\nout of device memory")

    head = memory.heads[1]
    memory.heads[1] = (fail, *head[1:])
    net.thresholds = net.thresholds
    for call in (net, lambda sample: net.batch(sample[None])):
        net._together = False
        with pytest.raises(DataError, match="cannot run this sample: out of device memory") as caught:
            call(x)
        assert (caught.value.device, caught.value.stage) == (device, "stage1.onnx")
    memory.heads[1] = head
    net.thresholds = net.thresholds
    assert net(x).score == right.score


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_a_sample_that_is_not_finite_is_refused_whatever_the_engine_would_answer(dense, device):
    net = load_uncalibrated(dense, device)
    for value in (np.nan, np.inf, -np.inf):
        sample = draw(1)[0]
        sample[3] = value
        with pytest.raises(DataError, match="The sample holds NaN or infinity"):
            net(sample)


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_a_stage_that_does_not_compile_is_one_error(dense, device):
    forge(dense, "stage1.onnx", lambda path: path.write_bytes(b"no graph"))
    from offramp.bundle import open_bundle

    with pytest.raises(BundleError, match=r"cannot load .*stage1.onnx"):
        load_uncalibrated(open_bundle(dense.path), device)


def test_static_networks_and_lengths_of_any_size_run_on_openvino(zoo):
    from offramp.tests.zoo import networks

    _, bundle, _ = zoo("keyword-spotter")
    x = networks.ZOO["keyword-spotter"].draw(3, 5)
    for other in (load_uncalibrated(bundle, "openvino:CPU"), load_static(bundle, "openvino:CPU")):
        right = load_uncalibrated(bundle) if len(other.exits) > 1 else load_static(bundle)
        assert np.allclose(other.every_exit(x).score, right.every_exit(x).score, atol=1e-5)


def test_layers_that_share_their_weights_run_on_openvino(zoo, python):
    _, bundle, _ = zoo("looped")
    # In a process of its own: OpenVINO crashed on such graphs.
    code = (
        "import sys, numpy as np; from offramp.runtime import load_static\n"
        "x = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)\n"
        "one, two = (load_static(sys.argv[1], d).every_exit(x).score for d in ('cpu', 'openvino:CPU'))\n"
        "print(abs(one - two).max())"
    )
    assert float(python(code, bundle.path)) < 1e-5


def test_a_batch_names_the_sample_that_is_not_a_number(dense):
    x = draw(20)
    x[7] = np.nan
    net = load_uncalibrated(dense)
    for together in (True, False):
        net._together = together
        with pytest.raises(DataError, match="Sample 7 holds NaN or infinity in x"):
            net.batch(x)


def test_verify_names_where_it_ran(dense):
    (verification,) = verify(dense, MIXED)
    assert verification.passed and verification.device == "0=openvino:CPU,1=cpu,2=openvino:CPU"


def test_auto_measures_what_is_here_and_says_why(dense):
    with log_lines() as lines:
        net = load_uncalibrated(dense, "auto")
    assert net.provenance.chosen in lines
    assert any("cpu: leaving at the exits takes [" in line for line in lines)
    assert len(set(net.provenance.devices)) >= 1
    assert net.provenance.chosen.startswith("auto chose ") and "cpu " in net.provenance.chosen
    assert "openvino:CPU " in net.provenance.chosen and " us" in net.provenance.chosen


def test_auto_leaves_out_what_answers_differently_or_is_missing(dense, monkeypatch):
    openvino = engines()["openvino"]
    monkeypatch.setattr(openvino, "list_places", lambda: {"NPU": "none", "CPU": "here"})
    forge_scores = openvino.compile_stage

    def wrong(source, place, **rest):
        compiled = forge_scores(source, place, **rest)
        bind = compiled.bind

        def bind_wrongly(inputs, outputs):
            run, score = bind(inputs, outputs), next(a for name, a in outputs.items() if name.endswith("score"))
            return lambda: (run(), score.__setitem__(..., 0.123))

        monkeypatch.setattr(compiled, "bind", bind_wrongly)
        return compiled

    monkeypatch.setattr(openvino, "compile_stage", wrong)
    net = load_uncalibrated(dense, "auto")
    assert not {"openvino:CPU", "openvino:NPU"} & set(net.provenance.devices)
    assert "openvino:CPU: its score at exit 0 is off" in net.provenance.chosen
    assert "openvino:NPU: OpenVINO finds no device NPU" in net.provenance.chosen


def test_every_engine_offers_what_the_contract_says():
    for module, engine in engines().items():
        assert isinstance(engine.PACKAGE, str)
        try:
            places = engine.list_places()
        except MissingError:  # its package or its devices are not here; each engine's own tests say so
            assert module not in ("onnxruntime", "openvino")
            continue
        for place, description in places.items():
            device = find_device(name_device(module, place))
            assert device.engine is engine and device.place == place and description


def test_guards_change_nothing_but_the_time(tmp_path, monkeypatch):
    from offramp.export.cut import guards

    monkeypatch.setattr(guards, "LEAST_GUARDED_MACS", 0)
    monkeypatch.setattr(guards, "MOST_GUARDED_SHARE", 1e9)
    monkeypatch.setattr(guards, "GUARD_ROUNDS", 1)
    from torch import nn

    import ladder

    net = ladder.residual([2, 2], [8, 8], [1, 1]).eval()
    assert isinstance(net, nn.Module)
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    bundle = export(net, x, tmp_path / "guarded.offramp")
    assert [stage.guarded for stage in bundle.variant().stages] == [None, "stage1.guarded.onnx"]
    monkeypatch.setattr(guards, "MOST_GUARDED_SHARE", 0.0)
    plain = export(net, x, tmp_path / "plain.offramp")
    assert [stage.guarded for stage in plain.variant().stages] == [None, None]
    variant = bundle.variant()
    stages = tuple(msgspec.structs.replace(stage, guarded=None) for stage in variant.stages)
    files = {name: file for name, file in variant.files.items() if "guarded" not in name}
    # A calibration of one holds for the other.
    assert variant.digest == msgspec.structs.replace(variant, stages=stages, files=files).digest
    answers = [load_uncalibrated(b).every_exit(x).score for b in (bundle, plain)]
    assert np.allclose(*answers, atol=1e-6)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert np.allclose(load_uncalibrated(bundle).every_exit(x).score, answers[1], atol=1e-6)


class FakeNpu:
    """OpenVINO's Core with a fake NPU, which computes on the CPU and, as NPUs do, refuses shapes that are open."""

    def __init__(self, core, runs="NPU"):
        self._core, self._runs = core, runs
        self.available_devices = ["CPU", "NPU"]

    def __getattr__(self, name):
        return getattr(self._core, name)

    def get_property(self, place, name):
        if place != "NPU":
            return self._core.get_property(place, name)
        about = {"FULL_DEVICE_NAME": "Fake AI Boost", "NPU_DRIVER_VERSION": "1782915121", "PERFORMANCE_HINT": "LATENCY"}
        return dict.fromkeys(about, "RW") if name == "SUPPORTED_PROPERTIES" else about[name]

    def compile_model(self, model, place, settings):
        if any(tensor.partial_shape.is_dynamic for tensor in model.inputs) and place == "NPU":
            raise RuntimeError("to_shape was called on a dynamic shape.")
        return self._as_npu(self._core.compile_model(model, "CPU", {"NUM_STREAMS": 1}), place)

    def import_model(self, content, place, settings):
        return self._as_npu(self._core.import_model(content, "CPU", {}), place)

    def _as_npu(self, compiled, place):
        runs = self._runs if place == "NPU" else ["CPU"]

        class Compiled:
            def __getattr__(self, name):
                return getattr(compiled, name)

            def get_property(self, name):
                return runs if name == "EXECUTION_DEVICES" else compiled.get_property(name)

        return Compiled()


@pytest.fixture
def npu(monkeypatch):
    """Puts a fake NPU beside OpenVINO's CPU."""
    core = openvino._core()
    return lambda **how: monkeypatch.setattr(openvino, "_core", lambda: FakeNpu(core, **how))


def test_an_npu_of_openvino_gets_fixed_shapes_and_keeps_what_it_built(npu, dense):
    npu()
    x = draw(50)
    assert [built.was_there for built in build(dense, "openvino:NPU")] == [False] * 3
    with load_uncalibrated(dense, "openvino:NPU") as net, load_uncalibrated(dense, "cpu") as cpu:
        assert {stage.built for stage in net.provenance.stages} == {"cache"}
        assert net.provenance.stages[0].runs_on.endswith(", NPU") and net.provenance.stages[0].half
        assert (net.every_exit(x).label == cpu.every_exit(x).label).all()
    (on_cpu,), (on_npu,) = verify(dense, "openvino:CPU"), verify(dense, "openvino:NPU")
    assert on_npu.passed and (on_cpu.tolerance, on_npu.tolerance) == (1e-4, 2e-2)  # an NPU computes in half precision


def test_an_npu_that_leaves_its_work_to_the_cpu_is_found_out(npu, dense):
    npu(runs=["CPU"])
    with pytest.raises(MissingError, match=r"openvino:NPU was asked for, but OpenVINO runs .* on CPU"):
        load_uncalibrated(dense, "openvino:NPU")
    with pytest.warns(EngineWarning, match="runs on cpu, not on openvino:NPU"):
        net = load_uncalibrated(dense, "openvino:NPU", fallback="cpu")
    assert set(net.provenance.devices) == {"cpu"}


def test_what_an_npu_cannot_take_names_it_and_proposes_another_placement(npu, zoo):
    npu()
    _, bundle, _ = zoo("encoder")
    words = r"openvino:NPU takes fixed shapes only, and the axis time of tokens in stage0.onnx.*--place 0=cpu"
    with pytest.raises(UnsupportedError, match=words):
        load_uncalibrated(bundle, "openvino:NPU")


@pytest.mark.parametrize("engine", ["cuda", "onnxruntime", "openvino", "qnn", "rknn", "tensorrt"])
def test_a_long_name_of_a_device_fills_no_message(engine):
    with pytest.raises(MissingError, match="There is no device") as caught:
        find_device(f"{engine}:{'X' * 900}")
    assert len(str(caught.value)) < 600
    assert find_device(f"http://{'a' * 900}/net").place.endswith("/net")
