"""Filesystem trees of boards, of the shapes that their kernels give; the tests replay them as `root`."""

import os
from pathlib import Path


class Link(str):
    """A symbolic link's target, relative to the root's top, such as sys/devices/..."""


CPU = "sys/devices/system/cpu"
HWMON = "sys/class/hwmon"
POWERCAP = "sys/class/powercap"
RAPL_RANGE = 262143328850  # Intel's usual range; AMD's and DRAM's are below
AMD_RANGE, DRAM_RANGE = 65532610987, 65712999613

# Arm: (implementer, part); x86: (vendor, family, model, stepping, microcode, name)
CARMEL, A53, A55, A57 = ("0x4e", "0x004"), ("0x41", "0xd03"), ("0x41", "0xd05"), ("0x41", "0xd07")
A72, A76, A78AE = ("0x41", "0xd08"), ("0x41", "0xd0b"), ("0x41", "0xd42")
NEOVERSE_N1, NEOVERSE_V3AE = ("0x41", "0xd0c"), ("0x41", "0xd83")
N100 = ("GenuineIntel", 6, 190, 0, "0x1a", "Intel(R) N100")
ULTRA_7 = ("GenuineIntel", 6, 170, 4, "0x20", "Intel(R) Core(TM) Ultra 7 155H")
XEON = ("GenuineIntel", 6, 85, 7, "0x5003707", "Intel(R) Xeon(R) Platinum 9242 CPU @ 2.30GHz")
RYZEN = ("AuthenticAMD", 25, 97, 2, "0xa601206", "AMD Ryzen 5 7600 6-Core Processor")
CLOUD = ("GenuineIntel", 6, 106, 6, "0x1", "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz")


def put(folder, **files):
    """Files of one sysfs folder; numbers and strings get the newline that sysfs adds."""
    return {f"{folder}/{k}": v if isinstance(v, Link | bytes) else f"{v}\n" for k, v in files.items()}


def linux(release, distribution, total, available):
    """What every kernel gives; memory in kB."""
    rows = {"MemTotal": total, "MemFree": available * 3 // 4, "MemAvailable": available, "SwapTotal": 0, "SwapFree": 0}
    return {
        "proc/sys/kernel/osrelease": f"{release}\n",
        "proc/meminfo": "".join(f"{k + ':':<16}{v:>8} kB\n" for k, v in rows.items()),
        "etc/os-release": f'PRETTY_NAME="{distribution}"\nNAME="{distribution.split()[0]}"\n',
    }


def cpu(cores, *policies, online=None, present=None):
    """Cores and their frequency policies, each (cpus, governor, current, limit, hardware's limit) in kHz."""
    count = len(cores)
    files = put(CPU, online=online or f"0-{count - 1}", present=present or f"0-{count - 1}")
    info = []
    for n, core in enumerate(cores):
        if len(core) == 2:
            implementer, part = core
            info.append(
                f"processor\t: {n}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics\n"
                f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\n"
                "CPU revision\t: 1\n\n"
            )
        else:
            vendor, family, model, stepping, microcode, name = core
            info.append(
                f"processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
                f"model name\t: {name}\nstepping\t: {stepping}\nmicrocode\t: {microcode}\ncpu MHz\t\t: 1800.000\n"
                f"physical id\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma{' hypervisor' if core is CLOUD else ''}\n\n"
            )
    files["proc/cpuinfo"] = "".join(info)
    for cpus, governor, current, limit, hardware in policies:
        folder = f"{CPU}/cpufreq/policy{cpus[0]}"
        files |= put(folder, scaling_governor=governor, scaling_cur_freq=current, scaling_max_freq=limit)
        files |= put(folder, cpuinfo_max_freq=hardware, affected_cpus=" ".join(map(str, cpus)))
        files |= {f"{CPU}/cpu{n}/cpufreq": Link(folder) for n in cpus}
    return files


def x86(model, count, maximum, governor="powersave", core=0, package=0):
    """Cores with a policy each and Intel's throttle counters, which AMD's processors and guests lack."""
    files = cpu([model] * count, *[([n], governor, 1800000 + n, maximum, maximum) for n in range(count)])
    for n in range(count if model[0] == "GenuineIntel" else 0):
        folder = f"{CPU}/cpu{n}/thermal_throttle"
        files |= put(folder, core_throttle_count=core, package_throttle_count=package)
    return files


def dmi(vendor, product, board, version="1.0", maker=None):
    names = {"sys_vendor": vendor, "product_name": product, "board_vendor": maker or vendor, "board_name": board}
    return put("sys/class/dmi/id", **names, board_version=version)


def tree(model, *compatible, serial=None):
    """A device tree's top: strings that end in NUL."""
    texts = {"model": [model], "compatible": compatible, "serial-number": [serial] if serial else []}
    return {f"proc/device-tree/{k}": "".join(f"{t}\0" for t in v).encode() for k, v in texts.items() if v}


def thermal(**zones):
    """Thermal zones in m°C; an underscore stands for a hyphen."""
    files: dict[str, str] = {}
    for n, (kind, value) in enumerate(zones.items()):
        files |= put(f"sys/class/thermal/thermal_zone{n}", type=kind.replace("_", "-"), temp=value)
    return files


def hwmon(number, name, **files):
    return put(f"{HWMON}/hwmon{number}", name=name, **files)


def ina3221(device, number, *channels, shunt=5000, sums=False):
    """Three channels, each (label, mV, mA); `sums` adds what the driver derives: shunt µV, their sum, the sum of mA."""
    folder = f"sys/bus/i2c/drivers/ina3221/{device}/hwmon/hwmon{number}"
    files = put(folder, name="ina3221", update_interval=7, samples=1)
    for n, (label, millivolts, milliamperes) in enumerate(channels, 1):
        values = {f"in{n}_label": label, f"in{n}_input": millivolts, f"curr{n}_input": milliamperes}
        values |= {f"in{n}_enable": int(label != "NC"), f"shunt{n}_resistor": shunt}
        values |= {f"curr{n}_crit": 32760, f"curr{n}_max": 32760, f"curr{n}_crit_alarm": 0}
        values |= {f"in{n + 3}_input": milliamperes * shunt // 1000} if sums else {}
        files |= put(folder, **values)
    if sums:
        total = sum(milliamperes for _, _, milliamperes in channels)
        files |= put(folder, in7_label="sum of shunt voltages", in7_input=total * shunt // 1000, curr4_input=total)
    return files | {f"{HWMON}/hwmon{number}": Link(folder)}


def soctherm(number, *counts):
    """Over-current events since boot: under-voltage, average, instantaneous."""
    files = {f"oc{n}_event_cnt": count for n, count in enumerate(counts, 1)}
    return hwmon(number, "soctherm_oc", **files, **{f"oc{n}_throt_en": 1 for n in range(1, len(counts) + 1)})


def devfreq(name, current, maximum, governor="nvhost_podgov"):
    return put(f"sys/class/devfreq/{name}", cur_freq=current, max_freq=maximum, governor=governor)


def jetson(release, board, build, mode, modes, status="pmode:{:04}\n"):
    """L4T's release, its build (id and date) and power modes: each id's name, count of cores, and limit in kHz."""
    sections = [
        "# SPDX-License-Identifier: BSD-3-Clause\n\n"
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n"
        "< PARAM TYPE=CLOCK NAME=CPU_A78_0 >\nMAX_FREQ /sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq\n\n"
    ]
    total = max(cores for _, cores, _ in modes.values())
    for number, (name, cores, limit) in modes.items():
        lines = "".join(f"CPU_ONLINE CORE_{n} {int(n < cores)}\n" for n in range(total))
        sections.append(
            f"< POWER_MODEL ID={number} NAME={name} >\n{lines}CPU_A78_0 MIN_FREQ 729600\nCPU_A78_0 MAX_FREQ {limit}\n"
            "GPU MIN_FREQ 0\nGPU MAX_FREQ -1\nEMC MAX_FREQ 0\n\n"
        )
    major, revision = release.split(".", 1)
    return {
        "etc/nv_tegra_release": f"# R{major} (release), REVISION: {revision}, GCID: {build[0]}, BOARD: {board}, "
        f"EABI: aarch64, DATE: {build[1]}\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
        "etc/nvpmodel.conf": "".join(sections)
        + f"# mandatory section to configure the default mode\n< PM_CONFIG DEFAULT={mode} >\n",
        "var/lib/nvpmodel/status": status.format(mode),
    }


def rapl_zone(zone, name, energy, limit=RAPL_RANGE):
    """One zone, `zone` being its folder; a part is also linked from its parent's folder, as in the kernel's tree."""
    files = put(f"{POWERCAP}/{zone}", name=name, energy_uj=energy, max_energy_range_uj=limit, enabled=0)
    files[f"{POWERCAP}/{zone.split(':')[0]}/enabled"] = "1\n"
    if zone.count(":") == 2:
        files[f"{POWERCAP}/{zone.rpartition(':')[0]}/{zone}"] = Link(f"{POWERCAP}/{zone}")
    return files


def accelerator(driver, bus, rows, **files):
    """An accelerator's node: accel0, its device's files and its driver; `rows` end the device's uevent."""
    folder = "sys/class/accel/accel0/device"
    files = put(folder, driver=Link(f"sys/bus/{bus}/drivers/{driver}"), **files)
    return files | {f"{folder}/uevent": f"DRIVER={driver}\n{rows}\n", "dev/accel/accel0": ""}


def vcgencmd(throttled, rails=None):
    """A stand-in for the firmware's tool; without rails the firmware does not know `pmic_read_adc`."""
    unknown = 'vc_gencmd_read_response returned -1\nerror=1 error_msg="Command not registered"'
    reading = f"cat <<'END'\n{rails}\nEND\n" if rails else ""
    return {
        "usr/bin/vcgencmd": f'#!/bin/sh\ncase "$1" in\nget_throttled) echo throttled={throttled};;\n'
        + (f"pmic_read_adc) {reading};;\n" if rails else "")
        + f"*) cat <<'END'\n{unknown}\nEND\nexit 255;;\nesac\n"
    }


def nvidia(version, model, bus="0000:01:00.0"):
    rows = {"Model: \t": model, "IRQ:   \t": 185, "GPU UUID: ": "GPU-12345678-90ab-cdef-1234-567890abcdef"}
    rows |= {"Video BIOS: ": "95.04.31.00.6b", "Bus Type: ": "PCIe", "DMA Size: ": "47 bits"}
    rows |= {"DMA Mask: ": "0x7fffffffffff", "Bus Location: ": bus, "Device Minor: ": 0}
    rows |= {"GPU Firmware: ": version, "GPU Excluded:": "No"}
    return {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "
        f"{version}  Release Build  (dvs-builder@U22-I3-B17-02-5)  Tue Sep 23 09:55:41 UTC 2025\n"
        "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04.2) \n",
        f"proc/driver/nvidia/gpus/{bus}/information": "".join(f"{k}\t {v}\n" for k, v in rows.items()),
    }


ADC = """\
 3V7_WL_SW_A current(0)=0.10247270A
   3V3_SYS_A current(1)=0.10832820A
   1V8_SYS_A current(2)=0.15712470A
  DDR_VDD2_A current(3)=0.00585558A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.24105470A
    0V8_SW_A current(6)=0.31424950A
  VDD_CORE_A current(7)=1.42880000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00006105A
   0V8_AON_A current(16)=0.00354090A
      HDMI_A current(22)=0.02002440A
 3V7_WL_SW_V volt(8)=3.71091200V
   3V3_SYS_V volt(9)=3.30910500V
   1V8_SYS_V volt(10)=1.80073100V
  DDR_VDD2_V volt(11)=1.10439400V
  DDR_VDDQ_V volt(12)=0.60439500V
   1V1_SYS_V volt(13)=1.10805800V
    0V8_SW_V volt(14)=0.80402850V
  VDD_CORE_V volt(15)=0.90659250V
   3V3_DAC_V volt(20)=3.31135200V
   3V3_ADC_V volt(21)=3.31867800V
   0V8_AON_V volt(19)=0.79882700V
      HDMI_V volt(23)=5.07860000V
     EXT5V_V volt(24)=5.05716000V
      BATT_V volt(25)=0.00000000V"""
KIT = "Engineering Reference Developer Kit"
RK3588 = {"soc_thermal": 44384, "bigcore0_thermal": 45307, "bigcore1_thermal": 45307, "littlecore_thermal": 45307}
RK3588 |= {"center_thermal": 43461, "gpu_thermal": 42538, "npu_thermal": 43461}
RK3588_CPU = cpu(
    [A55] * 4 + [A76] * 4,
    ([0, 1, 2, 3], "schedutil", 408000, 1800000, 1800000),
    ([4, 5], "schedutil", 408000, 2352000, 2352000),
    ([6, 7], "schedutil", 408000, 2352000, 2352000),
)
XAVIER_ZONES = {"CPU_therm": 40500, "GPU_therm": -256000, "AUX_therm": 39500, "AO_therm": 40000, "PMIC_Die": 50000}
ORIN_ZONES = {"cpu_thermal": 47593, "gpu_thermal": 46156, "cv0_thermal": -256000, "soc0_thermal": 45906}
ORIN_ZONES |= {"soc1_thermal": 46937, "soc2_thermal": 46843, "tj_thermal": 48218}
ORIN_RAILS = [("VDD_IN", 5040, 992), ("VDD_CPU_GPU_CV", 5040, 176), ("VDD_SOC", 5040, 304)]
XAVIER_BUILD, ORIN_BUILD = (33958178, "Tue Aug  1 19:57:35 UTC 2023"), (38968081, "Wed Jan  8 01:49:37 UTC 2025")

BOARDS: dict[str, dict[str, str | bytes]] = {
    "agx-xavier": linux("5.10.120-tegra", "Ubuntu 20.04.6 LTS", 31274576, 28123456)
    | tree("Jetson-AGX", "nvidia,galen", "nvidia,jetson-xavier", "nvidia,p2822-0000+p2888-0001", "nvidia,tegra194",
           serial="1423019012345")
    | cpu([CARMEL] * 8, *[([n, n + 1], "schedutil", 1190400, 2265600, 2265600) for n in (0, 2, 4, 6)])
    | thermal(**XAVIER_ZONES)
    | ina3221("1-0040", 3, ("GPU", 19184, 32), ("CPU", 19184, 40), ("SOC", 19184, 112))
    | ina3221("1-0041", 4, ("CV", 19184, 0), ("VDDRQ", 19184, 32), ("SYS5V", 19184, 128))
    | soctherm(2, 0, 0, 0) | devfreq("17000000.gv11b", 114750000, 1377000000)
    | jetson("35.4.1", "t186ref", XAVIER_BUILD, 0, {
        0: ("MAXN", 8, -1), 1: ("MODE_10W", 2, 1200000), 2: ("MODE_15W", 4, 1200000), 3: ("MODE_30W_ALL", 8, 1200000),
    }),
    "xavier-nx": linux("5.10.120-tegra", "Ubuntu 20.04.6 LTS", 6910964, 5123456)
    | tree("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3449-0000+p3668-0001", "nvidia,p3509-0000+p3668-0001",
           "nvidia,tegra194", serial="1421421012345")
    | cpu([CARMEL] * 6, *[([n, n + 1], "schedutil", 1190400, 1420800, 1907200) for n in (0, 2, 4)])
    | thermal(**XAVIER_ZONES)
    | ina3221("7-0040", 4, ("VDD_IN", 4976, 760), ("VDD_CPU_GPU_CV", 4976, 112), ("VDD_SOC", 4976, 248))
    | soctherm(3, 0, 0, 4) | devfreq("17000000.gv11b", 114750000, 1109250000)
    | jetson("35.4.1", "t186ref", XAVIER_BUILD, 2, {
        0: ("MODE_15W_2CORE", 2, 1907200), 1: ("MODE_15W_4CORE", 4, 1420800), 2: ("MODE_15W_6CORE", 6, 1420800),
        3: ("MODE_10W_2CORE", 2, 1497600), 8: ("MODE_20W_6CORE", 6, 1420800),
    }, status="pmode:{:04} fmode:fan_mode_quiet\n"),
    "orin-nano": linux("5.15.148-tegra", "Ubuntu 22.04.5 LTS", 7802332, 5523456)
    | tree(f"NVIDIA Jetson Orin Nano {KIT} Super", "nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005",
           "nvidia,tegra234", serial="1422723012345")
    | cpu([A78AE] * 6, *[(list(cpus), "schedutil", 729600, 1344000, 1728000) for cpus in (range(4), range(4, 6))])
    | thermal(**ORIN_ZONES) | ina3221("1-0040", 1, *ORIN_RAILS)
    | soctherm(3, 0, 2, 37) | devfreq("17000000.gpu", 306000000, 918000000)
    | jetson("36.4.3", "generic", ORIN_BUILD, 1, {
        0: ("15W", 6, 1497600), 1: ("25W", 6, 1344000), 2: ("MAXN_SUPER", 6, -1), 3: ("7W", 4, 960000),
    }),
    "orin-nx": linux("5.15.148-tegra", "Ubuntu 22.04.5 LTS", 16084552, 13123456)
    | tree(f"NVIDIA Jetson Orin NX {KIT}", "nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000",
           "nvidia,tegra234", serial="1423024012345")
    | cpu([A78AE] * 8, *[(list(cpus), "schedutil", 729600, 1420800, 1984000) for cpus in (range(4), range(4, 8))])
    | thermal(**ORIN_ZONES) | ina3221("1-0040", 1, ("VDD_IN", 5000, 1200), *ORIN_RAILS[1:], sums=True)
    | soctherm(3, 0, 0, 2) | devfreq("17000000.gpu", 306000000, 918000000)
    | jetson("36.4.3", "generic", ORIN_BUILD, 3, {
        0: ("MAXN", 8, -1), 1: ("10W", 4, 1190400), 2: ("15W", 4, 1420800), 3: ("25W", 8, 1497600),
    }),
    "agx-orin": linux("5.15.148-tegra", "Ubuntu 22.04.5 LTS", 64353268, 60123456)
    | tree("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005",
           "nvidia,tegra234", serial="1420922012345")
    | cpu([A78AE] * 12, *[(list(range(n, n + 4)), "schedutil", 729600, 2201600, 2201600) for n in (0, 4, 8)])
    | thermal(**ORIN_ZONES)
    | ina3221("1-0040", 3, ("VDD_GPU_SOC", 18792, 140), ("VDD_CPU_CV", 18784, 20), ("VIN_SYS_5V0", 4968, 980),
              shunt=2000)
    | ina3221("1-0041", 4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 80), ("NC", 0, 0), shunt=2000)
    | soctherm(2, 0, 0, 0) | devfreq("17000000.gpu", 306000000, 1300500000)
    | jetson("36.4.3", "generic", ORIN_BUILD, 0, {
        0: ("MAXN", 12, -1), 1: ("MODE_15W", 4, 1113600), 2: ("MODE_30W", 8, 1728000), 3: ("MODE_50W", 12, 1497600),
    }),
    "agx-thor": linux("6.8.12-tegra", "Ubuntu 24.04.3 LTS", 128825804, 120123456)
    | tree("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008",
           "nvidia,tegra264", serial="1424325030123")
    | cpu([NEOVERSE_V3AE] * 14, *[([n, n + 1], "schedutil", 972000, 2601000, 2601000) for n in range(0, 14, 2)])
    | thermal(tj_thermal=49156, soc012_thermal=49156, cpu_thermal=48843, soc345_thermal=48625, gpu_thermal=-256000)
    | ina3221("2-0040", 2, ("VDD_GPU", 12040, 200), ("VDD_CPU_SOC_MSS", 12040, 520), ("VIN_SYS_5V0", 5088, 1300),
              shunt=2000)
    | hwmon(3, "ina238", label="VIN", in0_input=2, in1_input=19872, curr1_input=1180, power1_input=23448960,
            temp1_input=41500)
    | soctherm(4, 0, 0, 0) | devfreq("gpu-gpc-0", 1575000000, 1575000000)
    | jetson("38.2.2", "generic", (42205042, "Thu Sep 25 22:47:11 UTC 2025"), 1, {
        0: ("MAXN", 14, -1), 1: ("120W", 14, 2601000), 2: ("90W", 12, 2601000), 3: ("70W", 8, 2601000),
    }),
    "raspberry-pi-4": linux("6.12.25+rpt-rpi-v8", "Debian GNU/Linux 12 (bookworm)", 3885396, 3312345)
    | tree("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b", "brcm,bcm2711", serial="10000000abcdef01")
    | cpu([A72] * 4, ([0, 1, 2, 3], "ondemand", 600000, 1800000, 1800000)) | thermal(cpu_thermal=48199)
    | hwmon(0, "cpu_thermal", temp1_input=48199) | hwmon(1, "rpi_volt", in0_lcrit_alarm=0) | vcgencmd("0x50000"),
    "raspberry-pi-5": linux("6.12.25+rpt-rpi-2712", "Debian GNU/Linux 12 (bookworm)", 8256352, 7412345)
    | tree("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712", serial="c36b093f773d46b8")
    | cpu([A76] * 4, ([0, 1, 2, 3], "ondemand", 1500000, 2400000, 2400000)) | thermal(cpu_thermal=51250)
    | hwmon(0, "cpu_thermal", temp1_input=51250)
    | hwmon(1, "rp1_adc", in1_input=1495, in2_input=2516, in3_input=1397, in4_input=1443, temp1_input=52112)
    | hwmon(2, "pwmfan", fan1_input=2471, pwm1=75) | hwmon(3, "rpi_volt", in0_lcrit_alarm=0) | vcgencmd("0x0", ADC),
    "rk3588": linux("6.1.43-rockchip-rk3588", "Orange Pi 1.2.0 Jammy", 16090188, 14123456)
    | tree("RK3588 OPi 5 Plus", "rockchip,rk3588-orangepi-5-plus", "rockchip,rk3588", serial="8c1d0f2a3b4c5d6e")
    | RK3588_CPU | thermal(**RK3588)
    | devfreq("fb000000.gpu", 300000000, 1000000000, "simple_ondemand")
    | devfreq("fdab0000.npu", 1000000000, 1000000000, "rknpu_ondemand")
    | put("sys/kernel/debug/rknpu", version="RKNPU driver: v0.9.8",
          load="NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,"),
    "rk3588-mainline": linux("6.18.2-current-rockchip64", "Armbian 25.11 trixie", 16090188, 14123456)
    | tree("Xunlong Orange Pi 5 Plus", "xunlong,orangepi-5-plus", "rockchip,rk3588")
    | RK3588_CPU
    | thermal(**{"package_thermal" if kind == "soc_thermal" else kind: value for kind, value in RK3588.items()})
    | accelerator("rocket", "platform", "OF_NAME=npu\nOF_COMPATIBLE_0=rockchip,rk3588-rknn-core"),
    "generic-arm": linux("6.6.36-lts-next", "NXP i.MX Release Distro 6.6-scarthgap", 5924312, 5412345)
    | tree("NXP i.MX8MPlus EVK board", "fsl,imx8mp-evk", "fsl,imx8mp", serial="1a2b3c4d5e6f7081")
    | cpu([A53] * 4, ([0, 1, 2, 3], "schedutil", 1200000, 1800000, 1800000))
    | thermal(cpu_thermal=46000, soc_thermal=46000)
    | {"dev/galcore": "", "sys/bus/platform/drivers/galcore/uevent": "", "sys/module/galcore/initstate": "live\n"},
    "scmi-board": linux("6.12.12", "Debian GNU/Linux 12 (bookworm)", 8125904, 7712345)
    | tree("ARM Juno development board (r2)", "arm,juno-r2", "arm,juno", "arm,vexpress")
    | cpu([A53, A57, A57, A53, A53, A53], ([0, 3, 4, 5], "schedutil", 450000, 950000, 950000),
          ([1, 2], "schedutil", 600000, 1200000, 1200000))
    | thermal(pmic=31000, soc_thermal=35500)
    | hwmon(0, "scmi_sensors", temp1_input=31000, temp1_label="TEMP_PMIC", temp2_input=35500, temp2_label="TEMP_SOC",
            in0_input=905, in0_label="VOLT_BIG", curr1_input=412, curr1_label="BRD_CURR_BIG",
            power1_input=1672860, power1_label="BRD_PWR_SYS", power2_input=372860, power2_label="BRD_PWR_BIG",
            power3_input=198400, power3_label="BRD_PWR_LITTLE", energy1_input=148211032, energy1_label="BRD_ENRG_SYS",
            energy2_input=48211032, energy2_label="BRD_ENRG_BIG"),
    "arm-server": linux("6.17.0-8-generic", "Ubuntu 25.10", 131692832, 126123456)
    | dmi("GIGABYTE", "R152-P30-00", "MP32-AR0-00", "01000100", "GIGABYTE")
    | cpu([NEOVERSE_N1] * 8, *[([n], "ondemand", 1000000, 3000000, 3000000) for n in range(8)])
    | thermal(acpitz=43000)
    | hwmon(0, "power_meter", power1_average=130000000, power1_average_interval=1000, power1_accuracy="100.0%",
            power1_is_battery=0, power1_oem_info="CPU Power", power1_model_number="", power1_serial_number=""),
    "intel-n100": linux("6.8.0-60-generic", "Ubuntu 24.04.2 LTS", 16155692, 14123456)
    | dmi("AZW", "MINI S", "MINI S12") | x86(N100, 4, 3400000)
    | thermal(acpitz=27800, x86_pkg_temp=47000, iwlwifi_1=41000)
    | hwmon(0, "acpitz", temp1_input=27800) | hwmon(1, "coretemp", temp1_input=47000, temp1_label="Package id 0")
    | rapl_zone("intel-rapl:0", "package-0", 71243918231) | rapl_zone("intel-rapl:0:0", "core", 21980120473)
    | rapl_zone("intel-rapl:0:1", "uncore", 1182004533),
    "intel-laptop": linux("6.11.0-29-generic", "Ubuntu 24.04.2 LTS", 32463840, 26123456)
    | dmi("LENOVO", "21KCCTO1WW", "21KCCTO1WW", "SDK0T76463 WIN") | x86(ULTRA_7, 8, 4800000, core=3, package=12)
    | thermal(INT3400_Thermal=20000, acpitz=52000, TCPU_PCI=54000, x86_pkg_temp=55000)
    | hwmon(4, "coretemp", temp1_input=55000, temp1_label="Package id 0")
    | hwmon(5, "BAT0", in0_input=15870, curr1_input=612)
    | rapl_zone("intel-rapl:0", "package-0", 158923441230) | rapl_zone("intel-rapl:0:0", "core", 61233119823)
    | rapl_zone("intel-rapl:0:1", "uncore", 4310991230) | rapl_zone("intel-rapl:1", "psys", 240112338912)
    | rapl_zone("intel-rapl-mmio:0", "package-0", 158923441230)
    | put("sys/class/power_supply/BAT0", type="Battery", status="Discharging", present=1, capacity=71,
          voltage_now=15870000, current_now=612000, charge_now=2483000, charge_full=3497000, technology="Li-poly")
    | put("sys/class/power_supply/AC", type="Mains", online=0)
    | put("sys/class/power_supply/ucsi-source-psy-USBC000:001", type="USB", online=0, usb_type="[C] PD PD_PPS",
          voltage_now=5000000, current_now=3000000, scope="System")
    | accelerator("intel_vpu", "pci", "PCI_ID=8086:7D1D\nPCI_SLOT_NAME=0000:00:0b.0", vendor="0x8086", device="0x7d1d",
                  npu_busy_time_us=4213991, npu_memory_utilization=0, npu_current_frequency_mhz=0,
                  npu_max_frequency_mhz=1400),
    "intel-server": linux("6.8.0-60-generic", "Ubuntu 24.04.2 LTS", 394853244, 381234567)
    | dmi("Intel Corporation", "S9200WK", "S9200WK") | x86(XEON, 8, 3800000, "performance")
    | thermal(x86_pkg_temp=51000) | hwmon(0, "coretemp", temp1_input=51000, temp1_label="Package id 0"),
    "amd-desktop": linux("6.14.0-24-generic", "Ubuntu 24.04.2 LTS", 32035712, 28123456)
    | dmi("ASUS", "System Product Name", "TUF GAMING B650M-PLUS", "Rev 1.xx", "ASUSTeK COMPUTER INC.")
    | x86(RYZEN, 6, 5170000, "powersave") | thermal(acpitz=16800)
    | hwmon(1, "amdgpu", temp1_input=43000, temp1_label="edge", in0_input=1180, in0_label="vddgfx",
            freq1_input=600000000, freq1_label="sclk", power1_average=21078000, power1_label="PPT")
    | hwmon(2, "k10temp", temp1_input=48625, temp1_label="Tctl", temp3_input=44250, temp3_label="Tccd1")
    | rapl_zone("intel-rapl:0", "package-0", 20839017733, AMD_RANGE)
    | rapl_zone("intel-rapl:0:0", "core", 912003118, AMD_RANGE),
    "vm": linux("6.8.0-1029-aws", "Ubuntu 24.04.2 LTS", 7936188, 7212345)
    | dmi("Amazon EC2", "c6i.xlarge", "", "") | cpu([CLOUD] * 4),
}  # fmt: skip
for die in range(4):
    label = f"package-{die // 2}-die-{die % 2}"
    BOARDS["intel-server"] |= rapl_zone(f"intel-rapl:{die}", label, 91003118201 + die * 7001)
    BOARDS["intel-server"] |= rapl_zone(f"intel-rapl:{die}:0", "dram", 12031182010 + die * 501, DRAM_RANGE)
BOARDS["amd-nvidia"] = {k: v for k, v in BOARDS["amd-desktop"].items() if f"{HWMON}/hwmon1/" not in k}
BOARDS["arm-server-old"] = {  # before Linux 6.15 the meter's files, its name among them, are its device's
    k.replace("hwmon0/", "hwmon0/device/"): v for k, v in BOARDS["arm-server"].items()
} | {"proc/sys/kernel/osrelease": "6.8.0-60-generic\n", "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\n'}
BOARDS["amd-nvidia"] |= nvidia("580.95.05", "NVIDIA GeForce RTX 4070")


def plant(name, folder, **changes) -> Path:
    """Write a board's tree into an empty folder and return the folder.

    Each of `changes` is a path and its new content, or None to leave that path out: `plant(name, folder, **{path: x})`.
    """
    root = Path(folder)
    for path, content in (BOARDS[name] | changes).items():
        if content is None:
            continue
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            target = root / content
            target.mkdir(parents=True, exist_ok=True)
            file.symlink_to(os.path.relpath(target, file.parent))
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
            file.chmod(0o755 if path.startswith("usr/bin/") else 0o644)
    return root
