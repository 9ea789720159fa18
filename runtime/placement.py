"""Which device runs which stage, as it is asked for."""

import re
from collections.abc import Sequence

from ..errors import UsageError

AUTO = "auto"
"""The device that is chosen by measuring; see `auto.py`."""


def parse_placement(text: str, stages: int, *, device: str = "cpu") -> tuple[str, ...]:
    """Read which stage runs where, such as `0=openvino:CPU,1-=cpu` or `0-1=openvino:CPU`.

    Args:
        text: stages or ranges of them with a device each.
        stages: how many there are.
        device: of the stages that `text` does not name.

    Raises:
        UsageError: it is not of that form, names a stage twice, or one that is not there.
    """
    placed: dict[int, str] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,4})(-([0-9]{0,4}))?=([^=\s]+)\s*", part)
        if not found:
            raise UsageError(
                f"A placement looks like 0=openvino:CPU,1-=cpu (stage or range, then device), not {text!r}."
            )
        first = int(found[1])
        last = first if found[2] is None else int(found[3] or stages - 1)
        if not first <= last < stages:
            raise UsageError(f"{part.strip()} names stages that are not there: there are stages 0 to {stages - 1}.")
        for k in range(first, last + 1):
            if k in placed:
                raise UsageError(f"Stage {k} is placed twice in {text!r}.")
            placed[k] = found[4]
    if AUTO in placed.values():
        raise UsageError("auto chooses for all stages at once: give it as the device, without a placement.")
    return tuple(placed.get(k, device) for k in range(stages))


def one_device_per_stage(device: str | Sequence[str], stages: int) -> tuple[str, ...]:
    """Return a device for each stage.

    Raises:
        UsageError: there are more or fewer devices than stages.
    """
    if isinstance(device, str):
        return (device,) * stages
    if len(device) != stages:
        raise UsageError(f"There are {len(device)} devices for {stages} stages: give one for each, or one for all.")
    return tuple(device)


def describe_devices(devices: Sequence[str]) -> str:
    """Name the device where there is one, and otherwise each stage's, as `parse_placement` reads them."""
    return devices[0] if len(set(devices)) == 1 else ",".join(f"{k}={name}" for k, name in enumerate(devices))
