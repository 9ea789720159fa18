import pytest

from offramp.errors import UsageError
from offramp.runtime.placement import describe_devices, one_device_per_stage, parse_placement


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0=openvino:CPU,1-=cpu", ("openvino:CPU", "cpu", "cpu", "cpu")),
        ("1-2=a", ("cpu", "a", "a", "cpu")),
        (" 3=a , 0=b ", ("b", "cpu", "cpu", "a")),
        ("0-=a", ("a", "a", "a", "a")),
        ("0-2=cpu,3=http://box:8/n?as=int8", ("cpu", "cpu", "cpu", "http://box:8/n?as=int8")),
    ],
)
def test_placements_are_read_as_they_are_described(text, expected):
    assert parse_placement(text, 4) == expected
    if len(set(expected)) > 1:
        assert parse_placement(describe_devices(expected), 4) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "looks like 0=openvino:CPU,1-=cpu"),
        ("cpu", "looks like"),
        ("0=", "looks like"),
        ("0=1=cpu", "looks like"),
        ("4=cpu", "stages 0 to 3"),
        ("2-1=cpu", "not there"),
        ("0-=cpu,2=x", "Stage 2 is placed twice"),
        ("0=auto", "auto chooses for all stages"),
    ],
)
def test_placements_that_cannot_be_read(text, words):
    with pytest.raises(UsageError, match=words):
        parse_placement(text, 4)


def test_devices_are_one_for_all_or_one_for_each():
    assert one_device_per_stage("cpu", 3) == ("cpu",) * 3 and one_device_per_stage(["a", "b"], 2) == ("a", "b")
    with pytest.raises(UsageError, match="1 devices for 2 stages"):
        one_device_per_stage(["cpu"], 2)
