"""What board this is, what power it draws, and whether what was measured elsewhere holds on it."""

from .board import Board, PowerMode, identify
from .fingerprint import Difference, describe_differences, differences, fingerprint, version_of

__all__ = [
    "Board",
    "Difference",
    "PowerMode",
    "describe_differences",
    "differences",
    "fingerprint",
    "identify",
    "version_of",
]
