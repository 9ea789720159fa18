"""Every command that writes, killed at random moments, or short of disk, permission or files: never half, and the next run works.

    python tests/benchmarks/interruptions.py FOLDER --runs 300

Each run begins with the same files. A child of this process, which has imported everything, runs the command and is killed after
a random time; then what is there must be whole, old or new, and the same command must work, or say that its work is done.
`tests/test_interruptions.py` runs some.
"""

import argparse
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from offramp.bundle import check_bundle, encrypt, open_bundle, pack
from offramp.bundle.packed import is_packed
from offramp.cache import list_cache, read_build
from offramp.cli.app import exit_code_of
from offramp.errors import OfframpError
from offramp.runtime import Audit, load
from offramp.runtime.audit.states import find_states, read_state
from offramp.tests.helpers.briefly import brief_arguments
from offramp.tests.zoo.dense import write_onnx
from offramp.tests.zoo.two_networks import write_pair

NETWORK = """
import numpy as np
from offramp.tests.zoo import networks
def network(): return networks.build(networks.ZOO["plain"])
def data(): return networks.ZOO["plain"].draw(60, 0)[0], np.arange(60) % 5
"""
ARCHIVE = Path(__file__).parents[1] / "bundle/archive/v0.1-dense.offramp"
OPENVINO = "openvino:CPU"
PRUNE = (
    "prune {f}/net.py:network -o {f}/plain.offramp --macs 0.7 --round-to 1 --epochs 1 --batch 20 --data {f}/net.py:data"
)
IMPORTED = "onnxruntime", "offramp.calibrate", "offramp.export", "cProfile", "pstats", "encodings.cp437", "filecmp"
"""What is imported once for all children. The last ones are Python's own, which may lie where nobody may not read."""

NOBODY, FEW_FILES, MOST_CHARACTERS = 65534, 32, 600

Work = Callable[[Path], object]
Result = TypeVar("Result")


def turn(path: Path) -> bytes:
    """Return what a file holds, with every byte turned."""
    return bytes(255 - byte for byte in path.read_bytes())


def audit(folder: Path) -> None:
    """Let a network audit itself and keep its counts."""
    options = Audit(share=1.0, in_call=True, state=folder / "state")
    with load(folder / "dense.offramp", point="default-early", audit=options) as net:
        for x in np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32):
            net(x)


COMMANDS: dict[str, str | Work] = {
    "export": "export {f}/dense.onnx -o {f}/new.offramp",
    "export again": "export {f}/other.onnx -o {f}/dense.offramp",
    "export beside": "export {f}/other.onnx -o {f}/dense.offramp --beside other",
    "keep": "keep {f}/dense.offramp --exits 0,-1 --name two",
    "quantize": "quantize {f}/dense.offramp --data {f}/x.npz --name eight",
    "gate": "gate {f}/dense.offramp --data {f}/x.npz --name sure",
    "prune": PRUNE,
    "cascade": "cascade {f}/small.onnx {f}/large.onnx -o {f}/both.offramp --shape 16",
    "fuse": "fuse {f}/dense.offramp -o {f}/fused.onnx --thresholds 0.5,0.5",
    "calibrate": "calibrate {f}/dense.offramp {f}/x.npz --max-drop 0.5 --variant fp32",
    "build": f"build {{f}}/dense.offramp --device {OPENVINO}",
    "build into": f"build {{f}}/dense.offramp --device {OPENVINO} --into-bundle",
    "pack": lambda folder: pack(folder / "dense.offramp", folder / "dense.zip"),
    "encrypt": lambda folder: encrypt(folder / "dense.offramp", folder / "secret.offramp", turn),
    "cache clean": "cache clean",
    "audit": audit,
}


def prepare(folder: Path) -> None:
    """Write the files with which each run begins."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(NETWORK)
    shutil.copytree(ARCHIVE, folder / "dense.offramp")
    write_onnx(folder / "dense.onnx")
    write_onnx(folder / "other.onnx", seed=1)
    write_pair(folder / "pair.offramp")
    shutil.rmtree(folder / "pair.offramp")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 16)).astype(np.float32)
    with load(folder / "dense.offramp") as net:
        y = net.every_exit(x).label[:, -1]
    wrong = rng.random(len(y)) < 0.1
    np.savez(folder / "x.npz", x=x, y=np.where(wrong, (y + 1) % 5, y))
    pack(folder / "dense.offramp", folder / "dense.zip")
    audit(folder)
    with_home(folder, lambda: run_line(COMMANDS["build"], folder))


def with_home(folder: Path, work: Callable[[], Result]) -> Result:
    """Do some work whose cache and temporary files lie in a folder."""
    os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), TMPDIR=str(folder / "tmp"), HOME=str(folder))
    (folder / "tmp").mkdir(exist_ok=True)
    import tempfile

    tempfile.tempdir = None
    return work()


def run_line(line: str | Work, folder: Path) -> int:
    """Run a command; return its exit code."""
    if isinstance(line, str):
        return exit_code_of(brief_arguments([word.format(f=folder) for word in line.split()]))
    try:
        line(folder)
    except OfframpError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def start(folder: Path, line: str | Work, limit: Callable[[], object] = lambda: None) -> int:
    """Run a command in a child; return its process id. What it says goes to files outside the folder."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder.with_name(f"{folder.name}.{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = with_home(folder, lambda: (limit(), run_line(line, folder))[1])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(pid: int) -> int:
    """Return the exit code of a child, minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(folder: Path, old: Path) -> str:
    """See that all that lies in a folder is whole; return what there is more than in the folder that it was copied from."""
    for path in folder.glob("*.offramp"):
        if not (path / "manifest.json").exists():  # a first export that was killed
            assert not (old / path.name).exists() and not any(file.is_file() for file in path.glob("[!.]*")), path
            continue
        bundle = check_bundle(path)
        for calibration in bundle.calibrations():
            bundle.read_calibration(calibration)
        if (old / path.name).exists() and bundle.manifest != open_bundle(old / path.name).manifest:
            assert len(list((path / "variants").glob("[!.]*"))) == len({v.folder for v in bundle.manifest.variants})
    for path in folder.glob("*.zip"):
        assert is_packed(path) and check_bundle(path)
    for path in folder.glob("*.onnx"):
        import onnxruntime

        onnxruntime.InferenceSession(path)
    for entry in list_cache():
        place = Path(os.environ["XDG_CACHE_HOME"]) / "offramp/engines" / entry.folder
        assert read_build(place / "entry.json", place / "built", entry.entry.key)[0] is not None
    for path in find_states(folder / "state") if (folder / "state").exists() else ():
        assert read_state(path)
    left = [path for path in folder.rglob("*") if path.name.startswith(".new-") or path.name.endswith(".part")]
    return ", ".join(sorted({path.parent.relative_to(folder).as_posix() for path in left}))


def is_clear(text: str) -> bool:
    """Tell whether what a command said is one error in one line, and no fault of offramp's."""
    errors = [line for line in text.splitlines() if line.startswith("Error: ")]
    return (
        len(errors) == 1 and len(errors[0]) <= MOST_CHARACTERS and "a fault in" not in text and "Traceback" not in text
    )


def become_nobody() -> None:
    """Take the rights to write away from this process."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def limits_of(rng: random.Random) -> dict[str, Callable[[], object]]:
    """Return what a child may be short of."""
    most = int(10 ** rng.uniform(3.3, 4.7))  # what it says fits into the smallest

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    few: dict[str, Callable[[], object]] = {
        "disk": fill,
        "files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES)),
    }
    return few | ({"permission": become_nobody} if os.geteuid() == 0 else {})


def interrupt(
    template: Path, place: Path, name: str, rng: random.Random, lasts_s: float, how: str
) -> dict[str, object]:
    """Run a command once, let it be interrupted, check what is there, and run it again; return what happened."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)
    line, said = COMMANDS[name], place.with_name(f"{place.name}.err")
    if how == "kill":
        pid = start(place, line)
        time.sleep(rng.uniform(0, lasts_s))
        os.kill(pid, signal.SIGKILL)
        code = finish(pid)
        problem = None
    else:
        for above in (place, *place.parents):
            if above.stat().st_uid == os.geteuid() and len(above.parts) > 2:
                above.chmod(0o755)  # so that nobody can look, and write nothing
        code = finish(start(place, line, limits_of(rng)[how]))
        text = said.read_text()
        problem = None if code == 0 or (code in (2, 3, 4, 5) and is_clear(text)) else text[-2000:]
    left, again_s = None, 0.0
    try:
        left = with_home(place, lambda: check(place, template))
        begun = time.monotonic()
        again = finish(start(place, line))
        again_s = time.monotonic() - begun if again == 0 else 0.0
        is_done = any(words in said.read_text() for words in ("already has a variant", " is there. Name a new folder"))
        if again != 0 and not is_done:
            problem = f"the next run: {again} {said.read_text()[-2000:]}"
        with_home(place, lambda: check(place, template))
    except Exception as error:
        problem = f"{problem or ''} {type(error).__name__}: {error}"
    return {"command": name, "how": how, "code": code, "left": left, "again_s": again_s, "problem": problem}


def run_all(folder: Path, runs: int, *, names: list[str], hows: list[str], seed: int = 0) -> list[dict[str, object]]:
    """Interrupt commands so many times in all; return what happened each time."""
    template, place, rng = folder / "template", folder / "work", random.Random(seed)
    if not template.exists():
        assert finish(start_preparing(template)) == 0
    lasts_s: dict[str, float] = {}
    results: list[dict[str, object]] = []
    for k in range(runs):
        name, how = names[k % len(names)], hows[k // len(names) % len(hows)]
        if name not in lasts_s and how == "kill":
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(template, place, symlinks=True)
            begun = time.monotonic()
            finish(start(place, COMMANDS[name]))
            lasts_s[name] = time.monotonic() - begun
        results.append(interrupt(template, place, name, rng, lasts_s.get(name, 0.0), how))
        again_s = float(str(results[-1]["again_s"]))
        lasts_s[name] = again_s or lasts_s.get(name, 0.0)  # the machine may do other work, too
        if results[-1]["problem"]:
            print(json.dumps(results[-1]), flush=True)
    return results


def start_preparing(template: Path) -> int:
    """Prepare the files in a child, since engines that have started do not live on in children."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            prepare(template)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def main() -> None:
    """Read the arguments, interrupt, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--how", default="kill", help="kill, disk, files, permission; several with commas")
    parser.add_argument("--commands", help="some of the commands, with commas; all by default")
    options = parser.parse_args()
    for module in IMPORTED:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)
    names = options.commands.split(",") if options.commands else list(COMMANDS)
    results = run_all(options.folder, options.runs, names=names, hows=options.how.split(","), seed=options.seed)
    for name in names:
        mine = [result for result in results if result["command"] == name]
        codes, left = Counter(str(r["code"]) for r in mine), Counter(str(r["left"]) for r in mine if r["left"])
        problems = sum(bool(result["problem"]) for result in mine)
        print(f"{name:14} {len(mine):4} runs  exit codes {dict(codes)}  left {dict(left)}  problems {problems}")
    sys.exit(any(result["problem"] for result in results))


if __name__ == "__main__":
    main()
