"""Operating points in words."""

from msgspec.structs import replace

from offramp.bundle import read_calibration


def test_a_point_names_the_device_of_all_its_stages_once(calibrated):
    point = read_calibration(calibrated.calibrations()[0]).early
    assert point.placement == ("cpu",) * 3 and point.engines == "the chain of fp32 on cpu"
    assert replace(point, placement=("openvino:CPU", "cpu", "cpu")).engines.endswith(" on openvino:CPU, cpu, cpu")
