"""Make a network smaller by taking channels out of it, across all of its exits."""

import copy
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, UsageError, require, unknown_name
from ...runtime.chain.samples import list_parts
from ..capture.outputs import flatten_outputs
from ..graph.axes import first_line

if TYPE_CHECKING:
    import torch

SPREADS = ("uniform", "global")

MOST = 0.9
"""No layer loses more of its channels than this share."""

STEPS = 60
"""Shares of channels to take out that can be tried, up to `MOST`: every `COARSE`-th, then those about the best."""

COARSE = 4

PRODUCTS = re.compile("Addmm|Mm|Bmm|Convolution|Linear")
"""Names of torch's gradients of what multiplies by weights."""

TURNS = re.compile("T|Transpose|Permute|Expand")
"""Those of what may stand between weights and product."""


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
    goal, share = check_goal(macs, parameters)
    if spread not in SPREADS:
        raise unknown_name("spread", spread, SPREADS)
    if not isinstance(round_to, int) or round_to < 1:
        raise UsageError(f"round_to={round_to}: numbers of channels are multiples of a whole number, 1 or more.")
    if isinstance(keep, str):
        raise UsageError(f"keep is a list of names: [{keep!r}].")
    modules = dict(network.named_modules())
    for name in keep:
        if name not in modules:
            raise unknown_name("module", name, modules)
    count = count_macs if goal == "macs" else count_parameters
    kinds = [p.dtype for p in network.parameters() if p.is_floating_point()]
    inputs = _as_tensors(example, kinds[0] if kinds else torch.float32)
    original = copy.deepcopy(network).cpu().eval()
    shapes = _run(original, inputs)
    whole = count(original, inputs)
    best, size, at, least = None, 0, STEPS + 1, whole

    def look(steps: Sequence[int]) -> None:
        # Rounding makes sizes jump, and a layer that would vanish stays whole: larger steps may give larger networks.
        nonlocal best, size, at, least
        for step in steps:
            smaller = _take_out(original, inputs, MOST * step / STEPS, spread, round_to, keep, shapes)
            now = count(smaller, inputs)
            least = min(least, now)
            if size < now <= share * whole:
                best, size, at = smaller, now, step

    look(range(COARSE, STEPS + 1, COARSE))
    look(range(at - COARSE + 1, at) if best is not None else range(1, STEPS + 1))
    if best is None:
        raise UsageError(
            f"{share:.0%} of the {goal} cannot be reached: {least / whole:.1%} can. Try a smaller round_to."
        )
    return best


def check_goal(macs: float | None, parameters: float | None) -> tuple[str, float]:
    """Return which of the two is given, and the share.

    Raises:
        UsageError: none or both are, or it is no share.
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
    ignored = [modules[name] for name in keep] + _find_logit_layers(smaller, inputs)
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
                output_transform=lambda output: list(flatten_outputs(output).values()),
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


def _find_logit_layers(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"]) -> list["torch.nn.Module"]:
    """Return the layers whose products give the logits: the last ones with weights on the way to each output."""
    open_ = [value.grad_fn for value in flatten_outputs(network(*inputs)).values() if value.ndim in (2, 3)]
    seen, weights = set(), set()
    while open_:
        step = open_.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        before = [function for function, _ in step.next_functions if function is not None]
        if PRODUCTS.search(step.name()):
            turned = [g for f in before if TURNS.match(f.name()) for g, _ in f.next_functions]
            if found := {id(one.variable) for one in (*before, *turned) if hasattr(one, "variable")}:
                weights |= found
                continue
        open_ += before
    return [m for m in network.modules() if id(getattr(m, "weight", None)) in weights]


def _run(network: "torch.nn.Module", inputs: Sequence["torch.Tensor"]) -> list[tuple[int, ...]]:
    """Return the shapes of what may be logits among the outputs: (batch, classes), or stacked (exit, batch, classes).

    Raises:
        ModelError: the network does not run.
    """
    torch = require("torch", extra="export")
    try:
        with torch.no_grad():
            shapes = [tuple(value.shape) for value in flatten_outputs(network(*inputs)).values()]
    except Exception as error:
        raise ModelError(f"The network does not run on the example: {_sentence(error)}") from error
    return [shape for shape in shapes if len(shape) in (2, 3)]


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
