import errno
import importlib.metadata
import itertools
import sys

import pytest

from offramp.devices import describe_differences, differences, fingerprint, identify, version_of
from offramp.devices.board import is_x86_64
from offramp.devices.state import BoardState, State, throttled_between
from offramp.tests.fakes.boards import BOARDS, CPU, plant, put, soctherm, thermal, tree, vcgencmd

CONF, STATUS = "etc/nvpmodel.conf", "var/lib/nvpmodel/status"
COMPATIBLE = "proc/device-tree/compatible"
ZONE = "sys/class/thermal/thermal_zone"


def clocks(mhz, *policies, **devices):
    return {f"policy{n}": mhz * 1e6 for n in policies} | {k.replace("_", "."): v * 1e6 for k, v in devices.items()}


def jetson(soc, module, kb, release, os, mode, cores, accelerator, limits):
    return ("jetson", soc, module, kb, os, {"l4t": release}, mode, cores, "schedutil", limits, (accelerator,))


XAVIER, ORIN, THOR = "Tegra194 (Xavier)", "Tegra234 (Orin)", "Tegra264 (Thor)"
FOCAL, JAMMY, NOBLE = "Ubuntu 20.04.6 LTS", "Ubuntu 22.04.5 LTS", "Ubuntu 24.04.2 LTS"
BOOKWORM = "Debian GNU/Linux 12 (bookworm)"
RK3588 = {"policy0": 1.8e9, "policy4": 2.352e9, "policy6": 2.352e9}
SERVER, RYZEN = "GIGABYTE MP32-AR0-00", "AMD Ryzen 5 7600 6-Core Processor"
TUF = "ASUSTeK COMPUTER INC. TUF GAMING B650M-PLUS"

# kind, SoC, module, memory in kB, os, drivers, power mode, cores, governor, highest clocks in Hz, accelerators
EXPECTED = {
    "agx-xavier": jetson(
        XAVIER, "Jetson AGX Xavier (p2888-0001)", 31274576, "35.4.1", FOCAL, "MAXN", "0-7", "GPU 17000000.gv11b",
        clocks(2265.6, 0, 2, 4, 6, **{"17000000_gv11b": 1377}),
    ),
    "xavier-nx": jetson(
        XAVIER, "Jetson Xavier NX (p3668-0001)", 6910964, "35.4.1", FOCAL, "MODE_15W_6CORE", "0-5",
        "GPU 17000000.gv11b",
        clocks(1420.8, 0, 2, 4, **{"17000000_gv11b": 1109.25}),
    ),
    "orin-nano": jetson(
        ORIN, "Jetson Orin Nano 8GB (developer kit) (p3767-0005)", 7802332, "36.4.3", JAMMY, "25W", "0-5",
        "GPU 17000000.gpu", clocks(1344, 0, 4, **{"17000000_gpu": 918}),
    ),
    "orin-nx": jetson(
        ORIN, "Jetson Orin NX 16GB (p3767-0000)", 16084552, "36.4.3", JAMMY, "25W", "0-7", "GPU 17000000.gpu",
        clocks(1420.8, 0, 4, **{"17000000_gpu": 918}),
    ),
    "agx-orin": jetson(
        ORIN, "Jetson AGX Orin 64GB (p3701-0005)", 64353268, "36.4.3", JAMMY, "MAXN", "0-11", "GPU 17000000.gpu",
        clocks(2201.6, 0, 4, 8, **{"17000000_gpu": 1300.5}),
    ),
    "agx-thor": jetson(
        THOR, "Jetson AGX Thor (p3834-0008)", 128825804, "38.2.2", "Ubuntu 24.04.3 LTS", "120W", "0-13",
        "GPU gpu-gpc-0",
        clocks(2601, *range(0, 14, 2), **{"gpu-gpc-0": 1575}),
    ),
    "raspberry-pi-4": (
        "raspberry-pi", "bcm2711 (Raspberry Pi 4)", "Raspberry Pi 4 Model B Rev 1.4", 3885396, BOOKWORM, {}, None,
        "0-3",
        "ondemand", {"policy0": 1.8e9}, (),
    ),
    "raspberry-pi-5": (
        "raspberry-pi", "bcm2712 (Raspberry Pi 5)", "Raspberry Pi 5 Model B Rev 1.0", 8256352, BOOKWORM, {}, None,
        "0-3",
        "ondemand", {"policy0": 2.4e9}, (),
    ),
    "rk3588": (
        "rockchip", "rk3588", "RK3588 OPi 5 Plus", 16090188, "Orange Pi 1.2.0 Jammy", {"rknpu": "0.9.8"}, None, "0-7",
        "schedutil", RK3588 | {"fb000000.gpu": 1e9, "fdab0000.npu": 1e9}, ("GPU fb000000.gpu", "NPU fdab0000.npu"),
    ),
    "rk3588-mainline": (
        "rockchip", "rk3588", "Xunlong Orange Pi 5 Plus", 16090188, "Armbian 25.11 trixie", {}, None, "0-7",
        "schedutil",
        RK3588, ("Rockchip NPU (rocket)",),
    ),
    "generic-arm": (
        "arm", "imx8mp", "NXP i.MX8MPlus EVK board", 5924312, "NXP i.MX Release Distro 6.6-scarthgap", {}, None,
        "0-3",
        "schedutil", {"policy0": 1.8e9}, ("Vivante NPU",),
    ),
    "scmi-board": (
        "arm", "vexpress", "ARM Juno development board (r2)", 8125904, BOOKWORM, {}, None, "0-5", "schedutil",
        {"policy0": 0.95e9, "policy1": 1.2e9}, (),
    ),
    "arm-server": (
        "arm", "Arm core 0x41 0xd0c", SERVER, 131692832, "Ubuntu 25.10", {}, None, "0-7", "ondemand",
        clocks(3000, *range(8)), (),
    ),
    "arm-server-old": (
        "arm", "Arm core 0x41 0xd0c", SERVER, 131692832, NOBLE, {}, None, "0-7", "ondemand", clocks(3000,
        *range(8)), (),
    ),
    "intel-n100": (
        "x86", "Intel(R) N100", "AZW MINI S12", 16155692, NOBLE, {}, None, "0-3", "powersave", clocks(3400,
        *range(4)), (),
    ),
    "intel-laptop": (
        "x86", "Intel(R) Core(TM) Ultra 7 155H", "LENOVO 21KCCTO1WW", 32463840, NOBLE, {}, None, "0-7", "powersave",
        clocks(4800, *range(8)), ("Intel NPU (intel_vpu)",),
    ),
    "intel-server": (
        "x86", "Intel(R) Xeon(R) Platinum 9242 CPU @ 2.30GHz", "Intel Corporation S9200WK", 394853244, NOBLE, {},
        None,
        "0-7", "performance", clocks(3800, *range(8)), (),
    ),
    "amd-desktop": ("x86", RYZEN, TUF, 32035712, NOBLE, {}, None, "0-5", "powersave", clocks(5170, *range(6)), ()),
    "amd-nvidia": (
        "x86", RYZEN, TUF, 32035712, NOBLE, {"nvidia": "580.95.05"}, None, "0-5", "powersave", clocks(5170,
        *range(6)),
        ("NVIDIA GeForce RTX 4070",),
    ),
    "vm": (
        "x86", "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "Amazon EC2", 7936188, NOBLE, {}, None, "0-3", "",
        {}, (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_identified(board, name):
    found = identify(board(name))
    mode = found.power_mode.name if found.power_mode else None
    assert (
        found.kind, found.soc, found.module, found.memory_bytes // 1024, found.os, found.drivers, mode, found.cores,
        found.governor, pytest.approx(found.max_clock_hz), found.accelerators,
    ) == EXPECTED[name]  # fmt: skip
    assert found.kernel == BOARDS[name]["proc/sys/kernel/osrelease"].strip()
    assert found.architecture == ("x86_64" if found.kind == "x86" else "aarch64")


def test_a_board_has_its_makers_name(board):
    assert identify(board("orin-nx")).name == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert identify(board("intel-n100")).name == "AZW MINI S"


@pytest.mark.parametrize("name", [name for name in BOARDS if "proc/device-tree/serial-number" in BOARDS[name]])
def test_a_serial_number_is_never_kept_in_clear_text(board, name):
    clear = BOARDS[name]["proc/device-tree/serial-number"].decode().strip("\0")
    found = identify(board(name))
    assert found.serial and clear not in repr(found)
    assert clear not in repr(fingerprint(board=found))
    other = identify(board(name, **{"proc/device-tree/serial-number": b"another\0"}))
    assert other.serial and other.serial != found.serial


def test_the_serial_number_of_a_pc_is_hashed_too(board):
    found = identify(board("intel-n100", **put("sys/class/dmi/id", product_serial="PF4X1234")))
    assert found.serial and "PF4X1234" not in repr(found)


@pytest.mark.parametrize(
    "extra", ["nvidia,p3768-0000-csi-camera", "nvidia,p3509-0000+p3767-0000-overlay", "acme,carrier"]
)
def test_an_overlay_behind_the_chip_in_compatible_does_not_hide_it(board, extra):
    names = BOARDS["orin-nx"][COMPATIBLE] + f"{extra}\0".encode()
    found = identify(board("orin-nx", **{COMPATIBLE: names}))
    assert (found.kind, found.soc, found.module) == ("jetson", ORIN, "Jetson Orin NX 16GB (p3767-0000)")


def test_an_empty_root_is_unknown_and_no_failure(tmp_path):
    found = identify(tmp_path)
    assert (found.name, found.module) == ("unknown", "unknown")
    assert (found.memory_bytes, found.power_mode, found.serial, found.governor) == (None, None, None, "")
    assert (found.compatible, found.drivers, found.max_clock_hz, found.accelerators) == ((), {}, {}, ())
    assert BoardState(tmp_path)() == State()
    assert fingerprint(root=tmp_path)["module"] == "unknown"


@pytest.mark.parametrize("field", ["kind", "soc", "os", "kernel", "architecture"])
def test_an_empty_root_is_not_filled_with_a_guess_or_with_the_machine_that_runs_the_test(tmp_path, monkeypatch, field):
    monkeypatch.setattr("platform.processor", lambda: "the processor of the machine that runs the test")
    assert getattr(identify(tmp_path), field) == "unknown"


def test_an_empty_root_has_no_cores_of_the_machine_that_runs_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 77)
    assert identify(tmp_path).cores in ("", "unknown")


def mode_of(board, old, new, path=CONF):
    text = BOARDS["orin-nx"][path]
    assert old in text
    return identify(board("orin-nx", **{path: text.replace(old, new)})).power_mode


def test_the_hash_of_a_power_mode_is_of_its_own_section(board):
    mode = identify(board("orin-nx")).power_mode
    changed = mode_of(board, "MAX_FREQ 1497600", "MAX_FREQ 1984000")  # 25W, the mode that is set
    assert (mode.name, changed.name) == ("25W", "25W")
    assert changed.config != mode.config
    assert mode_of(board, "MAX_FREQ 1190400", "MAX_FREQ 1984000") == mode  # 10W, another one
    assert mode_of(board, "PM_CONFIG DEFAULT=3", "PM_CONFIG DEFAULT=0") == mode


def test_the_keys_of_a_power_mode_come_in_any_order(board):
    mode = identify(board("orin-nx")).power_mode
    assert mode_of(board, "ID=3 NAME=25W", "NAME=25W ID=3") == mode


def test_a_fan_mode_behind_the_power_mode_does_not_matter(board):
    assert mode_of(board, "pmode:0003", "pmode:0002 fmode:fan_mode_quiet", STATUS).name == "15W"
    assert mode_of(board, "pmode:0003", "pmode:0000 fmode:cool", STATUS).name == "MAXN"


def test_a_power_mode_without_a_section_keeps_its_number(board):
    assert mode_of(board, "pmode:0003", "pmode:0007", STATUS).name == "id 7"


@pytest.mark.parametrize("path", [CONF, STATUS])
def test_without_nvpmodels_files_there_is_no_power_mode(board, path):
    assert identify(board("orin-nx", **{path: None})).power_mode is None


def test_the_power_mode_of_a_pc_is_its_platform_profile(board):
    profile = {"sys/firmware/acpi/platform_profile": "balanced\n", f"{CPU}/intel_pstate/no_turbo": "0\n"}
    mode = identify(board("intel-laptop", **profile)).power_mode
    slow = identify(board("intel-laptop", **profile | {f"{CPU}/intel_pstate/no_turbo": "1\n"})).power_mode
    assert (mode.name, slow.name) == ("balanced", "balanced")
    assert mode.config != slow.config


@pytest.mark.parametrize(
    ("name", "command"),
    [("orin-nx", "sudo jetson_clocks"), ("amd-desktop", "scaling_governor"), ("intel-server", ""), ("vm", "")],
)
def test_a_board_tells_how_its_clocks_are_fixed(board, name, command):
    fixing = identify(board(name)).how_to_fix_clocks
    assert fixing.endswith(command) and bool(fixing) == bool(command)


def test_two_governors_are_both_named(board):
    found = identify(board("rk3588", **{f"{CPU}/cpufreq/policy6/scaling_governor": "performance\n"}))
    assert found.governor == "schedutil, performance"


def test_the_state_of_a_jetson_counts_over_currents(board):
    state = BoardState(board("orin-nx"))()
    assert state.events == {"over-current oc1": 0, "over-current oc2": 0, "over-current oc3": 2}
    assert (state.clock_hz, state.temperature_c, state.throttling) == (729.6e6, 48.218, ())


def test_the_state_of_an_intel_processor_counts_throttling_of_each_core(board):
    root = board("intel-laptop")
    state = BoardState(root)
    before = state()
    assert len(before.events) == 16
    assert {before.events[f"cpu{n} core_throttle"] for n in range(8)} == {3}
    assert {before.events[f"cpu{n} package_throttle"] for n in range(8)} == {12}
    assert (before.clock_hz, before.temperature_c) == (1800007e3, 55.0)
    (root / f"{CPU}/cpu5/thermal_throttle/core_throttle_count").write_text("7\n")
    assert throttled_between(before, state()) == ("cpu5 core_throttle (+4)",)
    assert throttled_between(before, before) == ()


def test_over_currents_between_two_moments_are_said(board):
    root = board("xavier-nx")
    state = BoardState(root)
    before = state()
    for path, content in soctherm(3, 0, 1, 9).items():
        (root / path).write_text(content)
    assert throttled_between(before, state()) == ("over-current oc2 (+1)", "over-current oc3 (+5)")


def test_a_counter_that_fails_is_left_out(board, failing):
    root = board("orin-nx")
    failing(root / "sys/class/hwmon/hwmon3/oc3_event_cnt", errno.EIO)
    assert BoardState(root)().events == {"over-current oc1": 0, "over-current oc2": 0}


@pytest.mark.parametrize(
    ("bits", "throttling"),
    [
        ("0x0", ()),
        ("0x50000", ()),
        ("0xf0000", ()),
        ("0x1", ("under-voltage",)),
        ("0x2", ("frequency capped",)),
        ("0x4", ("throttled",)),
        ("0x8", ("soft temperature limit",)),
        ("0x50005", ("under-voltage", "throttled")),
        ("0xf000e", ("frequency capped", "throttled", "soft temperature limit")),
    ],
)
def test_a_raspberry_pi_throttles_by_the_bits_of_now_and_not_by_those_since_boot(board, bits, throttling):
    assert BoardState(board("raspberry-pi-4", **vcgencmd(bits)))().throttling == throttling


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 255\n", "#!/bin/sh\necho throttled=\n"])
def test_firmware_that_does_not_answer_says_nothing_of_throttling(board, script):
    state = BoardState(board("raspberry-pi-5", **{"usr/bin/vcgencmd": script}))()
    assert (state.throttling, state.temperature_c, state.events) == ((), 51.25, {})


def test_the_hottest_zone_counts_and_one_that_is_offline_does_not(board):
    assert BoardState(board("agx-xavier"))().temperature_c == 50.0
    root = board("raspberry-pi-5", **thermal(cpu_thermal=-256000, gpu_thermal=-12500))
    assert BoardState(root)().temperature_c == -12.5
    assert BoardState(board("raspberry-pi-5", **thermal(cpu_thermal=-256000)))().temperature_c is None


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINVAL, errno.ENODATA, errno.EACCES])
def test_a_zone_that_fails_is_left_out(board, failing, code):
    root = board("agx-xavier")
    state = BoardState(root)
    failing(root / f"{ZONE}4/temp", code)
    assert state().temperature_c == 40.5
    for n in range(4):
        failing(root / f"{ZONE}{n}/temp", code)
    assert state().temperature_c is None
    failing(root / f"{ZONE}3/temp", None)
    assert state().temperature_c == 40.0


@pytest.mark.parametrize("content", ["", "\n", "n/a\n"])
def test_a_zone_that_is_empty_is_left_out(board, content):
    assert BoardState(board("agx-xavier", **{f"{ZONE}4/temp": content}))().temperature_c == 40.5


def compare(board, name, changes, **options):
    ours = fingerprint(root=board(name), **options)
    return differences(ours, fingerprint(root=board(name, **changes), **options))


def test_another_power_mode_is_a_soft_difference(board):
    (found,) = compare(board, "orin-nx", {STATUS: "pmode:0002\n"})
    assert (found.field, found.kind) == ("power_mode", "soft")
    assert str(found).startswith("power mode is 25W (") and " here and was 15W (" in str(found)
    assert describe_differences([found]) == f"{found}: latencies and joules measured there do not hold here"


def test_a_power_mode_of_the_same_name_that_sets_other_limits_is_a_soft_difference(board):
    conf = BOARDS["orin-nx"][CONF].replace("MAX_FREQ 1497600", "MAX_FREQ 1984000")
    assert [(one.field, one.kind) for one in compare(board, "orin-nx", {CONF: conf})] == [("power_mode", "soft")]


def test_another_soc_is_a_hard_difference(board):
    changed = tree("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "nvidia,p3767-0000", "nvidia,tegra264")
    (found,) = compare(board, "orin-nx", changed)
    assert (found.field, found.kind) == ("soc", "hard")
    assert str(found) == f"SoC is {ORIN} here and was {THOR} there"
    assert "engines built there must not run here" in describe_differences([found])


@pytest.mark.parametrize(
    "changes",
    [
        {"proc/device-tree/serial-number": b"1423024099999\0"},
        {"proc/sys/kernel/osrelease": "5.15.199-tegra\n"},
        {"sys/class/thermal/thermal_zone0/temp": "91000\n"},
    ],
)
def test_another_serial_kernel_or_temperature_is_no_difference(board, changes):
    assert compare(board, "orin-nx", changes) == []


@pytest.mark.parametrize(
    ("name", "changes", "field", "kind"),
    [
        ("orin-nx", {f"{CPU}/online": "0-3\n"}, "cores", "soft"),
        ("orin-nx", {f"{CPU}/cpufreq/policy0/scaling_max_freq": "1190400\n"}, "max_clocks", "soft"),
        ("orin-nx", {f"{CPU}/cpufreq/policy4/scaling_governor": "performance\n"}, "governor", "soft"),
        ("orin-nx", {"proc/meminfo": "MemTotal:        7802332 kB\n"}, "memory", "soft"),
        ("orin-nx", {"etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\n'}, "os", "soft"),
        ("orin-nx", {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1\n"}, "driver", "hard"),
        ("generic-arm", {"dev/galcore": None}, "accelerators", "hard"),
    ],
)
def test_a_field_is_hard_or_soft(board, name, changes, field, kind):
    assert [(one.field, one.kind) for one in compare(board, name, changes)] == [(field, kind)]


def test_a_drivers_minor_release_is_kept_and_not_compared(board):
    minor = {"etc/nv_tegra_release": BOARDS["orin-nx"]["etc/nv_tegra_release"].replace("4.3", "4.4")}
    assert compare(board, "orin-nx", minor) == []
    assert fingerprint(root=board("orin-nx", **minor))["driver_version"] == "l4t 36.4.4"


def test_threads_batch_and_meter_are_soft_and_an_engines_version_hard(board):
    root = board("orin-nx")
    ours = fingerprint(root=root, packages=["numpy"], threads=2, batch=1, meter="ina3221: the whole module")
    theirs = fingerprint(root=root, packages=["no-such-engine"], threads=4, batch=8, meter="rapl: processor packages")
    kinds = {one.field: one.kind for one in differences(ours, theirs)}
    assert kinds == {"engine": "hard", "threads": "soft", "batch": "soft", "meter": "soft"}
    assert differences(ours, {field: text for field, text in ours.items() if field != "meter"}) == []


def test_boards_that_differ_have_fingerprints_that_differ_and_one_board_has_one(tmp_path):
    made = [{name: fingerprint(root=plant(name, tmp_path / side / name)) for name in BOARDS} for side in "ab"]
    for name in BOARDS:
        assert made[0][name] == made[1][name]
        assert differences(made[0][name], made[1][name]) == []
    for one, other in itertools.permutations(BOARDS, 2):
        assert differences(made[0][one], made[0][other]), (one, other)


def test_the_temperature_is_recorded_and_never_compared(board):
    root = board("orin-nx")
    fields = fingerprint(root=root)
    assert fields["temperature"].endswith(" C")
    assert not differences(fields, fields | {"temperature": "99 C"})


@pytest.mark.parametrize(("name", "expected"), [("x86_64", True), ("AMD64", True), ("i686", False), ("aarch64", False)])
def test_64_bit_x86_is_known_by_both_its_names(monkeypatch, name, expected):
    monkeypatch.setattr("platform.machine", lambda: name)
    assert is_x86_64() == expected


def test_versions_are_those_that_pip_knows(tmp_path, monkeypatch):
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    assert {name: version_of(name) for name in installed} == installed
    folder = tmp_path / "Some_engine.x_gpu-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nVersion: 1.0+cu12\n\nVersion: 9\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert version_of("some-engine-x") == "1.0+cu12"
