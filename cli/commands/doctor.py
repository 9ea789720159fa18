"""offramp doctor"""

import click

from ...errors import MissingError
from ..describe import describe_diagnosis
from ..options import as_json
from ..output import print_result


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Say what this board is, which engines and meters work here, and how to get what is missing."""
    from ...runtime import diagnose

    found = diagnose()
    print_result(found, as_json, lambda: describe_diagnosis(found))
    if not any(engine.version for engine in found.engines):
        raise MissingError("No engine runs here. Install one with: pip install 'offramp[onnxruntime]'")
