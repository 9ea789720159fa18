"""The recipe of SECURITY.md for a stranger's bundle."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.bundle import open_bundle
from offramp.tests.helpers.bundles import copy_archive, replace_file

ROOT = Path(__file__).parents[2]


def run_recipe(folder, seconds):
    """Run the recipe on `stranger.offramp` in a folder, with another limit of time."""
    (recipe,) = re.findall(r"```bash\n(.*?)```", (ROOT / "SECURITY.md").read_text(), re.S)
    assert "-t 60" in recipe
    command = folder / "bin/offramp"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m offramp "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"}
    script = recipe.replace("-t 60", f"-t {seconds}")
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def stranger(tmp_path):
    path = copy_archive(tmp_path).path.rename(tmp_path / "stranger.offramp")
    return open_bundle(path)


def hostile_graph(bundle, nodes, weights):
    """Make a graph that would be the bundle's first stage."""
    variant = bundle.variant()
    stage, exit_ = variant.stages[0], variant.exits[0]
    features = [tensor.name for tensor in stage.outputs]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in [*features, exit_.score, exit_.logits]
    ]
    outputs.append(helper.make_tensor_value_info(exit_.label, TensorProto.INT64, None))
    nodes += [helper.make_node("Identity", ["made"], [name]) for name in features]
    nodes.append(helper.make_node("Gather", ["made", "classes"], [exit_.logits], axis=1))
    weights.append(numpy_helper.from_array(np.arange(5), "classes"))
    nodes.append(helper.make_node("ReduceMax", ["made"], [exit_.score], axes=[1], keepdims=0))
    nodes.append(helper.make_node("Cast", [exit_.score], [exit_.label], to=TensorProto.INT64))
    graph = helper.make_graph(nodes, "hostile", [x], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def endless(bundle):
    body = helper.make_graph(
        [helper.make_node("Identity", [a], [b]) for a, b in (("going", "on"), ("carried", "next"))],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["batch", 16]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", 16]),
        ],
    )
    return hostile_graph(
        bundle,
        [helper.make_node("Loop", ["", "yes", "x"], ["made"], body=body)],
        [numpy_helper.from_array(np.array(True), "yes")],
    )


def gigabytes(bundle):
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["made"]),
    ]
    return hostile_graph(bundle, nodes, [numpy_helper.from_array(np.array([3 * 10**9]), "size")])


def test_every_test_that_the_threats_name_is_there():
    named = set(re.findall(r"`((?:\w+/)*(?:test_\w+|fuzz)\.py)`", (ROOT / "docs/threats.md").read_text()))
    assert len(named) > 15 and not [name for name in named if not (ROOT / "tests" / name).is_file()]


def test_an_honest_bundle_passes(stranger):
    done = run_recipe(stranger.path.parent, 60)
    assert done.returncode == 0 and "passed" in done.stdout, done.stderr


@pytest.mark.parametrize(("make", "seconds", "codes"), [(endless, 3, (137, 152, -9, -24)), (gigabytes, 60, (4,))])
def test_hostile_graphs_end_within_the_limits(stranger, make, seconds, codes):
    replace_file(stranger, "stage0.onnx", make(stranger))
    done = run_recipe(stranger.path.parent, seconds)
    assert done.returncode in codes, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
