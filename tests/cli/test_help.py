"""The help of every command: its width, its order, and examples that are understood."""

import shlex
from pathlib import Path

import click
import pytest

from offramp.cli.app import COMMANDS, SECTIONS, app
from offramp.cli.describe import describe_made
from offramp.export import export
from offramp.tests.helpers.command import offramp
from offramp.tests.zoo.answers import ANSWERS


def leaves(command, path=("offramp",)):
    """Yield every command that is no group, with its words."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if not isinstance(command, click.Group):
        yield path, command


def examples(command):
    """Return the command lines in a command's help."""
    text = (command.epilog or "").replace("\\\n", "")
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


LEAVES = dict(leaves(app))


def test_the_list_has_one_line_of_80_columns_for_each_command(call_help):
    text = call_help()
    assert max(map(len, text.splitlines())) <= 80
    listed = text.partition(f"{next(iter(SECTIONS))}:\n")[2].partition("  Exit codes:")[0]
    rows = [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    assert rows == [command.name for command in COMMANDS]  # no line goes on in the next, and the order is that of use
    assert set(app.commands) == set(rows)


@pytest.fixture
def call_help():
    def run(*words):
        done = offramp(*words, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_help_ends_with_examples_that_are_understood(words, call_help):
    command = LEAVES[words]
    text = call_help(*words[1:])
    assert max(map(len, text.splitlines())) <= 80 and "\b" not in text
    shown = text.partition("\n  Example")[2].replace("\\\n", "").splitlines()[1:]
    assert [line.split() for line in examples(command)] == [line.split() for line in shown] != []
    for line in examples(command):
        program, *arguments = shlex.split(line)
        assert program == "offramp" and arguments[: len(words) - 1] == list(words[1:])
        command.make_context(words[-1], arguments[len(words) - 1 :])  # which raises on what it does not know


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("exprot model.onnx", "Did you mean 'export'"),
        ("cache lst", "Did you mean 'list'"),
        ("run a.offramp b.npz --varaint int8", "--variant"),
        ("calibrate a.offramp b.npz --max-dorp 0.01", "--max-drop"),
    ],
)
def test_a_slip_of_the_pen_is_told_the_nearest_name(line, words):
    done = offramp(*line.split())
    assert done.returncode == 2 and words in done.stderr.replace("(Did", "Did")


@pytest.mark.parametrize(
    "line",
    [
        "export {onnx} -o my.offramp",
        "keep dense.offramp --exits 0,-1",
        "pack dense.offramp -o dense.zip",
        "init --network net.onnx --exits --data x.npz",
    ],
)
def test_what_may_come_next_is_a_command_line_that_is_understood(line, dense, dense_onnx, monkeypatch):
    monkeypatch.chdir(dense.path.parent)
    done = offramp(*line.format(onnx=dense_onnx).split())
    *_, wrote, following = done.stdout.splitlines()
    assert done.returncode == 0 and Path(wrote.removeprefix("Wrote ")).exists(), done.stdout
    program, name, *arguments = shlex.split(following.removeprefix("Next: "))
    assert program == "offramp" and app.commands[name].make_context(name, arguments)


def test_what_comes_next_names_a_loss_where_the_network_does_not_classify(tmp_path):
    entry = ANSWERS["regressor"]
    bundle = export(entry.build(), entry.draw(3, 3), tmp_path / "angle.offramp", **entry.options)
    assert describe_made(bundle, "angle.offramp").endswith("SAMPLES --max-drop 0.01 --loss LOSS")


def test_a_step_of_a_project_says_nothing_of_what_comes_next(dense_onnx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("offramp.yaml").write_text(f"bundle: my.offramp\nsteps:\n  - export:\n      network: {dense_onnx}\n")
    done = offramp("go")
    assert "Wrote my.offramp" in done.stderr and "Next: " not in done.stderr
    assert done.stdout.endswith("Next: offramp run my.offramp SAMPLES\n")
