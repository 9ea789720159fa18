"""What `load` and its siblings take, and what the network says of itself."""

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import read_calibration, write_calibration
from offramp.errors import BundleError, UncalibratedWarning, UsageError
from offramp.runtime import load, load_static, load_uncalibrated
from offramp.runtime.request import MOST_THREADS


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


@pytest.mark.parametrize(("asked", "number"), [(0, 0), (1, 1), (np.int64(2), 2), (-1, 2), (-3, 0)])
def test_a_static_network_reports_its_own_exit(dense, asked, number):
    x = draw(40)
    with load_static(dense, exit=asked, logits=True) as net:
        assert net.exits == (f"z{number}",) and net.thresholds == ()
        assert net.provenance.network == f"the static network to exit {number} of fp32"
        assert net(x[0]).exit == number and type(net(x[0]).exit) is int
        for together in (True, False):
            net._together = together
            assert set(net.batch(x).exit.tolist()) == {number}
        assert net.every_exit(x).score.shape == (40, 1)
        assert net.stats().exit_counts == (0,) * number + (82,)
        assert net.clone()(x[0]).exit == number
    assert load_uncalibrated(dense).provenance.network == "the chain of fp32"


def test_a_recommended_static_network_reports_its_own_exit_and_the_point_its_name(calibrated):
    path = calibrated.calibrations()[0]
    calibration = read_calibration(path)
    chain = calibration.points["default"]
    placement, latency_s = chain.placement[:1], chain.exit_latency_s[:1]
    static = replace(chain, static=1, thresholds=(), exit_shares=(1.0,), placement=placement, exit_latency_s=latency_s)
    write_calibration(path, replace(calibration, points={"default": static, "default-early": chain}))
    with load(calibrated.path) as net:
        assert net(draw(1)[0]).exit == 1 and net.point.name == "default"
    with load(calibrated.path, point="default-early") as net:
        assert net.point.name == "default-early" and net.provenance.network == "the chain of fp32"
    assert {name: point.name for name, point in read_calibration(path).points.items()} == {
        "default": "default",
        "default-early": "default-early",
    }


@pytest.mark.parametrize("exit_", [3, -4, 1.0, "1", None, [0]])
def test_an_exit_that_is_not_there_is_refused(dense, exit_):
    with pytest.raises(UsageError, match=r"There is no exit .*: .* has exits 0 to 2"):
        load_static(dense, exit=exit_)


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, 5000, 10**30, 1.5, "2", None])
def test_threads_have_bounds(dense, threads):
    for open_bundle in (load_uncalibrated, load_static):
        with pytest.raises(UsageError, match=f"threads is a whole number from 1 to {MOST_THREADS}, not "):
            open_bundle(dense, threads=threads)


@pytest.mark.parametrize("device", [5, 0.5, {"cpu"}, ["cpu", None, "cpu"], object()])
def test_a_device_that_is_no_name_is_refused(dense, device):
    with pytest.raises(UsageError, match="A device is a name"):
        load_uncalibrated(dense, device)


def test_a_calibration_whose_point_has_other_exits_is_damaged_and_not_old(calibrated, tmp_path):
    path = calibrated.calibrations()[0]
    content = msgspec.json.decode(path.read_bytes())
    point = content["points"]["default"]
    point.update(thresholds=[0.5], exit_shares=[0.5, 0.5], placement=["cpu"] * 2, exit_latency_s=[1e-5] * 2)
    path.write_bytes(msgspec.json.encode(content))
    words = "its point default has 2 exits, and variant fp32 has exits 0 to 2"
    with pytest.warns(UncalibratedWarning, match=f"default.json is not used: {words}") as caught:
        assert load(calibrated.path).point is None
    assert "other variants" not in "".join(str(warning.message) for warning in caught)
    path.rename(tmp_path / "c.json")
    with pytest.raises(BundleError, match=f"calibration is damaged: {words}"):
        load(calibrated.path, calibration=tmp_path / "c.json")
