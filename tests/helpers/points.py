"""Calibrations whose winner a test chooses: which of two small networks is faster is the machine's affair; and points by hand."""

from msgspec.structs import replace

from offramp.bundle import OperatingPoint, Target

SLOWER = "Do not use early exit here: the static network to the last exit is faster."


def where_static_wins(calibration):
    """Return a calibration that recommends the static network to the last exit, with the early exit found beside it."""
    early = calibration.early
    static = replace(
        early,
        static=len(early.exit_shares) - 1,
        placement=early.placement[-1:],
        thresholds=(),
        exit_shares=(1.0,),
        exit_latency_s=early.exit_latency_s[-1:],
        latency_s=early.exit_latency_s[-1],
        pays=False,
        verdict=SLOWER,
    )
    return replace(calibration, points={"default": static, "default-early": replace(early, pays=False, verdict=SLOWER)})


def where_early_exit_wins(calibration):
    """Return a calibration that recommends early exit."""
    return replace(calibration, points={"default": calibration.early})


def make_point(variant, thresholds):
    """Return an operating point of a variant's chain on the CPU, as if it had been calibrated."""
    exits = len(thresholds) + 1
    return OperatingPoint(
        variant=variant.name,
        placement=("cpu",) * exits,
        target=Target(max_drop=0.1),
        thresholds=tuple(thresholds),
        accuracy=None,
        full_accuracy=None,
        drop=None,
        drop_interval=None,
        disagreement=0.0,
        latency_s=1e-3,
        exit_shares=(0.0,) * (exits - 1) + (1.0,),
        exit_latency_s=(1e-3,) * exits,
        met=True,
    )
