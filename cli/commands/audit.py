"""The command `offramp audit`: its options, one call, and what it prints."""

from typing import TYPE_CHECKING

import click

from ..options import as_json, examples
from ..output import print_result, table

if TYPE_CHECKING:
    from ...runtime import FieldAudit


@click.command(epilog=examples("offramp audit /var/lib/product/audit", "offramp audit board1 board2 board3 --json"))
@click.argument("states", nargs=-1, required=True)
@click.option("--confidence", default=0.95, show_default=True, help="Confidence of the renewed promise.")
@as_json
def audit(states: tuple[str, ...], confidence: float, as_json: bool) -> None:
    """Show what audits in the field have found, of one device or of a fleet.

    STATES are files or folders that `load(..., audit=Audit(state=FOLDER))` wrote. Those of the same operating point are added; a
    device that is given twice counts once. The command ends with code 3 if there is an alarm.
    """
    from ...errors import CheckError
    from ...runtime import read_audits

    audits = read_audits(states, confidence=confidence)
    print_result(audits, as_json, lambda: "\n\n".join(map(_describe, audits)))
    if alarms := {name for each in audits for name in each.alarms}:
        raise CheckError(f"Alarm of {' and of '.join(sorted(alarms))}: the field is not as the calibration was.")


def _describe(audit: "FieldAudit") -> str:
    from ...runtime.audit.figures import describe_alarm

    def show(name: str, e_value: float, chance: float) -> str:
        return f"e-value {e_value:.3g}, {'an alarm' if name in audit.alarms else f'alarm at {1 / chance:.0f}'}"

    lines = [["operating point", f"{audit.point} of {audit.variant}"], ["devices", str(audit.devices)]]
    if audit.promised is not None:
        lines += [
            ["audited", f"{audit.audited}, of which {audit.disagreeing:g} disagree with the last exit"],
            ["promised", f"at most {audit.promised:.2%}: {show('disagreement', audit.e_value, audit.chance[0])}"],
        ]
    if audit.shares_e_value is not None:
        pairs = zip(audit.exit_shares, audit.calibrated_shares, strict=True)
        shares = ", ".join(f"{share:.1%} ({calibrated:.1%})" for share, calibrated in pairs)
        lines.append(["exits (calibrated)", f"{shares}: {show('shares', audit.shares_e_value, audit.chance[1])}"])
    if audit.scores_e_value is not None:
        pairs = zip(audit.score_shares, audit.calibrated_score_shares, strict=True)
        shares = ", ".join(f"{share:.1%} ({calibrated:.1%})" for share, calibrated in pairs)
        lines.append(["scores (calibrated)", f"{shares}: {show('scores', audit.scores_e_value, audit.chance[1])}"])
    if audit.alarmed_devices:
        lines.append(["devices with an alarm", str(audit.alarmed_devices)])
    return "\n".join([table(lines), audit.promise, *(describe_alarm(name, audit) for name in audit.alarms)])
