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
      signatures/<name>.sig             who vouches for which of these files, if anybody does

`docs/bundle.md` is the specification. `manifest`, `preprocess`, `calibration` and `target` say what the files hold, `reading` and
`writing` move them from and to the disk, `golden` does both for golden samples. `policies` says whose bundles are taken;
`signatures` reads what `signing` writes.
"""

from typing import TYPE_CHECKING

from .. import late_names
from .calibration import Calibration, Certificate, OperatingPoint
from .manifest import Exit, File, Manifest, Origin, Stage, Variant
from .preprocess import Preprocess
from .reading import Bundle, check_bundle, open_bundle, opened, read_calibration
from .reuse import Reuse
from .target import Target
from .tensor import Tensor

if TYPE_CHECKING:
    from .adoption import adopt
    from .encryption import encrypt
    from .packing import pack
    from .policies import Trust
    from .signing import SignedFiles, sign_bundle
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
    "Reuse",
    "SignedFiles",
    "Stage",
    "Target",
    "Tensor",
    "Trust",
    "Upgraded",
    "Variant",
    "adopt",
    "check_bundle",
    "encrypt",
    "open_bundle",
    "opened",
    "pack",
    "read_calibration",
    "sign_bundle",
    "upgrade",
    "write_calibration",
]


# A product only reads: writing is imported when somebody asks for it. Few demand signatures.
__getattr__ = late_names(
    __name__,
    {"adopt": "adoption", "encrypt": "encryption", "pack": "packing", "write_calibration": "writing"}
    | {"SignedFiles": "signing", "Trust": "policies", "sign_bundle": "signing"}
    | {"Upgraded": "upgrading", "upgrade": "upgrading"},
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
