"""What torch's exporters print about themselves is hidden: graphs on stdout, tracebacks on stderr, warnings, logs."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from io import StringIO

LOGGERS = ("torch", "onnxscript", "onnx_ir")
"""The loggers of these packages, and all below them, say critical errors only."""


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Hide what exporters print; failures still come as exceptions."""
    known = logging.root.manager.loggerDict.items()  # those without a level ask those above them
    names = [name for name, logger in known if getattr(logger, "level", 0) and name.partition(".")[0] in LOGGERS]
    loggers = [logging.getLogger(name) for name in {*LOGGERS, *names}]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        _hidden_stdout(),
        contextlib.redirect_stdout(StringIO()),
        contextlib.redirect_stderr(StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _hidden_stdout() -> Iterator[None]:
    """Hide what torch's C++ code prints to the process's stdout: TorchScript's whole graph when it fails."""
    try:
        stdout = os.dup(1)
    except OSError:  # the process has no stdout
        yield
        return
    try:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stdout.flush()
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
