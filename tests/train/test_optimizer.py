"""The optimizer: the reference's parameter groups, and the learning rate of each step."""

import math
from typing import Any

import pytest

from mask2edge.train.config import ModelConfig, TrainConfig
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.optimizer import build_optimizer, schedule_factor, set_learning_rate


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"schedule": "polynomial"}, {0: 1.0, 50: 0.5**0.9, 99: 0.01**0.9}),
        ({"schedule": "cosine"}, {0: 1.0, 25: 0.5 + math.sqrt(0.125), 50: 0.5, 75: 0.5 - math.sqrt(0.125)}),
        ({"schedule": "step", "step_milestones": (0.5, 0.9)}, {0: 1, 49: 1, 50: 0.1, 89: 0.1, 90: 0.01, 99: 0.01}),
        ({"schedule": "step", "warmup_steps": 3}, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0}),
    ],
    ids=["polynomial", "cosine", "step", "warmup"],
)
def test_schedule(settings: dict[str, Any], values: dict[int, float]) -> None:
    config = TrainConfig(steps=100, **settings)
    for step, value in values.items():
        assert schedule_factor(config, step) == pytest.approx(value), step


@pytest.mark.parametrize("backbone", ["efficientnet-lite0", "swin-tiny"])
def test_parameter_groups_are_the_references_but_for_one(backbone: str) -> None:
    model = build_model(
        ModelConfig(
            backbone=backbone,
            num_classes=3,
            num_queries=6,
            hidden_dim=32,
            num_heads=2,
            encoder_layers=1,
            decoder_layers=1,
        )
    )
    optimizer = build_optimizer(
        model, TrainConfig(steps=10, learning_rate=2e-4, backbone_multiplier=0.1, weight_decay=0.05)
    )
    by_parameter = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert by_parameter.keys() == set(named.values())
    # By names here, by module types there, where pixel_decoder.level_embed, a bare parameter, is decayed.
    embeddings = {"level_embed", "query_features", "query_positions", "relative_position_bias_table"}
    for name, parameter in named.items():
        group = by_parameter[parameter]
        in_norm = any("norm" in part for part in name.split(".")[:-1]) or (
            ".input_projections." in f".{name}" and (name.split(".")[-2] == "1")
        )
        free = in_norm or name.split(".")[-1] in embeddings
        assert group["weight_decay"] == (0.0 if free else 0.05), name
        assert group["base_lr"] == pytest.approx(2e-5 if name.startswith("backbone.") else 2e-4), name
    assert set_learning_rate(optimizer, TrainConfig(steps=10, learning_rate=2e-4, schedule="cosine"), 5) == (
        pytest.approx(1e-4)
    )
    assert {round(group["lr"] * 1e6) for group in optimizer.param_groups} == {10, 100}
