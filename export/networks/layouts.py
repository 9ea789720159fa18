"""The axis of a module's output that holds the channels, found by following one channel. Needs torch."""

import math
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from .heads import features_of, hooked
from .inputs import ExampleInputs
from .places import name_axes
from .tracing import Step, Trace, count_runs

__all__ = ["find_layout"]

MOST_RUNS = 24
"""Most runs of the network that look for the channels of one place."""


SIZE_NAMES = ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim", "embed_dim")
"""Attributes by which layers of torch, and many of others, name how many channels they give."""

CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
"""Layers whose channels are on axis 1."""


class _ReachedPlace(BaseException):
    """Ends a run where its features are known. Not an Exception: a network may catch those."""


def find_layout(network: nn.Module, inputs: ExampleInputs, trace: Trace, place: Step) -> tuple[str, ...] | None:
    """Return the names of the axes of the features at a place.

    The weights of the last layer before the place tell: a NaN in the weights of its first channel, and not one in those of its
    last, is found in one index of the axis of channels and in all of every other axis, whatever was moved in between. Where
    normalisation without weights has mixed the channels since, the size of the last layer tells.

    Returns:
        A name for each axis; None if the axis of the batch or of the channels is not known.
    """
    if place.batch_axis is None:
        return None
    others = [axis for axis in range(len(place.shape)) if axis != place.batch_axis]
    channels: int | None = others[0]
    if len(others) > 1:
        before = trace.steps[: trace.steps.index(place) + 1]
        channels = _follow_weights(network, inputs, before)
        if channels is None:
            channels = _match_sizes(network, before)
    return None if channels is None else name_axes(len(place.shape), place.batch_axis, channels)


def _follow_weights(network: nn.Module, inputs: ExampleInputs, before: tuple[Step, ...]) -> int | None:
    """Return the axis of the channels at the last of these steps, by the weights of the layers that lead to it."""
    ran = {network.get_submodule(step.module) for step in before}
    batch_axis, runs = before[-1].batch_axis, 0
    assert batch_axis is not None
    for step in reversed(before):
        module = network.get_submodule(step.module)
        if isinstance(module, nn.RNNBase):  # its steps mix the channels
            return None
        for parameter in _own_parameters(module, ran):
            # Not the axes of a kernel: its first row does not reach the last rows of a map.
            axes = [axis for axis, size in enumerate(parameter.shape[:2]) if size > 1]
            runs += 2 * len(axes)
            if runs > MOST_RUNS:
                return None
            found: set[int] = set()
            reaches = False
            for axis in axes:
                marks = [_mark_channel(network, inputs, step, parameter.select(axis, i), before[-1]) for i in (0, -1)]
                if marks[0] is not None and marks[1] is not None:
                    reaches = reaches or bool((marks[0] | marks[1]).any())
                    found |= _find_marked(marks[0], marks[1], batch_axis)
            if (
                parameter.ndim == 1 and not reaches
            ):  # the layer is of another stream, whose weights say nothing of this one
                break
            if len(found) == 1:  # else they are weights of some of the tokens, such as positions or a class token
                return found.pop()
    return None


def _own_parameters(module: nn.Module, ran: set[nn.Module]) -> list[Tensor]:
    """Return the parameters that a module itself uses, those of one axis first: its own, and of parts that do not run.

    Left out are those of more than two axes but the weights of convolutions: they may hold a vector for each position.
    """
    parts = [part for part in module.modules() if part is module or part not in ran]
    parameters = [
        p.detach()
        for part in parts
        for p in part.parameters(recurse=False)
        if p.is_floating_point() and p.numel() > 1 and (p.ndim <= 2 or isinstance(part, nn.modules.conv._ConvNd))
    ]
    return sorted(parameters, key=lambda p: p.ndim)


def _mark_channel(network: nn.Module, inputs: ExampleInputs, step: Step, weights: Tensor, place: Step) -> Tensor | None:
    """Run the network up to a place with NaN for some weights during one step; return where its features are NaN.

    Returns:
        Booleans in the shape of the features; None if the network does not run that far.
    """
    names = {module: name for name, module in network.named_modules()}
    start, end = count_runs(names), count_runs(names)
    source, target = network.get_submodule(step.module), network.get_submodule(place.module)
    kept, features = weights.clone(), []

    def spoil(module: nn.Module, _: Any) -> None:
        if start(module) == (step.module, step.run):
            weights.fill_(math.nan)

    def collect(module: nn.Module, _: Any, output: Any) -> None:
        _name, run = end(module)
        if module is source and run == step.run:
            weights.copy_(kept)
        if module is target and run == place.run:
            found = features_of(output)
            features.extend([] if found is None else [found.isnan()])
            raise _ReachedPlace

    handle = source.register_forward_pre_hook(spoil)
    try:
        with suppress(_ReachedPlace, Exception), hooked(dict.fromkeys((source, target), collect)):
            inputs.of(1).run(network)  # which may raise anything on NaN
    finally:
        handle.remove()
        weights.copy_(kept)
    return features[0] if features else None


def _find_marked(first: Tensor, last: Tensor, batch_axis: int) -> set[int]:
    """Return the axes, beside the batch, along which the marks are at other indices, but at no more than half of all.

    Marks of a class token's channels are at one token, but that is the same for both.
    """
    found = set()
    for axis in set(range(first.ndim)) - {batch_axis}:
        others = [other for other in range(first.ndim) if other != axis]
        if 0 < (first.amax(others) & ~last.amax(others)).float().mean().item() <= 0.5:
            found.add(axis)
    return found


def _match_sizes(network: nn.Module, before: tuple[Step, ...]) -> int | None:
    """Return the axis of the channels at the last of these steps, by the size of the last layer that has one."""
    place = before[-1]
    for step in reversed(before):
        module = network.get_submodule(step.module)
        if (size := _count_channels(module)) is None:
            if next(module.parameters(recurse=False), None) is not None:
                return None  # a layer of an unknown kind with weights
            continue
        fitting = [axis for axis, count in enumerate(place.shape) if axis != place.batch_axis and count == size]
        if len(fitting) > 1 and step.shape == place.shape:  # nothing but the batch may have moved since
            own = 1 if isinstance(module, CHANNELS_FIRST) else len(place.shape) - 1
            return own if own in fitting else None
        return fitting[0] if len(fitting) == 1 else None
    return None


def _count_channels(module: nn.Module) -> int | None:
    """Return how many channels a layer of torch, or one that names its size as torch does, gives; None if that is unknown."""
    if isinstance(module, nn.RNNBase):
        return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    if isinstance(shape := getattr(module, "normalized_shape", None), (tuple, list)) and shape:
        return int(shape[-1])
    sizes = (getattr(module, name, None) for name in SIZE_NAMES)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)
