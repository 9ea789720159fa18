import statistics

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


def test_importing_the_runtime_costs_at_most_40_ms_where_numpy_costs_86(python, tmp_path, monkeypatch):
    # An installed package is compiled; where a machine keeps no bytecode, every import would compile it anew.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # whose threads spin for a while, which is nobody's import
    code = (
        "from time import process_time as now\n"
        "start = now(); import numpy\nmiddle = now(); import offramp.runtime\nend = now()\n"
        "print((end - middle) / (middle - start))"
    )
    python(code)
    # Both in one process, as a ratio: what else runs on the machine slows both alike. 86 ms is numpy's on a quiet core.
    assert statistics.median(float(python(code)) for _ in range(15)) <= 40 / 86


def test_the_runtime_says_how_to_get_a_missing_engine(calibrated, python):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\nfrom offramp.runtime import load\n"
        "try:\n    load(sys.argv[1])\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    assert "MissingError" in (out := python(code, calibrated.path)) and "pip install 'offramp[onnxruntime]'" in out
