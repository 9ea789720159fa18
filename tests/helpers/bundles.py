"""The archived bundle, copied and changed as somebody hostile or careless would change it."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from offramp.bundle import open_bundle
from offramp.errors import BundleError, OfframpError

ARCHIVE = Path(__file__).parents[1] / "bundle/archive/v0.1-dense.offramp"
"""A bundle of two variants, fp32 and int8, with 16 inputs, 5 classes and 3 exits, and a calibration."""


def copy_archive(folder):
    """Copy the archived bundle into a folder, without its calibration."""
    path = shutil.copytree(ARCHIVE, folder / "dense.offramp")
    shutil.rmtree(path / "calibrations")
    return open_bundle(path)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refuse(path, work, words, kind=BundleError):
    """Expect an error that carries the path and says these words."""
    with pytest.raises(kind, match=words) as refused:
        work()
    assert refused.value.path == path and isinstance(refused.value, OfframpError)
    return refused.value


def replace_file(bundle, name, content):
    """Put another content in the place of a file, with the size and the hash that the manifest then needs."""
    (bundle.path / bundle.variant().folder / name).write_bytes(content)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle.path / "manifest.json", lambda m: m["variants"][0]["files"].update({name: facts}))
    return open_bundle(bundle.path)


def refuse_any(work, words):
    with pytest.raises(BundleError, match=words) as refused:
        work()
    return refused.value
