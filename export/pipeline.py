"""The whole of an export: capture, decide, cut, verify, commit."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

from .. import __version__
from ..bundle import Bundle, commit, list_files, new_variant
from ..errors import DataError, ModelError, UsageError, require
from ..schema import SCHEMA, Dtype, Exit, Manifest, Stage, Tensor, Variant
from .capture import Captured, capture_onnx, capture_torch, random_example
from .cut import Plan, ancestors, extract_stage, plan_stages
from .decide import Head, add_decisions
from .macs import MULTIPLIES, count_macs
from .shapes import rewrite_shapes
from .verify import verify_chain

if TYPE_CHECKING:
    import torch

WEIGHTS, WHOLE, GOLDEN = "weights.bin", "whole.onnx", "golden.npz"
ROWS = 3
"""Samples that verify the chain and become the golden ones."""


def export(
    model: "torch.nn.Module | str | os.PathLike[str]",
    example: Any,
    path: "str | os.PathLike[str]",
    *,
    rule: str = "max_softmax",
) -> Bundle:
    """Export a multi-exit classifier as a bundle.

    Args:
        model: a torch network that takes one tensor and returns its exits as a list, tuple or dict of logits
            (batch, classes), shallowest first; or the path of an ONNX file with one such output per exit.
        example: one or more samples with their batch axis, (N, ...), as a numpy array or torch tensor. Real ones verify best.
            None draws random ones, for ONNX files with float inputs only.
        path: the bundle to write. One that is there is replaced when all has succeeded, and is left as it was otherwise.
        rule: how an exit's score is made; `max_softmax`.

    Returns:
        The bundle, whose chain has been compared with the original network at batch sizes 1 and 3, and with itself on a batch
        whose samples leave at different exits.

    Raises:
        UsageError: the path or the rule cannot be used.
        ModelError: the network cannot be captured or cut.
        DataError: the example does not fit.
        CheckError: the chain's logits differ from the original's by more than 1e-5 of the largest (four steps of half precision
            for a network in half precision), or the network mixes the samples of a batch.
        MissingError: a package is not installed, or the path cannot be written.
    """
    with new_variant(path) as folder:
        captured, golden = _capture(model, example)
        classes = captured.reference(golden[:1])[0].shape[1]
        precision = _precision(captured)
        heads = add_decisions(captured.model, captured.logits, rule)
        rewrite_shapes(captured.model)
        RemoveUnusedNodesPass()(captured.model)
        ClearMetadataAndDocStringPass()(captured.model)  # exporters leave stack traces with the workstation's paths
        whole = _save_whole(captured.model, folder)
        heads = [Head(*(_value(whole, str(value.name)) for value in head)) for head in heads]
        macs = count_macs(whole)
        static_macs = _check_order(whole, captured, heads, macs)
        plans = plan_stages(whole.graph, heads)
        tensors = _probe(whole, plans, golden, folder)
        stages = tuple(
            _save_stage(whole, k, plan, head, tensors, macs, folder)
            for k, (plan, head) in enumerate(zip(plans, heads, strict=True))
        )
        exits = tuple(
            _save_static(whole, k, name, head, static_macs[k], folder)
            for k, (name, head) in enumerate(zip(captured.logits, heads, strict=True))
        )
        signature = tensors[str(whole.graph.inputs[0].name)]
        answers = verify_chain(folder, stages, exits, signature, classes, golden, captured.reference)
        np.savez(folder / GOLDEN, x=golden, label=answers.label, score=answers.score, logits=answers.logits)  # type: ignore[arg-type]
        variant = Variant(
            name=precision,
            folder=f"variants/{precision}",
            rule=rule,
            weights=WEIGHTS,
            whole=WHOLE,
            golden=GOLDEN,
            stages=stages,
            exits=exits,
            files=list_files(folder),
        )
        manifest = Manifest(
            schema=SCHEMA,
            offramp=__version__,
            network=captured.name,
            classes=classes,
            inputs=(signature,),
            variants=(variant,),
        )
        return commit(path, folder, manifest)


def _capture(model: Any, example: Any) -> tuple[Captured, np.ndarray]:
    """Capture the network and make the golden samples, `ROWS` different ones."""
    if isinstance(model, (str, os.PathLike)):
        captured = capture_onnx(model)
        golden = _golden(random_example(captured.model, ROWS) if example is None else _as_array(example))
        value = captured.model.graph.inputs[0]
        assert value.shape is not None and value.dtype is not None
        if golden.shape[1:] != tuple(value.shape[1:]) or golden.dtype != value.dtype.numpy():
            raise DataError(
                f"The example is {golden.dtype} {golden.shape[1:]} per sample; the network takes "
                f"{value.dtype.numpy()} {tuple(value.shape[1:])}."
            )
        return captured, golden
    require("torch", extra="export")
    import torch

    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"A network is a torch.nn.Module or the path of an .onnx file, not a {type(model).__name__}.")
    if example is None:
        raise UsageError(
            "A torch network needs an example: samples with their batch axis, such as torch.randn(1, 3, 32, 32)."
        )
    golden = _golden(_as_array(example))
    return capture_torch(model, golden), golden


def _as_array(example: Any) -> np.ndarray:
    if isinstance(example, (list, tuple)):
        if len(example) != 1:
            raise UsageError(f"The example is {len(example)} inputs; this version takes networks with one.")
        (example,) = example
    if hasattr(example, "detach"):
        try:
            example = example.detach().cpu().numpy()
        except TypeError as error:
            raise DataError(
                f"The example is {example.dtype}, which NumPy does not have. Use float32 or float16."
            ) from error
    array = np.asarray(example)
    if array.ndim < 2 or array.shape[0] == 0 or array.dtype.kind not in "fiub":
        raise DataError(
            f"The example is {array.dtype} {array.shape}: it must be numbers with a batch axis first, (N, ...)."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("The example holds NaN or infinity.")
    return array


def _golden(example: np.ndarray) -> np.ndarray:
    """Make `ROWS` samples of the example; where it has fewer, floats are scaled so that no two rows are alike."""
    rows = np.ascontiguousarray(example[np.arange(ROWS) % len(example)])
    if rows.dtype.kind == "f":
        scale = 1 - np.maximum(0, np.arange(ROWS) - len(example) + 1) / 8
        rows = (rows * scale.reshape(-1, *[1] * (rows.ndim - 1))).astype(rows.dtype)
    return rows


def _precision(captured: Captured) -> str:
    """Name the variant after what the network computes its logits in."""
    dtype = next(iter(captured.logits.values())).dtype
    return {ir.DataType.FLOAT16: "fp16", ir.DataType.DOUBLE: "fp64"}.get(dtype, "fp32")  # type: ignore[arg-type]


def _value(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.outputs if value.name == name)


def _save_whole(model: ir.Model, folder: Path) -> ir.Model:
    """Write the whole graph with its weights beside it and read it back, so that every cut refers to those weights."""
    ir.save(model, folder / WHOLE, external_data=WEIGHTS)
    if not (folder / WEIGHTS).exists():  # a network so small that every weight lies in the graph
        (folder / WEIGHTS).touch()
    return ir.load(folder / WHOLE)


def _check_order(whole: ir.Model, captured: Captured, heads: Sequence[Head], macs: dict[str, int]) -> list[int]:
    """Return the multiply-accumulates up to each exit, which must rise.

    Raises:
        ModelError: they do not, so the exits are listed out of order or one twice.
    """
    before = [ancestors(whole.graph, head.logits) for head in heads]
    up_to = [sum(macs[str(node.name)] for node in nodes) for nodes in before]
    names = list(captured.logits)
    for k in range(1, len(up_to)):
        # Where an exit multiplies in operators that are not counted, its nodes tell which is the deeper.
        counted = all(macs[str(node.name)] for node in before[k] ^ before[k - 1] if node.op_type in MULTIPLIES)
        depth = up_to if counted and up_to[k] > 0 else [len(nodes) for nodes in before]
        if depth[k] <= depth[k - 1]:
            raise ModelError(
                f"Exit {names[k]} takes no more work than the exit before it, {names[k - 1]} ({depth[k]} against {depth[k - 1]} "
                f"{'multiply-accumulates' if depth is up_to else 'nodes'}): list the exits from the shallowest to the deepest, "
                "each once."
            )
    return up_to


def _probe(whole: ir.Model, plans: Sequence[Plan], golden: np.ndarray, folder: Path) -> dict[str, Tensor]:
    """Find the dtype, shape and batch axis of every boundary tensor by running the whole at two batch sizes.

    Raises:
        ModelError: the graph does not run at another batch size, or a tensor mixes the batch with another axis.
    """
    ort = require("onnxruntime", extra="onnx")
    source = whole.graph.inputs[0]
    values = list(dict.fromkeys(v for plan in plans for v in plan.reads if v is not source))
    probe = ir.convenience.extract(whole.graph, [source], values or [whole.graph.outputs[0]])
    for value in probe.outputs:
        value.shape = None
    ir.save(ir.Model(probe, ir_version=whole.ir_version), folder / "probe.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(folder / "probe.onnx"), options, providers=["CPUExecutionProvider"])
        two, three = ([golden[:n], *session.run(None, {source.name: golden[:n]})] for n in (2, 3))
    except Exception as error:
        raise ModelError(
            f"The graph does not run at batch sizes 2 and 3: {str(error).splitlines()[0]} "
            "Export it with a dynamic batch axis."
        ) from error
    (folder / "probe.onnx").unlink()
    return {
        str(value.name): _signature(str(value.name), a, b)
        for value, a, b in zip([source, *values], two, three, strict=False)
    }


def _signature(name: str, two: np.ndarray, three: np.ndarray) -> Tensor:
    changed = [i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
    if len(changed) > 1 or any((two.shape[i], three.shape[i]) != (2, 3) for i in changed):
        raise ModelError(
            f"The tensor {name} crosses an exit with the shapes {two.shape} and {three.shape} at batch sizes 2 and 3: "
            "it needs the batch on an axis of its own."
        )
    if two.dtype.name not in get_args(Dtype):
        raise ModelError(f"The tensor {name} is {two.dtype.name}, which no stage can take in.")
    shape = tuple(None if i in changed else int(axis) for i, axis in enumerate(two.shape))
    return Tensor(name=name, dtype=cast(Dtype, two.dtype.name), shape=shape)


def _save_stage(
    whole: ir.Model,
    k: int,
    plan: Plan,
    head: Head,
    tensors: dict[str, Tensor],
    macs: dict[str, int],
    folder: Path,
) -> Stage:
    ir.save(extract_stage(whole, plan, head, tensors), folder / f"stage{k}.onnx")
    return Stage(
        file=f"stage{k}.onnx",
        inputs=tuple(tensors[str(value.name)] for value in plan.reads),
        outputs=tuple(tensors[str(value.name)] for value in plan.makes),
        macs=sum(macs[str(node.name)] for node in plan.nodes),
    )


def _save_static(whole: ir.Model, k: int, name: str, head: Head, macs: int, folder: Path) -> Exit:
    graph = ir.convenience.extract(whole.graph, [whole.graph.inputs[0]], list(head))
    ir.save(ir.Model(graph, ir_version=whole.ir_version), folder / f"static{k}.onnx")
    logits, score, label = (str(value.name) for value in head)
    return Exit(name=name, logits=logits, score=score, label=label, static=f"static{k}.onnx", macs=macs)
