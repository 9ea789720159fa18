"""The bundle: the folder that holds an exported network and its calibrations. Nothing else passes between the other folders.

    digits.offramp/
      manifest.json                     what the bundle holds (`Manifest`); replacing it is the only commit
      variants/<folder>/weights.bin     the weights, external data of every graph beside it
      variants/<folder>/whole.onnx      the whole network with all exits
      variants/<folder>/stage<k>.onnx   what runs between exit k-1 and exit k
      variants/<folder>/static<k>.onnx  the static network to exit k, without the earlier heads
      variants/<folder>/golden.npz      golden samples: a few inputs, and each exit's answers to them
      variants/<folder>/<name>.*        files of another variant that shares these weights
      engines/<device>/<variant>/*      builds for a device, each with its record; may be removed
      calibrations/<name>.json          operating points (`Calibration`); may also lie outside the bundle

`docs/bundle.md` is the specification. `manifest`, `preprocess`, `calibration` and `target` say what the files hold, `reading` and
`writing` move them from and to the disk, `golden` does both for golden samples.
"""

from typing import TYPE_CHECKING

from .. import late_names
from .calibration import Calibration, Certificate, OperatingPoint
from .manifest import Exit, File, Manifest, Origin, Stage, Variant
from .preprocess import Preprocess
from .reading import Bundle, check_bundle, open_bundle, opened, read_calibration
from .target import Target
from .tensor import Tensor

if TYPE_CHECKING:
    from .upgrading import Upgraded, upgrade
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
    "Upgraded",
    "Variant",
    "check_bundle",
    "open_bundle",
    "opened",
    "read_calibration",
    "upgrade",
    "write_calibration",
]


# A product only reads: writing is imported when somebody asks for it.
__getattr__ = late_names(__name__, {"Upgraded": "upgrading", "upgrade": "upgrading", "write_calibration": "writing"})


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
