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


def test_importing_the_runtime_costs_at_most_40_ms_above_numpy(python, tmp_path, monkeypatch):
    # An installed package is compiled; where a machine keeps no bytecode, every import would compile it anew.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))

    def cost(module):
        return float(python(f"import time, {module}; print(time.process_time())"))

    cost("offramp.runtime")
    costs = [(cost("offramp.runtime"), cost("numpy")) for _ in range(20)]
    ours, theirs = (min(column) for column in zip(*costs, strict=True))  # other work on the machine only adds
    slow = max(1.0, theirs / 0.13)  # numpy alone takes 0.13 s of a core that nobody else slows down
    assert ours - theirs <= 0.040 * slow


def test_the_runtime_says_how_to_get_a_missing_engine(calibrated, python):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\nfrom offramp.runtime import load\n"
        "try:\n    load(sys.argv[1])\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    assert "MissingError" in (out := python(code, calibrated.path)) and "pip install 'offramp[onnxruntime]'" in out
