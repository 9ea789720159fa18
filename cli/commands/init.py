"""The command `offramp init`: its options, its questions, and the file that it writes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from ...errors import UsageError
from ..images import Images, with_images
from ..options import as_json, examples
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
{images}      # whole: true  # train the network together with its exits
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
{images}"""

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
      # max-latency-ms: 5
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
@click.option("--device", default="cpu", show_default=True, help="Where stages run; auto takes the fastest.")
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
    device: str,
    bundle: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Write a file with the steps from a network to a calibrated bundle, which `offramp go` runs.

    What no option says is asked for, in a terminal.
    """
    if Path(output).exists():
        raise UsageError(f"{output} is there already. Name another file: -o, or remove it.", path=output)
    network = network or _ask("--network", "The network (file.py:function or model.onnx)")
    if plain is None:
        plain = (
            not network.endswith(".onnx") and _confirm("--plain or --exits", "Has it exits already", yes=True) is False
        )
    if plain and network.endswith(".onnx"):
        raise UsageError("Exits are put on torch networks: name a file.py:function, or an ONNX file that has exits.")
    data = data or _ask("--data", "Labelled samples that did not train it (.npz, a folder of images, file.py:function)")
    if train_data is None and plain:
        train_data = _ask("--train-data", "Labelled samples to train the exits with")
    facts = {
        "network": _quote(network),
        "data": _quote(data),
        "train": _quote(train_data or data),
        "test": _quote(test or "TEST_SAMPLES"),
        "max_drop": 0.01 if max_drop is None else max_drop,
        "device": _quote(device),
        "images": "".join(f"      {name}: {text}\n" for name, text in images.options.items()),
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


def _ask(option: str, question: str) -> str:
    """Return what somebody types.

    Raises:
        UsageError: nobody is there.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"Say it with {option}: there is no terminal to ask in.")
    answer: str = click.prompt(question, err=True)
    return answer


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
