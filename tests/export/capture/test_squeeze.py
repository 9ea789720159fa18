"""Networks that squeeze without naming the axes."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from offramp.export import export
from offramp.tests.export.capture.test_torch_module import close, logits_of


class Squeezing(nn.Module):
    """Squeezes without axes: of one sample its logits are (classes,)."""

    def __init__(self, join=list):
        super().__init__()
        self.first, self.second, self.join = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), join
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(self, x):
        x = self.first(x).relu()
        y = self.second(x).relu()
        exits = [head(z.mean((2, 3), keepdim=True).squeeze()) for head, z in zip(self.heads, (x, y), strict=True)]
        return self.join(exits)


@pytest.mark.parametrize("join", [list, torch.stack], ids=["two outputs", "stacked"])
def test_a_squeeze_without_axes_does_not_drop_the_batch_of_one_sample(join, tmp_path):
    network, x = Squeezing(join).eval(), torch.randn(3, 1, 6, 6)  # as many samples as classes
    bundle = export(network, x, tmp_path / "squeezes.offramp")
    with torch.no_grad():
        expected = torch.stack(list(network(x)), 1).numpy()
    assert close(logits_of(bundle, x.numpy(), size=1), expected)
    assert close(logits_of(bundle, x.numpy(), size=3), expected)


@pytest.mark.parametrize("opset", [11, 17])
def test_an_onnx_file_that_squeezes_without_axes_is_captured(opset, tmp_path):
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        squeezes (float[n, 4, 1, 1] x) => (float[n, 4] a, float[n, 4] b)
        {{ y = Squeeze(x)  a = Relu(y)  z = Neg(x)  w = Squeeze(z)  b = Relu(w) }}"""
    )
    ir.save(model, tmp_path / "squeezes.onnx")
    x = np.random.default_rng(0).standard_normal((3, 4, 1, 1), np.float32)
    bundle = export(tmp_path / "squeezes.onnx", x, tmp_path / "squeezes.offramp")
    assert close(logits_of(bundle, x, size=1), np.stack([x, -x], 1).clip(0)[..., 0, 0])
