"""Turn a network with several exits into a bundle of stages. Needs the `export` extra, or `onnx` for ONNX files alone."""

from ..errors import require

require("onnx_ir", extra="onnx")

from .pipeline import export  # noqa: E402  (the check above gives the install line where an import would only fail)

__all__ = ["export"]
