"""The headers read every field that Python writes. No compiler is needed to see that."""

import re

import pytest

from offramp.bundle import calibration, findings, manifest, preprocess, reuse, target, tensor
from offramp.tests.helpers.pages import ROOT

READERS = {
    "read_calibration": calibration.Calibration,
    "check_conditions": calibration.Conditions,
    "read_chain": calibration.Chain,
    "check_static": calibration.StaticPoint,
    "check_tradeoff": calibration.Tradeoff,
    "check_exclusion": findings.Exclusion,
    "read_point": calibration.OperatingPoint,
    "check_target": target.Target,
    "check_certificate": calibration.Certificate,
    "check_reuse": reuse.Reuse,
    "check_worst": findings.WorstPart,
    "check_spread": findings.Spread,
    "read_manifest": manifest.Manifest,
    "read_variant": manifest.Variant,
    "read_stage": manifest.Stage,
    "read_exit": manifest.Exit,
    "check_origin": manifest.Origin,
    "check_preprocess": preprocess.Preprocess,
    "read_tensor": tensor.Tensor,
}
"""The functions of the headers that read a struct, and which one."""


@pytest.mark.parametrize("reader", READERS)
def test_the_headers_read_every_field(reader):
    headers = "\n".join(
        (ROOT / f"runtime/cpp/offramp/{name}.hpp").read_text() for name in ("calibration", "manifest_reading")
    )
    (body,) = re.findall(rf"^inline \S+ {reader}\(.*?^}}", headers, re.S | re.M)
    assert [field for field in READERS[reader].__struct_fields__ if f'"{field}"' not in body] == []
