"""Thousands of damaged and forged bundles: each is refused, fails `verify`, or answers as before. None crashes, hangs or lies.

    python tests/bundle/fuzz.py [--count 4000] [--first 0] [--seed 0] [KIND ...]

    bits      bits flipped in any file
    refitted  bytes changed in a graph, weights or golden samples, with size and sha256 in the manifest to fit
    json      values of the manifest or the calibration removed, replaced, or moved elsewhere; or the text itself damaged
    swapped   files of stages, static networks, weights and golden samples exchanged, with hashes to fit
    replaced  a file or folder is a link, a pipe, a folder or gigabytes of nothing; arrays, builds, calibrations that do not fit

Each gets 5 s of the processor's time and 500 MB. A refusal is one message of at most 600 characters. Nothing is opened but
the bundle, the cache, what offramp and Python are made of, and what tells of the machine; nothing is written but the cache.

A mutation is made by its number and the seed alone, so it can be made again: fuzz(kind, 1, seed, first=number).
`test_fuzz.py` runs a few of each kind in `make test`.

A bundle is `unseen` if a quantised variant's file was changed, its hash refitted, and only inputs other than the golden samples
show it: three samples do not reach every weight, and logits may differ by a tenth of the largest. Who refits hashes can refit
golden samples too, so a bundle alone cannot tell. These are listed. Of fp32, and with hashes as they were, they are `wrong`.
"""

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from offramp.bundle import check_bundle, read_calibration
from offramp.cache import cache_folder
from offramp.cli.commands.inspect import inspect
from offramp.errors import OfframpError
from offramp.runtime import load, load_static, load_uncalibrated, verify

ARCHIVE = Path(__file__).parent / "archive/v0.1-dense.offramp"
LIMIT_CPU_S, LIMIT_S, LIMIT_BYTES, LIMIT_TAKEN_BYTES = 5, 900, 8 << 30, 500_000_000
"""A busy machine makes a process wait, so what counts is the processor's time; by the clock only what waits for ever hangs."""
SCORE_ERROR = {"fp32": 0.01, "int8": 0.15}
"""How far a score may be off, if `verify` passes, on inputs that it does not see."""

STRANGE: list[object] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    0.5,
    -1e308,
    "",
    "x",
    "cpu",
    "a\0b",
    "\x1b[2J",
    "../x",
    [],
    {},
    [[]],
    "é" * 1000,
]
OUTSIDE = "outside.bin"
"""A file beside the bundles, to which links lead."""

BAD = ("wrong", "crash", "hang", "outside")
REFITS = ("refitted", "swapped")


def files_of(bundle):
    return sorted(path for path in (bundle / "variants").rglob("*") if path.is_file() and path.stat().st_size)


def flip_bits(bundle, rng):
    """Flip a few bits in any file."""
    path = rng.choice([*files_of(bundle), *bundle.rglob("*.json")])
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def change_and_refit(bundle, rng):
    """Change bytes of a file: flipped, removed, repeated or drawn anew."""
    path = rng.choice(files_of(bundle))
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([1, 1, 4, 100]))
    match rng.choice(["flip", "drop", "repeat", "draw"]):
        case "flip":
            content[start] ^= 1 << rng.randrange(8)
        case "drop":
            del content[start:end]
        case "repeat":
            content[start:start] = content[start:end]
        case _:
            content[start:end] = rng.randbytes(end - start)
    path.write_bytes(content)
    refit(bundle)


def change_json(bundle, rng):
    """Change a value of a JSON file, or its text."""
    path = rng.choice([bundle / "manifest.json", bundle / "manifest.json", bundle / "calibrations/default.json"])
    if rng.random() < 0.2:
        text = bytearray(path.read_bytes())
        start = rng.randrange(len(text))
        text[start : start + rng.choice([0, 1, 10])] = rng.choice(
            [b"", b"{", b'"', b"[", b"\xff", b"1e999", rng.randbytes(3)]
        )
        path.write_bytes(text)
        return
    document = json.loads(path.read_text())
    for _ in range(rng.choice([1, 1, 2])):
        spots = list(walk(document))
        holder, key = rng.choice(spots)
        match rng.choice(["remove", "strange", "move", "nudge"]):
            case "remove":
                del holder[key]
            case "strange":
                holder[key] = rng.choice(STRANGE)
            case "move":
                other, other_key = rng.choice(spots)
                holder[key] = json.loads(json.dumps(other[other_key]))
            case _ if isinstance(holder[key], (int, float)):
                holder[key] += rng.choice([-1, 1, 1000])
            case _:
                holder[key] = [holder[key], holder[key]]
    path.write_text(json.dumps(document))


def swap_files(bundle, rng):
    """Exchange two files, or put one in the place of another."""
    ours, theirs = rng.sample(files_of(bundle), 2)
    if rng.random() < 0.7:  # of one kind, which fit each other best
        like = [path for path in files_of(bundle) if path.suffix == ours.suffix and path != ours]
        theirs = rng.choice(like or [theirs])
    first, second = ours.read_bytes(), theirs.read_bytes()
    ours.write_bytes(second)
    if rng.random() < 0.5:
        theirs.write_bytes(first)
    refit(bundle)


def walk(value):
    """Yield every place of a JSON document that holds a value, as (container, key)."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from walk(value[key])


def refit(bundle):
    """Write the sizes and hashes of all files into the manifest, as somebody hostile would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for variant in manifest["variants"]:
        for name in variant["files"]:
            content = (bundle / variant["folder"] / name).read_bytes()
            variant["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def replace_entry(bundle, rng):
    """Put something else in the place of a file or a folder, or add what does not fit."""
    variant = json.loads((bundle / "manifest.json").read_text())["variants"][rng.randrange(2)]
    entries = [bundle / "manifest.json", bundle / "calibrations", *bundle.glob("variants/*"), *files_of(bundle)]
    path = rng.choice(entries)
    match rng.choice(["link", "link", "pipe", "folder", "sparse", "arrays", "build", "calibrations"]):
        case "arrays":
            replace_arrays(bundle / variant["folder"] / variant["golden"], rng)
            refit(bundle)
        case "build":
            folder = bundle / "engines" / rng.choice(["cpu", "tensorrt-0"]) / variant["name"]
            folder.mkdir(parents=True)
            (folder / "stage0.built").write_bytes(rng.randbytes(100))
            (folder / "stage0.built.json").write_bytes(rng.choice([b"{}", b"[" * 10**5, rng.randbytes(50)]))
        case "calibrations":
            content = (bundle / "calibrations/default.json").read_bytes()
            for k in range(rng.choice([2, 600])):
                (bundle / f"calibrations/{k}.json").write_bytes(rng.choice([content, content[:-50], b""]))
        case "sparse":
            with rng.choice(files_of(bundle)).open("r+b") as file:
                file.truncate(rng.choice([5 << 30, 1 << 40]))
        case kind:
            remove(path)
            if kind == "link":
                path.symlink_to(
                    rng.choice([bundle.parent / OUTSIDE, path, bundle, "/dev/zero", "/proc/self/mem", bundle.parent])
                )
            else:
                path.mkdir() if kind == "folder" else os.mkfifo(path)


def replace_arrays(path, rng):
    """Write golden samples of which one array has another shape, dtype or content, is missing, or is packed."""
    arrays = dict(np.load(path))
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    arrays[name] = rng.choice(
        [
            array[:0],
            array[:1],
            array[..., None],
            array.astype(rng.choice(["f2", "i1", "U3", "c8", "f8"])),
            np.full_like(array, rng.choice([0, -1, 10**6])),
            np.full(array.shape, rng.choice([np.nan, np.inf, -1e300])),
            np.zeros((0,) * 32, array.dtype),
            np.asfortranarray(array),
            np.frombuffer(rng.randbytes(array.nbytes), array.dtype).reshape(array.shape),
        ]
    )
    if rng.random() < 0.2:
        del arrays[name]
    (np.savez_compressed if rng.random() < 0.2 else np.savez)(path, **arrays)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


KINDS = {
    "bits": flip_bits,
    "refitted": change_and_refit,
    "json": change_json,
    "swapped": swap_files,
    "replaced": replace_entry,
}


class Watch:
    """Notes what this process opens, writes and starts outside of the places that it may use.

    What engines open in code of their own is not seen.
    """

    WRITING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
    STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "ctypes.dlopen")
    OURS = Path(__file__).parents[2]

    BOARD = (
        *(os.devnull, "/usr/lib/os-release", "/etc/os-release"),
        *("/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel/status"),
    )

    def __init__(self, *, may_write_bundle=False):
        self.bundle, self.is_on, self.may_write_bundle = Path(), False, may_write_bundle
        self.strange: set[str] = set()
        ours = str(Path(__file__).parents[2])
        places = (sys.prefix, sys.base_prefix, *(each for each in sys.path if each), ours, "/proc", "/sys")
        self.read = tuple({os.path.realpath(place) for place in places})
        sys.addaudithook(self.note)

    def note(self, event, arguments):
        if not self.is_on:
            return
        if event in self.STARTING and arguments[0] is not None:  # None is this process itself
            self.strange.add(f"{event} {arguments[0]!r}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            self.look(event, arguments[0], writes=bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        elif event in self.WRITING:
            folder = f"/proc/self/fd/{arguments[-1]}" if isinstance(arguments[-1], int) and arguments[-1] > 0 else ""
            for each in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self.look(event, Path(folder, os.fsdecode(each)), writes=True)

    def look(self, event, path, *, writes):
        real = Path(os.path.realpath(os.fsdecode(path)))
        places = [
            os.path.realpath(cache_folder()),
            *([str(self.bundle)] if self.may_write_bundle or not writes else ()),
        ]
        places += () if writes else self.read
        is_private = any(part.startswith(("offramp.", "offramp-copies.")) for part in real.parts)
        if not is_private and str(real) not in self.BOARD and not any(map(real.is_relative_to, places)):
            self.strange.add(f"{event} {real}")

    @contextlib.contextmanager
    def of(self, bundle):
        """Watch the use of a bundle."""
        self.bundle, self.is_on = bundle.resolve(), True
        self.strange.clear()
        try:
            yield
        finally:
            self.is_on = False


def answer(bundle):
    """Return label and score of the chain and of every static network of each variant, by place in the manifest."""
    x = np.random.default_rng(7).standard_normal((24, 16)).astype(np.float32)
    found = []
    for variant in bundle.manifest.variants[:2]:
        with load_uncalibrated(bundle, variant=variant.name) as net:
            every = net.every_exit(x)
        labels, scores = [every.label], [every.score]
        for k in range(len(variant.exits)):
            with load_static(bundle, variant=variant.name, exit=k) as net:
                every = net.every_exit(x)
            labels.append(every.label)
            scores.append(every.score)
        found.append((np.concatenate(labels, 1), np.concatenate(scores, 1)))
    return found


def describe(path):
    """Show a bundle as `offramp inspect` does, both ways."""
    for form in ([], ["--json"]):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            inspect.main([str(path), *form], standalone_mode=False)
        if not printed.getvalue().replace("\n", "").isprintable():
            raise ValueError(f"inspect prints control characters: {printed.getvalue()!r}")


def judge(path, expected):
    """Use a bundle in every way; return `refused`, `failed` (by verify), `same`, `unseen` or `wrong`."""
    try:
        bundle = check_bundle(path)
        for file in bundle.calibrations():
            read_calibration(file)
        describe(path)
        load(bundle).close()
        found = answer(bundle)
        if not all(verification.passed for verification in verify(bundle)):
            return "failed"
    except OfframpError as error:
        message = str(error)
        return (
            "refused"
            if error.exit_code > 1 and len(message) <= 600 and message.replace("\n", "").isprintable()
            else "wrong"
        )
    verdict = "same"
    for (label, score), (right_label, right_score), precision in zip(found, expected, SCORE_ERROR, strict=False):
        if score.shape != right_score.shape:
            continue  # another network that verifies itself: not the one that was changed
        sure = right_score > 0.6
        if np.abs(score - right_score).max() > SCORE_ERROR[precision] or (label != right_label)[sure].any():
            if precision == "fp32":
                return "wrong"
            verdict = "unseen"
    return verdict


def work(kind, seed, numbers, folder, connection):
    """Judge mutations one after another; tell each verdict at once, since a mutation may end the process."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    expected = answer(check_bundle(ARCHIVE))
    Path(folder, OUTSIDE).write_bytes(b"not part of the bundle")
    watch, most = Watch(), used_bytes()
    for number in numbers:
        path = Path(folder, f"{number}.offramp")
        shutil.copytree(ARCHIVE, path)
        KINDS[kind](path, random.Random(f"{kind} {seed} {number}"))
        signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_S)  # each ends the process
        signal.alarm(LIMIT_S)
        try:
            with watch.of(path):
                verdict, reason = judge(path, expected), ""
            if verdict == "unseen" and kind not in REFITS:
                verdict = "wrong"
            if watch.strange:
                verdict, reason = "outside", f"opened {', '.join(sorted(watch.strange))}"[:300]
            if used_bytes() > most + LIMIT_TAKEN_BYTES:
                verdict, reason, most = "crash", f"took {used_bytes() - most >> 20} MiB", used_bytes()
        except Exception as error:
            verdict, reason = "crash", f"{type(error).__name__}: {error}"[:300]
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        shutil.rmtree(path)
        connection.send((number, verdict, reason))
    connection.close()


def used_bytes():
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(kind, count, seed=0, *, first=0):
    """Judge so many mutations of a kind.

    Returns:
        How many there were of each verdict, and the numbers of those that are to be looked at, with their reasons.
    """
    verdicts: Counter[str] = Counter()
    bad: list[tuple[int, str, str]] = []
    number, end = first, first + count
    with tempfile.TemporaryDirectory() as folder:
        while number < end:
            judged, code = judge_in_a_process(kind, seed, range(number, end), folder)
            if number + len(judged) < end:
                verdict = "hang" if code in (-signal.SIGALRM, -signal.SIGPROF) else "crash"
                judged.append((number + len(judged), verdict, f"the process ended with {code}"))
            verdicts.update(verdict for _, verdict, _ in judged)
            bad += [each for each in judged if each[1] in ("unseen", *BAD)]
            number += len(judged)
    return verdicts, bad


def judge_in_a_process(kind, seed, numbers, folder):
    """Judge mutations until one ends the process; return the verdicts and the process's exit code."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(kind, seed, numbers, folder, sending))
    worker.start()
    sending.close()
    judged = []
    with contextlib.suppress(EOFError):
        while True:
            judged.append(receiving.recv())
    worker.join()
    return judged, worker.exitcode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=list(KINDS))
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    columns = ("refused", "failed", "same", "unseen", *BAD)
    print("kind      " + "".join(f"{column:>9}" for column in columns), flush=True)
    found = []
    for kind in options.kinds or list(KINDS):
        verdicts, bad = fuzz(kind, options.count, options.seed, first=options.first)
        print(f"{kind:10}" + "".join(f"{verdicts[column]:9}" for column in columns), flush=True)
        found += [(kind, *each) for each in bad]
    for each in found:
        print(*each)
    sys.exit(any(verdict in BAD for _, _, verdict, _ in found))


if __name__ == "__main__":
    main()
