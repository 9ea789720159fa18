"""C++ reads the bundles that Python reads, and refuses those that Python refuses."""

import hashlib
import json
import os
import random
import shutil

import msgspec
import numpy as np
import pytest

from offramp import __version__
from offramp.bundle import check_bundle, open_bundle, pack
from offramp.errors import OfframpError
from offramp.tests.bundle import fuzz, test_attacks
from offramp.tests.helpers.bundles import ARCHIVE, edit

pytestmark = pytest.mark.cpp

MUTATIONS = {"bits": 20, "json": 400, "replaced": 60}
"""How many bundles of each kind are compared."""


def cases(*tests):
    """Return what parametrised tests of Python's reader are given."""
    return [case for test in tests for case in test.pytestmark[0].args[1]]


def refused(driver, path, **asked):
    """Return the error with which a bundle is refused, after a look at its message."""
    done = driver.ask("check", path=path, **asked)
    assert "error" in done, done
    assert len(done["message"]) <= 600 and done["message"].replace("\n", "").isprintable()
    return done


def test_the_headers_have_the_version_of_the_package(driver):
    assert driver.ask("version")["version"] == __version__


def test_hashes_are_those_of_hashlib(driver):
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
        text = "x" * length
        assert driver.ask("sha256", text=text)["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_numbers_are_written_as_in_digests(driver):
    rng = np.random.default_rng(0)
    found = [10.0**k for k in range(-12, 25)] + [0.1, 1.0, 123456789.125, 5e-324, 1.7976931348623157e308, 2.0**70]
    found += [float(each) for each in rng.standard_normal(300) * 10.0 ** rng.integers(-12, 25, 300)]
    for number in map(abs, found):
        assert driver.ask("number", number=number)["text"].encode() == msgspec.json.encode(number)


@pytest.mark.parametrize("name", ["plain", "shapes", "looped", "gated", "encoder"])
def test_digests_are_those_of_python(driver, zoo, name):
    bundle = zoo(name)[1]
    assert driver.ask("check", path=bundle.path)["digests"] == {v.name: v.digest for v in bundle.manifest.variants}


def test_digests_hold_for_strange_names_and_missing_defaults(driver, copied):
    path = copied(ARCHIVE)

    def change(manifest):
        for k, exit_ in enumerate(manifest["variants"][0]["exits"]):
            exit_.update(name='é"\\\n\x01\x7f' + chr(0x1F600), temperature=[1, 2.5e-7, 1e22][k])
        del manifest["variants"][1]["exits"][0]["temperature"]
        manifest["variants"][0]["rule"] = "ü" * 10_000

    edit(path / "manifest.json", change)
    expected = {variant.name: variant.digest for variant in open_bundle(path).manifest.variants}
    assert driver.ask("check", path=path)["digests"] == expected


@pytest.mark.parametrize("schema", [2, 3])
def test_both_schemas_are_read(driver, copied, schema):
    path = copied(ARCHIVE)
    edit(path / "manifest.json", lambda m: m.update(schema=schema))
    edit(path / "calibrations/default.json", lambda c: c.update(schema=schema + 1))
    assert "error" not in driver.ask("check", path=path)


@pytest.mark.parametrize("schema", [-(2**63), -1, 0, 1, 4, 2**63, 10**30, 2.5, "2", None, True, [2]])
@pytest.mark.parametrize("name", ["manifest.json", "calibrations/default.json"])
def test_other_schemas_are_refused(driver, copied, name, schema):
    path = copied(ARCHIVE)
    edit(path / name, lambda document: document.update(schema=schema if name[0] == "m" or schema != 4 else 5))
    done = refused(driver, path)
    assert (
        done["error"] == ("OutdatedError" if schema == 1 and schema is not True else "BundleError")
        and name in done["message"]
    )
    assert schema != 4 or "written by a newer offramp" in done["message"]


def test_what_a_newer_offramp_of_the_same_schema_wrote_is_called_that(driver, copied):
    path = copied(ARCHIVE)
    edit(path / "manifest.json", lambda m: m.update(offramp="999.1", surprise=1))
    assert "written by a newer offramp (999.1)" in refused(driver, path)["message"]


@pytest.mark.parametrize("content", cases(test_attacks.test_a_manifest_that_is_no_json_of_its_form_is_refused))
def test_texts_that_are_no_manifest_are_refused(driver, copied, content):
    for name in ("manifest.json", "calibrations/default.json"):
        path = copied(ARCHIVE)
        (path / name).write_bytes(content)
        assert f"{name} is not a valid" in refused(driver, path)["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    cases(
        test_attacks.test_fields_and_values_beyond_the_tables_are_refused,
        test_attacks.test_what_does_not_fit_together_is_refused,
    ),
)
def test_manifests_beyond_the_tables_are_refused(driver, copied, change, words):
    path = copied(ARCHIVE)
    edit(path / "manifest.json", change)
    done = refused(driver, path)
    assert done["error"] == "BundleError" and "manifest.json is not a valid manifest" in done["message"]


@pytest.mark.parametrize(("change", "words"), cases(test_attacks.test_calibrations_beyond_the_tables_are_refused))
def test_calibrations_beyond_the_tables_are_refused(driver, copied, change, words):
    path = copied(ARCHIVE)
    edit(path / "calibrations/default.json", lambda c: c.update(points={"default": c["points"]["default-early"]}))
    assert "error" not in driver.ask("check", path=path)
    edit(path / "calibrations/default.json", change)
    assert "default.json is not a valid calibration" in refused(driver, path)["message"]


@pytest.mark.parametrize("place", cases(test_attacks.test_a_folder_outside_is_refused))
def test_a_folder_outside_is_refused(driver, copied, place):
    path = copied(ARCHIVE)
    edit(path / "manifest.json", lambda m: m["variants"][0].update(folder=place))
    assert "leads outside the bundle" in refused(driver, path)["message"]


@pytest.mark.parametrize("name", [*cases(test_attacks.test_a_file_name_outside_is_refused), "a" * 5000])
def test_a_file_name_outside_is_refused(driver, copied, name):
    path = copied(ARCHIVE)
    edit(path / "manifest.json", lambda m: m["variants"][0]["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    assert "not a valid manifest" in refused(driver, path)["message"]


def test_huge_numbers_of_a_manifest_take_neither_memory_nor_time(driver, copied):
    path = copied(ARCHIVE)
    for change in (
        lambda m: m["variants"][0]["files"]["weights.bin"].update(bytes=2**62),
        lambda m: m["variants"][0]["files"]["weights.bin"].update(bytes=2**64),
        lambda m: m["inputs"][0].update(shape=[None, 2**31, 2**31, 2**31]),
        lambda m: m["variants"][0]["stages"][0].update(macs=10**400),
        lambda m: m.update(classes=2**31 - 1),
    ):
        shutil.copy(ARCHIVE / "manifest.json", path)
        edit(path / "manifest.json", change)
        refused(driver, path)
    for content in (b"[" * (32 << 20), b"[" + b"0," * (10 << 20), b'{"a":' * (5 << 20), b"{" + b'"a":0,' * (5 << 20)):
        (path / "manifest.json").write_bytes(content)
        refused(driver, path)
    os.truncate(path / "manifest.json", 5 << 30)
    assert "larger than 32 MiB" in refused(driver, path)["message"]


@pytest.mark.parametrize("name", ["variants/fp32/weights.bin", "variants/fp32/stage1.onnx"])
def test_files_that_are_not_what_the_manifest_says_are_refused(driver, copied, name):
    path = copied(ARCHIVE)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    assert "its sha256 is not the one" in refused(driver, path)["message"]
    done = driver.ask("load", path=path, devices=["openvino:CPU"], calibrated=False)
    assert done["error"] == "BundleError" and "its sha256 is not the one" in done["message"]  # no engine sees it
    (path / name).write_bytes(content[:-1])
    assert f"has {len(content) - 1} bytes" in refused(driver, path, contents=False)["message"]
    (path / name).unlink()
    assert "is missing" in refused(driver, path, contents=False)["message"]
    os.mkfifo(path / name)
    assert "is missing" in refused(driver, path, contents=False)["message"]


@pytest.mark.parametrize("name", ["manifest.json", "calibrations", "variants/fp32", "variants/fp32/stage0.onnx"])
def test_links_that_lead_outside_are_refused_and_others_are_followed(driver, copied, tmp_path, name):
    path = copied(ARCHIVE)
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    assert "leads outside the bundle through a link" in refused(driver, path)["message"]
    (path / name).unlink()
    (tmp_path / "elsewhere").rename(path / "variants/moved")
    (path / name).symlink_to(path / "variants/moved")
    assert "error" not in driver.ask("check", path=path)


def test_what_is_no_bundle_or_none_for_this_runtime_is_refused_with_a_remedy(driver, copied, tmp_path):
    assert driver.ask("check", path=tmp_path / "none")["error"] == "UsageError"
    (tmp_path / "empty").mkdir()
    assert "is not an offramp bundle" in refused(driver, tmp_path / "empty")["message"]
    pack(ARCHIVE, tmp_path / "packed")
    assert "unzip FILE -d FOLDER" in refused(driver, tmp_path / "packed")["message"]
    path = copied(ARCHIVE)
    for i in range(500):
        shutil.copy(path / "calibrations/default.json", path / f"calibrations/{i}.json")
    assert "has 501 calibrations" in refused(driver, path)["message"]


def test_a_policy_of_the_machine_is_not_passed_over(driver, no_policy):
    no_policy.write_text("{}")
    done = refused(driver, ARCHIVE)
    assert done["error"] == "TrustError" and "checks no signatures" in done["message"]


def python_refuses(path):
    try:
        bundle = check_bundle(path)
        for file in bundle.calibrations():
            bundle.read_calibration(file)
    except OfframpError:
        return True
    return False


def holds_huge_number(path):
    """Tell whether a file of a bundle has a whole number beyond 64 bits, which Python takes in places and C++ never."""
    texts = [file.read_text(errors="replace") for file in (path / "manifest.json", path / "calibrations/default.json")]
    return any(str(10**30) in text or str(2**63) in text for text in texts)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_bundles_changed_at_random_are_refused_where_python_refuses_them(driver, kind, tmp_path):
    (tmp_path / fuzz.OUTSIDE).write_bytes(b"not part of the bundle")
    counts = {True: 0, False: 0}
    for number in range(MUTATIONS[kind]):
        path = tmp_path / "b.offramp"
        shutil.copytree(ARCHIVE, path)
        fuzz.KINDS[kind](path, random.Random(f"cpp {kind} {number}"))
        refuses = python_refuses(path)
        done = driver.ask("check", path=path)
        if ("error" in done) != refuses:
            assert "error" in done and holds_huge_number(path), (number, done)
        counts[refuses] += 1
        shutil.rmtree(path)
    assert counts[True] > 5 and (kind == "bits" or counts[False] > 5), json.dumps([*counts.items()])
