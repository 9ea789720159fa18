"""Converters that want an environment of their own: where it is, how it is made, and how a stage is converted in it."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...errors import MissingError
from ...files import data_home

__all__ = ["CONVERT_S", "Converter"]

CONVERT_S = 3600.0
"""After this time a converter is taken to hang."""


class Converter(NamedTuple):
    """A script that runs by its path in the Python of an environment with a package that offramp itself cannot have.

    Attributes:
        package: the package.
        name: names the environment in the user's data folder, and as `OFFRAMP_RKNN_PYTHON` the variable that names another one.
        purpose: what it does: `Stages for Rockchip's NPUs are built`.
        recipe: how the environment is made; `{env}` and `{pip}` stand for its folder and its pip.
        script: reads a job as JSON from stdin and writes, in the folder where it runs, `reply.json` and what it made.
        product: the name of the file that it makes.
        mark: begins the lines of its errors.
    """

    package: str
    name: str
    purpose: str
    recipe: str
    script: Path
    product: str
    mark: str

    def find_python(self) -> Path:
        """Return the Python of the environment.

        Raises:
            MissingError: there is none; says how to make it.
        """
        named = os.environ.get(self._variable)
        # Links are not followed: an environment is known by the path of its Python.
        path = Path(named).absolute() if named else data_home() / f"offramp/{self.name}/bin/python"
        if not path.is_file():
            raise MissingError(
                f"{self.purpose} by {self.package}, in an environment of its own, and there is none at {path}. "
                f"{self.how_to_make(path)}",
                package=self.package,
                path=path,
            )
        return path

    @property
    def _variable(self) -> str:
        return f"OFFRAMP_{self.name.upper()}_PYTHON"

    def how_to_make(self, python: Path) -> str:
        """Say how to make the environment of a Python."""
        recipe = self.recipe.format(env=python.parents[1], pip=python.with_name("pip"))
        return f"{recipe}\nor let {self._variable} name the Python of another one."

    def convert(self, python: Path, job: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bytes, str]:
        """Run the converter.

        Args:
            python: the Python to run it with.
            job: what the script reads from stdin.
            folder: an empty folder for its files.

        Returns:
            The converter's reply, the file that it made (empty if the reply is an error), and what it printed.

        Raises:
            MissingError: the Python cannot be run, or the environment is incomplete.
        """
        log = folder / "log"
        # -I keeps offramp's modules from being found under names such as `cache`.
        command = [str(python), "-I", str(self.script)]
        with log.open("wb") as out:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=os.environ | {"TMPDIR": str(folder)},
                    start_new_session=True,
                )
            except OSError as error:
                raise MissingError(
                    f"{python} cannot be run: {error.strerror}. {self.how_to_make(python)}",
                    package=self.package,
                    path=python,
                ) from error
            with process:
                try:
                    process.communicate(json.dumps(job).encode(), timeout=CONVERT_S)
                except subprocess.TimeoutExpired:
                    return {"error": f"it was stopped after {CONVERT_S / 60:.0f} minutes"}, b"", ""
                finally:
                    if process.returncode is None:  # interrupted, or out of time; it may have children
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(process.pid, signal.SIGKILL)
        text = log.read_text(errors="replace")
        try:
            reply: dict[str, Any] = msgspec.json.decode((folder / "reply.json").read_bytes(), type=dict[str, Any])
            made = b"" if "error" in reply else (folder / self.product).read_bytes()
        except (OSError, msgspec.DecodeError):
            return {"error": self._explain_end(process.returncode, text)}, b"", text
        if reply.get("kind") == "missing":
            raise MissingError(
                f"The environment of {python} is incomplete: {reply['error']}. {self.how_to_make(python)}",
                package=self.package,
                path=python,
            )
        return reply, made, text

    def _explain_end(self, code: int, log: str) -> str:
        """Say how a converter ended that left no reply, with the last error in its log."""
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(self.mark)] or lines
        reason = f": {errors[-1]}" if errors else ""
        if code < 0:
            memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
            return f"it was ended by signal {-code}{memory}{reason}"
        return f"it ended with code {code}{reason}"
