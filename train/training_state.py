"""What a stopped run needs to go on as if never stopped, in one file: weights, their average, AdamW's moments.

    save_training_state(path, config, spec, state)
    load_training_state(path, config, spec, state)

One file, written whole or not at all, so that weights and moments are always of the same step. No pickle, no random
state and nothing of a process: every draw is derived from the seed and the number of the step or the sample.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mask2edge.runtime.command_line import InputError, whole_file
from mask2edge.runtime.spec import Label, ModelSpec
from mask2edge.train.averaging import AveragedWeights
from mask2edge.train.config import Config, from_dict

FORMAT = "mask2edge-training-state"
SHOWN_CHANGES = 8  # in the line that refuses a resume
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of torch.optim.AdamW
# What a run computes does not depend on these, beyond rounding: a resumed run may have others. But for
# train.accumulate where Swin drops paths or the decoder drops out: that is drawn for each micro-batch, so that with
# another number of them the run goes on, not as it would have (train/step.py).
MACHINE_SETTINGS = frozenset({"data.workers", "data.cache_mib", "train.accumulate", "train.checkpoint_activations"})


@dataclass
class Progress:
    """step: updates done; validated: the last step that was validated (0: none); best: its best score so far."""

    step: int = 0
    validated: int = 0
    best: float | None = None


@dataclass
class TrainingState:
    """All that changes while a run goes on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedWeights | None
    scaler: torch.amp.GradScaler
    progress: Progress = field(default_factory=Progress)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.model


def save_training_state(path: Path, config: Config, spec: ModelSpec, state: TrainingState) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    if state.averaged is not None:
        tensors |= {f"averaged.{name}": tensor for name, tensor in state.averaged.averages.items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(config)),
        "spec": spec.to_json(),
        "progress": json.dumps(dataclasses.asdict(state.progress)),
        "scaler": json.dumps(state.scaler.state_dict()),  # {} but in fp16
    }
    with whole_file(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def load_training_state(path: Path, config: Config, spec: ModelSpec, state: TrainingState) -> None:
    """Fills `state`. Raises InputError for a missing or damaged file, or one of other settings or other classes."""
    if not path.is_file():
        raise InputError(f"--resume: {path} is not there; expected the folder of a started run (--out)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: expected a whole training state, got {error}; start a run elsewhere") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: expected a training state written by train/train.py, got a file of another kind")
    try:
        saved = from_dict(Config, json.loads(metadata["config"]))
        progress = Progress(**json.loads(metadata["progress"]))
        scaler = json.loads(metadata.get("scaler", "{}"))
        labels = ModelSpec.from_json(metadata["spec"]).labels if "spec" in metadata else spec.labels  # older files
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the training state's metadata is damaged or of another version ({error})") from error
    if changes := differences(saved, labels, config, spec.labels):
        others = f"; and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
        raise InputError(
            f"--resume: the run in {path.parent} has other settings: {'; '.join(changes[:SHOWN_CHANGES])}{others}; "
            "use the same, or start a new run with another --out"
        )
    _fill(path, tensors, state)
    if scaler:
        state.scaler.load_state_dict(scaler)
    state.progress = progress


def differences(saved: Config, saved_labels: Sequence[Label], now: Config, labels: Sequence[Label]) -> list[str]:
    """`train.steps was 100, now 200` for every setting that differs and is not among MACHINE_SETTINGS, and
    `classes.1.name was 'sky', now 'tree'` for what differs in the data's classes."""
    before, after = _flat(_with_classes(saved, saved_labels)), _flat(_with_classes(now, labels))
    return [
        f"{key} was {before.get(key)!r}, now {after.get(key)!r}"
        for key in {**before, **after}  # a class of data.merge is a key, which one of the two may lack
        if before.get(key) != after.get(key) and key not in MACHINE_SETTINGS
    ]


def _with_classes(config: Config, labels: Sequence[Label]) -> dict[str, Any]:
    return {**dataclasses.asdict(config), "classes": {str(label.id): dataclasses.asdict(label) for label in labels}}


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _fill(path: Path, tensors: dict[str, Tensor], state: TrainingState) -> None:
    expected = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    averages = {} if state.averaged is None else state.averaged.averages
    expected |= {f"averaged.{name}": tensor for name, tensor in averages.items()}
    given = {name: tensor for name, tensor in tensors.items() if name.startswith(("model.", "averaged."))}
    wrong = sorted(set(given) ^ set(expected))
    wrong += [name for name in given.keys() & expected.keys() if given[name].shape != expected[name].shape]
    if wrong:
        raise InputError(f"{path}: the tensors do not fit the model ({len(wrong)}, the first is {wrong[0]})")
    state.model.load_state_dict({name.removeprefix("model."): t for name, t in given.items() if name[0] == "m"})
    if state.averaged is not None:
        state.averaged.load(state.model, {name: tensors[f"averaged.{name}"] for name in averages})
    for name, parameter in state.model.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            continue  # had no gradient yet
        moments = {key: tensors[f"{key}.{name}"] for key in MOMENTS}
        for key in ("exp_avg", "exp_avg_sq"):  # in the parameter's own memory layout
            moments[key] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(moments[key]).detach()
        state.optimizer.state[parameter] = moments
