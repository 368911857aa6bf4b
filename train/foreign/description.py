"""What a foreign configuration says, in our terms: the network and its description.

described = describe(model, name, labels, tasks, preprocessing, ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.config import ModelConfig
from mask2edge.train.model.backbones import swin
from mask2edge.train.presets import TASKS, find_preset, usual_size


@dataclass(frozen=True)
class Described:
    model: ModelConfig
    spec: ModelSpec


def describe(
    model: ModelConfig,
    name: str,
    labels: tuple[Label, ...],
    table: str | None,
    tasks: tuple[str, ...],
    preprocessing: Preprocessing,
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    semantic_order: str | None = None,
) -> Described:
    """`table`: the name of `labels` in labels.py, if they are one; with the test edges it tells the usual padded size.

    Tasks that the labels cannot serve are left out: panoptic and semantic where all are things, panoptic where that is
    unknown. Raises InputError where the labels do not fit the model.
    """
    if len(labels) != model.num_classes:
        raise InputError(
            f"labels: expected {model.num_classes} classes as the model has, got {len(labels)}; "
            "give the right ones with --labels FILE"
        )
    if all(label.is_thing for label in labels) and "instance" in tasks:
        tasks = TASKS["instance"]
    if any(label.is_thing is None for label in labels):
        tasks = tuple(task for task in tasks if task != "panoptic")
    edges = (preprocessing.shortest_edge, preprocessing.longest_edge)
    preset = find_preset(table, edges) if table else None
    spec = ModelSpec(
        name=name,
        labels=labels,
        num_queries=model.num_queries,
        preprocessing=preprocessing,
        postprocessing=Postprocessing(
            object_threshold=object_threshold,
            overlap_threshold=overlap_threshold,
            semantic_order=semantic_order or ("padded" if tasks == ("semantic",) else "image"),
        ),
        tasks=tasks or TASKS["semantic"],
        size=preset.size if preset else usual_size(*edges),
    )
    return Described(model, spec)


def swin_name(width: int, depths: Sequence[int], heads: Sequence[int], window: int) -> str:
    """Our name of that Swin. Raises InputError where it is none of the four."""
    for name, variant in swin.VARIANTS.items():
        if variant == (width, tuple(depths), tuple(heads), window):
            return name
    raise InputError(
        f"backbone: expected Swin {', '.join(swin.VARIANTS)}; got width {width}, depths {list(depths)}, "
        f"heads {list(heads)}, window {window}"
    )


def resnet_name(depth: int) -> str:
    if depth not in (50, 101):
        raise InputError(f"backbone: expected ResNet 50 or 101, got depth {depth}")
    return f"resnet{depth}"
