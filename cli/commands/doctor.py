"""The command `offramp doctor`: its options, one call, and what it prints."""

import click

from ...errors import MissingError
from ..describe import describe_diagnosis
from ..options import as_json, examples
from ..output import print_result


@click.command(epilog=examples("offramp doctor"))
@as_json
def doctor(as_json: bool) -> None:
    """Show what this board is, which engines and meters work here, and how to get the missing ones."""
    from ...runtime import diagnose

    diagnosis = diagnose()
    print_result(diagnosis, as_json, lambda: describe_diagnosis(diagnosis))
    if not any(engine.devices for engine in diagnosis.engines):
        raise MissingError(
            "No engine runs here. Install one with: pip install 'offramp[onnxruntime]'", extra="onnxruntime"
        )
