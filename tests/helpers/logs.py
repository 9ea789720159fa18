"""What offramp logs while a test runs."""

import contextlib
import logging


class Lines(logging.Handler):
    """Collects log lines."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def log_lines():
    """Yield a list to which every line is added that offramp logs, at level debug and above."""
    handler, logger = Lines(), logging.getLogger("offramp")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
