"""Steps that are done once: again only where what they were made of has changed. An interrupted run goes on where it was."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import offramp
from offramp.devices import fingerprint
from offramp.files import hash_file, sha256, write_atomically

TITLE = 58
"""Times stand behind titles of at most so many characters."""

Report = Callable[[str, int, int], None]
"""Is told what is being done, how much is done, and how much there is."""


class Steps:
    """Steps one after another, each of which makes a file or a folder.

    What each was made of is kept as a sha256 beside it, with that of the steps before: where one changes, all later ones are done
    again. A step is noted when it has ended, so that one that was interrupted is done again.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file, self._key, self._reused = folder, folder / "steps.json", "", 0
        self._done: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def do(self, title: str, makes: Path, work: Callable[[Report], Any], *made_of: Any) -> None:
        """Do a step, unless it is done already, and say how long it took.

        Args:
            title: says what is done.
            makes: the file or folder that it makes.
            work: does it.
            made_of: what it depends on besides the steps before; of a file its content counts.
        """
        facts = [hash_file(fact) if isinstance(fact, Path) else repr(fact) for fact in made_of]
        self._key, name = sha256(json.dumps([self._key, *facts]).encode()), str(makes.relative_to(self._folder))
        if makes.exists() and self._done.get(name) == self._key:
            print(f"{title:{TITLE}}  done before", flush=True)
            return
        if self._done.pop(name, None):
            self._note()
        for stale in set(self._folder.glob("*.unfinished")) - {self.unfinished}:
            stale.unlink()
        start = time.monotonic()
        with self._showing(title) as report:
            work(report)
        print(f"  {time.monotonic() - start:5.1f} s", flush=True)
        self.unfinished.unlink(missing_ok=True)
        self._done[name] = self._key
        self._note()

    @contextmanager
    def _showing(self, title: str) -> Iterator[Report]:
        """Show a step while it is done: as a bar in a terminal, else its title alone."""
        console = Console(stderr=True)
        if not console.is_terminal:
            print(f"{title:{TITLE}}", end="", flush=True)
            yield lambda what, done, total: None
            return
        columns = TextColumn(f"{title:{TITLE}}"), BarColumn(10), TimeElapsedColumn(), TextColumn("{task.description}")
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task("", total=None)
            yield lambda what, done, total: bars.update(bar, description=what, completed=done, total=total)
        print(f"{title:{TITLE}}", end="")

    @property
    def unfinished(self) -> Path:
        """A file of the step that is being done, in which it may keep what it goes on from when it was interrupted."""
        return self._folder / f"{self._key[:12]}.unfinished"

    def _note(self) -> None:
        write_atomically(self._file, json.dumps(self._done, indent=1).encode())


def list_sources() -> list[Path]:
    """Return the files of Python that offramp consists of."""
    root = Path(offramp.__file__).parent
    folders = [folder.parent for folder in root.glob("*/__init__.py")]
    return sorted([*root.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def describe_machine() -> dict[str, str | None]:
    """Return what of this machine decides how long a network takes."""
    fields = fingerprint(packages=("onnxruntime",))
    return {name: fields.get(name) for name in ("soc", "module", "cores", "engine")}
