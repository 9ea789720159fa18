"""The device's self-test: a bundle's golden samples replayed through every stage on the engine that will run it."""

import os

import numpy as np
from msgspec import Struct

from ..bundle import Bundle, open_bundle
from ..errors import BundleError
from ..schema import Precision, Variant
from .loading import load_uncalibrated

TOLERANCE: dict[Precision, float] = {"fp64": 1e-4, "fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}
"""The largest max|a - b| / max|b| of an exit's logits that counts as the same network on another engine.

Engines add in another order and transform convolutions: ten times what two builds of one engine differ by. Half precision
rounds at 1e-3 in every layer, and a quantised value between two steps may fall to either.
"""


class ExitCheck(Struct, frozen=True):
    """One exit on the golden samples: the largest error of a logit, absolute and relative to the largest, and equal labels."""

    exit: str
    absolute: float
    relative: float
    labels_equal: int
    samples: int


class Verification(Struct, frozen=True):
    """What the golden samples say of a variant on a device; `tolerance` limits each exit's relative error."""

    variant: str
    device: str
    tolerance: float
    passed: bool
    exits: tuple[ExitCheck, ...]

    def __str__(self) -> str:
        lines = [f"{'exit':12}{'largest error':>15}{'relative':>12}{'labels equal':>15}"]
        lines += [
            f"{e.exit:12}{e.absolute:15.3g}{e.relative:12.3g}{f'{e.labels_equal} of {e.samples}':>15}"
            for e in self.exits
        ]
        verdict = "passed" if self.passed else "failed"
        lines.append(
            f"variant {self.variant} on {self.device}: {verdict}, {self.tolerance:.0e} relative error is allowed"
        )
        return "\n".join(lines)


def verify(
    path: str | os.PathLike[str] | Bundle, device: str = "cpu", *, variant: str | None = None, threads: int = 1
) -> tuple[Verification, ...]:
    """Replay the golden samples of a bundle on a device.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads: as for `load`.
        variant: name of a variant; all by default.

    Returns:
        One verification per variant.

    Raises:
        UsageError, BundleError, MissingError: as for `load`.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    return tuple(_verify_variant(bundle, one, device, threads) for one in chosen)


def read_golden(bundle: Bundle, variant: Variant) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    """Return a variant's golden inputs, and `label`, `score` and `logits` (N, exits, ...) as they were when it was exported.

    Raises:
        BundleError: the file is damaged, or does not belong to the variant.
    """
    path = bundle.file(variant, variant.golden)
    try:
        with np.load(path, allow_pickle=False) as loaded:
            inputs = tuple(loaded[f"input{i}"] for i in range(len(bundle.manifest.inputs)))
            answers = {name: loaded[name] for name in ("label", "score", "logits")}
    except Exception as error:  # a damaged archive raises one of a dozen types
        raise BundleError(f"{path} does not hold golden samples: {error} Export the network anew.") from error
    if answers["logits"].shape[1:] != (len(variant.exits), bundle.manifest.classes):
        raise BundleError(f"{path} is not of variant {variant.name}: it holds {answers['logits'].shape[1]} exits.")
    return inputs, answers


def _verify_variant(bundle: Bundle, variant: Variant, device: str, threads: int) -> Verification:
    inputs, golden = read_golden(bundle, variant)
    with load_uncalibrated(bundle, device, variant=variant.name, threads=threads, logits=True) as net:
        answers = net.every_exit(inputs)
    assert answers.logits is not None
    exits = []
    for k, exit_ in enumerate(variant.exits):
        ours, theirs = answers.logits[:, k], golden["logits"][:, k]
        absolute = float(np.abs(ours - theirs).max())
        equal = int((answers.label[:, k] == golden["label"][:, k]).sum())
        relative = absolute / max(float(np.abs(theirs).max()), 1e-30)
        exits.append(ExitCheck(exit_.name, absolute, relative, equal, len(ours)))
    tolerance = TOLERANCE[variant.precision]
    passed = all(e.relative <= tolerance for e in exits)
    return Verification(variant.name, device, tolerance, passed, tuple(exits))
