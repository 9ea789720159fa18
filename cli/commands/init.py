"""The command `offramp init`: its options, its questions, and the file that it writes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from ...errors import UsageError
from ..found_sources import LAST, OTHERS, TRAINING, find_network, find_samples
from ..images import Images, with_images
from ..options import as_json, examples, parse_shape
from ..output import conclude, print_result

PROJECT = """\
# What `offramp go {file}` does, from top to bottom. A step of which nothing changed since it was done is left out.
# A step is a command, and what stands below it are the options of that command: `offramp quantize -h` says which there are.
# Steps may be removed, repeated, or put back by removing the # in front of them.
bundle: {bundle}
steps:
{steps}"""

TRAIN = """\
  # Exits are put on the plain network, and trained.
  - attach:
      network: {network}
      # weights: plain.pt  # its parameters, if the function does not load them: a state_dict that torch.save wrote
      output: exits.pt
      data: {train}
{images}      # whole: true  # train the network together with its exits: one that is not trained yet
  - train:
      network: {network}
      weights: exits.pt
      data: {train}
{images}      output: trained.pt
      epochs: 10
"""

EXPORT = """\
  # The network is cut into stages, and what the stages compute is compared with the network.
  - export:
      network: {network}
{weights}      data: {data}
{images}{classes}"""

SMALLER = """\
  # A variant in int8. The samples say which range each value has; training samples are best.
  {off}- quantize:
  {off}    data: {train}
  # A variant with channels removed, and what is left trained again.
  # - prune:
  #     network: {network}
  #     data: {train}
  #     macs: 0.6
"""

CALIBRATE = """\
  # Every stage is measured on this device; thresholds are found that keep the limit. These samples trained nothing.
  - calibrate:
      data: {data}
      max-drop: {max_drop:g}  # the accuracy that may be lost: 0.01 is 1 percent
      {no_latency}max-latency-ms: {max_latency}  # the mean latency; a number is milliseconds
      device: {device}
  # The golden samples are replayed on this device.
  - verify:
"""

JUDGE = """\
  # Early exit beside static networks, on samples that nothing was chosen by.
  {off}- bench:
  {off}    data: {test}
  {off}- report:
  {off}    data: {test}
  {off}    output: report.html
"""


@click.command(epilog=examples("offramp init", "offramp init --network model.onnx --exits --data samples.npz"))
@click.option("--network", help="The network: file.py:function or model.onnx.")
@click.option("--plain/--exits", default=None, help="Whether the network has no exits yet, or has them.")
@click.option("--data", help="Labelled samples that did not train the network.")
@click.option("--train-data", help="Labelled samples that trained it, or will.")
@click.option("--test", help="Labelled samples to judge by at the end.")
@with_images
@click.option("--max-drop", type=float, help="Accuracy that may be lost: 0.01 is 1 percent.  [default: 0.01]")
@click.option("--max-latency-ms", help="Largest mean latency in milliseconds, or with a unit: 800us.  [default: none]")
@click.option("--device", help="Where stages run; auto takes the fastest.  [default: cpu]")
@click.option("--bundle", help="The bundle to make. Default: called as the network.")
@click.option("-o", "--output", default="offramp.yaml", show_default=True, help="The file to write.")
@as_json
def init(
    network: str | None,
    plain: bool | None,
    data: str | None,
    train_data: str | None,
    test: str | None,
    images: Images,
    max_drop: float | None,
    max_latency_ms: str | None,
    device: str | None,
    bundle: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Write a file with the steps from a network to a calibrated bundle, which `offramp go` runs.

    What no option says is asked for, in a terminal; what lies in this folder is proposed.
    """
    if Path(output).exists():
        raise UsageError(f"{output} is there already. Name another file: -o, or remove it.", path=output)
    here, is_dialogue = Path.cwd(), sys.stdin.isatty() and (network is None or data is None)
    network = network or _ask("--network", "The network (file.py:function or model.onnx)", find_network(here))
    if plain is None:
        plain = (
            not network.endswith(".onnx") and _confirm("--plain or --exits", "Has it exits already", yes=True) is False
        )
    if plain and network.endswith(".onnx"):
        raise UsageError("Exits are put on torch networks: name a file.py:function, or an ONNX file that has exits.")
    what = "Labelled samples that did not train it (.npz, a folder of images, file.py:function)"
    data = data or _ask("--data", what, find_samples(here, OTHERS))
    if is_dialogue and images.shape is None and (Path(data).is_dir() or data.endswith(".csv")):
        shape = _ask("--shape", "Size of the pictures as the network takes them, such as 3x32x32")
        images = msgspec.structs.replace(images, shape=parse_shape(shape))
    if plain and train_data is None:
        train_data = _ask("--train-data", "Labelled samples to train the exits with", find_samples(here, TRAINING))
    if is_dialogue:
        if train_data is None:
            what = "Labelled samples that trained it, to make a variant in int8"
            train_data = _ask_or_none(what, find_samples(here, TRAINING))
        if test is None:
            test = _ask_or_none("Labelled samples to judge by at the end", find_samples(here, LAST))
        if max_drop is None:
            max_drop = click.prompt("Accuracy that may be lost (0.01 is 1 percent)", 0.01, type=float, err=True)
        if max_latency_ms is None:
            max_latency_ms = _ask_or_none("Largest mean latency, such as 5ms", None)
        device = device or _ask("--device", "Device (one that offramp doctor lists, or auto)", "cpu")
    _check_limits(max_drop, max_latency_ms)
    facts = {
        "network": _quote(network),
        "data": _quote(data),
        "train": _quote(train_data or data),
        "test": _quote(test or "TEST_SAMPLES"),
        "max_drop": 0.01 if max_drop is None else max_drop,
        "max_latency": _quote(max_latency_ms or "5ms"),
        "no_latency": "" if max_latency_ms else "# ",
        "device": _quote(device or "cpu"),
        "images": "".join(f"      {name}: {text}\n" for name, text in images.options.items()),
        "classes": "      # classes: classes.txt  # what they are called: a name per line\n"
        if Path(data).is_dir()
        else "",
        "weights": "      weights: trained.pt\n" if plain else "",
    }
    steps = [TRAIN] * plain + [EXPORT, SMALLER, CALIBRATE, JUDGE]
    off = ("" if train_data else "# ", "" if test else "# ")
    text = "".join(step.format(**facts, off=off[0] if step is SMALLER else off[1]) for step in steps)
    bundle = bundle or f"{Path(network.partition(':')[0]).stem}.offramp"
    _write(Path(output), PROJECT.format(file=output, bundle=_quote(bundle), steps=text))
    told: dict[str, Any] = {"output": output, "bundle": bundle, "next": [f"offramp go {output}"]}
    print_result(
        told, as_json, lambda: conclude("Read it, and change what does not fit.", output, ["offramp", "go", output])
    )


def _ask(option: str, question: str, proposed: str | None = None) -> str:
    """Return what somebody types, or what is proposed if nothing is typed.

    Raises:
        UsageError: nobody is there.
    """
    if not sys.stdin.isatty():
        hint = f" Here lies {proposed}." if proposed else ""
        raise UsageError(f"Say it with {option}: there is no terminal to ask in.{hint}")
    answer: str = click.prompt(question, proposed, err=True)
    return answer.strip()


def _ask_or_none(question: str, proposed: str | None) -> str | None:
    """Return what somebody types in a terminal; None for a dash."""
    answer = _ask("an option", f"{question} (- for none)", proposed or "-")
    return None if answer == "-" else answer


def _check_limits(max_drop: float | None, max_latency: str | None) -> None:
    """Refuse limits that `calibrate` would refuse.

    Raises:
        UsageError: a limit is out of range, or has no unit of time.
    """
    from ...bundle import Target
    from ...calibrate.target_file import read_limit

    drop = 0.01 if max_drop is None else max_drop
    latency = read_limit("--max-latency-ms", max_latency, limit="max_latency_s", factor=1e-3) if max_latency else None
    Target(counts="labels", max_drop=drop, max_latency_s=latency)


def _confirm(option: str, question: str, *, yes: bool) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"Say it with {option}: there is no terminal to ask in.")
    return click.confirm(question, default=yes, err=True)


def _quote(text: str) -> str:
    """Return a text as a file of YAML must have it: in quotes if it may mean something else there, such as `no` or `a: b`."""
    is_plain = re.fullmatch(r"[./]*[A-Za-z_][\w./:-]*(?<!:)", text, re.ASCII)
    words = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    return text if is_plain and text.lower() not in words else json.dumps(text, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    from ...files import write_atomically

    write_atomically(path, text.encode())
