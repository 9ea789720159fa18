from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.nn import functional as F

from offramp.bundle import open_bundle
from offramp.cli.describe import describe_bundle
from offramp.errors import DataError, ModelError, UsageError
from offramp.export import PlaceWarning, attach, export, quantize, train
from offramp.runtime import load_uncalibrated

CLASSES, WORDS = 5, 30


class Encoder(nn.Module):
    """A transformer over words with a mask of the words that count; `loops` runs a single layer several times."""

    def __init__(self, loops=0, layers=3):
        super().__init__()
        self.embed, self.position = nn.Embedding(WORDS, 16), nn.Embedding(32, 16)
        made = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(1 if loops else layers)]
        self.layers, self.loops, self.classify = nn.ModuleList(made), loops or 1, nn.Linear(16, CLASSES)

    def forward(self, input_ids, attention_mask=None, kind="words"):
        x = self.embed(input_ids) + self.position(torch.arange(input_ids.shape[1]))
        for layer in [*self.layers] * self.loops:
            x = layer(x, src_key_padding_mask=None if attention_mask is None else attention_mask == 0)
        return self.classify(x[:, 0])


class Recurrent(nn.Module):
    """Recurrent layers of which nothing but what is inside has the batch on axis 1."""

    def __init__(self, kind):
        super().__init__()
        self.layers = nn.ModuleList([kind(6, 8), kind(8, 8), kind(8, 8)])
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = x.transpose(0, 1)
        for layer in self.layers:
            x, _ = layer(x)
        return self.classify(x[-1])


class Views(nn.Module):
    """Hands a view of a parameter to a module."""

    def __init__(self):
        super().__init__()
        self.token, self.first, self.second = nn.Parameter(torch.randn(1, 4, 8)), nn.Linear(8, 8), nn.Linear(8, 8)
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.first(x) + self.second(self.token.transpose(1, 2).transpose(1, 2))
        return self.classify(self.second(x.relu()).mean(1))


class Functional(nn.Module):
    """Nearly all work is done outside of modules."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.weights, self.classify = nn.Parameter(torch.randn(20, 8, 8) / 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.norm(self.stem(x))
        for weight in self.weights:
            x = x + F.relu(x @ weight)
        return self.classify(x)


class LookUp(nn.Module):
    """Takes words to vectors by an index, not by nn.Embedding."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(WORDS, 8))
        self.one, self.two, self.classify = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, ids):
        return self.classify(self.two(self.one(self.table[ids]).relu()).relu().mean(1))


def make(kind, *arguments):
    torch.manual_seed(0)
    return kind(*arguments).eval()


def words(count=4, length=8):
    return torch.randint(1, WORDS, (count, length), generator=torch.Generator().manual_seed(0))


def run(network, *inputs, **named):
    with torch.no_grad():
        return network(*inputs, **named)


def test_each_exit_tells_its_place_its_share_of_the_work_and_its_axes():
    network = nn.Sequential(
        *[nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4, 4)], nn.Flatten(), nn.Linear(256, CLASSES)
    )
    attached = attach(network, torch.randn(2, 3, 8, 8), at=["0", "2"])
    first, second = attached.attached
    work = [9 * 4 * 64 * c for c in (3, 4, 4, 4)] + [256 * CLASSES]
    assert (first.name, second.name) == attached.places == ("0", "2")
    assert first.share == pytest.approx(work[0] / sum(work)) and second.share == pytest.approx(
        sum(work[:3]) / sum(work)
    )
    assert first.layout == ("batch", "channels", "space", "space") and first.mask is None
    assert f"exit 0 at 0: {first.share:.2%} of the work, reads (batch, channels, space, space)" in repr(attached)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_their_work_and_get_exits_though_the_batch_is_axis_1(kind):
    attached = attach(make(Recurrent, kind), torch.randn(3, 7, 6), fractions=(0.3, 0.65))
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    work = [7 * gates * 8 * (inputs + 8) for inputs in (6, 8, 8)]
    total = sum(work) + 8 * CLASSES
    assert attached.places == ("layers.0", "layers.1") and not attached.notes
    assert [place.share for place in attached.attached] == pytest.approx([work[0] / total, sum(work[:2]) / total])
    assert [tuple(logits.shape) for logits in run(attached, torch.randn(5, 7, 6))] == [(5, CLASSES)] * 3


def test_a_projected_lstm_of_both_directions_is_counted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.more = nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True), nn.Linear(16, 16)
            self.classify = nn.Linear(16, CLASSES)

        def forward(self, x):
            return self.classify(self.more(self.layer(x)[0]).mean(1))

    (place,) = attach(make(Net), torch.randn(3, 7, 6), at=["layer"]).attached
    layer = 2 * 7 * 4 * 8 * (6 + 8) + 2 * 7 * 4 * 8 * (16 + 8)
    assert place.share == pytest.approx(layer / (layer + 7 * 16 * 16 + 16 * CLASSES))


def test_a_network_of_vectors_gets_exits():
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
    network = make(nn.Sequential, nn.Flatten(), *layers, nn.Linear(32, CLASSES))
    attached = attach(network, torch.randn(3, 8, 8), fractions=(0.45, 0.7))
    assert attached.places == ("2", "4") and attached.attached[0].layout == ("batch", "channels")


def test_no_head_reads_maps_that_were_flattened_on_the_way():
    network = make(nn.Sequential, nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 32), nn.Linear(32, CLASSES))
    assert attach(network, torch.randn(2, 1, 8, 8), fractions=(0.2,)).places == ("0",)


def test_looped_layers_get_exits_after_a_run():
    network, ids = make(Encoder, 4), words()
    attached = attach(network, ids)
    assert all(place.startswith("layers.0") for place in attached.places)
    assert [place.run for place in attached.attached] == [1, 2, 3]
    named = attach(network, ids, at=["layers.0:1", "layers.0:3"])
    assert named.places == ("layers.0:1", "layers.0:3")
    outputs: list[torch.Tensor] = []
    handle = network.layers[0].register_forward_hook(lambda module, _, output: outputs.append(output))
    logits = run(named, ids)
    handle.remove()
    for k, which in enumerate((0, 2)):
        assert torch.allclose(logits[k], run(named.heads[k], outputs[which]), atol=1e-6)
    with pytest.raises(UsageError, match=r"at=\['layers.0:1', 'layers.0:3'\]"):
        attach(network, ids, at=["layers.0:3", "layers.0:1"])


def test_a_module_that_runs_less_often_than_on_the_example_is_named():
    network, ids = make(Encoder, 4), words()
    attached = attach(network, ids, at=["layers.0:4"])
    network.loops = 2
    with pytest.raises(ModelError, match="layers.0 ran 2 times"):
        attached(ids)


def test_padding_does_not_move_the_exits():
    network, ids = make(Encoder), words()
    attached = attach(network, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert [place.mask for place in attached.attached] == ["attention_mask"] * 3
    assert "without what attention_mask leaves out" in repr(attached)
    alone = run(attached, ids, torch.ones_like(ids))
    longer = torch.cat([ids, words(4, 24)], 1)
    mask = (torch.arange(32) < 8).long().expand(4, 32)
    for padded in (run(attached, longer, mask), run(attached, attention_mask=mask, input_ids=longer)):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone, padded, strict=True))
    assert not torch.allclose(run(attached, longer)[0], alone[0], atol=1e-2)  # the mask may be left out


def test_a_mask_is_known_by_what_it_does_whatever_it_is_called():
    class Renamed(nn.Module):
        def __init__(self, kept):
            super().__init__()
            self.inner, self.kept = make(Encoder), kept

        def forward(self, ids, flags):
            return self.inner(ids, (flags == self.kept).long())

    ids = words()
    for kept in (0, 1):
        (place,) = attach(Renamed(kept), (ids, torch.ones_like(ids)), at=["inner.layers.1"]).attached
        assert place.mask == "flags"

    class Kinds(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.kinds = make(Encoder), nn.Embedding(2, 1)

        def forward(self, ids, kinds):
            return self.inner(ids) * self.kinds(kinds).mean(1)

    (place,) = attach(Kinds(), (ids, torch.ones_like(ids)), at=["inner.layers.1"]).attached
    assert place.mask is None


@pytest.mark.parametrize("adds", [True, False])
def test_an_attention_mask_that_is_zero_where_tokens_count_is_not_read_the_other_way_round(adds):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make(Encoder)

        def forward(self, ids, attention_mask):
            return self.inner(ids, attention_mask == 0)

    ids = words()
    mask = torch.zeros(ids.shape) if adds else (torch.arange(8) > torch.arange(4, 8)[:, None]).float()
    attached = attach(make(Other), {"ids": ids, "attention_mask": mask}, at=["inner.layers.1"])
    other = run(attached, words().flip(1), torch.zeros(ids.shape))
    assert not torch.allclose(run(attached, ids, torch.zeros(ids.shape))[0], other[0], atol=1e-2)


def test_inputs_by_name_are_never_taken_in_another_order():
    class Ordered(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make(Encoder)

        def forward(self, ids, mask):
            return self.inner(ids.long(), mask)

    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make(Encoder)

        def forward(self, **inputs):
            return self.inner(inputs["ids"], inputs["mask"])

    ids, mask = words(), torch.ones(4, 8)
    with pytest.raises(DataError, match="The inputs flags, ids are not those of the network's forward"):
        attach(make(Ordered), {"flags": mask, "ids": ids})
    attached = attach(make(Keywords), {"ids": ids, "mask": mask}, at=["inner.layers.0"])
    assert attached.attached[0].mask == "mask"
    expected = run(attached, ids=ids, mask=mask)
    padded = run(attached, ids=torch.cat([ids, words()], 1), mask=torch.cat([mask, 0 * mask], 1))
    assert torch.allclose(expected[0], padded[0], atol=1e-5)


def test_a_mask_of_another_length_than_the_features_is_noted():
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.pool, self.classify = nn.Linear(6, 6), nn.MaxPool1d(2), nn.Linear(6, CLASSES)

        def forward(self, x, attention_mask):
            x = self.mix(x) * attention_mask[:, :, None]
            return self.classify(self.pool(x.transpose(1, 2)).mean(2))

    with pytest.warns(PlaceWarning, match="exit at pool reads padding, too: attention_mask has 8 tokens"):
        attached = attach(make(Halved), (torch.randn(3, 8, 6), torch.ones(3, 8)), at=["mix", "pool"])
    assert [place.mask for place in attached.attached] == ["attention_mask", None] and len(attached.notes) == 1


def test_a_masked_network_is_exported_at_any_length_and_runs(tmp_path):
    ids, mask = words(), (torch.arange(8) < torch.tensor([[8], [5], [3], [6]])).long()
    attached = attach(make(Encoder, 0, 2), {"attention_mask": mask, "input_ids": ids}, at=["layers.0"])
    axes = {"input_ids": ("batch", "time"), "attention_mask": ("batch", "time")}
    bundle = export(attached, {"attention_mask": mask, "input_ids": ids}, tmp_path / "net.offramp", axes=axes)
    variant = bundle.variant()
    assert [exit_.place for exit_ in variant.exits] == ["layers.0", None]
    small = quantize(bundle, {"attention_mask": mask.numpy(), "input_ids": ids.numpy()}).variant("int8")
    assert [exit_.place for exit_ in small.exits] == ["layers.0", None]
    assert "attached to" in describe_bundle(bundle) and " layers.0 " in describe_bundle(bundle)
    unnamed = [replace(exit_, place=None) for exit_ in variant.exits]
    assert replace(variant, exits=tuple(unnamed)).digest == variant.digest  # so calibrations go on fitting
    longer = torch.cat([ids, words(4, 8)], 1)
    longer_mask = F.pad(mask, (0, 8))
    expected = run(attached, ids, mask)
    with load_uncalibrated(open_bundle(bundle.path), logits=True) as net:
        logits = net.every_exit({"input_ids": longer.numpy(), "attention_mask": longer_mask.numpy()}).logits
    for k, exit_logits in enumerate(expected):
        assert np.allclose(logits[:, k], exit_logits.numpy(), atol=1e-4)


def test_views_of_parameters_go_into_modules():
    attached = attach(make(Views), torch.randn(3, 4, 8), fractions=(0.4,))
    assert attached.places == ("first",)


def test_a_branch_by_torch_cond_is_run_as_it_is():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.classify = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

        def forward(self, x):
            x = self.one(x)
            return self.classify(self.two(torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))).relu())

    assert attach(make(Branched), torch.randn(2, 6), fractions=(0.3,)).places == ("one",)


def test_words_are_followed_from_a_table_that_is_no_embedding():
    attached = attach(make(LookUp), words(), fractions=(0.4,))
    assert attached.places == ("one",)


def test_fractions_without_a_place_near_them_are_named():
    with pytest.warns(PlaceWarning) as caught:
        attached = attach(make(Functional), torch.randn(3, 8), fractions=(0.1, 0.35, 0.6))
    assert attached.places == ("norm",) and len(attached.notes) == 3
    assert "fraction 0.1 of the work got the exit at norm, which is at 4.62%" in attached.notes[0]
    assert "0.35 of the work got no exit of its own: norm at 4.62% already has one" in attached.notes[1]
    assert "0.6 of the work got no exit of its own" in attached.notes[2]
    assert len(caught) == 1 and all(note in str(caught[0].message) for note in attached.notes)
    assert all(note in repr(attached) for note in attached.notes)


def test_a_fraction_whose_places_are_nearer_to_the_end_is_named():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES)
    )
    with pytest.warns(
        PlaceWarning,
        match="fraction 0.1 of the work got no exit: every place whose axes are known is nearer to the network",
    ):
        attached = attach(network, torch.randn(2, 3, 8, 8), fractions=(0.1, 0.97))
    assert attached.places == ("2",)


def test_an_axis_that_cannot_be_known_is_asked_for():
    network = nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, CLASSES))
    x = torch.randn(3, 3, 8)
    with pytest.raises(ModelError, match=r"not known which axis of 0, \(3, 3, 4\) with the batch on axis 0.*layouts="):
        attach(network, x, at=["0"])
    attached = attach(network, x, at=["0"], layouts={"0": ("batch", "channels", "tokens")})
    assert attached.attached[0].layout == ("batch", "channels", "tokens")
    assert type(attached.heads[0][0]) is nn.LayerNorm and attached.heads[0][0].normalized_shape == (3,)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (("batch", "channels"), "features have the shape"),
        (("batch", "channels", "tokns"), "Did you mean 'tokens'"),
        (("batch", "tokens", "space"), "once each"),
        (("batch", "batch", "channels"), "once each"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout, words):
    network = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(32, CLASSES))
    with pytest.raises(UsageError, match=words):
        attach(network, torch.randn(3, 3, 8), at=["0"], layouts={"0": layout})


def test_a_layout_of_a_place_that_there_is_not_is_refused():
    network = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(32, CLASSES))
    with pytest.raises(UsageError, match="Unknown module 'O'"):
        attach(network, torch.randn(3, 3, 8), at=["0"], layouts={"O": ("batch", "channels", "space")})


def test_the_layers_of_a_class_token_say_nothing_of_the_axes():
    class Classed(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.token = nn.Linear(6, 12), nn.Linear(12, 12, bias=False)
            self.joined, self.classify = nn.Identity(), nn.Linear(12, CLASSES)

        def forward(self, x):
            x = self.patches(x)
            return self.classify(self.joined(torch.cat([self.token(x.mean(1, keepdim=True)), x], 1)).mean(1))

    (place,) = attach(make(Classed), torch.randn(3, 11, 6), at=["joined"]).attached
    assert place.layout == ("batch", "tokens", "channels")


def test_a_place_without_a_batch_axis_says_so():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.classify = nn.Linear(6, 6), nn.Linear(6, CLASSES)

        def forward(self, x):
            return self.classify(self.mix(x.reshape(-1, 4, 6)).reshape(len(x), -1, 6).mean(1))

    with pytest.raises(ModelError, match=r"mix returns \(6, 4, 6\) for 3 samples, and no axis"):
        attach(make(Windows), torch.randn(3, 8, 6), at=["mix"])


def test_a_batch_that_is_not_the_first_axis_of_the_input_is_named_as_for_export():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.classify = nn.GRU(6, 8), nn.GRU(8, 8), nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.classify(self.two(self.one(x)[0])[0][-1])

    network, x = make(TimeFirst), torch.randn(7, 3, 6)
    with pytest.raises(ModelError, match="Is the batch axis 1 of the input"):
        attach(network, x)
    attached = attach(network, x, at=["one"], axes=("time", "batch", None))
    assert attached.attached[0].layout == ("tokens", "batch", "channels")
    assert run(attached, torch.randn(7, 5, 6))[0].shape == (5, CLASSES)


@pytest.mark.parametrize("form", [dict, tuple, list])
def test_several_inputs_are_trained_on(form):
    ids = words(32)
    mask = (torch.arange(8) < torch.randint(3, 9, (32, 1), generator=torch.Generator().manual_seed(0))).long()
    y = ids[:, 0] % CLASSES
    inputs: Any = {"attention_mask": mask, "input_ids": ids} if form is dict else form((ids, mask))
    attached = attach(make(Encoder), inputs, at=["layers.0"])
    before = run(attached, ids, mask)
    history = train(attached, [(inputs, y)] * 2, validation=[(inputs, y)], recipe="heads", epochs=15, lr=0.2)
    assert history.epochs[-1].validation[0] > 0.6 and history.epochs[-1].loss[0] < history.epochs[0].loss[0]
    after = run(attached, ids, mask)
    assert torch.equal(before[-1], after[-1]) and not torch.equal(before[0], after[0])
    with pytest.raises(DataError, match="31 labels.*32 samples"):
        train(attached, [(inputs, y[1:])], recipe="heads", epochs=1)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ({}, "is empty"),
        ({"x": torch.randn(3, 4, 8), "mask": None}, "input mask is a NoneType"),
        ((torch.randn(3, 4, 8), torch.ones(2, 4)), r"\[2, 3\] samples"),
    ],
)
def test_an_example_that_is_none_says_why(example, words):
    with pytest.raises(DataError, match=words):
        attach(make(Views), example)
