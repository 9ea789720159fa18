"""`prune`: make a network smaller by taking channels out of it, across all of its exits."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ...errors import ModelError, UsageError, require, unknown_name
from ...runtime.chain.samples import list_parts
from ..capture.outputs import flatten_outputs
from ..graph.axes import first_line

if TYPE_CHECKING:
    import torch

__all__ = ["check_goal", "count_macs", "count_parameters", "prune"]

SPREADS = ("uniform", "global")

MOST_PRUNED = 0.9
"""No layer loses a larger share of its channels."""

RATIO_STEPS = 60
"""Shares of channels that can be tried, from `MOST_PRUNED / RATIO_STEPS` in equal steps up to `MOST_PRUNED`."""

COARSE_STEP = 4
"""The search first tries every fourth share, then those between the best of these and the one before."""

KEEP_HINT = "Leave out the modules that cannot change: keep=[names]."

logger = logging.getLogger(__name__)


class _Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `prune`: `goal` is `macs` or `parameters`, `share` is the share of these that may stay."""

    goal: str
    share: float
    spread: str
    round_to: int
    keep: list[str]
    answer: list[str]


def prune(
    network: "torch.nn.Module",
    example: Any,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    spread: str = "uniform",
    round_to: int = 8,
    keep: Sequence[str] = (),
    answer: Sequence[str] = (),
) -> "torch.nn.Module":
    """Return a copy of a network with fewer channels. Its accuracy has suffered: fine-tune it with `train`.

    Channels that are added to each other, as over a shortcut, or read by several layers, as by a stage and a head, are taken out
    together (dependency graph, arXiv 2301.12900). The channels with the smallest weights go first. The layers that make the
    logits, or other answers, keep their outputs.

    Args:
        network: takes float inputs (batch, ...) and returns its exits' answers, as for `export`.
        example: one or more samples with a batch axis, as a numpy array or torch tensor; a tuple of these for several inputs.
        macs: the share of multiply-accumulates (of convolutions and matrix products) that may stay, such as 0.6.
        parameters: the share of parameters that may stay. Give this or `macs`.
        spread: `uniform` takes the same share of channels from every layer. `global` takes the least important channels of all
            layers, which often strips the early layers that early exits need.
        round_to: every layer keeps a multiple of this many channels, since engines compute channels in blocks. The network may
            therefore become smaller than asked for.
        keep: names of modules whose outputs stay as they are, as in `named_modules()`.
        answer: the names of the parts of its answers, if the network does not classify, as for `export`.

    Returns:
        The smaller network, in eval mode, on the CPU.

    Raises:
        UsageError: an argument cannot be used, or the network cannot be made that small.
        ModelError: the network cannot be pruned.
        MissingError: torch or torch-pruning is not installed.

    Example:
        >>> import torch
        >>> from net import network
        >>> from offramp.export import prune
        >>> smaller = prune(network(), torch.zeros(1, 1, 8, 8), parameters=0.7, round_to=1)
        >>> count = lambda module: sum(p.numel() for p in module.parameters())
        >>> count(smaller) <= 0.7 * count(network())
        True
    """
    torch = require("torch", extra="export")
    require("torch_pruning", extra="compress")
    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"prune takes a torch.nn.Module, not a {type(network).__name__}.")
    goal, share = check_goal(macs, parameters)
    if isinstance(keep, str):
        raise UsageError(f"keep is a list of names: [{keep!r}].")
    if isinstance(answer, str):
        raise UsageError(f"answer is a list of names: [{answer!r}].")
    pruning = _Pruning(goal=goal, share=share, spread=spread, round_to=round_to, keep=list(keep), answer=list(answer))
    _check(pruning, [name for name, _ in network.named_modules()])
    dtypes = [p.dtype for p in network.parameters() if p.is_floating_point()]
    inputs = _as_tensors(example, dtypes[0] if dtypes else torch.float32)
    search = _Search(copy.deepcopy(network).cpu().eval(), inputs, pruning)
    search.try_steps(range(COARSE_STEP, RATIO_STEPS + 1, COARSE_STEP))
    if search.best is not None:
        search.try_steps(range(search.best_step - COARSE_STEP + 1, search.best_step))
    else:
        search.try_steps(range(1, RATIO_STEPS + 1))
    if search.best is None:
        raise UsageError(
            f"{share:.0%} of the {goal} cannot be reached: {search.smallest / search.whole:.1%} can. Try a smaller round_to."
        )
    logger.debug("pruned to %.1f%% of the %s", 100 * search.best_size / search.whole, goal)
    for (name, before), after in zip(search.network.named_parameters(), search.best.parameters(), strict=True):
        if before.shape != after.shape:
            logger.debug("%s: %s to %s", name, tuple(before.shape), tuple(after.shape))
    return search.best


def _check(pruning: _Pruning, modules: Sequence[str]) -> None:
    """Refuse settings that cannot be used and modules that do not exist."""
    if pruning.spread not in SPREADS:
        raise unknown_name("spread", pruning.spread, SPREADS)
    if not isinstance(pruning.round_to, int) or pruning.round_to < 1:
        raise UsageError(
            f"round_to={pruning.round_to}: numbers of channels are multiples of a whole number, 1 or more."
        )
    for name in pruning.keep:
        if name not in modules:
            raise unknown_name("module", name, modules)


class _Search:
    """A search for the largest pruned network that meets the goal.

    Sizes jump with the share of channels taken out, since channels are rounded and a layer that would vanish stays whole: a
    larger share may give a larger network. So each share is tried, not bisected.

    Attributes:
        whole: the size of the network before, in the measure of the goal.
        smallest: the smallest size seen.
        best, best_size, best_step: the largest network that meets the goal; None, 0 and 0 if none does so far.
    """

    def __init__(self, network: "torch.nn.Module", inputs: Sequence["torch.Tensor"], pruning: _Pruning) -> None:
        self.network, self.inputs, self.pruning = network, inputs, pruning
        self.count: Callable[..., int] = count_macs if pruning.goal == "macs" else count_parameters
        self.shapes = _answer_shapes(network, inputs, pruning.answer)
        self.whole = self.smallest = self.count(network, inputs)
        self.best: torch.nn.Module | None = None
        self.best_size = self.best_step = 0

    def try_steps(self, steps: Iterable[int]) -> None:
        """Prune by each of these shares, in steps of `MOST_PRUNED / RATIO_STEPS`, and keep the best network."""
        for step in steps:
            ratio = MOST_PRUNED * step / RATIO_STEPS
            smaller = _take_channels_out(self.network, self.inputs, ratio, self.pruning, self.shapes)
            size = self.count(smaller, self.inputs)
            logger.debug(
                "without %.1f%% of the channels: %s %s of %s", 100 * ratio, size, self.pruning.goal, self.whole
            )
            self.smallest = min(self.smallest, size)
            if self.best_size < size <= self.pruning.share * self.whole:
                self.best, self.best_size, self.best_step = smaller, size, step


def check_goal(macs: float | None, parameters: float | None) -> tuple[str, float]:
    """Return which of the two is given, `macs` or `parameters`, and its share.

    Raises:
        UsageError: none or both are given, or the share is not between 0 and 1.
    """
    goals = {"macs": macs, "parameters": parameters}
    given = {name: share for name, share in goals.items() if share is not None}
    if len(given) != 1 or not all(0 < share < 1 for share in given.values()):
        raise UsageError(
            f"Give macs or parameters, the share that is to stay, above 0 and below 1; not {given or 'none'}."
        )
    ((goal, share),) = given.items()
    return goal, share


def count_macs(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"]) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for these inputs."""
    torch = require("torch", extra="export")
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*inputs)
    return int(counter.get_total_flops()) // 2


def count_parameters(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"] = ()) -> int:
    """Return the number of parameters; the inputs do not matter."""
    return sum(parameter.numel() for parameter in network.parameters())


def _take_channels_out(
    network: "torch.nn.Module",
    inputs: Sequence["torch.Tensor"],
    ratio: float,
    pruning: _Pruning,
    shapes: dict[str, tuple[int, ...]],
) -> "torch.nn.Module":
    """Return a copy of a network without a share of its channels.

    Args:
        network: the whole network.
        inputs: one sample.
        ratio: the share of channels to take out.
        pruning: how.
        shapes: of the outputs that hold answers, by name, which must stay.

    Raises:
        ModelError: torch-pruning cannot prune the network, or the copy does not run or has outputs of other shapes.
    """
    from .answer_layers import find_answer_layers, trace_outputs

    tp = require("torch_pruning", extra="compress")
    smaller = copy.deepcopy(network)
    for parameter in smaller.parameters():
        parameter.requires_grad_(True)  # torch-pruning traces the dependency graph by gradients
    modules = dict(smaller.named_modules())
    ignored = [modules[name] for name in pruning.keep] + find_answer_layers(smaller, inputs, shapes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tp.pruner.BasePruner(
                smaller,
                tuple(inputs),
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                global_pruning=pruning.spread == "global",
                pruning_ratio=ratio,
                max_pruning_ratio=MOST_PRUNED,
                ignored_layers=ignored,
                round_to=pruning.round_to,
                forward_fn=trace_outputs,
            ).step()
    except Exception as error:  # tracing a stranger's network may raise anything
        raise ModelError(f"torch-pruning cannot prune the network: {_sentence(error)} {KEEP_HINT}") from error
    try:
        pruned_shapes = _answer_shapes(smaller, inputs, pruning.answer)
    except ModelError as error:
        raise ModelError(f"What pruning leaves does not run: {_sentence(error)} {KEEP_HINT}") from error
    if pruned_shapes != shapes:
        raise ModelError(
            f"The pruned network gives {list(pruned_shapes.values())}, not {list(shapes.values())}. {KEEP_HINT}"
        )
    for (_, before), (_, after) in zip(network.named_parameters(), smaller.named_parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
    return smaller.eval()


def _answer_shapes(
    network: "torch.nn.Module", inputs: Sequence["torch.Tensor"], answer: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the outputs that hold answers, by name.

    Raises:
        ModelError: the network does not run, or no output holds a part of the answer.
    """
    from .answer_layers import name_answers

    torch = require("torch", extra="export")
    try:
        with torch.no_grad():
            outputs = flatten_outputs(network(*inputs))
    except Exception as error:
        raise ModelError(f"The network does not run on the example: {_sentence(error)}") from error
    names = name_answers(outputs, answer)
    if not names:
        raise ModelError(f"No output of the network is {' or '.join(answer)}. There are: {', '.join(outputs)}.")
    return {name: tuple(outputs[name].shape) for name in names}


def _sentence(error: BaseException) -> str:
    return f"{first_line(error).rstrip('.')}."


def _as_tensors(example: Any, kind: "torch.dtype") -> tuple["torch.Tensor", ...]:
    torch = require("torch", extra="export")
    try:
        tensors = [torch.as_tensor(part)[:1].cpu() for part in list_parts(example)]
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise UsageError(
            f"The example is an array or a tensor, for several inputs a tuple of them: {_sentence(error)}"
        ) from error
    return tuple(tensor.to(kind) if tensor.is_floating_point() else tensor for tensor in tensors)
