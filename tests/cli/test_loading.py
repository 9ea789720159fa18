"""The options that say what is loaded, and where, come to one record."""

import click
import pytest
from click.testing import CliRunner

from offramp.cli.loading import OPTIONS, Loading, with_loading
from offramp.errors import UsageError


def read(names, line):
    """Return what a command with some of the options gets for a line of them."""
    seen = []

    @click.command()
    @with_loading(*names)
    @click.option("--other")
    def command(loading, other):
        seen.append((loading, other))

    done = CliRunner().invoke(command, line.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return seen[0]


def test_a_command_gets_one_record_of_the_options_that_it_has():
    assert read((), "") == (Loading(), None)
    line = "--device cpu --place 0=cpu --fallback cpu --threads 2 --variant int8 --point eco --calibration c.json --other x"
    values = ("cpu", "0=cpu", "cpu", 2, "int8", "eco", "c.json")
    assert read((), line) == (Loading(**dict(zip(OPTIONS, values, strict=True))), "x")
    assert read(("variant", "threads"), "--variant int8") == (Loading(variant="int8"), None)


def test_options_are_offered_in_the_order_of_the_record():
    assert tuple(OPTIONS) == Loading.__struct_fields__


def test_places_become_a_device_for_each_stage(dense):
    assert Loading().devices(dense, None) is None
    assert Loading(device="cuda:0").devices(dense, None) == "cuda:0"
    assert Loading(place="1=openvino:CPU").devices(dense, None) == ("cpu", "openvino:CPU", "cpu")
    with pytest.raises(UsageError, match="leave --place out"):
        Loading(place="1=cpu", device="auto").devices(dense, None)


def test_what_is_not_asked_for_is_left_to_load(dense):
    fields = {"device", "threads", "fallback", "variant", "point", "calibration"}
    arguments = Loading().arguments(dense)
    assert set(arguments) == fields and arguments["device"] is None and arguments["threads"] == 1
    assert Loading(place="0=cpu").arguments(dense)["device"] == ("cpu", "cpu", "cpu")


def test_without_a_calibration_the_first_variant_runs_on_the_cpu(dense):
    assert Loading().variant_to_run(dense) == "fp32"
    assert Loading().devices_or_calibrated(dense, "fp32") == "cpu"
    assert Loading(device="openvino:CPU").devices_or_calibrated(dense, "fp32") == "openvino:CPU"
