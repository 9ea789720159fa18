"""Maps at boundaries channels last, as OpenVINO's convolutions have them: (N, H, W, C) in place of (N, C, H, W)."""

from collections.abc import Mapping, Sequence
from typing import Any

CHANNELS_LAST = " channels last"
"""Ends the name of an input or output of a compiled stage that holds a map as (N, H, W, C)."""


def compile_channels_last(
    ov: Any, core: Any, model: Any, boundaries: frozenset[str], settings: Mapping[str, Any]
) -> Any:
    """Compile a model of fixed shapes for the CPU with its boundaries' maps channels last, where its convolutions have them so.

    Otherwise each stage would transpose what it reads and what it writes. A map that the compiled model transposes all the same,
    since something else than a convolution computes it, stays as it is.
    """
    ports = [node.output(0) for node in model.get_parameters()] + [node.input_value(0) for node in model.get_results()]
    maps = {name for port in ports if _is_map(port) for name in boundaries & port.names}
    while maps:
        compiled = core.compile_model(_turn(ov, model, maps), "CPU", settings)
        executed = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        transposed = {
            name.removesuffix(CHANNELS_LAST)
            for info in executed
            if info["layerType"].astype(str) == "Transpose"
            for name in info["originalLayersNames"].astype(str).split(",")
        }
        if not maps & transposed:
            return compiled
        maps -= transposed
    return core.compile_model(model, "CPU", settings)


def _is_map(port: Any) -> bool:
    return len(port.shape) == 4 and port.element_type.get_type_name() == "f32"


def _turn(ov: Any, model: Any, maps: set[str]) -> Any:
    """Return a copy of a model whose named inputs and outputs are channels last. Their names end in `CHANNELS_LAST`."""
    ops, copy = ov.opset13, model.clone()
    parameters, results = copy.get_parameters(), copy.get_results()

    def transpose(value: Any, name: str, order: Sequence[int]) -> Any:
        node = ops.transpose(value, ops.constant(order, dtype="int64"))
        node.set_friendly_name(name + CHANNELS_LAST)
        return node.output(0)

    for k, parameter in enumerate(parameters):
        port = parameter.output(0)
        for name in maps & port.names:
            n, c, h, w = port.shape
            parameters[k] = ops.parameter([n, h, w, c], port.element_type)
            parameters[k].output(0).set_names({name + CHANNELS_LAST})
            port.set_names(set())
            turned = transpose(parameters[k], name, [0, 3, 1, 2])
            for reader in port.get_target_inputs():
                reader.replace_source_output(turned)
    for k, result in enumerate(results):
        port = result.input_value(0)
        for name in maps & port.names:
            # The pooling changes nothing. Right behind an addition that is part of a convolution, OpenVINO would transpose.
            pooled = ops.avg_pool(port, [1, 1], [0, 0], [0, 0], [1, 1], False)
            turned = transpose(pooled, name, [0, 2, 3, 1])
            turned.set_names({name + CHANNELS_LAST})
            results[k] = ops.result(turned)
    return ov.Model(results, parameters, model.get_friendly_name())
