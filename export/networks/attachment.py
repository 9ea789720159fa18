"""From a plain pretrained classifier to a network with exits: where they go, and what reads them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import DataError, ModelError, OfframpError, UsageError, require, unknown_name
from ...runtime.chain.samples import list_parts
from ..capture.torch_module import evaluating
from ..graph.axes import first_line

if TYPE_CHECKING:
    import torch

    from .heads import Attached


class _Step(NamedTuple):
    """A module that has run, the shape of its features if it gives any, and the flops up to its end."""

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
        network: returns one tensor of logits (batch, classes), or a dict or dataclass with that as its only matrix of floats.
            The result holds it, not a copy; on an error it is left as it was.
        example: an input (N, ...) as a torch tensor or numpy array, or a tuple of several.
        at: names of modules, as in `named_modules()`, whose outputs get an exit, in the order in which they run. "auto" finds
            modules through whose output alone the input goes on, so none inside a residual branch.
        fractions: for "auto", the shares of the multiply-accumulates at which exits are wanted, rising within (0, 1). Each
            gets the nearest place; two that share it give one exit, and one that is nearer to the network's end gives none.
        head: (example features, classes) -> a module that maps such features to logits (batch, classes), put on their device
            and dtype. By default the axes decide: a linear layer for 2, `heads.token_head` (batch, tokens, width) for 3,
            `heads.map_head` (batch, channels, *space) for more, and for 3 where convolutions made them.
        frozen: only heads train: the network's parameters get no gradients, and `train()` leaves it in eval mode.

    Returns:
        A module in eval mode: the network's inputs -> a list of logits (batch, classes), shallowest exit first, its own last.

    Raises:
        UsageError: a module is unknown, listed twice or out of order, or the fractions cannot be used.
        ModelError: the network or a head fails or gives no logits, or there is no place for an exit.
        DataError: the example is no input with a batch axis.
        MissingError: torch is not installed.
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
        # One sample more tells the batch from an axis that happens to be as long.
        with _blaming(f"The network runs on {rows} samples but not on {rows + 1}"):
            *features, _ = bare(*(x.clone() for x in inputs))
            *grown, _ = bare(*(torch.cat([x, x[:1]]) for x in inputs))
        heads = []
        for place, x, more in zip(places, features, grown, strict=True):
            with _blaming(f"The head of the exit at {place} fails on features of shape {tuple(x.shape)}"):
                by_default = map_head if x.ndim == 3 and _is_map(network, steps, place) else default_head
                heads.append((head or by_default)(x, classes).to(x.device, x.dtype).eval())
                shape = tuple(heads[-1](more).shape)
            if shape != (rows + 1, classes):
                raise ModelError(f"The head of the exit at {place} gives {shape}, not logits {(rows + 1, classes)}.")
    if frozen:
        network.requires_grad_(False)
    return Attached(network, places, heads, frozen).eval()


def _is_map(network: "torch.nn.Module", steps: list[_Step], place: str) -> bool:
    """Tell whether features of three axes are (batch, channels, length): what ran last tells."""
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

    values = list_parts(example)
    arrays = all(isinstance(x, (torch.Tensor, np.ndarray)) and x.ndim for x in values)
    if not arrays or len(rows := {len(x) for x in values}) != 1 or 0 in rows:
        raise DataError("The example is a tensor or array (N, ...) with its batch axis first, or a tuple of several.")
    device = next((p.device for p in network.parameters()), None)
    return [torch.as_tensor(x.copy() if isinstance(x, np.ndarray) else x, device=device) for x in values]


def _trace(network: "torch.nn.Module", inputs: "list[torch.Tensor]", *, count: bool) -> tuple[list[_Step], int]:
    """Run the network: its modules in the order in which they end, itself last, and the number of classes."""
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
        sdpa_kernel(SDPBackend.MATH),  # fused attention is not counted on every device
        counter if count else nullcontext(),
    ):
        shape = tuple(logits_of(network(*(x.clone() for x in inputs))).shape)
    if shape[0] != len(inputs[0]) or shape[1] < 2:
        raise ModelError(f"The network returns {shape}, not logits (batch {len(inputs[0])}, two classes or more).")
    return steps, shape[1]


def _check_places(network: "torch.nn.Module", steps: list[_Step], places: list[str]) -> list[str]:
    """Return the named places if each is run once, gives features, and stands in its turn."""
    known = [name for name, _ in network.named_modules() if name]
    for name in places:
        if name not in known:
            raise unknown_name("module", str(name), known)
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
    """Return the places nearest to the fractions of the work, each once."""
    if not fractions or not all(a < b for a, b in pairwise([0, *fractions, 1])):
        raise UsageError(f"The fractions {tuple(fractions)} do not rise within (0, 1).")
    rows, total, runs = len(inputs[0]), steps[-1].flops, Counter(step.name for step in steps)
    cuts = {name for name in _cuts(network, inputs) if runs[name] == 1}
    maps = [s for s in steps if s.name in cuts and len(s.shape) >= 3 and s.shape[0] == rows and s.flops > 0]
    found: list[str] = []
    for goal in [fraction * total for fraction in fractions]:
        # Of modules as deep that end together, the last has passed the activation too.
        near = [s for s in reversed(maps) if abs(s.flops - goal) < total - s.flops]
        best = min(near, key=lambda s: (abs(s.flops - goal), s.name.count(".")), default=None)
        if best and best.name not in found:
            found.append(best.name)
    if not found:
        raise ModelError(
            "No module that gives maps or tokens with the batch first carries the input on alone: dense connections leave few, "
            "and whole-number inputs are only followed from nn.Embedding. Name modules with at=[...]."
        )
    return found


def _cuts(network: "torch.nn.Module", inputs: "list[torch.Tensor]") -> set[str]:
    """Return the modules through whose features alone the logits depend on the input: its gradient has no other way."""
    import torch
    from torch.autograd.graph import get_gradient_edge

    from .heads import features_of, hooked, logits_of

    names = {module: name for name, module in network.named_modules()}
    whole_numbers = not all(x.is_floating_point() for x in inputs)
    edges: list[tuple[str, tuple[Any, int]]] = []

    def begin(x: "torch.Tensor") -> "torch.Tensor":
        """Make a tensor a leaf of the graph; its clone may be changed in place."""
        return x.detach().requires_grad_().clone() if x.is_floating_point() else x.clone()

    def end(module: "torch.nn.Module", _: Any, output: Any) -> Any:
        if whole_numbers and isinstance(module, torch.nn.Embedding):
            output = begin(output)
        if (features := features_of(output)) is not None and features.requires_grad:
            edge = get_gradient_edge(features)[:2]
            past = [old for _, old in edges]
            if edge not in past or edge == past[-1]:  # an identity in a shortcut gives what an earlier module gave
                edges.append((names[module], edge))
        return output

    before = [(p, p.requires_grad) for p in network.parameters()]
    network.requires_grad_(False)
    try:
        with (
            _blaming("The network does not run with gradients (name modules with at=[...] instead)"),
            torch.enable_grad(),
            hooked(dict.fromkeys(names, end)),
        ):
            logits = logits_of(network(*map(begin, inputs)))
    finally:
        for p, requires in before:
            p.requires_grad_(requires)

    def is_cut(edge: tuple[Any, int]) -> bool:
        todo: list[tuple[Any, int]] = [get_gradient_edge(logits)[:2]]
        seen = {edge}
        while todo:
            if (here := todo.pop()) in seen or here[0] is None:
                continue
            if not here[0].next_functions:  # a leaf, and only the input is one
                return False
            seen.add(here)
            todo += here[0].next_functions
        return True

    return {name for name, edge in edges if is_cut(edge)} if logits.requires_grad else set()


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn an exception of somebody else's code into a ModelError that says what failed."""
    try:
        yield
    except OfframpError:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {first_line(error)}") from error
