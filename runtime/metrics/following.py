"""Snapshots one after the other: of a product that writes or shows them, or of a bundle that is run here."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from ...bundle import open_bundle
from ...bundle.golden import read_golden
from ...bundle.packed import is_packed
from ...errors import MeterWarning, MissingError, OfframpError
from ...files import os_errors_explained
from ..chain.samples import convert_samples
from ..loading import load
from ..selection import choose_point
from .collection import Metrics
from .prometheus import read_page
from .snapshot import MOST_BYTES, Snapshot, read_snapshot

__all__ = ["follow_metrics"]

PATIENCE_S = 5.0
"""A page that takes longer is taken to be missing."""


def follow_metrics(
    source: str | os.PathLike[str], *, every_s: float = 1.0, net: str | None = None
) -> Iterator[Snapshot]:
    """Yield a product's snapshots, without end.

    If one cannot be read later on, as when the product ends, the last one comes again: look how old its `at_s` is.

    Args:
        source: a file that the product writes (`Metrics(net, file=...)`), the address of a page that it serves
            (`Metrics.serve`), or a bundle. That is run here on its golden samples, back to back, to show what it does on this
            device; their exits are not those of the product's inputs.
        every_s: the time between two snapshots.
        net: which network of a page, by its name in metrics; the first by default.

    Raises:
        UsageError: nothing is at a path.
        MissingError: the file or page cannot be read, or a package for it is not installed.
        BundleError: it is no snapshot, or the bundle is damaged.

    Example:
        >>> from offramp.runtime import follow_metrics
        >>> next(follow_metrics("digits.offramp", every_s=0.1)).answers > 0
        True
    """
    path = Path(source)
    with os_errors_explained(path, "read"):
        is_bundle = path.is_dir() or is_packed(path)
    if is_bundle:
        return _run_bundle(path, every_s)
    text = str(source)
    if text.startswith(("http://", "https://")):
        return _repeat(lambda: _read_address(text, net), every_s)
    return _repeat(lambda: read_snapshot(source), every_s)


def _repeat(read: Callable[[], Snapshot], every_s: float) -> Iterator[Snapshot]:
    snapshot = read()
    while True:
        yield snapshot
        time.sleep(every_s)
        with suppress(OfframpError):
            snapshot = read()


def _read_address(address: str, net: str | None) -> Snapshot:
    try:
        with urlopen(address, timeout=PATIENCE_S) as page:
            text = page.read(MOST_BYTES).decode(errors="replace")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingError(
            f"Cannot read {address}: {reason}. Does the product run, and does it show its metrics there?"
        ) from error
    return read_page(text, address, net)


def _run_bundle(path: Path, every_s: float) -> Iterator[Snapshot]:
    bundle = open_bundle(path)
    samples = list(convert_samples(read_golden(bundle, choose_point(bundle)[0]).inputs, bundle.manifest.inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeterWarning)  # most machines have none
        net = load(bundle, meter="auto")
    with net, Metrics(net, name=path.name) as metrics:
        while True:
            due_s = time.monotonic() + every_s
            while True:
                for sample in samples:
                    net(sample)
                if time.monotonic() >= due_s:
                    break
            yield metrics.snapshot()
