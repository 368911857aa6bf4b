"""One update: the same over any number of micro-batches, precise enough in half precision, and said where it breaks."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_training import CONFIG, tiny_model, write_bands
from torch import nn

from mask2edge.runtime.command_line import InputError
from mask2edge.train.activation_checkpointing import checkpoint_activations, repeated_modules
from mask2edge.train.config import Config
from mask2edge.train.data.batches import Sample, TrainingSamples
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.data.transforms import build_augmentation
from mask2edge.train.distributed import Processes
from mask2edge.train.finiteness import require_finite_losses
from mask2edge.train.loop import initial_state
from mask2edge.train.model import deformable_attention
from mask2edge.train.model.backbones.swin import SwinTransformer
from mask2edge.train.model.pixel_decoder import pixel_centres
from mask2edge.train.model.position import sine_position
from mask2edge.train.optimizer import freeze
from mask2edge.train.step import Step
from mask2edge.train.train import build_spec
from mask2edge.train.training_state import TrainingState

CPU = torch.device("cpu")


def settings(**changes: Any) -> Config:
    return dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, **{"batch_size": 4, "steps": 40, **changes})
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> SemanticFolder:
    return write_bands(tmp_path_factory.mktemp("bands"))[0]


Prepare = Callable[[nn.Module], None]
Take = Callable[..., tuple[list[dict[str, float]], TrainingState]]


@pytest.fixture
def take(training: SemanticFolder) -> Take:
    """Takes steps with `settings(**changes)`; their rows and the state after them."""

    def steps(
        count: int = 4, prepare: Prepare = lambda model: None, **changes: Any
    ) -> tuple[list[dict[str, float]], TrainingState]:
        config = settings(**changes)
        model = tiny_model(seed=0)
        prepare(model)
        state = initial_state(config, model, CPU)
        step = Step(config, build_spec(config, training.labels), state, training, Processes(CPU))
        return [step(number) for number in range(count)], state

    return steps


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_nothing(take: Take, accumulate: int) -> None:
    whole, parts = take()[0], take(accumulate=accumulate)[0]
    for row, row_in_parts in zip(whole, parts, strict=True):
        # AdamW makes whole steps of near-zero gradients, rounded or not: those of later steps differ by more
        assert row_in_parts.pop("gradient_norm") == pytest.approx(row.pop("gradient_norm"), rel=1e-3)
        assert row_in_parts == pytest.approx(row, rel=1e-5)
    assert_same_gradients(take(1)[1], take(1, accumulate=accumulate)[1])


def test_a_micro_batch_without_a_target_has_the_same_terms(tmp_path: Path) -> None:
    """Of two images one shows nothing: a micro-batch of it alone sums with the other's."""
    training, _ = write_bands(tmp_path)
    for _, path in training.pairs[1:]:
        cv2.imwrite(str(path), np.full((48, 64), 255, np.uint8))
    rows = []
    for accumulate in (1, 4):
        config = settings(accumulate=accumulate)
        config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, pilot_weight=1.0))
        state = initial_state(config, tiny_model(seed=0), CPU)
        step = Step(config, build_spec(config, training.labels), state, training, Processes(CPU))
        rows.append(step(0))
    assert rows[1] == pytest.approx(rows[0], rel=1e-5)
    assert rows[0]["loss_mask"] > 0  # the image that shows something is in the batch


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
    spec = build_spec(CONFIG, training.labels)
    mean, std = spec.preprocessing.mean, spec.preprocessing.std
    augment = build_augmentation(CONFIG.data, spec.labels, fill=mean)
    sample = TrainingSamples(training, augment, mean, std, CONFIG.train.seed)[number]
    assert isinstance(sample, Sample)
    return sample.target["labels"]


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.003)])
def test_half_precision_stays_near_float32(take: Take, precision: str, tolerance: float) -> None:
    exact, state = take(7, learning_rate=1e-12)  # fp16 overflows at first, until its scale fits
    rounded, half = take(7, learning_rate=1e-12, precision=precision)
    for name in ("loss", "loss_class", "loss_mask", "loss_dice"):  # means: in single steps an assignment differs
        one, other = (sum(row[name] for row in rows) for rows in (exact, rounded))
        assert other == pytest.approx(one, rel=tolerance), name
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    # of the last step, where no assignment differs: in others of these steps one does, and its gradients with it
    one, other = (
        torch.cat([parameter.grad.flatten() for parameter in each.model.parameters() if parameter.grad is not None])
        for each in (state, half)
    )
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


def test_half_precision_learns(take: Take) -> None:
    for precision in ("bf16", "fp16"):
        rows, _ = take(30, precision=precision)
        assert all(math.isfinite(row["loss"]) for row in rows)
        assert sum(row["loss"] for row in rows[-5:]) < 0.9 * sum(row["loss"] for row in rows[:5])
        if precision == "fp16":
            assert rows[-1]["loss_scale"] >= 1


def test_islands_stay_in_float32() -> None:
    """What half precision would break: sampling places, positions and mask logits; the rest is not float32."""
    model, dtypes = tiny_model(seed=0), {}
    layer = model.pixel_decoder.layers[0]

    def noting(sampling: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def note(*arguments: Any) -> torch.Tensor:
            dtypes["sampling"] = {tensor.dtype for tensor in arguments[:4]}  # value, offsets, logits, reference points
            return sampling(*arguments)

        return note

    layer.linear1.register_forward_hook(lambda module, inputs, output: dtypes.update(linear={output.dtype}))
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        for name in ("multiscale_deformable_attention", "native_deformable_attention"):
            patch.setattr(deformable_attention, name, noting(getattr(deformable_attention, name)))
        outputs = model(torch.randn(1, 3, 64, 64))
    assert dtypes == {"sampling": {torch.float32}, "linear": {torch.bfloat16}}
    assert outputs["mask_logits"].dtype == torch.float32
    one = sine_position(8, 8, 32, dtype=torch.bfloat16).float()
    assert (one - sine_position(8, 8, 32)).abs().max() < 2**-8  # of a value up to 1: rounded once, at the end
    assert pixel_centres([(40, 40)], torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_an_overflow_in_fp16_halves_the_scale_and_changes_nothing_else(take: Take) -> None:
    def explode(model: nn.Module) -> None:
        first = [True]

        def overflow(gradient: torch.Tensor) -> torch.Tensor:
            return gradient * (math.inf if first and first.pop() else 1.0)

        model.mask_decoder.query_features.register_hook(overflow)

    (row,), state = take(1, prepare=explode, precision="fp16")
    assert row["loss_scale"] == 32768.0
    assert "gradient_norm" not in row  # infinite, which is not JSON
    assert all(math.isfinite(value) for value in row.values())
    for one, other in zip(state.model.parameters(), tiny_model(seed=0).parameters(), strict=True):
        assert torch.equal(one, other)
    rows, _ = take(8, prepare=explode, precision="fp16")
    assert math.isfinite(rows[-1]["gradient_norm"])
    assert rows[-1]["loss_scale"] < 65536


def test_checkpointed_activations_give_the_same_gradients(take: Take) -> None:
    plain, state = take(1)
    frugal, other = take(1, checkpoint_activations=True)
    assert frugal == plain
    assert_same_gradients(state, other)
    assert [type(module).__name__ for module in repeated_modules(other.model)] == [
        "Conv2d", "Conv2d", "Conv2d", "DeformableEncoderLayer", "DecoderLayer"
    ]  # fmt: skip


def test_checkpointed_activations_drop_the_same_paths() -> None:
    torch.manual_seed(0)
    swin = SwinTransformer(16, (2, 2, 2, 2), (2, 2, 2, 2), window=4, drop_path=0.5).train()
    pixels = torch.randn(2, 3, 64, 64)

    def gradients(model: nn.Module) -> list[torch.Tensor]:
        torch.manual_seed(7)
        model.zero_grad()
        sum(output.sum() for output in model(pixels)).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients(swin)
    checkpoint_activations(nn.ModuleDict({"backbone": swin}))
    for one, other in zip(plain, gradients(swin), strict=True):
        torch.testing.assert_close(other, one)


def test_frozen_modules_keep_their_weights(take: Take) -> None:
    _, state = take(2, prepare=lambda model: freeze(model, ("backbone.stem", "pixel_decoder.layers.0.norm1.bias")))
    for (name, after), before in zip(state.model.named_parameters(), tiny_model(seed=0).parameters(), strict=True):
        frozen = name.startswith("backbone.stem.") or name == "pixel_decoder.layers.0.norm1.bias"
        assert torch.equal(after, before) == frozen, name


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(InputError, match="expected some weights left to train"):
        freeze(tiny_model(seed=0), ("backbone", "pixel_decoder", "mask_decoder"))


def _poison_prediction(model: nn.Module) -> None:
    """Of the second prediction: the first decoder layer's."""
    model.mask_decoder.layers[0].register_forward_hook(lambda module, inputs, output: output * math.nan)


def _poison_gradient(model: nn.Module) -> None:
    model.pixel_decoder.level_embed.register_hook(lambda gradient: gradient * math.nan)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (_poison_prediction, r"step 1: the loss term class \(the last prediction of the decoder\) is nan and 2 more; "),
        (_poison_gradient, r"step 1: the loss is finite, the gradient of pixel_decoder.level_embed is not; "),
    ],
)
def test_what_is_not_finite_is_named(take: Take, poison: Prepare, message: str) -> None:
    with pytest.raises(InputError, match=message + "the files keep the last checkpoint"):
        take(1, prepare=poison)


def test_the_earliest_prediction_is_blamed() -> None:
    losses = {"class": math.nan, "mask": math.inf, "mask_10": math.nan, "dice_3": math.nan, "mask_2": 1.0}
    with pytest.raises(InputError, match=r"step 8: the loss term dice_3 \(prediction 3 of .*\) is nan and 3 more; "):
        require_finite_losses(losses, 7)
