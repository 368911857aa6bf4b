"""gate_figures.py: the same checkpoint gives the same figures, and a graph of other weights fails the gate."""

import csv

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import gate, gate_figures

torch = pytest.importorskip("torch")

from tiny_checkpoint import write_tiny_checkpoint  # noqa: E402

from mask2edge.export import to_onnx  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    cv2.imwrite(str(folder / "blobs.png"), cv2.resize(coarse, (90, 70)))
    return folder / "blobs.png"


def figures(checkpoint, image, folder, name):
    out = folder / name
    flags = ["--checkpoint", checkpoint, "--image", image, "--folder", folder / "engines", "--out", out]
    assert gate_figures.main([str(flag) for flag in flags]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow  # two exports and six engines; what CI's gate runs every time is the command itself
def test_figures_and_a_mutant(checkpoint, image, tmp_path, monkeypatch, capsys):
    base = figures(checkpoint, image, tmp_path, "base.csv")
    by_precision = {row["precision"]: row for row in base}
    assert set(by_precision) == {"fp32", "fp16", "int8"}
    assert float(by_precision["fp32"]["label_agreement"]) > 0.999
    assert int(by_precision["fp16"]["bytes"]) < int(by_precision["fp32"]["bytes"])
    assert len({row["multiply_adds"] for row in base}) == 1
    assert "/" not in "".join(row["image"] + row["model"] for row in base)

    def other_weights(model, *rest):
        with torch.no_grad():
            model.mask_decoder.class_head.weight.copy_(model.mask_decoder.class_head.weight.flip(0))
        return export_model(model, *rest)

    export_model = to_onnx.export_model
    monkeypatch.setattr(to_onnx, "export_model", other_weights)
    figures(checkpoint, image, tmp_path, "new.csv")
    capsys.readouterr()
    assert gate.main([str(tmp_path / "base.csv"), str(tmp_path / "base.csv")]) == 0
    assert gate.main([str(tmp_path / "base.csv"), str(tmp_path / "new.csv")]) == 1
    assert "fp32: label_agreement" in capsys.readouterr().out


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    assert gate_figures.main(["--checkpoint", str(tmp_path / "none.safetensors")]) == 2
    assert "no such file; name a checkpoint" in capsys.readouterr().err
