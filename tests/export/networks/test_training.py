import copy
import io
import math
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from offramp.errors import DataError, MissingError, ModelError, UsageError
from offramp.export import Epoch, attach, train
from offramp.export.networks import trainer
from offramp.export.networks.losses import gated, mix

CLASSES = 4


class Three(nn.Module):
    """Three exits over small convolutions; `shape` says in what they come."""

    def __init__(self, shape="list"):
        super().__init__()
        self.shape = shape
        widths = [3, 8, 8, 8]
        self.parts = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o in pairwise(widths)
            ]
        )
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in self.parts])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(x.mean((2, 3))))
        return {"list": exits, "stacked": torch.stack(exits), "dict": dict(zip("abc", exits, strict=True))}[self.shape]


class Plain(nn.Module):
    """A classifier without exits, with dropout."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.body(x).mean((2, 3)))


class Shuffled:
    """Batches in an order drawn anew for every epoch from a generator of its own."""

    def __init__(self, x, y, size=32):
        self.x, self.y, self.size, self.generator = x, y, size, torch.Generator().manual_seed(5)

    def __len__(self):
        return math.ceil(len(self.x) / self.size)

    def __iter__(self):
        for rows in torch.randperm(len(self.x), generator=self.generator).split(self.size):
            yield self.x[rows], self.y[rows]


def draw(count=192, seed=0):
    """Noise of a standard deviation of a half around a colour per class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]])
    return colours[y][:, :, None, None] + torch.randn(count, 3, 6, 6, generator=generator) / 2, y


def make(cls=Three, *arguments):
    torch.manual_seed(1)
    return cls(*arguments)


def same(network, other):
    ours, theirs = network.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("recipe", ["joint", "distill", "gated"])
@pytest.mark.parametrize("shape", ["list", "stacked", "dict"])
def test_every_exit_learns(recipe, shape):
    reported: list[Epoch] = []
    network = make(Three, shape)
    history = train(
        network,
        Shuffled(*draw()),
        validation=[draw(64, seed=1)],
        recipe=recipe,
        epochs=12,
        progress=reported.append,
    )
    assert (
        history.recipe == recipe
        and list(history.epochs) == reported
        and [e.epoch for e in reported] == list(range(1, 13))
    )
    last = reported[-1]
    assert len(last.loss) == len(last.accuracy) == len(last.validation) == 3
    assert min(last.validation) > 0.95 and min(last.accuracy) > 0.9
    assert all(b < a for a, b in zip(reported[0].loss, last.loss, strict=True))
    assert not network.training and all(p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("named", [True, False])
def test_only_the_heads_learn_and_the_backbone_stays_bitwise_the_same(named):
    if named:
        network, backbone, options = make(), "parts", {"heads": ["heads.0", "heads.1"]}
    else:
        network, backbone, options = attach(make(Plain), draw(2)[0], at=["body.1"]), "network", {}
    before = copy.deepcopy(network)
    history = train(network, Shuffled(*draw()), recipe="heads", epochs=12, lr=0.5, **options)
    assert same(network.get_submodule(backbone), before.get_submodule(backbone))
    assert not same(network.heads[0], before.heads[0])
    assert history.epochs[-1].accuracy[0] > 0.9
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in before.parameters()]
    if named:
        assert same(network.heads[2], before.heads[2])


def test_heads_takes_the_name_of_one_module():
    network = make()
    before = copy.deepcopy(network)
    train(network, Shuffled(*draw()), recipe="heads", heads="heads", epochs=1)
    assert same(network.parts, before.parts) and not same(network.heads, before.heads)


def test_attached_heads_learn_by_any_recipe_while_the_network_is_frozen():
    network = attach(make(Plain), draw(2)[0], at=["body.1"])
    before = copy.deepcopy(network)
    train(network, Shuffled(*draw()), recipe="distill", epochs=1)
    assert same(network.network, before.network) and not same(network.heads, before.heads)


def test_a_sample_that_an_exit_is_sure_of_gives_deeper_exits_no_gradient():
    y = torch.tensor([0, 0, 0, 0])
    sure, wrong, unsure = [9.0, 0, 0], [0.0, 9, 0], [1.0, 0, 0]
    first = torch.tensor([sure, wrong, unsure, unsure], requires_grad=True)
    second = torch.tensor([unsure, unsure, sure, wrong], requires_grad=True)
    third = torch.tensor([unsure] * 4, requires_grad=True)
    losses = gated([first, second, third], y, 0.0)
    losses.sum().backward()
    assert (first.grad.abs().sum(1) > 0).all()
    assert (second.grad.abs().sum(1) > 0).tolist() == [False, True, True, True]
    assert (third.grad.abs().sum(1) > 0).tolist() == [False, True, False, True]


@pytest.mark.parametrize("recipe", ["joint", "distill", "gated"])
def test_a_teacher_lets_exits_learn_what_the_labels_do_not_say_and_stays_as_it_is(recipe):
    x, y = draw()
    teacher = make()
    train(teacher, Shuffled(x, y), epochs=8)
    teacher.train()
    before, student = copy.deepcopy(teacher), make()
    nothing = torch.full((len(x), CLASSES), 1 / CLASSES)
    train(student, Shuffled(x, nothing), teacher=teacher, recipe=recipe, epochs=12)
    with torch.no_grad():
        taught, learned = teacher(x)[-1].argmax(1), [z.argmax(1) for z in student(x)]
    assert all((z == taught).float().mean() > 0.7 for z in learned)  # a quarter would be chance
    assert same(teacher, before) and not teacher.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_a_teacher_asks_nothing_of_an_exit_that_is_like_it():
    logits = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(0))
    assert mix(torch.zeros(5, 1), [logits], logits + 2).abs().max() < 1e-5
    assert (mix(torch.zeros(5, 1), [logits], -logits) > 0).all()


def test_a_teacher_that_would_train_itself_is_refused():
    network = make()
    with pytest.raises(UsageError, match="copy.deepcopy"):
        train(network, [draw(32)], epochs=1, teacher=network)


def test_labels_may_be_probabilities():
    x, y = draw()
    whole, shares = make(), make()
    a = train(whole, [(x, y)], validation=[(x, y)], recipe="gated", epochs=5)
    hot = nn.functional.one_hot(y, CLASSES).double()
    b = train(shares, [(x, hot)], validation=[(x, hot)], recipe="gated", epochs=5)
    assert a.epochs[-1].accuracy == pytest.approx(b.epochs[-1].accuracy, abs=0.02)
    assert a.epochs[-1].loss == pytest.approx(b.epochs[-1].loss, rel=0.05)


def test_seconds_end_a_training_with_the_rate_at_0(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(trainer, "perf_counter", lambda: clock[0])

    class Slow(Shuffled):
        def __iter__(self):
            for batch in super().__iter__():
                clock[0] += 0.02
                yield batch

    network, states = make(), [make()]
    history = train(
        network, Slow(*draw()), epochs=1000, seconds=0.5, progress=lambda epoch: states.append(copy.deepcopy(network))
    )
    assert 3 <= len(history.epochs) < 10
    steps = [(b.heads[0].weight - a.heads[0].weight).abs().max().item() for a, b in pairwise(states)]
    assert steps[-1] < max(steps) / 2


def test_the_weights_choose_what_exits_count():
    network = make()
    before = copy.deepcopy(network)
    train(network, Shuffled(*draw()), epochs=1, weights=[1, 0, 0], weight_decay=0)
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert changed == {name for name, _ in network.named_parameters() if name.startswith(("parts.0", "heads.0"))}


@pytest.mark.parametrize("kind", ["own generator", "DataLoader"])
@pytest.mark.parametrize("recipe", ["joint", "heads"])
def test_a_killed_training_goes_on_exactly_where_it_was(tmp_path, recipe, kind):
    def start(stop, **options):
        network = attach(make(Plain), draw(2)[0], at=["body.1"], frozen=False)
        loader: Any = Shuffled(*draw())
        if kind == "DataLoader":
            loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*draw()), 32, shuffle=True)
        torch.manual_seed(3)
        options |= {"validation": [draw(64, seed=1)], "recipe": recipe, "epochs": 4, "lr": 0.05}

        def kill(epoch):
            if epoch.epoch == stop:
                raise KeyboardInterrupt

        return network, lambda: train(network, loader, progress=kill, **options)

    whole, run = start(None)
    uninterrupted = run()
    path = tmp_path / "made" / "checkpoint.pt"
    _, run = start(2, checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        run()
    resumed, run = start(None, checkpoint=path)
    torch.manual_seed(99)
    history = run()
    assert same(whole, resumed)
    for a, b in zip(uninterrupted.epochs, history.epochs, strict=True):
        assert (a.loss, a.accuracy, a.validation) == (b.loss, b.accuracy, b.validation)
    again, run = start(1, checkpoint=path)
    assert run() == history and same(again, whole)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_training_that_ends_early_goes_on_as_one_that_was_not_interrupted(tmp_path):
    whole, parted, path = make(), make(), tmp_path / "checkpoint.pt"
    train(whole, Shuffled(*draw(64)), epochs=3)
    for until, done in ((1, 1), (1, 1), (3, 3)):
        history = train(parted, Shuffled(*draw(64)), epochs=3, until=until, checkpoint=path)
        assert len(history.epochs) == done
    assert same(whole, parted)
    with pytest.raises(UsageError, match="until=4 is the last epoch that trains, of 3"):
        train(parted, Shuffled(*draw(64)), epochs=3, until=4)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path, loader = tmp_path / "checkpoint.pt", Shuffled(*draw(64))
    train(make(), loader, epochs=1, checkpoint=path)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (make(), {"recipe": "gated"}, "recipe 'joint' there, recipe 'gated' here"),
        (make(), {"epochs": 2}, "epochs 1 there, epochs 2 here"),
        (make(), {"teacher": make()}, "teacher None there, teacher 'Three .*here"),
        (attach(make(Plain), draw(2)[0], at=["body.1"]), {}, "network 'Three .*there, network 'Attached .*here"),
    ]
    for network, options, words in cases:
        with pytest.raises(UsageError, match=words):
            train(network, loader, **{"epochs": 1, "checkpoint": path, **options})
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="no checkpoint that train wrote") as refused:
        train(make(), loader, epochs=1, checkpoint=path)
    assert refused.value.path == path


def test_an_error_for_a_missing_device_has_its_name():
    with pytest.raises(MissingError) as missing:
        train(make(), [draw(32)], epochs=1, device="cuda:77")
    assert missing.value.device == "cuda:77"


def test_what_cannot_be_trained_is_said():
    batch = draw(32)
    cases: list[tuple[Any, Any, dict[str, Any], Any, str]] = [
        (make(), [batch], {"recipe": "joined"}, UsageError, "Unknown recipe 'joined'. Did you mean 'joint'?"),
        (make(), [batch], {"epochs": 0}, UsageError, "at least one"),
        (make(), [batch], {"lr": 0}, UsageError, "lr=0 must be above 0"),
        (make(), [batch], {"weights": [1, 1]}, UsageError, "2 weights for 3 exits"),
        (make(), [batch], {"weights": [1, -1, 1]}, UsageError, "none below 0"),
        (make(), [batch], {"heads": ["heads"]}, UsageError, "trains the whole network"),
        (make(), [batch], {"recipe": "heads"}, UsageError, "consists of parts, heads"),
        (make(), [batch], {"recipe": "heads", "heads": ["head"]}, UsageError, "Did you mean 'heads'?"),
        (make(), [batch], {"device": "cuda:77"}, MissingError, "no device 'cuda:77'"),
        (make(), [], {}, DataError, "no batch"),
        (make(), iter([batch]), {}, UsageError, "has no length"),
        (make(), [batch], {"validation": []}, DataError, "validation batches hold no sample"),
        (make(), [(batch[0], batch[1] + 1)], {}, DataError, "1 to 4; the network has the classes 0 to 3"),
        (make(), [(batch[0], batch[1].float())], {}, DataError, "whole numbers"),
        (make(), [(batch[0][0], 1)], {}, DataError, "Give samples in batches, as a DataLoader"),
        (make(), [(batch[0], torch.ones(32, 3) / 3)], {}, DataError, "no probabilities of the network's 4 classes"),
        (make(), [batch], {"seconds": 0}, UsageError, "above 0 seconds"),
        (make(), [batch], {"teacher": "me"}, UsageError, "not a str"),
        (
            make(),
            [batch],
            {"teacher": nn.Sequential(nn.Flatten(), nn.Linear(108, 3))},
            ModelError,
            "teacher has 3 classes",
        ),
        (make(Plain), [batch], {"recipe": "gated"}, ModelError, "one exit"),
        (nn.Identity(), [batch], {}, UsageError, "No parameter"),
        (make().parts[0], [batch], {}, ModelError, "takes logits"),
        ("network", [batch], {}, UsageError, "not a str"),
        (make(), [(batch[0] * math.nan, batch[1])], {}, ModelError, r"epoch 1.*lower lr=0\.1"),
    ]
    for network, loader, options, error, words in cases:
        with pytest.raises(error, match=words.replace("?", r"\?")):
            train(network, loader, **{"epochs": 1, **options})


def angles(n=200):
    x = torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(x, 90 * x[:, 0, 0, 0])


def miss(exit_, target):
    return (exit_["angle"] - target).abs() / 90


class Angles(nn.Module):
    """Two exits that each give an angle."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(256, 16), nn.Linear(16, 16)])
        self.heads = nn.ModuleList([nn.Linear(16, 1) for _ in range(2)])

    def forward(self, x):
        first = torch.relu(self.parts[0](x.flatten(1)))
        second = torch.relu(self.parts[1](first))
        return [{"angle": 90 * self.heads[0](first)[:, 0]}, {"angle": 90 * self.heads[1](second)[:, 0]}]


def test_exits_that_do_not_classify_learn_by_a_loss_of_their_own():
    torch.manual_seed(0)
    net, loader = Angles(), torch.utils.data.DataLoader(angles(), 20)
    history = train(net, loader, epochs=6, lr=0.02, loss=miss, weights=[1, 2], validation=loader)
    first, last = history.epochs[0], history.epochs[-1]
    assert all(after < 0.7 * before for before, after in zip(first.loss, last.loss, strict=True))
    assert last.accuracy == () and len(last.validation) == 2
    with torch.no_grad():
        means = [float(miss(exit_, angles()[:][1]).mean()) for exit_ in net(angles()[:][0])]
    assert last.validation == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "options", "error", "words"),
    [
        (lambda exit_, target: miss(exit_, target).mean(), {}, ModelError, "without a mean"),
        (lambda exit_, target: 0.5, {}, ModelError, "The loss gives float"),
        (lambda exit_, target: miss(exit_, target)[:5], {}, ModelError, r"The loss gives \(5,\)"),
        (lambda exit_, target: miss(exit_, target).round().detach(), {}, ModelError, "The loss has no gradients"),
        (lambda exit_, target: exit_["boxes"], {}, ModelError, "The loss cannot be computed: KeyError: 'boxes'"),
        ("absolute:90", {}, UsageError, "The loss that trains is a function .*, not 'absolute:90'"),
        (miss, {"weights": [1]}, UsageError, "1 weights for 2 exits"),
        (miss, {"recipe": "distill"}, UsageError, "joint and heads"),
        (miss, {"label_smoothing": 0.1}, UsageError, "joint and heads"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused(loss, options, error, words):
    with pytest.raises(error, match=words):
        train(Angles(), torch.utils.data.DataLoader(angles(40), 20), epochs=1, loss=loss, **options)


def test_without_progress_each_epoch_is_told_to_who_sits_at_a_terminal(monkeypatch):
    batch = torch.randn(8, 3, 4, 4), torch.arange(8) % CLASSES
    for is_terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda answer=is_terminal: answer)
        monkeypatch.setattr(sys, "stderr", stream)
        history = train(Three(), [batch], epochs=2)
        told = [epoch.describe(2) for epoch in history.epochs] if is_terminal else []
        assert stream.getvalue().splitlines() == told
    train(Three(), [batch], epochs=1, progress=lambda epoch: None)
    assert not stream.getvalue()
