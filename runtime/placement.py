"""Which device runs which stage, as users write it: `cpu`, or `0=openvino:CPU,1-=cpu`."""

import re
from collections.abc import Sequence

from ..errors import UsageError, quoted

__all__ = ["AUTO", "describe_devices", "one_device_per_stage", "parse_placement", "refuse_servers"]

AUTO = "auto"
"""The device name by which the fastest device is chosen by measuring; see `auto.py`."""


def parse_placement(text: str, stages: int, *, device: str = "cpu") -> tuple[str, ...]:
    """Return the device of each stage from a text such as `0=openvino:CPU,1-=cpu` or `0-1=openvino:CPU`.

    Args:
        text: stages or ranges of stages, each with a device.
        stages: how many stages the network has.
        device: the device of the stages that `text` does not name.

    Raises:
        UsageError: the text is not of that form, names a stage twice, or names a stage that does not exist.
    """
    placed: dict[int, str] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})(-([0-9]{0,4}))?=([^=?\s]+(\?\S+)?)\s*", part)
        if not match:
            raise UsageError(
                f"A placement looks like 0=openvino:CPU,1-=cpu (stage or range, then device), not {text!r}."
            )
        first = int(match[1])
        last = first if match[2] is None else int(match[3] or stages - 1)
        if not first <= last < stages:
            raise UsageError(f"{part.strip()} names stages that are not there: there are stages 0 to {stages - 1}.")
        for k in range(first, last + 1):
            if k in placed:
                raise UsageError(f"Stage {k} is placed twice in {text!r}.")
            placed[k] = match[4]
    if AUTO in placed.values():
        raise UsageError(
            "auto chooses for all stages at once: give it as the device, without a placement.", device=AUTO
        )
    return tuple(placed.get(k, device) for k in range(stages))


def one_device_per_stage(device: str | Sequence[str], stages: int) -> tuple[str, ...]:
    """Return a device for each stage: one name stands for all stages, a sequence has a name for each.

    Raises:
        UsageError: a sequence has more or fewer devices than there are stages, or `device` is neither a name nor a sequence.
    """
    if isinstance(device, str):
        return (device,) * stages
    if not isinstance(device, Sequence) or not all(isinstance(name, str) for name in device):
        raise UsageError(
            f"A device is a name such as 'cpu' or 'cuda:0', or a sequence of a name for each stage, not {device!r:.60}."
        )
    if len(device) != stages:
        raise UsageError(f"There are {len(device)} devices for {stages} stages: give one for each, or one for all.")
    return tuple(device)


def refuse_servers(placement: Sequence[str], *, named: Sequence[str] = ()) -> Sequence[str]:
    """Return devices of a calibration, of which none is a server or a library but those that the caller has named.

    Raises:
        UsageError: one is. Inputs would go where the calibration's author wants them, or code of the author's choice would run.
    """
    for name in placement:
        engine, _, place = name.partition(":")
        is_library = engine == "litert" and place != "cpu"
        if (is_library or engine in ("http", "https", "remote")) and name not in named:
            named_how = "If that is meant, name the devices yourself (device=, --device, --place)."
            message = (
                f"The calibration places a stage on {quoted(name)}, a library that would be loaded. {named_how}"
                if is_library
                else f"The calibration places a stage on {quoted(name)}, where inputs would be sent. {named_how}"
            )
            raise UsageError(message, device=name)
    return placement


def describe_devices(devices: Sequence[str]) -> str:
    """Write devices as `parse_placement` reads them: `cpu` if all stages share one, else `0=cpu,1=cuda:0`."""
    return devices[0] if len(set(devices)) == 1 else ",".join(f"{k}={name}" for k, name in enumerate(devices))
