"""`attach`: add exits to a plain network. It finds the places for exits and puts a head on each."""

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

Head = Callable[["torch.Tensor", Any], "torch.nn.Module"]

logger = logging.getLogger(__name__)


def attach(
    network: "torch.nn.Module",
    example: Any,
    *,
    at: str | Sequence[str] = "auto",
    fractions: Sequence[float] = (0.15, 0.35, 0.6),
    head: Head | str | None = None,
    answer: Sequence[str] = (),
    layouts: Mapping[str, Sequence[str]] | None = None,
    axes: Any = None,
    frozen: bool = True,
) -> "Attached":
    """Add exits to a network that has none.

    Args:
        network: returns one tensor, such as logits (batch, classes), or a dict or dataclass. Of these the answer is the logits:
            the only matrix of floats, or that called `logits`; where there are none, all tensors. The result holds this network,
            not a copy. If `attach` fails, it is left as it was.
        example: an input (N, ...) as a torch tensor or numpy array, a tuple of several, or a dict by their names. An input of
            zeros and ones (N, tokens) that makes the network leave tokens out is a mask: the heads leave those tokens out, too.
        at: names of modules, as in `named_modules()`, in the order in which they run; each output gets an exit. Of a module that
            runs several times, `encoder.layer:3` is the third run. "auto" takes modules that the whole signal passes through, so
            none inside a residual branch. Where that leaves none, as with an encoder and a decoder that each look the same tokens
            up, it takes those that all of one look-up passes through.
        fractions: for "auto", where exits are wanted: shares of the network's multiply-accumulates, rising between 0 and 1. Each
            share gets the nearest place that is not nearer to the network's end. Two shares with the same place give one exit.
        head: "map" puts `ToMap` on each place, "grid" `ToGrid`; by default they are chosen by the shape of each part of the
            answer. Logits, and numbers (batch,) or (batch, count), get a linear layer for features (batch, channels),
            `heads.token_head` for tokens, `heads.map_head` for space. Or a function (example features, classes) that returns a
            module from such features to logits (batch, classes); if the answer is no matrix, it gets the network's answer in
            place of the classes, a tensor or a dict of tensors, and its module gives the same parts, of any sizes. It is put on
            the features' device and dtype, and reads the features as the module gives them.
        answer: the names of the parts of a dict or dataclass that each exit gives, if it is not what is found.
        layouts: the names of the axes of features, by the name of the place: {"blocks.2": ("batch", "tokens", "channels")}, each
            of `batch`, `channels`, `tokens` or `space`. Where a place has none, the weights in front of it tell.
        axes: the names of the axes of the inputs, as `export` takes them, if a batch axis is not the first.
        frozen: True trains the heads only: the network's parameters take no gradients, and `train()` leaves it in eval mode.

    Returns:
        A module in eval mode. It takes the network's inputs and returns a list of answers, such as logits (batch, classes): the
        new exits', shallowest first, then the network's own. Its `attached` says where each exit is and how its head reads the
        features, its `notes` what is not as it was asked for; `print` shows both.

    Raises:
        UsageError: a module is unknown, listed twice or out of order, or the fractions, head, answer, layouts or axes cannot be
            used.
        ModelError: the network or a head fails or gives another answer, there is no place for an exit, the layout of the features
            is not known, or no ready head makes such an answer of them.
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
    from .answers import ALONE
    from .attached import Attached
    from .finding import PlaceFinder
    from .heads import map_head, token_head
    from .inputs import read_inputs

    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"attach takes a torch.nn.Module, not a {type(network).__name__}.")
    if not isinstance(at, Sequence) or not all(isinstance(name, str) for name in at):
        raise UsageError(f'at is "auto", "all" or names of modules, not {at!r:.60}.')
    if isinstance(answer, str):
        raise UsageError(f"answer is a list of names: [{answer!r}].")
    made, kind = _read_head(head)
    _check_trainable(network, frozen=frozen)
    inputs = read_inputs(network, example, axes)
    needs_layout = made is None or made in (map_head, token_head)
    # torch.cond compiles itself, and fails where something follows what it runs.
    with evaluating(network), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        finder = PlaceFinder(
            network, inputs, _read_layouts(layouts), answer=answer, needs_layout=needs_layout, kind=kind
        )
        if at == "auto":
            finder.find(fractions)
        elif at == "all":
            finder.find_all()
        else:
            finder.take([at] if isinstance(at, str) else list(at))
        parts = {} if ALONE in finder.trace.answer else finder.trace.answer
        options: dict[str, Any] = {"frozen": frozen, "answer": tuple(parts), "mask": finder.mask, "notes": finder.notes}
        bare = Attached(network, finder.places, [torch.nn.Identity() for _ in finder.places], **options)
        heads = _make_heads(bare, finder, made, kind)
    if finder.notes:
        warnings.warn("\n".join(finder.notes), PlaceWarning, stacklevel=2)
    for place in finder.places:
        logger.debug("exit at %s", place)
    if frozen:
        network.requires_grad_(False)
    return Attached(network, finder.places, heads, **options).eval()


def _read_head(head: Head | str | None) -> "tuple[Head | None, type[torch.nn.Module] | None]":
    """Return the user's function, if `head` is one, and the kind of ready heads, if it names one.

    Raises:
        UsageError: there is no such kind.
    """
    from .answer_heads import HEAD_KINDS

    if isinstance(head, str) and head not in HEAD_KINDS:
        raise unknown_name("head", head, list(HEAD_KINDS))
    kind = next((kind for name, kind in HEAD_KINDS.items() if head in (name, kind)), None)
    return (None, kind) if kind or isinstance(head, str) else (head, None)


def _check_trainable(network: "torch.nn.Module", *, frozen: bool) -> None:
    """Refuse what cannot get exits, or cannot train with them.

    Raises:
        UsageError: the network is to train, but none of its parameters takes gradients.
        ModelError: a part is TorchScript, or its parameters cannot train.
    """
    import torch

    if any(isinstance(part, torch.jit.ScriptModule) for part in network.modules()):
        raise ModelError("Exits go on a network in Python, not on TorchScript: give the module that it was made from.")
    if any(p.is_inference() for p in network.parameters()):
        raise ModelError(
            "The network was made under torch.inference_mode(), so nothing can train with it: make it outside."
        )
    if not frozen and (parameters := list(network.parameters())) and not any(p.requires_grad for p in parameters):
        raise UsageError(
            "frozen=False lets the network train, but none of its parameters takes gradients; perhaps attach() froze it before. "
            "Call network.requires_grad_(True) first, or make it anew."
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


def _make_heads(
    bare: "Attached", finder: "PlaceFinder", head: Head | None, kind: "type[torch.nn.Module] | None"
) -> "list[torch.nn.Module]":
    """Return a head for each place, checked on the example with one sample more.

    Raises:
        ModelError: a head fails, or gives another answer than the network.
    """
    from .answer_heads import make_answer_head
    from .answers import ALONE, count_classes, show_answer
    from .heads import arrange
    from .tracing import blaming

    inputs, answer = finder.inputs, finder.trace.answer
    classes, whole = count_classes(answer), answer.get(ALONE, answer)
    features, _ = inputs.run(bare.read_features)
    grown, expected = inputs.of(inputs.rows + 1).run(bare.read_features)
    heads = []
    for place, x, more in zip(finder.places, features, grown, strict=True):
        x, more = arrange(x, place.layout), arrange(more, place.layout)
        with blaming(f"The head of the exit at {place.name} fails on features of shape {tuple(x.shape)}"):
            if head is None:
                made = make_answer_head(answer, x, place.layout, kind)
            else:
                made = head(x, whole if classes is None else classes)
            heads.append(made.to(x.device, x.dtype).eval())
            given = heads[-1](more)
        wanted = expected.get(ALONE, expected)
        if not _is_alike(given, wanted, any_size=classes is None):
            raise ModelError(
                f"The head of the exit at {place.name} gives {show_answer(given)}, not {show_answer(wanted)} as the network."
            )
    return heads


def _is_alike(given: Any, wanted: Any, *, any_size: bool) -> bool:
    """Tell whether a head gives the parts that the network gives, of as many samples; of any size, or the same."""
    if isinstance(wanted, dict):
        return (
            isinstance(given, dict)
            and list(given) == list(wanted)
            and all(_is_alike(given[name], part, any_size=any_size) for name, part in wanted.items())
        )
    shape = getattr(given, "shape", ())
    return bool(shape[:1] == wanted.shape[:1] if any_size else shape == wanted.shape)
