"""Folders and tables of images, as they lie on people's disks."""

import os
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Tensor
from offramp.calibrate import load_samples
from offramp.errors import DataError, MissingError, UsageError
from offramp.tests.helpers.manifests import GREY, manifest_of

CAFE = unicodedata.normalize("NFC", "café")


def named(*names):
    return manifest_of(Tensor(name="x", dtype="uint8", shape=(None, 1, 4, 6)), names=names)


def draw(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 4), value).save(path, "PNG")


def load(path, manifest=GREY):
    """Return samples, labels, and what is noted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x, y = load_samples(path, manifest)
    return x[:, 0, 0, 0].tolist(), y if y is None else y.tolist(), [str(warning.message) for warning in caught]


def test_what_a_folder_holds_besides_images_is_left_out_and_counted(tmp_path):
    draw(tmp_path / "b.PNG", 2)
    draw(tmp_path / "a.jfif", 1)
    draw(tmp_path / "deeper/c.png")
    draw(tmp_path / "._a.png")
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "Thumbs.db").touch()
    (tmp_path / "list.txt").touch()
    (tmp_path / "README").touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.PNG")
    (tmp_path / "deeper").rename(tmp_path / "z")
    (tmp_path / "z/c.png").unlink()
    values, labels, said = load(tmp_path)
    assert values == [1, 2, 2] and labels is None and len(said) == 1
    for words in (
        "hidden 2",
        ".db 1",
        ".txt 1",
        "without a suffix 1",
        "no regular files 1",
        "links to nothing 2",
        "folders 1",
    ):
        assert words in said[0]


def test_what_class_folders_leave_out_is_counted(tmp_path):
    manifest = named("cat", "dog", "owl")
    draw(tmp_path / "dog/1.png", 1)
    draw(tmp_path / "cat/0.png", 0)
    draw(tmp_path / "cat/more/2.png")
    draw(tmp_path / "beside.png")
    (tmp_path / "owl").mkdir()
    (tmp_path / "cat/0.txt").touch()
    values, labels, said = load(tmp_path, manifest)
    assert values == [0, 1] and labels == [0, 1] and len(said) == 1
    assert "beside the class folders 1; .txt 1; folders inside class folders 1; folders without images owl." in said[0]


def test_a_folder_that_holds_images_only_says_nothing(tmp_path):
    draw(tmp_path / "cat/0.png")
    assert load(tmp_path, named("cat", "dog")) == ([0], [0], [])
    assert load(tmp_path / "cat") == ([0], None, [])


def test_a_folder_one_too_high_is_told_from_an_empty_one(tmp_path):
    draw(tmp_path / "train/cat/0.png")
    with pytest.raises(
        DataError, match=r"no images in .* \(folders 1\)\. .*/train has folders with images: is that the one\?"
    ):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.heic").touch()
    with pytest.raises(DataError, match=r"no images in .*empty \(\.heic 1\)\.$"):
        load(tmp_path / "empty")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    for suffix in (".png", ".npz", ".npy", ".csv"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        with pytest.raises(UsageError, match="is no regular file"):
            load_samples(tmp_path / f"pipe{suffix}", GREY)
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(UsageError, match="is no regular file"):
        load_samples(tmp_path / "lost.png", GREY)


@pytest.mark.parametrize(
    "name", ["猫 1.png", "кот.png", "قطة.png", "a\nb.png", "emoji 🐱.png", "trailing .png", "-o.png"]
)
def test_names_in_other_scripts_are_names(tmp_path, name):
    draw(tmp_path / "images" / name, 7)
    assert load(tmp_path / "images") == ([7], None, [])
    assert load(tmp_path / "images" / name) == ([7], None, [])


def test_a_name_that_is_no_text_is_a_name(tmp_path):
    draw(tmp_path / os.fsdecode(b"\xff\xfe.png"), 7)
    assert load(tmp_path) == ([7], None, [])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_are_the_same_however_they_are_composed(tmp_path, form):
    draw(tmp_path / unicodedata.normalize(form, CAFE) / "0.png")
    for known in ("NFC", "NFD"):
        assert load(tmp_path, named("tea", unicodedata.normalize(known, CAFE)))[1] == [1]


def test_a_name_that_two_classes_share_names_none(tmp_path):
    draw(tmp_path / "crane/0.png")
    with pytest.raises(DataError, match="the classes 0, 2 are all called 'crane'"):
        load(tmp_path, named("crane", "owl", "crane"))


def test_class_folders_may_be_links(tmp_path):
    draw(tmp_path / "elsewhere/0.png", 3)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/self").symlink_to(tmp_path / "set/self")
    values, labels, (said,) = load(tmp_path / "set", named("cat", "self"))
    assert (values, labels) == ([3], [0]) and "without a suffix 1" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_missing(tmp_path):
    draw(tmp_path / "set/0.png")
    (tmp_path / "set").chmod(0)
    with pytest.raises(MissingError, match="Cannot read"):
        load(tmp_path / "set")


TABLES = {
    "with a header": "path,label\nimages/0.png,cat\nimages/1.png,dog\n",
    "without one": "images/0.png,cat\nimages/1.png,dog\n",
    "the other way round": "Class;File\ncat;images/0.png\ndog;images/1.png\n",
    "tabs": "images/0.png\tcat\nimages/1.png\tdog\n",
    "a byte order mark and \\r\\n": "\ufeffpath,label\r\nimages/0.png,cat\r\n\r\nimages/1.png,dog\r\n",
    "quotes, spaces and backslashes": '"path", label\n"images\\0.png", cat\n"images/1.png","dog"\n',
    "numbers": "path,label\nimages/0.png,0\nimages/1.png,1\n",
    "numbers that a spreadsheet wrote": "path,label\nimages/0.png,0.0\nimages/1.png,1.0\n",
    "more columns": "id,width,file_name,label\n7,6,images/0.png,cat\n8,6,images/1.png,dog\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_names_images_and_their_classes(tmp_path, kind):
    for value in (0, 1):
        draw(tmp_path / f"images/{value}.png", value)
    (tmp_path / "list.csv").write_text(TABLES[kind], newline="")
    assert load(tmp_path / "list.csv", named("cat", "dog")) == ([0, 1], [0, 1], [])


def test_a_table_may_lack_labels_and_name_files_anywhere(tmp_path):
    draw(tmp_path / "a.png", 5)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/list.tsv").write_text(f"{tmp_path}/a.png\n../a.png\n")
    assert load(tmp_path / "sub/list.tsv") == ([5, 5], None, [])


def test_names_in_a_table_count_in_their_order_where_the_bundle_has_none(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("a.png,dog\na.png,cat\na.png,dog\n")
    _, labels, (said,) = load(tmp_path / "list.csv")
    assert labels == [1, 0, 1] and "numbered in the order of their names: cat 0, dog 1" in said


@pytest.mark.parametrize("label", ["-1", "1.5", "nan", "unknown", "9999999999"])
def test_a_label_that_is_no_class_among_numbers_is_refused_not_renumbered(tmp_path, label):
    draw(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(f"path,label\na.png,3\na.png,{label}\n")
    with pytest.raises(DataError, match=rf"list\.csv, line 3: the label '{label}' is no class's number"):
        load(tmp_path / "list.csv")


@pytest.mark.parametrize("manifest", [GREY, named("cat", "dog")], ids=["numbers", "names"])
def test_a_row_without_its_label_is_refused(tmp_path, manifest):
    draw(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path,label\na.png,1\na.png, \n")
    with pytest.raises(DataError, match=r"list\.csv, line 3 has no label"):
        load(tmp_path / "list.csv", manifest)


def test_a_pipe_in_a_table_is_said_to_be_one(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("a.png,1\n")
    with pytest.raises(DataError, match=r"line 1: .*a\.png is no regular file"):
        load(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\na.png,cow\n", "Unknown class 'cow'"),
        ("path,label\na.png,cat\nb.png,cat\n", r"list\.csv, line 3: there is no file .*b\.png"),
        ("path,label\na.png\na.png,cat\n", r"line 3: 2 columns, and 1 before"),
        ("1.0,2.0,3\n4.0,5.0,6\n", "names no images in its first rows.*arrays"),
        ("path,label\n", "names no images"),
        ("", "no rows in"),
        ("a.png,1,2,3\n", "has 4 columns: head the one with the labels `label`"),
        (b"\xff\xfea\x00", "is not a table of text in UTF-8"),
        ('a.png,"cat\n', "is not a table of text in UTF-8"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path, content, words):
    draw(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words):
        load(tmp_path / "list.csv", named("cat", "dog"))


def test_many_images_are_read_in_the_order_of_their_names_and_told_of(tmp_path):
    content = {value: (tmp_path / f"{value}.pgm", b"P5 6 4 255\n" + bytes([value] * 24)) for value in (0, 9)}
    for path, data in content.values():
        path.write_bytes(data)
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(1000):
        (folder / f"{i:04}.pgm").hardlink_to(content[9 if i % 7 == 0 else 0][0])
    told = []
    x, _ = load_samples(folder, GREY, progress=lambda *report: told.append(report))
    assert np.array_equal(x[:, 0, 0, 0] == 9, np.arange(1000) % 7 == 0)
    assert told[-1] == ("loading samples", 1000, 1000) and len(told) == 1000
