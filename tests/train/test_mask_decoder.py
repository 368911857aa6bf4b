"""The mask decoder and its switches, each against the steps written out."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from mask2edge.train.config import (
    ATTENTION_ORDERS,
    CROSS_ATTENTIONS,
    DECODER_FEATURES,
    PIXEL_DECODERS,
    QUERY_FEATURES,
    ModelConfig,
)
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.position import sine_position

SMALL = ModelConfig(
    backbone="efficientnet-lite0", num_classes=4, num_queries=6, hidden_dim=32, encoder_layers=2, encoder_ffn=48,
    decoder_layers=4, decoder_ffn=48,
)  # fmt: skip
SWITCHES = [
    *({"pixel_decoder": value} for value in PIXEL_DECODERS),
    *({"cross_attention": value} for value in CROSS_ATTENTIONS),
    *({"decoder_features": value} for value in DECODER_FEATURES),
    *({"attention_order": value} for value in ATTENTION_ORDERS),
    *({"query_features": value} for value in QUERY_FEATURES),
    {"decoder_dropout": 0.1},
    {"place_codes": True},
    {"query_features": "zero", "attention_order": "self-first", "decoder_dropout": 0.1},
    {"query_features": "zero", "cross_attention": "mask-pooling", "decoder_features": "concatenated"},
]
# At the first step nothing differs between the values that these weights choose from.
WITHOUT_EFFECT_AT_FIRST = "layers.0.self_attention"


def decoder(**switches):
    torch.manual_seed(0)
    return MaskDecoder(3, 5, 32, 48, num_layers=4, num_heads=4, **switches).double()


def maps(requires_grad=False):
    """Levels at strides 32, 16, 8 and mask features of a 64x96 image."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12), (2, 32, 16, 24)]
    *levels, fine = (torch.randn(s, generator=generator).double().requires_grad_(requires_grad) for s in shapes)
    return levels, fine


def tokens(model, level, x):
    """A level's memory and positions."""
    position = sine_position(*x.shape[2:], 32, dtype=x.dtype)
    return (x.flatten(2).transpose(1, 2) + model.level_embed[level], position.flatten(2).transpose(1, 2))


def resized(prediction, x):
    logits = F.interpolate(prediction["mask_logits"], x.shape[2:], mode="bilinear", align_corners=False)
    return logits.flatten(2)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        for key in ("class_logits", "mask_logits"):
            assert torch.equal(mine[key], other[key])


@pytest.mark.parametrize("features", ["round-robin", "stride-32", "stride-16", "stride-8", "concatenated"])
def test_layers_read_the_levels_of_their_strategy(features):
    model, (levels, fine) = decoder(features=features), maps()
    queries = model.query_features.expand(2, -1, -1)
    expected = [model.predict(queries, fine)]
    for index, layer in enumerate(model.layers):
        read = {
            "round-robin": [index % 3], "stride-32": [0], "stride-16": [1], "stride-8": [2], "concatenated": [0, 1, 2],
        }[features]  # fmt: skip
        parts = [tokens(model, level, levels[level]) for level in read]
        memory, position = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        mask_logits = torch.cat([resized(expected[-1], levels[level]) for level in read], 2)
        queries = layer(queries, model.query_positions, memory, position, mask_logits)
        expected.append(model.predict(queries, fine))
    assert_same(model(levels, fine), expected)


def test_a_single_scale_touches_its_level_alone():
    model, (levels, fine) = decoder(features="stride-16"), maps(requires_grad=True)
    sum(p[key].square().mean() for p in model(levels, fine) for key in p).backward()
    assert levels[0].grad is None
    assert levels[2].grad is None
    assert levels[1].grad.abs().sum() > 0
    assert fine.grad.abs().sum() > 0
    assert [bool(row.abs().sum() > 0) for row in model.level_embed.grad] == [False, True, False]


def test_plain_attention_sees_everything():
    masked, plain = decoder(), decoder(cross_attention="plain")
    levels, fine = maps()
    seen = []
    for layer in plain.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[4]))
    found = plain(levels, fine)
    assert seen == [None] * 4
    queries = plain.query_features.expand(2, -1, -1)
    everything = torch.ones(2, 5, 6, dtype=torch.float64)  # [N, Q, h*w]: a mask over the whole map
    queries = plain.layers[0](queries, plain.query_positions, *tokens(plain, 0, levels[0]), everything)
    expected = plain.predict(queries, fine)
    torch.testing.assert_close(found[1], expected, atol=1e-12, rtol=0)
    assert (masked(levels, fine)[1]["mask_logits"] - expected["mask_logits"]).abs().max() > 1e-3


def test_zero_queries_predict_nothing_and_see_everything_first():
    model, (levels, fine) = decoder(query_features="zero"), maps()
    assert "query_features" not in model.state_dict()
    queries = torch.zeros(2, 5, 32, dtype=torch.float64)
    queries = model.layers[0](queries, model.query_positions, *tokens(model, 0, levels[0]), None)
    first = model.predict(queries, fine)
    queries = model.layers[1](queries, model.query_positions, *tokens(model, 1, levels[1]), resized(first, levels[1]))
    found = model(levels, fine)
    assert len(found) == 4
    assert_same(found[:2], [first, model.predict(queries, fine)])


def test_unsupervised_queries_differ_in_what_is_returned_alone():
    levels, fine = maps()
    supervised, unsupervised = decoder()(levels, fine), decoder(query_features="unsupervised")(levels, fine)
    assert_same(unsupervised, supervised[1:])


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(map(str, s.values())))
def test_shapes_and_gradients_of_every_switch(switches):
    config = dataclasses.replace(SMALL, **switches)
    torch.manual_seed(0)
    model = build_model(config)
    output = model(torch.randn(2, 3, 64, 96))
    supervised = config.query_features in ("supervised", "guided")
    assert len(output["auxiliary"]) == config.decoder_layers - (not supervised)
    predictions = [output, *output["auxiliary"]]
    for prediction in predictions:
        assert prediction["class_logits"].shape == (2, 6, 5)
        assert prediction["mask_logits"].shape == (2, 6, 16, 24)
    everything = [p[key] for p in predictions for key in ("class_logits", "mask_logits")]
    everything += [output[key] for key in output if key == "proposal_logits"]
    sum(values.square().mean() for values in everything).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    zero = {name for name, gradient in gradients.items() if not gradient.any()}
    # The deformable encoder starts with constant offsets and weights, whatever the positions say.
    assert zero <= {"pixel_decoder.level_embed"} | {name for name in gradients if WITHOUT_EFFECT_AT_FIRST in name} | {
        "mask_decoder.layers.0.self_norm.weight"
    }
    if config.attention_order == "cross-first" or supervised:
        assert zero <= {"pixel_decoder.level_embed"}


@pytest.mark.parametrize("level", ["stride-32", "stride-16", "stride-8"])
def test_a_single_scale_reaches_the_other_levels_through_the_pixel_decoder(level):
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SMALL, decoder_features=level))
    output = model(torch.randn(1, 3, 64, 64))
    output["class_logits"].square().mean().backward()
    for projection in model.pixel_decoder.input_projections:
        assert projection[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (32, 160)])
@pytest.mark.parametrize("pixel_decoder", PIXEL_DECODERS)
def test_every_pixel_decoder_takes_the_smallest_and_odd_sizes(pixel_decoder, size):
    # 64 wide: GroupNorm wants two values a group, and 32x32 leaves one pixel at stride 32.
    model = build_model(dataclasses.replace(SMALL, pixel_decoder=pixel_decoder, hidden_dim=64)).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, *size))
    assert output["mask_logits"].shape == (1, 6, size[0] // 4, size[1] // 4)
