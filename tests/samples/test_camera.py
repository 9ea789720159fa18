"""The camera sample: what it says of frames is what came of them, from a film and from a video file."""

import json

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Reuse, read_calibration, write_calibration
from offramp.export import export
from offramp.runtime import read_snapshot
from offramp.tests.helpers.pages import run_script
from offramp.tests.zoo.dense import write_convolutions


@pytest.fixture
def run_camera(checkout, tmp_path):
    """Run the sample on a source; return the summary that it wrote."""

    def run(*options):
        file = tmp_path / "summary.json"
        run_script(checkout, "samples/camera/camera.py", *options, "--meter", "simulated", "--json", file)
        return json.loads(file.read_text())

    return run


def test_a_film_goes_through_stream_deadline_reuse_and_governor(calibrated, tmp_path, run_camera):
    path = calibrated.calibrations()[0]
    found = read_calibration(path)
    rule = Reuse(difference=0.2, most_in_row=3, latency_s=1e-4, plain_latency_s=2e-4)
    never = replace(found.point, thresholds=(2.0, 2.0), reuse=rule)
    points = {"accurate": never, "eco": replace(never, thresholds=(0.0, 2.0), latency_s=never.latency_s / 2)}
    write_calibration(path, replace(found, points=points))
    scenes = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    np.savez(tmp_path / "film.npz", x=np.repeat(scenes, 8, axis=0))
    options: tuple[object, ...] = ("--frames", 300, "--fps", 300, "--deadline-ms", 60_000, "--max-power-w", 4.5)
    options += ("--metrics", tmp_path / "counts.json")
    summary = run_camera(tmp_path / "film.npz", "--bundle", calibrated.path, *options)
    assert summary["frames"] >= summary["answered"] == 300 and summary["faults"] == 0
    counted = read_snapshot(tmp_path / "counts.json")
    assert counted.stream.reused >= summary["reused"] and counted.moves == len(summary["moves"])
    assert summary["frames"] == sum(summary[name] for name in ("answered", "dropped", "refused", "waiting"))
    assert summary["reused"] > 0 and (summary["cut"], summary["late"], summary["refused"]) == (0, 0, 0)
    assert summary["exit shares"][2] > 0 and 4 < summary["mean power W"] < 9.5
    assert any("accurate to eco" in move and "more than allowed" in move for move in summary["moves"])


@pytest.mark.filterwarnings("ignore:.*has no calibration")
def test_a_video_file_is_read_in_the_size_of_the_network(tmp_path, run_camera):
    av = pytest.importorskip("av")
    example = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    bundle = export(write_convolutions(tmp_path / "net.onnx"), example, tmp_path / "net.offramp")
    with av.open(str(tmp_path / "film.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in range(0, 240, 20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    summary = run_camera(tmp_path / "film.avi", "--bundle", bundle.path, "--fps", 100, "--deadline-ms", 60_000)
    assert summary["frames"] == 12 and summary["refused"] == 0 and summary["answered"] + summary["dropped"] == 12
    assert summary["point"] is None and summary["moves"] == []
    with pytest.raises(AssertionError, match="PyAV cannot read http://127.0.0.1:1/x as a video"):
        run_camera("http://127.0.0.1:1/x", "--bundle", bundle.path)


@pytest.mark.slow
def test_the_bundle_and_the_film_are_made_by_one_command(checkout):
    printed = run_script(checkout, "samples/camera/prepare.py", "--epochs", 4, "--images", 1000, "--clips", 90)
    assert "finding rules for reuse on 90 clips" in printed
    film = np.load(checkout / "build/camera/film.npz")["x"]
    assert film.shape[1:] == (1, 28, 28) and film.dtype == np.float32
    assert (checkout / "build/camera/network.offramp/manifest.json").exists()
