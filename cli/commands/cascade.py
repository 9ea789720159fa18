"""The command `offramp cascade`: its options, one call, and what it prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError, unknown_name
from ..describe import describe_made
from ..images import Images
from ..options import (
    as_json,
    check_image_shape,
    examples,
    fit_channels,
    parse_preprocess,
    parse_shape,
    split_names,
    with_replace,
)
from ..output import advises, note, print_result, progress_bars

if TYPE_CHECKING:
    from ...bundle import Variant
    from ...export import Member


@click.command(epilog=examples("offramp cascade small.onnx large.onnx --shape 3x32x32 -o both.offramp"))
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK NETWORK...")
@click.option("-o", "--output", required=True, help="The bundle to write, a folder such as both.offramp.")
@click.option(
    "--vote",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    help="The first N networks run together and vote, as one exit; once more, the next ones (1: a network alone).",
)
@click.option("--shape", help="Shape of one sample, such as 3x96x96; with --mean or --std that of images, 96x96x3.")
@click.option("--data", help="Samples to use as examples; real samples verify better than the random ones of --shape.")
@click.option(
    "--mean",
    multiple=True,
    help="Take uint8 images; subtract this from each channel, scaled to 0 to 1. Once for all networks, or once for each, in "
    "their order.",
)
@click.option("--std", multiple=True, help="Take uint8 images; then divide each channel by this. As often as --mean.")
@click.option("--resize", default="stretch", show_default=True, help="How images are resized: stretch or crop.")
@click.option("--bgr", multiple=True, metavar="NETWORK", help="This network takes blue, green, red.")
@click.option(
    "--size",
    multiple=True,
    metavar="NETWORK=HxW",
    help="The size of a network's images where its file does not fix it: net.py:f=96x96.",
)
@click.option(
    "--labels",
    multiple=True,
    metavar="NETWORK=L,L,...",
    help="For each label of this network the bundle's, - for one that is passed on to the next network: small.onnx=0,1,-.",
)
@click.option(
    "--exits",
    multiple=True,
    metavar="NETWORK=NAME,...",
    help="The outputs of this network that are exits; all by default.",
)
@click.option(
    "--rule", default="max_softmax", show_default=True, help="How an exit's score is made; see offramp export."
)
@click.option("--answer", help="For networks that do not classify: the parts of their answers, such as boxes,classes.")
@click.option("--classes", help="A text file with the name of one class per line.")
@click.option("--beside", help="Add the cascade to an existing bundle, as a variant of this name.")
@with_replace
@as_json
@advises()
def cascade(
    networks: Sequence[str],
    output: str,
    vote: Sequence[int],
    shape: str | None,
    data: str | None,
    mean: Sequence[str],
    std: Sequence[str],
    resize: str,
    bgr: Sequence[str],
    size: Sequence[str],
    labels: Sequence[str],
    exits: Sequence[str],
    rule: str,
    answer: str | None,
    classes: str | None,
    beside: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Join networks that nobody trained together: the next is asked where the one before is unsure.

    A NETWORK is model.onnx, file.py:function or a bundle (both.offramp, both.offramp:int8), the cheapest first.
    """
    from ..inputs import load_classes, load_network

    if not shape and not data:
        raise UsageError("Give --shape (such as 3x96x96) or --data, which say what the bundle takes.")
    sizes, rows = _by_network("--size", size, networks), _by_network("--labels", labels, networks)
    ends = _by_network("--exits", exits, networks)
    for name in bgr:
        if name not in networks:
            raise unknown_name("network", name, networks)
    names = None if classes is None else load_classes(classes)
    from ...export import Member
    from ...export import cascade as join_networks
    from ...export.cascades.member import find_bundle, find_own_preprocess

    plain = [name for name in networks if find_own_preprocess(name) is None]
    beside_images = beside is not None and find_own_preprocess(output) is not None
    images = bool(mean or std) or len(plain) < len(networks) or beside_images
    example = _load_example(shape, data, resize if images else None)
    means, stds = (_one_each(option, given, plain) for option, given in (("--mean", mean), ("--std", std)))
    members = []
    for name in networks:
        is_bundle = find_bundle(name) is not None or ".offramp" in (name[-8:], name.rpartition(":")[0][-8:])
        preprocess = parse_preprocess(
            means.get(name), stds.get(name), resize=resize, crop=1.0, interpolation="bilinear"
        )
        members.append(
            Member(
                name if is_bundle else load_network(name),
                size=_parse_size(sizes[name]) if name in sizes else None,
                preprocess=fit_channels(preprocess, example),
                bgr=name in bgr,
                exits=split_names(ends.get(name)) or None,
                classes=_parse_labels(rows[name]) if name in rows else None,
            )
        )
    groups = _group(members, vote)
    with progress_bars() as progress:
        bundle = join_networks(
            groups,
            example,
            output,
            answer=split_names(answer) or (),
            rule=rule,
            class_names=names,
            beside=beside,
            replace=replace,
            progress=progress,
        )
    _tell_order(bundle.variant(beside), len(networks))
    print_result(bundle.manifest, as_json, lambda: describe_made(bundle, output))


def _load_example(shape: str | None, data: str | None, resize: str | None) -> Any:
    """Return samples of the data, or random ones: images, which are read from files as `resize` says, or without it floats."""
    sample = parse_shape(shape) if shape else None
    if resize is None:
        return Images(shape=sample).load_example(data)
    if sample is not None:
        check_image_shape(sample)
    pixels = parse_preprocess("0", "1", resize=resize, crop=1.0, interpolation="bilinear")
    return Images(shape=sample, preprocess=pixels).load_example(data)


def _tell_order(variant: "Variant", networks: int) -> None:
    """Note a network that costs less than the one before it, where each is one exit, and so one stage."""
    macs = [stage.macs for stage in variant.stages]
    for k in range(1, len(macs) if len(macs) == len(variant.exits) == networks else 0):
        if macs[k] < macs[k - 1]:
            small, large = (f"{variant.exits[i].name} ({macs[i] / 1e6:.2f} Mmac)" for i in (k, k - 1))
            note(f"Note: {small} takes less work than {large} before it: name the cheapest network first.")


def _group(members: "Sequence[Member]", vote: Sequence[int]) -> "list[list[Member]]":
    """Return the members exit by exit: several that vote, or one."""
    if sum(vote) > len(members):
        raise UsageError(f"--vote counts {sum(vote)} networks in all, and {len(members)} are given.")
    rest = iter(members)
    return [[next(rest) for _ in range(count)] for count in vote] + [[member] for member in rest]


def _by_network(option: str, given: Sequence[str], networks: Sequence[str]) -> dict[str, str]:
    """Return what an option says of each network."""
    found = {}
    for text in given:
        name, _, value = text.rpartition("=")
        if name not in networks:
            raise UsageError(
                f"{option} names a network, then what is true of it: {option} {networks[0]}=..., not {text!r:.60}."
            )
        found[name] = value
    return found


def _one_each(option: str, given: Sequence[str], networks: Sequence[str]) -> dict[str, str]:
    """Return what an option says of each network that it is for."""
    if len(given) not in (0, 1, len(networks)):
        raise UsageError(
            f"{option} is given {len(given)} times for {len(networks)} networks (bundles that take images need none): once for "
            "all, or once for each."
        )
    return dict(zip(networks, [*given] * len(networks) if len(given) == 1 else given, strict=False))


def _parse_size(text: str) -> tuple[int, int]:
    sizes = parse_shape(text)
    if len(sizes) != 2:
        raise UsageError(f"--size is height and width, such as 96x96, not {text!r:.60}.")
    return sizes[0], sizes[1]


def _parse_labels(text: str) -> list[int | None]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "-" or part.isdecimal() for part in parts):
        raise UsageError(
            f"--labels lists whole numbers, or - for a label that is passed on, such as 0,1,-, not {text!r:.60}."
        )
    return [None if part == "-" else int(part) for part in parts]
