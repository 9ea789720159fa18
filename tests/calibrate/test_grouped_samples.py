import json

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from offramp.bundle import Target, Tensor, read_calibration
from offramp.bundle.findings import show_worst
from offramp.calibrate import bench, load_grouped, report
from offramp.cli.app import exit_code_of
from offramp.errors import DataError, UsageError
from offramp.tests.helpers import briefly
from offramp.tests.helpers.manifests import manifest_of

PERSONS = ["ann", "ann", "bob", "bob"]


@pytest.fixture
def arrays():
    return {"x": np.arange(8.0).reshape(4, 2), "y": np.array([0, 1, 0, 1])}


def check(loaded, arrays):
    x, y, groups = loaded
    assert np.array_equal(x, arrays["x"]) and np.array_equal(y, arrays["y"]) and groups.tolist() == PERSONS


def test_groups_come_from_every_kind_of_arrays(arrays, tmp_path):
    np.savez(tmp_path / "all.npz", **arrays, person=PERSONS)
    check(load_grouped(tmp_path / "all.npz", "person"), arrays)
    (tmp_path / "folder").mkdir()
    for name, array in (arrays | {"person": np.array(PERSONS)}).items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    check(load_grouped(tmp_path / "folder", "person"), arrays)
    (tmp_path / "persons.txt").write_text("\n".join([*PERSONS, "", ""]))
    np.savez(tmp_path / "bare.npz", **arrays)
    check(load_grouped(tmp_path / "bare.npz", str(tmp_path / "persons.txt")), arrays)
    check(load_grouped(tmp_path / "bare.npz", str(tmp_path / "folder" / "person.npy")), arrays)
    (tmp_path / "who.py").write_text("def person(x):\n    return ['ann' if row[0] < 4 else 'bob' for row in x]\n")
    check(load_grouped(tmp_path / "bare.npz", f"{tmp_path / 'who.py'}:person"), arrays)
    check(load_grouped(arrays | {"person": PERSONS}, "person"), arrays)
    items = [
        {"x": x.astype(np.float32), "label": y, "person": person}
        for x, y, person in zip(arrays["x"], arrays["y"], PERSONS, strict=True)
    ]
    check(load_grouped(items, "person"), arrays)
    for source, groups, words in (
        (tmp_path / "all.npz", "clip", "Unknown array in"),
        (tmp_path / "folder", "clip", "has no groups 'clip'"),
        (items, "clip", "Unknown key of the items"),
        (arrays, "clip", "Unknown key of the dict"),
        (arrays, "nowhere.txt", "There is no file nowhere.txt"),
        (arrays, PERSONS, "groups is a name"),
    ):
        with pytest.raises(UsageError, match=words):
            load_grouped(source, groups)


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 4), 7).save(path, "PNG")


CATS = manifest_of(Tensor(name="x", dtype="uint8", shape=(None, 1, 4, 6)), names=("cat", "dog"))


def test_groups_are_a_level_of_folders_of_images(tmp_path):
    for name in ("cat/ann/1", "cat/ann/2", "dog/ann/1", "dog/bob/1"):
        draw(tmp_path / "inside" / f"{name}.png")
        kind, person, number = name.split("/")
        draw(tmp_path / "outside" / person / kind / f"{number}.png")
        draw(tmp_path / "bare" / person / f"{kind}{number}.png")
    for folder, level, labels in (("inside", "2", [0, 0, 1, 1]), ("outside", "1", [0, 0, 1, 1]), ("bare", "1", None)):
        x, y, groups = load_grouped(tmp_path / folder, level, CATS)
        assert x.shape == (4, 1, 4, 6) and groups.tolist() == ["ann", "ann", "ann", "bob"]
        assert labels is None if y is None else y.tolist() == labels
    with pytest.raises(DataError, match="--groups 2: images lie 1 folder deep"):
        load_grouped(tmp_path / "bare", "2", CATS)
    draw(tmp_path / "bare" / "ann" / "deeper" / "1.png")
    with pytest.raises(DataError, match="images lie both one and two folders deep"):
        load_grouped(tmp_path / "bare", "1", CATS)
    with pytest.raises(DataError, match="neither one nor two folders deep"):
        load_grouped(tmp_path / "bare" / "bob", "1", CATS)


def test_groups_are_a_column_of_a_table_of_images(tmp_path):
    draw(tmp_path / "1.png")
    (tmp_path / "list.csv").write_text("file,Person,label\n1.png,ann,dog\n1.png,bob,cat\n")
    _, y, groups = load_grouped(tmp_path / "list.csv", "person", CATS)
    assert y.tolist() == [1, 0] and groups.tolist() == ["ann", "bob"]
    (tmp_path / "bare.csv").write_text(
        "file,person,label\n1.png,ann,\n1.png,bob,\n".replace(",label", "").replace(",\n", "\n")
    )
    assert load_grouped(tmp_path / "bare.csv", "person", CATS)[1] is None
    with pytest.raises(UsageError, match="Unknown column 'clip'"):
        load_grouped(tmp_path / "list.csv", "clip", CATS)


@pytest.fixture
def clips(labelled):
    """Which of 160 clips each of 800 samples comes from."""
    return np.arange(800) // 5


def test_a_calibration_over_groups_says_so(dense, labelled, clips, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x=labelled[0], y=labelled[1], clip=clips)
    arguments = [
        "calibrate",
        dense.path,
        tmp_path / "data.npz",
        "--groups",
        "clip",
        "--max-disagreement",
        "0.05",
        "--json",
    ]
    assert exit_code_of(briefly.brief_arguments(arguments)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] == 120 and found["report_samples"] == 600  # 40 clips have the 200 samples that select
    point = read_calibration(dense.calibrations()[0]).early
    assert point.certificate.groups == 120 and "of other groups like these" in point.promise
    assert point.promise.endswith("by 120 groups (600 samples) taken as independent.")
    measured = bench(dense, labelled, groups=clips)
    plain = bench(dense, labelled)
    assert measured.groups == 160 and plain.groups is None and "of 160 groups, which count alike" in str(measured)
    assert measured.drop == pytest.approx(plain.drop) and measured.drop_interval != plain.drop_interval


def test_groups_of_one_sample_change_nothing(dense, labelled):
    found = briefly.calibrate(dense, labelled, Target(max_disagreement=0.05), groups=range(800))
    assert found.groups is None and found.early.certificate.groups is None and found.report_samples == 600


def test_few_groups_promise_nothing_or_something_in_each(dense, labelled):
    person = np.arange(800) // 160
    found = briefly.calibrate(dense, labelled, Target(max_disagreement=0.05), groups=person)
    assert found.groups == 4 and found.early.certificate is None
    assert "4 groups cannot show at 92% confidence" in found.early.promise and "could." in found.early.promise
    with pytest.raises(DataError, match="The samples are of 2 groups: at least 3"):
        briefly.calibrate(dense, labelled, Target(max_disagreement=0.05), groups=person // 3)
    names = np.array(["ann", "bob", "cem", "dot", "eve"])[person]
    target = Target(max_disagreement=0.15, by="group")
    found = briefly.calibrate(dense, labelled, target, groups=names, seed=1)
    point = found.early
    assert found.groups is None and point.certificate.parts == 5 and "in each of the 5 groups" in point.promise
    assert {part.name for part in point.worst} == {"ann", "bob", "cem", "dot", "eve"}
    with pytest.raises(UsageError, match="calibrate once with targets by group"):
        briefly.calibrate(dense, labelled, {"a": target, "b": Target(max_disagreement=0.1)}, groups=names)
    with pytest.raises(UsageError, match="say which samples belong together"):
        briefly.calibrate(dense, labelled, target)


def test_the_class_that_loses_most_is_named(dense, labelled, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x=labelled[0], y=labelled[1])
    arguments = ["calibrate", dense.path, tmp_path / "data.npz", "--max-disagreement", "0.2", "--by", "class"]
    assert exit_code_of(briefly.brief_arguments(arguments)) == 0
    assert "class        worst of" in capsys.readouterr().out
    measured = report(dense, labelled, output=tmp_path / "report.html").measured.benchmark
    assert measured.worst[0].value >= measured.worst[-1].value and "worst of 5: " in str(measured)
    assert show_worst([replace(measured.worst[0], name="cat, wild")]).startswith("worst of 5: 'cat, wild', a ")
    assert "By class, measured: worst of 5: " in (tmp_path / "report.html").read_text()
