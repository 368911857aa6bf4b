"""One update of the weights: the losses of a global batch, its gradients, and AdamW.

    step_once = Step(config, spec, state, training, processes)
    row = step_once(0)     # learning rate, losses, norm of the gradient

The global batch is the same whatever the number of processes and micro-batches, every sample draws from generators of
its own, and the losses are divided by the whole batch's counts: so the update is the same up to rounding. Not so where
Swin drops paths or the decoder drops out (model.decoder_dropout): that is drawn per process and micro-batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.config import Config, TrainConfig
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.batches import DROP_PATH, LOSS, Batch, derived_seed, training_batches
from mask2edge.train.data.transforms import build_augmentation
from mask2edge.train.distributed import Processes
from mask2edge.train.finiteness import require_finite_gradients, require_finite_losses
from mask2edge.train.loss.criterion import SetCriterion
from mask2edge.train.model.piloting import gather_pilots
from mask2edge.train.optimizer import set_learning_rate
from mask2edge.train.training_state import TrainingState

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Target = Mapping[str, Tensor]  # {"labels": int64 [T], "masks": bool [T, H, W]}


class Step:
    """What it does depends on the weights and the step's number alone.

    Dropped paths and dropout follow from the seed, the step and the process, and are drawn by one micro-batch after
    another: deterministic, but not the same for another number of processes or micro-batches. Of the last call,
    `data_seconds` is how long it waited for its batch, and `skipped` how many images all processes left out of it.
    """

    def __init__(
        self, config: Config, spec: ModelSpec, state: TrainingState, training: Dataset, processes: Processes
    ) -> None:
        self.settings, self.spec, self.state, self.processes = config.train, spec, state, processes
        self.data_seconds, self.skipped = 0.0, 0
        check_batch(self.settings, processes.size)
        self.network: nn.Module = state.model
        if processes.size > 1:
            with warnings.catch_warnings():  # the successor of broadcast_buffers is not in every PyTorch >= 2.6
                warnings.simplefilter("ignore", FutureWarning)
                self.network = DistributedDataParallel(
                    state.model, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        self.parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        self.no_object_weight = config.loss.no_object_weight
        self.criterion = SetCriterion(spec.num_classes, **dataclasses.asdict(config.loss)).to(processes.device)
        data, mean, std = config.data, spec.preprocessing.mean, spec.preprocessing.std
        augment = build_augmentation(data, spec.labels, fill=mean)
        self.batches = iter(
            training_batches(
                training,
                augment,
                mean,
                std,
                batch_size=self.settings.batch_size,
                seed=self.settings.seed,
                steps=range(state.progress.step, self.settings.steps),
                workers=data.workers,
                rank=processes.rank,
                world_size=processes.size,
            )
        )

    def __call__(self, step: int) -> dict[str, float]:
        """The update after `step` updates. Raises InputError, on all processes, where losses or gradients are not
        finite, or a process could not read its samples: the weights are then those before the step."""
        settings, processes, scaler = self.settings, self.processes, self.state.scaler
        started = time.perf_counter()
        with processes.together():
            batch = next(self.batches)
        self.data_seconds = time.perf_counter() - started
        # after the batch: the loader's iterator, which the first batch makes, draws from this generator too
        torch.manual_seed(derived_seed(settings.seed, DROP_PATH, step * processes.size + processes.rank))
        rate = set_learning_rate(self.state.optimizer, settings, step)
        self.state.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batch)
        require_finite_losses(losses, step)

        scaler.unscale_(self.state.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # fp16 looks for its scale by overflowing now and then: such a step changes nothing but the scale
        if not (scaler.is_enabled() and scaler.get_scale() > 1):
            require_finite_gradients(self.state.model.named_parameters(), norm.item(), step)
        nn.utils.clip_grads_with_norm_(self.parameters, settings.clip_norm, norm)
        scaler.step(self.state.optimizer)
        scaler.update()
        if self.state.averaged is not None:
            self.state.averaged.update(step)
        total = float(self.criterion.total(losses))  # type: ignore[arg-type]
        terms = {f"loss_{name}": losses[name] for name in ("class", "mask", "dice")}
        scale = {"loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}
        size = norm.item()
        # an overflow has no norm, and JSON no word for infinity
        norms = {"gradient_norm": size} if math.isfinite(size) else {}
        return {"lr": rate, "loss": total, **terms, **norms, **scale}

    def _backward(self, batch: Batch) -> dict[str, float]:
        """Leaves the global batch's gradients in the parameters; returns its losses, the same on all processes."""
        pixels, targets = batch.pixels, batch.targets  # [n, 3, H, W], n
        processes, settings, device = self.processes, self.settings, self.processes.device
        num_masks, class_weight, skipped = processes.sum([*self._divisors(targets), batch.skipped])
        self.skipped = int(skipped)
        generators = [
            torch.Generator().manual_seed(derived_seed(settings.seed, LOSS, number)) for number in batch.numbers
        ]  # n, for the points of the losses
        size = len(pixels) // settings.accumulate
        sums: Tensor | None = None  # [terms]
        for start in range(0, len(pixels), size):
            part = slice(start, start + size)
            with self._gradients_summed(last=start + size == len(pixels)):
                pilots = gather_pilots(targets[part], generators[part]) if self.criterion.pilot_weight else None
                with self._autocast():
                    outputs = self.network(pixels[part].to(device), pilots and pilots.to(device))
                losses = self.criterion(outputs, targets[part], max(num_masks, 1.0), generators[part])
                share = self._divisors(targets[part])[1] / class_weight
                losses = {name: value * share if _is_class(name) else value for name, value in losses.items()}
                # DistributedDataParallel takes the mean over processes, and the losses are parts of one sum
                self.state.scaler.scale(self.criterion.total(losses) * processes.size).backward()
            values = torch.stack([value.detach() for value in losses.values()])  # [terms]
            sums = values if sums is None else sums + values
        assert sums is not None
        return dict(zip(losses, processes.sum(sums.tolist()), strict=True))

    def _divisors(self, targets: Sequence[Target]) -> tuple[float, float]:
        """What mask and dice terms are divided by, the number of targets; and what the class term is, the sum of the
        weights of its classes. Both are known before any prediction: an image matches min(Q, T) queries."""
        counts = [len(target["labels"]) for target in targets]
        matched = sum(min(count, self.spec.num_queries) for count in counts)
        unmatched = len(counts) * self.spec.num_queries - matched
        return float(sum(counts)), matched + unmatched * self.no_object_weight

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind = self.processes.device.type
        return torch.autocast(kind, DTYPES[self.settings.precision], enabled=self.settings.precision != "fp32")

    def _gradients_summed(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients travel between processes once a step, with its last micro-batch."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()


def check_batch(settings: TrainConfig, processes: int) -> None:
    """Raises InputError for a global batch that does not fall into equal parts."""
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise InputError(
            f"train.batch_size: expected a multiple of {parts} (processes: {processes}, train.accumulate: "
            f"{settings.accumulate}), for it counts the crops of all; got {settings.batch_size}"
        )


def _is_class(name: str) -> bool:
    return name.partition("_")[0] == "class"
