"""A Hugging Face Mask2Former folder: config.json, preprocessor_config.json, and one or several safetensors files.

    described = read_huggingface_config(Path("mask2former-swin-tiny-coco-panoptic"))
    weights = read_huggingface_weights(Path("mask2former-swin-tiny-coco-panoptic"))

config.json names the classes but not which are things, nor what the model was trained for. Where the names are those of
a table in labels.py, the table is used; the task is looked for in the model's and the folder's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label, Preprocessing
from mask2edge.train.config import ModelConfig
from mask2edge.train.foreign.description import Described, describe, resnet_name, swin_name
from mask2edge.train.labels import TABLES, labels_from_names, load_labels
from mask2edge.train.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS, TASKS

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
SAME_NAMES = 0.8  # part of the names that must agree for a table to be theirs; the copies differ in synonyms

# Settings that change the arithmetic and not the tensors: key -> (default, what is implemented)
REQUIRED: dict[str, tuple[Any, Any]] = {
    "pre_norm": (False, False),
    "activation_function": ("relu", "relu"),
    "common_stride": (4, 4),
    "enforce_input_projection": (False, False),
}
REQUIRED_SWIN: dict[str, tuple[Any, Any]] = {
    "hidden_act": ("gelu", "gelu"),
    "layer_norm_eps": (1e-5, 1e-5),
    "use_absolute_embeddings": (False, False),
    "patch_size": (4, 4),
}
REQUIRED_RESNET: dict[str, tuple[Any, Any]] = {
    "hidden_act": ("relu", "relu"),
    "layer_type": ("bottleneck", "bottleneck"),
    "downsample_in_bottleneck": (False, False),
    "downsample_in_first_stage": (False, False),
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}


def read_huggingface_config(folder: Path, name: str = "", labels: tuple[Label, ...] | None = None) -> Described:
    """The network and its description. Raises InputError for a damaged folder and for what we do not implement."""
    config = _read_json(folder / "config.json")
    where = str(folder / "config.json")
    if config.get("model_type") != "mask2former":
        raise InputError(f"{where}: expected model_type mask2former, got {config.get('model_type')!r}")
    try:
        _require(config, REQUIRED, where)
        hidden = config.get("hidden_dim", 256)
        _require(config, {"feature_size": (256, hidden), "mask_feature_size": (256, hidden)}, where)
        names = _class_names(config)
        model = ModelConfig(
            backbone=_backbone(config.get("backbone_config"), where),
            num_classes=len(names),
            num_queries=config.get("num_queries", 100),
            hidden_dim=hidden,
            num_heads=config.get("num_attention_heads", 8),
            num_points=4,  # fixed in their code
            encoder_layers=config.get("encoder_layers", 6),
            encoder_ffn=config.get("encoder_feedforward_dim", 1024),
            decoder_layers=config.get("decoder_layers", 10) - 1,  # they count the learned queries' prediction
            decoder_ffn=config.get("dim_feedforward", 2048),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: a setting has the wrong kind ({error})") from error
    hint = f"{config.get('_name_or_path') or ''} {folder.resolve().name} {name}".lower()
    table = None if labels else find_table(names, hint)
    found = labels or (load_labels(table) if table else labels_from_names(names))
    known_task = next((task for task in TASKS if task in hint), None)
    tasks = TASKS[known_task] if known_task else TASKS["panoptic"]
    return describe(model, name or folder.resolve().name, found, table, tasks, _preprocessing(folder, table))


def find_table(names: list[str], hint: str = "") -> str | None:
    """The table of labels.py that has these class names in this order, up to synonyms; `hint` decides a tie."""
    mine = [_plain(name) for name in names]
    fitting = []
    for table in TABLES:
        theirs = [_plain(label.name) for label in load_labels(table)]
        same = sum(a == b for a, b in zip(mine, theirs, strict=False))
        if len(mine) == len(theirs) and same >= SAME_NAMES * len(mine):
            fitting.append(table)
    if "ade20k-panoptic" in fitting:  # the same names as semantic data, whose annotations know no things
        return "ade20k" if "semantic" in hint else "ade20k-panoptic"
    return fitting[0] if fitting else None


def read_huggingface_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files. Raises InputError for a missing or damaged one."""
    if (folder / INDEX).is_file():
        files = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise InputError(f"{folder / INDEX}: expected a weight_map of tensors to files")
        if outside := [file for file in files.values() if Path(file).name != file]:
            raise InputError(f"{folder / INDEX}: expected plain file names, got {outside[0]!r}")
        shards = sorted(set(files.values()))
    else:
        shards = [WEIGHTS]
    weights: dict[str, Tensor] = {}
    for shard in shards:
        path = folder / shard
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the weights as safetensors (a .bin file is not read)")
        try:
            with safe_open(path, framework="pt") as file:
                weights.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: expected a whole .safetensors file, got {error}") from error
    return weights


def _backbone(config: Any, where: str) -> str:
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a backbone_config of type swin or resnet, got {config!r}")
    kind = config.get("model_type")
    features = config.get("out_features") or STAGES
    if features != STAGES:
        raise InputError(f"{where}: backbone_config.out_features: expected {STAGES}, got {features}")
    if kind == "swin":
        _require(config, REQUIRED_SWIN, f"{where}: backbone_config")
        return swin_name(
            config.get("embed_dim", 96),
            config.get("depths", [2, 2, 6, 2]),
            config.get("num_heads", [3, 6, 12, 24]),
            config.get("window_size", 7),
        )
    if kind == "resnet":
        _require(config, REQUIRED_RESNET, f"{where}: backbone_config")
        depths = config.get("depths", [3, 4, 6, 3])
        if tuple(depths) not in RESNET_DEPTHS:
            raise InputError(f"{where}: backbone_config.depths: expected those of ResNet 50 or 101, got {depths}")
        return resnet_name(RESNET_DEPTHS[tuple(depths)])
    raise InputError(f"{where}: expected a backbone_config of type swin or resnet, got {kind!r}")


def _class_names(config: dict[str, Any]) -> list[str]:
    names = config.get("id2label")
    if names is None:  # their default
        return ["LABEL_0", "LABEL_1"]
    ordered = sorted((int(key), str(name).strip()) for key, name in names.items())
    if [key for key, _ in ordered] != list(range(len(ordered))):
        raise InputError("config.json: id2label: expected the keys 0, 1, 2, … without gaps")
    return [name or f"class {key}" for key, name in ordered]


def _preprocessing(folder: Path, table: str | None) -> Preprocessing:
    """Mean and std of their image processor; the test edges of our table's official models.

    Their processors of the official models resize to 384x384, which is not how the models were trained or tested.
    """
    preset = next((preset for preset in PRESETS.values() if preset.labels == table), PRESETS["coco-panoptic-r50"])
    shortest, longest = preset.preprocessing.shortest_edge, preset.preprocessing.longest_edge
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    path = folder / "preprocessor_config.json"
    if path.is_file():
        config = _read_json(path)
        try:
            scale = 1 / config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
            if "image_mean" in config and "image_std" in config:
                mean = _three(config["image_mean"], scale)
                std = _three(config["image_std"], scale)
            size = config.get("size")
            if isinstance(size, dict) and size.get("shortest_edge") and size.get("longest_edge"):
                shortest, longest = int(size["shortest_edge"]), int(size["longest_edge"])
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"{path}: expected an image processor's settings, got {error}") from error
    return Preprocessing(mean=mean, std=std, shortest_edge=shortest, longest_edge=longest)


def _three(values: Any, scale: float) -> tuple[float, float, float]:
    first, second, third = (round(float(value) * scale, 6) for value in values)
    return first, second, third


def _require(config: dict[str, Any], table: dict[str, tuple[Any, Any]], where: str) -> None:
    for key, (default, expected) in table.items():
        if (value := config.get(key, default)) != expected:
            raise InputError(f"{where}: {key}: expected {expected!r}, which is what is implemented; got {value!r}")


def _plain(name: str) -> str:
    name = name.lower().split(",")[0].split(";")[0].strip()
    for ending in ("-merged", "-other", "-stuff"):
        name = name.replace(ending, "")
    return name.replace("-", " ").replace("_", " ")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a Hugging Face Mask2Former folder")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {str(value)[:40]}")
    return value
