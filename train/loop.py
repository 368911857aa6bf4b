"""One training run: steps, validation, checkpoints; stopped at any time, it goes on as if it never had been.

    outcome = train(config, spec, model, training, validation, Path("artifacts/street-lite"))

What it writes: `run_folder`. What a step does: `step`. Under torchrun all processes call it alike.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mask2edge.runtime.command_line import say
from mask2edge.runtime.spec import ModelSpec
from mask2edge.runtime.stopping import StopSignals
from mask2edge.train.activation_checkpointing import checkpoint_activations
from mask2edge.train.averaging import AveragedWeights
from mask2edge.train.config import Config
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.distributed import Processes, own_device
from mask2edge.train.finiteness import NotFinite
from mask2edge.train.optimizer import build_optimizer
from mask2edge.train.pace import Pace
from mask2edge.train.run_folder import STATE_FILE, RunFolder
from mask2edge.train.step import Step, check_batch
from mask2edge.train.training_state import Progress, TrainingState, load_training_state


class Scores(Protocol):
    """What a validation found. score: the number to maximise, called `name`; metrics: all figures, by name;
    per_class: task -> class -> figures; skipped: images that could not be read."""

    @property
    def name(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def per_class(self) -> Mapping[str, Any]: ...
    @property
    def skipped(self) -> int: ...


# (network in eval mode, stop) -> scores, or None where stop() became true before they were complete
Validation = Callable[[nn.Module, Callable[[], bool]], Scores | None]
Pictures = Callable[[nn.Module], np.ndarray | None]  # network in eval mode -> BGR uint8 [H, W, 3], or nothing to show


@dataclass(frozen=True)
class Outcome:
    """How a run ended. best: highest validation score, if any; signal: what stopped it before its last step."""

    step: int
    best: float | None
    signal: int | None


def train(
    config: Config,
    spec: ModelSpec,
    model: nn.Module,
    training: Dataset,
    validation: Validation | None,
    out: Path,
    resume: bool = False,
    processes: Processes | None = None,
    pictures: Pictures | None = None,
) -> Outcome:
    """Runs to config.train.steps, or to SIGINT or SIGTERM on any process: then the state is saved first.

    Raises InputError where `resume` finds no state or one of other settings, where the batch does not divide by the
    processes, and where loss or gradients stop being finite: the state and last.safetensors then are those of the last
    checkpoint from which a step was finite; metrics.jsonl, best.safetensors and samples are of later steps where there
    were any.
    """
    settings = config.train
    processes = processes or Processes(own_device())
    check_batch(settings, processes.size)
    state = initial_state(config, model, processes.device)
    progress = state.progress
    folder = RunFolder(out, config, spec) if processes.is_main else None
    with processes.together():
        if resume:
            load_training_state(out / STATE_FILE, config, spec, state)
            progress = state.progress
    if folder:
        folder.begin(state, resume)
    step_once = Step(config, spec, state, training, processes)
    pace = Pace(settings.batch_size, processes.device)
    best: dict[str, str] = {}

    with StopSignals() as stop, progress_bar(settings.steps, progress.step, processes.is_main) as bar:
        while True:
            at_end = progress.step == settings.steps
            save_due = at_end or progress.step % settings.checkpoint_every == 0
            if folder and save_due:  # before the validation too: an error in it loses no steps
                folder.save(state)
            if validation is not None and _validation_due(progress, settings.validate_every, at_end):
                with pace.paused():
                    best = _validate(state, validation, pictures, folder, processes, stop, bar) or best
            signal = int(processes.max([stop.received or 0])[0]) or None
            if folder and (save_due or signal is not None):
                folder.save(state)
            if at_end or signal is not None:
                if folder:
                    folder.settle()
                # a signal during the last validation leaves that validation to be done: the run has not ended
                ended = at_end and not (validation is not None and progress.validated < progress.step)
                return Outcome(progress.step, progress.best, None if ended else signal)

            try:
                row = step_once(progress.step)
            except NotFinite:
                if folder:
                    folder.take_back()
                raise
            if folder:
                folder.settle()
            progress.step += 1
            bar.update()
            pace.step(step_once.data_seconds, step_once.skipped)
            if progress.step % settings.log_every == 0 or progress.step == settings.steps:
                if folder:
                    folder.log({"kind": "train", "step": progress.step, **row, **pace.row()})
                bar.set_postfix(loss=f"{row['loss']:.2f}", **best, refresh=live())


def initial_state(config: Config, model: nn.Module, device: torch.device) -> TrainingState:
    """Everything as it is before the first step, on `device`."""
    settings = config.train
    model.to(device).train()
    averaged = AveragedWeights(model, settings.ema_decay) if settings.ema_decay else None
    if settings.checkpoint_activations:
        checkpoint_activations(model)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    return TrainingState(model, build_optimizer(model, settings), averaged, scaler)


def progress_bar(steps: int, done: int, shown: bool) -> tqdm[Any]:
    """Steps done and time left on stderr: live on a terminal, a line every half minute in a log."""
    interval = 0.5 if live() else 30
    return tqdm(total=steps, initial=done, unit="step", mininterval=interval, dynamic_ncols=live(), disable=not shown)


def live() -> bool:
    return sys.stderr.isatty()


def _validation_due(progress: Progress, every: int, at_end: bool) -> bool:
    return progress.validated < progress.step and (at_end or progress.step % every == 0)


def _validate(
    state: TrainingState,
    validation: Validation,
    pictures: Pictures | None,
    folder: RunFolder | None,
    processes: Processes,
    stop: StopSignals,
    bar: tqdm[Any],
) -> dict[str, str]:
    """Scores the weights, notes them, and keeps them as the best where they are; a no-op where it was stopped.

    The main process does it while the others wait. Returns what a progress bar shows of the best.
    """
    progress, shown = state.progress, {}
    with processes.together():
        if folder:
            started = time.perf_counter()
            bar.clear()  # what is said below begins a line
            state.evaluated.eval()
            scores = validation(state.evaluated, lambda: stop.received is not None)
            if scores is not None:
                progress.validated = progress.step
                if progress.best is None or scores.score > progress.best:
                    progress.best = scores.score
                    folder.save_best(state)
                seconds = time.perf_counter() - started
                figures = {**scores.metrics, "per_class": scores.per_class, "skipped_images": scores.skipped}
                folder.log({"kind": "validation", "step": progress.step, **figures, "seconds": seconds})
                shown = {f"best_{scores.name}": f"{progress.best:.4f}"}
                sheet = pictures(state.evaluated) if pictures is not None else None
                if sheet is not None:
                    folder.save_samples(sheet, progress.step)
                in_words = ", ".join(f"{name} {figure:.4f}" for name, figure in scores.metrics.items())
                say(f"step {progress.step}: {in_words}")
    state.model.train()
    validated, best = processes.from_main([progress.validated, math.nan if progress.best is None else progress.best])
    progress.validated, progress.best = int(validated), None if math.isnan(best) else best
    return shown
