"""Pruning: channels leave across all exits, and what is left stands beside the whole network in its bundle."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from offramp.bundle import check_bundle, open_bundle
from offramp.cli.app import exit_code_of
from offramp.errors import DataError, ModelError, UsageError
from offramp.export import Epoch, Preprocess, add_pruned, attach, export, prune
from offramp.export.capture.outputs import flatten_outputs
from offramp.export.networks.pruning import count_macs, count_parameters
from offramp.runtime import load_uncalibrated, verify
from offramp.tests.zoo import networks
from offramp.tests.zoo.answers import ANSWERS, Tagger

CLASSES = 4


class Residual(nn.Module):
    """Two exits over convolutions with a shortcut across them; the second head is a convolution and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.b = nn.Conv2d(48, 32, 3, padding=1)
        self.early, self.middle = nn.Linear(32, CLASSES), nn.Conv2d(32, 24, 3, padding=1)
        self.late = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        early = self.early(x.mean((2, 3)))
        x = torch.relu(self.b(self.a(x)) + x)
        return {"early": early, "late": self.late(torch.relu(self.middle(x)).mean((2, 3)))}


def make(seed=0):
    torch.manual_seed(seed)
    return Residual().eval()


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, 10, 10)).astype(np.float32)


X = torch.from_numpy(draw(2))


def batches(n=120, seed=0):
    samples = torch.from_numpy(draw(n, seed))
    labels = torch.arange(n) % CLASSES
    samples[torch.arange(n), 0, labels, labels] += 8
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(samples, labels), 20)


@pytest.mark.parametrize("spread", ["uniform", "global"])
@pytest.mark.parametrize("goal", ["macs", "parameters"])
def test_the_network_becomes_as_small_as_asked_and_not_much_smaller(spread, goal):
    net = make()
    before = copy.deepcopy(net.state_dict())
    small = prune(net, X, **{goal: 0.5}, spread=spread)
    count = count_macs if goal == "macs" else count_parameters
    assert 0.3 < count(small, [X[:1]]) / count(net, [X[:1]]) <= 0.5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name: tuple(z.shape) for name, z in small(X).items()} == {"early": (2, CLASSES), "late": (2, CLASSES)}


def test_channels_suit_the_engines_and_leave_across_shortcuts_together():
    small = prune(make(), X, macs=0.6, round_to=8)
    widths = [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert small.stem[0].out_channels == small.b.out_channels < 32
    fine = prune(make(), X, macs=0.6, round_to=1)
    assert count_macs(small, [X]) <= count_macs(fine, [X])  # rounding makes it smaller, never larger


def test_channels_with_the_smallest_weights_leave_first():
    net = make()
    with torch.no_grad():
        net.a[0].weight[::2] *= 1e-3  # half of the channels hardly matter
        net.a[1].weight[::2] *= 1e-3
    small = prune(net, X, macs=0.75, keep=["stem", "b", "middle"])
    assert small.a[0].out_channels < 48
    with torch.no_grad():
        ours, theirs = small(X)["late"], net(X)["late"]
    assert torch.allclose(ours, theirs, atol=0.05 * float(theirs.abs().max()))


def test_what_is_kept_keeps_its_outputs_and_gradients_stay_as_they_were():
    net = make()
    net.stem.requires_grad_(False)
    small = prune(net, X, macs=0.7, keep=["middle"])
    assert small.middle.out_channels == 24
    assert not small.stem[0].weight.requires_grad and small.b.weight.requires_grad
    assert not small.training


@pytest.mark.parametrize("name", ["heads-read-heads", "deep-residual", "depthwise-separable", "stacked", "dataclass"])
def test_networks_of_all_kinds_are_pruned(name):
    entry = networks.ZOO[name]
    net = networks.build(entry)
    x = [torch.from_numpy(array) for array in entry.draw(2, 0)]
    small = prune(net, tuple(x), parameters=0.7, round_to=1)
    assert count_parameters(small) <= 0.7 * count_parameters(net)


def test_a_network_that_torch_pruning_breaks_is_refused():
    entry = networks.ZOO["multi-scale-dense"]
    with pytest.raises(ModelError, match=r"What pruning leaves does not run: .* Leave out .* keep=\[names\]"):
        prune(networks.build(entry), tuple(torch.from_numpy(array) for array in entry.draw(2, 0)), macs=0.7)


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "refiner"])
def test_networks_that_do_not_classify_keep_the_channels_that_reach_an_answer(name):
    net, x = ANSWERS[name].build(), torch.from_numpy(ANSWERS[name].draw(2))
    small = prune(net, x, parameters=0.7, round_to=1, answer=ANSWERS[name].options["answer"])
    assert count_parameters(small) <= 0.7 * count_parameters(net)
    shapes = [{part: (y.shape, y.dtype) for part, y in flatten_outputs(each(x)).items()} for each in (net, small)]
    assert shapes[0] == shapes[1]
    layers = [dict(each.named_modules()) for each in (net, small)]
    for answering in [
        part for part in layers[0] if part.partition(".")[0] in ("boxes", "classes", "heads") and "." in part
    ]:
        # An argmax has no gradients, and its shape would not show that it chooses among fewer.
        assert len(layers[0][answering].bias) == len(layers[1][answering].bias)


def test_what_an_answer_is_compared_with_is_kept_too():
    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.keys, self.last = nn.Linear(8, 32), nn.Linear(32, 16), nn.Linear(32, 16)

        def forward(self, x):
            y = torch.relu(self.stem(x))
            far = (self.keys(y).detach() > self.last(y)).long()
            return {"far": far.sum(1), "bits": far[:, :1]}

    small = prune(Far().eval(), torch.randn(2, 8), parameters=0.5)
    assert (small.keys.out_features, small.last.out_features) == (16, 16) and small.stem.out_features < 32


def test_named_parts_of_answers_stay_beside_what_looks_like_logits():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.map, self.tags = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 24, 1), nn.Linear(32, 6)

        def forward(self, x):
            y = torch.relu(self.stem(x))
            return {"exit0.map": self.map(y), "exit0.tags": self.tags(y.mean((2, 3)))}

    net, x = Two().eval(), torch.randn(2, 1, 8, 8)
    assert prune(net, x, parameters=0.5).map.out_channels < 24  # what a classifier returns besides logits
    assert prune(net, x, parameters=0.5, answer=["map", "tags"]).map.out_channels == 24
    with pytest.raises(UsageError, match=r"answer is a list of names: \['map'\]"):
        prune(net, x, parameters=0.5, answer="map")
    with pytest.raises(
        ModelError, match="No output of the network is boxes or masks. There are: exit0.map, exit0.tags"
    ):
        prune(net, x, parameters=0.5, answer=["boxes", "masks"])


TAGGER = """
import torch
from offramp.tests.zoo.answers import ANSWERS
network = ANSWERS["many labels"].build
def data(): return (x := torch.from_numpy(ANSWERS["many labels"].draw(96))), network()(x)[-1]["tags"].detach()
def several(): return data()[0], {"tags": data()[1], "others": data()[1]}
def fewer(): return data()[0], data()[1][:5]
def loss(exit_, tags): return (exit_["tags"] - tags).abs().mean(1)
"""


def test_a_network_that_does_not_classify_is_pruned_and_fine_tuned_by_a_loss(tmp_path, capsys):
    entry = ANSWERS["many labels"]
    net, path, file = entry.build(), tmp_path / "b.offramp", tmp_path / "net.py"
    file.write_text(TAGGER)
    export(net, entry.draw(3), path, **entry.options)
    line = ["prune", f"{file}:network", "-o", str(path), "--parameters", "0.7", "--round-to", "1", "--epochs", "2"]
    assert exit_code_of([*line, "--loss", f"{file}:loss", "--data", f"{file}:data", "--batch", "32"]) == 0
    told = capsys.readouterr().err
    assert "epoch 2 of 2: loss in training 0." in told and "accuracy" not in told
    whole, small = open_bundle(path).manifest.variants
    assert (small.rule, [*small.exits[2].answer]) == (whole.rule, ["tags"])
    assert 0 < small.origin.settings["loss_in_training_2"] < 1 and "accuracy_in_training_0" not in small.origin.settings
    assert all(check.passed for check in verify(path))
    before = (path / "manifest.json").read_bytes()
    for data, code, words in [
        ("several", 5, "has targets of several parts"),
        ("fewer", 5, "has 96 samples but targets of shape (5, 6)"),
    ]:
        assert exit_code_of([*line, "--loss", f"{file}:loss", "--data", f"{file}:{data}"]) == code
        assert words in capsys.readouterr().err
    options = {"parameters": 0.7, "loss": lambda exit_, tags: exit_["tags"].mean(1)}
    for match, more in {
        "fine-tune it by a loss of your own.*epochs=0": {"loss": None},
        "A loss of your own goes with the recipe joint": {"recipe": "distill"},
        "its exits give other answers": {"network": Tagger().eval()},
    }.items():
        arguments = {"network": net, "batches": [(torch.zeros(2, 1, 16, 16), None)], "path": path, "name": "x"}
        with pytest.raises(UsageError, match=match):
            add_pruned(**(arguments | options | more))
    assert (path / "manifest.json").read_bytes() == before


def test_what_does_not_make_sense_is_said():
    for match, options in {
        "Give macs or parameters": {},
        "above 0 and below 1": {"macs": 60},
        "Give macs or parameters, ": {"macs": 0.5, "parameters": 0.5},
        "Unknown spread 'globl'. Did you mean 'global'": {"macs": 0.5, "spread": "globl"},
        "Unknown module 'stemm'. Did you mean 'stem'": {"macs": 0.5, "keep": ["stemm"]},
        "multiples of a whole number": {"macs": 0.5, "round_to": 0},
        r"5% of the macs cannot be reached: \d+\.\d% can": {"macs": 0.05, "round_to": 16},
    }.items():
        with pytest.raises(UsageError, match=match):
            prune(make(), X, **options)
    with pytest.raises(UsageError, match=r"takes a torch.nn.Module, not a str"):
        prune("network.onnx", X, macs=0.5)
    with pytest.raises(ModelError, match="does not run on the example"):
        prune(make(), X[:, :1], macs=0.5)


def test_a_pruned_network_stands_beside_the_whole_one_with_its_lineage(tmp_path):
    reported: list[Epoch] = []
    bundle = add_pruned(
        make(),
        batches(),
        tmp_path / "b.offramp",
        macs=0.6,
        epochs=2,
        recipe="distill",
        lr=0.05,
        progress=reported.append,
    )
    whole, small = check_bundle(bundle.path).manifest.variants
    assert (small.name, small.origin.parent, small.origin.how) == ("pruned40", "fp32", "prune")
    settings = small.origin.settings
    assert (settings["macs"], settings["epochs"], settings["recipe"]) == (0.6, 2, "distill") and len(reported) == 2
    assert sum(s.macs for s in small.stages) <= 0.6 * sum(s.macs for s in whole.stages)
    assert [e.name for e in small.exits] == ["early", "late"] and small.folder != whole.folder
    x = draw(10, 3)
    with load_uncalibrated(bundle, logits=True) as net:
        torch_logits = torch.stack(list(make()(torch.from_numpy(x)).values()), 1).detach().numpy()
        assert np.allclose(net.every_exit(x).logits, torch_logits, atol=1e-4)
    with load_uncalibrated(bundle, variant="pruned40") as net:
        assert net.every_exit(x).label.shape == (10, 2)


def test_it_is_exported_as_the_whole_network_was(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 10, 10, 3), np.uint8)
    preprocess = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    path = tmp_path / "b.offramp"
    export(make(), images, path, rule="entropy", temperatures=[1.5, 1.2], preprocess=preprocess)
    bundle = add_pruned(make(), batches(), path, parameters=0.5, epochs=0, name="half")
    whole, small = bundle.manifest.variants
    assert small.rule == "entropy" and [e.temperature for e in small.exits] == [1.5, 1.2]
    with load_uncalibrated(bundle, variant="half") as net:
        assert net(images[0]).label in range(CLASSES)
    again = add_pruned(make(), batches(), path, macs=0.5, epochs=0)
    assert [variant.name for variant in again.manifest.variants] == ["fp32", "half", "pruned50"]
    assert whole.digest == open_bundle(path).variant().digest


def test_a_rule_that_takes_no_temperatures_is_kept(tmp_path):
    export(make(), X, tmp_path / "b.offramp", rule="patience")
    bundle = add_pruned(make(), batches(), tmp_path / "b.offramp", macs=0.5, epochs=0)
    assert [variant.rule for variant in bundle.manifest.variants] == ["patience", "patience"]


def test_images_of_a_bundle_that_prepares_them_are_prepared_before_the_network_gets_them(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 10, 10, 3), np.uint8)
    labels = torch.arange(20) % CLASSES
    preprocess = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    export(make(), images[:4], path := tmp_path / "b.offramp", preprocess=preprocess)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    floats = (floats - torch.tensor(preprocess.mean).view(3, 1, 1)) / torch.tensor(preprocess.std).view(3, 1, 1)
    for name, x in (("floats", floats), ("images", torch.from_numpy(images))):
        bundle = add_pruned(make(), [(x, labels)], path, macs=0.5, epochs=1, name=name)
    answers = []
    for name in ("floats", "images"):
        with load_uncalibrated(bundle, variant=name, logits=True) as net:
            answers.append(net.every_exit(images).logits)
    assert np.allclose(*answers, atol=1e-3)


def test_another_networks_bundle_and_empty_batches_are_refused(tmp_path):
    path = tmp_path / "b.offramp"
    export(make(), draw(3), path)
    before = (path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="is not the one in .*its exits give other logits"):
        add_pruned(make(1), batches(), path, macs=0.5, epochs=0)
    with pytest.raises(UsageError, match="already has a variant fp32"):
        add_pruned(make(), batches(), path, macs=0.5, epochs=0, name="fp32")
    with pytest.raises(DataError, match="no batches"):
        add_pruned(make(), [], path, macs=0.5)
    assert (path / "manifest.json").read_bytes() == before
    gated = networks.ZOO["gated"]
    export(networks.build(gated), gated.draw(3, 0), tmp_path / "g.offramp", **gated.options)
    with pytest.raises(UsageError, match="made by gates"):
        add_pruned(
            networks.build(gated), [(torch.from_numpy(gated.draw(3, 0)[0]), None)], tmp_path / "g.offramp", macs=0.5
        )


def test_a_network_of_ones_own_is_exported_beside_another(tmp_path):
    path = tmp_path / "b.offramp"
    export(make(), draw(3), path, class_names=["a", "b", "c", "d"])
    bundle = export(make(1), None, path, beside="retrained")
    assert [variant.name for variant in bundle.manifest.variants] == ["fp32", "retrained"]
    assert bundle.manifest.class_names == ("a", "b", "c", "d")
    assert {variant.folder for variant in bundle.manifest.variants} == {"variants/fp32", "variants/retrained"}
    for match, options in {
        "already has a variant retrained": {"beside": "retrained"},
        "are the bundle's: leave them out": {"beside": "x", "class_names": list("abcd")},
        "letters, digits": {"beside": "a b"},
    }.items():
        with pytest.raises(UsageError, match=match):
            export(make(2), None, path, **options)
    with pytest.raises(UsageError, match=r"takes x float32 \(None, 3, 12, 12\), the bundle's x float32"):
        export(make(2), np.zeros((3, 3, 12, 12), np.float32), path, beside="larger")
    with pytest.raises(UsageError, match="There is no bundle"):
        export(make(2), draw(3), tmp_path / "new.offramp", beside="x")
    assert not (tmp_path / "new.offramp").exists()
    assert [variant.name for variant in check_bundle(path).manifest.variants] == ["fp32", "retrained"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_networks_in_other_precisions_are_pruned_as_they_are(dtype):
    small = prune(make().to(dtype), X, macs=0.5)
    assert small.stem[0].weight.dtype == dtype and count_macs(small, (X.to(dtype),)) < 0.5 * count_macs(make(), (X,))


def test_layers_as_wide_as_there_are_classes_are_pruned_all_the_same():
    net = make()
    net.early, net.late = nn.Linear(32, 32), nn.Linear(24, 32)  # as many classes as the stem has channels
    small = prune(net, X, macs=0.8)
    assert small.stem[0].out_channels < 32 and small.late.out_features == 32


def test_what_was_frozen_is_fine_tuned_too(tmp_path):
    trunk = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    torch.manual_seed(0)
    plain = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)).eval()
    net = attach(plain, X, at=["1"])
    weights = {}
    for epochs in (0, 1):
        bundle = add_pruned(net, batches(40), tmp_path / "b.offramp", macs=0.5, epochs=epochs, name=f"after{epochs}")
        variant = bundle.manifest.variants[-1]
        model = onnx.load(bundle.path / variant.folder / variant.whole)
        weights[epochs] = [onnx.numpy_helper.to_array(w) for w in model.graph.initializer if len(w.dims) == 4]
    assert all(not np.allclose(a, b, atol=1e-5) for a, b in zip(weights[0], weights[1], strict=True))


def test_names_are_checked_before_hours_of_training(tmp_path):
    def no_batches():
        raise AssertionError("it trains")

    class Once:
        """Batches that may be looked at, not trained with."""

        looks = 0

        def __iter__(self):
            self.looks += 1
            return iter(batches(20)) if self.looks == 1 else no_batches()

        def __len__(self):
            return 1

    for wrong in (
        {"name": "a/b"},
        {"name": "fp32"},
        {"variant": "nowhere"},
        {"recipe": "jiont"},
        {"macs": float("nan")},
    ):
        with pytest.raises(UsageError):
            add_pruned(make(), Once(), tmp_path / f"{len(list(tmp_path.iterdir()))}.offramp", **({"macs": 0.5} | wrong))


def test_a_network_whose_inputs_were_given_by_name_is_exported_beside_itself(tmp_path):
    torch.manual_seed(0)
    net, rng = networks.TwoInputs().eval(), np.random.default_rng(0)
    shapes = {"vector": (3, 6), "image": (3, 3, 16, 16)}
    example = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    export(net, example, tmp_path / "b.offramp")
    bundle = export(net, None, tmp_path / "b.offramp", beside="again")
    assert [tensor.name for tensor in bundle.variant("again").stages[0].inputs] == ["vector", "image"]
