"""Foreign weights to a mask2edge checkpoint: a Hugging Face folder, or a detectron2 file of the official zoo.

    python train/import_weights.py mask2former-swin-tiny-coco-panoptic --out swin-tiny.safetensors
    python train/import_weights.py model_final_94dc52.pkl --config maskformer2_R50_bs16_50ep.yaml --out r50.safetensors

Every tensor is accounted for, and nothing in the files is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mask2edge.runtime.command_line import InputError, command, say
from mask2edge.runtime.spec import Label, ModelSpec
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import ModelConfig
from mask2edge.train.foreign import detectron2_names, huggingface_names
from mask2edge.train.foreign.description import Described, describe
from mask2edge.train.foreign.detectron2_config import read_detectron2_config
from mask2edge.train.foreign.detectron2_weights import read_detectron2_weights
from mask2edge.train.foreign.huggingface_config import read_huggingface_config, read_huggingface_weights
from mask2edge.train.foreign.tensor_names import convert
from mask2edge.train.labels import load_labels
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.presets import PRESETS, Preset


def import_weights(
    source: Path,
    config: Path | None = None,
    preset: str | None = None,
    labels: str | None = None,
    name: str = "",
) -> tuple[dict[str, Tensor], ModelConfig, ModelSpec]:
    """Our state dict, the network and its description, from a Hugging Face folder or a detectron2 file.

    `config`: the YAML of a detectron2 file; `preset` names the configuration instead, or replaces what a folder says of
    classes, images and thresholds. `labels`: a table's name or a JSON file, in place of the classes found.
    Raises InputError that says what does not fit; nothing is written.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"--preset: expected one of {', '.join(PRESETS)}; got {preset!r}")
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; expected a Hugging Face folder or a detectron2 file")
    given = load_labels(labels) if labels else None
    chosen = _from_preset(PRESETS[preset], name, given) if preset else None
    if source.is_dir():
        if config is not None:
            raise InputError("--config: expected none with a Hugging Face folder, which has its config.json")
        described = read_huggingface_config(source, name, chosen.spec.labels if chosen else given)
        if chosen is not None:
            _same_network(described.model, chosen.model, f"{source}/config.json", f"preset {preset}")
        foreign, names = read_huggingface_weights(source), huggingface_names
    else:
        if (config is None) == (chosen is None):
            raise InputError(
                f"{source}: expected --config FILE.yaml or --preset NAME with a detectron2 file, one of them"
            )
        described = chosen or read_detectron2_config(Path(str(config)), name, given)
        foreign, names = detectron2_names.modern_names(read_detectron2_weights(source)), detectron2_names
    described = chosen or described
    with torch.device("meta"):  # names and shapes alone
        ours = build_model(described.model).state_dict()
    return convert(foreign, ours, names.RULES, names.IGNORED, str(source)), described.model, described.spec


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Weights of Hugging Face's or the original Mask2Former to a mask2edge checkpoint.",
        epilog="example: python train/import_weights.py model_final_94dc52.pkl "
        "--config configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml --out r50.safetensors",
    )
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="Hugging Face folder (config.json), or detectron2 .pkl or .pth"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write (.safetensors)")
    parser.add_argument("--config", type=Path, help="YAML of a detectron2 file; _BASE_ files beside it are read")
    parser.add_argument("--preset", help="configuration of the model zoo by name, such as coco-panoptic-r50")
    parser.add_argument("--labels", help="class table: its name, or a JSON file with a list of names or labels")
    parser.add_argument("--name", default="", help="name of the model in its description")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    arguments = parser.parse_args(argv)
    weights, model_config, spec = import_weights(
        arguments.source, arguments.config, arguments.preset, arguments.labels, arguments.name
    )
    save_checkpoint(arguments.out, weights, model_config, spec, half=arguments.half)
    things = sum(bool(label.is_thing) for label in spec.labels)
    unknown = any(label.is_thing is None for label in spec.labels)
    say(
        f"{spec.name}: {model_config.backbone}, {len(weights)} tensors, {spec.num_queries} queries, {spec.num_classes} "
        f"classes ({'things unknown' if unknown else f'{things} things'}), tasks {', '.join(spec.tasks)}"
    )
    if unknown and "panoptic" not in spec.tasks:
        say("no panoptic output: which classes are things is unknown; give them with --labels FILE")
    print(arguments.out)
    return 0


def _from_preset(preset: Preset, name: str, labels: tuple[Label, ...] | None) -> Described:
    spec = preset.spec()
    if labels is None:
        return Described(preset.model, dataclasses.replace(spec, name=name or spec.name))
    return describe(
        preset.model,
        name or spec.name,
        labels,
        preset.labels,
        spec.tasks,
        spec.preprocessing,
        spec.postprocessing.object_threshold,
        spec.postprocessing.overlap_threshold,
        spec.postprocessing.semantic_order,
    )


def _same_network(found: ModelConfig, expected: ModelConfig, where: str, other: str) -> None:
    theirs, ours = dataclasses.asdict(found), dataclasses.asdict(expected)
    if different := [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]:
        raise InputError(f"{where}: expected the network of {other}, got {', '.join(different)}")


if __name__ == "__main__":
    sys.exit(main())
