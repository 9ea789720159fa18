"""Run what ships in a product on an emulated 64-bit Arm processor, and compare its answers with those of this machine.

    python tests/arm/run.py [--folder .arm] [TEST ...]    (make test-arm)

It makes an Arm root once in FOLDER (1.5 GB) and runs there the tests of `runtime`, `devices` and `bundle` that need no torch (or
each TEST), and bundles that are made here: the zoo on ONNX Runtime, and a network in every kind of variant on each engine. It
tests functions, not speed: it is ten times slower than a board.

Where it cannot run it says why and ends with 0, as it does if all is well; with 1 if a test fails or an answer differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from offramp.tests.arm import answers, root

TESTS = ("tests/runtime", "tests/devices", "tests/bundle")
LEFT_OUT = {
    "tests/bundle/test_fuzz.py": "minutes of damaged files, read by Python alone",
    "tests/bundle/test_writing.py": "kills hundreds of processes, each of which takes seconds to start",
    "tests/bundle/test_security.py": "the same",
    "tests/runtime/chain/test_interruptions.py": "thousands of signals, of which the emulator dies or hangs, as it did here",
}
"""Files of TESTS that do not run there, and why. Tests that need torch skip themselves."""

QUANTIZED = ("depthwise-separable", "encoder", "two-inputs")
"""Networks of the zoo that get a variant in int8 too."""

CONVERTED = ("litert:cpu", "ncnn:cpu")
"""Devices whose stages are converted here, where the converters are, and not on a board."""

REFUSALS = {
    ("openvino:CPU", "int8"): "OpenVINO 2026.4 compiles no int8 convolution on Arm",
}
"""What runs on x86-64 and not on Arm, by device and precision."""

INSIDE = "/opt/checkout/offramp"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=root.CHECKOUT / ".arm", help="where the root is made once")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="what is run in place of all tests and bundles")
    options = parser.parse_args()
    reason = root.find_reason()
    try:
        reason or root.make_root(options.folder)
    except root.CannotRun as error:
        reason = str(error)
    if reason:
        print(f"Skipped, nothing was tested: {reason}.")
        return 0
    options.folder.joinpath("work").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder / "work") as folder:
        work = Path(folder)
        if options.tests:
            return run_tests(options.folder, work, options.tests)
        wrong = compare_answers(options.folder, work)
        failed = run_tests(options.folder, work, TESTS)
    print("\n".join(["", *(f"FAILED {line}" for line in wrong)]))
    print("the tests on Arm failed" if failed else "the tests on Arm passed")
    print(
        f"{len(wrong)} variants differ from x86-64"
        if wrong
        else "all answers are those of x86-64, within what is allowed"
    )
    return int(bool(wrong or failed))


def run_tests(folder, work, tests):
    """Run tests in the root; returns pytest's exit code."""
    for path, why in LEFT_OUT.items():
        print(f"{path} is left out: {why}")
    options = ["-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "--rootdir", INSIDE]
    ignored = [f"--ignore={INSIDE}/{path}" for path in LEFT_OUT]
    chosen = [f"{INSIDE}/{test}" for test in tests]
    command = ["python3", "-m", "pytest", "-c", f"{INSIDE}/pyproject.toml", *options, *ignored, *chosen]
    return subprocess.run(**root.enter(folder, work, *command)).returncode


def compare_answers(folder, work):
    """Compare what bundles answer here and there; returns a sentence for each variant that differs."""
    print("making bundles", flush=True)
    for make, name in ((make_zoo, "zoo"), (make_every_variant, "variants")):
        (work / name).mkdir()
        make(work / name)
    wrong = []
    for cpu in root.FEATURES:
        wrong += compare_device(folder, work, "zoo", "cpu", cpu)
    for engine in engines_of(folder, work):
        if engine["problem"] is not None:
            print(f"{engine['package']} does not run there: {engine['problem']}")
        for device in list(engine["devices"])[:1]:
            for cpu in root.FEATURES if device == "cpu" else ["cortex-a76"]:
                wrong += compare_device(folder, work, "variants", device, cpu)
    return wrong


def engines_of(folder, work):
    """The engines that `offramp doctor` finds in the root."""
    told = subprocess.run(
        **root.enter(folder, work, "python3", "-m", "offramp", "doctor", "--json"), stdout=subprocess.PIPE
    )
    return json.loads(told.stdout)["engines"]


def compare_device(folder, work, bundles, device, cpu):
    """Compare the answers of a folder of bundles on a device there with those of ONNX Runtime here, and print them."""
    print(f"\n{device} on a {cpu}: the largest difference of a score")
    files = {name: work / f"{bundles}.{name}.json" for name in ("reference", "here", "there")}
    if not files["reference"].exists():
        answer_here(work / bundles, "cpu", files["reference"], None)
    answer_here(work / bundles, device, files["here"], files["reference"])
    files["there"].unlink(missing_ok=True)
    script = f"{INSIDE}/tests/arm/answers.py"
    inside = [f"/tmp/{path.name}" for path in (work / bundles, files["there"], files["reference"])]
    done = subprocess.run(**root.enter(folder, work, "python3", script, inside[0], device, *inside[1:], cpu=cpu))
    if done.returncode:
        return [f"{device} on a {cpu} ended with {done.returncode}"]
    reference, here, there = (answers.read(file) for file in files.values())
    return [line for key in reference for line in judge(key, device, cpu, reference[key], here[key], there[key])]


def judge(key, device, cpu, reference, here, there):
    """Print how a variant did; returns a sentence if it differs, or if only this machine runs it."""
    if there.problem:
        print(f"  {key}: refused: {there.problem}")
        is_known = here.problem or (device, there.precision) in REFUSALS
        return [] if is_known else [f"{key} on {device} of a {cpu}: {there.problem}"]
    apart, differences = answers.compare(reference, there)
    print(f"  {key}: {apart:.1e} {', '.join(differences)}")
    return [f"{key} on {device} of a {cpu}: {', '.join(differences)}"] if differences else []


def answer_here(bundles, device, out, reference):
    """Write the answers of this machine. It has a process of its own, which engines may end."""
    words = [answers.__file__, bundles, device, out, *([reference] if reference else [])]
    subprocess.run([sys.executable, *map(str, words)], check=True)


def make_zoo(folder):
    """The zoo in float32, some of it in int8."""
    from offramp.export import export, quantize
    from offramp.tests.zoo import networks

    for name, entry in networks.ZOO.items():
        path = folder / f"{name}.offramp"
        export(networks.build(entry), entry.draw(3, 0), path, **entry.options)
        if name in QUANTIZED:
            quantize(path, entry.draw(100, 5))
        np.savez(path.with_suffix(".npz"), *entry.draw(64, 7))


def make_every_variant(folder):
    """A network in each kind of variant that there is."""
    import torch

    from offramp.export import add_pruned, export, gate, keep, quantize
    from offramp.tests.zoo import few_digits

    path, (x, y) = folder / "digits.offramp", few_digits.training()
    export(few_digits.network(), x[:4], path)
    quantize(path, x)
    quantize(path, to="fp16")
    keep(path, [0, 2])
    gate(path, few_digits.samples(600, 7))
    add_pruned(few_digits.network(), [(torch.from_numpy(x), torch.from_numpy(y))], path, macs=0.6, epochs=0)
    np.savez(path.with_suffix(".npz"), few_digits.samples(64, 3)[0])
    for device in CONVERTED:
        add_builds(path, device)


def add_builds(path, device):
    """Convert every variant that an engine runs; a board has no converter."""
    from offramp.bundle import open_bundle
    from offramp.errors import OfframpError
    from offramp.runtime import build

    for variant in open_bundle(path).manifest.variants:
        try:
            build(path, device, variant=variant.name, into_bundle=True)
        except OfframpError as error:
            print(f"{variant.name} is not built for {device}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    sys.exit(main())
