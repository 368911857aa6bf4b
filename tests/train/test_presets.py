"""The model zoo's table against the reference's facts, written down a second time here."""

import pytest
import torch

from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.presets import PRESETS, find_preset, usual_size

SWINS = ("swin-t", "swin-s", "swin-b", "swin-b-in21k", "swin-l")
CITY = ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l")
OFFICIAL = {  # (data set, task): backbones
    ("coco", "panoptic"): ("r50", "r101", *SWINS),
    ("coco", "instance"): ("r50", "r101", *SWINS),
    ("ade20k", "semantic"): ("r50", "r101", *SWINS),
    ("ade20k", "panoptic"): ("r50", "swin-l"),
    ("ade20k", "instance"): ("r50", "swin-l"),
    ("cityscapes", "semantic"): CITY,
    ("cityscapes", "panoptic"): CITY,
    ("cityscapes", "instance"): CITY,
    ("mapillary", "semantic"): ("r50", "swin-l"),
    ("mapillary", "panoptic"): ("r50", "swin-l"),
}


def test_presets_are_the_official_zoo_and_the_edge_family():
    official = {f"{data}-{task}-{name}" for (data, task), names in OFFICIAL.items() for name in names}
    assert official == {name for name in PRESETS if "-lite" not in name}
    assert {"coco-panoptic-lite0", "coco-panoptic-lite1", "coco-panoptic-lite2"} < set(PRESETS)


@pytest.mark.parametrize(
    ("name", "backbone", "classes", "queries", "edges", "threshold", "order", "tasks"),
    [
        ("coco-panoptic-r50", "resnet50", 133, 100, (800, 1333), 0.8, "image", "panoptic instance semantic"),
        ("coco-panoptic-swin-l", "swin-large", 133, 200, (800, 1333), 0.8, "image", "panoptic instance semantic"),
        ("coco-instance-swin-l", "swin-large", 80, 200, (800, 1333), 0.8, "image", "instance"),
        ("coco-instance-swin-b-in21k", "swin-base", 80, 100, (800, 1333), 0.8, "image", "instance"),
        ("ade20k-semantic-swin-s", "swin-small", 150, 100, (512, 2048), 0.8, "padded", "semantic"),
        ("ade20k-semantic-swin-b", "swin-base", 150, 100, (640, 2560), 0.8, "padded", "semantic"),
        ("ade20k-semantic-swin-l", "swin-large", 150, 100, (640, 2560), 0.8, "padded", "semantic"),
        ("ade20k-panoptic-r50", "resnet50", 150, 100, (640, 2560), 0.8, "image", "panoptic instance semantic"),
        ("ade20k-instance-swin-l", "swin-large", 100, 200, (640, 2560), 0.8, "image", "instance"),
        ("cityscapes-semantic-swin-l", "swin-large", 19, 100, (1024, 2048), 0.8, "padded", "semantic"),
        ("cityscapes-panoptic-swin-l", "swin-large", 19, 200, (1024, 2048), 0.8, "image", "panoptic instance semantic"),
        ("cityscapes-instance-r101", "resnet101", 8, 100, (1024, 2048), 0.8, "image", "instance"),
        ("mapillary-semantic-swin-l", "swin-large", 65, 100, (2048, 2048), 0.0, "padded", "semantic"),
        ("mapillary-panoptic-swin-l", "swin-large", 65, 200, (2048, 2048), 0.0, "image", "panoptic instance semantic"),
    ],
)
def test_presets_have_the_reference_settings(name, backbone, classes, queries, edges, threshold, order, tasks):
    preset = PRESETS[name]
    assert preset.name == name
    model = preset.model
    assert (model.backbone, model.num_classes, model.num_queries) == (backbone, classes, queries)
    assert (model.hidden_dim, model.encoder_ffn, model.decoder_ffn) == (256, 1024, 2048)
    assert (model.encoder_layers, model.decoder_layers) == (6, 9)
    assert (preset.preprocessing.shortest_edge, preset.preprocessing.longest_edge) == edges
    assert preset.preprocessing.mean == (123.675, 116.28, 103.53)
    assert preset.postprocessing.object_threshold == threshold
    assert preset.postprocessing.overlap_threshold == 0.8
    assert preset.postprocessing.semantic_order == order
    assert preset.tasks == tuple(tasks.split())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_describe_a_model_that_builds(name):
    preset = PRESETS[name]
    spec = preset.spec()
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert (spec.num_classes, spec.num_queries) == (preset.model.num_classes, preset.model.num_queries)
    assert all(length % 32 == 0 for length in spec.size)
    assert max(spec.size) < preset.preprocessing.longest_edge + 32
    if "panoptic" in spec.tasks:
        assert {label.is_thing for label in spec.labels} == {True, False}
    with torch.device("meta"):
        build_model(preset.model)


@pytest.mark.parametrize("name", [name for name in PRESETS if "-lite" in name])
def test_presets_of_the_edge_family_are_small(name):
    preset = PRESETS[name]
    model = preset.model
    assert model.backbone == f"efficientnet-lite{name[-1]}"
    assert (model.hidden_dim, model.encoder_ffn, model.decoder_ffn) == (128, 512, 512)
    assert (model.encoder_layers, model.decoder_layers) == (3, 6)
    assert 50 <= model.num_queries <= 100
    assert preset.preprocessing.mean == preset.preprocessing.std == (127.5, 127.5, 127.5)


def test_presets_usual_size():
    assert usual_size(800, 1333) == (800, 1088)  # 640x480 at 800: 1067 wide
    assert usual_size(2048, 2048) == (1536, 2048)
    found = find_preset("cityscapes", (1024, 2048))
    assert found is not None
    assert found.size == (1024, 2048)
    assert find_preset("cityscapes", (1, 2)) is None
