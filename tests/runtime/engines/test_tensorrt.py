"""TensorRT: what it does without a GPU is done for real by TensorRT-RTX; what needs one runs on a fake, named so."""

import importlib
import time

import numpy as np
import pytest

from offramp.bundle import Preprocess, Tensor
from offramp.cache import list_cache
from offramp.errors import MissingError, UnsupportedError
from offramp.export import export, quantize
from offramp.runtime import EngineWarning, build, load_uncalibrated
from offramp.runtime.engines import StageFile, tensorrt
from offramp.runtime.engines.tensorrt import cuda
from offramp.runtime.engines.tensorrt.builder import build_plan
from offramp.tests.fakes.tensorrt import VERSIONS, FakeDriver, make_tensorrt
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import labels_of_clones


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/offramp"


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def sources(bundle, variant):
    for stage, exit_ in zip(variant.stages, variant.exits, strict=True):
        outputs = (*(tensor.name for tensor in stage.outputs), exit_.score, exit_.label)
        yield StageFile(path=bundle.path / variant.folder / stage.file, inputs=stage.inputs, outputs=outputs)


@pytest.fixture(scope="session")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")


def fake(monkeypatch, version=VERSIONS[0], **how):
    """Put a fake driver and a fake TensorRT where the real ones would be found."""
    driver = FakeDriver(how.pop("gpus", 1))
    module = make_tensorrt(version, driver, **how)
    real = importlib.import_module
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    monkeypatch.setattr(cuda, "_SIGNATURES", {})
    monkeypatch.setattr(importlib, "import_module", lambda name, *a: module if name == "tensorrt" else real(name, *a))
    monkeypatch.setattr(cuda, "_opened", {})  # the fake GPU goes with the test, wherever the test is
    return driver, module


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def test_stages_of_every_precision_are_built_by_the_real_builder(dense, rtx):
    bundle = quantize(quantize(dense, draw(64), symmetric=True), draw(64), to="fp16")
    sizes = {}
    for variant in bundle.manifest.variants:
        for k, source in enumerate(sources(bundle, variant)):
            sizes[variant.precision, k] = len(build_plan(rtx, source)[0])
    assert len(sizes) == 9 and min(sizes.values()) > 1000


def test_images_as_a_camera_gives_them_and_float64(tmp_path, rtx):
    preprocess = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    bundle = export(networks.build(networks.Plain), pixels, tmp_path / "net.offramp", preprocess=preprocess)
    for source in sources(bundle, bundle.variant()):
        assert len(build_plan(rtx, source)[0]) > 1000
    double = StageFile(source.path, (Tensor(name="x", dtype="float64", shape=(None, 3)),), ("y",))
    with pytest.raises(UnsupportedError, match="TensorRT knows no float64, in which stage2.onnx reads x"):
        build_plan(rtx, double)


def test_int8_with_zero_points_is_refused_with_the_remedy(dense, rtx):
    bundle = quantize(dense, draw(64))
    with pytest.raises(UnsupportedError, match=r"zero point.*offramp quantize --symmetric"):
        for source in sources(bundle, bundle.manifest.variants[1]):
            build_plan(rtx, source)


def test_what_the_real_parser_cannot_take_is_named(tmp_path, rtx):
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="odd")
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.STRING, [1])  # noqa: E731
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "odd.onnx")
    with pytest.raises(UnsupportedError, match="cannot run .*odd.onnx: StringNormalizer odd: |odd.onnx: .*tring"):
        build_plan(rtx, StageFile(path=tmp_path / "odd.onnx", inputs=(), outputs=("y",)))


def test_a_tensorrt_that_cannot_type_strongly_is_too_old(dense, monkeypatch):
    fake(monkeypatch, "8.6.1")
    with pytest.raises(MissingError, match=r"8\.6\.1 is too old: 10\.3 or newer"):
        load_uncalibrated(dense, "tensorrt:0")


def test_a_chain_on_a_fake_gpu_says_what_the_cpu_says(dense, monkeypatch, version):
    fake(monkeypatch, version)
    x = draw(60)
    with (
        load_uncalibrated(dense, "cpu", logits=True) as cpu,
        load_uncalibrated(dense, "tensorrt:0", logits=True) as net,
    ):
        right = cpu.every_exit(x)
        thresholds = [float(np.quantile(right.score[:, k], 0.6)) for k in range(2)]
        cpu.thresholds = net.thresholds = thresholds
        on_cpu, on_gpu = cpu.batch(x), net.batch(x)
        alone = [net(sample) for sample in x]
        assert f"TensorRT {version}, Fake Orin" in net.provenance.stages[0].runs_on
    assert len(set(on_cpu.exit)) == 3
    assert (on_cpu.exit == on_gpu.exit).all() and (on_cpu.label == on_gpu.label).all()
    np.testing.assert_allclose(on_gpu.logits, on_cpu.logits, atol=1e-5)
    assert [answer.exit for answer in alone] == list(on_cpu.exit)


def test_between_stages_nothing_but_score_and_label_leaves_the_gpu(dense, monkeypatch):
    driver, _ = fake(monkeypatch)
    with load_uncalibrated(dense, "tensorrt:0") as net:
        driver.calls.clear()
        net(draw(1)[0])
        assert driver.count("cuGraphLaunch") == driver.count("cuStreamSynchronize") == 3
        assert not any(name.startswith(("cuMemcpy", "cuMemAlloc")) for name in driver.calls)
        launched = [graph for graph in driver.graphs.values() if graph]
        # a stage's graph is its kernels and its copies: score and label out; the first also takes the input in
        assert sorted(len(graph) for graph in launched) == [3, 3, 4]


def test_a_stage_that_cannot_be_recorded_is_run_all_the_same(dense, monkeypatch):
    driver, module = fake(monkeypatch)
    module.no_capture = True
    x = draw(20)
    with load_uncalibrated(dense, "tensorrt:0") as net, load_uncalibrated(dense, "cpu") as cpu:
        assert (net.every_exit(x).label == cpu.every_exit(x).label).all()
    assert driver.count("cuGraphLaunch") == 0


@pytest.mark.parametrize("placement", [("tensorrt:0", "cpu", "tensorrt:0"), ("cpu", "tensorrt:0", "openvino:CPU")])
def test_stages_beside_other_engines_get_and_give_what_they_need(dense, monkeypatch, placement):
    fake(monkeypatch)
    x = draw(40)
    with load_uncalibrated(dense, placement) as net, load_uncalibrated(dense, "cpu") as cpu:
        on_cpu, mixed = cpu.every_exit(x), net.every_exit(x)
    assert (on_cpu.label == mixed.label).all()
    np.testing.assert_allclose(on_cpu.score, mixed.score, atol=1e-5)


def test_clones_run_in_threads_of_their_own(dense, monkeypatch):
    fake(monkeypatch)
    x = draw(64)
    with load_uncalibrated(dense, "cpu") as cpu, load_uncalibrated(dense, "tensorrt:0") as net:
        right = [cpu(sample).label for sample in x]
        assert labels_of_clones(net, x) == [right] * 3


def test_closing_gives_the_memory_back(dense, monkeypatch):
    import gc

    driver, _ = fake(monkeypatch)
    net = load_uncalibrated(dense, "tensorrt:0")
    net(draw(1)[0])
    assert driver.memory and any(driver.graphs.values())
    net.close()
    del net
    gc.collect()
    assert not driver.memory and not driver.graphs


def test_a_lazy_stage_takes_and_gives_back_the_gpus_memory(dense, monkeypatch):
    driver, _ = fake(monkeypatch)
    x = draw(3)
    with load_uncalibrated(dense, "tensorrt:0") as net:
        right = [net(sample).score for sample in x]
        of_all = len(driver.memory), len(driver.graphs)
    del net
    with load_uncalibrated(dense, "tensorrt:0", lazy=True) as net:
        before = len(driver.memory), len(driver.graphs)
        for _ in range(2):
            assert [net(sample).score for sample in x] == right
            assert (len(driver.memory), len(driver.graphs)) == of_all
            for stage in net.lazy_stages:
                stage.let_go()
            assert (len(driver.memory), len(driver.graphs)) == before < of_all


def test_a_plan_is_built_once_and_what_was_learnt_is_kept(dense, monkeypatch, cache):
    _, module = fake(monkeypatch)
    first = build(dense, "tensorrt:0", threads=1)
    assert [build.was_there for build in first] == [False] * 3 and module.timings == [
        b"",
        b"timings learnt",
        b"timings learnt",
    ]
    assert tensorrt.TIMINGS in [cached.entry.label for cached in list_cache()]
    module.refuse = "nothing is built anew"
    with load_uncalibrated(dense, "tensorrt:0", threads=4) as net:  # threads decide nothing on a GPU
        assert {stage.built for stage in net.provenance.stages} == {"cache"}


def test_a_plan_of_a_smaller_gpu_of_the_same_name_does_not_fit(dense, monkeypatch):
    driver, _ = fake(monkeypatch)
    build(dense, "tensorrt:0", into_bundle=True)
    driver.multiprocessors = 8
    cuda._opened.clear()
    with (
        pytest.warns(EngineWarning, match="multiprocessors was 16 and is 8"),
        load_uncalibrated(dense, "tensorrt:0") as net,
    ):
        assert {stage.built for stage in net.provenance.stages} == {"now"}


def test_timings_of_another_version_are_not_used(dense, monkeypatch):
    _, module = fake(monkeypatch)
    (source, *_) = sources(dense, dense.variant())
    cuda.open_gpu(0)
    for unfit in (b"of another device", b"damaged"):
        assert build_plan(module, source, timings=unfit)[1] == b"timings learnt"
    assert module.timings == [b"", b""]


def test_networks_are_typed_strongly_and_float32_is_not_rounded(dense, monkeypatch, version):
    fake(monkeypatch, version)
    built = build(dense, "tensorrt:0", into_bundle=True)
    plan = (dense.path / built[0].path).read_bytes().partition(b"\n")[2]
    assert b'"typed": true' in plan and b"TF32" not in plan and b"FP16" not in plan


def test_layers_that_a_dla_leaves_to_the_gpu_are_named(dense, monkeypatch, version):
    fake(monkeypatch, version, dla=2, on_dla=("MatMul", "Gemm", "Tanh", "Relu"))
    with load_uncalibrated(dense, "tensorrt:dla1") as net:
        first = net.provenance.stages[0].runs_on
        assert (
            "DLA core 1 in half precision, " in first
            and "layers on Fake Orin (" in first
            and "softmax" in first.lower()
        )
    built = build(dense, "tensorrt:dla1", into_bundle=True)
    plan = (dense.path / built[0].path).read_bytes()
    assert (b"FP16" in plan) == version.startswith("10")  # since TensorRT 11 the stage alone says it
    assert b"GPU_FALLBACK" in plan


def test_a_dla_that_holds_nothing_of_what_it_knows_is_found_out(dense, monkeypatch):
    _, module = fake(monkeypatch, dla=1, on_dla=("MatMul", "Gemm"))
    module.all_on_gpu = True
    with pytest.raises(UnsupportedError, match="leaves all of the stage to the GPU, though the DLA knows its layers"):
        load_uncalibrated(dense, "tensorrt:dla0")


def test_a_stage_of_which_a_dla_runs_nothing_is_refused_with_another_placement(dense, monkeypatch):
    fake(monkeypatch, dla=1, on_dla=())
    with pytest.raises(UnsupportedError, match=r"The DLA runs none of the stage's layers.*--to fp16.*--place 0=cpu"):
        load_uncalibrated(dense, "tensorrt:dla0")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("tensorrt:1", "There is no GPU 1 here: the driver finds 1"),
        ("tensorrt:dla0", "There is no DLA core 0 here.*finds 0 beside Fake Orin.*Use tensorrt:0"),
        ("tensorrt:gpu", "TensorRT has no place 'gpu'"),
    ],
)
def test_a_place_that_is_not_there_says_what_is(dense, monkeypatch, place, words):
    fake(monkeypatch)
    with pytest.raises(MissingError, match=words):
        load_uncalibrated(dense, place)


@pytest.mark.parametrize("place", ["0", "dla0"])
def test_without_a_driver_the_reason_and_remedy_come_at_once(dense, place):
    start = time.perf_counter()
    try:
        with pytest.raises(MissingError, match=r"no NVIDIA GPU.*(Install the driver|See that)"):
            load_uncalibrated(dense, f"tensorrt:{place}")
    except BaseException:
        cuda.count_gpus()  # a machine that has a GPU: tests/hardware says what it does
        pytest.skip("there is a GPU here")
    assert time.perf_counter() - start < 1


def test_a_driver_without_a_gpu_is_not_asked_for_more(dense, monkeypatch):
    driver, _ = fake(monkeypatch, gpus=0)
    with pytest.raises(MissingError, match=r"the driver answers CUDA_ERROR_NO_DEVICE.*--runtime nvidia"):
        load_uncalibrated(dense, "tensorrt:0")
    with pytest.raises(MissingError, match="NO_DEVICE"):
        tensorrt.list_places()
    assert set(driver.calls) == {"cuInit"}


def test_a_missing_package_names_where_it_comes_from(dense, monkeypatch):
    fake(monkeypatch)

    def missing(name, *arguments):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    real = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda n, *a: missing(n) if n.startswith("tensorrt") else real(n, *a)
    )
    with pytest.raises(MissingError, match="comes with JetPack.*--system-site-packages.*pip install tensorrt"):
        load_uncalibrated(dense, "tensorrt:0")


def test_what_tensorrt_says_when_it_cannot_build_is_passed_on(dense, monkeypatch):
    _, module = fake(monkeypatch)
    module.refuse = "Could not find any implementation for node Gemm_3"
    with pytest.raises(UnsupportedError, match=r"cannot build .*stage0.onnx.*node Gemm_3.*--place 0=cpu"):
        load_uncalibrated(dense, "tensorrt:0")
    with pytest.warns(EngineWarning, match="runs on cpu, not on tensorrt:0"):
        net = load_uncalibrated(dense, "tensorrt:0", fallback="cpu")
    assert "Gemm_3" in net.provenance.stages[0].fallback


def test_a_gpu_that_fails_or_has_no_room_says_so(dense, monkeypatch):
    driver, module = fake(monkeypatch)
    with load_uncalibrated(dense, "tensorrt:0") as net:
        driver.fails["cuStreamSynchronize"] = 700
        with pytest.raises(MissingError, match="The GPU fails: CUDA_ERROR_ILLEGAL_ADDRESS"):
            net(draw(1)[0])
        driver.fails.clear()
        module.no_room = True
        with pytest.raises(MissingError, match="no room for another chain") as caught:
            net.clone()
        assert (caught.value.device, caught.value.stage) == ("tensorrt:0", "stage0.onnx")
        module.no_room = False
        driver.fails["cuMemAlloc_v2"] = 2
        with pytest.raises(MissingError, match="cuMemAlloc_v2 answers CUDA_ERROR_OUT_OF_MEMORY"):
            net.clone()


def test_a_damaged_build_in_the_bundle_is_built_anew(dense, monkeypatch):
    fake(monkeypatch)
    built = build(dense, "tensorrt:0", into_bundle=True)
    damaged = dense.path / built[1].path
    damaged.write_bytes(b"not a plan")
    with pytest.warns(EngineWarning, match="is damaged"), load_uncalibrated(dense, "tensorrt:0") as net:
        assert net(draw(1)[0]).label >= 0


def test_places_and_their_names(monkeypatch):
    fake(monkeypatch, dla=2)
    assert tensorrt.list_places() == {
        "0": "Fake Orin, compute capability 8.7",
        "dla0": "deep learning accelerator (DLA)",
        "dla1": "deep learning accelerator (DLA)",
    }
