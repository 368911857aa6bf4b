"""overfit.py: the images it learns are the split's first, unchanged; and the whole way ends in the engine's PQ."""

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from data_folders import write_coco_panoptic

from mask2edge.benchmarks import overfit
from mask2edge.benchmarks.overfit import first_images, main
from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.spec import EngineSpec
from mask2edge.train.data.coco_panoptic import CocoPanoptic

TINY = """
name = "tiny"
tasks = ["panoptic"]
[model]
backbone = "efficientnet-lite0"
num_classes = 3
num_queries = 4
hidden_dim = 32
num_heads = 2
encoder_layers = 1
encoder_ffn = 32
decoder_layers = 1
decoder_ffn = 32
[loss]
num_points = 32
[data]
crop = [64, 64]
scale = [1, 1]
scale_to = "crop"
shortest_edge = 64
longest_edge = 64
workers = 0
[train]
steps = 2
batch_size = 1
log_every = 1
imagenet_weights = false
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.toml").write_text(TINY)
    data = write_coco_panoptic(tmp_path / "coco")
    out = tmp_path / "out"
    return ["--config", str(tmp_path / "tiny.toml"), "--data", str(data), "--out", str(out), "--images", "2"]


def test_the_first_images_are_those_of_the_split(tmp_path: Path) -> None:
    source = CocoPanoptic(write_coco_panoptic(tmp_path / "coco"), "train")
    first_images(source, 1, tmp_path / "few")
    chosen = first_images(source, 2, tmp_path / "few")  # in the place of the earlier ones
    assert chosen.labels == source.labels
    for split in ("train", "val"):
        few = CocoPanoptic(tmp_path / "few", split)
        assert [few.name(index) for index in range(len(few))] == ["000.png", "001.png"]
        for index in range(2):
            (image, annotation), (expected_image, expected) = few[index], source[index]
            assert np.array_equal(image, expected_image)
            assert np.array_equal(annotation.planes, expected.planes)
            assert np.array_equal(annotation.label_ids, expected.label_ids)
            assert np.array_equal(annotation.crowd, expected.crowd)
    with pytest.raises(InputError, match="--images: expected at most 3, as many as train2017 has, got 4"):
        first_images(source, 4, tmp_path / "few")


def test_trained_exported_and_measured(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overfit, "RESULTS", tmp_path / "overfit.csv")
    assert main([*words, "--save", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    engine = Path(result["artifact"])
    assert 0 <= result["metrics"]["PQ"] <= 1
    assert (result["images"], result["segments"], result["classes"], result["steps"]) == (2, 6, 2, 2)
    assert EngineSpec.load(engine).checkpoint_sha256 == result["checkpoint_sha256"]
    assert result["checkpoint_sha256"] == sha256_of(engine.parent / "run" / "last.safetensors")
    monkeypatch.setattr(overfit, "run_training", lambda _: pytest.fail("trained twice"))
    monkeypatch.setattr(overfit, "measure", lambda *_: result)
    assert main([*words, "--save"]) == 0  # measured again, not trained again
    assert "says nothing about other images" in capsys.readouterr().out
    with (tmp_path / "overfit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0].pop("command").endswith("--images 2 --save --json")
    assert rows[1].pop("command").endswith("--images 2 --save")
    assert rows[0] == rows[1]
    assert rows[0]["artifact_sha256"] == result["sha256"]
    assert float(rows[0]["PQ"]) == pytest.approx(result["metrics"]["PQ"], abs=1e-4)


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [(-signal.SIGTERM, 130, ""), (2, 2, "error: the training failed; its message is above")],
    ids=["stopped", "failed"],
)
def test_a_training_that_did_not_end_is_not_measured(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    exit_code: int,
    message: str,
) -> None:
    monkeypatch.setattr(overfit, "run_training", lambda _: code)
    monkeypatch.setattr(overfit, "output_of", lambda *_: pytest.fail("measured"))
    assert main(words) == exit_code
    assert message in capsys.readouterr().err
