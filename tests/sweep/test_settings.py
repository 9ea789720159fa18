"""A sweep's file is read, and what cannot be used in it is named."""

import pytest

from offramp.errors import DataError, OfframpError, UsageError
from offramp.sweep.settings import Attaching, Rung, read_settings

NAMES = "network: net.py:make, data: train.npz, judge: test.npz, out: out"


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "sweep.yaml").write_text(text)
        return read_settings(tmp_path / "sweep.yaml")[0]

    return read


def test_trials_are_all_combinations_of_what_training_depends_on(read):
    settings = read(f"{{{NAMES}, space: {{lr: [1e-2, 1], attach: [null, {{at: [a, b]}}], rule: [entropy, margin]}}}}")
    trials = settings.list_trials()
    assert [(each.attach, each.lr) for each in trials] == [
        (None, 0.01),
        (None, 1.0),
        (Attaching(at=("a", "b")), 0.01),
        (Attaching(at=("a", "b")), 1.0),
    ]


def test_drawn_trials_are_of_the_space_each_once_and_the_seed_draws_them(read):
    space = "space: {lr: [%s], weight_decay: [%s]}" % ((", ".join(f"0.{k + 1000}" for k in range(300)),) * 2)
    draws = [read(f"{{{NAMES}, {space}, trials: 50, seed: {seed}}}").list_trials() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len({(each.lr, each.weight_decay) for each in draws[0]}) == 50
    assert read(f"{{{NAMES}, space: {{lr: [0.1, 0.2]}}, trials: 9}}").list_trials()[1].lr == 0.2


def test_each_rung_trains_fewer_trials_for_longer(read):
    settings = read(f"{{{NAMES}, space: {{lr: [1, 2, 3, 4, 5, 6, 7]}}, epochs: 10, rungs: 3, eta: 3}}")
    assert settings.list_rungs() == [Rung(7, 1), Rung(3, 3), Rung(1, 10)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{{{NAMES}, epoch: 3}}", "Unknown key of a sweep 'epoch'. Did you mean 'epochs'?"),
        (f"{{{NAMES}, space: {{recipes: [joint]}}}}", "Unknown key of space 'recipes'. Did you mean 'recipe'?"),
        (f"{{{NAMES}, space: {{attach: [{{att: x}}]}}}}", "Unknown key of attach 'att'. Did you mean 'at'?"),
        (f"{{{NAMES}, space: {{prune: [{{mac: 1}}]}}}}", "Unknown key of prune 'mac'. Did you mean 'macs'?"),
        (f"{{{NAMES}, space: {{prune: [{{round_to: 1}}]}}}}", "give macs or parameters"),
        (f"{{{NAMES}, space: {{recipe: [join]}}}}", "Unknown recipe 'join'. Did you mean 'joint'?"),
        (f"{{{NAMES}, space: {{rule: [gate]}}}}", "need gates"),
        (f"{{{NAMES}, space: {{quantize: [int4]}}}}", "Invalid enum value 'int4'"),
        (f"{{{NAMES}, space: {{lr: 0.1}}}}", "Expected `array`, got `float`"),
        (f"{{{NAMES}, space: {{lr: []}}}}", "length >= 1"),
        (f"{{{NAMES}, space: {{lr: [0.1, 1e-1]}}}}", "lr: 0.1 stands twice"),
        (f"{{{NAMES}, space: [lr]}}", r"Expected `object`, got `array`"),
        (f"{{{NAMES}, epochs: 0}}", ">= 1"),
        (f"{{{NAMES}, epochs: 1000000000000}}", "<= 1000000000"),
        (f"{{{NAMES}, rungs: 20000}}", "<= 20"),
        (f"{{{NAMES}, space: {{lr: [nan]}}}}", ">= 0.0 - at `$.space.lr["),
        (f"{{{NAMES}, space: {{weights: [[.inf, 1]]}}}}", "<= 1000000000.0"),
        (f"{{{NAMES}, epochs: 3, rungs: 3}}", "too few for 3 rungs that grow by 3: give 9 or more"),
        (f"{{{NAMES}, space: {{lr: {list(range(1, 400))}, rule: [entropy, margin]}}}}", "at most 500 variants"),
        (f"{{{NAMES}, target: {{max_latency_ms: 5}}}}", "limits what may be lost"),
        (f"{{{NAMES}, target: {{max_drop: 2 %, goal: accuracy}}}}", "limits what may be lost"),
        (f"{{{NAMES}, target: {{max_drops: 0.1}}}}", "target: Unknown key 'max_drops'. Did you mean 'max_drop'"),
        ("{network: net.onnx, data: d, judge: j, out: o}", "file.py:function, not 'net.onnx'"),
        ("{network: net.py:make, data: d, judge: d, out: o}", "judge: 'd' trains the trials"),
        ("{network: net.py:make}", "missing required field `data`"),
        ("[]", "a sweep has keys such as network"),
        ("", "a sweep has keys such as network"),
        (f"{{{NAMES}, space: {{attach: [{{at: a, at: b}}]}}}}", "'at' stands twice"),
    ],
)
def test_what_cannot_be_used_is_named(read, text, words):
    with pytest.raises(OfframpError) as refused:
        read(text)
    assert words in str(refused.value) and "sweep.yaml" in str(refused.value)


def test_too_many_trials_and_what_is_no_yaml(read, tmp_path):
    lists = ", ".join(f"{name}: [{', '.join(f'0.{k}' for k in range(200, 399))}]" for name in ("lr", "weight_decay"))
    with pytest.raises(UsageError, match="39601 trials; a sweep takes 10000"):
        read(f"{{{NAMES}, space: {{{lists}}}}}")
    with pytest.raises(DataError, match="no sweep: in line 1 it is 7 levels deep"):
        read(f"{{{NAMES}, space: {{attach: [[[[[1]]]]]}}}}")
    with pytest.raises(UsageError, match="There is no file"):
        read_settings(tmp_path / "missing.yaml")
