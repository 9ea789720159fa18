"""Plain classifiers of torchvision, timm and transformers, small members of each family, with random weights.

Names are `library/network`, such as `timm/resnet18`. A name `file.py:function` is a network of your own: the function returns a
`Stranger`.
"""

import runpy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from offramp.tests.strangers.timm_networks import TIMM_NETWORKS
from offramp.tests.strangers.transformers_networks import IMAGE_NETWORKS, SPEECH_NETWORKS, TEXT, TEXT_NETWORKS

if TYPE_CHECKING:
    import torch

CLASSES = 5
TOKENS, LEAST_TOKENS, SOUND_LENGTH = 16, 4, 1600
TORCHVISION_SIZES = {
    **dict.fromkeys(
        ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"], 64
    ),
    **dict.fromkeys(["mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf"], 64),
    **dict.fromkeys(["regnet_y_400mf", "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"], 64),
    **dict.fromkeys(["shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1"], 64),
    **dict.fromkeys(["swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vgg16"], 64),
    **{"inception_v3": 96, "maxvit_t": 224, "vit_b_32": 64},
}
"""By network the size of its images."""

TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "vit_b_32": {"image_size": 64},
}


class Stranger(NamedTuple):
    """A network that somebody else wrote, and how its samples are drawn.

    Attributes:
        build: makes the module, in training mode.
        draw: (rows, numbers) -> samples as arrays, as `attach` and `export` take them.
    """

    build: "Callable[[], torch.nn.Module]"
    draw: Callable[[int, np.random.Generator], Any]


def images(size: int) -> Callable[[int, np.random.Generator], np.ndarray]:
    """Draw images (rows, 3, size, size) of noise."""
    return lambda rows, numbers: numbers.standard_normal((rows, 3, size, size)).astype(np.float32)


def draw_sound(rows: int, numbers: np.random.Generator) -> np.ndarray:
    """Draw noise (rows, 1600)."""
    return numbers.standard_normal((rows, SOUND_LENGTH)).astype(np.float32)


def draw_tokens(rows: int, numbers: np.random.Generator) -> np.ndarray:
    """Draw token numbers (rows, 16) that end with the token for the end."""
    tokens = numbers.integers(3, TEXT["vocab_size"], (rows, TOKENS))
    tokens[:, -1] = TEXT["eos_token_id"]
    return tokens


def draw_masked(rows: int, numbers: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw token numbers and the mask (rows, 16) that says which of them are no padding."""
    lengths = numbers.integers(LEAST_TOKENS, TOKENS + 1, (rows, 1))
    mask = (np.arange(TOKENS) < lengths).astype(np.int64)
    return draw_tokens(rows, numbers) * mask, mask


def _from_torchvision(name: str) -> Stranger:
    def build() -> "torch.nn.Module":
        torchvision = import_torchvision()
        options = TORCHVISION_OPTIONS.get(name, {})
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)  # type: ignore[no-any-return]

    return Stranger(build, images(TORCHVISION_SIZES[name]))


def _from_timm(name: str) -> Stranger:
    size, options = TIMM_NETWORKS[name]

    def build() -> "torch.nn.Module":
        import_torchvision()
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)  # type: ignore[no-any-return]

    return Stranger(build, images(size))


def _from_transformers(name: str) -> Stranger:
    network, _, masked = name.partition("-")
    if network in TEXT_NETWORKS:
        options, kind = TEXT | TEXT_NETWORKS[network], "SequenceClassification"
        draw: Callable[[int, np.random.Generator], Any] = draw_masked if masked else draw_tokens
    elif network in SPEECH_NETWORKS:
        options, kind, draw = SPEECH_NETWORKS[network], "SequenceClassification", draw_sound
    else:
        options, kind = {"image_size": 64} | IMAGE_NETWORKS[network], "ImageClassification"
        size = options["image_size"]
        draw = images(size if isinstance(size, int) else size[0])

    def build() -> "torch.nn.Module":
        import_torchvision()
        import transformers

        config = getattr(transformers, f"{network}Config")(num_labels=CLASSES, **options)
        return getattr(transformers, f"{network}For{kind}")(config).train()  # type: ignore[no-any-return]

    return Stranger(build, draw)


def import_torchvision() -> Any:
    """Import torchvision. Where it was built for another torch, its operators on boxes are declared, which no classifier uses."""
    try:
        import torchvision
    except RuntimeError:
        from torch import library

        for operator in ("nms", "qnms"):
            library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


LIBRARIES: dict[str, tuple[Callable[[str], Stranger], tuple[str, ...]]] = {
    "torchvision": (_from_torchvision, tuple(TORCHVISION_SIZES)),
    "timm": (_from_timm, tuple(TIMM_NETWORKS)),
    "transformers": (
        _from_transformers,
        (*TEXT_NETWORKS, "Bert-masked", "DistilBert-masked", "Roberta-masked", *IMAGE_NETWORKS, *SPEECH_NETWORKS),
    ),
}
"""By library the function that describes one of its networks, and their names."""


def list_strangers() -> list[str]:
    """Return the names of all networks."""
    return [f"{library}/{name}" for library, (_, names) in LIBRARIES.items() for name in names]


def find_stranger(name: str) -> Stranger:
    """Return the network of a name.

    Raises:
        KeyError: there is none.
    """
    file, colon, function = name.partition(":")
    if colon:
        found: Stranger = runpy.run_path(file)[function]()
        return found
    library, _, network = name.partition("/")
    describe, names = LIBRARIES[library]
    if network not in names:
        raise KeyError(name)
    return describe(network)
