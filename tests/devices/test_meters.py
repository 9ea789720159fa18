import errno
import shutil
import time

import pytest

from offramp.devices import Meter, Probe, Rail, meters
from offramp.devices.meters import choose_meter, find_meters
from offramp.devices.state import BoardState
from offramp.errors import MeasurementError, MissingError, UsageError
from offramp.runtime.power import card_of, choose_for
from offramp.tests.fakes.boards import (
    ADC,
    BOARDS,
    HWMON,
    POWERCAP,
    RAPL_RANGE,
    hwmon,
    ina3221,
    put,
    rapl_zone,
    tree,
    vcgencmd,
)

INA3221 = "sys/bus/i2c/drivers/ina3221"
ORIN_CHIP = f"{INA3221}/1-0040/hwmon/hwmon1"
PACKAGE = f"{POWERCAP}/intel-rapl:0/energy_uj"
BATTERY = "sys/class/power_supply/BAT0"
PI = "usr/bin/vcgencmd"
ORIN = {"VDD_IN": "total", "VDD_CPU_GPU_CV": "part", "VDD_SOC": "part"}
CORES = {"package-0": "total", "core": "part"}


def all_are(role, *names):
    return dict.fromkeys(names, role)


# each board's meters: what the total says in W (J where it counts energy), None where there is none; the rails' roles
# fmt: off
EXPECTED: dict[str, dict[str, tuple[float | None, dict[str, str]]]] = {
    "agx-xavier": {"ina3221": (6.599296, all_are("total", "GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"))},
    "xavier-nx": {"ina3221": (3.78176, ORIN)}, "orin-nano": {"ina3221": (4.99968, ORIN)},
    "orin-nx": {"ina3221": (6.0, ORIN)},
    "agx-orin": {"ina3221": (7.8752, all_are("total", "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
                             | {"VDDQ_VDD2_1V8AO": "part"})},
    "agx-thor": {"ina238": (23.44896, {"VIN": "total"}),
                 "ina3221": (None, all_are("part", "VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))},
    "raspberry-pi-5": {"pmic": (2.94797734247717, all_are(
        "total", "3V7_WL_SW", "3V3_SYS", "1V8_SYS", "DDR_VDD2", "DDR_VDDQ", "1V1_SYS", "0V8_SW", "VDD_CORE", "3V3_DAC",
        "3V3_ADC", "0V8_AON", "HDMI"))},
    "scmi-board": {"hwmon:scmi_sensors": (None, all_are(
        "other", "BRD_ENRG_SYS", "BRD_ENRG_BIG", "BRD_PWR_SYS", "BRD_PWR_BIG", "BRD_PWR_LITTLE"))},
    **{name: {"hwmon:power_meter": (130.0, {"power1": "total"})} for name in ("arm-server", "arm-server-old")},
    "intel-n100": {"rapl": (71243.918231, CORES | {"uncore": "part"})},
    "intel-laptop": {"battery": (9.71244, {"BAT0": "total"}), "rapl": (158923.44123, CORES | {"uncore": "part"}),
                     "rapl:psys": (240112.338912, {"psys": "total"})},
    "intel-server": {"rapl": (364012.51481, {f"package-{n // 2}-die-{n % 2}": "total" for n in range(4)}
                              | {f"package-{n // 2}-die-{n % 2}/dram": "other" for n in range(4)})},
    "amd-desktop": {"hwmon:amdgpu": (21.078, {"PPT": "total"}), "rapl": (20839.017733, CORES)},
    "amd-nvidia": {"rapl": (20839.017733, CORES)},
    **{name: {} for name in ("raspberry-pi-4", "rk3588", "rk3588-mainline", "generic-arm", "vm")},
}
# fmt: on
AUTO = {"agx-thor": "ina238", "arm-server": "hwmon:power_meter", "arm-server-old": "hwmon:power_meter"}
AUTO |= {"raspberry-pi-5": "pmic", **all_are("ina3221", "agx-xavier", "xavier-nx", "orin-nano", "orin-nx", "agx-orin")}
AUTO |= all_are("rapl", "intel-n100", "intel-laptop", "intel-server", "amd-desktop", "amd-nvidia")


def total_of(meter):
    values = meter.read()
    return sum(values[name] for name in meter.total)


def problem_of(root, meter):
    found = find_meters(root)
    assert meter not in [one.name for one in found.meters]
    (one,) = [one for one in found.unavailable if one.meter == meter]
    return one


def without(name, *parts):
    return dict.fromkeys((path for path in BOARDS[name] if any(part in path for part in parts)), None)


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_its_meters_with_their_rails_and_totals(board, name):
    found = find_meters(board(name))
    roles = {meter.name: {rail.name: rail.role for rail in meter.rails} for meter in found.meters}
    assert roles == {meter: expected for meter, (_, expected) in EXPECTED[name].items()}
    for meter in found.meters:
        total = EXPECTED[name][meter.name][0]
        assert set(meter.total) == {rail.name for rail in meter.rails if rail.role == "total"}
        assert meter.total == () if total is None else total_of(meter) == pytest.approx(total, rel=1e-9)
        assert meter.grade == "on-board" and meter.scope and all(rail.covers for rail in meter.rails)
        assert not meter.problems


@pytest.mark.parametrize("name", BOARDS)
def test_auto_takes_a_meter_that_has_a_total_or_says_what_is_not_there(board, name):
    root = board(name)
    if name in AUTO:
        assert choose_meter(root=root).name == AUTO[name]
    else:
        with pytest.raises(MissingError, match=r"(?s)no /sys/class/power_supply/BAT\*.*no /sys/class/powercap/"):
            choose_meter(root=root)


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_unavailable_has_a_reason(board, name):
    found = find_meters(board(name))
    assert found.unavailable and all(one.meter and one.reason.strip() for one in found.unavailable)
    names = [meter.name for meter in found.meters] + [one.meter for one in found.unavailable]
    assert {name.partition(":")[0] for name in names} == set(found.looked_for)


def test_each_module_names_the_path_that_it_looks_for_and_an_empty_root_has_none(tmp_path):
    found = find_meters(tmp_path)
    assert set(found.looked_for) == {"battery", "hwmon", "ina238", "ina3221", "nvml", "pmic", "rapl"}
    assert all(any(top in text for top in ("/sys/", "/proc/", "/usr/")) for text in found.looked_for.values())
    assert found.meters == () and {one.meter for one in found.unavailable} == set(found.looked_for)


@pytest.mark.parametrize(("name", "near"), [("rapi", "rapl"), ("ina3222", "ina3221"), ("batery", "battery")])
def test_an_unknown_meter_proposes_the_nearest(board, name, near):
    with pytest.raises(UsageError, match=rf"Unknown meter '{name}'\. Did you mean '{near}'\?"):
        choose_meter(name, root=board("intel-n100"))


def test_a_channel_that_is_switched_off_is_no_failure_of_the_others(board, failing):
    root = board("orin-nx", **{f"{ORIN_CHIP}/in3_enable": "0\n"})
    failing(root / ORIN_CHIP / "in3_input", errno.ENODATA)
    failing(root / ORIN_CHIP / "curr3_input", errno.ENODATA)
    meter = choose_meter(root=root)
    assert meter.read() == pytest.approx({"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 0.88704})
    (problem,) = meter.problems
    assert problem.reason == "VDD_SOC: the channel is switched off"
    assert problem.remedy == f"Switch it on: echo 1 | sudo tee /{ORIN_CHIP}/in3_enable"


@pytest.mark.parametrize(("channel", "label"), [(3, None), (3, "\n"), (3, "NC\n"), (4, "SUM\n"), (7, "VDD_X\n")])
def test_a_channel_that_is_not_connected_and_sums_and_shunts_are_skipped(board, failing, channel, label):
    root = board("orin-nx", **{f"{ORIN_CHIP}/in{channel}_label": label})
    failing(root / ORIN_CHIP / "curr4_input", errno.EINVAL)
    meter = choose_meter(root=root)
    assert list(meter.read()) == list(ORIN)[: 2 if channel == 3 else 3] and not meter.problems


def test_a_negative_current_keeps_its_sign(board):
    meter = choose_meter(root=board("agx-xavier", **{f"{INA3221}/1-0041/hwmon/hwmon4/curr1_input": "-8\n"}))
    assert meter.read()["CV"] == pytest.approx(-0.153472)
    assert total_of(meter) == pytest.approx(6.599296 - 0.153472)


def test_a_shunt_that_cannot_be_is_refused_with_the_command_that_mends_it(board):
    root = board("orin-nx", **{f"{ORIN_CHIP}/shunt1_resistor": "5\n"})
    (meter,) = find_meters(root).meters
    assert meter.total == () and "VDD_IN" not in meter.read()
    assert meter.problems[0].reason.startswith(f"VDD_IN: /{ORIN_CHIP}/shunt1_resistor says 5 micro-ohm")
    assert f"echo 5000 | sudo tee /{ORIN_CHIP}/shunt1_resistor" in meter.problems[0].remedy
    root = board("orin-nx", **{f"{ORIN_CHIP}/shunt{n}_resistor": "5\n" for n in (1, 2, 3)})
    with pytest.raises(MissingError, match="echo 5000"):
        choose_meter("ina3221", root=root)


@pytest.mark.parametrize("bus", [0, 7, 17])
def test_an_ina3221_is_found_on_any_bus_and_the_carriers_is_left_out(board, bus):
    chips = ina3221(f"{bus}-0040", 11, ("VDD_IN", 5000, 1400), ("VDD_CPU_GPU_CV", 5000, 200), ("VDD_SOC", 5000, 300))
    chips |= ina3221(f"{bus}-0042", 12, ("VDD_MUX", 19000, 500))
    meter = choose_meter(root=board("orin-nx", **(without("orin-nx", "ina3221", "hwmon1") | chips)))
    assert meter.read() == pytest.approx({"VDD_IN": 7.0, "VDD_CPU_GPU_CV": 1.0, "VDD_SOC": 1.5})


def test_the_input_rail_of_a_jetson_without_a_table_is_its_total(board):
    changes = without("orin-nx", "ina3221", "hwmon1") | tree("Jetson TX2", "nvidia,p2771-0000", "nvidia,tegra186")
    changes |= ina3221("0-0040", 8, ("VDD_SYS_GPU", 19000, 10), ("VDD_SYS_SOC", 19000, 20), ("VDD_4V0_WIFI", 4800, 10))
    changes |= ina3221("0-0041", 9, ("VDD_IN", 19000, 200), ("VDD_SYS_CPU", 19000, 30), ("VDD_SYS_DDR", 19000, 40))
    meter = choose_meter(root=board("orin-nx", **changes))
    assert meter.total == ("VDD_IN",) and len(meter.rails) == 6 and total_of(meter) == pytest.approx(3.8)


def test_a_total_that_misses_a_chip_is_no_total(board):
    root = board("agx-xavier", **without("agx-xavier", "1-0041", "hwmon4"))
    (meter,) = find_meters(root).meters
    assert meter.total == () and list(meter.read()) == ["GPU", "CPU", "SOC"]
    with pytest.raises(UsageError, match=r"no total among its rails\. the total needs CV, VDDRQ, SYS5V, which cannot"):
        meter.window()
    with pytest.raises(MissingError, match="the total needs CV, VDDRQ, SYS5V"):
        choose_meter(root=root)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODATA, errno.EACCES])
def test_a_total_that_misses_a_channel_is_no_total(board, failing, code):
    root = board("agx-xavier")
    failing(root / INA3221 / "1-0041/hwmon/hwmon4/curr3_input", code)
    (meter,) = find_meters(root).meters
    assert meter.total == () and len(meter.rails) == 5
    assert meter.problems[0].reason.startswith("SYS5V: ") and "total needs SYS5V" in meter.problems[1].reason


CHIPS = [
    ("orin-nx", f"{ORIN_CHIP}/in1_input", "ina3221"),
    ("agx-thor", f"{HWMON}/hwmon3/power1_input", "ina238"),
    ("amd-desktop", f"{HWMON}/hwmon1/power1_average", "hwmon:amdgpu"),
]


@pytest.mark.parametrize(
    ("name", "path", "meter"), [*CHIPS, ("arm-server", f"{HWMON}/hwmon0/name", "hwmon:power_meter")]
)
def test_a_chip_that_comes_back_under_another_number_is_read_on(board, failing, name, path, meter):
    root = board(name)
    one = choose_meter(meter, root=root)
    before = one.read()
    folder = (root / path).parent
    shutil.copytree(folder, folder.parent / "hwmon15")
    shutil.rmtree(folder)
    assert "No such device" in one.read()[one.total[0]]
    one.read()  # a rail of two files finds each of them anew
    assert one.read() == before


@pytest.mark.parametrize("values", [(5000, 5100), ()], ids=["varying", "steady"])
@pytest.mark.parametrize(("name", "path", "meter"), CHIPS)
def test_a_sensor_that_is_gone_for_good_gives_the_reason(board, failing, simulate, name, meter, path, values):
    root = board(name)
    one = choose_meter(meter, root=root)
    clock = simulate(one, root / path if values else None, *values)
    with one.window() as window:
        clock.advance(2.0)
        shutil.rmtree((root / path).parent)
        clock.advance(3.0)
    assert all("No such" in str(reason) or "is gone" in str(reason) for reason in one.read().values())
    with pytest.raises(MeasurementError, match=r"could not read \w+ for 3\.0\d s of 5\.00 s: .*(No such|is gone)"):
        window.energy  # noqa: B018


def test_chips_are_matched_by_their_names(board):
    changes = hwmon(3, "ina239", label="VIN", power1_input=1) | hwmon(27, "ina238", label="VIN", power1_input=23448960)
    meter = choose_meter("ina238", root=board("agx-thor", **changes))
    assert (meter.scope, meter.read()) == ("the whole module", {"VIN": pytest.approx(23.44896)})


@pytest.mark.parametrize("name", ["arm-server", "arm-server-old"])
def test_a_firmwares_meter_tells_its_scope_and_its_average(board, name):
    meter = choose_meter(root=board(name))
    (rail,) = meter.rails
    assert (meter.scope, rail.period_s, rail.lag_s) == ("CPU Power", 1.0, 1.0)
    assert "whole machine" not in rail.covers


def test_sensors_without_a_total_are_measured_by_name_only(board, simulate):
    root = board("scmi-board")
    meter = choose_meter("hwmon:scmi_sensors", root=root)
    clock = simulate(meter, root / f"{HWMON}/hwmon0/power2_input", 300000, 500000)
    with pytest.raises(UsageError, match="Name those to add up, out of: .*BRD_PWR_SYS, BRD_PWR_BIG"):
        meter.window()
    with meter.window(rails=["BRD_PWR_BIG"]) as window:
        clock.advance(5.0)
    assert window.energy.energy_j == pytest.approx(2.0, rel=0.02)
    assert window.energy.scope == "BRD_PWR_BIG"


def test_a_graphics_cards_power_of_now_goes_before_its_average(board):
    changes = hwmon(1, "amdgpu", power1_input=33000000, power1_average=21078000, power1_cap=200000000)
    meter = choose_meter("hwmon:amdgpu", root=board("amd-desktop", **changes))
    assert (meter.scope, meter.read()) == ("the graphics card", {"PPT": 33.0})


def test_power_supplies_that_hwmon_repeats_are_skipped(board):
    changes = hwmon(7, "BAT0", power1_input=9712440) | hwmon(8, "ucsi_source_psy_USBC000:001", power1_input=15000000)
    assert not [one for one in find_meters(board("intel-laptop", **changes)).meters if one.name.startswith("hwmon")]


def test_zones_are_numbered_in_hex(board):
    changes = rapl_zone("intel-rapl:9", "package-9", 2000000) | rapl_zone("intel-rapl:a", "package-10", 3000000)
    meter = choose_meter("rapl", root=board("intel-n100", **changes | rapl_zone("intel-rapl:a:0", "core", 1000000)))
    assert meter.total == ("package-0", "package-9", "package-10") and meter.read()["package-10/core"] == 1.0
    assert total_of(meter) == pytest.approx(71248.918231)


def test_counters_that_only_root_may_read_are_unavailable_and_never_zero(board, failing):
    root = board("intel-laptop")
    for path in root.glob(f"{POWERCAP}/intel-rapl:*/energy_uj"):
        failing(path, errno.EACCES)
    for name in ("rapl", "rapl:psys"):
        one = problem_of(root, name)
        assert "may not be read" in one.reason and "udev rule" in one.remedy and "70-powercap.rules" in one.remedy
    with pytest.raises(MissingError, match="udev rule"):
        choose_meter("rapl", root=root)


def test_one_package_of_two_that_may_not_be_read_leaves_no_total(board, failing):
    root = board("intel-server")
    failing(root / f"{POWERCAP}/intel-rapl:2/energy_uj", errno.EACCES)
    assert problem_of(root, "rapl").reason.startswith("package-1-die-0: ")
    with pytest.raises(MissingError, match="package-1-die-0"):
        choose_meter(root=root)


@pytest.mark.parametrize(("name", "zone"), [("intel-n100", "intel-rapl:0:1"), ("intel-server", "intel-rapl:2:0")])
def test_a_part_that_fails_takes_no_total_away(board, failing, name, zone):
    root = board(name)
    failing(root / POWERCAP / zone / "energy_uj", errno.EIO)
    meter = choose_meter("rapl", root=root)
    assert total_of(meter) == pytest.approx(EXPECTED[name]["rapl"][0]) and len(meter.problems) == 1


def test_dies_that_mirror_one_counter_are_counted_once(board):
    meter = choose_meter("rapl", root=board("intel-n100", **rapl_zone("intel-rapl:1", "package-1", 71243918231)))
    assert meter.total == ("package-0",) and total_of(meter) == pytest.approx(71243.918231)


def test_a_read_that_fails_says_why_until_it_is_mended(board, failing):
    root = board("intel-n100")
    meter = choose_meter("rapl", root=root)
    failing(root / PACKAGE, errno.EIO)
    assert meter.read()["package-0"] == "Input/output error"
    failing(root / PACKAGE, None)
    assert meter.read()["package-0"] == pytest.approx(71243.918231)


def test_a_counter_that_wraps_goes_on(counted):
    course = counted(262143328000, 1150)
    assert course.energy_j == pytest.approx(2000e-6, abs=1e-9) and course.gaps == 0


def test_a_read_that_fails_is_a_gap_and_never_a_wrap(counted):
    before = [RAPL_RANGE - 9000000 + 2000000 * n for n in range(5)]
    course = counted(*before, None, *[150 + 2000000 * n for n in range(5)])
    assert (course.gaps, course.gap_s) == (1, pytest.approx(2.0))
    assert course.energy_j == pytest.approx(20.0)  # the gap at the mean power of what was seen: a wrap would make 17 J


@pytest.mark.parametrize("after", [5_000_000_000, 60_000_000_000, 0])
def test_a_jump_that_no_processor_could_make_is_rejected(counted, after):
    course = counted(*[1_000_000_000 + 2000000 * n for n in range(5)], *[after + 2000000 * n for n in range(6)])
    assert course.energy_j == pytest.approx(20.0)


def test_the_npu_of_an_intel_processor_is_said_to_be_inside_its_package(board):
    assert "NPU" in choose_meter("rapl", root=board("intel-laptop")).scope


def test_rails_of_a_raspberry_pi_are_paired_by_name_and_not_by_order(board):
    lines = [line.replace("(7)", "(15)") if "CORE_A" in line else line for line in ADC.splitlines()]
    meter = choose_meter(root=board("raspberry-pi-5", **vcgencmd("0x0", "\n".join(reversed(lines)))))
    assert meter.read()["VDD_CORE"] == pytest.approx(1.4288 * 0.9065925) and meter.poll_s >= 1 / 21
    assert total_of(meter) == pytest.approx(2.94797734247717)
    assert "EXT5V" not in meter.read() and "BATT" not in meter.read()
    assert "USB" in meter.scope and "conversion losses" in meter.scope


@pytest.mark.parametrize(("script", "reason"), [
    (None, "no /usr/bin/vcgencmd is there"),
    (vcgencmd("0x0")[PI], "Command not registered"),
    ("#!/bin/sh\necho 'VCHI initialization failed' >&2\nexit 255\n", "VCHI initialization failed"),
    ("#!/bin/sh\necho 'EXT5V_V volt(24)=5.05716000V'\n", "no rail with current and voltage"),
])  # fmt: skip
def test_firmware_that_does_not_answer_is_unavailable_with_a_remedy(board, script, reason):
    one = problem_of(board("raspberry-pi-5", **{PI: script}), "pmic")
    assert reason in one.reason and one.remedy


@pytest.mark.parametrize(("rails", "dumb"), [(None, 12), (ADC.replace("HDMI_V", "HDMI_X"), 1)])
def test_firmware_that_stops_to_answer_or_drops_a_rail_says_why(board, rails, dumb):
    root = board("raspberry-pi-5")
    meter = choose_meter(root=root)
    (root / PI).write_text(vcgencmd("0x0", rails)[PI])
    assert sum(isinstance(value, str) and bool(value) for value in meter.read().values()) == dumb


def test_a_raspberry_pi_4_says_that_it_has_no_sensor(board):
    assert "Pi 4 Model B Rev 1.4 has no power sensor" in problem_of(board("raspberry-pi-4"), "pmic").reason


@pytest.mark.parametrize("microwatts", [8250000, -8250000])
def test_a_battery_is_measured_by_its_power_where_it_has_one(board, microwatts):
    meter = choose_meter("battery", root=board("intel-laptop", **put(BATTERY, power_now=microwatts)))
    assert meter.read() == {"BAT0": 8.25}


def test_rails_of_one_name_are_told_apart(board):
    chip = {f"{HWMON}/hwmon8/name": "corsairpsu\n"}
    for i in (1, 2):
        chip |= {f"{HWMON}/hwmon8/power{i}_label": "PPT\n", f"{HWMON}/hwmon8/power{i}_input": f"{i}000000\n"}
    meter = choose_meter("hwmon:corsairpsu", root=board("intel-n100", **chip))
    assert meter.read() == {"PPT": 1.0, "PPT#2": 2.0}


def test_a_kind_of_sensor_that_fails_or_hangs_takes_no_other_with_it(board, monkeypatch):
    from offramp.devices.meters import hwmon, rapl

    def hang(*_):
        time.sleep(60)

    def fail(*_):
        raise RuntimeError("surprise")

    monkeypatch.setattr(meters, "SEARCH_S", 0.3)
    monkeypatch.setattr(hwmon, "find", hang)
    monkeypatch.setattr(rapl, "find", fail)
    found = find_meters(board("intel-laptop"))
    reasons = {one.meter: one.reason for one in found.unavailable}
    assert "did not return" in reasons["hwmon"] and "surprise" in reasons["rapl"]
    assert "battery" in {meter.name for meter in found.meters}


def test_a_card_that_goes_is_not_taken_for_another_of_its_name(board, failing):
    root = board("amd-desktop")
    first = next(path.parent for path in (root / HWMON).glob("*/name") if path.read_text() == "amdgpu\n")
    second = shutil.copytree(first, first.parent / "hwmon9")
    for folder, device in ((first, "card0"), (second, "card1")):
        shutil.rmtree(folder / "device", ignore_errors=True)
        (root / "sys/devices" / device).mkdir(parents=True)
        (folder / "device").symlink_to(root / "sys/devices" / device)
    meter = choose_meter("hwmon:amdgpu", root=root)
    watts = meter.read()
    shutil.rmtree(first)
    assert all(isinstance(value, str) for value in meter.read().values()), watts  # open files of it are gone too


def test_an_idle_battery_beside_one_that_discharges_is_no_obstacle(board):
    root = board("intel-laptop")
    shutil.copytree(root / BATTERY, root / BATTERY.replace("BAT0", "BAT1"))
    (root / BATTERY / "status").write_text("Not charging\n")
    assert choose_meter("battery", root=root).read() == {"BAT0": 0.0, "BAT1": 9.71244}
    (root / BATTERY.replace("BAT0", "BAT1") / "status").write_text("Not charging\n")
    assert "not charging" in problem_of(root, "battery").reason


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_is_measured_only_while_it_discharges(board, status):
    root = board("intel-laptop")
    meter = choose_meter("battery", root=root)
    (root / BATTERY / "status").write_text(f"{status}\n")
    assert meter.read() == {"BAT0": f"BAT0 is {status.lower()}, not discharging"}
    assert problem_of(root, "battery").reason == f"BAT0 is {status.lower()}, not discharging"


@pytest.mark.parametrize(("mj", "counts", "lag", "value"), [(12345, "energy", 0, 12.345), (None, "power", 1, 45.0)])
def test_a_card_is_measured_by_its_counter_or_else_its_power_of_a_second(board, fake_nvml, mj, counts, lag, value):
    fake_nvml(name=b"NVIDIA A10", energy_mj=mj, power_mw=45000)
    meter = choose_meter(root=board("amd-nvidia"), gpu=0)
    (rail,) = meter.rails
    assert (meter.name, meter.scope) == ("nvml:0", "the graphics card NVIDIA A10 alone")
    assert (rail.counts, rail.lag_s, meter.read()) == (counts, lag, {"card": value})


@pytest.mark.parametrize(
    "query", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_a_cards_state_is_its_own_and_a_power_limit_is_no_throttling(board, fake_nvml, query):
    answers = {"nvmlDeviceGetTemperature": 84, "nvmlDeviceGetClockInfo": 1200, query: 0x24}
    fake_nvml(energy_mj=1, **answers)
    state = choose_meter("nvml:0", root=board("amd-nvidia")).state()
    assert (state.clock_hz, state.temperature_c, state.throttling) == (1.2e9, 84.0, ("card's temperature limit",))


def test_a_card_that_tells_no_state_leaves_the_boards(board, fake_nvml):
    fake_nvml(energy_mj=1, nvmlDeviceGetTemperature=None)
    root = board("amd-nvidia")
    assert choose_meter("nvml:0", root=root).state() == BoardState(root)()


@pytest.mark.parametrize("answers", [{}, {"name": None}, {"start": None}])
def test_a_card_that_supports_no_query_is_unavailable(board, fake_nvml, answers):
    fake_nvml(**answers)
    (one,) = [one for one in find_meters(board("amd-nvidia")).unavailable if one.meter.startswith("nvml")]
    assert "Not Supported" in one.reason and one.remedy


def test_a_network_on_a_card_is_measured_by_that_card_and_by_no_other(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert [card_of([name]) for name in ("cuda:0", "cuda:1", "onnxruntime:tensorrt:0", "cpu")] == [2, 0, 2, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1b2c")
    with pytest.raises(MissingError, match="GPU-1b2c"):
        card_of(["cuda:0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    rail = Rail(name="P", role="total", covers="")
    for name, devices in (("rapl", ["cuda:0"]), ("nvml:0", ["cpu"]), ("nvml:0", ["cuda:1"])):
        chosen = Meter(name, [Probe((rail,), lambda: (1.0,))], scope="something else")
        monkeypatch.setattr(meters, "choose_meter", lambda *_, chosen=chosen, **__: chosen)
        with pytest.raises(MissingError, match="measures something else, but the network runs on"):
            choose_for("auto", devices)
        assert choose_for(name, devices) is chosen


def test_nvml_is_not_asked_on_a_jetson_and_its_missing_package_is_named_elsewhere(board, fake_nvml):
    assert "pip install 'offramp[nvml]'" in problem_of(board("amd-nvidia"), "nvml").remedy
    fake_nvml(energy_mj=1, power_mw=1)
    assert "ina3221" in problem_of(board("orin-nx", **{"proc/driver/nvidia/version": ""}), "nvml").reason
