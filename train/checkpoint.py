"""Checkpoints: one safetensors file whose metadata says what the weights are.

    save_checkpoint(Path("a.safetensors"), model.state_dict(), config.model, spec, step=100)
    model, checkpoint = load_model(Path("a.safetensors"))

No pickle anywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mask2edge.runtime.command_line import InputError, whole_file
from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.config import ModelConfig, from_dict
from mask2edge.train.model.mask2former import Mask2Former, build_model

FORMAT = "mask2edge-checkpoint"
SCHEMA = 1
PLACES = ("pixel_decoder.token_places.", "pixel_decoder.fine_places.")
QUERIES = ("mask_decoder.query_features", "mask_decoder.query_positions", "mask_decoder.guided_queries.")
# [classes, …], [classes + 1, …] and [queries, …]: what a checkpoint of other numbers cannot give
PER_CLASS_OR_QUERY = (
    "mask_decoder.class_head.weight",
    "mask_decoder.class_head.bias",
    "mask_decoder.guided_queries.scores.2.weight",
    "mask_decoder.guided_queries.scores.2.bias",
    "mask_decoder.query_features",
    "mask_decoder.query_positions",
)


@dataclass(frozen=True)
class Checkpoint:
    model_config: ModelConfig
    spec: ModelSpec
    step: int  # of the training run that wrote it; 0 for imported weights
    config_digest: str  # Config.digest() of that run; empty for imported weights
    weights: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    weights: Mapping[str, Tensor],
    model_config: ModelConfig,
    spec: ModelSpec,
    step: int = 0,
    config_digest: str = "",
    half: bool = False,
) -> None:
    """Writes the whole file or none.

    `half` stores float32 tensors as float16, half the size, but for those whose values float16 cannot hold.
    """
    if spec.num_classes != model_config.num_classes or spec.num_queries != model_config.num_queries:
        raise InputError(
            f"checkpoint: the model has {model_config.num_classes} classes and {model_config.num_queries} queries, "
            f"its description {spec.num_classes} and {spec.num_queries}"
        )
    tensors = {
        name: (_halved(tensor) if half else tensor).detach().cpu().contiguous() for name, tensor in weights.items()
    }
    metadata = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "model_config": json.dumps(dataclasses.asdict(model_config)),
        "spec": spec.to_json(),
        "step": str(step),
        "config_digest": config_digest,
    }
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def _halved(tensor: Tensor) -> Tensor:
    fits = tensor.dtype == torch.float32 and bool((tensor.abs() <= torch.finfo(torch.half).max).all())
    return tensor.half() if fits else tensor


def load_checkpoint(path: Path) -> Checkpoint:
    """Tensors come as float32. Raises InputError for a file that is missing, truncated, foreign or newer."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint written by train/train.py or import_weights.py")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: expected a whole .safetensors file, got {error}; copy or write it again") from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected a mask2edge checkpoint, got a .safetensors file of another kind; "
            "import foreign weights with train/import_weights.py"
        )
    if metadata.get("schema") != str(SCHEMA):
        raise InputError(f"{path}: expected checkpoint schema {SCHEMA}, got {metadata.get('schema')}; update mask2edge")
    try:
        model_config = from_dict(ModelConfig, json.loads(metadata["model_config"]))
        spec = ModelSpec.from_json(metadata["spec"])
        step = int(metadata["step"])
        digest = metadata["config_digest"]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: the checkpoint's metadata is damaged ({error}); write it again") from error
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return Checkpoint(model_config, spec, step, digest, weights)


def load_model(path: Path) -> tuple[Mask2Former, Checkpoint]:
    """The network with its weights, float32, in eval mode. Raises InputError where they do not fit."""
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint.model_config)
    load_weights(model, checkpoint.weights, str(path))
    return model.eval(), checkpoint


def load_initial_weights(model: Mask2Former, weights: Mapping[str, Tensor], source: str) -> list[str]:
    """Copies what a training run starts from, and gives the names of the tensors that stay as they are: class head and
    queries, where their number differs or they are of another kind, and place codes, where the source has none. Raises
    InputError as `load_weights` for anything else that does not fit."""
    own = model.state_dict()
    left = [
        name
        for name in PER_CLASS_OR_QUERY
        if name in own
        and name in weights
        and own[name].shape[1:] == weights[name].shape[1:]
        and own[name].shape != weights[name].shape
    ]
    left += [name for name in own if name.startswith(PLACES + QUERIES) and name not in weights]
    weights = {name: tensor for name, tensor in weights.items() if name in own or not name.startswith(QUERIES)}
    load_weights(model, {**weights, **{name: own[name] for name in left}}, source)
    return left


def load_weights(model: Mask2Former, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies every tensor. Raises InputError that lists the missing, unexpected and misshapen ones, or names the first
    that is not finite: the native sampling of training leaves NaN places out, and the loss would not show it."""
    expected = model.state_dict()
    faults = [f"missing {name}" for name in expected if name not in weights]
    faults += [f"unexpected {name}" for name in weights if name not in expected]
    faults += [
        f"{name} is {list(weights[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if faults:
        shown = "; ".join(faults[:20]) + (f"; and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise InputError(f"{source}: the tensors do not fit the model: {shown}")
    damaged = next((name for name in expected if not bool(torch.isfinite(weights[name]).all())), None)
    if damaged:
        raise InputError(f"{source}: expected finite weights, got NaN or infinity in {damaged}; use another checkpoint")
    model.load_state_dict(dict(weights))
