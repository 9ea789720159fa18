"""The commands that make bundles and change them, and `verify`; as a user would call them."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from offramp.bundle import open_bundle
from offramp.cli.app import exit_code_of
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import write_convolutions, write_onnx

NETWORK = """
import sys
from offramp.tests.zoo import networks
def encoder(): return networks.build(networks.ZOO["encoder"])
def tokens(): return networks.ZOO["encoder"].draw(3, 0)[0]
def dataclass(): return networks.build(networks.ZOO["dataclass"])
def gated(): return networks.build(networks.ZOO["gated"])
def two(): return networks.build(networks.ZOO["two-inputs"])
def attached(): return networks.build(networks.ZOO["attached"])
def leaves(): sys.exit(0)
def both(): return dict(zip(("image", "vector"), networks.ZOO["two-inputs"].draw(20, 0)))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "net.py").write_text(NETWORK)
    write_onnx(folder / "dense.onnx")
    write_convolutions(folder / "conv.onnx")
    (folder / "classes.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    rng = np.random.default_rng(0)
    for name in ("bee", "eel"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / "images" / name / f"{i}.png")
    assert exit_code_of(["export", str(folder / "dense.onnx"), "-o", str(folder / "dense.offramp")]) == 0
    return folder


def test_images_are_exported_with_their_names_and_run_from_files(files, call):
    line = "export {f}/conv.onnx -o {f}/conv.offramp --classes {f}/classes.txt --resize crop --crop 0.875"
    assert call(f"{line} --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225")[0] == 0
    manifest = open_bundle(files / "conv.offramp").manifest
    assert manifest.preprocess.resize == "crop" and manifest.class_names[2] == "cat"
    code, out, _ = call("run {f}/conv.offramp {f}/images/bee/0.png --json")
    (result,) = json.loads(out)
    assert code == 0 and result["class"] == manifest.class_names[result["label"]]
    code, out, _ = call("run {f}/conv.offramp {f}/images")
    assert code == 0 and out.splitlines()[0].split()[:2] == ["sample", "label"] and len(out.splitlines()) == 5
    assert any(name in out for name in manifest.class_names)


def test_exits_that_were_attached_are_told_with_their_places_and_axes(files, call):
    _, _, err = call("export {f}/net.py:attached --data {f}/absent.npz -o {f}/attached.offramp")
    first, second = [line for line in err.splitlines() if line.startswith("exit ")]
    assert first.startswith("exit 0 at ") and second.endswith("% of the work, reads (batch, channels, space, space)")


def test_folders_are_labelled_by_the_names_of_the_classes(files, call):
    from offramp.cli.inputs import load_samples

    call("export {f}/conv.onnx -o {f}/named.offramp --classes {f}/classes.txt --mean 0.5,0.5,0.5")
    manifest = open_bundle(files / "named.offramp").manifest
    assert manifest.preprocess.std == (1.0, 1.0, 1.0)
    assert load_samples(str(files / "images"), manifest)[1].tolist() == [1, 1, 4, 4]
    shutil.copytree(files / "images" / "bee", files / "images" / "dogs")
    code, _, err = call("bench {f}/named.offramp {f}/images")
    shutil.rmtree(files / "images" / "dogs")
    assert code == 5 and "Unknown class 'dogs'. Did you mean 'dog'?" in err


def test_networks_of_every_kind_are_exported_from_a_file(files, call):
    code, out, _ = call(
        "export {f}/net.py:encoder --data {f}/net.py:tokens --axes batch,time -o {f}/encoder.offramp --json"
    )
    assert code == 0 and json.loads(out)["inputs"][0]["shape"] == [None, "time"]
    line = "export {f}/net.py:dataclass --shape 3x16x16 --exits late,early,middle --sort --rule entropy"
    code, out, _ = call(f"{line} --temperatures 1,2,0.5 -o {{f}}/dataclass.offramp --json")
    (variant,) = json.loads(out)["variants"]
    assert code == 0 and [e["name"] for e in variant["exits"]] == ["early", "middle", "late"]
    assert variant["rule"] == "entropy"
    line = "export {f}/net.py:gated --shape 3x16x16 --rule gate --gates gates.0,gates.1"
    assert call(f"{line} --exits logits.0,logits.1,logits.2 -o {{f}}/gated.offramp")[0] == 0
    assert call("export {f}/net.py:two --data {f}/net.py:both -o {f}/two.offramp")[0] == 0
    np.savez(files / "both.npz", **dict(zip(("image", "vector"), networks.ZOO["two-inputs"].draw(4, 1), strict=True)))
    code, out, _ = call("run {f}/two.offramp {f}/both.npz --json")
    assert code == 0 and len(json.loads(out)) == 4


def test_exits_are_dropped_verified_and_fused_by_variant(files, call):
    code, out, _ = call("keep {f}/dense.offramp --exits 0,z2 --name two")
    assert code == 0 and "variant two" in out and "two.stage1.onnx" in out
    code, out, _ = call("verify {f}/dense.offramp --json")
    assert code == 0 and [(v["variant"], v["passed"]) for v in json.loads(out)] == [("fp32", True), ("two", True)]
    code, out, _ = call("fuse {f}/dense.offramp --variant two --thresholds 0.5 -o {f}/two.onnx")
    assert code == 0 and "thresholds 0.5" in out
    session = onnxruntime.InferenceSession(files / "two.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["exit"], {"x": np.zeros((1, 16), np.float32), "thresholds": np.zeros(1, np.float32)})[0][0] == 0
    code, out, _ = call("inspect {f}/dense.offramp")
    assert code == 0 and "variant fp32" in out and "variant two" in out


def test_verify_ends_with_3_on_an_engine_that_computes_something_else(files, call, monkeypatch):
    from offramp.runtime.engines.onnxruntime import OnnxRuntimeStage

    bind = OnnxRuntimeStage.bind

    def wrong(self, inputs, outputs):
        run = bind(self, inputs, outputs)

        def spoil():
            run()
            for name, array in outputs.items():
                array[...] = array * 1.01 if name.endswith(".logits") else array

        return spoil

    monkeypatch.setattr(OnnxRuntimeStage, "bind", wrong)
    code, out, err = call("verify {f}/dense.offramp --variant fp32")
    assert code == 3 and "failed" in out and "fp32: what runs on cpu is not what was exported" in err


WRONG = [
    ("export {f}/dense.onnx -o {f}/x.offramp --rule entropi", 2, "Did you mean 'entropy'"),
    ("export {f}/dense.onnx -o {f}/x.offramp --exits z0,z7", 2, "Unknown output 'z7'"),
    ("export {f}/dense.onnx -o {f}/x.offramp --temperatures 1,two,3", 2, "--temperatures takes numbers"),
    ("export {f}/dense.onnx -o {f}/x.offramp --axes x=batch", 2, "one entry per axis"),
    ("export {f}/dense.onnx -o {f}/x.offramp --axes y=batch,-", 2, "Unknown input 'y'"),
    ("export {f}/dense.onnx -o {f}/x.offramp --axes batch,- --axes x=batch,-", 2, "begins with the name of its input"),
    ("export {f}/dense.onnx -o {f}/x.offramp --mean 0.5", 5, "preprocess is for images of 1 channels"),
    ("export {f}/conv.onnx -o {f}/x.offramp --mean 0.5,0.5,0.5 --resize croped", 2, "Did you mean 'crop'"),
    ("export {f}/conv.onnx -o {f}/x.offramp --mean 0.5,0.5,0.5 --std 1,1", 2, "mean has 3 channels and std 2"),
    ("export {f}/conv.onnx -o {f}/x.offramp --classes {f}/nothing.txt", 2, "There is no file"),
    ("export {f}/conv.onnx -o {f}/x.offramp --classes {f}/images/bee/0.png", 5, "not text in UTF-8"),
    ("export {f}/conv.onnx -o {f}/x.offramp --mean nan,0,0", 2, "finite numbers"),
    ("export {f}/net.py:two --shape 3x99999999x99999999 -o {f}/x.offramp", 2, "do not fit into memory"),
    ("export {f}/net.py:leaves --shape 3x16x16 -o {f}/x.offramp", 5, "net.py:leaves failed in line 10: SystemExit"),
    ("keep {f}/dense.offramp --exits ,", 2, "at least two"),
    ("keep {f}/dense.offramp --exits 0", 2, "at least two"),
    ("keep {f}/dense.offramp --exits 0,9", 2, "no exit 9"),
    ("keep {f}/nothing.offramp --exits 0,1", 2, "no bundle"),
    ("fuse {f}/dense.offramp -o {f}/x.onnx --thresholds 0.5", 2, "take 2 thresholds"),
    ("fuse {f}/dense.offramp -o {f}/x.onnx --thresholds 0.5,3", 2, "between 0 and 2.0"),
    ("fuse {f}/dense.offramp -o {f}/x.onnx --thresholds 0.5,0.5 --point eco", 2, "not both"),
    ("fuse {f}/dense.offramp -o {f}/x.onnx --point eco", 2, "no operating point 'eco'"),
    ("fuse {f}/dense.offramp -o {f}/images --thresholds 0.5,0.5", 2, "is a folder"),
    ("verify {f}/dense.offramp --device npu", 4, "no device 'npu'"),
    ("verify {f}/dense.offramp --variant int9", 2, "Unknown variant 'int9'"),
]


@pytest.mark.parametrize(("line", "code", "words"), WRONG, ids=[line.replace("{f}/", "") for line, _, _ in WRONG])
def test_a_wrong_call_gives_one_clear_message(call, line, code, words):
    found, out, err = call(line)
    assert found == code and out == "", err
    assert err.startswith("Error: ") and err.count("\n") == 1 and words in err


def test_a_cascade_takes_a_folder_of_images_and_tells_the_wrong_order(files, call, capfd):
    shutil.copy(files / "conv.onnx", files / "whole.onnx")
    line = "cascade {f}/%s.onnx {f}/%s.onnx --exits {f}/whole.onnx=z1 --exits {f}/conv.onnx=z0 --data {f}/images --mean 0.5"
    line += " --shape %s --classes {f}/classes.txt -o {f}/%s.offramp"
    told = []
    for names in (("whole", "conv"), ("conv", "whole")):
        assert exit_code_of((line % (*names, "12x12x3", f"{names[0]}-first")).format(f=files).split()) == 0
        told.append("takes less work than whole (0.20 Mmac) before it: name the cheapest" in capfd.readouterr().err)
    assert told == [True, False]
    code, out, _ = call("run {f}/conv-first.offramp {f}/images/bee/0.png --json")
    assert code == 0 and json.loads(out)[0]["class"] in ("ant", "bee", "cat", "dog", "eel")
    code, _, err = call(line % ("conv", "whole", "3x12x12", "no"))
    assert code == 2 and "--shape 12x12x3, not 3x12x12" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--mean 127.5 --std 0.5", "--mean is of pixels scaled to 0 to 1, and 127.5 is more than 1: divide it by 255"),
        ("--mean 0 --std 1,255,1", "--std is of pixels scaled to 0 to 1, and 255 is more than 1"),
        ("--mean 0.5 --shape 3x12x12", "--shape 12x12x3, not 3x12x12"),
    ],
)
def test_what_images_are_not_said_to_be_is_refused(files, call, options, words):
    code, _, err = call(f"export {{f}}/conv.onnx -o {{f}}/no.offramp {options}")
    assert code == 2 and words in err
