"""The key of functions that judge answers: another where their code is, and the same where it is read again."""

import pytest

from offramp.calibrate.judging import Judging
from offramp.calibrate.losses import read_loss

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
