"""A random checkpoint of the smallest kind, with three classes that it finds somewhere; images are 64x96 to it."""

from pathlib import Path

import torch

from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import ModelConfig
from mask2edge.train.model.mask2former import build_model

SIZE = (64, 96)
LAYERS = 3  # of the mask decoder
INNER = [  # its stages in order, and those that follow from them; the results are not among them
    *(f"backbone.res{i}" for i in (2, 3, 4, 5)),
    *(f"pixel_decoder.level{stride}" for stride in (32, 16, 8)),
    "pixel_decoder.fine",
    "pixel_decoder.mask_features",
    *(
        f"decoder.{layer}.{kind}"
        for layer in range(LAYERS)
        for kind in ("mask_logits", "queries", "class_prediction", "mask_prediction")
        if layer < LAYERS - 1 or not kind.endswith("prediction")
    ),
]


def write_tiny_checkpoint(path: Path) -> Path:
    torch.manual_seed(2)
    config = ModelConfig(
        backbone="efficientnet-lite0", num_classes=3, num_queries=6, hidden_dim=32, num_heads=4, encoder_layers=1,
        encoder_ffn=32, decoder_layers=LAYERS, decoder_ffn=32,
    )  # fmt: skip
    model = build_model(config).eval()
    with torch.no_grad():  # untrained queries all say the same; these find each class somewhere
        model.mask_decoder.class_head.weight.mul_(5)
        model.pixel_decoder.mask_features.weight.mul_(10)
        for layer in model.mask_decoder.layers:
            layer.cross_attention.output_projection.weight.mul_(0.3)
            layer.self_attention.output_projection.weight.mul_(0.3)
    labels = tuple(Label(i, name, None, (i, i, i), i) for i, name in enumerate(("red", "green", "blue")))
    rules = Preprocessing((127.5,) * 3, (127.5,) * 3, "keep-ratio", 80, 160)
    spec = ModelSpec("tiny", labels, 6, rules, Postprocessing(semantic_order="padded"), size=SIZE)
    save_checkpoint(path, model.state_dict(), config, spec)
    return path
