"""The training loop: what a step updates and how fast, and that a stopped run ends as if never stopped."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import CONFIG, tiny_model, write_bands
from torch import nn

from mask2edge.runtime import stopping
from mask2edge.runtime.command_line import InputError
from mask2edge.train import loop, run_folder
from mask2edge.train import step as step_module
from mask2edge.train.checkpoint import load_checkpoint
from mask2edge.train.config import Config, TrainConfig
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.labels import labels_from_names
from mask2edge.train.optimizer import set_learning_rate
from mask2edge.train.samples import SamplePictures
from mask2edge.train.train import build_spec
from mask2edge.train.validation import validate

SPEC = build_spec(CONFIG, labels_from_names(["red", "green", "blue"]))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[SemanticFolder, SemanticFolder]:
    return write_bands(tmp_path_factory.mktemp("bands"))


Run = Callable[..., loop.Outcome]


def validating(data: SemanticFolder) -> loop.Validation:
    spec = build_spec(CONFIG, data.labels)
    return lambda model, stop: validate(model, data, spec, stop)


@pytest.fixture
def run(data: tuple[SemanticFolder, SemanticFolder]) -> Run:
    def start(
        out: Path, resume: bool = False, config: Config = CONFIG, validation: loop.Validation | None = None
    ) -> loop.Outcome:
        # what a resumed run starts from must not matter
        model = tiny_model(seed=99 if resume else 0, dropout=config.model.decoder_dropout)
        spec = build_spec(config, data[0].labels)
        return loop.train(config, spec, model, data[0], validation or validating(data[1]), out, resume)

    return start


@pytest.fixture(scope="module")
def uninterrupted(data: tuple[SemanticFolder, SemanticFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    spec = build_spec(CONFIG, data[0].labels)
    outcome = loop.train(CONFIG, spec, tiny_model(seed=0), data[0], validating(data[1]), out)
    assert (outcome.step, outcome.signal) == (4, None)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    """What was measured, without the times."""
    parsed = [json.loads(line) for line in (out / run_folder.METRICS_FILE).read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in parsed]


def assert_same_run(one: Path, other: Path) -> None:
    """Losses to the last bit, weights and moments bit by bit, and the same best checkpoint."""
    assert rows(one) == rows(other)
    for name in (run_folder.LAST_FILE, run_folder.BEST_FILE, run_folder.STATE_FILE):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), (name, key)


def test_a_run_leaves_metrics_and_two_checkpoints(uninterrupted: Path) -> None:
    measured = rows(uninterrupted)
    assert [(row["kind"], row["step"]) for row in measured] == [
        ("train", 1), ("train", 2), ("validation", 2), ("train", 3), ("train", 4), ("validation", 4)
    ]  # fmt: skip
    assert measured[0].keys() == {
        "kind", "step", "lr", "loss", "loss_class", "loss_mask", "loss_dice", "gradient_norm", "skipped_images"
    }  # fmt: skip
    for line in (uninterrupted / run_folder.METRICS_FILE).read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "train":
            assert 0 <= row["data_seconds_per_step"] < row["seconds_per_step"]
            assert row["images_per_second"] == pytest.approx(2 / row["seconds_per_step"])
    assert measured[-1]["per_class"]["semantic"].keys() == {"red", "green", "blue"}
    assert 0 <= measured[-1]["mIoU"] <= 1
    last = load_checkpoint(uninterrupted / run_folder.LAST_FILE)
    assert (last.step, last.config_digest, last.model_config) == (4, CONFIG.digest(), CONFIG.model)
    best = max((row for row in measured if row["kind"] == "validation"), key=lambda row: row["mIoU"])
    assert load_checkpoint(uninterrupted / run_folder.BEST_FILE).step == best["step"]
    assert {path.name for path in uninterrupted.iterdir()} - {run_folder.BOARD_FOLDER} == {
        run_folder.METRICS_FILE, run_folder.LAST_FILE, run_folder.BEST_FILE, run_folder.STATE_FILE
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(
    run: Run, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, at: int
) -> None:
    append = run_folder.append_metrics

    def append_and_signal(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["kind"] == "train" and row["step"] == at:
            signal.raise_signal(number)

    monkeypatch.setattr(run_folder, "append_metrics", append_and_signal)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    outcome = run(tmp_path / "run")
    assert (outcome.step, outcome.signal) == (at, number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_checkpoint(tmp_path / "run" / run_folder.LAST_FILE).step == at
    monkeypatch.setattr(run_folder, "append_metrics", append)
    outcome = run(tmp_path / "run", resume=True)
    assert (outcome.step, outcome.signal) == (4, None)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("at", [2, 4])
def test_a_signal_during_validation_leaves_the_validation_to_the_resumed_run(
    run: Run, data: tuple[SemanticFolder, SemanticFolder], uninterrupted: Path, tmp_path: Path, at: int
) -> None:
    calls = iter((2, 4))

    def signal_and_validate(model: nn.Module, stop: Callable[[], bool]) -> Any:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return validating(data[1])(model, stop)

    outcome = run(tmp_path / "run", validation=signal_and_validate)
    assert (outcome.step, outcome.signal) == (at, signal.SIGINT)
    outcome = run(tmp_path / "run", resume=True)
    assert (outcome.step, outcome.signal) == (4, None)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_validation_made_up_for_at_the_end_is_kept(
    run: Run, data: tuple[SemanticFolder, SemanticFolder], uninterrupted: Path, tmp_path: Path
) -> None:
    """The last validation was interrupted; the resumed run has nothing else to do, and a third one nothing at all."""
    calls = iter((2, 4))

    def interrupted_at_the_end(model: nn.Module, stop: Callable[[], bool]) -> Any:
        if next(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return validating(data[1])(model, stop)

    def not_called(model: nn.Module, stop: Callable[[], bool]) -> Any:
        raise AssertionError("validated already")

    assert run(tmp_path, validation=interrupted_at_the_end).signal == signal.SIGINT
    run(tmp_path, resume=True)
    assert run(tmp_path, resume=True, validation=not_called).step == 4
    assert_same_run(tmp_path, uninterrupted)


def test_an_error_in_a_validation_loses_no_steps(run: Run, uninterrupted: Path, tmp_path: Path) -> None:
    def failing(model: nn.Module, stop: Callable[[], bool]) -> Any:
        raise InputError("the data do not fit")

    with pytest.raises(InputError, match="the data do not fit"):
        run(tmp_path, validation=failing)
    assert load_checkpoint(tmp_path / run_folder.LAST_FILE).step == 2
    assert run(tmp_path, resume=True).step == 4
    assert_same_run(tmp_path, uninterrupted)


def test_a_second_signal_interrupts_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 0.1)

    def signal_twice(path: Path, row: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # a launcher's copy of the first
        time.sleep(0.2)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run_folder, "append_metrics", signal_twice)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    run: Run, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = run_folder.append_metrics

    def append_and_die(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["step"] == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(run_folder, "append_metrics", append_and_die)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run")
    monkeypatch.setattr(run_folder, "append_metrics", append)
    with (tmp_path / "run" / run_folder.METRICS_FILE).open("a") as file:
        file.write('{"kind": "train", "st')  # a line cut off
    run(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_finished_run_resumed_changes_nothing(run: Run, uninterrupted: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*.*")}
    outcome = run(uninterrupted, resume=True)
    assert (outcome.step, outcome.signal) == (4, None)
    assert outcome.best is not None
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*.*")} == before


def test_frozen_statistics_stay_and_everything_else_learns(uninterrupted: Path) -> None:
    before, after = tiny_model(seed=0), load_checkpoint(uninterrupted / run_folder.LAST_FILE).weights
    for name, buffer in before.named_buffers():
        assert torch.equal(buffer, after[name]), name
    for name, parameter in before.named_parameters():
        assert not torch.equal(parameter, after[name]), name


@pytest.mark.parametrize("wild", [0, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wild: int
) -> None:
    """Update `wild` spoils the weights, is saved with them, and the next step finds it out."""

    def set_wild_rate(optimizer: torch.optim.Optimizer, settings: TrainConfig, step: int) -> float:
        rate = set_learning_rate(optimizer, settings, step)
        for group in optimizer.param_groups:
            group["lr"] *= 1e30 if step == wild else 1
        return rate

    monkeypatch.setattr(step_module, "set_learning_rate", set_wild_rate)
    every_step = dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, steps=50, checkpoint_every=1, validate_every=99)
    )
    with pytest.raises(InputError, match=rf"step {wild + 2}: the loss.*nan.*learning_rate"):
        run(tmp_path / "run", config=every_step)
    assert rows(tmp_path / "run")[-1]["step"] == wild + 1
    assert not list((tmp_path / "run").glob("*.before"))
    state = load_file(tmp_path / "run" / run_folder.STATE_FILE)
    assert all(tensor.abs().max() < 1e6 for name, tensor in state.items() if name.startswith("model."))
    last = tmp_path / "run" / run_folder.LAST_FILE
    assert last.exists() == (wild > 0)  # before the first update there is none
    if wild:
        assert load_checkpoint(last).step == wild
        assert torch.equal(load_file(last)["mask_decoder.query_features"], state["model.mask_decoder.query_features"])


def test_averaged_weights_are_saved_validated_and_resumed(
    run: Run, data: tuple[SemanticFolder, SemanticFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, ema_decay=0.9, accumulate=2))
    run(tmp_path / "whole", config=config)
    state = load_file(tmp_path / "whole" / run_folder.STATE_FILE)
    last = load_checkpoint(tmp_path / "whole" / run_folder.LAST_FILE).weights
    name = "mask_decoder.query_features"
    assert torch.equal(last[name], state[f"averaged.{name}"])
    assert not torch.equal(last[name], state[f"model.{name}"])
    model = tiny_model(seed=1)
    model.load_state_dict(last)
    scores = validating(data[1])(model.eval(), lambda: False)
    assert scores is not None
    assert rows(tmp_path / "whole")[-1]["mIoU"] == scores.score

    append = run_folder.append_metrics

    def append_and_signal(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run_folder, "append_metrics", append_and_signal)
    assert run(tmp_path / "stopped", config=config).step == 3
    monkeypatch.setattr(run_folder, "append_metrics", append)
    run(tmp_path / "stopped", resume=True, config=config)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_resumed_run_drops_what_the_uninterrupted_one_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, decoder_dropout=0.1))
    run(tmp_path / "whole", config=config)
    append = run_folder.append_metrics

    def append_and_signal(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "append_metrics", append_and_signal)
        assert run(tmp_path / "stopped", config=config).step == 1
    run(tmp_path / "stopped", resume=True, config=config)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_what_a_validation_could_not_read_is_counted(tmp_path: Path) -> None:
    training, validation = write_bands(tmp_path)
    (tmp_path / "val/0.png").write_bytes(b"")  # the only picture of `count` 1
    spec, out = build_spec(CONFIG, training.labels), tmp_path / "run"
    pictures = SamplePictures(validation, spec, count=1)
    loop.train(CONFIG, spec, tiny_model(seed=0), training, validating(validation), out, pictures=pictures)
    assert [row["skipped_images"] for row in rows(out) if row["kind"] == "validation"] == [1, 1]
    assert not (out / "samples").exists()


def test_each_validation_leaves_pictures(data: tuple[SemanticFolder, SemanticFolder], tmp_path: Path) -> None:
    spec = build_spec(CONFIG, data[0].labels)
    pictures = SamplePictures(data[1], spec)
    loop.train(CONFIG, spec, tiny_model(seed=0), data[0], validating(data[1]), tmp_path, pictures=pictures)
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-2.jpg", "step-4.jpg"}
    assert cv2.imread(str(tmp_path / "samples/step-2.jpg")).shape == (2 * 360, 2 * 480, 3)  # two images of 48x64
