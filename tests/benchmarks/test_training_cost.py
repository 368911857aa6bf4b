"""training_cost.py: both sides run the same network and learn, rows are complete, a bad case is one line."""

import csv
import json

import pytest
import torch

from mask2edge.benchmarks import timing, training_contenders, training_cost
from mask2edge.benchmarks.training_contenders import CASES, CONTENDERS, Case, huggingface_config, random_targets
from mask2edge.train.config import ModelConfig
from mask2edge.train.model.mask2former import build_model

transformers = pytest.importorskip("transformers")

TINY = Case(
    ModelConfig(
        "swin-tiny", num_classes=5, num_queries=8, hidden_dim=32, num_heads=2, encoder_layers=1, encoder_ffn=32,
        decoder_layers=3, decoder_ffn=32,
    ),
    1, (64, 64), 3, 50,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(training_contenders.CASES, "r50-small", TINY)
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(training_cost, "RESULTS", tmp_path / "training_cost.csv")
    # a fresh process would not know the tiny case
    monkeypatch.setattr(
        training_cost, "in_fresh_process", lambda what, *rest: training_cost.MEASURES[what](*map(str, rest))
    )


@pytest.mark.parametrize("case", [TINY, CASES["r50-small"]], ids=["swin", "r50"])
def test_both_sides_have_as_many_weights(case):
    """Matrices and kernels; vectors of the norms are parameters on one side and constants on the other."""
    ours = build_model(case.model)
    theirs = transformers.Mask2FormerForUniversalSegmentation(huggingface_config(case))
    mine, other = (sum(p.numel() for p in model.parameters() if p.ndim > 1) for model in (ours, theirs))
    assert mine == other > 100_000


@pytest.mark.parametrize("side", CONTENDERS)
def test_a_side_learns_its_batch(side):
    torch.manual_seed(0)
    step = CONTENDERS[side](TINY)
    losses = [step() for _ in range(25)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_targets_are_blobs_of_the_size():
    targets = random_targets(6, (64, 96), 5, torch.Generator().manual_seed(0))
    assert targets["masks"].shape == (6, 64, 96)
    assert targets["masks"].dtype == torch.bool
    assert 0.1 < targets["masks"].float().mean() < 0.4
    assert 0 <= targets["labels"].min() <= targets["labels"].max() < 5


def test_a_row_of_steps(tiny, tmp_path, capsys):
    assert training_cost.main(["--steps", "2", "--threads", "1", "--json", "--save"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["ratio"] == pytest.approx(row["seconds_p50"] / row["reference_seconds_p50"], rel=0.1)
    assert row["peak_mb"] > 100
    (saved,) = csv.DictReader((tmp_path / "training_cost.csv").read_text().splitlines())
    assert saved["contender"] == "ours"
    assert saved["reference"] == "huggingface"


def test_the_loss_on_points_takes_less_memory_than_on_masks(monkeypatch, tmp_path, capsys):
    """In fresh processes, at a quarter of the size of the figure that is reported."""
    monkeypatch.setattr(training_cost, "RESULTS", tmp_path / "training_cost.csv")
    arguments = ["--loss", "--crop", "256", "256", "--targets", "30", "--points", "1000", "--threads", "1"]
    assert training_cost.main([*arguments, "--save"]) == 0
    (saved,) = csv.DictReader((tmp_path / "training_cost.csv").read_text().splitlines())
    assert float(saved["memory_ratio"]) < 1 / 3
    captured = capsys.readouterr()
    assert captured.out.startswith("peak memory: points")
    assert captured.err == ""


def test_a_process_that_fails_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(training_cost.sys, "executable", "/bin/false")
    assert training_cost.main(["--loss", "--crop", "32", "32"]) == 2
    assert capsys.readouterr().err.endswith("its process ended: exit code 1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "--steps", "2"], "--steps: expected it without --loss, got it with"),
        (["--loss", "--case", "r50"], "--case: expected it without --loss, got it with"),
        (["--crop", "64", "64"], "--crop: expected it with --loss, got it without"),
        (["--points", "9"], "--points: expected it with --loss, got it without"),
        (["--loss", "--crop", "64", "50"], "--crop: expected multiples of 32, got 64 50"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert training_cost.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""
