"""A run of somebody's torch network, module by module: what each gives, and the work up to its end. Needs torch."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ...errors import ModelError, OfframpError
from ..capture.torch_module import dtypes_explained
from ..graph.axes import first_line
from .answers import Answer, answer_of, show_answer
from .heads import all_features, hooked
from .inputs import ExampleInputs

__all__ = ["Step", "Trace", "blaming", "count_runs", "trace_network"]

RECURRENT_KERNELS = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
"""Kernels that run all steps of a recurrent layer; torch's own counter gives them no work."""


class Step(NamedTuple):
    """A module that has run.

    Attributes:
        module: its name, as in `named_modules()`.
        run: which run of the module it was, counted from 1.
        shapes: of the tensors that it returns: () for what is no float tensor with two axes or more.
        batch_axes: for each the axis that is as long as there are samples, whatever their number; None if there is none.
        flops: of the network up to the module's end.
    """

    module: str
    run: int
    shapes: tuple[tuple[int, ...], ...]
    batch_axes: tuple[int | None, ...]
    flops: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first tensor, which heads read."""
        return self.shapes[0]

    @property
    def batch_axis(self) -> int | None:
        """The batch axis of the first tensor."""
        return self.batch_axes[0]


class Trace(NamedTuple):
    """A run of a network.

    Attributes:
        steps: one for each run of a module, in the order in which they end, the network itself last.
        answer: what the network answers.
    """

    steps: tuple[Step, ...]
    answer: Answer

    def name(self, step: Step) -> str:
        """Return the name of the place after a step: `encoder.layer:3` if the module runs several times."""
        runs = sum(other.module == step.module for other in self.steps)
        return step.module if runs == 1 else f"{step.module}:{step.run}"


def trace_network(network: nn.Module, inputs: ExampleInputs, parts: Sequence[str] = ()) -> Trace:
    """Run a network on the example, and again with one sample more; the axis that grows with the samples is the batch.

    Args:
        network: is run.
        inputs: the example.
        parts: the names of the parts of its answer; none to find them.

    Raises:
        ModelError: the network does not run, or does not return an answer (batch, ...).
        UsageError: there is no part of a name.
    """
    rows = inputs.rows
    with (
        blaming(f"The network does not run on the example of {inputs}"),
        dtypes_explained("The example", network, inputs.tensors, lambda to: inputs.mapped(to).run(network)),
    ):
        steps, answer = _run_counted(network, inputs, parts)
    _check_batch(answer, inputs)
    with blaming(f"The network runs on {rows} samples but not on {rows + 1}"):
        grown, more = _run_counted(network, inputs.of(rows + 1), parts)
    _check_batch(more, inputs.of(rows + 1))
    shapes = {(step.module, step.run): step.shapes for step in grown}
    return Trace(
        tuple(
            step._replace(batch_axes=_find_batch_axes(step.shapes, shapes.get((step.module, step.run), ()), rows))
            for step in steps
        ),
        answer,
    )


def _check_batch(answer: Answer, inputs: ExampleInputs) -> None:
    """See that the first axis of each part of an answer is as long as there are samples.

    Raises:
        ModelError: it is not.
    """
    first = inputs.tensors[0].shape
    for length in (part.shape[0] for part in answer.values()):
        if length != inputs.rows:
            hint = (
                f" Is the batch axis {first.index(length)} of the input? Say so with axes=." if length in first else ""
            )
            raise ModelError(
                f"The network returns {show_answer(answer)} for {inputs.rows} samples; the first axis of an answer is the "
                f"batch.{hint}"
            )


def count_runs(names: Mapping[nn.Module, str]) -> Callable[[nn.Module], tuple[str, int]]:
    """Return a function that counts the runs of modules: from a module to its name and the number of its run, from 1."""
    runs: Counter[nn.Module] = Counter()

    def count(module: nn.Module) -> tuple[str, int]:
        runs[module] += 1
        return names[module], runs[module]

    return count


def _run_counted(network: nn.Module, inputs: ExampleInputs, parts: Sequence[str]) -> tuple[list[Step], Answer]:
    """Run a network once; return its steps, without their batch axes, and its answer."""
    names = {module: name for name, module in network.named_modules()}
    steps: list[Step] = []
    count, counter = count_runs(names), _WorkCounter()

    def end(module: nn.Module, _: Any, output: Any) -> None:
        shapes = tuple(() if x is None else tuple(x.shape) for x in all_features(output)) or ((),)
        steps.append(Step(*count(module), shapes, (), counter.flops))

    # The counter does not see the fused attention of some devices.
    with hooked(dict.fromkeys(names, end)), sdpa_kernel(SDPBackend.MATH), counter:
        return steps, answer_of(inputs.run(network), parts)


def _find_batch_axes(
    shapes: Sequence[tuple[int, ...]], grown: Sequence[tuple[int, ...]], rows: int
) -> tuple[int | None, ...]:
    return tuple(_find_batch_axis(*pair, rows) for pair in zip_longest(shapes, grown[: len(shapes)], fillvalue=()))


def _find_batch_axis(shape: tuple[int, ...], grown: tuple[int, ...], rows: int) -> int | None:
    if len(shape) != len(grown):
        return None
    changed = [axis for axis, (a, b) in enumerate(zip(shape, grown, strict=True)) if a != b]
    is_batch = len(changed) == 1 and (shape[changed[0]], grown[changed[0]]) == (rows, rows + 1)
    return changed[0] if is_batch else None


class _WorkCounter(TorchDispatchMode):
    """Counts the flops of what runs while the context lasts, by torch's formulas and one for recurrent layers.

    torch's `FlopCounterMode` also follows modules by hooks for gradients, which fail on views of parameters without gradients.
    """

    supports_higher_order_operators = True  # torch.cond runs; the work inside is not counted

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        packet = getattr(function, "_overloadpacket", None)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=output)
        elif getattr(packet, "__name__", "") in RECURRENT_KERNELS:
            self.flops += _count_recurrent(args)
        return output


def _count_recurrent(args: Sequence[Any]) -> int:
    """Return the flops of a recurrent kernel: each step of each sample multiplies with every matrix once.

    So torch.nn.LSTM, GRU and RNN are defined: W_ii x + W_hi h and so on. The products of the gates are left out, as torch's other
    formulas leave out what is done element by element. After the input (time, batch, width), or (steps of all samples, width),
    comes a list of all weights, or the two matrices of one layer.
    """
    weights = args[1] if isinstance(args[1], (list, tuple)) else args[1:3]
    return 2 * int(math.prod(args[0].shape[:-1])) * sum(int(x.numel()) for x in weights if x.ndim == 2)


@contextmanager
def blaming(failure: str) -> Iterator[None]:
    """Turn an exception in the user's code into a ModelError that says what failed."""
    try:
        yield
    except OfframpError:
        raise
    except Exception as error:
        raise ModelError(f"{failure}: {first_line(error)}") from error
