"""What exporters log is hidden while they run, and only then."""

import logging

from offramp.export.capture.silence import silenced


def test_loggers_of_exporters_are_silent_meanwhile_and_get_their_levels_back():
    asks, has_its_own = logging.getLogger("torch.asks.those_above"), logging.getLogger("onnx_ir.has_its_own")
    has_its_own.setLevel(logging.DEBUG)
    try:
        with silenced():
            assert not asks.isEnabledFor(logging.ERROR) and not has_its_own.isEnabledFor(logging.ERROR)
            assert logging.getLogger("offramp").isEnabledFor(logging.ERROR)
        assert (asks.level, has_its_own.level) == (logging.NOTSET, logging.DEBUG)
        assert asks.isEnabledFor(logging.ERROR)
    finally:
        has_its_own.setLevel(logging.NOTSET)
