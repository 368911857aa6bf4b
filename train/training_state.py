"""What a stopped run needs to go on as if never stopped, in one file: weights, AdamW's moments and the place.

    save_training_state(path, config, model, optimizer, Progress(step=100))
    progress = load_training_state(path, config, model, optimizer)

One file, written whole or not at all, so that weights and moments are always of the same step. No pickle, and no random
state: every draw is derived from (seed, step).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mask2edge.runtime.command_line import InputError, whole_file
from mask2edge.train.config import Config, from_dict

FORMAT = "mask2edge-training-state"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of torch.optim.AdamW


@dataclass
class Progress:
    """step: updates done; validated: the last step that was validated (0: none); best: its best mIoU so far."""

    step: int = 0
    validated: int = 0
    best: float | None = None


def save_training_state(
    path: Path, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(config)),
        "progress": json.dumps(dataclasses.asdict(progress)),
    }
    with whole_file(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def load_training_state(path: Path, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Fills model and optimizer. Raises InputError for a missing or damaged file, or one of other settings."""
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
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the training state's metadata is damaged or of another version ({error})") from error
    if changes := differences(saved, config):
        raise InputError(
            f"--resume: the run in {path.parent} has other settings: {'; '.join(changes)}; "
            "use the same, or start a new run with another --out"
        )
    _fill(path, tensors, model, optimizer)
    return progress


def differences(saved: Config, now: Config) -> list[str]:
    """`train.steps was 100, now 200` for every setting that differs."""
    before, after = _flat(dataclasses.asdict(saved)), _flat(dataclasses.asdict(now))
    return [f"{key} was {before[key]!r}, now {after[key]!r}" for key in before if before[key] != after[key]]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _fill(path: Path, tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    expected = model.state_dict()
    wrong = sorted(set(weights) ^ set(expected))
    wrong += [name for name in weights.keys() & expected.keys() if weights[name].shape != expected[name].shape]
    if wrong:
        raise InputError(f"{path}: the tensors do not fit the model ({len(wrong)}, the first is {wrong[0]})")
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            continue  # had no gradient yet
        state = {key: tensors[f"{key}.{name}"] for key in MOMENTS}
        for key in ("exp_avg", "exp_avg_sq"):  # in the parameter's own memory layout
            state[key] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(state[key]).detach()
        optimizer.state[parameter] = state
