"""A sweep trains, ranks and gathers; killed anywhere it goes on where it was, and workers change nothing in what it finds."""

import json
import os
import shutil
import signal
import threading
import time

import msgspec
import pytest
import torch

from offramp.bundle import open_bundle
from offramp.calibrate.named_sources import load_batches
from offramp.cli.app import exit_code_of
from offramp.errors import MissingError, UsageError
from offramp.export import train
from offramp.sweep import sweep
from offramp.sweep.table import list_versions, read_rows
from offramp.sweep.trials import run_trial
from offramp.tests.helpers.documents import check_documents
from offramp.tests.zoo.two_exits import build_two_exits

NET = """
from offramp.tests.zoo.two_exits import build_two_exits, vectors
network = build_two_exits
def data(): return draw(200, 0)
def judge(): return draw(300, 1)
def draw(count, seed):
    x = vectors(count, seed)
    return x, x[:, :5].argmax(1)
"""
SWEEP = "{network: net.py:network, data: net.py:data, judge: net.py:judge, out: out, epochs: 2, rungs: 2, eta: 2, seed: 5, %s}"
TWO = "space: {lr: [0.001, 1e-1]}"


@pytest.fixture(scope="module", autouse=True)
def own_code(tmp_path_factory):
    """Folders of sweeps with the code that they name."""
    base = tmp_path_factory.mktemp("sweeps")

    def write(name, text):
        folder = base / name
        folder.mkdir(exist_ok=True)
        (folder / "net.py").write_text(NET)
        (folder / "sweep.yaml").write_text(SWEEP % text)
        return folder

    return write


@pytest.fixture(scope="module")
def finished(own_code):
    """A sweep of two trials that nothing disturbed, of which the second is by far the better; its folder, and what it found."""
    folder = own_code("finished", TWO)
    return folder, sweep(folder / "sweep.yaml")


def lasting(found):
    """Return what of a sweep's rows does not differ from run to run."""
    return [msgspec.structs.replace(row, measured=None) for row in found.rows]


def digests(found):
    return [variant.digest for variant in open_bundle(found.bundle).manifest.variants]


def test_the_best_trials_train_on_and_each_row_says_what_it_is(finished):
    folder, found = finished
    assert [(row.rung, row.trial, row.epochs) for row in found.rows] == [(0, 1, 1), (0, 0, 1), (1, 1, 2)]
    assert [row.standing.stays for row in found.rows] == [True, False, True]
    assert all(row.seed == 5 and row.versions == list_versions() and not row.failed for row in found.rows)
    assert [row.choices.lr for row in found.rows] == [0.1, 0.001, 0.1]
    row = found.rows[-1]
    assert row.macs[0] < row.macs[1] and len(row.accuracy) == len(row.measured.latency_s) == 2
    assert read_rows(found.table) == list(found.rows)
    assert not list((folder / "out/trials/trial000").glob("*.offramp"))  # it ended there, and only its figures are kept
    assert found.report is not None and "trial001" in found.report.read_text()


def test_a_survivor_is_trained_as_if_nothing_had_been_between(finished):
    folder, found = finished
    network = build_two_exits()
    batches = load_batches(f"{folder}/net.py:data", None, batch=64, seed=5)
    history = train(network, batches, epochs=2, lr=0.1)
    assert found.rows[-1].loss == history.epochs[-1].loss
    (variant,) = open_bundle(found.bundle).manifest.variants
    assert variant.name == "trial001"


def test_a_sweep_that_is_done_is_not_done_again(finished, capsys):
    folder, found = finished
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("trials/**/*")}
    assert exit_code_of(["sweep", str(folder / "sweep.yaml"), "--json"]) == 0
    printed = capsys.readouterr().out
    check_documents(["sweep"], printed)
    assert json.loads(printed)["rows"] == json.loads(msgspec.json.encode(found.rows))
    assert exit_code_of(["sweep", str(folder / "sweep.yaml")]) == 0
    assert "trial001" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("trials/**/*")} == files


def test_a_killed_sweep_goes_on_on_workers_and_finds_the_same(finished, tmp_path):
    distributed = pytest.importorskip("distributed")
    folder = shutil.copytree(finished[0], tmp_path / "moved")
    for done in ("survivors.offramp", "trials/trial000"):
        shutil.rmtree(folder / "out" / done)
    (folder / "out/trials/trial001/rung1.jsonl").unlink()  # as if it had been killed behind the last epoch
    trained = (folder / "out/trials/trial001/checkpoint.pt").stat().st_mtime_ns
    threads = torch.get_num_threads()
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        found = sweep(folder / "sweep.yaml", scheduler=cluster.scheduler_address)
    assert (folder / "out/trials/trial001/checkpoint.pt").stat().st_mtime_ns == trained
    assert torch.get_num_threads() == threads
    assert lasting(found) == lasting(finished[1]) and digests(found) == digests(finished[1])


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(finished, own_code):
    distributed = pytest.importorskip("distributed")
    folder, killed = own_code("worker", TWO), []

    def kill(cluster):
        while not list(folder.glob("out/trials/*/checkpoint.pt")):
            time.sleep(0.01)
        killed.append(next(iter(cluster.workers.values())).process.pid)
        os.kill(killed[0], signal.SIGKILL)

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        threading.Thread(target=kill, args=[cluster], daemon=True).start()
        found = sweep(folder / "sweep.yaml", scheduler=cluster.scheduler_address)
    assert killed and lasting(found) == lasting(finished[1]) and digests(found) == digests(finished[1])


def test_every_form_of_a_survivor_is_a_variant(own_code):
    folder = own_code("forms", "space: {rule: [entropy, margin], quantize: [int8]}")
    (folder / "sweep.yaml").write_text((folder / "sweep.yaml").read_text().replace("rungs: 2", "rungs: 1"))
    found = sweep(folder / "sweep.yaml")
    variants = open_bundle(found.bundle).manifest.variants
    made = {
        variant.name: (variant.rule, variant.precision, variant.origin and variant.origin.parent)
        for variant in variants
    }
    assert made == {
        "trial000": ("entropy", "fp32", None),
        "trial000-margin": ("margin", "fp32", None),
        "trial000-int8": ("entropy", "int8", "trial000"),
        "trial000-margin-int8": ("margin", "int8", "trial000-margin"),
    }
    assert {(row.rule, row.precision) for row in found.rows} == {made[name][:2] for name in made}


def test_a_trial_that_fails_ends_alone(own_code, capsys):
    folder = own_code("failing", "space: {weights: [[1, 2, 3], [1, 2, 3, 4]]}")
    told: list[str] = []
    with pytest.raises(UsageError, match="All trials of rung 1 failed. trial000: There are 3 weights for 2 exits"):
        sweep(folder / "sweep.yaml", notice=told.append)
    assert [text.partition(":")[0] for text in told] == ["trial000 failed", "trial001 failed"]
    assert [row.failed[:19] for row in read_rows(folder / "out/table.jsonl")] == [
        "There are 3 weights",
        "There are 4 weights",
    ]


def test_what_failed_for_want_of_a_file_is_tried_again(own_code):
    folder = own_code("mended", "space: {lr: [0.1]}")
    text = (folder / "sweep.yaml").read_text().replace("judge: net.py", "judge: judge.py")
    (folder / "sweep.yaml").write_text(text.replace("rungs: 2", "rungs: 1"))
    with pytest.raises(UsageError, match="All trials of rung 1 failed. trial000: There is no file"):
        sweep(folder / "sweep.yaml")
    (folder / "judge.py").write_text(NET)
    assert not any(row.failed for row in sweep(folder / "sweep.yaml").rows)


def test_a_folder_of_another_sweep_is_left_as_it_is(finished, own_code):
    folder, _ = finished
    other = folder / "other.yaml"
    other.write_text((folder / "sweep.yaml").read_text().replace("epochs: 2", "epochs: 4"))
    with pytest.raises(UsageError, match="holds another sweep: its epochs differ"):
        sweep(other)
    other.write_text((folder / "sweep.yaml").read_text().replace("out: out", "out: ."))
    with pytest.raises(UsageError, match="no folder of a sweep"):
        sweep(other)
    with pytest.raises(MissingError, match="Workers share the sweep's folder"):
        run_trial(str(folder / "elsewhere"), 0, 0)
    with pytest.raises(UsageError, match="none with a scheduler"):
        sweep(other, scheduler="tcp://127.0.0.1:9", workers=2)


def test_two_at_once_are_refused(finished):
    from offramp.sweep.running import _prepared
    from offramp.sweep.trials import read_stored

    folder = finished[0]
    with (
        _prepared(folder / "out", read_stored(folder / "out")),
        pytest.raises(UsageError, match="Another process runs"),
    ):
        sweep(folder / "sweep.yaml")
