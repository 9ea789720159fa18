import sys

BLOCK = """
import sys
for name in ("torch", "onnx", "onnx_ir", "onnxscript", "click", "rich", "typer"):
    sys.modules[name] = None
"""


def test_the_runtime_loads_no_torch_no_onnx_and_no_command_line(python):
    out = python("import sys, offramp.runtime; print(*sys.modules)").split()
    assert not {"torch", "onnx", "onnx_ir", "click", "rich", "onnxruntime"} & set(out)


def test_a_calibrated_bundle_runs_where_torch_and_onnx_cannot_be_imported(calibrated, labelled, python):
    import numpy as np

    from offramp.runtime import load

    x = labelled[0][:50]
    np.save(calibrated.path.parent / "x.npy", x)
    code = BLOCK + (
        "import numpy, json\nfrom offramp.runtime import load\n"
        "net = load(sys.argv[1]); r = net.batch(numpy.load(sys.argv[2]))\n"
        "print(json.dumps([r.label.tolist(), r.exit.tolist()]))"
    )
    out = python(code, calibrated.path, calibrated.path.parent / "x.npy")
    expected = load(calibrated.path).batch(x)
    import json

    assert json.loads(out) == [expected.label.tolist(), expected.exit.tolist()]


def test_calibrating_and_comparing_need_no_torch_and_no_onnx(python):
    python(BLOCK + "import offramp.calibrate, offramp.devices, offramp.bundle")


COLD_START = """
import sys, numpy, onnxruntime
before = set(sys.modules)
import offramp.runtime
net = offramp.runtime.load(sys.argv[1])
net(numpy.zeros(16, numpy.float32))
print(*set(sys.modules) - before)
"""


def test_a_cold_start_imports_only_what_the_chosen_engine_needs(calibrated, python):
    added = set(python(COLD_START, calibrated.path).split())
    ours = {name for name in added if name.partition(".")[0] == "offramp"}
    foreign = {name.partition(".")[0] for name in added - ours} - sys.stdlib_module_names
    assert foreign <= {"msgspec", "typing_extensions"}  # msgspec imports the latter where it is
    assert [name for name in ours if name.startswith("offramp.runtime.engines.")] == [
        "offramp.runtime.engines.onnxruntime"
    ]
    # These take milliseconds each, and most of them megabytes.
    assert not added & {
        "importlib.metadata",
        "email.message",
        "hashlib",
        "logging",
        "tempfile",
        "shutil",
        "pkgutil",
        "inspect",
        "json",
    }
    assert not {"offramp.runtime." + name for name in ("auto", "golden_check", "verification", "power")} & ours
    assert not {"offramp.bundle.golden", "offramp.cache", "offramp.devices.watch"} & ours
    assert len(ours) <= 47


def test_the_runtime_says_how_to_get_a_missing_engine(calibrated, python):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\nfrom offramp.runtime import load\n"
        "try:\n    load(sys.argv[1])\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    assert "MissingError" in (out := python(code, calibrated.path)) and "pip install 'offramp[onnxruntime]'" in out
