"""One training run: steps, validation, checkpoints; stopped at any time, it goes on as if it never had been.

    outcome = train(config, spec, model, training, validation, Path("artifacts/street-lite"))

Writes metrics.jsonl (one object a line), last.safetensors, best.safetensors (by validation mIoU), and
training_state.safetensors, which `resume` continues from.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mask2edge.runtime.command_line import InputError, say, whole_file
from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import Config
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.batches import LOSS, derived_seed, training_batches
from mask2edge.train.data.transforms import build_augmentation
from mask2edge.train.loss.criterion import SetCriterion
from mask2edge.train.optimizer import build_optimizer, set_learning_rate
from mask2edge.train.training_state import Progress, load_training_state, save_training_state
from mask2edge.train.validation import validate

METRICS_FILE, STATE_FILE = "metrics.jsonl", "training_state.safetensors"
LAST_FILE, BEST_FILE = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. best: highest validation mIoU, if any; signal: what stopped it before its last step."""

    step: int
    best: float | None
    signal: int | None


class StopSignals:
    """Between enter and exit, SIGINT and SIGTERM are noted instead of obeyed; a second one interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


def train(
    config: Config,
    spec: ModelSpec,
    model: nn.Module,
    training: Dataset,
    validation: Dataset | None,
    out: Path,
    resume: bool = False,
) -> Outcome:
    """Runs to config.train.steps, or to SIGINT or SIGTERM: then the state is saved first.

    Raises InputError where `resume` finds no state or one of other settings, and where the loss stops being finite:
    files then stay as the last checkpoint left them.
    """
    settings = config.train
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizer = build_optimizer(model, settings)
    progress = load_training_state(out / STATE_FILE, config, model, optimizer) if resume else Progress()
    step_once = Step(config, spec, model, optimizer, training, progress.step, device)
    if resume:
        rewind_metrics(out / METRICS_FILE, progress)
    else:
        save_training_state(out / STATE_FILE, config, model, optimizer, progress)
    saved_step = progress.step
    logged_step, logged_time = progress.step, time.perf_counter()

    with StopSignals() as stop, progress_bar(settings.steps, progress.step) as bar:
        while True:
            at_end = progress.step == settings.steps
            if validation is not None and _validation_due(progress, settings.validate_every, at_end):
                started = time.perf_counter()
                _validate(config, spec, model, validation, out, progress, stop, bar)
                logged_time += time.perf_counter() - started  # seconds per step are of steps alone
            if progress.step > saved_step and (
                at_end or stop.received is not None or progress.step % settings.checkpoint_every == 0
            ):
                save_training_state(out / STATE_FILE, config, model, optimizer, progress)
                _save(out / LAST_FILE, model, config, spec, progress.step)
                saved_step = progress.step
            if at_end or stop.received is not None:
                # a signal during the last validation leaves that validation to be done: the run has not ended
                ended = at_end and not (validation is not None and progress.validated < progress.step)
                return Outcome(progress.step, progress.best, None if ended else stop.received)

            row = step_once(progress.step)
            progress.step += 1
            bar.update()
            if progress.step % settings.log_every == 0 or progress.step == settings.steps:
                seconds = (time.perf_counter() - logged_time) / (progress.step - logged_step)
                logged_step, logged_time = progress.step, time.perf_counter()
                append_metrics(
                    out / METRICS_FILE, {"kind": "train", "step": progress.step, **row, "seconds_per_step": seconds}
                )
                bar.set_postfix(loss=f"{row['loss']:.2f}", **_shown_best(progress))


class Step:
    """One update of the weights; what it does depends on the weights and the step's number alone."""

    def __init__(
        self,
        config: Config,
        spec: ModelSpec,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        training: Dataset,
        first_step: int,
        device: torch.device,
    ) -> None:
        settings, data, loss = config.train, config.data, config.loss
        self.settings, self.model, self.optimizer, self.device = settings, model, optimizer, device
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.generator = torch.Generator()
        self.criterion = SetCriterion(
            spec.num_classes,
            class_weight=loss.class_weight,
            mask_weight=loss.mask_weight,
            dice_weight=loss.dice_weight,
            no_object_weight=loss.no_object_weight,
            num_points=loss.num_points,
            oversample_ratio=loss.oversample_ratio,
            importance_sample_ratio=loss.importance_sample_ratio,
            generator=self.generator,
        ).to(device)
        mean, std = spec.preprocessing.mean, spec.preprocessing.std
        augment = build_augmentation(data, spec.labels, fill=mean)
        self.batches = iter(
            training_batches(
                training,
                augment,
                mean,
                std,
                batch_size=settings.batch_size,
                seed=settings.seed,
                steps=range(first_step, settings.steps),
                workers=data.workers,
            )
        )

    def __call__(self, step: int) -> dict[str, float]:
        """The update after `step` updates. Returns its learning rate, losses and gradient norm."""
        seed = derived_seed(self.settings.seed, LOSS, step)
        torch.manual_seed(seed)  # dropped paths
        self.generator.manual_seed(seed)  # points of the losses
        batch = next(self.batches)
        rate = set_learning_rate(self.optimizer, self.settings, step)
        outputs = self.model(batch.pixels.to(self.device))
        losses = self.criterion(outputs, batch.targets)
        total = self.criterion.total(losses)
        _require_finite("loss", total, losses, step)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        _require_finite("norm of the gradient", norm, losses, step)
        self.optimizer.step()
        final = {f"loss_{name}": losses[name].item() for name in ("class", "mask", "dice")}
        return {"lr": rate, "loss": total.item(), **final, "gradient_norm": norm.item()}


def progress_bar(steps: int, done: int) -> tqdm[Any]:
    """Steps done and time left on stderr: live on a terminal, a line every half minute in a log."""
    live = sys.stderr.isatty()
    return tqdm(total=steps, initial=done, unit="step", mininterval=0.5 if live else 30, dynamic_ncols=live)


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line that was cut off while written is left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return


def rewind_metrics(path: Path, progress: Progress) -> None:
    """Removes the rows that come after the state that is resumed: the run will write them again."""
    kept = [
        row
        for row in read_metrics(path)
        if row["step"] <= (progress.validated if row["kind"] == "validation" else progress.step)
    ]
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _validation_due(progress: Progress, every: int, at_end: bool) -> bool:
    return progress.validated < progress.step and (at_end or progress.step % every == 0)


def _validate(
    config: Config,
    spec: ModelSpec,
    model: nn.Module,
    data: Dataset,
    out: Path,
    progress: Progress,
    stop: StopSignals,
    bar: tqdm[Any],
) -> None:
    """Scores the weights, notes them, and keeps them as the best where they are. Does nothing where it was stopped."""
    started = time.perf_counter()
    model.eval()
    scores = validate(model, data, spec, lambda: stop.received is not None)
    model.train()
    if scores is None:
        return
    if progress.best is None or scores.score > progress.best:
        progress.best = scores.score
        _save(out / BEST_FILE, model, config, spec, progress.step)
    progress.validated = progress.step
    append_metrics(
        out / METRICS_FILE,
        {
            "kind": "validation",
            "step": progress.step,
            **scores.metrics,
            "per_class": scores.per_class,
            "seconds": time.perf_counter() - started,
        },
    )
    bar.clear()
    figures = ", ".join(f"{name} {figure:.4f}" for name, figure in scores.metrics.items())
    say(f"step {progress.step}: {figures}")


def _save(path: Path, model: nn.Module, config: Config, spec: ModelSpec, step: int) -> None:
    save_checkpoint(path, model.state_dict(), config.model, spec, step=step, config_digest=config.digest())


def _shown_best(progress: Progress) -> dict[str, str]:
    return {} if progress.best is None else {"best_mIoU": f"{progress.best:.4f}"}


def _require_finite(what: str, value: Tensor, losses: Mapping[str, Tensor], step: int) -> None:
    if not math.isfinite(value.item()):
        terms = ", ".join(f"{name} {losses[name].item():.3g}" for name in ("class", "mask", "dice"))
        raise InputError(
            f"step {step + 1}: the {what} is {value.item()} ({terms}); the files keep the last checkpoint before it. "
            "Start a new run with a lower train.learning_rate or a longer train.warmup_steps"
        )
