"""`attach`: add exits to a plain classifier. It finds the places for exits and puts a head on each."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import DataError, ModelError, OfframpError, UsageError, require, unknown_name
from ..capture.torch_module import evaluating
from ..graph.axes import first_line

if TYPE_CHECKING:
    import torch

    from .heads import Attached

__all__ = ["attach"]

Edge = tuple[Any, int]
"""A tensor in torch's graph of gradients: the function that made it, and which output of that function it is."""

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    """A module that has run.

    Attributes:
        name: its name, as in `named_modules()`.
        shape: of its output, if that is a float tensor (batch, ...); else ().
        flops: of the network up to the module's end.
    """

    name: str
    shape: tuple[int, ...]
    flops: int


def attach(
    network: "torch.nn.Module",
    example: Any,
    *,
    at: str | Sequence[str] = "auto",
    fractions: Sequence[float] = (0.15, 0.35, 0.6),
    head: "Callable[[torch.Tensor, int], torch.nn.Module] | None" = None,
    frozen: bool = True,
) -> "Attached":
    """Add exits to a classifier that has none.

    Args:
        network: returns one tensor of logits (batch, classes), or a dict or dataclass in which logits are the only matrix of
            floats. The result holds this network, not a copy. If `attach` fails, it is left as it was.
        example: an input (N, ...) as a torch tensor or numpy array, or a tuple of several.
        at: names of modules, as in `named_modules()`, in the order in which they run; each output gets an exit. "auto" takes
            modules that the whole signal passes through, so none inside a residual branch.
        fractions: for "auto", where exits are wanted: shares of the network's multiply-accumulates, rising between 0 and 1. Each
            share gets the nearest place. Two shares with the same place give one exit; a share that is nearer to the end of the
            network than to any place gives none.
        head: a function (example features, classes) that returns a module from such features to logits (batch, classes). It is
            put on the features' device and dtype. The default depends on the number of axes: a linear layer for 2,
            `heads.token_head` for 3 (batch, tokens, width), `heads.map_head` for more (batch, channels, *space), and for 3 if
            convolutions made them.
        frozen: True trains the heads only: the network's parameters take no gradients, and `train()` leaves it in eval mode.

    Returns:
        A module in eval mode. It takes the network's inputs and returns a list of logits (batch, classes): the new exits,
        shallowest first, then the network's own logits.

    Raises:
        UsageError: a module is unknown, listed twice or out of order, or the fractions cannot be used.
        ModelError: the network or a head fails or gives no logits, or there is no place for an exit.
        DataError: the example has no batch axis.
        MissingError: torch is not installed.

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
    from .heads import Attached, default_head, map_head

    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"attach takes a torch.nn.Module, not a {type(network).__name__}.")
    inputs = _as_inputs(example, network)
    rows = len(inputs[0])
    with evaluating(network), torch.no_grad():
        steps, classes = _trace(network, inputs, count=at == "auto")
        if at == "auto":
            places = _find_places(network, inputs, steps, fractions)
        else:
            places = _check_places(network, steps, [at] if isinstance(at, str) else list(at))
        bare = Attached(network, places, [torch.nn.Identity() for _ in places], frozen)
        # A run with one more sample tells the batch axis from another axis of the same length.
        with _blaming(f"The network runs on {rows} samples but not on {rows + 1}"):
            *features, _ = bare(*(x.clone() for x in inputs))
            *grown, _ = bare(*(torch.cat([x, x[:1]]) for x in inputs))
        heads = []
        for place, x, more in zip(places, features, grown, strict=True):
            with _blaming(f"The head of the exit at {place} fails on features of shape {tuple(x.shape)}"):
                default = map_head if x.ndim == 3 and _is_map(network, steps, place) else default_head
                heads.append((head or default)(x, classes).to(x.device, x.dtype).eval())
                shape = tuple(heads[-1](more).shape)
            if shape != (rows + 1, classes):
                raise ModelError(f"The head of the exit at {place} gives {shape}, not logits {(rows + 1, classes)}.")
    logger.debug("exits at %s", ", ".join(places))
    if frozen:
        network.requires_grad_(False)
    return Attached(network, places, heads, frozen).eval()


def _is_map(network: "torch.nn.Module", steps: list[_Step], place: str) -> bool:
    """Tell whether features of three axes are a map (batch, channels, length) and not tokens (batch, tokens, width).

    The last layer of a known kind that ran up to the place decides: a convolution makes maps, a linear layer tokens.
    """
    from torch import nn

    maps = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.MaxPool1d, nn.AvgPool1d)
    tokens = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention, nn.Embedding, nn.RNNBase)
    names = [step.name for step in steps]
    for name in reversed(names[: names.index(place) + 1]):
        module = network.get_submodule(name)
        if isinstance(module, (*maps, *tokens)):
            return isinstance(module, maps)
    return False


def _as_inputs(example: Any, network: "torch.nn.Module") -> "list[torch.Tensor]":
    """Return the inputs as tensors on the network's device."""
    import torch

    values = example if isinstance(example, (tuple, list)) else [example]
    arrays = all(isinstance(x, (torch.Tensor, np.ndarray)) and x.ndim for x in values)
    if not arrays or len(rows := {len(x) for x in values}) != 1 or 0 in rows:
        raise DataError("The example is a tensor or array (N, ...) with its batch axis first, or a tuple of several.")
    device = next((p.device for p in network.parameters()), None)
    return [torch.as_tensor(x.copy() if isinstance(x, np.ndarray) else x, device=device) for x in values]


def _trace(network: "torch.nn.Module", inputs: "list[torch.Tensor]", *, count: bool) -> tuple[list[_Step], int]:
    """Run the network on the example and record its modules.

    Args:
        network: runs once.
        inputs: the example.
        count: count flops, too.

    Returns:
        A step for each call of a module, in the order in which they end, the network itself last; and the number of classes.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from .heads import features_of, hooked, logits_of

    names = {module: name for name, module in network.named_modules()}
    steps: list[_Step] = []
    counter = FlopCounterMode(display=False)

    def end(module: Any, _: Any, output: Any) -> None:
        features = features_of(output)
        steps.append(_Step(names[module], () if features is None else tuple(features.shape), counter.get_total_flops()))

    given = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
    with (
        _blaming(f"The network does not run on the example of {given}"),
        hooked(dict.fromkeys(names, end)),
        sdpa_kernel(SDPBackend.MATH),  # on some devices the counter does not see fused attention
        counter if count else nullcontext(),
    ):
        shape = tuple(logits_of(network(*(x.clone() for x in inputs))).shape)
    if shape[0] != len(inputs[0]) or shape[1] < 2:
        raise ModelError(f"The network returns {shape}, not logits (batch {len(inputs[0])}, two classes or more).")
    return steps, shape[1]


def _check_places(network: "torch.nn.Module", steps: list[_Step], places: list[str]) -> list[str]:
    """Return the places that the user named.

    Raises:
        UsageError: a module is unknown, listed twice or out of order.
        ModelError: a module is not run exactly once, or its output is no features.
    """
    modules = [name for name, _ in network.named_modules() if name]
    for name in places:
        if name not in modules:
            raise unknown_name("module", str(name), modules)
        runs = [step for step in steps if step.name == name]
        if len(runs) != 1:
            raise ModelError(f"The module {name} is run {len(runs)} times on the example; an exit's is run once.")
        if not runs[0].shape:
            raise ModelError(f"The module {name} returns no float tensor (batch, ...) for a head to read.")
    order = [step.name for step in steps if step.name in places]
    if order != places or not places:
        raise UsageError(f"at={places} must list modules once each in the order in which they run: at={order}.")
    return places


def _find_places(
    network: "torch.nn.Module", inputs: "list[torch.Tensor]", steps: list[_Step], fractions: Sequence[float]
) -> list[str]:
    """Return the places nearest to the fractions of the multiply-accumulates, each once.

    Raises:
        UsageError: the fractions do not rise between 0 and 1.
        ModelError: there is no place for an exit.
    """
    if not fractions or not all(a < b for a, b in pairwise([0, *fractions, 1])):
        raise UsageError(f"The fractions {tuple(fractions)} do not rise within (0, 1).")
    rows, total, runs = len(inputs[0]), steps[-1].flops, Counter(step.name for step in steps)
    bottlenecks = {name for name in _find_bottlenecks(network, inputs) if runs[name] == 1}
    candidates = [
        step
        for step in steps
        if step.name in bottlenecks and len(step.shape) >= 3 and step.shape[0] == rows and step.flops > 0
    ]
    logger.debug("places where an exit can go: %s", ", ".join(step.name for step in candidates))
    places: list[str] = []
    for goal in [fraction * total for fraction in fractions]:
        # Several modules may end at the same depth, such as a convolution and the ReLU behind it: the last one is taken.
        nearer = [step for step in reversed(candidates) if abs(step.flops - goal) < total - step.flops]
        nearest = min(nearer, key=lambda step: (abs(step.flops - goal), step.name.count(".")), default=None)
        if nearest and nearest.name not in places:
            places.append(nearest.name)
    if not places:
        raise ModelError(
            "No module that gives maps or tokens with the batch first carries the input on alone: dense connections leave few, "
            "and whole-number inputs are only followed from nn.Embedding. Name modules with at=[...]."
        )
    return places


def _find_bottlenecks(network: "torch.nn.Module", inputs: "list[torch.Tensor]") -> set[str]:
    """Return the modules that every path from input to logits passes through.

    Without such a module's output the logits have no gradient to the input: gradients show the paths.
    """
    from torch.autograd.graph import get_gradient_edge

    logits, edges = _record_edges(network, inputs)
    if not logits.requires_grad:
        return set()
    end: Edge = get_gradient_edge(logits)[:2]
    return {name for name, edge in edges if not _reaches_input_without(edge, end)}


def _record_edges(
    network: "torch.nn.Module", inputs: "list[torch.Tensor]"
) -> "tuple[torch.Tensor, list[tuple[str, Edge]]]":
    """Run the network with gradients to its inputs alone; return its logits, and the edge of each module's output.

    Whole numbers have no gradient: with such inputs, the output of each `nn.Embedding` counts as an input.
    """
    import torch
    from torch.autograd.graph import get_gradient_edge

    from .heads import features_of, hooked, logits_of

    names = {module: name for name, module in network.named_modules()}
    whole_numbers = not all(x.is_floating_point() for x in inputs)
    edges: list[tuple[str, Edge]] = []

    def begin(x: "torch.Tensor") -> "torch.Tensor":
        """Make a tensor a leaf of the graph of gradients; return a clone, which a layer may change in place."""
        return x.detach().requires_grad_().clone() if x.is_floating_point() else x.clone()

    def record(module: "torch.nn.Module", _: Any, output: Any) -> Any:
        if whole_numbers and isinstance(module, torch.nn.Embedding):
            output = begin(output)
        if (features := features_of(output)) is not None and features.requires_grad:
            edge = get_gradient_edge(features)[:2]
            past = [old for _, old in edges]
            # An identity in a shortcut gives the output of an earlier module again, which is not the place to put an exit.
            if edge not in past or edge == past[-1]:
                edges.append((names[module], edge))
        return output

    before = [(p, p.requires_grad) for p in network.parameters()]
    network.requires_grad_(False)
    try:
        with (
            _blaming("The network does not run with gradients (name modules with at=[...] instead)"),
            torch.enable_grad(),
            hooked(dict.fromkeys(names, record)),
        ):
            return logits_of(network(*map(begin, inputs))), edges
    finally:
        for p, requires in before:
            p.requires_grad_(requires)


def _reaches_input_without(edge: Edge, end: Edge) -> bool:
    """Tell whether a path leads back from an end to an input if it may not pass an edge. Only inputs are leaves of the graph."""
    todo, seen = [end], {edge}
    while todo:
        current = todo.pop()
        if current in seen or current[0] is None:
            continue
        if not current[0].next_functions:
            return True
        seen.add(current)
        todo += current[0].next_functions
    return False


@contextmanager
def _blaming(failure: str) -> Iterator[None]:
    """Turn an exception in the user's code into a ModelError that says what failed."""
    try:
        yield
    except OfframpError:
        raise
    except Exception as error:
        raise ModelError(f"{failure}: {first_line(error)}") from error
