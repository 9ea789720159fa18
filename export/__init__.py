"""Turn a network with several exits into a bundle of stages. Needs the `export` extra, or `onnx` for ONNX files alone."""

from ..errors import require

require("onnx_ir", extra="onnx")

# The check above gives the install line where these imports would only fail.
from ..bundle import Origin, Preprocess  # noqa: E402
from .attach import attach  # noqa: E402
from .fuse import Fused, fuse  # noqa: E402
from .keep import keep  # noqa: E402
from .pipeline import export  # noqa: E402
from .prune import prune  # noqa: E402
from .quantize import quantize  # noqa: E402
from .train import train  # noqa: E402

__all__ = ["Fused", "Origin", "Preprocess", "attach", "export", "fuse", "keep", "prune", "quantize", "train"]
