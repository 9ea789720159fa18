"""What device this is, and what can be measured on it."""

from .fingerprint import differences, fingerprint, version_of

__all__ = ["differences", "fingerprint", "version_of"]
