"""What a fleet of 1,000 boards costs: bytes, seconds and money of calibrating it, and of 100 million audited inputs.

    python tests/benchmarks/fleet_costs.py

Sizes are those of real messages, filled with as many numbers as the plan below gives; nothing is sent. The plan is that of a
network of the size of a ResNet-8 for images of 32 x 32, on boards that run it at ten images a second. docs/fleets.md shows the
tables.
"""

import time

import msgspec
import numpy as np

from offramp.calibrate.measure.session import TIMED_SAMPLES
from offramp.cli.output import table
from offramp.fleet.measuring import DRAWN
from offramp.fleet.messages import (
    MeasuredConfiguration,
    SentAnswers,
    SentConfiguration,
    SentCosts,
    SentFigures,
    SentRecording,
    encode,
)
from offramp.runtime.audit.figures import summarise
from offramp.runtime.audit.states import AuditState

BOARDS, KINDS, AUDITED = 1000, 4, 100_000_000
SAMPLES, SAMPLE_BYTES, BUNDLE_BYTES = 10_000, 3 * 32 * 32 * 4, 1_500_000
EXITS, VARIANTS, TARGETS = 3, 2, 3
WHOLE_S, EARLY_S, STAGES_S = 5e-3, 2.5e-3, (1.5e-3, 3e-3, 5e-3)
MEASURE_S, LINK_BYTES_PER_S = 6.0, 100e6 / 8
POWER_W, INPUTS_PER_S, SHARE, DISAGREEING = 3.0, 10.0, 0.01, 0.004
DOLLARS_PER_GB, DOLLARS_PER_KWH, REPORTS_PER_DAY = 1.0, 0.3, 1


def size_of_answers(samples: int) -> int:
    """Return the bytes of what every exit of every variant answers to some samples."""

    def answers(exits: int) -> SentAnswers:
        return SentAnswers(exits, bytes(4 * samples * exits), bytes(4 * samples * exits))

    statics = tuple(answers(1) for _ in range(EXITS))
    each = SentConfiguration("fp32", ("cpu",) * EXITS, answers(EXITS), statics)
    return len(encode(SentRecording((each,) * VARIANTS, answers(1), "cpu")))


def size_of_latencies() -> int:
    """Return the bytes of what a board measures of all variants: chain, static networks and reference take turns."""
    round_s = 3 * sum(STAGES_S) + 16 * sum(STAGES_S) + 16 * WHOLE_S + 32 * np.mean(STAGES_S)
    rounds = max(8, round(MEASURE_S / 2 / round_s))
    chain = SentCosts((bytes(8 * rounds * 12),) * EXITS, 0.01, 0.01)
    static = SentCosts((bytes(8 * rounds * 16),), 0.01, 0.01)
    each = MeasuredConfiguration("fp32", ("cpu",) * EXITS, chain, (static,) * EXITS, WHOLE_S, True)
    message = SentFigures(
        configurations=(each,) * VARIANTS,
        reference_parts_s=(bytes(64),) * VARIANTS,
        clock_hz=(1.8e9, 1.8e9),
        temperature_c=(50.0, 51.0),
        throttled=(),
        max_clock_hz=1.8e9,
    )
    return len(encode(message))


def make_state(device: int) -> AuditState:
    """Return what a board has counted at the end."""
    audited = AUDITED // BOARDS
    return AuditState(
        device=f"{device:016x}",
        sequence=10_000,
        variant="0123456789abcdef",
        point="balanced-fleet",
        promised=0.01,
        chance=(0.01, 0.005),
        calibrated=(4800, 2000, 1200),
        exits=(audited * 6 // 10, audited * 25 // 100, audited * 15 // 100),
        edges=(0.2, 0.4, 0.6, 0.8, 0.9),
        known_scores=(500, 600, 900, 1500, 2000, 2500),
        scores=tuple(audited * part // 80 for part in (5, 6, 9, 15, 20, 25)),
        audited=audited,
        disagreeing=audited * DISAGREEING,
    )


def calibrating() -> list[tuple[str, str, str]]:
    """Return the rows of what calibrating the fleet takes."""
    timed = (TIMED_SAMPLES + DRAWN) * SAMPLE_BYTES
    home = size_of_answers(DRAWN) + size_of_latencies()
    recorded, answers = SAMPLES * SAMPLE_BYTES * KINDS, size_of_answers(SAMPLES) * KINDS
    recording_s = SAMPLES * VARIANTS * (sum(STAGES_S) + WHOLE_S) * KINDS / BOARDS
    measuring_s = MEASURE_S / 2 * (VARIANTS + 2 * TARGETS)
    each_s = (BUNDLE_BYTES + timed) / LINK_BYTES_PER_S + recording_s + measuring_s
    each_j, each_dollars = POWER_W * (recording_s + measuring_s), (BUNDLE_BYTES + timed + home) / 1e9 * DOLLARS_PER_GB
    return [
        ("calibrating", "each board", "all"),
        ("the bundle goes out", show_bytes(BUNDLE_BYTES), show_bytes(BOARDS * BUNDLE_BYTES)),
        ("samples to be timed with go out", show_bytes(timed), show_bytes(BOARDS * timed)),
        ("samples to record go out, once for each kind", show_bytes(recorded / BOARDS), show_bytes(recorded)),
        ("answers to them come home", show_bytes(answers / BOARDS), show_bytes(answers)),
        ("latencies and drawn answers come home", show_bytes(home), show_bytes(home * BOARDS)),
        ("time: sending at 100 Mbit/s, recording, measuring", f"{each_s:.0f} s", "the same, side by side"),
        ("energy at 3 W", f"{each_j:.0f} J", f"{BOARDS * each_j / 3.6e6:.3f} kWh"),
        ("traffic at 1 $ a GB", f"{each_dollars:.3f} $", f"{BOARDS * each_dollars:.2f} $"),
    ]


def auditing() -> list[tuple[str, str, str]]:
    """Return the rows of what auditing takes, and of what it shows."""
    days = AUDITED / BOARDS / SHARE / INPUTS_PER_S / 86_400
    size = len(msgspec.json.encode(make_state(0)))
    more_s = AUDITED * (WHOLE_S - EARLY_S)
    states = [make_state(device) for device in range(BOARDS)]
    field = summarise(states)
    assert field.audited == AUDITED and not field.alarms and field.renewed is not None
    sent = size * days * REPORTS_PER_DAY
    one = summarise(states[:1]).renewed
    assert one is not None
    kwh = more_s * POWER_W / 3.6e6
    return [
        ("auditing 1 % of the inputs", "each board", "all"),
        ("inputs", f"{AUDITED / BOARDS / SHARE:,.0f}", f"{AUDITED / SHARE:,.0f}"),
        ("audited", f"{AUDITED / BOARDS:,.0f}", f"{AUDITED:,}"),
        ("days at ten inputs a second", f"{days:.1f}", "the same, side by side"),
        ("a state comes home, once a day", f"{size} bytes", show_bytes(size * BOARDS)),
        ("all states", f"{sent / 1e3:.1f} kB", show_bytes(sent * BOARDS)),
        ("time of audited inputs that would have left early", f"{more_s / BOARDS:.0f} s", f"{more_s / 3600:.0f} h"),
        (
            "energy of that at 3 W",
            f"{POWER_W * more_s / BOARDS:.0f} J",
            f"{kwh:.2f} kWh, {kwh * DOLLARS_PER_KWH:.2f} $",
        ),
        (
            "traffic at 1 $ a GB",
            f"{sent / 1e9 * DOLLARS_PER_GB:.6f} $",
            f"{sent * BOARDS / 1e9 * DOLLARS_PER_GB:.3f} $",
        ),
        ("disagreement seen: 0.4 %; proven at 95 %, at all times", f"{one:.3%}", f"{field.renewed:.4%}"),
    ]


def show_bytes(size: float) -> str:
    """Write a number of bytes: `4.2 kB`, `1.50 MB`, `16.27 GB`."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:.3g} {name}"


def main() -> None:
    """Print the tables, and how long adding the states of all boards takes here."""
    print(table(calibrating()), table(auditing()), sep="\n\n")
    states = [make_state(device) for device in range(BOARDS)]
    start = time.process_time()
    summarise(states)
    print(f"\nadding {BOARDS} states takes {1e3 * (time.process_time() - start):.0f} ms here")


if __name__ == "__main__":
    main()
