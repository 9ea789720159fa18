"""A 64-bit Arm root on another processor: Debian's packages, unpacked, and the wheels that constraints.txt pins, run by qemu.

Nothing in it is installed by scripts, and it is entered in a user namespace, so no step needs to be root.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

CHECKOUT = Path(__file__).parents[2]
SUITE, PYTHON, GLIBC = "bookworm", "3.11", 36
"""Debian 12; `pip` must be told the Python and the newest glibc 2.x of wheels that run there."""

QEMU = "qemu-aarch64-static"
EXTRAS = ("onnxruntime", "onnx", "calibrate", "trust", "metrics", "serve", "openvino", "mnn", "litert", "ncnn")
"""Those that are installed. Of an engine without a wheel for Arm the reason is printed."""
NEEDED = ("onnxruntime", "onnx", "calibrate", "trust")
TESTING = ("pytest", "pytest-xdist", "hypothesis", "filelock", "tritonclient[http]")

NO_TORCH = """import pytest

pytest.skip("needs torch", allow_module_level=True)
"""
"""Stands in the root for torch, which a product never has: tests that import it skip themselves."""

FEATURES = {
    "cortex-a72": (0x410FD083, "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a76": (
        0x414FD0B1,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
"""Processors that are emulated, those of a Raspberry Pi 4 and 5: MIDR_EL1, and what Linux calls their features there."""


class CannotRun(Exception):
    """Why there can be no Arm root here."""


def find_reason():
    """Return why this machine cannot run the tests, as far as it is known before anything is downloaded; None if it may."""
    if not sys.platform.startswith("linux"):
        return "an Arm root needs Linux"
    if platform.machine() == "aarch64":
        return "this machine is Arm: make test runs there"
    packages = {QEMU: "qemu-user-static", "debootstrap": "debootstrap", "dpkg-deb": "dpkg", "unshare": "util-linux"}
    if missing := [package for program, package in packages.items() if find_program(program) is None]:
        return f"{' and '.join(missing)} must be installed, on Debian and Ubuntu by: apt install {' '.join(missing)}"
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, text=True)
    return f"this system allows no user namespaces: {done.stderr.strip()}" if done.returncode else None


def find_program(name):
    """Return a program's path, also where PATH lacks the folders for administrators, where debootstrap lies."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def make_root(folder):
    """Make the root once in a folder: half a minute, 1.3 GB.

    Raises:
        CannotRun: something cannot be downloaded, or Arm programs do not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "root").exists():
        print("making a Debian root for Arm", flush=True)
        _unpack_debian(folder / "unpacked")
        (folder / "unpacked").rename(folder / "root")
    for cpu in FEATURES:
        _write_processor(folder, cpu)
    wanted = hashlib.sha256((CHECKOUT / "constraints.txt").read_bytes() + repr(_requirements()).encode()).hexdigest()
    stamp = folder / "packages.sha256"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("downloading wheels for Arm", flush=True)
        _install_wheels(folder)
        stamp.write_text(wanted)
    done = subprocess.run(**enter(folder, folder, "/bin/true"), capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(
            "Arm programs do not start, which needs Linux 6.7, or qemu registered with the system by the package binfmt-support: "
            + last_line(done)
        )


def _unpack_debian(target):
    """Debian's packages as its archive signs them, without running their scripts: Python needs none of them."""
    shutil.rmtree(target, ignore_errors=True)
    command = [find_program("debootstrap"), "--download-only", "--arch=arm64", "--variant=minbase", "--include=python3"]
    done = subprocess.run([*command, SUITE, str(target)], capture_output=True, text=True)
    packages = sorted(target.glob("var/cache/apt/archives/*.deb"))
    if done.returncode or not packages:
        raise CannotRun(f"debootstrap cannot download Debian {SUITE} for Arm: {last_line(done)}")
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", str(package), str(target)], check=True)
        package.unlink()
    for name in ("passwd", "group"):
        shutil.copy(target / f"usr/share/base-passwd/{name}.master", target / f"etc/{name}")
    (target / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for name in ("packages", "checkout/offramp"):
        (target / "opt" / name).mkdir(parents=True)


def _write_processor(folder, cpu):
    """What Linux says of a processor under /proc and /sys. Without it engines read the host's, and take it for no Arm."""
    midr, features = FEATURES[cpu]
    cores = os.cpu_count() or 1
    fields = {
        "BogoMIPS": "108.00",
        "Features": features,
        "CPU implementer": f"{midr >> 24:#x}",
        "CPU architecture": "8",
        "CPU variant": f"{midr >> 20 & 15:#x}",
        "CPU part": f"{midr >> 4 & 0xFFF:#x}",
        "CPU revision": f"{midr & 15}",
    }
    lines = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
    (folder / f"{cpu}.cpuinfo").write_text("".join(f"processor\t: {core}\n{lines}\n" for core in range(cores)))
    processors = folder / f"{cpu}.sys/devices/system/cpu"
    for core in range(cores):
        told = {
            "regs/identification/midr_el1": f"{midr:#018x}",
            "topology/core_id": core,
            "topology/physical_package_id": 0,
        }
        told |= {"topology/core_siblings": f"{(1 << cores) - 1:x}", "topology/thread_siblings": f"{1 << core:x}"}
        for name, value in told.items():
            (file := processors / f"cpu{core}" / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
    for name in ("possible", "present", "online"):
        (processors / name).write_text(f"0-{cores - 1}\n" if cores > 1 else "0\n")


def _requirements():
    """What pyproject.toml asks for, by the extra; `""` is the base."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    ours = {extra: project["optional-dependencies"][extra] for extra in EXTRAS}
    asked = {"": project["dependencies"], **ours, "testing": list(TESTING)}
    return {extra: [line.split(";")[0] for line in lines if "offramp[" not in line] for extra, lines in asked.items()}


def _install_wheels(folder):
    """Wheels for the root's Python. An engine that has none is left out, and its reason printed."""
    wheels, packages = folder / "wheels", folder / "packages"
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC, 16, -1)] + ["manylinux2014_aarch64"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    fits = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    fits += [word for platform_ in platforms for word in ("--platform", platform_)]
    fits += ["--constraint", str(CHECKOUT / "constraints.txt"), "--find-links", str(wheels)]
    found = []
    for extra, requirements in _requirements().items():
        command = [*pip, "download", *fits, "--dest", str(wheels), *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.returncode:
            found += requirements
        elif extra in ("", *NEEDED, "testing"):
            raise CannotRun(f"pip cannot download {' '.join(requirements)} for Arm: {last_line(done)}")
        else:
            print(f"{extra} is left out: {last_line(done)}", flush=True)
    print("installing them", flush=True)
    shutil.rmtree(packages, ignore_errors=True)
    command = [*pip, "install", *fits, "--no-index", "--no-compile", "--target", str(packages), *found]
    subprocess.run(command, check=True)
    (packages / "torch.py").write_text(NO_TORCH)


def enter(folder, work, *command, cpu="cortex-a76"):
    """Return arguments of `subprocess.run` for a command in the root, where the folder `work` is /tmp."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "/opt/checkout:/opt/packages",
        "PYTHONPYCACHEPREFIX": "/var/cache/python",
        "QEMU_CPU": cpu,
    }
    script, qemu = Path(__file__).with_name("enter.sh"), find_program(QEMU)
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh"]
    words = [script, qemu, folder.resolve(), CHECKOUT, work.resolve(), *command]
    return {"args": [*namespace, *map(str, words)], "env": environment}


def last_line(done):
    """What a program that failed said last."""
    said = (done.stderr or "").strip() or (done.stdout or "").strip() or f"exit code {done.returncode}"
    return said.splitlines()[-1]
