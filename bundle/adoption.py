"""`adopt`: a variant of one bundle is copied into another one."""

import os
from pathlib import Path

from msgspec.structs import replace

from ..errors import UsageError
from .reading import Bundle, opened
from .variant_names import make_room
from .writing import commit, new_variant, open_unless_new

__all__ = ["adopt"]


def adopt(
    path: str | os.PathLike[str],
    other: str | os.PathLike[str] | Bundle,
    *,
    variant: str | None = None,
    name: str | None = None,
    parent: str | None = None,
) -> Bundle:
    """Copy a variant of another bundle into a bundle, so that one calibration chooses among networks that were made apart.

    Args:
        path: the bundle. If nothing is there, it is made, and the variant is its first.
        other: the other bundle, which stays as it is.
        variant: which of its variants; the first by default.
        name: what it is called in the bundle; by default as it was.
        parent: the variant of the bundle from which it was made, if that was adopted too; without one it counts as exported.

    Returns:
        The bundle with the variant in it.

    Raises:
        UsageError: the name is taken, or the bundles' networks take other inputs, or have other classes or answers.
        BundleError, MissingError: as for `open_bundle`; MissingError too if the bundle cannot be written.

    Example:
        >>> from offramp.bundle import adopt
        >>> bundle = adopt("both.offramp", "digits.offramp")
        >>> bundle = adopt("both.offramp", "digits.offramp", variant="int8", name="small", parent="fp32")
        >>> [variant.name for variant in bundle.manifest.variants]
        ['fp32', 'small']
    """
    source = opened(other)
    adopted = source.variant(variant)
    open_unless_new(path)  # refuse a path that is not a bundle before a folder is made in it
    with new_variant(path) as folder:  # it holds the bundle's lock: nobody else writes the bundle meanwhile
        bundle = open_unless_new(path)
        manifest = replace(source.manifest, variants=()) if bundle is None else bundle.manifest
        if bundle is not None:
            _check_alike(source, bundle)
            make_room(bundle, name or adopted.name)
            if parent is not None:
                bundle.variant(parent)
        origin = adopted.origin
        if origin is not None:
            origin = None if parent is None else replace(origin, parent=parent)
        for file in adopted.files:
            source.copy(adopted, file, folder / file)
        new = replace(adopted, name=name or adopted.name, origin=origin)
        return commit(path, folder, replace(manifest, variants=(*manifest.variants, new)))


def _check_alike(source: Bundle, bundle: Bundle) -> None:
    """Refuse a bundle whose variants cannot stand beside those of another.

    Raises:
        UsageError: the networks take other inputs, or have other classes or answers.
    """
    ours, theirs = bundle.manifest, source.manifest
    for field, what in (
        ("inputs", "inputs"),
        ("classes", "numbers of classes"),
        ("class_names", "class names"),
        ("answer", "parts of answers"),
        ("preprocess", "ways of preparing images"),
        ("table_rows", "tables"),
    ):
        if getattr(ours, field) != getattr(theirs, field):
            raise UsageError(
                f"{source.path} and {bundle.path} have other {what}: a variant of one cannot stand in the other.",
                path=Path(source.path),
            )
