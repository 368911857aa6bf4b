"""The training loop: what a step updates and how fast, and that a stopped run ends as if never stopped."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mask2edge.runtime.command_line import InputError
from mask2edge.train import loop
from mask2edge.train.checkpoint import load_checkpoint
from mask2edge.train.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from mask2edge.train.data.batches import AUGMENTATION, LOSS, ORDER, derived_seed, training_batches
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.data.transforms import Augmentation
from mask2edge.train.model.backbones.frozen_batch_norm import FrozenBatchNorm2d
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.pixel_decoder import PixelDecoder
from mask2edge.train.train import build_spec
from mask2edge.train.training_state import Progress, load_training_state, save_training_state

CONFIG = Config(
    name="tiny",
    model=ModelConfig(
        backbone="efficientnet-lite0",
        num_classes=3,
        num_queries=6,
        hidden_dim=32,
        num_heads=2,
        encoder_layers=1,
        encoder_ffn=32,
        decoder_layers=1,
        decoder_ffn=32,
    ),
    loss=LossConfig(num_points=64),
    data=DataConfig(crop=(64, 96), shortest_edge=48, longest_edge=64, workers=0),
    train=TrainConfig(
        steps=4, batch_size=2, learning_rate=1e-3, validate_every=2, log_every=1, checkpoint_every=2, clip_norm=1.0
    ),
)


class TinyBackbone(nn.Module):
    """Four maps by strided convolutions: the loop saves and loads often, and a real backbone has 14 MB."""

    channels = (8, 8, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = FrozenBatchNorm2d(8)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in ((8, 8), (8, 16), (16, 16)))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.norm(self.stem(pixels)).relu()]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return maps


def tiny_model(seed: int) -> Mask2Former:
    torch.manual_seed(seed)
    return Mask2Former(
        TinyBackbone(),
        PixelDecoder(TinyBackbone.channels, hidden_dim=32, ffn_dim=32, num_layers=1, num_heads=2),
        MaskDecoder(3, num_queries=6, hidden_dim=32, ffn_dim=32, num_layers=1, num_heads=2),
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[SemanticFolder, SemanticFolder]:
    """Five images of 48x64 to train on and two to validate; classes are bands that the colours show."""
    root = tmp_path_factory.mktemp("bands")
    (root / "classes.txt").write_text("red\ngreen\nblue")
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        (root / split).mkdir()
        (root / f"{split}annot").mkdir()
        for index in range(count):
            label_map = np.repeat(np.sort(generator.integers(0, 3, 48))[:, None], 64, 1).astype(np.uint8)
            image = np.eye(3)[label_map] * 200 + generator.integers(0, 50, (48, 64, 3))
            cv2.imwrite(str(root / f"{split}/{index}.png"), image[:, :, ::-1].astype(np.uint8))
            cv2.imwrite(str(root / f"{split}annot/{index}.png"), label_map)
    return SemanticFolder(root, "train"), SemanticFolder(root, "val")


Run = Callable[..., loop.Outcome]


@pytest.fixture
def run(data: tuple[SemanticFolder, SemanticFolder]) -> Run:
    def start(out: Path, resume: bool = False, config: Config = CONFIG) -> loop.Outcome:
        model = tiny_model(seed=99 if resume else 0)  # what a resumed run starts from must not matter
        return loop.train(config, build_spec(config, data[0].labels), model, *data, out, resume)

    return start


@pytest.fixture(scope="module")
def uninterrupted(data: tuple[SemanticFolder, SemanticFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    outcome = loop.train(CONFIG, build_spec(CONFIG, data[0].labels), tiny_model(seed=0), *data, out)
    assert (outcome.step, outcome.signal) == (4, None)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    """What was measured, without the times."""
    parsed = [json.loads(line) for line in (out / loop.METRICS_FILE).read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in parsed]


def assert_same_run(one: Path, other: Path) -> None:
    """Losses to the last bit, weights and moments bit by bit, and the same best checkpoint."""
    assert rows(one) == rows(other)
    for name in (loop.LAST_FILE, loop.BEST_FILE, loop.STATE_FILE):
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
        "kind", "step", "lr", "loss", "loss_class", "loss_mask", "loss_dice", "gradient_norm"
    }  # fmt: skip
    assert measured[-1]["per_class"]["semantic"].keys() == {"red", "green", "blue"}
    assert 0 <= measured[-1]["mIoU"] <= 1
    last = load_checkpoint(uninterrupted / loop.LAST_FILE)
    assert (last.step, last.config_digest, last.model_config) == (4, CONFIG.digest(), CONFIG.model)
    best = max((row for row in measured if row["kind"] == "validation"), key=lambda row: row["mIoU"])
    assert load_checkpoint(uninterrupted / loop.BEST_FILE).step == best["step"]
    assert {path.name for path in uninterrupted.iterdir()} == {
        loop.METRICS_FILE, loop.LAST_FILE, loop.BEST_FILE, loop.STATE_FILE
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(
    run: Run, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, at: int
) -> None:
    append = loop.append_metrics

    def append_and_signal(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["kind"] == "train" and row["step"] == at:
            signal.raise_signal(number)

    monkeypatch.setattr(loop, "append_metrics", append_and_signal)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    outcome = run(tmp_path / "run")
    assert (outcome.step, outcome.signal) == (at, number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_checkpoint(tmp_path / "run" / loop.LAST_FILE).step == at
    monkeypatch.setattr(loop, "append_metrics", append)
    outcome = run(tmp_path / "run", resume=True)
    assert (outcome.step, outcome.signal) == (4, None)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("at", [2, 4])
def test_a_signal_during_validation_leaves_the_validation_to_the_resumed_run(
    run: Run, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    validate = loop.validate
    calls = iter((2, 4))

    def validate_and_signal(*arguments: Any) -> Any:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", validate_and_signal)
    outcome = run(tmp_path / "run")
    assert (outcome.step, outcome.signal) == (at, signal.SIGINT)
    monkeypatch.setattr(loop, "validate", validate)
    outcome = run(tmp_path / "run", resume=True)
    assert (outcome.step, outcome.signal) == (4, None)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_second_signal_interrupts_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signal_twice(path: Path, row: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "append_metrics", signal_twice)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    run: Run, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = loop.append_metrics

    def append_and_die(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["step"] == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(loop, "append_metrics", append_and_die)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run")
    monkeypatch.setattr(loop, "append_metrics", append)
    with (tmp_path / "run" / loop.METRICS_FILE).open("a") as file:
        file.write('{"kind": "train", "st')  # a line cut off
    run(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_finished_run_resumed_changes_nothing(run: Run, uninterrupted: Path) -> None:
    before = {path.name: path.read_bytes() for path in uninterrupted.iterdir()}
    outcome = run(uninterrupted, resume=True)
    assert (outcome.step, outcome.signal) == (4, None)
    assert outcome.best is not None
    assert {path.name: path.read_bytes() for path in uninterrupted.iterdir()} == before


def test_workers_and_their_number_change_nothing(data: tuple[SemanticFolder, SemanticFolder]) -> None:
    augment = Augmentation((32, 32), (0.5, 2.0), True, True, 1.0)

    def batches(steps: range, workers: int, seed: int = 0) -> list[Any]:
        mean = std = (127.5, 127.5, 127.5)
        return list(
            training_batches(data[0], augment, mean, std, batch_size=2, seed=seed, steps=steps, workers=workers)
        )

    alone, helped, later = batches(range(6), 0), batches(range(6), 2), batches(range(4, 6), 0)
    assert len(alone) == 6
    for one, other in zip([*alone, *alone[4:]], [*helped, *later], strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.numbers == other.numbers
        for mine, theirs in zip(one.targets, other.targets, strict=True):
            assert torch.equal(mine["labels"], theirs["labels"])
            assert torch.equal(mine["masks"], theirs["masks"])
    assert not torch.equal(alone[0].pixels, batches(range(1), 0, seed=1)[0].pixels)


def test_every_image_comes_once_an_epoch(data: tuple[SemanticFolder, SemanticFolder]) -> None:
    still = Augmentation((64, 64), (1.0, 1.0), False, False, 1.0)
    ones = (1.0, 1.0, 1.0)
    seen = [
        batch.pixels[0].numpy().tobytes()
        for batch in training_batches(data[0], still, ones, ones, batch_size=1, seed=3, steps=range(15))
    ]
    epochs = [seen[start : start + 5] for start in (0, 5, 10)]
    assert all(set(epoch) == set(epochs[0]) and len(set(epoch)) == 5 for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]  # each in its own order


def test_derived_seeds_are_unrelated() -> None:
    seeds = [derived_seed(s, stream, n) for s in range(4) for stream in (ORDER, AUGMENTATION, LOSS) for n in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_frozen_statistics_stay_and_everything_else_learns(uninterrupted: Path) -> None:
    before, after = tiny_model(seed=0), load_checkpoint(uninterrupted / loop.LAST_FILE).weights
    for name, buffer in before.named_buffers():
        assert torch.equal(buffer, after[name]), name
    for name, parameter in before.named_parameters():
        assert not torch.equal(parameter, after[name]), name


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(run: Run, tmp_path: Path) -> None:
    wild = dataclasses.replace(
        CONFIG,
        train=dataclasses.replace(CONFIG.train, learning_rate=1e30, steps=50, checkpoint_every=1, validate_every=99),
    )
    with pytest.raises(InputError, match=r"step \d+: the (loss|norm of the gradient) is (nan|inf).*learning_rate"):
        run(tmp_path / "run", config=wild)
    saved = load_checkpoint(tmp_path / "run" / loop.LAST_FILE)
    assert saved.step >= 1
    assert saved.step == rows(tmp_path / "run")[-1]["step"]


def _other_settings(path: Path) -> Config:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=8, seed=1))


def _missing(path: Path) -> Config:
    path.unlink()
    return CONFIG


def _truncated(path: Path) -> Config:
    path.write_bytes(path.read_bytes()[:1000])
    return CONFIG


def _another_kind(path: Path) -> Config:
    path.write_bytes((path.parent / loop.LAST_FILE).read_bytes())
    return CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_settings, "other settings: train.steps was 4, now 8; train.seed was 0, now 1; use the same"),
        (_missing, "training_state.safetensors is not there; expected the folder of a started run"),
        (_truncated, "expected a whole training state, got"),
        (_another_kind, "expected a training state written by train/train.py, got a file of another kind"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_state_that_cannot_be_continued_is_refused(
    run: Run, uninterrupted: Path, tmp_path: Path, change: Callable[[Path], Config], message: str
) -> None:
    for name in (loop.STATE_FILE, loop.LAST_FILE):
        (tmp_path / name).write_bytes((uninterrupted / name).read_bytes())
    config = change(tmp_path / loop.STATE_FILE)
    with pytest.raises(InputError, match=message):
        run(tmp_path, resume=True, config=config)


def test_a_state_brings_back_weights_and_moments(tmp_path: Path) -> None:
    def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(4)).to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = parts()
    model[0](torch.randn(1, 3, 5, 5)).sum().backward()  # the norm has no gradient, hence no moments
    optimizer.step()
    save_training_state(tmp_path / "state.safetensors", CONFIG, model, optimizer, Progress(7, 4, 0.5))
    other_model, other_optimizer = parts()
    assert load_training_state(tmp_path / "state.safetensors", CONFIG, other_model, other_optimizer) == Progress(
        7, 4, 0.5
    )
    for mine, theirs in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()
        state, other_state = optimizer.state.get(mine, {}), other_optimizer.state.get(theirs, {})
        assert state.keys() == other_state.keys()
        for key in state:
            assert torch.equal(state[key], other_state[key])
            assert state[key].stride() == other_state[key].stride()
    with pytest.raises(InputError, match="the tensors do not fit the model"):
        load_training_state(tmp_path / "state.safetensors", CONFIG, nn.Linear(2, 2), other_optimizer)
