from offramp.devices import differences, fingerprint


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_the_board_of_an_arm_device_comes_from_its_device_tree(tmp_path):
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n")
    assert fingerprint(packages=["numpy"], root=tmp_path)["cpu"] == "NVIDIA Jetson Orin Nano Developer Kit"


def test_the_cpu_of_a_workstation_comes_from_cpuinfo(tmp_path):
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) N100\n")
    assert fingerprint(packages=["numpy"], root=tmp_path)["cpu"] == "Intel(R) N100"


def test_nothing_to_read_is_no_failure(tmp_path):
    assert fingerprint(packages=["no-such-engine"], root=tmp_path)["engine"] == "no-such-engine not installed"


def test_differences_are_said_in_words():
    ours = fingerprint(packages=["numpy"])
    assert differences(ours, ours) == []
    assert differences(ours, ours | {"cpu": "i8086", "python": "2.7"}) == [
        f"cpu is {ours['cpu']} here and was i8086 there"
    ]
