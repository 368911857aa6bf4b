"""Ranges from images: what the methods find, what the command line refuses, and the engine that comes of it."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from tiny_export import FIXED
from toy_graph import toy_graph

from mask2edge.export.build_engine import main
from mask2edge.export.calibration import calibrate
from mask2edge.export.calibration_options import METHODS, calibration_images
from mask2edge.export.onnx_metadata import read_description
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session_onnxruntime import OnnxRuntimeSession
from mask2edge.runtime.spec import EngineSpec


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three images of the input's shape: black, white, noise."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for name, values in (
        ("a-black", np.zeros((64, 96, 3), np.uint8)),
        ("b-white", np.full((64, 96, 3), 255, np.uint8)),
        ("c-noise", random.integers(0, 256, (64, 96, 3), dtype=np.uint8)),
    ):
        cv2.imwrite(str(folder / f"{name}.png"), values)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_images_are_spread_over_the_folder(photographs):
    names = [path.stem for path in calibration_images(photographs, 2)]
    assert names == ["a-black", "b-white"]
    assert len(calibration_images(photographs, 100)) == 3


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_preprocessed_pixels(photographs, method):
    """Mean and deviation are 127.5: black is -1 and white is 1."""
    black, white, noise = sorted(photographs.glob("*.png"))
    proto = toy_graph("standard", FIXED)
    found = calibrate(proto, ["pixels", "backbone.res2"], [black, white, noise], method)
    if method == "min-max":
        assert found["pixels"] == (-1.0, 1.0)
    low, high = found["pixels"]
    assert -1 <= low < -0.5
    assert 0.5 < high <= 1
    assert found["backbone.res2"][0] == 0  # behind a ReLU
    assert calibrate(proto, ["pixels"], [white], "min-max")["pixels"] == (1.0, 1.0)


def test_percentile_leaves_outliers_out(photographs):
    """One of 13 images has one white value: 4 of a million, and half a thousandth of a percent is 5."""
    quiet, loud = (photographs.parent / name for name in ("quiet.png", "loud.png"))
    image = np.full((64, 96, 3), 160, np.uint8)
    cv2.imwrite(str(quiet), image)
    image[0, 0, 0] = 255
    cv2.imwrite(str(loud), image)
    proto = toy_graph("standard", FIXED)
    assert calibrate(proto, ["pixels"], [*[quiet] * 12, loud], "min-max")["pixels"][1] == 1.0
    assert calibrate(proto, ["pixels"], [*[quiet] * 12, loud], "percentile")["pixels"][1] < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "--int8: expected --calibration DIR, got none"),
        (["--int8", "--calibration", "nowhere"], "nowhere: expected a folder of images, got nothing"),
        (["--int8", "--calibration", "file.txt"], "file.txt: expected a folder of images, got a file"),
        (["--int8", "--calibration", "empty"], "empty: expected an image"),
        (["--int8", "--calibration", "broken"], "broken.png"),
        (["--int8", "--calibration", "empty", "--calibration-images", "0"], "expected 1 or more, got 0"),
        (["--calibration", "empty"], "--calibration: expected together with --int8"),
        (["--fp16", "--calibration-images", "4"], "--calibration-images: expected together with --int8"),
        (["--fp16", "--calibration-method", "entropy"], "--calibration-method: expected together with --int8"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "broken"):
        Path(name).mkdir()
    Path("broken/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("file.txt").write_text("x")
    onnx.save(toy_graph("standard", FIXED), "toy.onnx")
    assert main(["toy.onnx", "--backend", "onnxruntime", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert not Path("artifacts").exists()


def test_an_unknown_method():
    with pytest.raises(InputError, match="expected one of percentile, min-max, entropy, got 'mean'"):
        calibrate(toy_graph("standard", FIXED), ["pixels"], [], "mean")


def test_an_engine_from_images(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(toy_graph("standard", FIXED), "toy.onnx")
    arguments = ["--int8", "--calibration", str(photographs), "--backend", "onnxruntime"]
    assert main(["toy.onnx", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["precision"] == "int8"
    assert "calibrating on 3 images" in captured.err
    engine = Path("artifacts/toy-int8.engine")
    spec = EngineSpec.load(engine)
    assert (spec.precision, spec.backend) == ("int8", "onnxruntime")
    assert read_description(engine / "model.onnx").precision == "int8"
    assert OnnxRuntimeSession(engine, spec, 1).run(np.zeros((1, 3, 64, 96), np.float32))["class_logits"].shape[0] == 1
    # The file is int8 already: an engine of it takes no images, and there is no way back.
    assert main([str(engine / "model.onnx"), "--int8", "--backend", "onnxruntime", "--out", "again.engine"]) == 0
    assert Path("again.engine/model.onnx").read_bytes() == (engine / "model.onnx").read_bytes()
    capsys.readouterr()
    assert main([str(engine / "model.onnx"), "--fp32", "--backend", "onnxruntime"]) == 2
    assert "is int8 already; start from the file that export/to_onnx.py wrote" in capsys.readouterr().err


def test_a_dry_run_needs_no_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(toy_graph("standard", FIXED), "toy.onnx")
    assert main(["toy.onnx", "--int8", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "toy-int8.engine" in output
    assert "int8         1 activations; a build measures their ranges on --calibration" in output
