"""Golden samples, read and written: a few inputs of a variant, and the answers of every exit when it was exported."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ..errors import BundleError, quoted
from .across import Across
from .manifest import NO_LABEL, Variant, reads_earlier_exits
from .reading import Bundle
from .tensor import Tensor

__all__ = ["Golden", "claimed_bytes", "read_golden", "write_golden"]


MOST_BYTES = 2 << 30
"""Golden samples are a few, and take no more."""

MOST_OTHERS = 100
"""So much else may lie in the archive. Each entry takes fifty bytes of it, and ten times as much memory."""

ENTRY = b"PK\1\2"
"""With what an entry in the list of an archive's members begins."""


class Golden(Struct, frozen=True):
    """The golden samples of a variant.

    Attributes:
        inputs: one array per input of the network, N samples each, as the network takes them.
        label: int64 (N, exits), the class that each exit gave; -1 if the network does not classify.
        score: float32 (N, exits), how sure each exit was.
        answers: of each exit the parts of its answers by name, (N, ...): {"logits": (N, classes)} if the network classifies.
    """

    inputs: tuple[np.ndarray, ...]
    label: np.ndarray
    score: np.ndarray
    answers: tuple[dict[str, np.ndarray], ...]


def read_golden(bundle: Bundle, variant: Variant) -> Golden:
    """Read a variant's golden samples.

    Raises:
        BundleError: the file is damaged, or does not belong to the variant.
    """
    if isinstance(variant, Across):
        return _join_golden(bundle, variant)
    path, size = bundle.path / variant.folder / variant.golden, variant.files[variant.golden].bytes
    if size > MOST_BYTES:
        raise BundleError(f"{path} is larger than {MOST_BYTES >> 30} GiB, which no golden samples are.", path=path)
    content = bundle.read(variant, variant.golden)
    manifest, names = bundle.manifest, _name_answers(variant, bundle.manifest.classes)
    try:
        of_inputs = [f"input{i}" for i in range(len(manifest.inputs))]
        arrays = _read_arrays(content, [*of_inputs, "score", *names])
    except Exception as error:  # a damaged archive raises one of a dozen types
        raise BundleError(
            f"{path} does not hold golden samples: {quoted(error).rstrip('.')}. Export the network anew.", path=path
        ) from error
    inputs = [arrays[name] for name in of_inputs]
    if (rows := _count_rows(inputs, manifest.inputs)) is None:
        found = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
        raise BundleError(
            f"{path} does not hold samples of this network: it has {found}. Export the network anew.", path=path
        )
    if {arrays[name].dtype.kind for name in ("score", *names)} - set("iufb"):
        raise BundleError(f"{path} has answers that are no numbers. Export the network anew.", path=path)
    floats = [] if manifest.classes else [a for name in names if (a := arrays[name]).dtype.kind == "f"]
    if not all(np.isfinite(array).all() for array in floats):  # a classifier may mask a class by minus infinity
        raise BundleError(f"{path} has answers that are not finite. Export the network anew.", path=path)
    golden = _sort_answers(tuple(inputs), arrays, variant, manifest.classes, rows)
    if golden is None:
        raise BundleError(
            f"{path} does not fit variant {variant.name}, which has {len(variant.exits)} exits. Export the network anew.",
            path=path,
        )
    return golden


def _join_golden(bundle: Bundle, across: Across) -> Golden:
    """Return the golden samples that both variants have, which are the first ones of both, and what the chain's exits gave.

    Raises:
        BundleError: they have none in common; or as `read_golden`.
    """
    first, second = read_golden(bundle, across.first), read_golden(bundle, across.second)
    rows = slice(min(len(first.score), len(second.score)))
    inputs = []
    for ours, theirs, tensor in zip(first.inputs, second.inputs, bundle.manifest.inputs, strict=True):
        part = (slice(None),) * (tensor.batch_axis or 0) + (rows,)
        if not np.array_equal(ours[part], theirs[part]):
            raise BundleError(
                f"The golden samples of {across.first.name} and {across.second.name} are different inputs, so that the chain "
                "across both cannot be compared with them. Name a device that needs no comparison, such as cpu.",
                path=bundle.path,
            )
        inputs.append(ours[part])
    if across.end is not None and reads_earlier_exits(across.second.rule):
        second = replace(second, score=np.ones_like(second.score))  # a static network has no earlier exits
    owners = [across.find_exit(k) for k in range(len(across.exits))]
    columns = [(first if variant is across.first else second, k) for variant, k in owners]
    return Golden(
        tuple(inputs),
        np.stack([golden.label[rows, k] for golden, k in columns], 1),
        np.stack([golden.score[rows, k] for golden, k in columns], 1),
        tuple({name: values[rows] for name, values in golden.answers[k].items()} for golden, k in columns),
    )


def _name_answers(variant: Variant, classes: int) -> list[str]:
    """Return the names of the arrays that hold what the exits gave."""
    if classes:
        return ["label", "logits"]
    return [f"exit{k}.{name}" for k, exit_ in enumerate(variant.exits) for name in exit_.answer]


def _sort_answers(
    inputs: tuple[np.ndarray, ...], arrays: dict[str, np.ndarray], variant: Variant, classes: int, rows: int
) -> Golden | None:
    """Return the golden samples that these arrays are; None if one has the wrong shape for its variant."""
    shape = (rows, len(variant.exits))
    label = arrays["label"] if classes else np.full(shape, NO_LABEL, np.int64)
    if classes:
        if arrays["logits"].shape != (*shape, classes):
            return None
        answers = tuple({"logits": arrays["logits"][:, k]} for k in range(shape[1]))
    else:
        answers = tuple(
            {name: arrays[f"exit{k}.{name}"] for name in exit_.answer} for k, exit_ in enumerate(variant.exits)
        )
        lengths: dict[str, int] = {}
        for values, exit_ in zip(answers, variant.exits, strict=True):
            for name, tensor in exit_.answer.items():
                if not tensor.fits(values[name].shape, lengths) or len(values[name]) != rows:
                    return None
    golden = Golden(inputs, label, arrays["score"], answers)
    return golden if golden.label.shape == golden.score.shape == shape else None


def _read_arrays(content: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read arrays of an archive of NumPy's whose members are not compressed, so that they are no larger than the archive.

    Raises:
        ValueError: a member is compressed, or an array claims another size than it has. Others where the archive is damaged.
    """
    import zipfile  # takes long to import

    if content.count(ENTRY) > len(names) + MOST_OTHERS:
        raise ValueError("It has many members that are no golden samples.")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [archive.getinfo(f"{name}.npy") for name in names]
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("Its arrays are compressed.")
        return {
            name: _read_array(archive.read(member), member.filename)
            for name, member in zip(names, members, strict=True)
        }


def _read_array(content: bytes, name: str) -> np.ndarray:
    """Read an array of NumPy's form; memory is taken only once its size is known to be right.

    Raises:
        ValueError: it is damaged, pickled, or claims another size than it has.
    """
    file = io.BytesIO(content)
    if claimed_bytes(file) not in (None, len(content)):
        raise ValueError(f"{name} does not have the size that it claims.")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def claimed_bytes(file: IO[bytes]) -> int | None:
    """Read the header of an array of NumPy's form; return how long it says that its file is, or None for Python objects.

    Raises:
        ValueError: it is damaged.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return None if dtype.hasobject else file.tell() + math.prod(shape) * dtype.itemsize


def _count_rows(inputs: Sequence[np.ndarray], tensors: Sequence[Tensor]) -> int | None:
    """Return the number of samples; None if there are none, or if they are not samples of these inputs."""
    lengths: dict[str, int] = {}
    rows = set()
    for array, tensor in zip(inputs, tensors, strict=True):
        if array.size == 0 or array.dtype.kind != np.dtype(tensor.dtype).kind or not tensor.fits(array.shape, lengths):
            return None
        rows.add(array.shape[tensor.batch_axis or 0])
    return rows.pop() if len(rows) == 1 else None


def write_golden(path: Path, golden: Golden) -> None:
    """Write golden samples as arrays `input0`, `input1`, ..., `score` and what the exits gave.

    That is `label` and `logits` (N, exits, classes) if the network classifies, else `exit0.boxes` and so on.
    """
    arrays = {f"input{i}": array for i, array in enumerate(golden.inputs)} | {"score": golden.score}
    if "logits" in golden.answers[0]:
        arrays |= {"label": golden.label, "logits": np.stack([answer["logits"] for answer in golden.answers], 1)}
    else:
        arrays |= {f"exit{k}.{name}": a for k, answer in enumerate(golden.answers) for name, a in answer.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]
