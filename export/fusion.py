"""One ONNX file that exits early by itself, for any language that has ONNX Runtime."""

import os
import re
import secrets
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from ..bundle import Bundle, open_bundle
from ..bundle.calibration import EARLY_SUFFIX
from ..bundle.golden import Golden, read_golden
from ..bundle.manifest import NEVER
from ..errors import BundleError, CheckError, ModelError, UsageError, require
from ..files import NEW, check_writable, os_errors_explained, sync
from ..runtime import UncalibratedWarning
from ..runtime.chain.checks import check_thresholds
from ..runtime.selection import choose_point
from .branches import OUTPUTS, THRESHOLDS, nest_stages
from .cut.equivalence import TOLERANCE
from .cut.stage_files import read_graph
from .graph.axes import axes_of, first_line, take
from .graph.running import open_session, relative_error

INLINE = 1 << 30
"""Bytes of weights up to which the file holds them itself; protobuf ends at 2 GiB. Above, they lie in a data file beside it."""


class Fused(msgspec.Struct, frozen=True):
    """What was fused: the file, what it takes and gives, and the thresholds it exits by unless it is given others."""

    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    thresholds: tuple[float, ...]
    bytes: int

    def __str__(self) -> str:
        shown = ", ".join("never" if t > 1 else f"{t:.6g}" for t in self.thresholds)
        return (
            f"{self.path}  {self.bytes / 1e6:.2f} MB, inputs {', '.join(self.inputs)}, outputs {', '.join(self.outputs)}\n"
            f"thresholds {shown}; ONNX Runtime takes others as the optional input {THRESHOLDS}, OpenVINO keeps these"
        )


def fuse(
    path: str | os.PathLike[str] | Bundle,
    output: str | os.PathLike[str],
    *,
    variant: str | None = None,
    point: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> Fused:
    """Write a bundle as one ONNX file for one sample at a time.

    The file takes the bundle's inputs with a batch of one, and `thresholds`, float32 (exits - 1,), which may be left out. It
    gives `label` int64 (1,), `score` float32 (1,), `exit` int64 (1,) and `logits` float32 (1, classes). It has been run on the
    golden samples. More than a gigabyte of weights lies in a data file beside it, which must stay there.

    Args:
        path: the bundle's folder, or a bundle already opened.
        output: the file to write; one that is there is replaced.
        variant, point, calibration: which thresholds it exits by, as for `runtime.load`.
        thresholds: these instead of a calibration's.

    Raises:
        UsageError: the thresholds do not fit, or a name is unknown.
        BundleError, MissingError: as for `runtime.load`; MissingError too where the file cannot be written.
        CheckError: the file does not say what the golden samples say.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    if thresholds is not None:
        if point is not None or calibration is not None:
            raise UsageError("Give thresholds, or a point or calibration to take them from, not both.")
        chosen = bundle.variant(variant)
        limits = check_thresholds(thresholds, len(chosen.exits))
    else:
        chosen, _, found = choose_point(bundle, calibration, variant=variant, point=point)
        if found is not None and found.static is not None:
            raise UsageError(
                f"The operating point is {found.engines}, which does not exit early and is one file already: "
                f"{bundle.file(chosen, chosen.exits[found.static].static)}. For the chain name a point with early exit, such as "
                f"{point or 'default'}{EARLY_SUFFIX}."
            )
        limits = found.thresholds if found else (NEVER,) * (len(chosen.exits) - 1)
        if found is not None and min(limits, default=NEVER) >= NEVER:
            raise UsageError(
                f"The operating point lets nothing leave early, so there is nothing to fuse: ship the static network "
                f"{bundle.file(chosen, chosen.exits[-1].static)}, or give thresholds."
            )
        if found is None:
            warnings.warn(
                f"{bundle.path} has no calibration: the fused file runs to the last exit unless it is given thresholds.",
                UncalibratedWarning,
                stacklevel=2,
            )
    output = Path(output)
    if output.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"{output} lies inside the bundle. Write the fused file beside it.")
    check_writable(output)
    golden = read_golden(bundle, chosen)
    bundle.file(chosen, chosen.weights)  # checks its content
    stages = [_load_stage(bundle.file(chosen, stage.file)) for stage in chosen.stages]
    weights = sum(tensor.nbytes for model in stages for tensor in _weights_of(model.graph))
    manifest = bundle.manifest
    try:
        model = nest_stages(stages, chosen, [tensor.name for tensor in manifest.inputs], limits)
    except KeyError as error:
        raise BundleError(f"The stages of {bundle.path} have no tensor {error}. Export the network anew.") from error
    model.metadata_props["offramp.network"] = manifest.network
    if manifest.class_names:
        model.metadata_props["offramp.class_names"] = "\n".join(manifest.class_names)
    names = tuple(str(value.name) for value in model.graph.inputs if value.name != THRESHOLDS)
    with os_errors_explained(output, "write"), tempfile.TemporaryDirectory(prefix=NEW, dir=output.parent) as folder:
        new = Path(folder) / output.name
        data = f"{output.name}.{secrets.token_hex(4)}.data" if weights > INLINE else None
        ir.save(model, new, external_data=data)
        axes = [axes_of(tensor) for tensor in manifest.inputs]
        read = {tensor.name for stage in chosen.stages for tensor in stage.inputs}
        used = [i for i, tensor in enumerate(manifest.inputs) if tensor.name in read]
        singles = [
            [single[i] for i in used]
            for single in (take(golden.inputs, axes, [row]) for row in range(len(golden.label)))
        ]
        _check(
            new,
            [dict(zip(names, single, strict=True)) for single in singles],
            golden,
            limits,
            TOLERANCE[chosen.precision],
        )
        written = _move(Path(folder), output)
    return Fused(path=str(output), inputs=names, outputs=OUTPUTS, thresholds=limits, bytes=written)


def _load_stage(path: Path) -> ir.Model:
    model = read_graph(path)
    try:
        ir.external_data.load_to_model(model)
    except Exception as error:  # such as weights that the graph looks for elsewhere
        raise BundleError(f"The weights of {path} cannot be read: {error} Export the network anew.") from error
    return model


def _weights_of(graph: ir.Graph) -> list[ir.TensorProtocol]:
    return [value.const_value for value in graph.initializers.values() if value.const_value is not None]


def _check(
    path: Path, samples: list[dict[str, np.ndarray]], golden: Golden, limits: Sequence[float], tolerance: float
) -> None:
    """Run the file on the golden samples, forced to every exit in turn and with its own thresholds."""
    require("onnxruntime", extra="onnx")
    try:
        session = open_session(path)
    except Exception as error:
        raise ModelError(f"ONNX Runtime does not load the fused file: {first_line(error)}") from error
    assert golden.logits is not None
    exits = golden.score.shape[1]
    for row, sample in enumerate(samples):
        for forced in range(exits):
            values = np.where(np.arange(exits - 1) < forced, np.float32(NEVER), np.float32(0))
            _, _, exit_, logits = session.run(OUTPUTS, sample | {THRESHOLDS: values})
            theirs = golden.logits[row, forced]
            off = relative_error(logits, theirs[None])
            if int(exit_[0]) != forced or not off <= 10 * tolerance:
                raise CheckError(
                    f"The fused file differs from the bundle at exit {forced} by {off:.2g} of its largest logit; "
                    f"{10 * tolerance:.2g} is allowed. Nothing was written."
                )
        score, own = golden.score[row, :-1], np.array(limits, np.float32)
        if np.abs(score - own).min() > tolerance:
            wanted = int(np.argmax([*(score >= own), True]))
            if int(session.run(["exit"], sample)[0][0]) != wanted:
                raise CheckError(
                    f"The fused file does not leave golden sample {row} at exit {wanted}. Nothing was written."
                )


def _move(folder: Path, output: Path) -> int:
    """Move what was written into place, the graph last; then remove the data file of the graph that was there before.

    Returns:
        The bytes of it all.
    """
    written = sorted(folder.iterdir(), key=lambda path: path.name == output.name)
    total = sum(path.stat().st_size for path in written)
    for path in written:
        sync(path)
        path.replace(output.parent / path.name)
    sync(output.parent)
    for path in output.parent.iterdir():
        ours = re.fullmatch(re.escape(output.name) + r"\.[0-9a-f]{8}\.data", path.name)
        if ours and path.name not in [new.name for new in written]:
            path.unlink()
    return total
