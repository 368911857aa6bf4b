"""The whole network: shapes, invariants, gradients. Parity with the reference is in test_huggingface_parity.py."""

import dataclasses

import pytest
import torch

from mask2edge.train.config import BACKBONES, ModelConfig
from mask2edge.train.model.backbones import build_backbone
from mask2edge.train.model.mask2former import build_model

SMALL = ModelConfig(
    backbone="efficientnet-lite0", num_classes=4, num_queries=6, hidden_dim=32, encoder_layers=2, encoder_ffn=48,
    decoder_layers=4, decoder_ffn=48,
)  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_maps_have_strides_4_to_32(name):
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (1, width, 64 // stride, 96 // stride) for width, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


def test_shapes_and_number_of_predictions():
    with torch.no_grad():
        output = build_model(SMALL).eval()(torch.randn(2, 3, 64, 96))
    assert len(output["auxiliary"]) == SMALL.decoder_layers  # the learned queries and all layers but the last
    for prediction in [output, *output["auxiliary"]]:
        assert prediction["class_logits"].shape == (2, 6, 5)
        assert prediction["mask_logits"].shape == (2, 6, 16, 24)


def test_an_image_does_not_see_the_others_of_its_batch():
    torch.manual_seed(0)
    model = build_model(SMALL).double().eval()
    pixels = torch.randn(3, 3, 64, 64).double()
    with torch.no_grad():
        together = model(pixels)
        alone = model(pixels[1:2])
    for key in ("class_logits", "mask_logits"):
        torch.testing.assert_close(together[key][1:2], alone[key], atol=1e-9, rtol=0)


def test_permuting_the_learned_queries_permutes_the_predictions():
    torch.manual_seed(0)
    model = build_model(SMALL).double().eval()
    pixels = torch.randn(1, 3, 64, 64).double()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        before = model(pixels)
        for parameter in (model.mask_decoder.query_features, model.mask_decoder.query_positions):
            parameter.copy_(parameter[order].clone())
        after = model(pixels)
    for key in ("class_logits", "mask_logits"):
        torch.testing.assert_close(after[key], before[key][:, order], atol=1e-9, rtol=0)


def test_every_parameter_receives_a_gradient():
    torch.manual_seed(0)
    model = build_model(SMALL)
    output = model(torch.randn(1, 3, 64, 64))
    predictions = [output, *output["auxiliary"]]
    sum(p[key].square().mean() for p in predictions for key in ("class_logits", "mask_logits")).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("size", [(64, 80), (33, 64)])
def test_a_size_that_is_no_multiple_of_32_is_refused(size):
    with pytest.raises(ValueError, match=f"multiples of 32, got {size[0]}x{size[1]}; pad the image"):
        build_model(SMALL)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg16"}, r"model.backbone: expected one of resnet50.*got 'vgg16'"),
        ({"num_queries": 0}, "model.num_queries: expected at least 1, got 0"),
        ({"hidden_dim": 48}, "model.hidden_dim: expected a multiple of 32 and of 8 heads, got 48"),
        ({"pixel_decoder": "unet"}, "model.pixel_decoder: expected one of msdeform, fpn, bifpn, got 'unet'"),
        ({"cross_attention": "soft"}, "model.cross_attention: expected one of masked, plain, mask-pooling, got 'soft'"),
        ({"decoder_features": "1/8"}, "model.decoder_features: expected one of round-robin, stride-32, .* got '1/8'"),
        ({"attention_order": "self"}, "model.attention_order: expected one of cross-first, self-first, got 'self'"),
        (
            {"query_features": ""},
            "model.query_features: expected one of supervised, unsupervised, zero, guided, got ''",
        ),
        (
            {"pixel_decoder": "fpn", "place_codes": True},
            "model.place_codes: expected false but for the pixel decoder msdeform, got true with fpn",
        ),
        ({"decoder_dropout": 1.0}, "model.decoder_dropout: expected 0 or more and below 1, got 1.0"),
        (
            {"pixel_decoder": "bifpn", "decoder_features": "stride-8"},
            "model.decoder_features: expected round-robin, stride-32 or concatenated with a bifpn, got 'stride-8'",
        ),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
