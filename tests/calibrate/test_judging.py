"""The key of functions that judge answers: another where their code is, and the same where it is read again."""

import numpy as np
import pytest

from offramp.calibrate import judging
from offramp.calibrate.judging import Judging
from offramp.calibrate.losses import read_loss
from offramp.runtime import EveryExit
from offramp.runtime.chain.samples import Samples

MINE = """
from functools import partial
SCALE = 9
def far(a, b):
    return abs(a - b) / SCALE
def loss(answer, target):
    return [max(far(a, b) for a, b in zip(x, y)) if x in {"a", "b", 3} else 0 for x, y in zip(answer["a"], target)]
def decode(answer):
    return [far(a, 0) for a in answer["a"]]
"""


def key_of(folder, text, name):
    (folder / "mine.py").write_text(text)
    given = read_loss(name.format(folder / "mine.py"))
    return Judging(given, None, (name, "")).key


@pytest.mark.parametrize("name", ["{}:loss", "f1@0.5:{}:decode"])
def test_a_function_has_another_key_if_what_it_uses_changes(tmp_path, name):
    key = key_of(tmp_path, MINE, name)
    assert key_of(tmp_path, "# a remark\n" + MINE, name) == key
    changed = [MINE.replace("SCALE = 9", "SCALE = 90"), MINE.replace("abs(a - b)", "(a - b) ** 2")]
    assert len({key, *(key_of(tmp_path, text, name) for text in changed)}) == 3


class Echo:
    """A network that answers with its samples, and counts how many it was asked."""

    asked = 0

    def every_exit(self, x):
        self.asked += len(x)
        label = np.zeros((len(x), 1), np.int64)
        return EveryExit(label, label.astype(np.float32), None, ({"values": x.arrays[0]},))


@pytest.mark.parametrize(("kept_bytes", "asked"), [(1_000_000, 100), (150 * 4, 150), (0, 200)])
def test_the_reference_answers_once_as_long_as_its_answers_fit(monkeypatch, kept_bytes, asked):
    monkeypatch.setattr(judging, "MOST_KEPT_BYTES", kept_bytes)
    x, net = Samples((np.arange(300, dtype=np.float32).reshape(100, 3),)), Echo()
    answers = judging.ReferenceAnswers(net)
    for _ in range(2):
        for rows in (slice(0, 50), slice(50, 100)):
            assert np.array_equal(answers.of(x, rows)["values"], x.arrays[0][rows])
    assert net.asked == asked
