"""The command `offramp export`: its options, one call, and what it prints."""

from collections.abc import Sequence

import click

from ...errors import UsageError
from ..describe import describe_made
from ..images import Images, with_images
from ..options import (
    as_json,
    examples,
    fit_channels,
    parse_axes,
    parse_numbers,
    split_names,
    with_replace,
    with_weights,
)
from ..output import advises, print_result, progress_bars, spinner, tell_places


@click.command(
    epilog=examples(
        "offramp export model.onnx -o digits.offramp", "offramp export net.py:network --shape 3x32x32 -o digits.offramp"
    )
)
@click.argument("network")
@click.option("-o", "--output", required=True, help="The bundle to write, a folder such as digits.offramp.")
@with_weights
@click.option("--data", help="Samples to use as examples; real samples verify better than the random ones of --shape.")
@click.option("--exits", help="The outputs that are exits, in order: early,middle,late. Default: all.")
@click.option("--sort", is_flag=True, help="Sort the exits by the work that leads to them.")
@click.option(
    "--axes",
    multiple=True,
    help="Names of an input's axes: batch for the batch axis, a name of your own for an axis whose size differs from call to "
    "call, - for a fixed axis. Such as batch,time or, with several inputs, tokens=batch,time.",
)
@click.option(
    "--rule",
    default="max_softmax",
    show_default=True,
    help="How an exit's score is made: max_softmax, entropy, margin, ensemble, patience, gate or gate_logit; of other answers "
    "agreement:boxes=96, pixel_share:map=0.9, mean_softmax:map, gate or gate_logit.",
)
@click.option("--answer", help="For a network that does not classify: the parts of its answers, such as boxes,classes.")
@click.option("--gates", help="For the rules gate and gate_logit: the outputs that are gates, one per exit.")
@click.option("--temperatures", help="Divisors of the logits before they are scored, one per exit, such as 1.2,1.1,1.")
@with_images
@click.option("--classes", help="A text file with the name of one class per line.")
@click.option("--beside", help="Add the network to an existing bundle, as a variant of this name.")
@with_replace
@as_json
@advises()
def export(
    network: str,
    output: str,
    weights: str | None,
    data: str | None,
    exits: str | None,
    sort: bool,
    axes: Sequence[str],
    rule: str,
    answer: str | None,
    gates: str | None,
    temperatures: str | None,
    images: Images,
    classes: str | None,
    beside: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Cut NETWORK into stages, verify them, and write a bundle."""
    from ..inputs import load_classes, load_network

    names = None if classes is None else load_classes(classes)
    if ".py:" in network and not (data or images.shape or beside):
        raise UsageError("A network from Python needs examples: give --shape (such as 3x32x32) or --data.")
    with spinner("loading the network"):
        from ...export import export as export_network

        model = load_network(network, weights)
    tell_places(model)
    with spinner("loading examples"):
        example = images.load_example(data)
    with progress_bars() as progress:
        bundle = export_network(
            model,
            example,
            output,
            exits=split_names(exits),
            sort=sort,
            axes=parse_axes(axes),
            rule=rule,
            answer=split_names(answer) or (),
            gates=split_names(gates) or (),
            temperatures=parse_numbers("--temperatures", temperatures),
            preprocess=fit_channels(images.preprocess, example),
            class_names=names,
            beside=beside,
            replace=replace,
            progress=progress,
        )
    print_result(bundle.manifest, as_json, lambda: describe_made(bundle, output))
