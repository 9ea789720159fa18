"""From a network to a bundle: add exits, train, prune, cut into stages, and add smaller variants.

Needs the `export` extra; for ONNX files alone the `onnx` extra is enough.
"""

from typing import TYPE_CHECKING

from .. import late_names
from ..bundle import Origin, Preprocess
from ..errors import PlaceWarning, require

# Without onnx_ir nothing here works: fail now with the install line, not later with an ImportError.
require("onnx_ir", extra="onnx")

if TYPE_CHECKING:
    from .cascades.member import Member
    from .cascades.pipeline import cascade
    from .fusion import Fused, fuse
    from .networks.answer_heads import ToGrid, ToMap
    from .networks.attachment import attach
    from .networks.history import Epoch, History
    from .networks.places import Place
    from .networks.pruning import prune
    from .networks.training import train
    from .networks.weights_file import load_weights, save_weights
    from .pipeline import export
    from .variants.comparison import Shift, compare_variants
    from .variants.fewer_exits import keep
    from .variants.fitted_scores import gate
    from .variants.pruned import add_pruned
    from .variants.quantization import quantize

__all__ = [
    "Epoch",
    "Fused",
    "History",
    "Member",
    "Origin",
    "Place",
    "PlaceWarning",
    "Preprocess",
    "Shift",
    "ToGrid",
    "ToMap",
    "add_pruned",
    "attach",
    "cascade",
    "compare_variants",
    "export",
    "fuse",
    "gate",
    "keep",
    "load_weights",
    "prune",
    "quantize",
    "save_weights",
    "train",
]

__getattr__ = late_names(
    __name__,
    {
        "Epoch": "networks.history",
        "Fused": "fusion",
        "History": "networks.history",
        "Member": "cascades.member",
        "Place": "networks.places",
        "Shift": "variants.comparison",
        "ToGrid": "networks.answer_heads",
        "ToMap": "networks.answer_heads",
        "add_pruned": "variants.pruned",
        "attach": "networks.attachment",
        "cascade": "cascades.pipeline",
        "compare_variants": "variants.comparison",
        "export": "pipeline",
        "fuse": "fusion",
        "gate": "variants.fitted_scores",
        "keep": "variants.fewer_exits",
        "load_weights": "networks.weights_file",
        "prune": "networks.pruning",
        "quantize": "variants.quantization",
        "save_weights": "networks.weights_file",
        "train": "networks.training",
    },
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
