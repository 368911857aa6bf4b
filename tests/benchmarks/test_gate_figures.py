"""gate_figures.py: the same checkpoint gives the same figures, and a graph of other weights fails the gate."""

import csv

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import gate, gate_figures

torch = pytest.importorskip("torch")

from mask2edge.export import to_onnx  # noqa: E402
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing  # noqa: E402
from mask2edge.train.checkpoint import save_checkpoint  # noqa: E402
from mask2edge.train.config import ModelConfig  # noqa: E402
from mask2edge.train.model.mask2former import build_model  # noqa: E402

SIZE = (64, 96)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random network of the smallest kind that finds each class somewhere."""
    torch.manual_seed(2)
    config = ModelConfig(
        backbone="efficientnet-lite0", num_classes=3, num_queries=6, hidden_dim=32, num_heads=4, encoder_layers=1,
        encoder_ffn=32, decoder_layers=3, decoder_ffn=32,
    )  # fmt: skip
    model = build_model(config).eval()
    with torch.no_grad():
        model.mask_decoder.class_head.weight.mul_(5)
        model.pixel_decoder.mask_features.weight.mul_(10)
    labels = tuple(Label(i, name, None, (i, i, i), i) for i, name in enumerate(("red", "green", "blue")))
    rules = Preprocessing((127.5,) * 3, (127.5,) * 3, "keep-ratio", 80, 160)
    spec = ModelSpec("tiny", labels, 6, rules, Postprocessing(semantic_order="padded"), size=SIZE)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, model.state_dict(), config, spec)
    return path


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
