"""One hostile bundle for each rule of docs/bundle.md. A reader refuses each of them with an error that names the file.

Each test changes one thing of a whole bundle, and adjusts sizes and hashes where the attack would not be reached otherwise.
"""

import io
import os
import shutil
import sys
import zipfile

import numpy as np
import pytest

from offramp import __version__
from offramp.bundle import Target, check_bundle, open_bundle, read_calibration
from offramp.bundle.golden import read_golden
from offramp.bundle.writing import new_variant
from offramp.calibrate import calibrate
from offramp.errors import BundleError, MissingError, OfframpError, OutdatedError, UsageError
from offramp.export import keep
from offramp.runtime import UncalibratedWarning, build, load, load_uncalibrated
from offramp.tests.helpers.bundles import ARCHIVE, copy_archive, edit, refuse, refuse_any, replace_file

SAMPLES = np.arange(6400, dtype=np.float32).reshape(400, 16), np.arange(400) % 5
OF_A_BUILD = "engines/openvino-CPU/fp32/stage0.built"
DEEP = b"[" * 100_000
DIGITS = b'{"schema": ' + b"9" * 100_000 + b"}"


@pytest.fixture
def dense(tmp_path):
    """A whole bundle of two variants."""
    return copy_archive(tmp_path)


@pytest.fixture
def calibrated(dense):
    """The bundle with a calibration whose point `default` has early exit."""
    shutil.copytree(ARCHIVE / "calibrations", dense.path / "calibrations")
    edit(dense.calibrations()[0], lambda c: c.update(points={"default": c["points"]["default-early"]}))
    return dense


@pytest.fixture
def manifest(dense):
    return dense.path / "manifest.json"


@pytest.fixture
def folder(dense):
    """The folder of the variant's files."""
    return dense.path / dense.variant().folder


@pytest.fixture
def calibration(calibrated):
    return calibrated.calibrations()[0]


def huge_tensors(count):
    return [{"name": f"huge{i}", "dtype": "float64", "shape": [None, 2**28]} for i in range(count)]


# schema


def test_a_newer_calibration_is_refused_as_that_whatever_its_fields_are(calibrated, calibration):
    edit(calibration, lambda c: c.update(schema=5, offramp="9.1", pace="10 Hz", variants={}))
    words = r"default.json has schema 5, written by a newer offramp \(9\.1\); .*up to schema 4"
    refuse(calibration, lambda: read_calibration(calibration), words)


def test_what_a_newer_offramp_of_the_same_schema_wrote_is_called_that_and_not_damaged(calibrated, calibration):
    edit(calibration, lambda c: c.update(offramp="999.1", surprise=1))
    words = r"written by a newer offramp \(999\.1\) than this .*unknown field `surprise`.*Update offramp here"
    refuse(calibration, lambda: load(calibrated.path), words)
    for version in (__version__, "0.0.9", "x", "99", "9" * 1000):
        edit(calibration, lambda c, version=version: c.update(offramp=version))
        refuse(calibration, lambda: load(calibrated.path), "not a valid calibration")


def test_a_newer_schema_is_refused_with_both_versions(dense, manifest):
    edit(manifest, lambda m: m.update(schema=7, offramp="9.1"))
    words = r"manifest.json has schema 7, written by a newer offramp \(9\.1\); this is offramp .*up to schema 3"
    refuse(manifest, lambda: open_bundle(dense.path), words)


def test_an_older_schema_is_refused_as_outdated(dense, manifest):
    edit(manifest, lambda m: m.update(schema=1))
    refuse(manifest, lambda: open_bundle(dense.path), "Export it again", OutdatedError)


@pytest.mark.parametrize("schema", [0, -1, -(2**63)])
def test_a_schema_that_never_was_is_refused(dense, manifest, schema):
    edit(manifest, lambda m: m.update(schema=schema))
    refuse(manifest, lambda: open_bundle(dense.path), "no offramp ever wrote")


@pytest.mark.parametrize("schema", [2.5, "2", None, True, [2], 10**30])
def test_a_schema_that_is_no_number_of_a_version_is_refused(dense, manifest, schema):
    edit(manifest, lambda m: m.update(schema=schema))
    refuse(manifest, lambda: open_bundle(dense.path), "manifest.json")


# text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"schema": 2, "offramp": "\xff"}',
        b'{"schema": 2, "x": ' + DEEP,
        DEEP,
        DIGITS,
    ],
    ids=["empty", "cut", "utf16", "array", "null", "not utf-8", "deep", "deeper", "digits"],
)
def test_a_manifest_that_is_no_json_of_its_form_is_refused(dense, manifest, content):
    manifest.write_bytes(content)
    refuse(manifest, lambda: open_bundle(dense.path), "manifest.json is not a valid manifest")


@pytest.mark.parametrize(
    "content",
    [b"", b'{"schema": 3', b"\xff\xfe", b"[]", b'{"schema": 3, "points": ' + DEEP],
    ids=["empty", "cut", "utf16", "array", "deep"],
)
def test_a_calibration_that_is_no_json_of_its_form_is_refused(calibrated, calibration, content):
    calibration.write_bytes(content)
    refuse(calibration, lambda: load(calibrated.path), "default.json is not a valid calibration")


# fields


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(surprise=1), "unknown field `surprise`"),
        (lambda m: m["variants"][0]["stages"][0].update(surprise=1), "unknown field `surprise`"),
        (lambda m: m.pop("schema"), "schema"),
        (lambda m: m.pop("class_names"), "class_names"),
        (lambda m: m.update(classes="ten"), r"Expected `int`, got `str` - at `\$.classes`"),
        (lambda m: m.update(classes=-5), ">= 0"),
        (lambda m: m.update(classes=1), "one class alone"),
        (lambda m: m.update(classes=0), "answer of another task"),
        (lambda m: m.update(classes=10**12), r"\$.classes"),
        (lambda m: m.update(classes=10**30), r"\$.classes"),
        (lambda m: m.update(classes=5.5), r"\$.classes"),
        (lambda m: m.update(variants=[]), "length >= 1"),
        (lambda m: m.update(inputs=[]), "length >= 1"),
        (lambda m: m["variants"][0].update(name="../fp32"), "matching regex"),
        (lambda m: m["variants"][0].update(name="fp32\n"), "name"),
        (lambda m: m["variants"][0].update(precision="fp4"), "Invalid enum value"),
        (lambda m: m["variants"][0]["stages"][0].update(macs=-1), ">= 0"),
        (lambda m: m["variants"][0]["exits"][0].update(temperature=0), "> 0"),
        (lambda m: m["variants"][0]["exits"][0].update(temperature=-1e308), "> 0"),
        (lambda m: m["variants"][0]["files"]["stage1.onnx"].update(bytes=-1), ">= 0"),
        (lambda m: m["variants"][0]["files"]["stage1.onnx"].update(sha256="0"), "sha256"),
        (lambda m: m["variants"][0]["stages"][0]["inputs"][0].update(dtype="object"), "Invalid enum value 'object'"),
        (lambda m: m["inputs"][0].update(shape=[None, -16]), r"shape"),
        (lambda m: m["inputs"][0].update(shape=[None, 10**30]), "tensor x is too large"),
        (lambda m: m["inputs"][0].update(shape=[None, 10**6, 10**6]), "tensor x is too large"),
        (lambda m: m["inputs"][0].update(shape=[None] + [1] * 70), "tensor x is too large"),
        (lambda m: m["inputs"][0].update(shape=[None, ""]), r"shape"),
        (lambda m: m["inputs"][0].update(shape=[None, 10**9]), "tensor x is too large"),
        (lambda m: m["inputs"][0].update(shape=[None, 2**62, 0]), "tensor x is too large"),
        (lambda m: m["variants"][0]["stages"][0]["outputs"][0].update(shape=[None, 2**27, 5]), "is too large"),
        (lambda m: m["variants"][0]["stages"][0]["outputs"].extend(huge_tensors(5)), "have more than"),
        (lambda m: m["variants"][0]["stages"][0]["outputs"].extend(huge_tensors(1001)), "length <= 1000"),
        (lambda m: m["variants"].extend(m["variants"] * 300), "length <= 500"),
        (lambda m: m["variants"][0]["stages"].extend(m["variants"][0]["stages"] * 400), "length <= 1000"),
        (lambda m: m.update(classes=2**31 - 1), r"\$.classes"),
        (lambda m: m.update(network="n" * 10_001), r"length <= 10000 - at `\$.network`"),
        (lambda m: m.update(class_names=["n" * 10_001] * 5), "length <= 10000"),
        (lambda m: m["inputs"][0].update(shape=[None, "n" * 10_001]), "shape"),
        (
            lambda m: m["variants"][1]["origin"]["settings"].update(dict.fromkeys(map(str, range(1001)))),
            "length <= 1000",
        ),
        (lambda m: m.update(preprocess={"mean": [0.5] * 10_001, "std": [1.0] * 10_001}), "length <= 10000"),
    ],
)
def test_fields_and_values_beyond_the_tables_are_refused(dense, manifest, change, words):
    edit(manifest, change)
    refuse(manifest, lambda: open_bundle(dense.path), f"(?s)manifest.json is not a valid manifest.*{words}")


def of_many_exits(calibration):
    """Return a point that leaves at 500 exits."""
    few = {"thresholds": [1.0] * 499, "placement": ["cpu"] * 500, "exit_latency_s": [1.0] * 500, "rival": None}
    return calibration["points"]["default"] | few | {"exit_shares": [1.0] + [0.0] * 499}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(surprise=1), "unknown field `surprise`"),
        (lambda c: c.pop("points"), "points"),
        (lambda c: c.update(chains=[]), "length >= 1"),
        (lambda c: c["chains"][0].update(accuracy=[0.5]), "3 exits has 1 values of accuracy"),
        (lambda c: c["points"]["default"].update(thresholds=[-0.1, 0.5]), ">= 0"),
        (lambda c: c["points"]["default"].update(thresholds=[0.5, 1e300]), "<= 2"),
        (lambda c: c["points"]["default"].update(thresholds=[0.5]), "1 thresholds"),
        (lambda c: c["points"]["default"].update(exit_shares=[0.5, 0.4, 0.3]), "not 1"),
        (lambda c: c["points"]["default"].update(latency_s=-1.0), ">= 0"),
        (lambda c: c["points"]["default"].update(rival=99), "names static network 99"),
        (lambda c: c["points"]["default"].update(static=0), "of a static network has 3 exits"),
        (lambda c: c["points"]["default"].update(variant="ghost"), "ghost, which was not measured"),
        (lambda c: c["points"]["default"]["target"].update(max_drop=None), "needs a limit"),
        (lambda c: c.update(notes=[""] * 1001), "length <= 1000"),
        (lambda c: c.update(notes=["n" * 10_001]), "length <= 10000"),
        (lambda c: c["fingerprint"].update(dict.fromkeys(map(str, range(1001)), "")), "length <= 1000"),
        (lambda c: c["points"].update(dict.fromkeys(map(str, range(1001)), c["points"]["default"])), "length <= 1000"),
        (lambda c: c["points"].update({str(k): of_many_exits(c) for k in range(21)}), "more than 10000 exits"),
        (lambda c: c["points"]["default"]["target"].update(max_drop=7.0), "fraction from 0"),
    ],
)
def test_calibrations_beyond_the_tables_are_refused(calibrated, calibration, change, words):
    edit(calibration, change)
    for work in (lambda: read_calibration(calibration), lambda: load(calibrated.path)):
        refuse(calibration, work, f"default.json is not a valid calibration.*{words}")


# paths


@pytest.mark.parametrize(
    "place",
    ["../elsewhere", "/etc", "variants/../..", "C:/x", "a\\b", "./variants/fp32", "variants/a/b", "variants/a\0"],
)
def test_a_folder_outside_is_refused(dense, manifest, place):
    edit(manifest, lambda m: m["variants"][0].update(folder=place))
    refuse(manifest, lambda: open_bundle(dense.path), "not a valid manifest.*leads outside the bundle")


@pytest.mark.parametrize("name", ["../../manifest.json", "/etc/passwd", ".hidden", "a/b", "a\\b", "a\n", "~root", ""])
def test_a_file_name_outside_is_refused(dense, manifest, name):
    facts = {"bytes": 1, "sha256": "0" * 64}
    edit(manifest, lambda m: m["variants"][0]["files"].update({name: facts}))
    refuse(manifest, lambda: open_bundle(dense.path), "(?s)not a valid manifest.*leads outside the bundle")


def test_a_file_name_longer_than_any_is_refused(dense, manifest):
    name = "a" * 5000
    edit(manifest, lambda m: m["variants"][0]["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    refuse(manifest, lambda: open_bundle(dense.path), "not a valid manifest: Expected `str` of length <= 255")


@pytest.mark.parametrize("name", ["stage0.onnx", "weights.bin", "golden.npz"])
def test_a_link_that_leads_outside_is_refused(dense, folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    refuse(folder / name, lambda: open_bundle(dense.path), f"{name} leads outside the bundle")


def test_a_folder_that_is_a_link_outside_is_refused(dense, folder, tmp_path):
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert refuse_any(lambda: open_bundle(dense.path), "leads outside the bundle").path.parent == folder


def test_a_link_to_itself_is_refused(dense, folder):
    path = folder / "stage0.onnx"
    path.unlink()
    path.symlink_to(path)
    refuse(path, lambda: open_bundle(dense.path), "stage0.onnx is missing")


@pytest.mark.parametrize("name", ["manifest.json", "calibrations", "calibrations/default.json"])
def test_a_manifest_and_calibrations_behind_a_link_that_leads_outside_are_not_read(calibrated, tmp_path, name):
    path = calibrated.path / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refuse_any(lambda: load(calibrated.path), "leads outside the bundle")


def test_nothing_is_written_through_a_link_that_leads_outside(calibrated, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(calibrated.path / "calibrations")
    (calibrated.path / "calibrations").symlink_to(tmp_path / "elsewhere")
    (calibrated.path / "engines").symlink_to(tmp_path / "elsewhere")
    x = np.random.default_rng(0).random((99, 16), np.float32)
    for work in (
        lambda: calibrate(calibrated, (x, None), Target(max_disagreement=0.5)),
        lambda: keep(calibrated, [0, 2]),
        lambda: build(calibrated, "openvino:CPU", into_bundle=True),
    ):
        with pytest.raises(OfframpError, match="leads outside the bundle through a link"):
            work()
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_link_within_the_bundle_is_followed(dense, folder):
    (folder / "stage0.onnx").rename(dense.path / "variants/elsewhere.onnx")
    (folder / "stage0.onnx").symlink_to("../elsewhere.onnx")
    assert check_bundle(dense.path).manifest == dense.manifest


# files


def test_a_missing_file_is_refused(dense, folder):
    (folder / "stage2.onnx").unlink()
    refuse(folder / "stage2.onnx", lambda: open_bundle(dense.path), "stage2.onnx is missing")


def test_a_folder_in_the_place_of_a_file_is_refused(dense, folder):
    (folder / "stage2.onnx").unlink()
    (folder / "stage2.onnx").mkdir()
    refuse(folder / "stage2.onnx", lambda: open_bundle(dense.path), "stage2.onnx is missing")


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(dense, folder):
    (folder / "stage2.onnx").unlink()
    os.mkfifo(folder / "stage2.onnx")
    refuse(folder / "stage2.onnx", lambda: open_bundle(dense.path), "stage2.onnx is missing")


def test_a_manifest_that_lies_elsewhere_is_refused(dense, manifest, tmp_path):
    manifest.rename(tmp_path / "elsewhere.json")
    manifest.symlink_to(tmp_path / "elsewhere.json")
    refuse(manifest, lambda: open_bundle(dense.path), "manifest.json leads outside the bundle through a link")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_manifest_that_is_no_file_is_refused(dense, manifest, kind):
    manifest.unlink()
    manifest.mkdir() if kind == "folder" else os.mkfifo(manifest)
    refuse(dense.path, lambda: open_bundle(dense.path), "is not an offramp bundle")


@pytest.mark.parametrize("name", ["calibrations/default.json", "calibrations/asked.ledger", OF_A_BUILD])
def test_a_pipe_where_no_file_need_be_is_not_waited_for(dense, name):
    path = dense.path / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    os.mkfifo(path.with_name(f"{path.name}.json"))
    work = {
        "default.json": lambda: load(dense.path),
        "asked.ledger": lambda: calibrate(dense.path, SAMPLES),
        "stage0.built": lambda: load_uncalibrated(dense.path, "openvino:CPU"),
    }[path.name]
    if path.name == "stage0.built":
        assert work().provenance.stages[0].built != "bundle"
    else:
        refuse(path, work, "It is no file", MissingError)


@pytest.mark.parametrize("name", ["calibrations", "engines", "variants"])
def test_nothing_is_read_or_written_through_a_folder_that_leads_outside(dense, name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    if name == "variants":
        (dense.path / "variants").rename(tmp_path / "before")
        (dense.path / "manifest.json").unlink()
    (dense.path / name).symlink_to(outside)
    work = {
        "calibrations": lambda: calibrate(dense.path, SAMPLES),
        "engines": lambda: build(dense.path, "openvino:CPU", into_bundle=True),
        "variants": lambda: new_variant(dense.path).__enter__(),
    }[name]
    refuse(dense.path / name, work, "leads outside the bundle through a link")
    (outside / "x.json").write_text("{}")
    if name == "calibrations":
        refuse(dense.path / name / "x.json", lambda: load(dense.path), "leads outside the bundle through a link")
    assert [file.name for file in outside.iterdir()] == ["x.json"]


def test_a_calibration_that_is_a_folder_is_refused(calibrated, calibration):
    calibration.unlink()
    calibration.mkdir()
    refuse(calibration, lambda: read_calibration(calibration), "There is no calibration", UsageError)


def test_a_wrong_size_is_refused_with_both_sizes(dense, folder):
    path = folder / "weights.bin"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    words = f"weights.bin has {size - 1} bytes where manifest.json says {size}"
    refuse(path, lambda: open_bundle(dense.path), words)


def test_a_size_beyond_every_disk_is_refused(dense, manifest, folder):
    edit(manifest, lambda m: m["variants"][0]["files"]["weights.bin"].update(bytes=2**62))
    refuse(folder / "weights.bin", lambda: open_bundle(dense.path), f"manifest.json says {2**62}")


@pytest.mark.parametrize("name", ["stage1.onnx", "weights.bin", "static0.onnx", "golden.npz"])
def test_a_wrong_sha256_is_refused(dense, folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refuse(folder / name, lambda: check_bundle(dense.path), f"{name} is damaged.*export it anew")


@pytest.mark.parametrize("name", ["stage1.onnx", "weights.bin"])
def test_no_engine_sees_a_file_of_a_wrong_sha256(dense, folder, name):
    (folder / name).write_bytes(bytes((folder / name).stat().st_size))
    refuse(folder / name, lambda: load(dense.path), f"{name} is damaged")


# what must fit together


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["variants"].append(m["variants"][0]), "two variants have the same name"),
        (
            lambda m: m["variants"][0].update(origin={"parent": "fp32", "how": "keep", "settings": {}}),
            "made from fp32, which is not before it",
        ),
        (lambda m: m["variants"][0]["stages"].pop(), "2 stages for 3 exits"),
        (lambda m: m["variants"][0]["files"].pop("stage1.onnx"), "stage1.onnx, which its list of files lacks"),
        (
            lambda m: m["variants"][0]["stages"][1]["inputs"][0].update(name="ghost"),
            "reads ghost, which nothing before",
        ),
        (lambda m: m["inputs"][0].update(shape=[16]), "no batch axis"),
        (lambda m: m["variants"][0]["stages"][0]["inputs"][0].update(shape=[None, None]), "several batch axes"),
        (lambda m: m["variants"][0]["stages"][0]["outputs"][0].update(shape=[None, "time"]), "no input has one"),
        (
            lambda m: m["variants"][0]["stages"][1].update(file="stage0.onnx", inputs=m["inputs"] * 2),
            "fits one of them only",
        ),
        (lambda m: m["variants"][0]["stages"][1].update(guarded="stage1.onnx"), "guarded stage and as something else"),
        (lambda m: m.update(table_rows={"x": 5}), "names x, which is no input of whole numbers"),
        (
            lambda m: m["variants"][0]["stages"][0]["outputs"][0].update(name="x"),
            "fp32/stage0.onnx makes x, which is there",
        ),
        (lambda m: m["variants"][0]["exits"][2].update(score="x"), "x is an output of exit z2 of fp32, and something"),
        (lambda m: m["variants"][0]["exits"][0].update(logits="z0.score"), "z0.score is an output of exit z0"),
        (lambda m: m["variants"][0]["exits"][1].update(label="z0.label"), "z0.label is an output of exit z1"),
        (lambda m: m["variants"][0]["exits"][1].update(score="a0"), "a0 is an output of exit z1"),
        (lambda m: m.update(class_names=["one"]), "1 class names for 5 classes"),
        (lambda m: m.update(preprocess={"mean": [0.5], "std": [1.0, 1.0]}), "mean has 1 channels and std 2"),
        (lambda m: m.update(preprocess={"mean": [0.5], "std": [-1.0]}), "> 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(dense, manifest, change, words):
    edit(manifest, change)
    refuse(manifest, lambda: open_bundle(dense.path), f"manifest.json is not a valid manifest.*{words}")


# golden samples


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def huge_array():
    """An archive whose arrays claim to have 8 TB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("input0", "label", "score", "logits"):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
            )
            archive.writestr(f"{name}.npy", header.getvalue())
    return file.getvalue()


def bomb():
    """A whole golden file of compressed zeros: 1 MB that becomes 240 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape, dtype in (
            *(("input0", (2, 16), "<f4"), ("label", (2, 3), "<i8"), ("score", (2, 3), "<f4")),
            ("logits", (2, 3, 10**7), "<f4"),
        ):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, {"descr": dtype, "fortran_order": False, "shape": shape})
                member.write(bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize))
    return file.getvalue()


ANSWERS = {"label": np.zeros((2, 3), np.int64), "score": np.zeros((2, 3), np.float32), "logits": np.zeros((2, 3, 5))}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "does not hold golden samples"),
        (npz(input0=np.zeros((2, 16), np.float32)), "does not hold golden samples"),
        (npz(input0=np.array([{}], object), **ANSWERS), "does not hold golden samples: Object arrays"),
        (npz(input0=np.zeros((2, 17), np.float32), **ANSWERS), "does not hold samples of this network"),
        (npz(input0=np.zeros((2, 16), np.int64), **ANSWERS), "does not hold samples of this network"),
        (npz(input0=np.zeros((0, 16), np.float32), **ANSWERS), "does not hold samples of this network"),
        (npz(input0=np.zeros((3, 16), np.float32), **ANSWERS), "does not fit variant fp32"),
        (npz(input0=np.zeros((2, 16), np.float32), **ANSWERS | {"score": np.array([["a"] * 3] * 2)}), "are no numbers"),
        (huge_array(), "does not have the size that it claims"),
        (bomb(), "compressed"),
        (npz(input0=np.zeros((2, 16), np.float32), **ANSWERS, **{f"x{i}": 0 for i in range(101)}), "many members"),
    ],
    ids=["no archive", "no answers", "pickled", "wide", "dtype", "empty", "rows", "texts", "huge", "bomb", "members"],
)
def test_golden_samples_that_are_none_are_refused(dense, folder, content, words):
    bundle = replace_file(dense, "golden.npz", content)
    refuse(folder / "golden.npz", lambda: read_golden(bundle, bundle.variant()), words)


# calibrations and graphs


def test_a_calibration_of_another_digest_is_not_used(calibrated, calibration, tmp_path):
    edit(calibration, lambda c: c.update(variants={"fp32": "0" * 64}))
    with pytest.warns(UncalibratedWarning, match="holds other variants .* Not used: default.json"):
        assert load(calibrated.path).point is None
    calibration.rename(tmp_path / "c.json")
    with pytest.raises(BundleError, match="made for another export"):
        load(calibrated.path, calibration=tmp_path / "c.json")


@pytest.mark.parametrize(
    "name", ["antigravity:1", "engines.antigravity:1", "_stdout:1", "../x:1", ":1", "cpu\0", "x" * 9999]
)
def test_a_calibration_imports_no_module_by_a_devices_name(calibrated, calibration, name):
    edit(calibration, lambda c: c["points"]["default"].update(placement=[name] * 3))
    with pytest.raises(MissingError, match="There is no device") as caught:
        load(calibrated.path)
    assert "antigravity" not in sys.modules and len(str(caught.value)) <= 600


def test_a_manifest_that_is_given_as_a_calibration_is_called_that(dense):
    manifest = dense.path / "manifest.json"
    with pytest.raises(BundleError, match="manifest.json is a bundle's manifest, not a calibration") as caught:
        read_calibration(manifest)
    assert caught.value.path == manifest


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x08" + bytes(100)], ids=["empty", "text", "zeros"])
def test_a_graph_that_is_none_is_refused(dense, content):
    bundle = replace_file(dense, "stage0.onnx", content)
    assert "stage0.onnx" in str(refuse_any(lambda: load_uncalibrated(bundle, "cpu"), "stage0.onnx"))


@pytest.mark.parametrize("place", ["../../../secret.bin", "/etc/passwd"])
def test_a_graph_whose_weights_lie_outside_is_refused(dense, folder, tmp_path, place):
    import onnx

    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    model = onnx.load(folder / "stage0.onnx", load_external_data=False)
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = place
    bundle = replace_file(dense, "stage0.onnx", model.SerializeToString())
    refuse_any(lambda: load_uncalibrated(bundle, "cpu"), "stage0.onnx")


def test_reading_writes_nothing_into_a_bundle(calibrated):
    before = {path: path.stat().st_mtime_ns for path in calibrated.path.rglob("*")}
    check_bundle(calibrated.path)
    load(calibrated.path)
    assert {path: path.stat().st_mtime_ns for path in calibrated.path.rglob("*")} == before
