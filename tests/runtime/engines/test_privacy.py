"""Loading a network tells nobody about it."""

import json
import os
import subprocess
import sys

import pytest

from offramp.tests.helpers.bundles import ARCHIVE

WATCHED = """
import json, sys
seen = []
def watch(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__",):
        seen.append([event, repr(arguments)])
sys.addaudithook(watch)
import warnings
warnings.simplefilter("ignore")
from offramp.runtime import load_uncalibrated, diagnose
for _ in range(2):
    net = load_uncalibrated(sys.argv[1], sys.argv[2])
diagnose()
print(json.dumps([seen, sorted(name for name in sys.modules if name.startswith("openvino_telemetry"))]))
"""


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
def test_a_load_looks_no_host_up_and_writes_nothing_into_the_home(tmp_path, device):
    pytest.importorskip("openvino" if "openvino" in device else "onnxruntime")
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    switches = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in switches}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(ARCHIVE), device], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen, modules = json.loads(done.stdout)
    assert seen == [] and modules == []
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert {path.name for path in cache.glob("*")} <= {"offramp"}
