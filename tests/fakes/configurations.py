"""Configurations that nobody measured, for contenders made of tables."""

from types import SimpleNamespace

from offramp.calibrate.measure.configurations import Configuration


def fake_configuration(variant, exits, device="cpu", parent=None):
    """A variant by its name on one device, made from a parent if one is named; its latencies are never compared."""
    return Configuration(
        variant=SimpleNamespace(name=variant, rule="max_softmax", origin=parent and SimpleNamespace(parent=parent)),
        placement=(device,) * exits,
        answers=None,
        outside_answers=None,
        chain=None,
        statics=(),
        reference_s=1.0,
        drifts_with_reference=False,
    )
