"""Samples that are scaled otherwise than a bundle's golden samples are named, and others are not."""

import warnings

import numpy as np
import pytest

from offramp.export import export, quantize
from offramp.runtime.chain.samples import convert_samples
from offramp.runtime.sample_scale import warn_of_scale
from offramp.tests.zoo.dense import write_onnx


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    x = np.random.default_rng(0).random((3, 16), np.float32)
    return export(write_onnx(folder / "net.onnx"), x, folder / "net.offramp")


def samples(bundle, factor):
    x = np.random.default_rng(1).random((300, 16), np.float32) * factor
    return convert_samples(x.astype(np.float32), bundle.manifest.inputs)


@pytest.mark.parametrize("factor", [255, 1 / 255])
def test_samples_of_another_scale_are_named(bundle, factor):
    with pytest.warns(UserWarning, match=r"The samples lie between .* for x, the golden samples of .* Are they scaled"):
        warn_of_scale(bundle, samples(bundle, factor))


@pytest.mark.parametrize("factor", [0, 0.2, 1, 5])
def test_samples_of_the_same_scale_or_all_zero_are_not(bundle, factor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_scale(bundle, samples(bundle, factor))


def test_a_variant_in_int8_is_not_made_of_them_in_silence(bundle):
    with pytest.warns(UserWarning, match="Are they scaled as in training"):
        quantize(bundle, samples(bundle, 255))
