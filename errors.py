"""Every error that offramp raises on purpose, and the exit code with which the command line ends on it.

OfframpError          1  the root; raised itself only for a fault of ours
  UsageError          2  an argument that cannot be used: unknown name, missing path, impossible combination
  TargetError         3  nothing meets the target, or what was found does not hold
  CheckError          3  a check of offramp's own failed: outputs that should agree differ
  MeasurementError    3  a measurement that says nothing: too short for its sensor, too many failed reads
  MissingError        4  a package, device, permission, memory or disk space is missing
    UnsupportedError  4  a device that is here cannot run a stage
  BundleError         5  a bundle or calibration is damaged, from another version, or no bundle at all
    OutdatedError     5  it was written by an older offramp whose form is not read any more
    TrustError        5  it is unsigned, altered, older than was accepted before, or signed with a key that is not trusted
  ModelError          5  a network that cannot be read, captured or cut
  DataError           5  samples that do not fit the network: shape, dtype, NaN, labels, none at all
"""

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

__all__ = [
    "AuditWarning",
    "BundleError",
    "CheckError",
    "DataError",
    "EngineWarning",
    "MeasurementError",
    "MeterWarning",
    "MissingError",
    "ModelError",
    "OfframpError",
    "OutdatedError",
    "PlaceWarning",
    "TargetError",
    "TrustError",
    "UncalibratedWarning",
    "UnsupportedError",
    "UsageError",
    "causes",
    "explain_source",
    "printable",
    "quoted",
    "require",
    "unknown_name",
]


MOST_CHARACTERS, MOST_IN_ERROR, MOST_QUOTED = 3000, 570, 120
"""The most characters of a text that is printed, of an error's message, and of a text that a message quotes from a file; where
the middle is left out, up to 30 more say so."""

_UNPRINTABLE = (
    "[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff]"
)
"""What steers a terminal, turns the direction of writing, or cannot be encoded; a line's end is none of these."""


def printable(text: object, most: int = MOST_CHARACTERS) -> str:
    r"""Return a text in which control characters are written as escapes, and whose middle is left out if it is long.

    Files of strangers reach people through messages: such a text must not steer a terminal or fill a log.

    Example:
        >>> from offramp.errors import printable
        >>> print(printable("\x1b[2Jempty"), printable("a" * 1000, most=8))
        \u001b[2Jempty aaaa...(992 characters)...aaaa
    """
    shown, half = str(text), most // 2
    if len(shown) <= most:
        shown = _escape(shown)
    if len(shown) > most:
        head, tail = _escape(shown[:half])[:half], _escape(shown[-half:])[-half:]
        shown = f"{head}...({len(shown) - 2 * half} characters)...{tail}"
    return shown


def _escape(text: str) -> str:
    return re.sub(_UNPRINTABLE, lambda found: f"\\u{ord(found[0]):04x}", text)


def quoted(text: object, most: int = MOST_QUOTED) -> str:
    r"""Return a text for a message or a table, `printable`, short, and on one line.

    Example:
        >>> from offramp.errors import quoted
        >>> print(quoted("9.1\nError: none"))
        9.1\nError: none
    """
    return printable(str(text).replace("\n", "\\n"), most)


class OfframpError(Exception):
    """Root of the hierarchy.

    The message is for people: `printable`, whatever the files hold that it speaks of. Programs read the attributes, which are
    None or empty if they do not apply.

    Attributes:
        exit_code: the exit code with which the command line ends.
        most_characters: the middle of a longer message is left out.
        device: the device that failed or is missing, such as `cuda:0`.
        stage: the stage that cannot run, by its file: `stage1.onnx`.
        nodes: names of the graph's nodes that cannot run or be cut.
        package: the missing package, by the name it is imported or installed by: `onnx`, `rknn-toolkit2`.
        extra: the extra of offramp that installs it: `pip install 'offramp[extra]'`.
        path: the file or folder that is wrong.

    Example:
        >>> from offramp.errors import MissingError, require
        >>> try:
        ...     require("no_such_package", extra="export")
        ... except MissingError as error:
        ...     print(error.package, error.extra, error.exit_code)
        no_such_package export 4
    """

    exit_code = 1
    most_characters = MOST_IN_ERROR

    def __init__(
        self,
        message: str,
        *,
        device: str | None = None,
        stage: str | None = None,
        nodes: Sequence[str] = (),
        package: str | None = None,
        extra: str | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(printable(message, self.most_characters))
        self.device, self.stage, self.nodes = device, stage, tuple(nodes)
        self.package, self.extra = package, extra
        self.path = None if path is None else Path(path)


class UsageError(OfframpError):
    """An argument that cannot be used."""

    exit_code = 2


class TargetError(OfframpError):
    """No operating point meets the target."""

    exit_code = 3


class CheckError(OfframpError):
    """Outputs that should agree differ."""

    exit_code = 3


class MeasurementError(OfframpError):
    """A measurement that says nothing: too short for its sensor, or with too many failed reads."""

    exit_code = 3


class MissingError(OfframpError):
    """A package, device, permission, memory or disk space is missing."""

    exit_code = 4
    most_characters = MOST_CHARACTERS
    """It may say where sensors were looked for, and its remedy may be several commands."""


class UnsupportedError(MissingError):
    """A device is here but cannot run a stage: it does not know an operator, a shape or a precision."""

    most_characters = MOST_IN_ERROR


class BundleError(OfframpError):
    """A bundle or calibration that cannot be trusted."""

    exit_code = 5


class OutdatedError(BundleError):
    """A bundle or calibration of an older schema than this version reads."""


class TrustError(BundleError):
    """A bundle, or a calibration or build in it, that is not signed as a policy demands; see docs/how-to/sign.md."""


class ModelError(OfframpError):
    """A network that cannot be read, captured or cut."""

    exit_code = 5


class DataError(OfframpError):
    """Samples that do not fit the network."""

    exit_code = 5


DISTRIBUTIONS = {
    **{"PIL": "pillow", "yaml": "PyYAML", "MNN": "mnn", "onnx_ir": "onnx-ir", "torch_pruning": "torch-pruning"},
    **{
        "ai_edge_litert": "ai-edge-litert",
        "onnxruntime_qnn": "onnxruntime-qnn",
        "prometheus_client": "prometheus-client",
    },
    **{"opentelemetry": "opentelemetry-sdk", "pynvml": "nvidia-ml-py"},
}
"""By a package's import name, the name by which pip knows it, where that is another."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: the package's import name.
        extra: the extra of offramp that installs it.

    Raises:
        MissingError: the package is not installed, or its own import fails. The message has the install line or the reason.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # imports fail in many ways: OpenVINO's does for a user without a home
        package = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise MissingError(
                f"The package {DISTRIBUTIONS.get(package, package)} is not installed. Install it with: pip install "
                f"'offramp[{extra}]'",
                package=package,
                extra=extra,
            ) from error
        raise MissingError(
            f"The package {module} is installed but does not import: {error}", package=module, extra=extra
        ) from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, the one that it was raised from, and so on to the deepest."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise e from e` makes an error its own cause
        seen.add(id(error))
        yield error
        error = error.__cause__


def unknown_name(
    kind: str, name: str, known: Iterable[str], *, path: str | os.PathLike[str] | None = None
) -> UsageError:
    """Make the error for an unknown name, which proposes the nearest known one.

    Args:
        kind: what has the name: `variant`.
        name: the unknown name.
        known: the names that there are.
        path: the file or folder in which the name was looked up.
    """
    import difflib

    name, names = quoted(name), [quoted(other) for other in known]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.", path=path)


def explain_source(source: str | os.PathLike[str]) -> str:
    """Return what a path or name is, where another thing was expected, as a sentence behind a space; empty if that is not known.

    Example:
        >>> from offramp.errors import explain_source
        >>> explain_source("net.py:data"), explain_source("digits.npz"), explain_source("digits")
        (' This names something in a Python file.', ' These are samples.', '')
    """
    path = Path(source)
    if ".py:" in str(source):
        return " This names something in a Python file."
    if path.is_dir():
        return " This is a bundle." if (path / "manifest.json").is_file() else ""
    kinds = {
        " This is a network.": (".onnx",),
        " These are samples.": (".npz", ".npy", ".csv", ".tsv", ".png", ".jpg", ".jpeg", ".bmp", ".webp"),
        " These are the parameters of a network, which --weights takes.": (".pt", ".pth", ".safetensors"),
        " This is a file of a target, a sweep or a project.": (".yaml", ".yml"),
        " Name what is in it: file.py:function.": (".py",),
    }
    return next((kind for kind, suffixes in kinds.items() if path.suffix.lower() in suffixes), "")


class AuditWarning(UserWarning):
    """An audit of a network in the field does not do what was asked for. The network runs on.

    Example:
        >>> from offramp.runtime import AuditWarning
        >>> import warnings
        >>> warnings.simplefilter("ignore", AuditWarning)  # for a product that looks at `Net.stats().audit.notice`
    """


class EngineWarning(UserWarning):
    """A stage was built anew, is built at every load, or runs on another device than the one asked for; or `auto` chose devices.

    Example:
        >>> from offramp.runtime import EngineWarning
        >>> import warnings
        >>> warnings.simplefilter("error", EngineWarning)  # a product that would rather stop than run elsewhere
    """


class UncalibratedWarning(UserWarning):
    """The network runs without thresholds, or with figures that were measured on another device.

    Example:
        >>> from offramp.runtime import UncalibratedWarning
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warnings.warn("digits.offramp has no calibration", UncalibratedWarning)
        >>> caught[0].category.__name__
        'UncalibratedWarning'
    """


class MeterWarning(UserWarning):
    """A meter was asked for, but no power is watched.

    Example:
        >>> from offramp.runtime import MeterWarning
        >>> import warnings
        >>> warnings.simplefilter("ignore", MeterWarning)  # for a product that runs on boards with and without a sensor
    """


class PlaceWarning(UserWarning):
    """An exit that `attach` added is not where it was asked for, or its head reads padding.

    Example:
        >>> from offramp.export import PlaceWarning
        >>> import warnings
        >>> warnings.simplefilter("error", PlaceWarning)  # for a build that wants every exit where it was asked for
    """
