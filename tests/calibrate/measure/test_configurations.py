"""Every network that may be recommended is recorded by itself."""

import msgspec
import numpy as np
import onnx
from msgspec.structs import replace

from offramp.bundle import Target, open_bundle
from offramp.bundle.writing import list_files
from offramp.calibrate.measure import session
from offramp.calibrate.measure.answers import record_answers
from offramp.export import keep, quantize
from offramp.runtime import load, load_static
from offramp.tests.helpers.briefly import calibrate


def turn_labels(bundle, exit_):
    """Make the static network to an exit answer the next class, as an engine does that computes it otherwise than the stages."""
    variant = bundle.variant()
    path = bundle.file(variant, variant.exits[exit_].static)
    model = onnx.load(path, load_external_data=False)
    (label,) = [node for node in model.graph.node if variant.exits[exit_].label in node.output]
    name = label.output[0]
    label.output[0] = "before"
    classes = onnx.numpy_helper.from_array(np.array(bundle.manifest.classes), "classes")
    one = onnx.numpy_helper.from_array(np.array(1), "one")
    model.graph.initializer.extend([classes, one])
    model.graph.node.extend(
        [
            onnx.helper.make_node("Add", ["before", "one"], ["more"]),
            onnx.helper.make_node("Mod", ["more", "classes"], [name]),
        ]
    )
    onnx.save(model, path)
    files = list_files(path.parent)
    variants = tuple(replace(one, files={name: files[name] for name in one.files}) for one in bundle.manifest.variants)
    (bundle.path / "manifest.json").write_bytes(msgspec.json.encode(replace(bundle.manifest, variants=variants)))
    return open_bundle(bundle.path)


def test_a_static_network_is_judged_by_its_own_answers_and_not_by_the_chains(dense, labelled):
    x, y = labelled
    bundle = turn_labels(dense, 1)
    found = calibrate(bundle, labelled, Target(max_drop=0.05))
    report = np.random.default_rng(0).permutation(len(x))[200:]
    own = load_static(bundle, exit=1).batch(x[report]).label == y[report]
    with load(bundle, point=next(name for name, point in found.points.items() if point.exits_early)) as net:
        stages = net.every_exit(x[report]).label[:, 1] == y[report]
    assert found.statics[1].accuracy == own.mean() != stages.mean()


def test_a_static_network_that_variants_share_is_recorded_once(dense, labelled, monkeypatch):
    (x, y), asked = labelled, []
    bundle = keep(turn_labels(dense, 2), [0, 2])  # so that it does not answer as the chain

    def record(net, x, *, part, **how):
        asked.append((part.variant.name, part.static))
        return record_answers(net, x, part=part, **how)

    monkeypatch.setattr(session, "record_answers", record)
    found = calibrate(bundle, (x, (y + 1) % bundle.manifest.classes), Target(max_disagreement=0.99))
    assert ("fp32", 2) in asked and ("fp32-exits0-2", None) in asked and ("fp32-exits0-2", 1) not in asked
    assert len({one.accuracy for one in found.statics if one.exit == (2 if one.variant == "fp32" else 1)}) == 1


def test_the_chain_of_a_variant_with_fewer_exits_is_compared_with_static_networks(dense, labelled, monkeypatch):
    compared, recorded, bundle = {}, {}, keep(dense, [0, 2])

    def record(net, x, *, part, like, **how):
        compared[part.variant.name, part.static] = like
        recorded[part.variant.name, part.static] = answers = record_answers(net, x, part=part, like=like, **how)
        return answers

    monkeypatch.setattr(session, "record_answers", record)
    calibrate(bundle, labelled, Target(max_drop=0.05))
    assert compared["fp32", None] is None
    statics = [recorded["fp32", k] for k in (0, 2)]
    assert np.array_equal(compared["fp32-exits0-2", None].label, np.hstack([each.label for each in statics]))
    assert np.array_equal(compared["fp32-exits0-2", None].score, np.hstack([each.score for each in statics]))


def test_the_reference_never_borrows_the_answers_of_the_chain(dense, labelled, monkeypatch):
    """It may differ from the last exit on few samples, which a comparison does not meet; promises count losses against it."""
    borrows = {}

    def record(net, x, *, part, like, **how):
        borrows[part.variant.name, part.static] = like is not None
        return record_answers(net, x, part=part, like=like, **how)

    monkeypatch.setattr(session, "record_answers", record)
    calibrate(quantize(dense, to="fp16"), labelled, Target(max_drop=0.05))
    assert borrows["fp32", 2] is False and borrows["fp32", 1] and borrows["fp16", 2]
