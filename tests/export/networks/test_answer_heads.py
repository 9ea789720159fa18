"""Exits on networks that do not classify: heads for maps, grids and numbers, from attach to a bundle that runs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from offramp.errors import ModelError, UsageError
from offramp.export import ToGrid, ToMap, attach, export, keep, train
from offramp.runtime import load_uncalibrated, verify
from offramp.tests.zoo.plain import PlainDetector, PlainRegressor, PlainSegmenter, UNet

X = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 1, 16, 16)).astype(np.float32))

PLAIN = {
    "segmenter": (PlainSegmenter, {"fractions": (0.2, 0.5)}, {"answer": ["map"], "rule": "mean_softmax"}),
    "u-net": (UNet, {"at": ["first", "down", "up"]}, {"answer": ["map"], "rule": "pixel_share:map=0.4"}),
    "detector": (
        PlainDetector,
        {"fractions": (0.4,)},
        {"answer": ["boxes", "classes"], "rule": "mean_softmax:classes"},
    ),
    "regressor": (
        lambda: PlainRegressor(one=True),
        {"fractions": (0.2, 0.5)},
        {"answer": ["angle"], "rule": "agreement"},
    ),
    "pose": (PlainRegressor, {"fractions": (0.2, 0.5)}, {"answer": ["pose"], "rule": "agreement:pose=2"}),
}


def make(network=PlainDetector):
    torch.manual_seed(0)
    return network().eval()


def run(network, x=X):
    with torch.no_grad():
        return network(x)


def parts(answer):
    """The parts of an answer by name, that of a tensor alone by none."""
    return answer if isinstance(answer, dict) else {"": answer}


def distance(answer, target):
    """How far an answer is from another, (batch,)."""
    far = [(x - parts(target)[name]).abs().reshape(len(x), -1).mean(1) for name, x in parts(answer).items()]
    return torch.stack(far).sum(0)


def test_tasks_name_each_kind_of_answer():
    assert {tuple(x.shape[1:]) for network, *_ in PLAIN.values() for x in parts(run(make(network))).values()} == {
        (3, 16, 16),
        (5, 16),
        (4, 4, 4),
        (),
        (3,),
    }


SLOW = ("u-net", "regressor", "pose")
"""Tasks of which others are a test almost as good, and which `make test` leaves out for time."""


@pytest.mark.parametrize("task", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PLAIN])
def test_exits_answer_as_the_network_does_and_go_the_whole_way(task, tmp_path):
    network, places, options = PLAIN[task]
    net = make(network)
    expected, before = run(net), copy.deepcopy(net.state_dict())
    attached = attach(net, X[:2], **places)
    losses = train(attached, [(X, expected)] * 6, epochs=3, recipe="heads", loss=distance, lr=0.03).epochs
    assert all(last < first for first, last in zip(losses[0].loss[:-1], losses[-1].loss[:-1], strict=True))
    assert losses[-1].loss[-1] == 0 and all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    exits = run(attached)
    assert len(exits) == 1 + len(places.get("at", places.get("fractions"))) and all(
        list(parts(exit_)) == list(parts(expected)) for exit_ in exits
    )
    assert all(torch.equal(x, parts(expected)[name]) for name, x in parts(exits[-1]).items())
    bundle = export(attached, X[:3].numpy(), tmp_path / "b.offramp", **options)
    if len(exits) > 2 and not options["rule"].startswith("agreement"):  # of which no exit can be left out
        keep(bundle.path, [0, -1])
    assert all(check.passed for check in verify(bundle.path))
    assert [exit_.place for exit_ in bundle.variant().exits] == [*attached.places, None]
    with load_uncalibrated(bundle) as chain:
        for ours, theirs in zip(chain.every_exit(X.numpy()).answers, exits, strict=True):
            for x, y in zip(ours.values(), parts(theirs).values(), strict=True):
                assert x.shape == y.shape and np.abs(x - y.numpy()).max() < 1e-5


@pytest.mark.parametrize("features", [(8, 4, 4), (8, 16, 16), (8, 15, 17), (100, 23, 23), (8, 1, 1)])
@pytest.mark.parametrize("kind", [ToMap, ToGrid])
def test_heads_give_the_answers_shape_of_features_of_any_size_and_train_on_one_sample(kind, features):
    for answer in [(3, 16, 16), (2, 3, 6, 6), (5, 7, 7), (1, 1, 1)]:
        head = kind(torch.zeros(2, *features), torch.zeros(2, *answer)).train()
        assert head(torch.randn(1, *features)).shape == (1, *answer)


@pytest.mark.parametrize(
    ("space", "answer"), [((12,), (3, 24)), ((4, 8, 8), (2, 8, 16, 16)), ((4, 8, 8), (2, 2, 4, 4))]
)
def test_heads_take_one_to_three_axes_of_space(space, answer):
    for kind in (ToMap, ToGrid):
        assert kind(torch.zeros(1, 8, *space), torch.zeros(1, *answer))(torch.zeros(3, 8, *space)).shape == (3, *answer)


def test_a_map_looks_where_the_features_are():
    head = ToMap(torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 32, 32)).eval()
    x = torch.zeros(1, 2, 8, 8)
    x[..., 0, 7] = 5
    changed = (head(x) - head(torch.zeros_like(x)))[0, 0].abs() > 1e-4
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert rows.max() < 16 and columns.min() > 15


@pytest.mark.parametrize(
    ("answer", "grid", "axis"),
    [((5, 36), (6, 6), 2), ((36, 4), (6, 6), 1), ((4, 36), (6, 6), 2), ((64, 9), (3, 3), 2), ((81, 36), (6, 6), 2)],
)
def test_cells_in_one_axis_are_found_and_lie_row_by_row(answer, grid, axis):
    head = ToGrid(torch.zeros(1, 4, 12, 12), torch.zeros(1, *answer)).eval()
    assert (head.grid, head.cells_axis) == (grid, axis)
    x = torch.zeros(1, 4, 12, 12)
    x[..., :2, -1] = 5  # in the first row of cells, the last column
    changed = (head(x) - head(torch.zeros_like(x)))[0].abs().amax(2 - axis) > 1e-4
    assert changed[grid[1] - 1] and not changed[grid[1] * (grid[0] - 1)]


def test_the_shape_of_the_answer_and_the_features_chooses_the_head():
    detector, segmenter = make(), make(PlainSegmenter)
    assert [type(head) for head in attach(detector, X, at=["trunk.1"]).heads[0].heads] == [ToGrid, ToGrid]
    assert type(attach(segmenter, X, at=["encoder.2"]).heads[0]) is ToMap
    assert type(attach(segmenter, X, at=["encoder.2"], head="grid").heads[0]) is ToGrid
    assert type(attach(segmenter, X, at=["encoder.0"], head=ToMap).heads[0]) is ToMap
    depth = nn.Sequential(segmenter, nn.Conv2d(3, 1, 1), nn.Flatten(1, 2))  # (batch, height, width)
    assert type(attach(depth, X, at=["0.encoder.2"]).heads[0]) is ToMap


def test_named_parts_of_an_answer_get_heads_and_others_do_not():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = PlainDetector()

        def forward(self, x):
            answer = self.detector(x)
            return answer | {"tags": answer["boxes"].mean(2), "kinds": answer["classes"].argmax(1)}

    net = make(Two)
    assert [x.shape for x in run(attach(net, X, at=["detector.trunk.1"]))] == [(6, 5)] * 2  # tags, as logits
    exits = run(attach(net, X, at=["detector.trunk.1"], answer=["boxes", "tags"]))
    assert [[*exit_] for exit_ in exits] == [["boxes", "tags"]] * 2
    with pytest.raises(UsageError, match="Unknown part of the network's answer 'box'. Did you mean 'boxes'"):
        attach(net, X, answer=["box"])
    with pytest.raises(ModelError, match="The part kinds of what the network returns is int64"):
        attach(net, X, answer=["boxes", "kinds"])


def test_a_head_of_ones_own_gets_the_answer_and_may_give_parts_of_other_sizes():
    class Coarse(nn.Module):
        def __init__(self, features, answer):
            super().__init__()
            assert [*answer] == ["boxes", "classes"] and answer["boxes"].shape == (6, 5, 16)
            self.boxes, self.classes = nn.Conv2d(8, 5, 3, 4, 1), nn.Conv2d(8, 4, 3, 4, 1)

        def forward(self, x):
            return {"boxes": self.boxes(x).flatten(2), "classes": self.classes(x)}

    first, last = run(attach(make(), X, at=["trunk.2"], head=Coarse))
    assert (first["boxes"].shape, last["boxes"].shape) == ((6, 5, 4), (6, 5, 16))
    for wrong in (
        lambda x, answer: nn.Flatten(),
        lambda x, answer: type("Other", (Coarse,), {"forward": lambda self, x: {"boxes": x}})(x, answer),
        lambda x, answer: type("Half", (Coarse,), {"forward": lambda self, x: Coarse.forward(self, x[:3])})(x, answer),
    ):
        with pytest.raises(
            ModelError, match=r"head of the exit at trunk.2 gives .*, not boxes \(7, 5, 16\), classes \(7, 4, 4, 4\)"
        ):
            attach(make(), X, at=["trunk.2"], head=wrong)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda y: y.permute(0, 2, 3, 1),
            r"makes the answer, \(6, 16, 16, 3\), of the features \(6, 6, 16, 16\) at 0.encoder.0, \(batch",
        ),
        (lambda y: y.flatten(2)[:, :, :250], r"No ready head makes the answer, \(6, 3, 250\)"),
    ],
)
def test_a_shape_that_no_ready_head_makes_is_refused(function, words):
    class Apply(nn.Module):
        def forward(self, y):
            return function(y)

    net = nn.Sequential(make(PlainSegmenter), Apply())
    for options in ({"at": ["0.encoder.0"]}, {}):
        with pytest.raises(ModelError, match=words if options else "No exit has a place.*No ready head"):
            attach(net, X, **options)


def test_a_place_whose_features_have_no_space_is_left_out():
    layers = [
        PlainDetector().trunk,
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 80),
        nn.Unflatten(1, (5, 4, 4)),
    ]
    net = nn.Sequential(*layers).eval()
    assert attach(net, X, fractions=(0.99,)).places[0].startswith("0")
    with pytest.raises(
        ModelError, match=r"features \(6, 64\) at 2, \(batch, channels\): a map or grid is made of features with"
    ):
        attach(net, X, at=["2"])
    with pytest.raises(UsageError, match="Unknown head 'maps'. Did you mean 'map'"):
        attach(net, X, head="maps")
    with pytest.raises(UsageError, match=r"answer is a list of names: \['boxes'\]"):
        attach(net, X, answer="boxes")
