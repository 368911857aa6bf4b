"""The training state: what it brings back, and when a run is not continued with it."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_training import CONFIG, tiny_model
from torch import nn

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.averaging import AveragedWeights
from mask2edge.train.config import Config
from mask2edge.train.labels import labels_from_names
from mask2edge.train.loop import initial_state
from mask2edge.train.train import build_spec
from mask2edge.train.training_state import (
    Progress,
    TrainingState,
    differences,
    load_training_state,
    save_training_state,
)

SPEC = build_spec(CONFIG, labels_from_names(["red", "green", "blue"]))


def fresh_state(config: Config = CONFIG, seed: int = 1) -> TrainingState:
    return initial_state(config, tiny_model(seed), torch.device("cpu"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The state of a run after step 4."""
    state = fresh_state(seed=0)
    state.progress = Progress(4, 4, 0.5)
    save_training_state(tmp_path / "training_state.safetensors", CONFIG, SPEC, state)
    return tmp_path / "training_state.safetensors"


def _other_settings(path: Path) -> Config:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=8, seed=1))


def test_what_only_the_machine_needs_may_change(saved: Path) -> None:
    """Workers, micro-batches and recomputed activations are no part of what a run computes."""
    train = dataclasses.replace(CONFIG.train, accumulate=2, checkpoint_activations=True)
    config = dataclasses.replace(CONFIG, train=train, data=dataclasses.replace(CONFIG.data, workers=2))
    state = fresh_state(config)
    load_training_state(saved, config, SPEC, state)
    assert state.progress.step == 4


def _missing(path: Path) -> Config:
    path.unlink()
    return CONFIG


def _truncated(path: Path) -> Config:
    path.write_bytes(path.read_bytes()[:1000])
    return CONFIG


def _another_kind(path: Path) -> Config:
    save_file({"weight": torch.zeros(2)}, path)
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
    saved: Path, change: Callable[[Path], Config], message: str
) -> None:
    config = change(saved)
    with pytest.raises(InputError, match=message):
        load_training_state(saved, config, SPEC, fresh_state())


Merge = dict[str, tuple[str, ...]]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"warm": ("red",)}, {"warm": ("red",)}, []),
        ({}, {"warm": ("red",)}, ["data.merge.warm was None, now ('red',)"]),
        ({"warm": ("red",)}, {}, ["data.merge.warm was ('red',), now None"]),
        (
            {"warm": ("red",)},
            {"hot": ("red",)},
            ["data.merge.warm was ('red',), now None", "data.merge.hot was None, now ('red',)"],
        ),
    ],
    ids=["same", "new", "gone", "renamed"],
)
def test_a_merge_of_classes_is_a_setting(tmp_path: Path, before: Merge, after: Merge, changes: list[str]) -> None:
    saved, now = (dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, merge=m)) for m in (before, after))
    assert differences(saved, SPEC.labels, now, SPEC.labels) == changes
    state = fresh_state(saved)
    save_training_state(tmp_path / "state.safetensors", saved, SPEC, state)
    if changes:
        with pytest.raises(InputError, match=re.escape("; ".join(changes)) + "; use the same"):
            load_training_state(tmp_path / "state.safetensors", now, SPEC, state)
    else:
        load_training_state(tmp_path / "state.safetensors", now, SPEC, state)


def test_data_of_other_classes_do_not_continue_a_run(saved: Path, tmp_path: Path) -> None:
    state = fresh_state()
    first, second, third = SPEC.labels
    swapped = dataclasses.replace(
        SPEC, labels=(dataclasses.replace(first, name="blue"), second, dataclasses.replace(third, name="red"))
    )
    with pytest.raises(
        InputError, match=r"settings: classes\.0\.name was 'red', now 'blue'; classes\.2\.name was 'blue'"
    ):
        load_training_state(saved, CONFIG, swapped, state)
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    del metadata["spec"]  # of a version that did not note the classes
    save_file(load_file(saved), tmp_path / "old.safetensors", metadata)
    load_training_state(tmp_path / "old.safetensors", CONFIG, swapped, state)
    assert state.progress.step == 4


def test_a_long_list_of_changes_is_cut(saved: Path) -> None:
    state = fresh_state()
    other = dataclasses.replace(
        SPEC, labels=tuple(Label(n, f"class {n}", True, (n, n, n), n + 50) for n in range(3))
    )  # four differences each
    with pytest.raises(InputError, match=r"other settings: (classes[^;]*; ){8}and 4 more; use the same"):
        load_training_state(saved, CONFIG, other, state)


def test_a_state_brings_back_weights_averages_and_moments(tmp_path: Path) -> None:
    def parts() -> TrainingState:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(4)).to(memory_format=torch.channels_last)
        scaler = torch.amp.GradScaler("cpu")
        return TrainingState(model, torch.optim.AdamW(model.parameters()), AveragedWeights(model, 0.5), scaler)

    state, other = parts(), parts()
    loss = state.model[0](torch.randn(1, 3, 5, 5)).sum()  # the norm has no gradient, hence no moments
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update(1234.0)
    assert state.averaged
    assert other.averaged
    state.averaged.update(0)
    state.progress = Progress(7, 4, 0.5)
    save_training_state(tmp_path / "state.safetensors", CONFIG, SPEC, state)
    load_training_state(tmp_path / "state.safetensors", CONFIG, SPEC, other)
    assert other.progress == Progress(7, 4, 0.5)
    assert other.scaler.state_dict() == state.scaler.state_dict()
    for mine, theirs in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()
        moments, other_moments = state.optimizer.state.get(mine, {}), other.optimizer.state.get(theirs, {})
        assert moments.keys() == other_moments.keys()
        for key in moments:
            assert torch.equal(moments[key], other_moments[key])
            assert moments[key].stride() == other_moments[key].stride()
    before, after = state.averaged.model.state_dict(), other.averaged.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(before["0.weight"], state.model.state_dict()["0.weight"])
    other.model = nn.Linear(2, 2)
    with pytest.raises(InputError, match="the tensors do not fit the model"):
        load_training_state(tmp_path / "state.safetensors", CONFIG, SPEC, other)
