"""The command line: each command parses, calls one public function, and prints. Results go to stdout, messages to stderr.

Exit codes: 0 done, also if the answer is not to use early exit; 1 a fault in offramp; 2 an argument that cannot be used; 3 the
target is not met, a check failed, or nothing could be measured; 4 a package, device, permission, memory or disk space is missing,
or a device cannot run a stage; 5 a network, samples or a file that cannot be used as they are, or that are not signed as a policy
demands; 130 interrupted.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

from .. import __version__
from ..errors import OfframpError
from .commands.attach import attach
from .commands.audit import audit
from .commands.bench import bench
from .commands.build import build
from .commands.cache import cache
from .commands.calibrate import calibrate
from .commands.cascade import cascade
from .commands.compare import compare
from .commands.doctor import doctor
from .commands.energy import energy
from .commands.export import export
from .commands.fuse import fuse
from .commands.gate import gate
from .commands.go import go
from .commands.init import init
from .commands.inspect import inspect
from .commands.keep import keep
from .commands.pack import pack
from .commands.power import power
from .commands.prune import prune
from .commands.quantize import quantize
from .commands.report import report
from .commands.reuse import reuse
from .commands.run import run
from .commands.serve import serve
from .commands.sign import sign
from .commands.sweep import sweep
from .commands.top import top
from .commands.train import train
from .commands.upgrade import upgrade
from .commands.verify import verify
from .commands.worker import worker
from .completion import add_completion
from .output import note, results_alone, tell
from .schemas import add_json_schema
from .sections import SectionedGroup
from .verbosity import add_verbosity, volume_restored

MEMORY_FULL = "The memory is full. Give fewer or smaller samples, or a smaller network."


@click.group(
    cls=SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=__doc__.partition("\n\n")[2],
)
@click.version_option(__version__, prog_name="offramp")
def app() -> None:
    """Deploy early-exit networks on constrained hardware.

    Networks are named file.py:function or model.onnx. Samples are an .npz file (x, y), file.py:function that returns (x, y) or
    a DataLoader, or, for a bundle that takes images, a folder with one folder of images per class or a .csv file that lists
    images and labels.

    docs/concepts.md explains exit, stage, variant and operating point, docs/how-to/samples.md all kinds of samples.

    offramp COMMAND -h shows what a command takes, and an example.
    """


SECTIONS: dict[str, dict[click.Command, str]] = {
    "All steps from one file": {
        init: "Write a file with the steps from a network to its bundle.",
        go: "Run the steps of such a file that are not done yet.",
    },
    "Make a network ready": {
        attach: "Put exits on a torch network that has none.",
        train: "Train the exits of a network.",
        export: "Cut a network into stages, verify them, and write a bundle.",
        cascade: "Join networks that nobody trained together into one bundle.",
        prune: "Remove channels, fine-tune the rest, and add it to the bundle.",
        quantize: "Add a variant that computes in int8 or fp16.",
        keep: "Add a variant that has only some of the exits.",
        gate: "Add a variant whose scores are fitted to samples.",
        sweep: "Try many networks, and gather the best in one bundle.",
    },
    "Measure": {
        verify: "Replay golden samples on this device, and compare.",
        calibrate: "Find the operating points that meet a target on this device.",
        bench: "Compare early exit with static networks, on new samples.",
        compare: "Compare two bundles, or two calibrations of one.",
        report: "Write a calibration as one HTML page.",
        energy: "Measure what leaving at each exit costs in joules.",
        power: "Show the power of the board's rails, or measure a program.",
        reuse: "Find when a stream may give its last answer again.",
    },
    "Run": {
        run: "Run a bundle on samples, and print each answer.",
        serve: "Answer requests over HTTP (Open Inference Protocol).",
        top: "Show live what a product does.",
    },
    "Product and fleet": {
        build: "Compile stages for a device ahead.",
        pack: "Write a bundle as one file.",
        sign: "Sign a bundle, so that a board can tell who made it.",
        fuse: "Write one ONNX file that exits early without offramp.",
        worker: "Let this board work for the scheduler of a fleet.",
        audit: "Show what audits in the field have found.",
    },
    "Keep house": {
        doctor: "Show what this board is, and which engines and meters work.",
        inspect: "Check every file of a bundle, and show what is in it.",
        upgrade: "Rewrite a bundle of an older offramp to the present form.",
        cache: "List or remove compiled stages and unfinished calibrations.",
    },
}
"""The commands in the order of use, each by its line in the help, of at most 65 letters."""

for title, commands in SECTIONS.items():
    app.add_section(title, commands)
COMMANDS = tuple(command for commands in SECTIONS.values() for command in commands)
for command in COMMANDS:
    for each in getattr(command, "commands", {"": command}).values():
        add_json_schema(each)
        add_completion(each)
        add_verbosity(each)
    # These two print as they go, and start other programs.
    if command not in (power, top) and command.callback is not None:
        command.callback = results_alone()(command.callback)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    code = exit_code_of(arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it, or the disk is full: at its end Python would try again, and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


@volume_restored()
def exit_code_of(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code; messages go to stderr. Of a closed stream what is written is lost."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    warnings.showwarning = lambda message, *_: note(f"Note: {message}")
    try:
        code = app.main(arguments, prog_name="offramp", standalone_mode=False)
        sys.stdout.flush()
    except OfframpError as error:
        tell(f"Error: {error}")
        return error.exit_code
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        tell(" ".join(["Interrupted.", *map(str, cause.args if isinstance(cause, KeyboardInterrupt) else ())]))
        return 130
    except MemoryError:
        tell(f"Error: {MEMORY_FULL}")
        return 4
    except OSError as error:
        tell(f"Error: Cannot read or write {error.filename or 'the output'}: {error.strerror or error}.")
        return 4
    except Exception as error:
        if os.environ.get("OFFRAMP_TRACEBACK"):
            raise
        tell(
            f"Error: a fault in offramp. Please report it with the output of OFFRAMP_TRACEBACK=1: "
            f"{type(error).__name__}: {error}"
        )
        return 1
    return code if isinstance(code, int) else 0
