"""What an engine runs is what was compared with its hash: no file that is swapped afterwards, and none that nobody listed."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.bundle import Bundle, Tensor, open_bundle
from offramp.errors import BundleError, MissingError, UnsupportedError
from offramp.files import Folder, open_file, private_folder
from offramp.runtime import load_uncalibrated
from offramp.runtime.engines import StageFile, onnxruntime, openvino
from offramp.tests.helpers.bundles import copy_archive

X = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
ENGINES = {"cpu": (onnxruntime, "cpu"), "openvino:CPU": (openvino, "CPU")}


@pytest.fixture(params=[*ENGINES, "cpu with large weights"])
def device(request, monkeypatch):
    if "large" in request.param:
        monkeypatch.setattr(onnxruntime, "MOST_IN_MEMORY", -1)
        return "cpu"
    pytest.importorskip("openvino" if "openvino" in request.param else "onnxruntime")
    return request.param


@pytest.fixture
def swap_when_read(monkeypatch, device):
    """Call something when an engine is about to read a stage, after everything was compared with its hash."""

    def install(swap):
        import onnxruntime as ort

        original = ort.InferenceSession

        def open_session(*arguments, **options):
            swap()
            return original(*arguments, **options)

        monkeypatch.setattr(ort, "InferenceSession", open_session)
        if device != "cpu":
            swapping = Swapping(openvino._core(), swap)
            monkeypatch.setattr(openvino, "_core", lambda: swapping)

    return install


class Swapping:
    """OpenVINO's core, before whose eyes files are swapped."""

    def __init__(self, core, swap):
        self._core, self._swap = core, swap

    def read_model(self, *arguments):
        self._swap()
        return self._core.read_model(*arguments)

    def __getattr__(self, name):
        return getattr(self._core, name)


def test_files_that_are_swapped_behind_their_hash_do_not_run(tmp_path, device, swap_when_read, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = copy_archive(tmp_path)
    expected = load_uncalibrated(bundle, "cpu").every_exit(X).score
    folder = bundle.path / bundle.variant().folder

    weights = np.roll(np.fromfile(folder / "weights.bin", np.float32), 1)

    def swap():
        for name, content in (("weights.bin", weights.tobytes()), ("stage0.onnx", b"")):
            (folder / name).unlink()  # a new file in the place of the old
            (folder / name).write_bytes(content)

    swap_when_read(swap)
    assert np.abs(load_uncalibrated(bundle, device).every_exit(X).score - expected).max() < 1e-4
    with pytest.raises(BundleError):
        open_bundle(bundle.path)


def external(name, location):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def branch(name, location):
    value = helper.make_tensor_value_info(f"{name}_out", 1, [4])
    node = helper.make_node("Identity", [name], [f"{name}_out"])
    return helper.make_graph([node], name, [], [value], [external(name, location)])


def write_graph(folder, place, location):
    """Write y = x + w, where w is external data: of an initializer, of a constant, or of branches."""
    nodes, weights = [], []
    if place == "initializer":
        weights = [external("w", location)]
    elif place == "constant":
        nodes = [helper.make_node("Constant", [], ["w"], value=external("w", location))]
    else:
        weights = [numpy_helper.from_array(np.array(True), "yes")]
        branches = {"then_branch": branch("a", location), "else_branch": branch("b", location)}
        nodes = [helper.make_node("If", ["yes"], ["w"], **branches)]
    nodes.append(helper.make_node("Add", ["x", "w"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy")
    graph = helper.make_graph(nodes, "sum", [x], [y], weights)
    path = folder / "stage0.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    np.full(4, 7, np.float32).tofile(folder / "weights.bin")
    np.full(4, 666, np.float32).tofile(folder / "other.bin")
    inputs = (Tensor(name="x", dtype="float32", shape=(None, 4)),)
    private = folder / "private/copies"
    private.mkdir(parents=True, exist_ok=True)
    return StageFile(
        path=path,
        inputs=inputs,
        outputs=("y",),
        weights=folder / "weights.bin",
        copy=lambda file: Path(shutil.copy(file, private)),
    )


def compile_stage(stage, device):
    engine, place = ENGINES[device]
    return engine.compile_stage(stage, place, threads=1)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_weights_are_found_wherever_the_graph_has_them(tmp_path, device, place):
    compiled = compile_stage(write_graph(tmp_path, place, "weights.bin"), device)
    shutil.rmtree(tmp_path)
    assert compiled.infer({"x": np.zeros((1, 4), np.float32)}, ["y"])["y"].tolist() == [[7.0] * 4]


@pytest.mark.parametrize("location", ["other.bin", "./other.bin", "x/../other.bin", "../other.bin", "ABSOLUTE"])
@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_no_file_but_the_listed_weights_is_read(tmp_path, device, place, location, monkeypatch):
    folder = tmp_path / "variant"
    folder.mkdir()
    for found in (tmp_path, folder):
        monkeypatch.chdir(found)  # some engines look there
        stage = write_graph(folder, place, location.replace("ABSOLUTE", str(folder / "other.bin")))
        shutil.copy(folder / "other.bin", tmp_path)
        with pytest.raises(BundleError):
            compile_stage(stage, device)


@pytest.mark.parametrize("wrong", ["longer", "shorter", "other"])
def test_a_copy_of_a_file_that_is_not_what_the_manifest_says_is_not_left(tmp_path, wrong, monkeypatch):
    bundle = copy_archive(tmp_path)
    path = bundle.path / bundle.variant().folder / "weights.bin"
    content = path.read_bytes()
    copied = bundle.copy(bundle.variant(), "weights.bin", tmp_path / "copy")
    assert copied.read_bytes() == content

    def write_then_open(folder, name):  # after its size was compared
        path.write_bytes({"longer": content + b"x", "shorter": content[:-1], "other": b"x" + content[1:]}[wrong])
        return open_file(folder.root / name)

    monkeypatch.setattr(Folder, "open", write_then_open)
    with pytest.raises(BundleError, match="damaged"):
        bundle.copy(bundle.variant(), "weights.bin", tmp_path / "copy2")
    assert not (tmp_path / "copy2").exists()


def test_large_weights_are_copied_once_for_all_stages_and_leave_nothing(tmp_path, device, monkeypatch):
    monkeypatch.setattr(onnxruntime, "MOST_IN_MEMORY", -1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names, original = [], Bundle.copy

    def copy(bundle, variant, name, target):
        assert target.parent.stat().st_mode & 0o777 == 0o700
        names.append(name)
        return original(bundle, variant, name, target)

    monkeypatch.setattr(Bundle, "copy", copy)
    bundle = copy_archive(tmp_path)
    load_uncalibrated(bundle, device)
    assert names.count("weights.bin") == 1 and len(names) == 1 + len(bundle.variant().stages)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_large_weights_are_taken_in_memory_where_no_copy_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "MOST_IN_MEMORY", -1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    bundle = copy_archive(tmp_path)
    assert load_uncalibrated(bundle, "cpu").every_exit(X).score.shape[0] == len(X)
    with pytest.raises(MissingError, match="missing"), private_folder():
        pass


def test_memory_that_is_too_small_is_missing_and_not_tried_twice(tmp_path, monkeypatch):
    import onnxruntime as ort

    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise RuntimeError("Exception during initialization: std::bad_alloc")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(MissingError, match="memory"):
        compile_stage(write_graph(tmp_path, "initializer", "weights.bin"), "cpu")
    assert len(calls) == 1


class Starved:
    """OpenVINO's core, one of whose methods runs out of memory."""

    def __init__(self, core, name, error):
        self._core, self._name, self._error = core, name, error

    def __getattr__(self, name):
        return getattr(self._core, name) if name != self._name else self._fail

    def _fail(self, *_):
        raise self._error


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("read_model", RuntimeError("Can not create file mapping for 3, err=Cannot allocate memory")),
        ("compile_model", RuntimeError("Exception from core.cpp:117:\nFailed to allocate 67108864 bytes of memory")),
        ("compile_model", MemoryError()),
        ("import_model", RuntimeError("std::bad_alloc")),
    ],
)
def test_memory_that_is_too_small_for_openvino_is_missing_too(tmp_path, monkeypatch, name, error):
    core, stage = openvino._core(), write_graph(tmp_path, "initializer", "weights.bin")
    monkeypatch.setattr(openvino, "_core", lambda: Starved(core, name, error))
    with pytest.raises(MissingError, match="The memory is too small for .* on CPU") as raised:
        openvino.compile_stage(stage, "CPU", threads=1, built=b"" if name == "import_model" else None)
    assert not isinstance(raised.value, UnsupportedError)


def test_what_a_killed_process_copied_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import offramp.files, time\nwith offramp.files.private_folder() as path:\n print(path, flush=True); time.sleep(60)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    left = Path(process.stdout.readline().strip())
    with private_folder() as folder:
        assert left.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    process.kill()
    process.communicate()
    assert left.is_dir()
    with private_folder():
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_external_weights_is_checked_as_it_is_written(tmp_path):
    """The graphs above are what they seem: ONNX itself reads them."""
    stage = write_graph(tmp_path, "initializer", "other.bin")
    assert numpy_helper.to_array(onnx.load(stage.path).graph.initializer[0]).tolist() == [666.0] * 4
