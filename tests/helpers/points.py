"""Calibrations whose winner a test chooses: which of two small networks is faster is the machine's affair."""

from msgspec.structs import replace

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
