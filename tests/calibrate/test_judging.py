"""What tells the functions that judge answers apart."""

from offramp.calibrate.judging import Judging

SOURCE = """
def loss(answer, target):
    return [min(1, abs(a - b)) for a, b in zip(map(lambda a: a, answer["a"]), target) if a not in {1.5, 2.5}]
"""


def key(source):
    names = {}
    exec(source, names)
    return Judging(names["loss"], None, ("loss", "")).key


def test_the_same_code_has_the_same_key_and_code_that_calls_something_else_another():
    assert key(SOURCE) == key(SOURCE)
    assert (
        len({key(SOURCE), key(SOURCE.replace("abs", "float")), key(SOURCE.replace("lambda a: a", "lambda a: -a"))}) == 3
    )
