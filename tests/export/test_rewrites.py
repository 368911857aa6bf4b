"""Each rewrite of export/inference_graph.py against the plain model, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask2edge.export.custom_ops import CustomOps, masked_attention, multiscale_deformable_attention
from mask2edge.export.inference_graph import (
    InferenceGraph,
    fold_frozen_norms,
    fold_mask_features,
    merge_linears,
    position_tokens,
)
from mask2edge.export.standard_ops import StandardOps
from mask2edge.train.model import deformable_attention as deformable
from mask2edge.train.model import masked_attention as masked
from mask2edge.train.model.backbones import build_backbone
from mask2edge.train.model.backbones.frozen_batch_norm import FrozenBatchNorm2d
from mask2edge.train.model.position import sine_position

SHAPES = [(2, 3), (4, 6), (8, 12)]
TOKENS = sum(h * w for h, w in SHAPES)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ops", [StandardOps(), CustomOps()], ids=["standard", "custom"])
@pytest.mark.parametrize("size", [(64, 96), None], ids=["fixed", "dynamic"])
def test_whole_graph_equals_the_plain_model_in_float64(network, ops, size):
    plain = copy.deepcopy(network).double()
    pixels = random(2, 3, 64, 96)
    with torch.no_grad():
        expected = plain(pixels)
        class_logits, mask_logits = InferenceGraph(plain, ops, size)(pixels)
    assert (class_logits - expected["class_logits"]).abs().max() < 1e-10
    assert (mask_logits - expected["mask_logits"]).abs().max() < 1e-10
    assert expected["mask_logits"].std() > 0.05


def test_the_trained_model_stays_as_it_is(network):
    before = copy.deepcopy(network.state_dict())
    InferenceGraph(network, StandardOps(), (64, 96))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("reference", ["1", "N"])
def test_standard_deformable_attention_equals_the_reference(reference):
    batch, queries, heads, points = 2, 11, 4, 3
    value, offsets = random(batch, TOKENS, 32), random(batch, queries, heads * 3 * points * 2, seed=1) * 3
    logits = random(batch, queries, heads * 3 * points, seed=2)
    centers = torch.rand(1 if reference == "1" else batch, queries, 2, dtype=torch.float64)
    arguments = (value, offsets, logits, centers)
    expected = deformable.multiscale_deformable_attention(*arguments, SHAPES, heads, points)
    found = StandardOps().multiscale_deformable_attention(*arguments, SHAPES, heads, points)
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize(
    "mask",
    [
        random(2, 5, 24),
        torch.full((2, 5, 24), -1.0, dtype=torch.float64),  # nobody attends to anything: all attend to all
        torch.zeros(2, 5, 24, dtype=torch.float64),  # the border itself counts as inside
        random(2, 5, 24) * torch.tensor([1.0, 0, -1, 1, 1])[:, None] - torch.tensor([0.0, 0, 0, 50, 0])[:, None],
    ],
    ids=["mixed", "empty", "zero", "rows differ"],
)
def test_standard_masked_attention_equals_the_reference(mask):
    query, key, value = random(2, 5, 32), random(2, 24, 32, seed=1), random(2, 24, 32, seed=2)
    expected = masked.masked_attention(query, key, value, mask, 4)
    assert (StandardOps().masked_attention(query, key, value, mask, 4) - expected).abs().max() < 1e-12


def test_custom_ops_have_sound_fakes_and_gradients():
    shapes = [2, 3, 1, 2]
    tensors = [random(1, 8, 8), random(1, 3, 16), random(1, 3, 8), torch.rand(1, 3, 2, dtype=torch.float64)]
    arguments = (*(tensor.requires_grad_() for tensor in tensors), shapes, 2, 2)
    torch.library.opcheck(multiscale_deformable_attention, arguments)
    torch.library.opcheck(
        masked_attention, (*(random(1, n, 8, seed=n).requires_grad_() for n in (3, 5, 5)), random(1, 3, 5), 2)
    )
    tensors[3] = tensors[3].detach()  # nothing learns where pixels stand
    assert torch.autograd.gradcheck(lambda *x: multiscale_deformable_attention(*x, shapes, 2, 2), tensors)


def test_resizing_the_features_equals_resizing_the_masks():
    embed, features = random(2, 7, 16), random(2, 16, 24, 32, seed=1)
    masks = torch.einsum("nqc,nchw->nqhw", embed, features)
    for size in [(3, 4), (6, 8), (12, 16)]:
        expected = F.interpolate(masks, size, mode="bilinear", align_corners=False)
        resized = F.interpolate(features, size, mode="bilinear", align_corners=False)
        assert (torch.einsum("nqc,nchw->nqhw", embed, resized) - expected).abs().max() < 1e-12


def test_mask_features_fold_into_the_mask_head():
    last, convolution = nn.Linear(16, 16).double(), nn.Conv2d(12, 16, 1).double()
    hidden, fine = random(2, 7, 16), random(2, 12, 4, 6, seed=1)
    expected = torch.einsum("nqc,nchw->nqhw", last(hidden), convolution(fine))
    folded = fold_mask_features(last, convolution)(hidden)  # [N, Q, C+1]
    found = torch.einsum("nqc,nchw->nqhw", folded[..., :-1], fine) + folded[..., -1:, None]
    assert (found - expected).abs().max() < 1e-12


def test_merged_linears_with_the_level_embedding():
    linears, tokens, embed = [nn.Linear(16, 8).double() for _ in range(3)], random(2, 5, 16), random(16, seed=1)
    expected = torch.cat([linear(tokens + embed) for linear in linears], 2)
    assert (merge_linears(linears, embed)(tokens) - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (16, 8)])
def test_position_tokens_are_the_sine_positions(height, width):
    expected = sine_position(height, width, 32, dtype=torch.float64).flatten(2).transpose(1, 2)
    assert torch.equal(position_tokens(height, width, torch.zeros(1, 1, 32, dtype=torch.float64)), expected)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet-lite0"])
def test_frozen_norms_fold_into_convolutions(name):
    generator = torch.Generator().manual_seed(0)
    backbone = build_backbone(name).double().eval()
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.bias.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.bias.shape, generator=generator))
    pixels = random(1, 3, 32, 64)
    with torch.no_grad():
        expected = backbone(pixels)
        folded = fold_frozen_norms(copy.deepcopy(backbone))
        found = folded(pixels)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in folded.modules())
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).abs().max() < 1e-10 * other.abs().max().clamp(min=1)
