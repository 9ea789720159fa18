"""Make a network smaller by taking channels out of it, across all of its exits."""

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, UsageError, require, unknown
from .axes import first_line
from .outputs import flatten

if TYPE_CHECKING:
    import torch

SPREADS = ("uniform", "global")

MOST = 0.9
"""No layer loses more of its channels than this share."""

STEPS = 60
"""Shares of channels to take out that are tried, up to `MOST`."""


def prune(
    network: "torch.nn.Module",
    example: Any,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    spread: str = "uniform",
    round_to: int = 8,
    keep: Sequence[str] = (),
) -> "torch.nn.Module":
    """Return a copy of a network with fewer channels; it has to be fine-tuned, see `train`.

    Channels that cross a stage, a shortcut or a head leave together (dependency graph, arXiv 2301.12900). Those whose weights are
    smallest leave first. Layers that give the logits keep their outputs.

    Args:
        network: float inputs (batch, ...) -> its exits' logits, as `export` takes them.
        example: one or more samples with their batch axis, as a numpy array or torch tensor; for several inputs a tuple.
        macs, parameters: the share of multiply-accumulates (of convolutions and matrix products) or of parameters that is to
            stay at most. Give one.
        spread: `uniform` takes the same share of the channels of each layer; `global` takes the least important of all layers,
            which often strips the early ones that early exits need.
        round_to: numbers of channels are multiples of it, as engines compute them in blocks. The network may become smaller
            than asked for by it.
        keep: names of modules whose outputs stay as they are, as in `named_modules()`.

    Returns:
        The smaller network, in eval mode, on the CPU.

    Raises:
        UsageError: an argument does not make sense, or the network cannot be made that small.
        ModelError: the network cannot be pruned.
        MissingError: torch or torch-pruning is not installed.
    """
    torch = require("torch", extra="export")
    require("torch_pruning", extra="compress")
    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"prune takes a torch.nn.Module, not a {type(network).__name__}.")
    goals = {"macs": macs, "parameters": parameters}
    given = {name: share for name, share in goals.items() if share is not None}
    if len(given) != 1 or not all(0 < share < 1 for share in given.values()):
        raise UsageError(
            f"Give macs or parameters, the share that is to stay, above 0 and below 1; not {given or 'none'}."
        )
    if spread not in SPREADS:
        raise unknown("spread", spread, SPREADS)
    if round_to < 1:
        raise UsageError(f"round_to={round_to}: numbers of channels are multiples of 1 or more.")
    modules = dict(network.named_modules())
    for name in keep:
        if name not in modules:
            raise unknown("module", name, modules)
    ((goal, share),) = given.items()
    count = count_macs if goal == "macs" else count_parameters
    inputs = _as_tensors(example)
    original = copy.deepcopy(network).cpu().eval()
    shapes = _run(original, inputs)
    whole = count(original, inputs)
    best, best_size, least = None, 0, whole
    for step in range(1, STEPS + 1):
        # Rounding makes sizes jump, and a layer that would vanish stays whole: larger steps may give larger networks.
        smaller = _take_out(original, inputs, MOST * step / STEPS, spread, round_to, keep, shapes)
        size = count(smaller, inputs)
        least = min(least, size)
        if size <= share * whole and size > best_size:
            best, best_size = smaller, size
    if best is None:
        raise UsageError(
            f"{share:.0%} of the {goal} cannot be reached: {least / whole:.1%} can. Try a smaller round_to."
        )
    return best


def count_macs(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"]) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for these inputs."""
    torch = require("torch", extra="export")
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*inputs)
    return int(counter.get_total_flops()) // 2


def count_parameters(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"] = ()) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _take_out(
    network: "torch.nn.Module",
    inputs: Sequence["torch.Tensor"],
    ratio: float,
    spread: str,
    round_to: int,
    keep: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
) -> "torch.nn.Module":
    """Return a copy without a share of its channels.

    Raises:
        ModelError: that cannot be done, or the copy does not run.
    """
    tp = require("torch_pruning", extra="compress")
    smaller = copy.deepcopy(network)
    for parameter in smaller.parameters():
        parameter.requires_grad_(True)  # the graph of dependencies is traced by gradients
    modules = dict(smaller.named_modules())
    ignored = [modules[name] for name in keep] + [m for m in modules.values() if _gives_logits(m, shapes)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tp.pruner.BasePruner(
                smaller,
                tuple(inputs),
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                global_pruning=spread == "global",
                pruning_ratio=ratio,
                max_pruning_ratio=MOST,
                ignored_layers=ignored,
                round_to=round_to,
                output_transform=lambda output: list(flatten(output).values()),
            ).step()
    except Exception as error:  # whatever the tracing of a stranger's network raises
        raise ModelError(f"torch-pruning cannot prune the network: {_sentence(error)} {REMEDY}") from error
    try:
        now = _run(smaller, inputs)
    except ModelError as error:
        raise ModelError(f"What pruning leaves does not run: {_sentence(error)} {REMEDY}") from error
    if now != list(shapes):
        raise ModelError(f"The pruned network gives {now}, not {list(shapes)}. {REMEDY}")
    for (_, before), (_, after) in zip(network.named_parameters(), smaller.named_parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
    return smaller.eval()


REMEDY = "Leave out the modules that cannot change: keep=[names]."


def _gives_logits(module: "torch.nn.Module", shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether a layer may give logits: it has as many outputs as there are classes."""
    return {getattr(module, "out_features", None), getattr(module, "out_channels", None)} & {
        s[-1] for s in shapes
    } != set()


def _run(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"]) -> list[tuple[int, ...]]:
    """Return the shapes of what may be logits among the outputs: (batch, classes), or stacked (exit, batch, classes).

    Raises:
        ModelError: the network does not run.
    """
    torch = require("torch", extra="export")
    try:
        with torch.no_grad():
            shapes = [tuple(value.shape) for value in flatten(network(*inputs)).values()]
    except Exception as error:
        raise ModelError(f"The network does not run on the example: {_sentence(error)}") from error
    return [shape for shape in shapes if len(shape) in (2, 3)]


def _sentence(error: BaseException) -> str:
    return f"{first_line(error).rstrip('.')}."


def _as_tensors(example: Any) -> tuple["torch.Tensor", ...]:
    torch = require("torch", extra="export")
    parts = example if isinstance(example, (tuple, list)) else (example,)
    return tuple(torch.as_tensor(part)[:1].cpu() for part in parts)
