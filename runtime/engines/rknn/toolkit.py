"""rknn-toolkit2 on the workstation, and the converter that runs in its environment."""

from pathlib import Path

from .._converters import Converter

__all__ = ["TOOLKIT"]

FOLDER = Path(__file__).parent

TOOLKIT = Converter(
    package="rknn-toolkit2",
    name="rknn",
    purpose="Stages for Rockchip's NPUs are built",
    recipe=(
        "Make it (x86-64, Python 3.10 to 3.12, 2 GB):\n  python3.11 -m venv {env}\n"
        "  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu {pip} install -r "
        f"{FOLDER / 'requirements.txt'}\n  {{pip}} install --no-deps rknn-toolkit2==2.5.0"
    ),
    script=FOLDER / "converter.py",
    product="stage.rknn",
    mark="E RKNN",
)
