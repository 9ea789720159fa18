"""Trained parameters in a file: with them a command goes on where another ended, also with a network that `attach` made."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError, require
from ...files import os_errors_explained, write_atomically
from .attachment import attach

if TYPE_CHECKING:
    import torch

__all__ = ["load_weights", "save_weights"]

MARK = "offramp"


def save_weights(network: "torch.nn.Module", path: str | os.PathLike[str], *, example: Any = None) -> None:
    """Write a network's parameters, and where its exits were attached.

    The heads of an attached network are those that `attach` makes by itself; one with heads of your own is saved as any module
    of yours is, by its `state_dict()`.

    Args:
        network: a module, or what `attach` returned.
        path: the file to write; one that is there is replaced once the new one is whole.
        example: for an attached network, what `attach` was given: arrays (N, ...), of which the first two are stored.

    Raises:
        UsageError: the network is attached, and there is no example.
        MissingError: the file cannot be written, or torch is not installed.

    Example:
        >>> import torch
        >>> from net import plain
        >>> from offramp.export import attach, load_weights, save_weights
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> save_weights(attach(plain(), x, fractions=(0.3,)), "exits.pt", example=x)
        >>> len(load_weights(plain(), "exits.pt").places)
        1
    """
    torch = require("torch", extra="export")
    from .attached import Attached
    from .inputs import read_inputs

    saved: dict[str, Any] = {MARK: 1, "state": network.state_dict()}
    if isinstance(network, Attached):
        if example is None:
            raise UsageError("To save a network with attached exits, give the example that attach was given.")
        inputs = read_inputs(network.network, example, None).of(2)
        first = dict(zip(inputs.names, inputs.tensors, strict=True)) if inputs.by_name else inputs.tensors
        saved |= {"places": list(network.places), "frozen": network.frozen, "example": first}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    write_atomically(Path(path), buffer.getvalue())


def load_weights(network: "torch.nn.Module", path: str | os.PathLike[str]) -> "torch.nn.Module":
    """Give a network the parameters in a file, and the exits that were attached when the file was written.

    Args:
        network: the network as its function returns it, without exits if `attach` added them. It is changed in place.
        path: a file of `save_weights`, or a `state_dict()` that `torch.save` wrote. Nothing in it is run.

    Returns:
        The network in eval mode; with exits, what `attach` returns.

    Raises:
        UsageError: there is no such file, it holds no parameters, or those of another network.
        ModelError: exits cannot be attached, as for `attach`.
        MissingError: it cannot be read, or torch is not installed.

    Example:
        >>> import torch
        >>> from net import network
        >>> from offramp.export import load_weights
        >>> torch.save(network().state_dict(), "net.pt")
        >>> load_weights(network(), "net.pt").training
        False
    """
    nn = require("torch", extra="export").nn
    saved = _read(Path(path))
    state = saved["state"]
    if saved.get("places"):
        network = attach(network, saved["example"], at=saved["places"], frozen=saved["frozen"])
    try:
        if not hasattr(network, "module"):  # under this name DataParallel keeps the network that it was given
            nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # torch lists what is missing and what is too much
        lines = [line.strip() for line in str(error).splitlines()]
        raise UsageError(
            f"{path} has the parameters of another network: {' '.join(lines[1:3]):.300}", path=path
        ) from error
    return network.eval()


def _read(path: Path) -> dict[str, Any]:
    """Return what `save_weights` writes; of a `state_dict()` alone that is its `state`."""
    torch = require("torch", extra="export")
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", path=path)
    with os_errors_explained(path, "read"):
        content = path.read_bytes()
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind raises one of many types
        raise UsageError(
            f"{path} holds no parameters: save them with offramp.export.save_weights, or torch.save(network.state_dict(), ...).",
            path=path,
        ) from error
    if not isinstance(saved, dict):
        raise UsageError(f"{path} holds no parameters but a {type(saved).__name__}.", path=path)
    if MARK not in saved:
        return {"state": saved}
    is_attached = "places" not in saved or {"example", "frozen"} <= saved.keys()
    if not isinstance(saved.get("state"), dict) or not is_attached:
        raise UsageError(f"{path} holds no parameters: it is damaged. Save them again.", path=path)
    return saved
