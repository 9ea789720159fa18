"""The device's self-test."""

import json
import warnings

import numpy as np
import onnx
import pytest

from offramp.errors import BundleError, MissingError, UsageError
from offramp.export import keep
from offramp.runtime import verification, verify
from offramp.tests.helpers.command import offramp
from offramp.tests.zoo.dense import forge


def scale_weights(factor):
    def change(path):
        values = np.fromfile(path, np.float32) * np.float32(factor)
        values.tofile(path)

    return change


def test_a_whole_bundle_passes_with_every_variant_and_says_how_far_off_it_is(dense):
    keep(dense.path, [0, 2], name="two")
    fp32, two = verify(dense.path)
    assert fp32.passed and two.passed and (fp32.variant, two.variant) == ("fp32", "two")
    assert [e.exit for e in two.exits] == ["z0", "z2"]
    assert all(e.relative <= 1e-6 and e.labels_equal == e.samples == 3 for e in fp32.exits)
    assert "variant fp32 on cpu: passed" in str(fp32)
    (two,) = verify(dense.path, variant="two")
    assert two.variant == "two"


def test_an_engine_that_computes_something_else_fails(dense):
    forge(dense, "weights.bin", scale_weights(1.001))
    (verification,) = verify(dense.path)
    assert not verification.passed and verification.exits[0].relative > verification.tolerance
    assert "failed" in str(verification)


def test_errors_of_the_size_of_rounding_pass(dense):
    forge(dense, "weights.bin", scale_weights(1 + 1e-6))
    (verification,) = verify(dense.path)
    assert verification.passed and max(e.absolute for e in verification.exits) > 0


def test_a_network_that_rounding_moves_may_differ_four_times_as_far_up_to_an_end(dense):
    forge(dense, "weights.bin", scale_weights(1.0001))
    (failed,) = verify(dense.path)
    assert not failed.passed and failed.tolerance < failed.exits[0].relative < 2e-3
    for own_error, tolerance, passes in ((1e-3, 4e-3, True), (1e-5, 1e-4, False), (0.5, 1e-2, True)):
        manifest = json.loads((dense.path / "manifest.json").read_text())
        manifest["variants"][0]["own_error"] = own_error
        (dense.path / "manifest.json").write_text(json.dumps(manifest))
        (verification,) = verify(dense.path)
        assert (verification.tolerance, verification.passed) == (tolerance, passes)


def test_labels_that_are_no_classes_fail_as_other_wrong_labels_do(dense):
    label = dense.variant().exits[1].label

    def move_label(path):
        model = onnx.load(path, load_external_data=False)
        for node in model.graph.node:
            node.output[:] = [f"{name}_before" if name == label else name for name in node.output]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(100), "hundred"))
        model.graph.node.append(onnx.helper.make_node("Add", [f"{label}_before", "hundred"], [label]))
        onnx.save(model, path)

    forge(dense, "static1.onnx", move_label)
    (verification,) = verify(dense.path)
    assert not verification.passed
    assert [check.labels_equal for check in verification.networks] == [9, 3, 0, 3]
    forge(dense, "stage1.onnx", move_label)
    (verification,) = verify(dense.path)
    assert not verification.passed
    assert [check.labels_equal for check in verification.exits] == [3, 0, 3]


def test_a_static_network_may_be_off_by_twice_what_its_export_found_and_no_more(dense):
    def scale_logits(path):
        model = onnx.load(path, load_external_data=False)
        logits = dense.variant().exits[1].logits
        k, node = next((k, node) for k, node in enumerate(model.graph.node) if logits in node.output)
        node.output[0] = "unscaled"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.002), "factor"))
        model.graph.node.insert(k + 1, onnx.helper.make_node("Mul", ["unscaled", "factor"], [logits]))
        onnx.save(model, path)

    forge(dense, "static1.onnx", scale_logits)
    (verification,) = verify(dense.path)
    chain, first, second, _ = verification.networks
    assert not verification.passed and [chain.passed, first.passed, second.passed] == [True, True, False]
    assert chain.relative is None and first.relative <= 1e-6 and second.relative == pytest.approx(0.002, rel=0.01)
    assert "a logit by at most 0.002 of the largest: FAILED" in str(verification)
    for error, passes in ((0.0011, True), (0.0009, False)):
        manifest = json.loads((dense.path / "manifest.json").read_text())
        manifest["variants"][0]["error"] = error
        (dense.path / "manifest.json").write_text(json.dumps(manifest))
        assert verify(dense.path)[0].passed is passes


@pytest.mark.parametrize("factor", [np.inf, np.nan])
def test_answers_that_are_not_numbers_fail_as_other_wrong_answers_do(dense, factor):
    forge(dense, "weights.bin", scale_weights(factor))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (verification,) = verify(dense.path)
    assert not any(check.passed for check in (*verification.exits, *verification.networks))
    assert all(check.relative == check.score == np.inf for check in verification.exits)
    done = offramp("verify", dense.path)
    assert done.returncode == 3 and "variant fp32 on cpu: failed" in done.stdout
    exits = json.loads(offramp("verify", dense.path, "--json").stdout)[0]["exits"]
    assert all(check["relative"] == check["absolute"] == check["score"] == "inf" for check in exits)


def test_a_wrong_static_network_fails_though_it_cannot_be_loaded_with_logits(dense, monkeypatch):
    def halve_score(path):
        model = onnx.load(path, load_external_data=False)
        score = dense.variant().exits[1].score
        node = next(node for node in model.graph.node if score in node.output)
        node.output[0] = "whole"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "half"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["whole", "half"], [score]))
        onnx.save(model, path)

    def open_network(parts, device, options, real=verification.open_network):
        if options.logits and len(parts.exits) == 1:
            raise MissingError("The memory is too small.")
        return real(parts, device, options)

    forge(dense, "static1.onnx", halve_score)
    monkeypatch.setattr(verification, "open_network", open_network)
    assert [check.passed for check in verify(dense.path)[0].networks] == [True, True, False, True]


def test_golden_samples_of_something_else_are_refused(dense):
    forge(dense, "golden.npz", lambda path: np.savez(path.open("wb"), x=np.zeros(3)))
    with pytest.raises(BundleError, match="does not hold golden samples"):
        verify(dense.path)


def test_names_that_are_not_there(dense):
    with pytest.raises(UsageError, match="Unknown variant"):
        verify(dense.path, variant="two")
    with pytest.raises(MissingError, match="no device 'npu'"):
        verify(dense.path, "npu")
    with pytest.raises(UsageError, match="There is no bundle"):
        verify(dense.path / "nothing")


def test_graphs_that_do_not_fit_the_manifest_are_bundle_errors(dense):
    def rename(path):
        model = onnx.load(path, load_external_data=False)
        model.graph.output[0].name = model.graph.node[-1].output[0] = "other"
        onnx.save(model, path)

    forge(dense, "stage2.onnx", rename)
    with pytest.raises(BundleError):
        verify(dense.path)


def golden_with(**changes):
    def change(path):
        with np.load(path) as loaded:
            arrays = {name: changes.get(name, lambda a: a)(loaded[name]) for name in loaded.files}
        np.savez(path.open("wb"), **arrays)

    return change


@pytest.mark.parametrize("part", ["score", "label"])
def test_scores_and_labels_count_as_logits_do(dense, part):
    changes = {"score": lambda a: a * 0, "label": lambda a: (a + 1) % 5}
    forge(dense, "golden.npz", golden_with(**{part: changes[part]}))
    (verification,) = verify(dense.path)
    assert not verification.passed and verification.exits[0].relative <= 1e-6


@pytest.mark.parametrize("part", ["logits", "score", "label", "input0"])
def test_golden_arrays_of_other_shapes_are_refused(dense, part):
    forge(dense, "golden.npz", golden_with(**{part: lambda a: a[:2]}))
    with pytest.raises(BundleError, match="does not fit variant"):
        verify(dense.path)
    forge(dense, "golden.npz", golden_with(**{part: lambda a: a.reshape(-1)}))
    with pytest.raises(BundleError, match="Export the network anew"):
        verify(dense.path)
