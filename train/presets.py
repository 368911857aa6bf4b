"""The model zoo as a table: network, classes, preprocessing and post-processing of every official configuration, and of
an edge family for small devices.

    preset = PRESETS["coco-panoptic-r50"]
    preset.model, preset.spec()

Names are `<dataset>-<task>-<backbone>`. Source: configs/ of facebookresearch/Mask2Former; the `lite` ones are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mask2edge.runtime.spec import SIZE_DIVISOR, ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.config import ModelConfig
from mask2edge.train.labels import load_labels

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB
IMAGENET_STD = (58.395, 57.12, 57.375)
LITE_MEAN = LITE_STD = (127.5, 127.5, 127.5)  # what the EfficientNet-Lite weights were trained with

TASKS = {  # what a model of each kind serves: a panoptic model's queries answer all three
    "panoptic": ("panoptic", "instance", "semantic"),
    "instance": ("instance",),
    "semantic": ("semantic",),
}


@dataclass(frozen=True)
class Preset:
    name: str
    model: ModelConfig
    labels: str  # a table of labels.py
    tasks: tuple[str, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    size: tuple[int, int]  # (H, W), the padded input of a fixed-size engine

    def spec(self) -> ModelSpec:
        """The description that a checkpoint of this configuration carries."""
        return ModelSpec(
            name=self.name,
            labels=load_labels(self.labels),
            num_queries=self.model.num_queries,
            preprocessing=self.preprocessing,
            postprocessing=self.postprocessing,
            tasks=self.tasks,
            size=self.size,
        )


BACKBONES = {
    "r50": "resnet50",
    "r101": "resnet101",
    "swin-t": "swin-tiny",
    "swin-s": "swin-small",
    "swin-b": "swin-base",
    "swin-b-in21k": "swin-base",  # the same network; its weights start from ImageNet-21k
    "swin-l": "swin-large",
    "lite0": "efficientnet-lite0",
    "lite1": "efficientnet-lite1",
    "lite2": "efficientnet-lite2",
}

# Sizes of fixed engines hold the data set's usual landscape image at the zoo's scale, so that letterboxing shrinks only
# what is longer or upright: COCO's whole 800/1333 range, ADE20K's and Mapillary's 4:3, Cityscapes' one size.
COCO_EDGES, COCO_SIZE = (800, 1333), (800, 1344)
ADE_EDGES, ADE_SIZE = (512, 2048), (512, 704)
ADE_640_EDGES, ADE_640_SIZE = (640, 2560), (640, 864)
CITYSCAPES_EDGES, CITYSCAPES_SIZE = (1024, 2048), (1024, 2048)
MAPILLARY_EDGES, MAPILLARY_SIZE = (2048, 2048), (1536, 2048)

# A small device sees less, in one shape: the longest edge is the engine's.
LITE_EDGES, LITE_SIZE = (512, 512), (512, 512)
LITE_STREET_EDGES, LITE_STREET_SIZE = (512, 1024), (512, 1024)
LITE_QUERIES = {"lite0": 50, "lite1": 75, "lite2": 100}

Group = tuple[str, str, tuple[str, ...], str, tuple[int, int], tuple[int, int], float]
# data set, task, backbones, labels, (shortest, longest) edge, padded size, object threshold
GROUPS: tuple[Group, ...] = (
    ("coco", "panoptic", ("r50", "r101", "swin-t", "swin-s", "swin-b", "swin-b-in21k", "swin-l"),
     "coco-panoptic", COCO_EDGES, COCO_SIZE, 0.8),
    ("coco", "instance", ("r50", "r101", "swin-t", "swin-s", "swin-b", "swin-b-in21k", "swin-l"),
     "coco-instance", COCO_EDGES, COCO_SIZE, 0.8),
    ("ade20k", "semantic", ("r50", "r101", "swin-t", "swin-s"), "ade20k", ADE_EDGES, ADE_SIZE, 0.8),
    ("ade20k", "semantic", ("swin-b", "swin-b-in21k", "swin-l"), "ade20k", ADE_640_EDGES, ADE_640_SIZE, 0.8),
    ("ade20k", "panoptic", ("r50", "swin-l"), "ade20k-panoptic", ADE_640_EDGES, ADE_640_SIZE, 0.8),
    ("ade20k", "instance", ("r50", "swin-l"), "ade20k-instance", ADE_640_EDGES, ADE_640_SIZE, 0.8),
    ("cityscapes", "semantic", ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l"),
     "cityscapes", CITYSCAPES_EDGES, CITYSCAPES_SIZE, 0.8),
    ("cityscapes", "panoptic", ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l"),
     "cityscapes", CITYSCAPES_EDGES, CITYSCAPES_SIZE, 0.8),
    ("cityscapes", "instance", ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l"),
     "cityscapes-instance", CITYSCAPES_EDGES, CITYSCAPES_SIZE, 0.8),
    ("mapillary", "semantic", ("r50", "swin-l"), "mapillary", MAPILLARY_EDGES, MAPILLARY_SIZE, 0.0),
    ("mapillary", "panoptic", ("r50", "swin-l"), "mapillary", MAPILLARY_EDGES, MAPILLARY_SIZE, 0.0),
    # The edge family.
    ("coco", "panoptic", ("lite0", "lite1", "lite2"), "coco-panoptic", LITE_EDGES, LITE_SIZE, 0.8),
    ("coco", "instance", ("lite0", "lite1", "lite2"), "coco-instance", LITE_EDGES, LITE_SIZE, 0.8),
    ("ade20k", "semantic", ("lite0", "lite1", "lite2"), "ade20k", LITE_EDGES, LITE_SIZE, 0.8),
    ("cityscapes", "semantic", ("lite0", "lite1", "lite2"),
     "cityscapes", LITE_STREET_EDGES, LITE_STREET_SIZE, 0.8),
    ("cityscapes", "panoptic", ("lite0", "lite1", "lite2"),
     "cityscapes", LITE_STREET_EDGES, LITE_STREET_SIZE, 0.8),
)  # fmt: skip


def usual_size(shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(H, W) that holds a 4:3 landscape photograph resized to these edges, in multiples of 32."""
    width = min(longest_edge, -(-shortest_edge * 4 // 3))
    height = min(shortest_edge, -(-width * 3 // 4))
    return _up(height), _up(width)


def find_preset(labels: str, edges: tuple[int, int]) -> Preset | None:
    """The first preset on that table of labels with those test edges."""
    for preset in PRESETS.values():
        if preset.labels == labels and (preset.preprocessing.shortest_edge, preset.preprocessing.longest_edge) == edges:
            return preset
    return None


def _up(length: int) -> int:
    return -(-length // SIZE_DIVISOR) * SIZE_DIVISOR


def _queries(dataset: str, task: str, backbone: str) -> int:
    if backbone in LITE_QUERIES:
        return LITE_QUERIES[backbone]
    return 200 if backbone == "swin-l" and (dataset == "coco" or task != "semantic") else 100


def _preset(
    dataset: str,
    task: str,
    backbone: str,
    labels: str,
    edges: tuple[int, int],
    size: tuple[int, int],
    object_threshold: float,
) -> Preset:
    lite = backbone in LITE_QUERIES
    model = ModelConfig(
        backbone=BACKBONES[backbone],
        num_classes=len(load_labels(labels)),
        num_queries=_queries(dataset, task, backbone),
    )
    if lite:
        model = replace(model, hidden_dim=128, encoder_ffn=512, decoder_ffn=512, encoder_layers=3, decoder_layers=6)
    return Preset(
        name=f"{dataset}-{task}-{backbone}",
        model=model,
        labels=labels,
        tasks=TASKS[task],
        preprocessing=Preprocessing(
            mean=LITE_MEAN if lite else IMAGENET_MEAN,
            std=LITE_STD if lite else IMAGENET_STD,
            shortest_edge=edges[0],
            longest_edge=edges[1],
        ),
        postprocessing=Postprocessing(
            object_threshold=object_threshold,
            overlap_threshold=0.8,
            semantic_order="padded" if task == "semantic" else "image",
        ),
        size=size,
    )


PRESETS: dict[str, Preset] = {
    f"{dataset}-{task}-{backbone}": _preset(dataset, task, backbone, labels, edges, size, threshold)
    for dataset, task, backbones, labels, edges, size, threshold in GROUPS
    for backbone in backbones
}
