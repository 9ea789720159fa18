"""Networks whose inputs have another length in every call."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from offramp.errors import DataError, ModelError
from offramp.export import export, fuse
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import CLASSES


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def torch_logits(net, *inputs):
    with torch.no_grad():
        return np.stack([y.numpy() for y in net(*map(torch.from_numpy, inputs))], 1)


class Subsampled(nn.Module):
    """A sequence whose length is divided on the way, and counted where it is short."""

    def __init__(self, stride=16):
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 6, 5, 1, 2), nn.Conv1d(6, 8, stride, stride)
        self.third = nn.Conv1d(8, 8, 1)
        self.heads = nn.ModuleList([nn.Linear(i, CLASSES) for i in (6, 8, 8)])

    def forward(self, x):
        x = torch.relu(self.first(x))
        exits = [self.heads[0](x.mean(2))]
        x = torch.relu(self.second(x))
        exits.append(self.heads[1](x.sum(2) / x.shape[2]))
        x = torch.relu(self.third(x)) + x
        return [*exits, self.heads[2](x.sum(2) / x.shape[2])]


@pytest.mark.parametrize("example", [16, 40])
def test_lengths_far_from_the_examples_own_are_right(example, tmp_path):
    torch.manual_seed(0)
    net, rng = Subsampled().eval(), np.random.default_rng(0)
    x = rng.standard_normal((3, 2, example)).astype(np.float32)
    bundle = export(net, x, tmp_path / "b.offramp", axes=("batch", None, "time"))
    with load_uncalibrated(bundle, logits=True) as chain:
        for length in (16, 17, 33, 64, 250):
            x = rng.standard_normal((2, 2, length)).astype(np.float32)
            with torch.no_grad():
                expected = np.stack([y.numpy() for y in net(torch.from_numpy(x))], 1)
            assert close(chain.every_exit(x, size=2).logits, expected)
        with pytest.raises(DataError, match="The engine cannot run this sample"):
            chain(x[0, :, :3])
        assert close(chain(x[0]).logits, expected[0, -1])


class LoopedSequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h, exits = self.embed(x), []
        for _ in range(4):
            h = h + torch.tanh(self.block(h))
            exits.append(self.head(h.mean(1)))
        return exits


def test_a_loop_over_sequences_of_any_length_is_stored_once_too(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 9, 3)).astype(np.float32)
    bundle = export(LoopedSequence().eval(), x, tmp_path / "b.offramp", axes=("batch", "time", None))
    assert [stage.file for stage in bundle.variant().stages] == ["stage0.onnx", *["stage1.onnx"] * 3]
    assert {t.shape for stage in bundle.variant().stages for t in stage.outputs} == {(None, "time", 8)}


class Attending(nn.Module):
    """Two sequences, each of a length of its own, that attend to each other."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(6, 8), nn.Linear(6, 8)
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(3)])

    def forward(self, q, k):
        a, b = self.q(q), self.k(k)
        exits = [self.heads[0](a.mean(1))]
        weights = torch.softmax(a @ b.transpose(1, 2), -1)
        y = weights @ b
        exits.append(self.heads[1](y.mean(1)))
        z = torch.softmax(weights.transpose(1, 2), -1) @ a
        return [*exits, self.heads[2](z.mean(1) + y.amax(1))]


def test_two_lengths_that_are_equal_in_the_example_stay_two(tmp_path):
    torch.manual_seed(0)
    net, rng = Attending().eval(), np.random.default_rng(0)
    q, k = (rng.standard_normal((3, 8, 6)).astype(np.float32) for _ in range(2))
    axes = {"q": ("batch", "tq", None), "k": ("batch", "tk", None)}
    bundle = export(net, (q, k), tmp_path / "b.offramp", axes=axes)
    shapes = {t.shape for stage in bundle.variant().stages for t in stage.outputs}
    assert (None, "tq", "tk") in shapes or (None, "tk", "tq") in shapes
    session = onnxruntime.InferenceSession(fuse(bundle, tmp_path / "one.onnx", thresholds=[2.0, 2.0]).path)
    with load_uncalibrated(bundle, logits=True) as chain:
        for tq, tk in [(8, 8), (11, 3), (1, 20), (20, 1)]:
            q, k = (rng.standard_normal((1, n, 6)).astype(np.float32) for n in (tq, tk))
            expected = torch_logits(net, q, k)
            assert close(chain.every_exit((q, k)).logits, expected)
            assert close(session.run(["logits"], {"q": q, "k": k})[0], expected[:, -1])


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        width = 2 if options.get("bidirectional") else 1
        self.layers = nn.ModuleList([kind(6, 5, **options), kind(5 * width, 5, **options)])
        self.head = nn.Linear(5 * width, CLASSES)
        self.time = 1 if options.get("batch_first") else 0

    def forward(self, x):
        exits = []
        for layer in self.layers:
            x, _ = layer(x)
            exits.append(self.head(x.mean(self.time)))
        return exits


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(nn.LSTM, {}, id="lstm"),
        pytest.param(nn.GRU, {}, id="gru", marks=pytest.mark.slow),
        pytest.param(nn.GRU, {"batch_first": True, "bidirectional": True}, id="bidirectional"),
    ],
)
def test_recurrent_layers_take_any_length(kind, options, tmp_path):
    torch.manual_seed(0)
    net, first = Recurrent(kind, **options).eval(), "batch_first" in options
    axes = ("batch", "time", None) if first else ("time", "batch", None)
    rng = np.random.default_rng(0)
    shape = (3, 9, 6) if first else (9, 3, 6)
    bundle = export(net, rng.standard_normal(shape).astype(np.float32), tmp_path / "b.offramp", axes=axes)
    with load_uncalibrated(bundle, logits=True) as chain:
        for length in (9, 2, 1, 23):
            shape = (4, length, 6) if first else (length, 4, 6)
            x = rng.standard_normal(shape).astype(np.float32)
            assert close(chain.every_exit(x, size=4).logits, torch_logits(net, x))


def test_a_network_for_one_length_only_is_refused(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(12, CLASSES), nn.Linear(12, CLASSES)])

        def forward(self, x):
            return self.heads[0](x), self.heads[1](torch.tanh(x @ x.new_ones(12, 12)))

    x = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32)
    with pytest.raises(ModelError, match="does not run at other lengths than time 12"):
        export(Fixed().eval(), x, tmp_path / "b.offramp", axes=("batch", "time"))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(2)])

    def forward(self, x):
        x = torch.relu(self.a(x))
        first = self.heads[0](x.mean(1))
        x = torch.relu(self.b(x))
        return first, self.heads[1](x.amax(1) if x.shape[1] > 100 else x.mean(1))


def test_a_branch_on_the_length_is_not_baked_in(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 16, 4)).astype(np.float32)
    with pytest.raises(ModelError, match="branches on the length of time: it runs at 101, .* holds from 0 to 100 only"):
        export(Branching().eval(), x, tmp_path / "b.offramp", axes=("batch", "time", None))
    assert export(Branching().eval(), x, tmp_path / "b.offramp").manifest.inputs[0].shape == (None, 16, 4)


def test_an_example_of_length_one_hides_no_network_that_takes_that_length_only(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), TwoHeads())
    path = tmp_path / "net.onnx"
    axes = {"x": {0: "batch", 1: "time"}}
    torch.onnx.export(net, torch.zeros(2, 1, 8), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    with pytest.raises(ModelError, match="does not run at other lengths than time 1"):
        export(path, np.ones((3, 1, 8), np.float32), tmp_path / "b.offramp")


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, CLASSES), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return [self.first(x), self.last(torch.relu(self.middle(x)))]
