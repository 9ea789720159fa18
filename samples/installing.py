"""Run pip, and say in one line what it is doing, how much it has fetched, and how long it has taken.

    python samples/installing.py .venv/bin/pip install -c constraints.txt '.[export]'

Needs no package. A terminal shows one line that changes; a log gets one line for each large download and one at the end. If pip
fails, what it said last follows.
"""

import re
import subprocess
import sys
import threading
import time
from collections import deque

LARGE_MB = 20.0
"""A log names downloads of at least so much."""

LAST = 30
"""Lines of pip's that are shown if it fails."""

WIDTH = 78


class Watch:
    """What pip has done so far."""

    def __init__(self) -> None:
        self.start, self.packages, self.megabytes, self.doing = time.monotonic(), 0, 0.0, "looking for packages"
        self.is_terminal, self.ended = sys.stdout.isatty(), threading.Event()

    def hear(self, line: str) -> None:
        """Understand a line of pip's."""
        words = line.split()
        if line.startswith("Collecting "):
            self.packages += 1
            self.doing = f"looking for {words[1]}"
        elif fetched := re.match(
            r"\s*(?:Downloading|Using cached) (?:\S*/)?([^/\s-]+)-\S+ \(([\d.]+) ([kMG]B)\)", line
        ):
            size = float(fetched[2]) * {"kB": 1e-3, "MB": 1.0, "GB": 1e3}[fetched[3]]
            self.megabytes += size
            self.doing = f"downloading {fetched[1]}, {size:.0f} MB"
            if size >= LARGE_MB and not self.is_terminal:
                self.tell()
        elif line.startswith("Installing collected packages"):
            self.doing = f"installing {line.count(',') + 1} packages"
            if not self.is_terminal:
                self.tell()

    def tell(self) -> None:
        """Say what is being done."""
        minutes, seconds = divmod(round(time.monotonic() - self.start), 60)
        fetched = f"{self.packages} package{'s' * (self.packages != 1)}, {self.megabytes:.0f} MB"
        text = f"  {minutes}:{seconds:02d}  {fetched}; {self.doing}"
        if self.is_terminal:
            print(f"\r{text[:WIDTH]:{WIDTH}}", end="", flush=True)
        else:
            print(text, flush=True)

    def tick(self) -> None:
        """Say it again every second, while nothing new is heard."""
        while not self.ended.wait(1.0):
            self.tell()


def main(command: list[str]) -> int:
    """Run a command of pip's; return its exit code."""
    watch, last = Watch(), deque[str](maxlen=LAST)
    if watch.is_terminal:
        threading.Thread(target=watch.tick, daemon=True).start()
    command = [*command, "--progress-bar", "off", "--disable-pip-version-check"]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert pip.stdout is not None
    try:
        for line in pip.stdout:
            last.append(line)
            watch.hear(line)
        code = pip.wait()
    except KeyboardInterrupt:  # pip was interrupted too
        pip.wait()
        code = 130
    watch.ended.set()
    watch.doing = {0: "done", 130: "interrupted; the same command goes on"}.get(code, "pip failed:")
    watch.tell()
    print("\n" if watch.is_terminal else "", *(last if code not in (0, 130) else ()), sep="", end="", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
