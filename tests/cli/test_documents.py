"""What --json prints: its version, its schema, and the examples of the help, held against it."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest

from offramp.bundle.decoding import MANIFEST
from offramp.cli.documents import DOCUMENTS
from offramp.cli.schemas import encode_document
from offramp.tests.cli.test_help import LEAVES, examples
from offramp.tests.helpers.command import offramp
from offramp.tests.helpers.documents import check_documents, schema_of

RUN = (
    "doctor",
    "inspect",
    "verify",
    "run",
    "pack",
    "build",
    "keep",
    "upgrade",
    "fuse",
    "export",
    "bench",
    "top",
)
"""Commands whose last examples are run: the others need a network from Python, boards, keys, or minutes."""

WITHOUT = ("serve",)
"""Commands without --json."""


def test_every_command_with_json_has_a_schema_and_the_other_way_round():
    with_json = [" ".join(words[1:]) for words, one in LEAVES.items() if any("--json" in p.opts for p in one.params)]
    assert sorted(with_json) == sorted(DOCUMENTS)
    assert {" ".join(words[1:]) for words in LEAVES} - set(with_json) == set(WITHOUT)
    for command in DOCUMENTS:
        jsonschema_rs.meta.validate(schema_of(command))


def test_the_schema_is_printed_without_what_the_command_needs():
    done = offramp("run", "--json-schema")
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout) == schema_of("run")


@pytest.fixture
def folder(tmp_path, monkeypatch, dense_onnx, calibrated, labelled):
    x, y = labelled
    for name in ("samples", "train", "test"):
        np.savez(tmp_path / f"{name}.npz", x=x[:100], y=y[:100])
    shutil.copy(dense_onnx, tmp_path / "model.onnx")
    calibrated.path.rename(tmp_path / "digits.offramp")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", RUN)
def test_an_example_runs_and_its_document_is_as_its_schema_says(name, folder):
    if name == "export":
        shutil.rmtree("digits.offramp")
    words = shlex.split(examples(LEAVES["offramp", name])[0])[1:]
    done = offramp(*words, "--json")  # which is held against its schema
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    if isinstance(document, dict):
        assert isinstance(document["schema"], int) or document["schema"] == schema_of(name)["$id"]


def test_a_manifest_and_a_calibration_keep_the_number_of_their_format(folder):
    """What is printed can be stored, and opened again."""
    shutil.rmtree("digits.offramp")
    printed = offramp(*["export", "model.onnx", "-o", "digits.offramp", "--json"]).stdout
    assert json.loads(printed) == json.loads(Path("digits.offramp", MANIFEST).read_bytes())


def test_what_init_and_sign_print_is_as_their_schemas_say(folder):
    words = [*("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "private.pem")]
    subprocess.run(words, check=True)
    for line in (
        "init --network model.onnx --exits --data samples.npz",
        "sign digits.offramp --key private.pem --release 3",
    ):
        done = offramp(*line.split(), "--json")
        assert done.returncode == 0 and done.stdout, done.stderr


def test_a_document_that_is_not_as_its_schema_says_is_found(folder):
    """The check of the tests, which all others rely on."""
    words = ["pack", "digits.offramp", "-o", "digits.zip", "--json"]
    document = json.loads(offramp(*words).stdout)
    for wrong in (
        document | {"more": 1},
        document | {"bytes": "1"},
        {"path": "x"},
        document | {"schema": "offramp.pack/2"},
    ):
        with pytest.raises(AssertionError):
            check_documents(words, json.dumps(wrong))


def test_numbers_that_json_has_not_are_as_the_schema_says():
    ranges = json.loads(encode_document({"mean": float("inf"), "all": [float("nan"), 1.5]}))
    assert ranges == {"mean": "inf", "all": ["nan", 1.5]}
    benchmark = schema_of("bench")["$defs"]
    assert any(
        {"enum": ["inf", "-inf", "nan"]} in field.get("anyOf", []) for field in benchmark["Row"]["properties"].values()
    )
