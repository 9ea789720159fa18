"""A bundle answers over the network. Needs the `serve` extra."""

from typing import TYPE_CHECKING

from .. import late_names
from .models import ServedModel, open_model
from .tasks import Limits

if TYPE_CHECKING:
    from .serving import make_app, open_socket, serve

__all__ = ["Limits", "ServedModel", "make_app", "open_model", "open_socket", "serve"]

__getattr__ = late_names(__name__, dict.fromkeys(("make_app", "open_socket", "serve"), "serving"))


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
