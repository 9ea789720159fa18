"""The bundle: the folder that holds an exported network and its calibrations. Nothing else passes between the other folders."""

from typing import TYPE_CHECKING

from .. import late_names
from .calibration import Calibration, Certificate, OperatingPoint
from .manifest import Exit, File, Manifest, Origin, Preprocess, Stage, Tensor, Variant
from .reading import Bundle, check_bundle, open_bundle, opened, read_calibration
from .target import Target

if TYPE_CHECKING:
    from .writing import write_calibration

__all__ = [
    "Bundle",
    "Calibration",
    "Certificate",
    "Exit",
    "File",
    "Manifest",
    "OperatingPoint",
    "Origin",
    "Preprocess",
    "Stage",
    "Target",
    "Tensor",
    "Variant",
    "check_bundle",
    "open_bundle",
    "opened",
    "read_calibration",
    "write_calibration",
]


# A product only reads: what writes is imported when it is asked for.
__getattr__ = late_names(__name__, {"write_calibration": "writing"})
