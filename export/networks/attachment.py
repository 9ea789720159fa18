"""`attach`: add exits to a plain classifier. It finds the places for exits and puts a head on each."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, PlaceWarning, UsageError, require, unknown_name
from ..capture.torch_module import evaluating
from .places import BATCH, CHANNELS, SPACE, TOKENS

if TYPE_CHECKING:
    import torch

    from .attached import Attached
    from .finding import PlaceFinder

__all__ = ["attach"]

Head = Callable[["torch.Tensor", int], "torch.nn.Module"]

logger = logging.getLogger(__name__)


def attach(
    network: "torch.nn.Module",
    example: Any,
    *,
    at: str | Sequence[str] = "auto",
    fractions: Sequence[float] = (0.15, 0.35, 0.6),
    head: Head | None = None,
    layouts: Mapping[str, Sequence[str]] | None = None,
    axes: Any = None,
    frozen: bool = True,
) -> "Attached":
    """Add exits to a classifier that has none.

    Args:
        network: returns one tensor of logits (batch, classes), or a dict or dataclass in which logits are the only matrix of
            floats, or are called `logits`. The result holds this network, not a copy. If `attach` fails, it is left as it was.
        example: an input (N, ...) as a torch tensor or numpy array, a tuple of several, or a dict by their names. An input of
            zeros and ones (N, tokens) that makes the network leave tokens out is a mask: the heads leave those tokens out, too.
        at: names of modules, as in `named_modules()`, in the order in which they run; each output gets an exit. Of a module that
            runs several times, `encoder.layer:3` is the third run. "auto" takes modules that the whole signal passes through, so
            none inside a residual branch. Where that leaves none, as with an encoder and a decoder that each look the same tokens
            up, it takes those that all of one look-up passes through.
        fractions: for "auto", where exits are wanted: shares of the network's multiply-accumulates, rising between 0 and 1. Each
            share gets the nearest place that is not nearer to the network's end. Two shares with the same place give one exit.
        head: a function (example features, classes) that returns a module from such features to logits (batch, classes). It is
            put on the features' device and dtype, and reads the features as the module gives them. The default depends on the
            layout of the features: a linear layer for (batch, channels), `heads.token_head` for tokens, `heads.map_head` for
            space; the features are brought into the order that it reads.
        layouts: the names of the axes of features, by the name of the place: {"blocks.2": ("batch", "tokens", "channels")}, each
            of `batch`, `channels`, `tokens` or `space`. Where a place has none, the weights in front of it tell.
        axes: the names of the axes of the inputs, as `export` takes them, if a batch axis is not the first.
        frozen: True trains the heads only: the network's parameters take no gradients, and `train()` leaves it in eval mode.

    Returns:
        A module in eval mode. It takes the network's inputs and returns a list of logits (batch, classes): the new exits,
        shallowest first, then the network's own logits. Its `attached` says where each exit is and how its head reads the
        features, its `notes` what is not as it was asked for; `print` shows both.

    Raises:
        UsageError: a module is unknown, listed twice or out of order, or the fractions, layouts or axes cannot be used.
        ModelError: the network or a head fails or gives no logits, there is no place for an exit, or the layout of the features
            is not known.
        DataError: the example has no batch axis.
        MissingError: torch is not installed.

    Warns:
        PlaceWarning: the result has `notes`: a fraction got no place near it, or a head reads padding.

    Example:
        >>> import torch
        >>> from net import plain
        >>> from offramp.export import attach
        >>> network = attach(plain(), torch.zeros(2, 1, 8, 8), fractions=(0.3, 0.6))
        >>> logits = network(torch.zeros(5, 1, 8, 8))
        >>> len(logits) == len(network.places) + 1, tuple(logits[0].shape)
        (True, (5, 10))
    """
    torch = require("torch", extra="export")
    from .attached import Attached
    from .finding import PlaceFinder
    from .heads import map_head, token_head
    from .inputs import read_inputs

    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"attach takes a torch.nn.Module, not a {type(network).__name__}.")
    if not isinstance(at, Sequence) or not all(isinstance(name, str) for name in at):
        raise UsageError(f'at is "auto" or names of modules, not {at!r:.60}.')
    _check_trainable(network)
    inputs = read_inputs(network, example, axes)
    needs_layout = head is None or head in (map_head, token_head)
    # torch.cond compiles itself, and fails where something follows what it runs.
    with evaluating(network), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        finder = PlaceFinder(network, inputs, _read_layouts(layouts), needs_layout=needs_layout)
        if at == "auto":
            finder.find(fractions)
        else:
            finder.take([at] if isinstance(at, str) else list(at))
        bare = Attached(network, finder.places, [torch.nn.Identity() for _ in finder.places], frozen=frozen)
        heads = _make_heads(bare, finder, head)
    if finder.notes:
        warnings.warn("\n".join(finder.notes), PlaceWarning, stacklevel=2)
    for place in finder.places:
        logger.debug("exit at %s", place)
    if frozen:
        network.requires_grad_(False)
    return Attached(network, finder.places, heads, frozen=frozen, mask=finder.mask, notes=finder.notes).eval()


def _check_trainable(network: "torch.nn.Module") -> None:
    """Refuse what cannot get exits.

    Raises:
        ModelError: a part is TorchScript, or its parameters cannot train.
    """
    import torch

    if any(isinstance(part, torch.jit.ScriptModule) for part in network.modules()):
        raise ModelError("Exits go on a network in Python, not on TorchScript: give the module that it was made from.")
    if any(p.is_inference() for p in network.parameters()):
        raise ModelError(
            "The network was made under torch.inference_mode(), so nothing can train with it: make it outside."
        )


def _read_layouts(layouts: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Return layouts as tuples.

    Raises:
        UsageError: one has not one batch axis and one axis of channels, or an unknown name.
    """
    read = {name: tuple(layout) for name, layout in (layouts or {}).items()}
    for name, layout in read.items():
        for axis in layout:
            if axis not in (BATCH, CHANNELS, TOKENS, SPACE):
                raise unknown_name("axis", str(axis), (BATCH, CHANNELS, TOKENS, SPACE))
        if layout.count(BATCH) != 1 or layout.count(CHANNELS) != 1 or len({*layout} - {BATCH, CHANNELS}) > 1:
            raise UsageError(
                f"The layout of {name} is {layout}: {BATCH!r} and {CHANNELS!r} once each, and for all other axes "
                f"{TOKENS!r} or {SPACE!r}."
            )
    return read


def _make_heads(bare: "Attached", finder: "PlaceFinder", head: Head | None) -> "list[torch.nn.Module]":
    """Return a head for each place, checked on the example with one sample more.

    Raises:
        ModelError: a head fails, or gives no logits.
    """
    from .heads import arrange, default_head
    from .tracing import blaming

    inputs, classes = finder.inputs, finder.trace.classes
    rows = inputs.rows + 1
    features, _ = inputs.run(bare.read_features)
    grown, _ = inputs.of(rows).run(bare.read_features)
    heads = []
    for place, x, more in zip(finder.places, features, grown, strict=True):
        x, more = arrange(x, place.layout), arrange(more, place.layout)
        with blaming(f"The head of the exit at {place.name} fails on features of shape {tuple(x.shape)}"):
            made = default_head(x, place.layout, classes) if head is None else head(x, classes)
            heads.append(made.to(x.device, x.dtype).eval())
            shape = tuple(heads[-1](more).shape)
        if shape != (rows, classes):
            raise ModelError(f"The head of the exit at {place.name} gives {shape}, not logits {(rows, classes)}.")
    return heads
