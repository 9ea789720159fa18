"""The command `offramp attach`: its options, one call, and what it prints."""

import click

from ...errors import UsageError
from ..images import Images, with_images
from ..options import as_json, examples, parse_numbers, split_names, take_first, with_seed, with_weights
from ..output import advises, conclude, print_result, spinner

MOST_SAMPLES = 64
"""Samples that the places are found with."""


@click.command(
    epilog=examples(
        "offramp attach net.py:plain --shape 3x32x32 -o exits.pt",
        "offramp attach net.py:plain --data train.npz --at layer1,layer2 -o exits.pt",
    )
)
@click.argument("network")
@with_weights
@click.option(
    "-o", "--output", required=True, help="The file to write: the network's parameters and its exits, as exits.pt."
)
@click.option("--data", help="Samples to find the places with; a few are enough. Default: random ones of --shape.")
@click.option(
    "--at", help="Modules whose output gets an exit, as in named_modules(): layer1,layer2. Default: by --fractions."
)
@click.option(
    "--fractions",
    default="0.15,0.35,0.6",
    show_default=True,
    help="Where exits are wanted, as shares of the network's multiply-accumulates.",
)
@click.option("--whole", is_flag=True, help="Let the network train together with its exits, not the exits alone.")
@with_images
@with_seed
@as_json
@advises()
def attach(
    network: str,
    weights: str | None,
    output: str,
    data: str | None,
    at: str | None,
    fractions: str,
    whole: bool,
    images: Images,
    seed: int,
    as_json: bool,
) -> None:
    """Put exits on NETWORK, a torch network that has none, where little work is done before them.

    `offramp train NETWORK DATA --weights OUTPUT` trains them.
    """
    from ...errors import require
    from ..inputs import load_module

    if data is None and images.shape is None:
        raise UsageError("The places are found by a run: give --shape (such as 3x32x32) or --data.")
    with spinner("loading the network and samples"):
        from ...export import attach as attach_exits
        from ...export import save_weights

        require("torch", extra="export").manual_seed(seed)
        model = load_module(network, weights, "attach")
        example = images.as_trained(take_first(images.load_example(data), MOST_SAMPLES))
    with spinner("finding places"):
        attached = attach_exits(
            model,
            example,
            at=split_names(at) or "auto",
            fractions=parse_numbers("--fractions", fractions) or (),
            frozen=not whole,
        )
    save_weights(attached, output, example=example)
    print_result(
        {"output": output, "places": attached.attached, "notes": attached.notes},
        as_json,
        lambda: conclude(
            "\n".join(f"exit {k} at {place}" for k, place in enumerate(attached.attached)),
            output,
            _next(network, output, data, images),
        ),
    )


def _next(network: str, output: str, data: str | None, images: Images) -> list[str]:
    """Return the words of the command that trains the exits."""
    return [
        "offramp",
        "train",
        network,
        data or "TRAINING_SAMPLES",
        "--weights",
        output,
        *images.words,
        "-o",
        "trained.pt",
    ]
