"""What a graph computes in."""

import onnx
import onnx_ir as ir
import pytest

from offramp.export.graph.precision import find_precision

GRAPHS = {
    "a product": ("float", "y = Mul(x, x)", "fp32"),
    "an output stored in half precision": ("float16", "a = Mul(x, x)  y = Cast<to=10>(a)", "fp32"),
    "one that is moved after that": ("float16", "a = Cast<to=10>(x)  y = Transpose(a)", "fp32"),
    "a product in half precision": ("float16", "a = Cast<to=10>(x)  y = Mul(a, a)", "fp16"),
    "a product behind one": ("float", "a = Cast<to=10>(x)  b = Mul(a, a)  y = Cast<to=1>(b)", "fp16"),
    "pixels that pass through half precision": (
        "float",
        "p = Cast<to=2>(x)  a = Cast<to=10>(p)  b = Cast<to=1>(a)  y = Mul(b, b)",
        "fp32",
    ),
    "pixels that are multiplied in half precision": (
        "float16",
        "p = Cast<to=2>(x)  a = Cast<to=10>(p)  y = Mul(a, a)",
        "fp16",
    ),
    "a value that half precision rounds": ("float", "a = Cast<to=10>(x)  b = Cast<to=1>(a)  y = Mul(b, b)", "fp16"),
    "a weight in half precision": (
        "float",
        "w = Constant<value = float16[1] {15360}>()  a = Cast<to=1>(w)  y = Mul(x, a)",
        "fp16",
    ),
    "an output stored as float64": ("double", "a = Mul(x, x)  y = Cast<to=11>(a)", "fp32"),
    "a product in float64": ("double", "a = Cast<to=11>(x)  y = Mul(a, a)", "fp64"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_precision_is_that_of_weights_and_of_what_computes(name):
    output, nodes, precision = GRAPHS[name]
    text = f'<ir_version: 9, opset_import: ["" : 18]> g (float[N, 4] x) => ({output}[N, 4] y) {{ {nodes} }}'
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    assert find_precision(model, model.graph.outputs[0].dtype) == precision
