"""What the tests of several engines share."""

import numpy as np
import pytest

from offramp.export import export
from offramp.tests.zoo.dense import write_convolutions


@pytest.fixture(scope="module")
def kept_cache(tmp_path_factory):
    """Keep conversions from test to test of a module, since each takes half a second or more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    """A bundle of three stages of convolutions, and samples."""
    folder = tmp_path_factory.mktemp("convolutions")
    x = np.random.default_rng(0).standard_normal((300, 3, 12, 12)).astype(np.float32)
    return export(write_convolutions(folder / "c.onnx"), x[:3], folder / "c.offramp"), x
