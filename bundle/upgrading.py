"""Bundles of earlier versions, rewritten to the form that this offramp writes."""

import os
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from .. import __version__
from ..errors import OutdatedError
from .calibration import CALIBRATION_SCHEMA, Calibration
from .manifest import SCHEMA, Manifest
from .reading import Bundle, check_bundle, open_unsigned
from .writing import new_variant, write_calibration, write_manifest

__all__ = ["Upgraded", "upgrade"]


class Upgraded(Struct, frozen=True):
    """What `upgrade` did.

    Attributes:
        path: the bundle's folder.
        rewritten: the files that were rewritten, by their paths in the bundle, and the schema that each had.
        left: calibrations that are older than this offramp reads and stay as they are, and why.

    Example:
        >>> from offramp.bundle import upgrade
        >>> upgrade("digits.offramp").rewritten  # this offramp wrote it
        {}
    """

    path: str
    rewritten: dict[str, int]
    left: dict[str, str]


def upgrade(path: str | os.PathLike[str]) -> Upgraded:
    """Rewrite the manifest and the calibrations of an older bundle to the form that this offramp writes.

    Networks, golden samples, thresholds, figures and promises stay as they are. Each file is replaced as a whole; after a kill
    some are of the old form and some of the new, which loads too. Files of the present form are not touched. Signatures are of
    the old files, so the bundle is signed again afterwards, and policies do not matter here. Older versions of offramp do not
    read the new form: keep a copy for them.

    Args:
        path: the bundle's folder.

    Raises:
        UsageError: there is nothing at the path, the bundle is packed, or another process is writing it.
        BundleError: the bundle or a calibration in it is damaged or newer than this offramp. Nothing was rewritten.
        MissingError: the bundle cannot be read or written.

    Example:
        >>> from offramp.bundle import upgrade
        >>> upgrade("digits.offramp").left
        {}
    """
    root = Path(path)
    bundle = check_bundle(open_unsigned(root))
    old, left = _find_old(bundle)
    if old:
        bundle.check_changeable("calibrations")
        with new_variant(root):  # it holds the bundle's lock
            old, left = _find_old(open_unsigned(root))
            for file, artefact in old.items():
                if isinstance(artefact, Calibration):
                    write_calibration(file, replace(artefact, schema=CALIBRATION_SCHEMA, offramp=__version__))
                else:
                    write_manifest(root, replace(artefact, schema=SCHEMA, offramp=__version__))
    return Upgraded(str(root), {_name(file, root): artefact.schema for file, artefact in old.items()}, left)


def _find_old(bundle: Bundle) -> tuple[dict[Path, Manifest | Calibration], dict[str, str]]:
    """Return what has an older form, by its file, the manifest last; and calibrations that are too old to be read, and why."""
    old: dict[Path, Manifest | Calibration] = {}
    left: dict[str, str] = {}
    for file in bundle.calibrations():
        try:
            calibration = bundle.read_calibration(file)
        except OutdatedError as error:
            left[_name(file, bundle.path)] = str(error)
        else:
            if calibration.schema != CALIBRATION_SCHEMA:
                old[file] = calibration
    if bundle.manifest.schema != SCHEMA:
        old[bundle.path / "manifest.json"] = bundle.manifest
    return old, left


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()
