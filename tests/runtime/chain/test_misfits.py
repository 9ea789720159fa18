"""What is advised for samples that do not fit, is followed and fits."""

import re

import numpy as np
import pytest

from offramp.bundle import Tensor
from offramp.errors import DataError
from offramp.runtime.chain.samples import check_samples, prepare_single

IMAGE = Tensor(name="x", dtype="float32", shape=(None, 3, 6, 8))
PIXELS = Tensor(name="x", dtype="uint8", shape=(None, 6, 8, 3))
SOUND = Tensor(name="x", dtype="float32", shape=(None, 1, 40))
LAST = Tensor(name="x", dtype="float32", shape=("time", None, 4))
TOKENS = Tensor(name="x", dtype="int64", shape=(None, "time"))


def follow(message, x):
    """Return what the message says to give."""
    told = re.search(r"(?:give|as) ((?:x|np|\().*?)\.(?:$| )", message)
    assert told is not None, message
    return eval(told[1], {"np": np, "x": x})


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("x", "tensor"),
    [
        (zeros(5, 6, 8, 3), IMAGE),
        (zeros(5, 3, 6, 8, dtype=np.uint8), PIXELS),
        (zeros(3, 6, 8), IMAGE),
        (zeros(5, 144), IMAGE),
        (zeros(5, 40), SOUND),
        (zeros(5, 40, 1), SOUND),
        (zeros(9, 4), LAST),
        (zeros(5, 3, 6, 8, dtype=np.uint8), IMAGE),
        (zeros(5, 6, 8, 3) + 200, PIXELS),
        (zeros(5, 6, 8, 3) + 0.5, PIXELS),
        (zeros(5, 7), TOKENS),
    ],
)
def test_samples_fit_when_the_advice_is_followed(x, tensor):
    with pytest.raises(DataError) as caught:
        check_samples(x, [tensor])
    assert len(check_samples(follow(str(caught.value), x), [tensor])) > 0


@pytest.mark.parametrize(
    ("x", "tensor"),
    [
        (zeros(6, 8, 3), IMAGE),
        (zeros(1, 6, 8, 3), IMAGE),
        (zeros(3, 6, 8, dtype=np.uint8), PIXELS),
        (zeros(40, 1), SOUND),
    ],
)
def test_a_single_sample_fits_when_the_advice_is_followed(x, tensor):
    with pytest.raises(DataError) as caught:
        prepare_single([x], [tensor])
    assert prepare_single([follow(str(caught.value), x)], [tensor])[0].shape[tensor.batch_axis] == 1


@pytest.mark.parametrize(
    ("x", "tensor", "words"),
    [
        (zeros(5, 3, 12, 8), IMAGE, "to the network's size as in training: axis 2 is 12, not 6"),
        (zeros(5, 1, 6, 8), IMAGE, "axis 1 is 1, not 3"),
        (zeros(5, dtype=np.int64), IMAGE, "looks like labels: samples come first"),
        (zeros(5, 6, 8, 3) - 1, PIXELS, "before they were normalised"),
        (zeros(5, 2, 2, 2, 2), IMAGE, r"not \(5, 2, 2, 2, 2\)\.$"),
    ],
)
def test_what_no_order_of_axes_mends_is_named(x, tensor, words):
    with pytest.raises(DataError, match=words):
        check_samples(x, [tensor])


def test_a_sample_of_another_size_is_told_its_own_axes():
    with pytest.raises(DataError, match="axis 1 is 12, not 6"):
        prepare_single([zeros(3, 12, 8)], [IMAGE])
