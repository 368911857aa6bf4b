"""Several processes under a real torchrun: the run of one process, stopped and failing as one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from mask2edge.train import run_folder
from mask2edge.train.checkpoint import load_checkpoint
from mask2edge.train.train import main

TINY = """
[model]
backbone = "efficientnet-lite0"
num_classes = 2
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
shortest_edge = 48
longest_edge = 64
workers = 1
[train]
steps = 20
batch_size = 4
learning_rate = 1e-4 # AdamW turns the rounding of a gradient near 0 into a step of this size
clip_norm = 1.0
log_every = 1
validate_every = 8
ema_decay = 0.9
imagenet_weights = false
"""
RATES = {"seconds", "seconds_per_step", "data_seconds_per_step", "images_per_second"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun's processes
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torchrun")
    (root / "tiny.toml").write_text(TINY)
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 1)):
        for name in (split, f"{split}annot"):
            (root / "data" / name).mkdir(parents=True)
        (root / "data/classes.txt").write_text("dark\nlight")
        for index in range(count):
            label_map = (generator.random((6, 8)) > 0.5).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(root / f"data/{split}/{index}.png"), 200 * label_map[..., None].repeat(3, 2))
            cv2.imwrite(str(root / f"data/{split}annot/{index}.png"), label_map)
    return root


def arguments(root: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(root / "tiny.toml"), "--data", str(root / "data"), "--out", str(out), *more]


Process = subprocess.Popen[str]
Launch = Callable[..., Process]


@pytest.fixture
def torchrun() -> Iterator[Launch]:
    """Starts two processes of a command; what still runs when a test ends is ended."""
    started: list[Process] = []

    def start(*command: str) -> Process:
        started.append(_torchrun(*command))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # it ends its own processes
            process.communicate(timeout=60)


def _torchrun(*command: str) -> Process:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def train_with_two(torchrun: Launch, root: Path) -> Launch:
    return lambda out, *more: torchrun("-m", "mask2edge.train.train", *arguments(root, out, *more))


def rows(out: Path) -> list[dict[str, Any]]:
    parsed = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in RATES} for row in parsed]


def assert_same_losses(one: Path, other: Path) -> None:
    first, second = rows(one), rows(other)
    assert [(row["kind"], row["step"]) for row in first] == [(row["kind"], row["step"]) for row in second]
    for row, twin in zip(first, second, strict=True):
        if row.pop("kind") == twin.pop("kind") == "train":
            assert twin.pop("gradient_norm") == pytest.approx(row.pop("gradient_norm"), rel=1e-3)
            assert twin == pytest.approx(row, rel=1e-5)
        else:
            assert twin["pixel_accuracy"] == pytest.approx(row["pixel_accuracy"], abs=1e-3)


@pytest.fixture(scope="module")
def alone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps in one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert main(arguments(root, out)) == 0
    return out


def wait_for_rows(out: Path, count: int, process: Process) -> None:
    deadline = time.monotonic() + 300
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") >= count):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rank_of(pid: int) -> str:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(value[5:].decode() for value in environment if value.startswith(b"RANK="))


def test_one_process_and_two_are_one_run(train_with_two: Launch, alone: Path, tmp_path: Path) -> None:
    process = train_with_two(tmp_path / "two", "--set", "train.accumulate=2")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert printed.strip() == str(tmp_path / "two/best.safetensors")
    assert errors.count("20 steps of 4 crops on 2 processes") == 1
    assert_same_losses(tmp_path / "two", alone)


def test_one_process_resumes_a_run_of_two_that_a_signal_to_one_of_them_stopped(
    train_with_two: Launch, root: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = train_with_two(out)
    wait_for_rows(out, 4, process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (other,) = [int(pid) for pid in workers if rank_of(int(pid)) == "1"]
    os.kill(other, signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert errors.count("and saved; repeat the command with --resume") == 1, errors
    step = load_checkpoint(out / "last.safetensors").step
    assert f"stopped at step {step} of 20" in errors
    assert 4 <= step < 20
    assert main(arguments(root, out, "--resume")) == 0
    assert_same_losses(out, alone)


def test_two_processes_resume_a_run_of_one(
    train_with_two: Launch, root: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = run_folder.append_metrics

    def append_and_signal(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["step"] == 9:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "append_metrics", append_and_signal)
        assert main(arguments(root, tmp_path / "run")) == 130
    process = train_with_two(tmp_path / "run", "--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_same_losses(tmp_path / "run", alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_stops_and_saves(train_with_two: Launch, tmp_path: Path, number: signal.Signals) -> None:
    process = train_with_two(tmp_path / "run", "--set", "train.steps=1000")
    wait_for_rows(tmp_path / "run", 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert errors.count("and saved; repeat the command with --resume") == 1, errors
    step = load_checkpoint(tmp_path / "run/last.safetensors").step
    assert f"stopped at step {step} of 1000" in errors
    assert rows(tmp_path / "run")[-1]["step"] == step


def test_a_loss_that_is_not_finite_stops_all_with_one_line(train_with_two: Launch, tmp_path: Path) -> None:
    process = train_with_two(tmp_path / "run", "--set", "train.learning_rate=1e30", "train.checkpoint_every=1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert re.match(r"error: step \d+: the loss", lines[0])
    with safe_open(tmp_path / "run/training_state.safetensors", "pt") as state:  # the last that a step was finite from
        assert json.loads(state.metadata()["progress"])["step"] == rows(tmp_path / "run")[-1]["step"] - 1


EXCHANGE = """
import sys
from mask2edge.runtime.command_line import InputError
from mask2edge.train.distributed import joined

with joined() as processes:
    assert processes.sum([1.0, processes.rank]) == [2.0, 1.0]
    assert processes.max([processes.rank]) == [1.0]
    assert processes.from_main([10.0 + processes.rank]) == [10.0]
    with processes.together():
        pass
    try:
        with processes.together():
            if processes.rank == 1:
                raise InputError("prés.jpg: cannot be read")
    except InputError as error:
        assert str(error) == "prés.jpg: cannot be read", str(error)
    else:
        raise AssertionError("nothing raised")
    print(f"done {processes.rank}")
"""


def test_what_processes_say_to_one_another(torchrun: Launch, tmp_path: Path) -> None:
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    printed, errors = torchrun(str(tmp_path / "exchange.py")).communicate(timeout=300)
    assert "done 0" in printed, errors
    assert "done 1" in printed, errors


def test_a_batch_that_cannot_be_divided_is_refused_in_one_line(train_with_two: Launch, tmp_path: Path) -> None:
    process = train_with_two(tmp_path / "run", "--set", "train.batch_size=3")
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert errors.count("error: train.batch_size: expected a multiple of 2 (processes: 2") == 1, errors
    assert not (tmp_path / "run").exists()
