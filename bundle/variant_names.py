"""The names of new variants: which may be used, and whose place they take."""

import re

from ..errors import UsageError
from .manifest import PLAIN_NAME, Variant
from .reading import Bundle

__all__ = ["free_prefix", "make_room"]


def make_room(bundle: Bundle, name: str, *, parent: str | None = None, replace: bool = False) -> tuple[Variant, ...]:
    """Return the variants that stay beside a new one.

    Args:
        bundle: the bundle.
        name: of the new variant.
        parent: the variant that it is made from, if any.
        replace: it may take the place of the variant that has its name.

    Raises:
        UsageError: the name is taken and may not be replaced, or holds other characters than letters, digits, dots, dashes and
            underscores.
    """
    if not re.fullmatch(PLAIN_NAME, name):
        raise UsageError(f"A variant's name is letters, digits, dots, dashes and underscores, not {name!r}.")
    variants = bundle.manifest.variants
    if name not in [variant.name for variant in variants]:
        return variants
    if not replace:
        raise UsageError(
            f"{bundle.path} already has a variant {name}. Replace it with replace=True (--replace), or choose another name "
            "(--name, or --beside when exporting).",
            path=bundle.path,
        )
    children = [variant.name for variant in variants if variant.origin is not None and variant.origin.parent == name]
    if name == parent or children or name == variants[0].name:
        made = ", ".join(children) or ("the new variant" if name == parent else "")
        why = f"{made} is made from it" if made else "it is the first, against which losses are measured"
        raise UsageError(f"Variant {name} cannot be replaced: {why}. Choose another name (--name).", path=bundle.path)
    return tuple(variant for variant in variants if variant.name != name)


def free_prefix(bundle: Bundle, folder: str, name: str) -> str:
    """Return what the names of a variant's files begin with in a folder that it shares: `name.`, or `name-2.` beside one."""
    listed = [file for variant in bundle.manifest.variants if variant.folder == folder for file in variant.files]
    number, prefix = 2, f"{name}."
    while any(file.startswith(prefix) for file in listed):
        number, prefix = number + 1, f"{name}-{number}."
    return prefix
