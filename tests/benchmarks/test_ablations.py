"""Ablations: runs are trained once, go on where they were stopped, and are compared seed by seed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import ablations
from mask2edge.benchmarks.ablation_rows import BASELINE, METRICS, ROWS
from mask2edge.benchmarks.ablation_table import differences, markdown, sign
from mask2edge.benchmarks.ablations import main
from mask2edge.train.config import load_config
from mask2edge.train.train import parse_overrides

TINY = """
[model]
backbone = "efficientnet-lite0"
num_classes = 2
num_queries = 4
hidden_dim = 32
num_heads = 2
encoder_layers = 1
encoder_ffn = 32
decoder_layers = 2
decoder_ffn = 32
[loss]
num_points = 32
[data]
crop = [64, 64]
shortest_edge = 48
longest_edge = 64
workers = 0
[train]
batch_size = 1
log_every = 1
imagenet_weights = false
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.toml and data/ with two splits."""
    root = tmp_path_factory.mktemp("ablations")
    (root / "tiny.toml").write_text(TINY)
    generator = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in (split, f"{split}annot"):
            (root / "data" / name).mkdir(parents=True)
        for index in range(count):
            label_map = (generator.random((6, 8)) > 0.5).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(root / "data" / f"{split}/{index}.png"), 200 * label_map[..., None].repeat(3, 2))
            cv2.imwrite(str(root / "data" / f"{split}annot/{index}.png"), label_map)
    (root / "data" / "classes.txt").write_text("dark\nlight")
    return root


def words(root: Path, tmp_path: Path, *more: str, steps: int = 2) -> list[str]:
    return [
        "--config", str(root / "tiny.toml"), "--data", str(root / "data"), "--out", str(tmp_path / "runs"),
        "--results", str(tmp_path / "ablations.csv"), "--steps", str(steps), *more,
    ]  # fmt: skip


def recorded(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "ablations.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The training commands that were called; each writes the metrics of a run, of 0.4 + 0.1 × seed + row."""
    called: list[list[str]] = []

    def train(command: list[str]) -> int:
        called.append(command)
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir(parents=True)
        seed = next(int(word.removeprefix("train.seed=")) for word in command if word.startswith("train.seed="))
        score = 0.4 + 0.1 * seed - 0.03 * ("model.pixel_decoder=fpn" in command)
        rows = [{"kind": "train", "step": 2, "seconds_per_step": 0.5}, {"kind": "validation", "step": 2, "mIoU": score}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / "training_state.safetensors").touch()
        return 2 if "model.cross_attention=plain" in command else 0

    monkeypatch.setattr(ablations, "run_training", train)
    return called


def test_each_run_is_trained_once_and_all_rows_of_a_seed_first(
    root: Path, tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, tmp_path, "--seeds", "0,1", "--rows", "fpn")) == 0
    runs = [(row["row"], row["seed"], row["mIoU"]) for row in recorded(tmp_path)]
    assert runs == [
        ("mask2former", "0", "0.4000"), ("fpn", "0", "0.3700"), ("mask2former", "1", "0.5000"), ("fpn", "1", "0.4700"),
    ]  # fmt: skip
    assert "| fpn | 4e | 42.0 (2) | -3.0 ± 0.0 | -1.6 | same | 0.50 |" in capsys.readouterr().out
    assert not list(tmp_path.rglob("training_state.safetensors"))  # ended runs need none
    assert main(words(root, tmp_path, "--seeds", "0,1,2", "--rows", "fpn", "--json")) == 0
    assert [command[command.index("--out") + 1].split("-seed")[1][0] for command in commands] == list("001122")
    output = json.loads(capsys.readouterr().out)
    assert output["rows"][1]["metrics"]["mIoU"]["difference"] == pytest.approx(-3.0)
    assert output["failed"] == []


def test_the_same_row_under_other_settings_is_another_run(
    root: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    for more in ((), ("--set", "train.learning_rate=1e-3"), ()):
        assert main(words(root, tmp_path, "--rows", BASELINE, *more)) == 0
    assert main(words(root, tmp_path, "--rows", BASELINE, steps=3)) == 0
    assert [(row["steps"], row["common"]) for row in recorded(tmp_path)] == [
        ("2", ""), ("2", "train.learning_rate=1e-3"), ("3", ""),
    ]  # fmt: skip
    assert len(commands) == 3


def test_a_configuration_that_was_edited_or_only_shares_its_name_is_another_run(
    root: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    file = tmp_path / "mine" / "tiny.toml"
    file.parent.mkdir()
    for text in (TINY, TINY.replace("num_queries = 4", "num_queries = 5"), TINY):
        file.write_text(text)
        assert main([*words(root, tmp_path, "--rows", BASELINE), "--config", str(file)]) == 0
    assert main(words(root, tmp_path, "--rows", BASELINE)) == 0  # the same settings in another folder: the same run
    assert len(commands) == 2
    assert len({row["digest"] for row in recorded(tmp_path)}) == 2
    folders = [Path(command[command.index("--out") + 1]) for command in commands]
    assert folders[0] != folders[1]


def test_a_run_that_ended_without_a_row_is_recorded_and_not_trained_again(
    root: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    assert main(words(root, tmp_path, "--rows", "fpn")) == 0
    rows = recorded(tmp_path)
    (tmp_path / "ablations.csv").unlink()
    assert main(words(root, tmp_path, "--rows", "fpn")) == 0
    assert recorded(tmp_path) == rows
    assert len(commands) == len(rows) == 2


def test_a_run_whose_last_validation_came_earlier_has_not_ended(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert not ablations.has_ended(metrics, 4)
    metrics.write_text('{"kind": "validation", "step": 2}\n{"kind": "train", "step": 4}\n')
    assert not ablations.has_ended(metrics, 4)
    assert ablations.has_ended(metrics, 2)


@pytest.mark.parametrize("more", [(), ("--table",)])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other.csv", "expected the columns date, commit, cpu, versions, config,"),
        ("folder", "expected a CSV file, got something else of that name"),
    ],
)
def test_results_that_are_no_table_of_ablations_are_refused_before_anything_is_trained(
    root: Path,
    tmp_path: Path,
    commands: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
    more: tuple[str, ...],
) -> None:
    (tmp_path / "other.csv").write_text("date,ratio\n2026-11-22,0.63\n")
    (tmp_path / "folder").mkdir()
    assert main([*words(root, tmp_path, *more), "--results", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / name}: {message}")
    assert captured.err.count("\n") == 1
    assert commands == []


def test_a_failed_run_does_not_stop_the_others(
    root: Path, tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, tmp_path, "--rows", "plain-attention,fpn")) == 2
    captured = capsys.readouterr()
    assert "1 runs failed (plain-attention seed 0)" in captured.err
    assert "| fpn |" in captured.out
    assert [row["row"] for row in recorded(tmp_path)] == ["mask2former", "fpn"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rows", "fpn,unet"), "--rows: expected names among mask2former, plain-attention,"),
        (("--seeds", "0,x"), "--seeds: expected whole numbers such as 0,1,2, got '0,x'"),
        (("--data", "nowhere"), "--data: expected a folder, got 'nowhere'"),
        (("--set", "train.stepz=1"), "unknown key train.stepz"),
        (("--config", "nowhere"), "--config: expected a TOML file or one of"),
    ],
)
def test_bad_input(
    root: Path,
    tmp_path: Path,
    commands: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert main([*words(root, tmp_path), *more]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert commands == []


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_configuration_of_its_own(name: str) -> None:
    base = load_config("street-lite")
    config = load_config("street-lite", parse_overrides(ROWS[name].settings_for(base.model.num_queries)))
    assert (config == base) == (name == BASELINE)


def test_the_paper_s_differences() -> None:
    """Table 4a and 4b print some of them beside their figures; two of those are rounded from unrounded figures."""
    printed = {
        "plain-attention": (-1.7, -5.9, -4.8), "stride-32": (-1.1, -2.2, -1.7), "zero-queries": (-1.8, -0.8, -0.7),
        "self-first": (-0.9, -0.5, -0.3), "dropout": (0.0, -0.7, -0.6), "all-three": (-0.9, -1.4, -1.1),
    }  # fmt: skip
    for name, values in printed.items():
        assert tuple(ROWS[name].difference(metric) for metric in METRICS) == values


@pytest.mark.parametrize(
    ("difference", "spread", "paper", "expected"),
    [
        (-3.0, 1.0, -1.6, "same"),
        (3.0, 1.0, -1.6, "opposite"),
        (-1.0, 1.0, -1.6, "within the spread"),
        (-1.0, None, -1.6, "same (one seed)"),
        (-1.0, 0.1, 0.0, "–"),
        (-1.0, 0.1, None, "–"),
        (None, None, -1.0, "–"),
        (0.0, None, -1.6, "–"),
        (0.0, 0.0, -1.6, "–"),
    ],
)
def test_signs(difference: float | None, spread: float | None, paper: float | None, expected: str) -> None:
    assert sign(difference, spread, paper) == expected


def test_differences_are_of_the_same_seed_where_there_are_several() -> None:
    def run(row: str, seed: str, score: str, **more: str) -> dict[str, str]:
        return {"row": row, "seed": seed, "mIoU": score, "AP": "", "PQ": "", "seconds_per_step": "1.0"} | more

    runs = [run(BASELINE, "0", "0.5"), run(BASELINE, "1", "0.7"), run("fpn", "1", "0.6"), run("fpn", "2", "0.1")]
    # One seed of a row beside several of the baseline: of their mean, 60, whose runs stray from it by 14.1.
    (alone,) = differences(runs[:3], ["fpn"])
    assert alone["metrics"]["mIoU"]["difference"] == pytest.approx(0.0)
    assert alone["metrics"]["mIoU"]["spread"] == pytest.approx(14.142 * 1.5**0.5, abs=0.001)
    (alone,) = differences(runs[1:3], ["fpn"])  # one of each
    assert alone["metrics"]["mIoU"]["difference"] == pytest.approx(-10.0)
    assert alone["metrics"]["mIoU"]["spread"] is None
    base, fpn = differences(runs, [BASELINE, "fpn"])
    assert base["metrics"]["mIoU"]["difference"] is None
    assert fpn["metrics"]["mIoU"]["difference"] == pytest.approx(-10.0)  # of seed 1, the only one that both have
    assert fpn["metrics"]["mIoU"]["spread"] is None
    assert list(fpn["metrics"]) == ["mIoU"]
    assert base["metrics"]["mIoU"]["spread"] == pytest.approx(14.142, abs=0.001)
    assert differences(runs, ["bifpn"]) == []
    both = differences([*runs, run("fpn", "0", "0.5", AP="0.25")], ["fpn"])
    assert "| fpn | 4e | 40.0 (3) | -5.0 ± 7.1 | -1.6 | within the spread | 25.0 (1) | – | -2.2 | – |" in markdown(both)


@pytest.mark.slow
def test_real_runs_stopped_and_continued(root: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of the second run; the same command then ends it, and redoes nothing."""
    script = Path(ablations.__file__)
    command = [sys.executable, str(script), *words(root, tmp_path, "--rows", "fpn", steps=40)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        logs = [path for path in (tmp_path / "runs").glob("*fpn*/metrics.jsonl") if path.read_text().count("\n") > 2]
        if logs:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(timeout=120) == 130
    assert [row["row"] for row in recorded(tmp_path)] == ["mask2former"]
    (state,) = tmp_path.rglob("training_state.safetensors")
    before = (state.parent / "metrics.jsonl").read_text().splitlines()
    assert 0 < len(before) < 40
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [row["row"] for row in recorded(tmp_path)] == ["mask2former", "fpn"]
    assert (state.parent / "metrics.jsonl").read_text().splitlines()[: len(before)] == before
    assert "| fpn | 4e |" in result.stdout
