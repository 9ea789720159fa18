import errno
import json
import math
import warnings

import pytest

from offramp.devices import describe_differences, differences, fingerprint
from offramp.devices.container import container_name, find_mask, read_affinity, read_quota
from offramp.devices.meters import choose_meter, find_meters
from offramp.errors import MissingError
from offramp.runtime import UncalibratedWarning, load
from offramp.tests.fakes.boards import POWERCAP

SYS = "22 1 0:20 / /sys ro,nosuid - sysfs sysfs ro\n"
MASK = "30 22 0:30 / /sys/devices/virtual/powercap ro - tmpfs tmpfs ro,size=0k\n"
ZONE = "sys/devices/virtual/powercap/intel-rapl/intel-rapl:0"


def masked(board, **files):
    """A board in a container that hides its counters: the link is there, and leads nowhere."""
    rows = {f"{POWERCAP}/intel-rapl:0/{name}": None for name in ("name", "energy_uj", "max_energy_range_uj")}
    root = board("intel-n100", **rows, **{"proc/self/mountinfo": SYS + MASK, **files})
    zone = root / POWERCAP / "intel-rapl:0"
    for path in sorted(zone.rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    zone.rmdir()
    for path in (root / POWERCAP).iterdir():
        if path.is_symlink():
            path.unlink()
    (root / "sys/devices/virtual/powercap").mkdir(parents=True)
    zone.symlink_to("../../devices/virtual/powercap/intel-rapl/intel-rapl:0")
    return root


@pytest.mark.parametrize(
    ("mark", "name", "option"),
    [
        (".dockerenv", "Docker container", "--security-opt systempaths=unconfined"),
        ("run/.containerenv", "Podman container", "--security-opt unmask=/sys/devices/virtual/powercap"),
        ("etc/none", "this container", "--privileged"),
    ],
)
def test_counters_that_a_container_hides_name_the_container_and_the_mount(board, mark, name, option):
    with pytest.raises(MissingError) as refused:
        choose_meter("rapl", root=masked(board, **{mark: ""}))
    said = str(refused.value)
    assert name in said and "tmpfs on /sys/devices/virtual/powercap" in said and option in said
    assert "dmesg" not in said and ": /sys" not in said


def test_a_container_in_which_no_meter_is_found_is_named(board):
    root = board("vm", **{".dockerenv": ""})
    with pytest.raises(MissingError, match=r"in a container \(Docker\), which may hide sensors"):
        choose_meter(root=root)
    assert find_meters(board("vm")).container is None


@pytest.mark.parametrize(
    ("path", "content", "name"),
    [
        ("run/systemd/container", "systemd-nspawn\n", "systemd-nspawn"),
        ("proc/self/cgroup", "0::/kubepods.slice/pod1\n", "Kubernetes"),
        ("proc/self/cgroup", "0::/user.slice\n", None),
    ],
)
def test_containers_are_known_by_what_they_leave(board, path, content, name):
    assert container_name(board("vm", **{path: content})) == name


def test_a_mount_beside_a_file_hides_nothing(board):
    other = MASK.replace("powercap", "powercap2") + "broken line\n31 22 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    root = board("vm", **{"proc/self/mountinfo": SYS + other})
    assert find_mask(root / ZONE, root) is None
    assert find_mask(root / ZONE, board("orin-nx")) is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "cpu\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 0.2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 0\n"}, None),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "x y\n"}, None),
        ({"proc/self/cgroup": "0::/../../a\n", "sys/fs/cgroup/a/cpu.max": "10000 100000\n"}, 0.1),
    ],
)
def test_the_quota_is_the_least_of_all_groups_of_both_versions(board, files, quota):
    assert read_quota(board("vm", **files)) == quota


def test_a_calibration_made_under_another_quota_or_on_other_cores_is_told_with_both_values(board):
    def fields(quota, cores):
        files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}
        return fingerprint(root=board("vm", **files, **{"proc/self/status": f"Cpus_allowed_list:\t{cores}\n"}))

    here, there = fields("20000", "0"), fields("max", "0-1")
    assert describe_differences(differences(here, there)) == (
        "CPU affinity is 0 here and was 0-1 there; CPU quota is 0.2 cores here and was unlimited there: latencies and joules "
        "measured there do not hold here"
    )
    assert {found.kind for found in differences(here, there)} == {"soft"}
    old = {name: text for name, text in there.items() if name not in ("affinity", "cpu_quota")}
    assert differences(here, old) == differences(old, here) == []


def test_a_network_that_was_calibrated_with_less_of_the_processor_warns_with_both_values(calibrated):
    path, here = calibrated.calibrations()[0], fingerprint()
    content = json.loads(path.read_text())
    assert content["fingerprint"]["affinity"] == here["affinity"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(calibrated).close()
    content["fingerprint"] |= {"affinity": "99", "cpu_quota": "0.2 cores"}
    path.write_text(json.dumps(content))
    with pytest.warns(UncalibratedWarning) as warned:
        load(calibrated).close()
    said = " ".join(str(warning.message) for warning in warned)
    assert f"CPU affinity is {here['affinity']} here and was 99 there" in said
    if "cpu_quota" in here:
        assert f"CPU quota is {here['cpu_quota']} here and was 0.2 cores there" in said


def test_the_affinity_of_this_process_is_known(board):
    assert read_affinity(board("vm")) is None
    assert read_affinity(board("vm", **{"proc/thread-self/status": "Name:\tx\nCpus_allowed_list:\t2-3,6\n"})) == "2-3,6"


def test_a_zone_that_is_gone_without_a_container_says_where(board, failing):
    root = board("intel-n100")
    failing(root / POWERCAP / "intel-rapl:0/energy_uj", errno.EIO)
    with pytest.raises(
        MissingError, match=r"package-0: /sys/class/powercap/intel-rapl:0/energy_uj: Input/output error"
    ):
        choose_meter("rapl", root=root)
