"""Files that ask for labels: what people and their programs make of them is read, or refused with its place."""

import json

import numpy as np
import pytest

from offramp.bundle import Tensor
from offramp.calibrate import read_labels
from offramp.calibrate.ask_files import AskedSample, encode_coco, encode_table, name_hash, spell_classes
from offramp.errors import DataError, UsageError
from offramp.runtime.chain.samples import Samples, hash_each
from offramp.tests.helpers.manifests import manifest_of

VECTOR = Tensor(name="x", dtype="float32", shape=(None, 4))

NUMBERED, NAMED = manifest_of(VECTOR), manifest_of(VECTOR, names=("Käfer, rot", "owl", "ant"))

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
X[5] = X[2]  # a copy

HASHES = [name_hash(value) for value in hash_each(Samples((X,))).tolist()]


def ask(rows=(4, 2, 0), labels=None):
    labels = labels or [-1] * len(rows)
    return [
        AskedSample(
            i, HASHES[i], f"images/{i:06d}-{HASHES[i]}.png", label, {"whole": 1, "fp32 exit 0": 0}, {"score": 0.5}
        )
        for i, label in zip(rows, labels, strict=True)
    ]


def write_table(path, labels, manifest=NUMBERED, *, sep=",", encoding="utf-8-sig"):
    """Write the table as a person leaves it who fills in labels."""
    head, *rows = encode_table(ask(), spell_classes(manifest)).decode("utf-8-sig").splitlines()
    lines = [
        head.split(","),
        *([*row.split(",")[:2], label, *row.split(",")[3:]] for row, label in zip(rows, labels, strict=True)),
    ]
    path.write_text("\r\n".join(sep.join(cells) for cells in lines), encoding=encoding)
    return path


@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_spreadsheets_make_of_a_table_is_read(tmp_path, sep, encoding):
    path = write_table(tmp_path / "ask.csv", ["2", "1.0", ""], sep=sep, encoding=encoding)
    x, y = read_labels(path, (X, None), NUMBERED)
    assert x is X and y.tolist() == [-1, -1, 1, -1, 2, 1]  # the copy of a sample has its label


def test_labels_are_names_or_numbers_and_join_those_that_were_known(tmp_path):
    path = tmp_path / "ask.csv"
    path.write_bytes(encode_table(ask(labels=[0, -1, 2]), spell_classes(NAMED)))
    assert '"Käfer, rot"' in path.read_text("utf-8-sig")
    known = np.array([-1, 0, 1, -1, -1, -1])
    assert read_labels(path, (X, known), NAMED)[1].tolist() == [2, 0, 1, -1, 0, -1]
    assert known[0] == -1
    write_table(path, ["2", "owl", ""], manifest_of(VECTOR, names=("a", "owl", "b")))
    assert read_labels(path, (X, None), NAMED)[1].tolist() == [-1, -1, 1, -1, 2, 1]


def test_names_that_a_spreadsheet_would_compute_are_written_as_numbers():
    for names in (("=cmd()", "b"), ("a", "a"), ("a ", "b"), ("a\nb", "c"), ("", "b"), ("@x", "y"), ("é", "e\u0301")):
        assert spell_classes(manifest_of(VECTOR, names=names)) == ["0", "1"]
    assert spell_classes(manifest_of(VECTOR, names=("7", "5"))) == ["7", "5"]


def test_a_name_that_is_a_number_is_a_name(tmp_path):
    digits = manifest_of(VECTOR, names=("2", "1", "0"))
    assert read_labels(write_table(tmp_path / "a.csv", ["0", "1", "2"]), (X, None), digits)[1].tolist() == [
        0,
        -1,
        1,
        -1,
        2,
        1,
    ]


def test_coco_comes_back_with_other_ids_and_longer_names(tmp_path):
    document = json.loads(encode_coco(ask(labels=[0, -1, -1]), spell_classes(NAMED), (32, 24)))
    assert document["images"][0].items() >= {"width": 32, "height": 24}.items()
    assert [each["name"] for each in document["categories"]] == ["Käfer, rot", "owl", "ant"]
    for image in document["images"]:
        image["file_name"], image["id"] = f"upload/7f3a-{image['file_name'][7:]}", image["id"] + 10
    document["categories"] = [
        {"id": 9 - each["id"], "name": each["name"], "supercategory": ""} for each in document["categories"]
    ]
    document["annotations"] = [
        {"id": 1, "image_id": 11, "category_id": 7, "bbox": []},
        {"image_id": 12, "category_id": None},
    ]
    path = tmp_path / "ask.json"
    path.write_text(json.dumps(document), "utf-8-sig")  # as Windows marks it
    assert read_labels(path, (X, None), NAMED)[1].tolist() == [-1, -1, 2, -1, -1, 2]
    for change, words in (
        ({"image_id": 99, "category_id": 7}, "no image 99"),
        ({"image_id": 12, "category_id": 3}, "no category 3"),
        ({"image_id": 11, "category_id": 8}, "image 11 is of two classes, ant and owl"),
    ):
        path.write_text(json.dumps({**document, "annotations": [*document["annotations"], change]}))
        with pytest.raises(DataError, match=words):
            read_labels(path, (X, None), NAMED)
    path.write_text(json.dumps({**document, "categories": [*document["categories"], document["categories"][0]]}))
    with pytest.raises(DataError, match="several categories one id"):
        read_labels(path, (X, None), NAMED)
    foreign = b'{"images": [{"id": 1, "file_name": "a.png"}], "categories": []}'
    for content in (b"[]", b'{"images": 1}', b"\xff", b"[" * 10_000, foreign):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is not COCO's JSON|names no sample"):
            read_labels(path, (X, None), NAMED)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (HASHES[2], "s" + "0" * 16, "line 3: this sample is not among those that were given"),
        (HASHES[2], "1E+45", "line 3 names no sample"),
        (HASHES[2], HASHES[4], "line 3: this sample stands in line 2 too"),
        (HASHES[2], f"{HASHES[2]},", "line 3 names no sample"),
        (",hash", ",key", "not one column `hash`"),
        ("label", "labels", "not one column `label`"),
        ("png,1,", "png,7,", "line 3: Unknown class '7'"),
        ("png,1,", "png,-1,", "line 3: Unknown class '-1'"),
        ("png,1,", "png,owl,", "line 3: Unknown class 'owl'.*Where nobody knows the label, give none"),
        ("png,1,", "png,,", "holds no label"),
    ],
)
def test_a_changed_table_is_refused_with_its_line(tmp_path, old, new, words):
    path = write_table(tmp_path / "ask.csv", ["", "1", ""])
    path.write_text(new.join(path.read_text("utf-8-sig").rsplit(old, 1)))
    with pytest.raises((DataError, UsageError), match=words) as refused:
        read_labels(path, (X, None), NUMBERED)
    assert str(path) in str(refused.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is a folder: name the file"):
        read_labels(tmp_path, (X, None), NUMBERED)
    with pytest.raises(UsageError, match="There is no file"):
        read_labels(tmp_path / "ask.csv", (X, None), NUMBERED)
    (tmp_path / "ask.csv").write_bytes("hash,label\nKäfer".encode("cp1252"))
    with pytest.raises(DataError, match="not a table of text in UTF-8.*save it as CSV UTF-8"):
        read_labels(tmp_path / "ask.csv", (X, None), NUMBERED)
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="larger than 64 MB"):
        read_labels(tmp_path / "large.csv", (X, None), NUMBERED)
