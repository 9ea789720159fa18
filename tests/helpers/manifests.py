"""Manifests of bundles that are not there, for what reads samples."""

from offramp.bundle import Manifest, Tensor


def manifest_of(*inputs, names=None, preprocess=None):
    """Return the manifest of a bundle with these inputs."""
    return Manifest(
        schema=1,
        offramp="0",
        network="Net",
        captured="onnx",
        classes=3 if names is None else len(names),
        class_names=names,
        preprocess=preprocess,
        inputs=inputs,
        variants=(),
    )


GREY = manifest_of(Tensor(name="x", dtype="uint8", shape=(None, 1, 4, 6)))
"""Of a network that takes grey images of 4 by 6."""

COLOURED = manifest_of(Tensor(name="x", dtype="float32", shape=(None, 3, 4, 6)))
"""Of a network that takes coloured images of 4 by 6, scaled to 0..1."""
