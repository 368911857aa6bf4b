"""One update: the same over any number of micro-batches, precise enough in half precision, and said where it breaks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import CONFIG, tiny_model, write_bands

from mask2edge.train.config import Config
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.distributed import Processes
from mask2edge.train.loop import initial_state
from mask2edge.train.step import Step
from mask2edge.train.train import build_spec
from mask2edge.train.training_state import TrainingState

CPU = torch.device("cpu")


def settings(**changes: Any) -> Config:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **{"batch_size": 4, **changes}))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> SemanticFolder:
    return write_bands(tmp_path_factory.mktemp("bands"))[0]


Take = Callable[..., tuple[list[dict[str, float]], TrainingState]]


@pytest.fixture
def take(training: SemanticFolder) -> Take:
    """Takes steps with `settings(**changes)`; their rows and the state after them."""

    def steps(count: int = 4, **changes: Any) -> tuple[list[dict[str, float]], TrainingState]:
        config = settings(**changes)
        state = initial_state(config, tiny_model(seed=0), CPU)
        step = Step(config, build_spec(config, training.class_names), state, training, Processes(CPU))
        return [step(number) for number in range(count)], state

    return steps


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_nothing(take: Take, accumulate: int) -> None:
    whole, parts = take()[0], take(accumulate=accumulate)[0]
    for row, row_in_parts in zip(whole, parts, strict=True):
        assert row_in_parts == pytest.approx(row, rel=1e-5)
    assert_same_gradients(take(1)[1], take(1, accumulate=accumulate)[1])


def assert_same_gradients(one: TrainingState, other: TrainingState) -> None:
    """Clipped to a norm of 1, as they are in `settings`."""
    for (name, mine), theirs in zip(one.model.named_parameters(), other.model.named_parameters(), strict=True):
        torch.testing.assert_close(theirs[1].grad, mine.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_points_follow_the_sample_and_not_its_place(take: Take, training: SemanticFolder) -> None:
    """Samples 4 to 7 are step 1 of batches of 4, and steps 2 and 3 of batches of 2: the losses of untouched weights
    on them, weighted by their counts of masks, must be the same."""
    (_, whole), _ = take(2, learning_rate=1e-12)
    (_, _, first, second), _ = take(4, learning_rate=1e-12, batch_size=2)
    counts = [sum(len(sample_labels(training, n)) for n in numbers) for numbers in ((4, 5), (6, 7))]
    for term in ("loss_mask", "loss_dice"):
        mean = (first[term] * counts[0] + second[term] * counts[1]) / sum(counts)
        assert whole[term] == pytest.approx(mean, rel=1e-5)


def sample_labels(training: SemanticFolder, number: int) -> torch.Tensor:
    from mask2edge.train.data.batches import TrainingSamples
    from mask2edge.train.data.transforms import Augmentation

    data, spec = CONFIG.data, build_spec(CONFIG, training.class_names)
    mean, std = spec.preprocessing.mean, spec.preprocessing.std
    augment = Augmentation(data.crop, data.scale, data.flip, data.color_jitter, data.max_category_area, fill=mean)
    return TrainingSamples(training, augment, mean, std, CONFIG.train.seed)[number][1]["labels"]
