"""What device this is, and what can be measured on it."""

from .fingerprint import differences, fingerprint

__all__ = ["differences", "fingerprint"]
