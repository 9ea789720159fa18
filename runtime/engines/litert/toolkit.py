"""onnx2tf on a workstation, and the converter that runs in its environment."""

from pathlib import Path

from .._converters import Converter

__all__ = ["TOOLKIT"]

FOLDER = Path(__file__).parent

TOOLKIT = Converter(
    package="onnx2tf",
    name="litert",
    purpose="Stages are converted for LiteRT",
    recipe=(
        "Make it (Python 3.12 or 3.13, 0.5 GB):\n  python3.12 -m venv {env}\n"
        f"  {{pip}} install --no-deps -r {FOLDER / 'requirements.txt'}"
    ),
    script=FOLDER / "converter.py",
    product="stage.tflite",
    mark="ERROR",
)
