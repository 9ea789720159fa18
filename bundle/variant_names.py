"""The names of new variants: which may be used, and whose place they take; and what exits were called in the variant before."""

import re
from collections.abc import Iterable

from ..errors import UsageError
from .manifest import PLAIN_NAME, Manifest, Variant
from .reading import Bundle

__all__ = ["describe_numbers", "free_prefix", "kept_numbers", "make_room"]


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


def kept_numbers(variant: Variant) -> tuple[int, ...]:
    """Return the numbers that the exits of a variant had in its parent, which `keep` counts anew; empty if they stayed."""
    if variant.origin is None or variant.origin.how != "keep":
        return ()
    numbers = str(variant.origin.settings.get("exits")).split(", ")
    is_whole = len(numbers) == len(variant.exits) and all(number.isdecimal() for number in numbers)
    return tuple(map(int, numbers)) if is_whole else ()


def describe_numbers(manifest: Manifest, names: Iterable[str]) -> list[str]:
    """Return a sentence for each of some variants whose exits are counted otherwise than in the variant they were kept of.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> from offramp.export import keep
        >>> describe_numbers(keep("digits.offramp", [0, 2], variant="fp32").manifest, ["fp32-exits0-2"])
        ['Exits of fp32-exits0-2 are counted anew: 0 is exit 0 of fp32, 1 is exit 2 of fp32.']
    """
    variants = {variant.name: variant for variant in manifest.variants}
    sentences = []
    for name in dict.fromkeys(names):
        variant = variants.get(name)
        while variant is not None and not kept_numbers(variant):  # in int8, of a variant with fewer exits
            variant = None if variant.origin is None else variants.get(variant.origin.parent)
        if variant is not None and variant.origin is not None:
            parent = variant.origin.parent
            told = ", ".join(f"{k} is exit {number} of {parent}" for k, number in enumerate(kept_numbers(variant)))
            sentences.append(f"Exits of {name} are counted anew: {told}.")
    return sentences
