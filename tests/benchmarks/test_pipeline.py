"""pipeline.py: the reference's post-processing, which files, agreement, ratio and rows, the stream, bad input."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mask2edge.benchmarks import machine, pipeline, timing
from mask2edge.benchmarks.peers import reference_postprocessing
from mask2edge.benchmarks.peers.reference_postprocessing import Geometry
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.spec import EngineSpec, Profile
from mask2edge.runtime.stream import stream


class Blocks:
    """Logits whose answer is known at any size: four quarters, sure of a query each; a fifth query lies over two."""

    geometry = Geometry((64, 96), (48, 96), (24, 48))
    # [5, 4]: classes 0, 1, 1, 2, and one that is mostly no object; the quarters' borders are at rows 24, columns 48
    class_logits = torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 2, 9]])
    mask_logits = torch.full((5, 16, 24), -20.0)
    mask_logits[0, :6, :12] = mask_logits[1, :6, 12:] = mask_logits[2, 6:12, :12] = mask_logits[3, 6:12, 12:] = 20
    mask_logits[4, :, :12] = 20
    classes = np.kron([[0, 1], [1, 2]], np.ones((12, 24), int))  # [24, 48]


@pytest.mark.parametrize("order", ["image", "padded"])
def test_reference_semantic(order):
    found = reference_postprocessing.semantic(Blocks.class_logits, Blocks.mask_logits, Blocks.geometry, order)
    assert (found.numpy() != Blocks.classes).mean() < 0.01


def test_reference_panoptic_merges_stuff_and_keeps_things_apart():
    for is_thing, ids, labels in (
        ([True, True, True], [[1, 2], [3, 4]], [0, 1, 1, 2]),
        ([True, False, True], [[1, 2], [2, 3]], [0, 1, 2]),
    ):
        found, segments = reference_postprocessing.panoptic(
            Blocks.class_logits, Blocks.mask_logits, Blocks.geometry, is_thing, 0.8, 0.8
        )
        assert segments == labels
        assert (found.numpy() != np.kron(ids, np.ones((12, 24), int))).mean() < 0.01
    nothing, none = reference_postprocessing.panoptic(
        -Blocks.class_logits, Blocks.mask_logits, Blocks.geometry, [True] * 3, 0.8, 0.8
    )
    assert not none
    assert not nothing.any()


def test_reference_instances_are_scored_by_class_and_mask():
    masks, labels, scores = reference_postprocessing.instance(
        Blocks.class_logits, Blocks.mask_logits, Blocks.geometry, 5
    )
    assert masks.shape == (5, 24, 48)
    assert sorted(labels[:4]) == [0, 1, 1, 2]
    assert scores[:4].min() > 0.99
    for mask, label in zip(masks.numpy()[:4], labels, strict=False):
        assert abs(int(mask.sum()) - 12 * 24) <= 24
        assert (Blocks.classes[mask] == label).all()


def test_files_are_those_named_or_the_data_sets_first_or_the_photograph(color_data, tmp_path):
    stripes = np.zeros((8, 8), int)
    data = color_data({"val": [(stripes, stripes)] * 6, "train": [(stripes, stripes)]})
    assert [path.name for path in pipeline.choose_files([], data, 4)] == ["0.png", "1.png", "2.png", "3.png"]
    assert pipeline.choose_files([data / "train" / "0.png"], None, 4) == [data / "train" / "0.png"]
    assert [path.name for path in pipeline.choose_files([], None, 4)] == ["china.jpg"]
    with pytest.raises(InputError, match="no such file"):
        pipeline.choose_files([tmp_path / "nowhere.jpg"], None, 4)


@pytest.fixture
def toy(color_engine, tmp_path, monkeypatch):
    """An engine that knows colours, an image, and in torch's place the engine again."""
    stripes = np.zeros((50, 70, 3), np.uint8)
    stripes[:, :35, 2] = stripes[:, 35:, 0] = 255  # red, blue
    cv2.imwrite(str(tmp_path / "stripes.png"), stripes)
    checkpoint = tmp_path / "colors.safetensors"
    checkpoint.write_bytes(b"weights")

    class Theirs:
        def __init__(self, path, spec, threads):
            self.inner = pipeline.our_pipeline(Segmenter.load(engine))

        def __call__(self, path):
            return self.inner(path)

    engine = color_engine()
    monkeypatch.setattr(pipeline, "TorchPipeline", Theirs)
    monkeypatch.setattr(pipeline, "RESULTS", tmp_path / "results" / "pipeline.csv")
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    return ["--engine", engine, "--checkpoint", checkpoint, "--image", tmp_path / "stripes.png", "--threads", "1"]


def run(capsys, *arguments):
    code = pipeline.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_ratio_images_per_second_and_a_row(toy, tmp_path, capsys):
    code, out, _ = run(capsys, *toy, "--runs", "3", "--save", "--json")
    result = json.loads(out)
    assert code == 0
    ours, theirs = (result["ms_per_image"][name]["p50"] for name in ("mask2edge", "torch-eager"))
    assert result["ratio"] == pytest.approx(ours / theirs, rel=0.01)
    assert result["times_faster"] == pytest.approx(theirs / ours, rel=0.01)
    assert result["images_per_s"]["mask2edge"] == pytest.approx(1000 / ours, rel=0.01)
    assert (result["agreement"], result["mode"], result["files"]) == (1.0, "single", 1)
    with (tmp_path / "results" / "pipeline.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == pipeline.COLUMNS
    assert (row["engine"], row["mode"], float(row["ratio"])) == ("colors.engine", "single", result["ratio"])


def test_both_sides_have_to_agree(toy, monkeypatch, capsys):
    monkeypatch.setattr(pipeline.TorchPipeline, "__call__", lambda self, path: 1 - self.inner(path), raising=False)
    code, out, err = run(capsys, *toy, "--runs", "1")
    assert (code, out) == (2, "")
    assert re.search("error: .*stripes.png: expected both sides to agree on 99.5% of the pixels, got 0.00%", err)


def test_the_stream_is_what_is_compared_in_stream_mode(toy, tmp_path, monkeypatch, capsys):
    streamed = []

    def spied(segmenter, paths, task):
        options = segmenter.session._session.get_session_options()
        streamed.append((task, list(paths), options.get_session_config_entry("session.intra_op.allow_spinning")))
        return stream(segmenter, paths, task)

    monkeypatch.setattr(pipeline, "stream", spied)
    code, out, _ = run(capsys, *toy, "--runs", "2", "--stream", "--save", "--json")
    result = json.loads(out)
    assert code == 0
    assert streamed == [("semantic", [toy[5]], "0")] * 3  # a warm-up and two runs, of threads that do not spin
    p50 = {name: side["p50"] for name, side in result["ms_per_image"].items()}
    assert set(p50) == {"mask2edge", "torch-eager", "mask2edge-stream"}
    assert result["ratio"] == pytest.approx(p50["mask2edge-stream"] / p50["torch-eager"], rel=0.01)
    assert result["stream_to_loop"] == pytest.approx(p50["mask2edge-stream"] / p50["mask2edge"], rel=0.01)
    assert list(result["steps_ms"]) == ["read_ms", "preprocess_ms", "network_ms", "postprocess_ms"]
    steps = list(result["steps_ms"].values())
    assert result["serial_share"] == pytest.approx(pipeline.serial_share(p50["mask2edge-stream"], steps), rel=0.05)
    with (tmp_path / "results" / "pipeline.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["mode"], float(row["ours_p50_ms"])) == ("stream", p50["mask2edge-stream"])
    assert float(row["stream_to_loop"]) == result["stream_to_loop"]
    assert float(row["serial_share"]) == result["serial_share"]
    assert row["image_size"] == "50x70"


def test_the_stream_against_the_plain_loop_alone_needs_no_torch_and_no_checkpoint(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "TorchPipeline", lambda *_: pytest.fail("torch's side was made"))
    toy[3].unlink()
    code, out, _ = run(capsys, *toy, "--runs", "2", "--stream", "--no-torch", "--save", "--json")
    result = json.loads(out)
    assert code == 0
    assert set(result["ms_per_image"]) == {"mask2edge", "mask2edge-stream"}
    assert "ratio" not in result
    with (tmp_path / "results" / "pipeline.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["ratio"], row["torch_p50_ms"], row["agreement"]) == ("", "", "")
    assert float(row["stream_to_loop"]) == result["stream_to_loop"]
    code, out, _ = run(capsys, *toy, "--runs", "1", "--stream", "--no-torch")
    assert "stream / plain loop" in out
    assert "torch" not in out.replace(machine.one_line(result["machine"]), "")


@pytest.mark.parametrize(("stream_ms", "share"), [(6.0, 0.0), (8.0, 0.5), (10.0, 1.0), (12.0, 1.5)])
def test_the_serial_share_is_what_does_not_overlap_of_what_could(stream_ms, share):
    assert pipeline.serial_share(stream_ms, [1.0, 2.0, 6.0, 1.0]) == share
    assert pipeline.serial_share(stream_ms, [6.0, 0.0]) == 0.0


def test_the_stream_gives_the_label_maps_in_order_and_a_files_error(toy, color_engine, tmp_path):
    segmenter = Segmenter.load(color_engine("again"))
    cv2.imwrite(str(tmp_path / "green.png"), np.full((20, 30, 3), (0, 255, 0), np.uint8))
    first, second = pipeline.our_stream(segmenter, [tmp_path / "stripes.png", tmp_path / "green.png"])
    assert first.shape == (50, 70)
    assert set(np.unique(first)) == {0, 2}
    assert (second == 1).all()
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty.png: .*an empty file"):
        pipeline.our_stream(segmenter, [tmp_path / "empty.png"])


def test_overlays_are_a_step_of_both_sides(toy, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(pipeline, "write_overlay", lambda result, image: drawn.append((result.size, image.shape)))
    arguments = [*toy, "--runs", "2", "--stream", "--no-torch", "--overlays", "--save", "--json"]
    code, out, _ = run(capsys, *arguments)
    result = json.loads(out)
    assert code == 0
    assert drawn == [((50, 70), (50, 70, 3))] * 6  # a warm-up and two runs of each
    assert list(result["steps_ms"]) == ["read_ms", "preprocess_ms", "network_ms", "postprocess_ms", "write_ms"]
    with (tmp_path / "results" / "pipeline.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["mode"] == result["mode"] == "stream with overlays"


def test_the_plain_loop_takes_a_dynamic_engine_and_torchs_side_does_not(toy, tmp_path, capsys):
    spec = EngineSpec.load(toy[1])
    replace(spec, profile=Profile((1, 32, 32), (1, 64, 96), (1, 64, 96))).save(toy[1])
    cv2.imwrite(str(tmp_path / "stripes.png"), np.zeros((64, 96, 3), np.uint8))
    code, out, _ = run(capsys, *toy, "--runs", "1", "--stream", "--no-torch", "--json")
    assert (code, json.loads(out)["image_size"]) == (0, "64x96")
    code, _, err = run(capsys, *toy, "--runs", "1", "--stream")
    assert code == 2
    assert "colors.engine: expected a fixed size, which torch's side can match, got a dynamic engine" in err


BAD = [
    (["--engine", "nowhere.engine"], "nowhere.engine: expected an engine folder"),
    (["--checkpoint", "nowhere.safetensors", "--engine", "ENGINE"], "nowhere.safetensors: no such file"),
    (["--checkpoint", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
    (["--image", "nowhere.jpg"], "nowhere.jpg: no such file"),
    (["--no-torch"], "--no-torch: expected with --stream"),
    (["--stream", "--overlays"], "--overlays: expected with --stream --no-torch"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(arguments, message, color_engine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    engine = str(color_engine())
    code, out, err = run(capsys, *(engine if argument == "ENGINE" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert re.search(message, err), err


@pytest.mark.slow
def test_the_shipped_checkpoint_in_torch_and_in_our_runtime_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "--threads", "2", "--runs", "3", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["agreement"] > 0.999
    assert result["times_faster"] > 1
    assert Path("artifacts/benchmarks/street-lite-fp32.engine/spec.json").is_file()
