"""What reads files of strangers, each as a function of the file's bytes; and what must be true of all of them.

A file is read, and what was read can be written and read again; or it is refused by one clear error. To fuzz another reader add
it to `READERS` with an example, and to `STRUCTURES`.
"""

import atexit
import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from offramp.bundle import open_bundle, pack, read_calibration, write_calibration
from offramp.bundle.golden import read_golden, write_golden
from offramp.bundle.manifest import File
from offramp.bundle.writing import write_manifest
from offramp.calibrate import read_targets
from offramp.errors import OfframpError, printable
from offramp.files import sha256
from offramp.runtime.audit.states import AuditState, read_state, write_state
from offramp.runtime.protocol import read_request, write_request
from offramp.tests.helpers.bundles import ARCHIVE

LIMIT_S, MOST_CHARACTERS = 5, 600


class Reader(NamedTuple):
    """One reader.

    Attributes:
        example: a file that it reads.
        read: reads the file at `place`.
        write: writes what was read to `place`, in the form that is read; None if nothing of ours writes such files.
        name: the file's name in the folder.
    """

    example: bytes
    read: Callable[[Path], Any]
    write: Callable[[Path, Any], None] | None
    name: str


def _read_golden(path: Path) -> Any:
    """Read golden samples of a bundle whose manifest has the file's hash, as somebody hostile would write it."""
    bundle = open_bundle(ARCHIVE)
    (path.parent / "variants/fp32").mkdir(parents=True, exist_ok=True)
    content = path.read_bytes()
    (path.parent / "variants/fp32/golden.npz").write_bytes(content)
    variant = bundle.variant()
    facts = variant.files | {variant.golden: File(bytes=len(content), sha256=sha256(content))}
    return read_golden(replace(bundle, path=path.parent), replace(variant, files=facts))


def _read_request(path: Path) -> Any:
    """Read a request and its tensors; the JSON ends at the first byte 0, if there is one."""
    content = path.read_bytes()
    end = content.find(0)
    request = read_request(content, None if end < 0 else end)
    return [tensor.read().tolist() for tensor in request.inputs.values()]


def _pack_archive() -> bytes:
    with tempfile.TemporaryDirectory(prefix="fuzzing.") as folder:
        own = shutil.copytree(ARCHIVE, Path(folder, "dense.offramp"))  # which is locked while it is packed
        return pack(own, Path(folder, "a.zip")).path.read_bytes()


STATE = AuditState(
    device="a" * 16,
    variant="b" * 16,
    point="default",
    promised=0.05,
    chance=(0.05, 0.025),
    calibrated=(5, 3, 2),
    exits=(50, 30, 20),
    edges=(0.5,),
    known_scores=(3, 7),
    scores=(40, 60),
    audited=10,
    disagreeing=1.0,
)

READERS = {
    "manifest": Reader(
        (ARCHIVE / "manifest.json").read_bytes(),
        lambda path: open_bundle(path.parent).manifest,
        lambda path, manifest: write_manifest(path.parent, manifest),
        "manifest.json",
    ),
    "calibration": Reader(
        (ARCHIVE / "calibrations/default.json").read_bytes(), read_calibration, write_calibration, "calibration.json"
    ),
    "target": Reader(
        b"eco: {goal: latency, max_drop: 2 %}\nfast: {max_latency_s: 800 us}\n", read_targets, None, "t.yaml"
    ),
    "golden": Reader((ARCHIVE / "variants/fp32/golden.npz").read_bytes(), _read_golden, write_golden, "golden.npz"),
    "state": Reader(msgspec.json.encode(STATE), read_state, write_state, "audit.json"),
    "request": Reader(
        write_request({"x": np.ones((1, 4), np.float32)}, binary=False).body, _read_request, None, "request"
    ),
    "packed": Reader(_pack_archive(), lambda path: open_bundle(path).manifest, None, "dense.offramp.zip"),
}


class Place:
    """A folder with a whole bundle in it, in which one file after another is read."""

    def __init__(self, kind: str) -> None:
        self.reader = READERS[kind]
        self.folder = Path(tempfile.mkdtemp(prefix="fuzzing."))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        shutil.copytree(ARCHIVE, self.folder, dirs_exist_ok=True)
        self.path = self.folder / self.reader.name

    def check(self, content: bytes) -> bool:
        """Read bytes as a file of the kind; return True if they were read, False if they were refused.

        Raises:
            AssertionError: it took too long, the refusal is not clear, or what was read is not what is written and read again.
            Exception: any that is no refusal.
        """
        self.path.write_bytes(content)
        start = time.process_time()
        try:
            read = self.reader.read(self.path)
        except OfframpError as error:
            words = str(error)
            assert error.exit_code > 1, words
            assert len(words) <= MOST_CHARACTERS and words == printable(words), words
            return False
        finally:
            assert time.process_time() - start < LIMIT_S
        if self.reader.write is not None:
            self.reader.write(self.path, read)
            assert _plain(self.reader.read(self.path)) == _plain(read)
        str(read)
        return True


def _plain(value: Any) -> bytes:
    """Return a value as bytes that are equal for equal values, NaN included."""
    file = io.BytesIO()
    with contextlib.suppress(TypeError):
        return msgspec.json.encode(value)
    for array in [*value.inputs, value.label, value.score, *(a for each in value.answers for a in each.values())]:
        np.lib.format.write_array(file, np.ascontiguousarray(array))
    return file.getvalue()
