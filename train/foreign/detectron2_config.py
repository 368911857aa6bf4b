"""The configuration files of the official zoo: YAML that chains through `_BASE_`, read as data alone.

    described = read_detectron2_config(Path("maskformer2_R50_bs16_50ep.yaml"))

Tags such as `!!python/object/apply:eval` construct nothing here: their values become None, and none is needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label, Preprocessing
from mask2edge.train.config import ModelConfig
from mask2edge.train.foreign.description import Described, describe, resnet_name, swin_name
from mask2edge.train.labels import load_labels
from mask2edge.train.presets import TASKS

MAX_BYTES = 1 << 20  # a configuration has about 2 kB
MAX_CHAIN = 20
ENCODER_FFN = 1024  # fixed in msdeformattn.py; DIM_FEEDFORWARD is the mask decoder's

# What the network's arithmetic takes for granted: key -> (detectron2's default, the value that every official file has)
REQUIRED: dict[str, tuple[Any, Any]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "MaskFormer"),
    "MODEL.SEM_SEG_HEAD.NAME": ("SemSegFPNHead", "MaskFormerHead"),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": ("BasePixelDecoder", "MSDeformAttnPixelDecoder"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": (
        ["res3", "res4", "res5"],
        ["res3", "res4", "res5"],
    ),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (4, 4),
    "MODEL.SEM_SEG_HEAD.NORM": ("GN", "GN"),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": (
        "MultiScaleMaskedTransformerDecoder",
        "MultiScaleMaskedTransformerDecoder",
    ),
    "MODEL.MASK_FORMER.PRE_NORM": (False, False),
    "INPUT.FORMAT": ("BGR", "RGB"),
}
REQUIRED_RESNET: dict[str, tuple[Any, Any]] = {"MODEL.RESNETS.STRIDE_IN_1X1": (True, False)}
REQUIRED_SWIN: dict[str, tuple[Any, Any]] = {"MODEL.SWIN.APE": (False, False), "MODEL.SWIN.PATCH_NORM": (True, True)}

# start of a data set's name in detectron2's catalogue -> our table; the first that fits
DATASETS = (
    (r"coco_2017_\w*panoptic", "coco-panoptic"),
    (r"coco_2017_(train|val)", "coco-instance"),
    (r"ade20k_sem_seg", "ade20k"),
    (r"ade20k_panoptic", "ade20k-panoptic"),
    (r"ade20k_instance", "ade20k-instance"),
    (r"cityscapes_fine_instance", "cityscapes-instance"),
    (r"cityscapes_fine", "cityscapes"),
    (r"mapillary_vistas", "mapillary"),
)


class _DataLoader(yaml.SafeLoader):
    """SafeLoader that gives None for every tag that is not plain YAML, and takes no aliases (they can blow up)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


_DataLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file over its `_BASE_`, over that one's, … Raises InputError for a missing or damaged file or a cycle."""
    chain: list[Path] = []
    configs: list[dict[str, Any]] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in chain or len(chain) >= MAX_CHAIN:
            raise InputError(f"{path}: _BASE_ goes round in a circle through {current}")
        chain.append(current.resolve())
        config = _load(current, path)
        base = config.pop("_BASE_", None)
        if base is not None and not isinstance(base, str):
            raise InputError(f"{current}: expected _BASE_ to be a file's name, got {base!r}")
        configs.append(config)
        current = current.parent / base if base else None
    merged: dict[str, Any] = {}
    for config in reversed(configs):
        merged = _merge(merged, config)
    return merged


def read_detectron2_config(path: Path, name: str = "", labels: tuple[Label, ...] | None = None) -> Described:
    """The network and its description. `labels` replaces the table that the data set's name tells.

    Raises InputError that names the key, for what we do not implement or cannot find.
    """
    config = _Settings(path, read_yaml(path))
    backbone = _backbone(config)
    config.require(REQUIRED)
    hidden = config.integer("MODEL.MASK_FORMER.HIDDEN_DIM", 256)
    heads = config.integer("MODEL.MASK_FORMER.NHEADS", 8)
    for key, default, expected in (
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 256, hidden),
        ("MODEL.SEM_SEG_HEAD.MASK_DIM", 256, hidden),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", 8, heads),
    ):
        config.require({key: (default, expected)})
    model = ModelConfig(
        backbone=backbone,
        num_classes=config.integer("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54),
        num_queries=config.integer("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100),
        hidden_dim=hidden,
        num_heads=heads,
        num_points=config.integer("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS", 4),
        encoder_layers=config.integer("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 0),
        encoder_ffn=ENCODER_FFN,
        decoder_layers=config.integer("MODEL.MASK_FORMER.DEC_LAYERS", 6)
        - 1,  # they count the learned queries' prediction
        decoder_ffn=config.integer("MODEL.MASK_FORMER.DIM_FEEDFORWARD", 2048),
    )
    test = "MODEL.MASK_FORMER.TEST"
    panoptic = config.flag(f"{test}.PANOPTIC_ON", False)
    instance = config.flag(f"{test}.INSTANCE_ON", False)
    semantic = config.flag(f"{test}.SEMANTIC_ON", True)
    on = (("panoptic", panoptic), ("instance", instance), ("semantic", semantic))
    tasks = TASKS["panoptic"] if panoptic else tuple(task for task, enabled in on if enabled)
    if not tasks:
        raise InputError(f"{path}: expected SEMANTIC_ON, INSTANCE_ON or PANOPTIC_ON under {test}, got none")
    at_image = panoptic or instance or config.flag(f"{test}.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", False)
    table = None if labels else _table(config)
    return describe(
        model,
        name or path.stem,
        labels or load_labels(str(table)),
        table,
        tasks,
        Preprocessing(
            mean=config.numbers("MODEL.PIXEL_MEAN"),
            std=config.numbers("MODEL.PIXEL_STD"),
            shortest_edge=config.integer("INPUT.MIN_SIZE_TEST", 800),
            longest_edge=config.integer("INPUT.MAX_SIZE_TEST", 1333),
        ),
        object_threshold=config.number(f"{test}.OBJECT_MASK_THRESHOLD", 0.0),
        overlap_threshold=config.number(f"{test}.OVERLAP_THRESHOLD", 0.0),
        semantic_order="image" if at_image else "padded",
    )


class _Settings:
    """Values by dotted key, of the kind asked for."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def get(self, key: str, default: Any) -> Any:
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def of(self, key: str, default: Any, kinds: tuple[type, ...], what: str) -> Any:
        value = self.get(key, default)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError(f"{self.path}: {key}: expected {what}, got {value!r}")
        return value

    def integer(self, key: str, default: int) -> int:
        return self.of(key, default, (int,), "a whole number")

    def integers(self, key: str, default: list[int]) -> list[int]:
        values = self.of(key, default, (list,), "a list of whole numbers")
        if not all(type(value) is int for value in values):
            raise InputError(f"{self.path}: {key}: expected a list of whole numbers, got {values!r}")
        return values

    def number(self, key: str, default: float) -> float:
        return float(self.of(key, default, (int, float), "a number"))

    def numbers(self, key: str) -> tuple[float, float, float]:
        values = self.of(key, None, (list,), "three numbers")
        if len(values) != 3 or not all(type(value) in (int, float) for value in values):
            raise InputError(f"{self.path}: {key}: expected three numbers, got {values!r}")
        return float(values[0]), float(values[1]), float(values[2])

    def flag(self, key: str, default: bool) -> bool:
        return self.of(key, default, (bool,), "true or false")

    def require(self, table: dict[str, tuple[Any, Any]]) -> None:
        for key, (default, expected) in table.items():
            if (value := self.get(key, default)) != expected:
                raise InputError(
                    f"{self.path}: {key}: expected {expected!r}, which is what is implemented; got {value!r}"
                )


def _backbone(config: _Settings) -> str:
    name = config.get("MODEL.BACKBONE.NAME", "build_resnet_backbone")
    if name == "build_resnet_backbone":
        config.require(REQUIRED_RESNET)
        return resnet_name(config.integer("MODEL.RESNETS.DEPTH", 50))
    if name == "D2SwinTransformer":
        config.require(REQUIRED_SWIN)
        return swin_name(
            config.integer("MODEL.SWIN.EMBED_DIM", 96),
            config.integers("MODEL.SWIN.DEPTHS", [2, 2, 6, 2]),
            config.integers("MODEL.SWIN.NUM_HEADS", [3, 6, 12, 24]),
            config.integer("MODEL.SWIN.WINDOW_SIZE", 7),
        )
    raise InputError(
        f"{config.path}: MODEL.BACKBONE.NAME: expected build_resnet_backbone or D2SwinTransformer, got {name!r}"
    )


def _table(config: _Settings) -> str:
    names = config.get("DATASETS.TEST", None) or config.get("DATASETS.TRAIN", None)
    for name in re.findall(r"\w+", str(names)):  # YAML reads ("name",) as a string
        for pattern, table in DATASETS:
            if re.match(pattern, name):
                return table
    raise InputError(
        f"{config.path}: DATASETS.TEST: expected a data set of the official zoo, got {names!r}; "
        "give the class names with --labels FILE"
    )


def _load(path: Path, origin: Path) -> dict[str, Any]:
    where = str(path) if path == origin else f"{origin}: its _BASE_ {path}"
    if not path.is_file():
        raise InputError(f"{where}: no such file; expected a YAML file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{where}: expected a configuration of at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _DataLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: expected YAML, got {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a detectron2 configuration, got {str(config)[:60]!r}")
    return config


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
