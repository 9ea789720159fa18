"""One ONNX file that exits early by itself, for any language that has ONNX Runtime."""

import os
import re
import secrets
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from ..bundle import Bundle, Calibration, OperatingPoint, Variant, opened
from ..bundle.across import Across
from ..bundle.calibration import EARLY_SUFFIX
from ..bundle.golden import Golden, read_golden
from ..bundle.manifest import NEVER
from ..errors import BundleError, CheckError, ModelError, UsageError, require
from ..files import NEW, check_writable, os_errors_explained, sync
from ..runtime import UncalibratedWarning
from ..runtime.chain.checks import check_thresholds
from ..runtime.selection import choose_point
from .branches import THRESHOLDS, name_outputs, nest_stages
from .cut.equivalence import allow_error
from .cut.stage_files import read_graph
from .graph.axes import axes_of, first_line, take_samples
from .graph.running import describe_difference, open_session, relative_error

__all__ = ["Fused", "fuse"]

MOST_INLINE_BYTES = 1 << 27
"""Weights up to this size lie in the file itself; more lie in a data file beside it.

To write and check a file that holds its weights takes four times their memory, with a data file about once: it is copied in
pieces, and mapped into memory where it is read.
"""

TOLERANCE_FACTOR = 10
"""The fused file may differ from the golden answers by this many times what the chain may differ from the original."""


class Fused(msgspec.Struct, frozen=True):
    """A fused file.

    Attributes:
        path: the file.
        inputs: the names of the network's inputs that it takes.
        outputs: the names of its outputs: `label`, `score`, `exit`, `logits`; of a network that does not classify `score`, `exit`
            and the parts of its answer.
        thresholds: the thresholds that it exits by unless it is given others.
        bytes: its size, with its data file if it has one.

    Example:
        >>> from offramp.export import fuse
        >>> fused = fuse("digits.offramp", "digits.onnx", thresholds=[0.9, 0.8])
        >>> fused.outputs
        ('label', 'score', 'exit', 'logits')
    """

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
    """Write a bundle as one ONNX file for one sample at a time, and run it on the golden samples.

    The file takes the bundle's inputs with a batch of one, and `thresholds`, float32 (exits - 1,), which may be left out. It
    gives `label` int64 (1,), `score` float32 (1,), `exit` int64 (1,) and `logits` float32 (1, classes); a network that does not
    classify gives `score`, `exit` and the parts of its answer, such as `boxes`, with a batch of one. More than 128 MiB of
    weights lie in a data file beside it, which must stay there; then `fuse` takes about the weights' size in memory. While
    it works, a copy of the weights lies beside it.

    Args:
        path: the bundle's folder, or a bundle already opened.
        output: the file to write; an existing one is replaced.
        variant, point, calibration: name the operating point whose thresholds it exits by, as for `runtime.load`.
        thresholds: thresholds to exit by, one for each exit but the last, instead of a calibration's.

    Raises:
        UsageError: the thresholds do not fit, a name is unknown, or the operating point does not exit early.
        BundleError, MissingError: as for `runtime.load`; MissingError also if the file cannot be written.
        CheckError: the file's answers for the golden samples differ from the bundle's.

    Example:
        >>> from offramp.export import fuse
        >>> fused = fuse("digits.offramp", "digits.onnx", thresholds=[0.75, 0.5])
        >>> print(fused.path, fused.thresholds)
        digits.onnx (0.75, 0.5)
    """
    bundle = opened(path)
    chosen, limits = _choose_thresholds(bundle, variant, point, calibration, thresholds)
    output = Path(output)
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(bundle.path)):
        raise UsageError(f"{output} lies inside the bundle. Write the fused file beside it.", path=output)
    check_writable(output)
    golden = read_golden(bundle, chosen)
    with (
        os_errors_explained(output, "write"),
        tempfile.TemporaryDirectory(prefix=NEW, dir=output.parent) as scratch,
        tempfile.TemporaryDirectory(prefix=NEW, dir=output.parent) as folder,
    ):
        model, inline = _nest_variant(bundle, chosen, limits, Path(scratch))
        names = tuple(str(value.name) for value in model.graph.inputs if value.name != THRESHOLDS)
        new = Path(folder) / output.name
        data = None if inline else f"{output.name}.{secrets.token_hex(4)}.data"
        ir.save(model, new, external_data=data)
        samples = _single_samples(bundle, chosen, golden, names)
        session = _open_fused(new, mapped=not inline)
        outputs = name_outputs(chosen)
        _check_fused(session, outputs, samples, golden, limits, allow_error(chosen.precision, chosen.own_error))
        total_bytes = _move_files(Path(folder), output)
    return Fused(path=str(output), inputs=names, outputs=outputs, thresholds=limits, bytes=total_bytes)


def _choose_thresholds(
    bundle: Bundle,
    variant: str | None,
    point: str | None,
    calibration: "str | os.PathLike[str] | Calibration | None",
    thresholds: Sequence[float] | None,
) -> tuple[Variant, tuple[float, ...]]:
    """Return the variant to fuse and its thresholds: those given, else an operating point's, else never to exit early.

    Raises:
        UsageError: the thresholds do not fit, a name is unknown, or the operating point does not exit early.
        BundleError: the calibration is damaged, or was made for something else.
    """
    if thresholds is not None:
        if point is not None or calibration is not None:
            raise UsageError("Give thresholds, or a point or calibration to take them from, not both.")
        chosen = bundle.variant(variant)
        return chosen, check_thresholds(thresholds, len(chosen.exits))
    chosen, _, operating_point = choose_point(bundle, calibration, variant=variant, point=point)
    if operating_point is None:
        warnings.warn(
            f"{bundle.path} has no calibration: the fused file runs to the last exit unless it is given thresholds.",
            UncalibratedWarning,
            stacklevel=3,
        )
        return chosen, (NEVER,) * (len(chosen.exits) - 1)
    if isinstance(chosen, Across):
        raise UsageError(
            f"The operating point is {operating_point.engines}: {chosen.words}. A fused file holds one variant: name a point of "
            "one, or join both with `offramp cascade` and fuse that bundle.",
            path=bundle.path,
        )
    _check_exits_early(bundle, chosen, operating_point, point)
    return chosen, operating_point.thresholds


def _check_exits_early(bundle: Bundle, variant: Variant, operating_point: OperatingPoint, name: str | None) -> None:
    """See that there is something to fuse: an operating point at which some samples may leave early.

    Raises:
        UsageError: it is a static network, or its thresholds let no sample leave.
    """
    if operating_point.static is not None:
        static = bundle.file(variant, variant.exits[operating_point.static].static)
        raise UsageError(
            f"The operating point is {operating_point.engines}, which does not exit early and is one file already: "
            f"{static}. For the chain name a point with early exit: --point {name or 'default'}{EARLY_SUFFIX}.",
            path=bundle.path,
        )
    if min(operating_point.thresholds, default=NEVER) >= NEVER:
        static = bundle.file(variant, variant.exits[-1].static)
        raise UsageError(
            f"The operating point lets nothing leave early, so there is nothing to fuse: ship the static network {static}, or "
            "give thresholds.",
            path=bundle.path,
        )


def _nest_variant(
    bundle: Bundle, variant: Variant, thresholds: Sequence[float], scratch: Path
) -> tuple[ir.Model, bool]:
    """Nest a variant's stages in one model; return it, and whether its weights are few enough to lie in the file itself.

    The model reads its weights from a copy in `scratch`.

    Raises:
        BundleError: the stages or their weights do not fit together.
    """
    bundle.copy(variant, variant.weights, scratch / variant.weights)
    stages = [_read_stage(bundle, variant, stage.file, scratch) for stage in variant.stages]
    weight_bytes = sum(
        value.const_value.nbytes
        for stage in stages
        for value in stage.graph.initializers.values()
        if value.const_value is not None
    )
    if inline := weight_bytes <= MOST_INLINE_BYTES:
        for stage in stages:
            ir.external_data.load_to_model(stage)
    manifest = bundle.manifest
    try:
        model = nest_stages(stages, variant, [tensor.name for tensor in manifest.inputs], thresholds)
    except KeyError as error:
        raise BundleError(
            f"The stages of {bundle.path} have no tensor {error}. Export the network anew.", path=bundle.path
        ) from error
    model.metadata_props["offramp.network"] = manifest.network
    if manifest.class_names:
        model.metadata_props["offramp.class_names"] = "\n".join(manifest.class_names)
    return model, inline


def _read_stage(bundle: Bundle, variant: Variant, file: str, scratch: Path) -> ir.Model:
    """Read a stage's graph; its weights stay in their file until they are written.

    Raises:
        BundleError: it is no graph, or looks for weights in another file or beyond the end of this one.
    """
    model, path = read_graph(bundle, variant, file, scratch), bundle.path / variant.folder / file
    graphs = [model.graph, *model.graph.subgraphs()]
    tensors = [value.const_value for graph in graphs for value in graph.initializers.values()]
    weights, file_bytes = variant.weights, variant.files[variant.weights].bytes
    for tensor in (tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)):
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if tensor.location != weights or end > file_bytes:
            raise BundleError(
                f"The weights of {path} cannot be read: {tensor.name} lies in {tensor.location} up to byte {end}, and {weights} "
                f"has {file_bytes} bytes. Export the network anew.",
                stage=path.name,
                path=path,
            )
    return model


def _single_samples(
    bundle: Bundle, variant: Variant, golden: Golden, names: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Return each golden sample alone, by the names of the fused file's inputs; inputs that no stage reads are left out."""
    inputs = bundle.manifest.inputs
    axes = [axes_of(tensor) for tensor in inputs]
    read = {tensor.name for stage in variant.stages for tensor in stage.inputs}
    used = [i for i, tensor in enumerate(inputs) if tensor.name in read]
    singles = (take_samples(golden.inputs, axes, [row]) for row in range(len(golden.label)))
    return [dict(zip(names, [single[i] for i in used], strict=True)) for single in singles]


def _open_fused(path: Path, *, mapped: bool) -> Any:
    """Load the fused file into ONNX Runtime; `mapped` leaves its weights where they lie, in no order of this processor's own.

    Raises:
        ModelError: ONNX Runtime does not load it.
    """
    require("onnxruntime", extra="onnx")
    try:
        return open_session(path, optimise="ORT_ENABLE_EXTENDED" if mapped else "ORT_ENABLE_ALL", prepack=not mapped)
    except Exception as error:
        raise ModelError(f"ONNX Runtime does not load the fused file: {first_line(error)}") from error


def _check_fused(
    session: Any,
    outputs: Sequence[str],
    samples: list[dict[str, np.ndarray]],
    golden: Golden,
    thresholds: Sequence[float],
    tolerance: float,
) -> None:
    """Run the file on the golden samples, forced to every exit in turn and with its own thresholds.

    Raises:
        CheckError: it gives other answers, or leaves at another exit.
    """
    exits = golden.score.shape[1]
    allowed = TOLERANCE_FACTOR * tolerance
    for row, sample in enumerate(samples):
        for k in range(exits):
            forcing = np.where(np.arange(exits - 1) < k, np.float32(NEVER), np.float32(0))
            given = dict(zip(outputs, session.run(outputs, sample | {THRESHOLDS: forcing}), strict=True))
            expected = {part: values[row][None] for part, values in golden.answers[k].items()}
            error_share = relative_error(given, expected)
            if int(given["exit"][0]) != k:
                raise CheckError(
                    f"Forced to exit {k}, the fused file leaves at exit {int(given['exit'][0])}. Nothing was written."
                )
            if not error_share <= allowed:
                difference = describe_difference(given, expected, error_share, allowed)
                raise CheckError(
                    f"The fused file differs from the bundle at exit {k} {difference} Nothing was written."
                )
        scores, limits = golden.score[row, :-1], np.array(thresholds, np.float32)
        if np.abs(scores - limits).min() > tolerance:  # else rounding may decide
            left = int(np.argmax([*(scores >= limits), True]))
            if int(session.run(["exit"], sample)[0][0]) != left:
                raise CheckError(
                    f"The fused file does not leave golden sample {row} at exit {left}. Nothing was written."
                )


def _move_files(folder: Path, output: Path) -> int:
    """Move the files of a folder into place, the graph last; then remove the data file of the graph that it replaces.

    Returns:
        The bytes of all files.
    """
    written = sorted(folder.iterdir(), key=lambda path: path.name == output.name)
    total_bytes = sum(path.stat().st_size for path in written)
    for path in written:
        sync(path)
        path.replace(output.parent / path.name)
    sync(output.parent)
    for path in output.parent.iterdir():
        is_data_file = re.fullmatch(re.escape(output.name) + r"\.[0-9a-f]{8}\.data", path.name)
        if is_data_file and path.name not in [new.name for new in written]:
            path.unlink()
    return total_bytes
