"""Fuzz the readers of strangers' files for as long as you like; the next run goes on where this one was (make fuzz).

    python tests/fuzzing/long.py [--seconds 600] [--keep .fuzz] [KIND ...]

Of each kind bytes are changed by atheris, led by which lines of ours they reach, and structures by hypothesis. What it has found
of use lies in KEEP/<kind>/, what fails in KEEP/failures/, from where it can be read again:

    python tests/fuzzing/long.py --again KEEP/failures/<kind>-<hash>

Each file gets 5 s and 500 MB. What is opened, written or started outside is a failure too.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["offramp"]):
    from offramp.tests.bundle.fuzz import Watch
    from offramp.tests.fuzzing.readers import READERS, Place

MOST_FILE_BYTES, MOST_TAKEN_MIB = 1 << 18, 500


def fuzz_bytes(kind, keep, seconds):
    """Change bytes of what was of use so far. atheris ends the process."""
    corpus = keep / kind
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "example").write_bytes(READERS[kind].example)
    check = watched(kind)
    base_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MOST_FILE_BYTES}",
        f"-rss_limit_mb={base_mib + MOST_TAKEN_MIB}",
        "-timeout=5",
        f"-artifact_prefix={keep / 'failures'}/{kind}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


def fuzz_structures(kind, keep, seconds):
    """Change structures, first those that failed before."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis.database import DirectoryBasedExampleDatabase

    from offramp.tests.fuzzing.structures import STRUCTURES

    check, end, count = watched(kind), time.monotonic() + seconds, 0
    database = DirectoryBasedExampleDatabase(keep / "hypothesis")
    often = settings(max_examples=1000, deadline=None, database=database, suppress_health_check=list(HealthCheck))

    @often
    @given(STRUCTURES[kind])
    def structures(content):
        nonlocal count
        count += 1
        try:
            check(content)
        except BaseException:
            (keep / "failures" / f"{kind}-structure").write_bytes(content)
            raise

    while time.monotonic() < end:
        structures()
    print(f"{kind}: {count} structures", flush=True)


def watched(kind):
    """Return the check of a kind, which fails for what is opened or written outside, too."""
    place, watch = Place(kind), Watch(may_write_bundle=True)

    def check(content):
        with watch.of(place.folder):
            was_read = place.check(content)
        assert not watch.strange, watch.strange
        return was_read

    return check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=list(READERS))
    parser.add_argument(
        "--seconds", type=int, default=600, help="for each kind, half for bytes and half for structures"
    )
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"))
    parser.add_argument("--again", type=Path)
    parser.add_argument("--one", choices=["bytes", "structures"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    (options.keep / "failures").mkdir(parents=True, exist_ok=True)
    if options.again is not None:
        print("read" if watched(options.again.name.partition("-")[0])(options.again.read_bytes()) else "refused")
    elif options.one is not None:
        {"bytes": fuzz_bytes, "structures": fuzz_structures}[options.one](
            options.kinds[0], options.keep, options.seconds
        )
    else:
        failed = []
        for kind in options.kinds:
            for one in ("bytes", "structures"):
                half = ["--seconds", str(options.seconds // 2), "--keep", str(options.keep), "--one", one]
                if subprocess.run([sys.executable, __file__, kind, *half]).returncode:
                    failed.append(f"{kind} by {one}")
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
