import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import read_calibration
from offramp.errors import BundleError, DataError, MissingError, UsageError
from offramp.runtime import UncalibratedWarning, load, load_static, load_uncalibrated
from offramp.runtime.chain.checks import raise_explained
from offramp.runtime.engines import StageFile, find_device
from offramp.tests.zoo import dense as dense_network


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def test_without_a_calibration_every_input_runs_to_the_last_exit_and_it_says_so(dense):
    with pytest.warns(UncalibratedWarning, match="runs to the last exit"):
        net = load(dense.path)
    assert net.point is None and set(net.batch(draw(20)).exit) == {2}


def test_a_sample_leaves_at_the_first_exit_that_is_sure_enough(dense):
    net, x = load_uncalibrated(dense), draw(200)
    answers = net.every_exit(x)
    net.thresholds = (0.9, 0.8)
    for sample, score, label in zip(x, answers.score, answers.label, strict=True):
        exit_ = 0 if score[0] >= np.float32(0.9) else 1 if score[1] >= np.float32(0.8) else 2
        result = net(sample)
        assert (result.exit, result.label, result.score) == (exit_, label[exit_], score[exit_])


def test_a_score_equal_to_the_threshold_leaves(dense):
    net, x = load_uncalibrated(dense), draw(1)[0]
    score = float(net.every_exit(x[None]).score[0, 0])
    net.thresholds = (score, 2.0)
    assert net(x).exit == 0 and net.batch(x[None]).exit[0] == 0
    net.thresholds = (float(np.nextafter(np.float32(score), np.float32(2))), 2.0)
    assert net(x).exit == 2 and net.batch(x[None]).exit[0] == 2


def test_stages_behind_the_exit_are_not_run(dense):
    net = load_uncalibrated(dense)
    ran = []
    memory = net._setup.memory
    memory.heads = [
        ((lambda k=k, run=run: (ran.append(k), run())), *rest) for k, (run, *rest) in enumerate(memory.heads)
    ]
    net.thresholds = (0.0, 2.0)
    net(draw(1)[0])
    assert ran == [0]


def test_a_sample_may_carry_its_batch_axis(dense):
    net, x = load_uncalibrated(dense), draw(1)
    assert net(x).score == net(x[0]).score


def test_a_result_does_not_change_with_the_next_call(dense):
    net, (a, b) = load_uncalibrated(dense, logits=True), draw(2)
    first = net(a)
    copied = first.logits.copy()
    net(b)
    assert (first.logits == copied).all()


def test_the_batch_reports_time_and_arrays(dense):
    result = load_uncalibrated(dense, logits=True).batch(draw(33))
    assert result.latency_s > 0
    assert (result.label.shape, result.score.dtype, result.logits.shape) == (
        (33,),
        np.float32,
        (33, dense_network.CLASSES),
    )


def test_float64_and_non_contiguous_samples_are_converted(dense):
    net, x = load_uncalibrated(dense), draw(4)
    strange = np.asfortranarray(x.astype(np.float64))
    assert (net.batch(strange).score == net.batch(x).score).all()
    assert net(strange[1]).score == net(x[1]).score


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(7, np.float32), r"takes a sample of shape \(16,\) \(or \(1, 16\)\), not \(7,\)"),
        (np.zeros((2, 16), np.float32), r"not \(2, 16\)"),
        (np.zeros(16, np.uint8), "takes float32 for x, not uint8"),
        (np.full(16, np.nan, np.float32), r"The sample holds NaN or infinity in x \(float32\)"),
    ],
)
def test_a_wrong_sample_says_what_is_taken(dense, x, words):
    with pytest.raises(DataError, match=words):
        load_uncalibrated(dense)(x)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((3, 7), np.float32), "not"),
        (np.zeros((0, 16), np.float32), "no samples"),
        (np.zeros((3, 16), np.int64), "takes float32 for x, not int64"),
        (np.stack([np.zeros(16), np.full(16, np.inf)]), r"Sample 1 holds NaN or infinity in x"),
    ],
)
def test_a_wrong_batch_says_what_is_taken(dense, x, words):
    with pytest.raises(DataError, match=words):
        load_uncalibrated(dense).batch(x)


def test_a_failed_sample_does_not_spoil_the_next(dense):
    net, x = load_uncalibrated(dense), draw(1)[0]
    before = net(x).score
    with pytest.raises(DataError):
        net(np.full(16, np.nan, np.float32))
    assert net(x).score == before


@pytest.mark.parametrize("size", [1, 15, 16, 17, 33])
def test_batches_of_any_size_equal_single_samples(dense, size):
    net, x = load_uncalibrated(dense), draw(size, seed=size)
    score = net.every_exit(x).score
    net.thresholds = (float(np.median(score[:, 0])), float(np.median(score[:, 1])))
    batch, single = net.batch(x), [net(sample) for sample in x]
    assert batch.exit.tolist() == [result.exit for result in single]
    assert batch.label.tolist() == [result.label for result in single]


def test_a_closed_network_says_so(dense):
    net, x = load_uncalibrated(dense), draw(3)
    net.close()
    for call in (
        lambda: net(x[0]),
        lambda: net.batch(x),
        lambda: net.every_exit(x),
        lambda: setattr(net, "thresholds", (1, 1)),
    ):
        with pytest.raises(UsageError, match="closed"):
            call()


@pytest.mark.parametrize("size", [17, 0, 1.5, "2", None])
def test_sizes_that_no_memory_is_kept_for_are_refused(dense, size):
    with pytest.raises(UsageError, match="size is a whole number from 1 to 16"):
        load_uncalibrated(dense).every_exit(draw(40), size=size)


def test_an_error_that_an_engine_explains_itself_is_not_its_own_cause():
    gone, where = MissingError("The NPU is gone."), ("rknn:rk3588", "stage1.onnx")
    with pytest.raises(MissingError, match="gone") as caught:
        raise_explained(gone, where, samples=1, has_lengths=False, try_zeros=lambda: True)
    assert caught.value.__cause__ is None
    assert (caught.value.device, caught.value.stage) == ("rknn:rk3588", "stage1.onnx")


def test_integers_do_not_wrap():
    from offramp.bundle import Tensor
    from offramp.runtime.chain.samples import check_kind

    pixels = Tensor(name="x", dtype="uint8", shape=(None, 1))
    check_kind(np.array([255], np.uint16), pixels)
    with pytest.raises(DataError, match="does not fit into the network's uint8"):
        check_kind(np.array([300], np.uint16), pixels)


def test_thresholds_are_checked(dense):
    net = load_uncalibrated(dense)
    with pytest.raises(UsageError, match="2 thresholds"):
        net.thresholds = (0.5,)
    with pytest.raises(UsageError, match="between 0 and 2"):
        net.thresholds = (0.5, float("nan"))


def test_the_static_network_equals_its_exit(dense):
    x = draw(10)
    answers = load_uncalibrated(dense).every_exit(x)
    for k in range(3):
        with load_static(dense, exit=k) as static:
            assert np.allclose(static.batch(x).score, answers.score[:, k], atol=1e-6)
    with pytest.raises(UsageError, match="There is no exit 3"):
        load_static(dense, exit=3)


def test_names_that_are_not_there(calibrated):
    with pytest.raises(UsageError, match="Did you mean 'default'"):
        load(calibrated.path, point="defualt")
    with pytest.raises(MissingError, match="no device 'tpu'"):
        load(calibrated.path, device="tpu")
    with pytest.raises(UsageError, match="threads"):
        load_uncalibrated(calibrated, threads=0)
    with pytest.raises(UsageError, match="threads"):
        load_static(calibrated, threads=0)


def test_a_calibration_from_another_device_warns_and_still_runs(calibrated, recwarn):
    path = calibrated.calibrations()[0]
    path.write_text(path.read_text().replace('"cores": "', '"cores": "9'))
    with pytest.warns(UncalibratedWarning, match="cores is .* here and was 9"):
        net = load(calibrated.path)
    assert net.point is not None


def test_several_calibrations_must_be_told_apart(calibrated):
    path = calibrated.calibrations()[0]
    (path.parent / "other.json").write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="several calibrations"):
        load(calibrated.path)
    assert load(calibrated.path, calibration=path).point is not None


def test_a_stage_that_the_engine_cannot_read_is_a_bundle_error(tmp_path):
    (tmp_path / "stage0.onnx").write_text("no")
    source = StageFile(tmp_path / "stage0.onnx", (), ())
    for name in ("cpu", "openvino:CPU"):
        device = find_device(name)
        with pytest.raises(BundleError, match=r"cannot load .*stage0.onnx"):
            device.engine.compile_stage(source, device.place, threads=1)


def test_two_threads_give_the_same_answers(dense):
    x = draw(20)
    one, two = load_uncalibrated(dense), load_uncalibrated(dense, threads=2)
    assert np.allclose(one.batch(x).score, two.batch(x).score, atol=1e-6)


@pytest.fixture
def two_points(calibrated, tmp_path):
    """A calibration with a second point, which always leaves at the first exit."""
    calibration = read_calibration(calibrated.calibrations()[0])
    eco = replace(calibration.points["default"], thresholds=(0.0, 0.0), exit_shares=(1.0, 0.0, 0.0))
    elsewhere = replace(eco, placement=("openvino:CPU",) * 3)
    path = tmp_path / "two.json"
    points = {**calibration.points, "eco": eco, "elsewhere": elsewhere}
    path.write_bytes(msgspec.json.encode(replace(calibration, points=points)))
    return path


def test_operating_points_are_switched_between_two_inferences(calibrated, two_points, labelled):
    x = labelled[0]
    with load(calibrated, calibration=two_points) as net:
        before = [net(sample).exit for sample in x[:100]]
        assert max(before) > 0
        net.use("eco")
        assert net.point is net.points["eco"] and {net(sample).exit for sample in x[:100]} == {0}
        assert set(net.clone().batch(x[:50]).exit.tolist()) == {0}
        net.use("default")
        assert [net(sample).exit for sample in x[:100]] == before


def test_a_point_has_the_same_thresholds_when_it_is_loaded_and_when_it_is_used_again(calibrated, two_points):
    found = read_calibration(two_points)
    default = replace(found.points["default"], thresholds=(0.9, 0.7))  # which float32 has not
    with load(calibrated, calibration=replace(found, points={**found.points, "default": default})) as net:
        loaded = net.thresholds
        net.use("eco")
        net.use("default")
        assert net.thresholds == loaded == default.thresholds  # audits and reuse know a point by them


def test_a_point_that_is_not_there_or_is_for_other_devices_is_refused(calibrated, two_points):
    with load(calibrated, calibration=two_points) as net:
        with pytest.raises(UsageError, match="Did you mean 'eco'"):
            net.use("ecoo")
        with pytest.raises(UsageError, match="point='elsewhere'"):
            net.use("elsewhere")
        assert net.point is net.points["default"]
    with pytest.raises(UsageError, match="eco"):
        load_uncalibrated(calibrated).use("eco")


@pytest.mark.parametrize("device", ["", [], ()])
def test_an_empty_device_is_not_taken_for_the_default(dense, device):
    with pytest.raises((MissingError, UsageError)):
        load(dense, device)
