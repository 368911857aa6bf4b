"""FPN and BiFPN against their formulas, written out level by level."""

import numpy as np
import torch
import torch.nn.functional as F

from mask2edge.train.model.feature_pyramid import BidirectionalPyramid, FeaturePyramid

CHANNELS = (8, 12, 16, 24)


def random_weights(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def backbone_maps():
    rng = np.random.default_rng(0)
    return [
        torch.from_numpy(rng.normal(size=(2, c, 32 // s, 64 // s))) for c, s in zip(CHANNELS, (1, 2, 4, 8), strict=True)
    ]


def doubled(x):
    return torch.from_numpy(x.detach().numpy().repeat(2, 2).repeat(2, 3))


def halved(x):
    """Largest of 3x3 around every second pixel; outside there is nothing."""
    x = np.pad(x.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = x.shape[2] - 2, x.shape[3] - 2
    shifted = [x[:, :, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return torch.from_numpy(np.max(shifted, 0))


def conv_norm(module, x):
    padding = module.conv.kernel_size[0] // 2
    return F.group_norm(
        F.conv2d(x, module.conv.weight, padding=padding), 32, module.norm.weight, module.norm.bias, module.norm.eps
    )


def test_fpn_equals_its_definition():
    pyramid = random_weights(FeaturePyramid(CHANNELS, 64))
    res2, res3, res4, res5 = backbone_maps()
    p5 = conv_norm(pyramid.outputs[0], res5).clamp(min=0)
    p4 = conv_norm(pyramid.outputs[1], conv_norm(pyramid.laterals[0], res4) + doubled(p5)).clamp(min=0)
    p3 = conv_norm(pyramid.outputs[2], conv_norm(pyramid.laterals[1], res3) + doubled(p4)).clamp(min=0)
    p2 = conv_norm(pyramid.outputs[3], conv_norm(pyramid.laterals[2], res2) + doubled(p3)).clamp(min=0)
    masks = torch.einsum("dc,nchw->ndhw", pyramid.mask_features.weight[:, :, 0, 0], p2)
    masks = masks + pyramid.mask_features.bias[:, None, None]
    found_masks, levels = pyramid((res2, res3, res4, res5))
    for found, expected in zip((found_masks, *levels), (masks, p5, p4, p3), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def fused(module, *maps):
    """EfficientDet, sec. 3.3: fast normalised fusion, then swish, separable convolution and norm."""
    weights = module.weights.detach().numpy().clip(min=0)
    mean = sum(weight * x for weight, x in zip(weights, maps, strict=True)) / (weights.sum() + 1e-4)
    x = mean * torch.sigmoid(mean)
    x = F.conv2d(F.conv2d(x, module.depthwise.weight, padding=1, groups=x.shape[1]), module.pointwise.weight)
    return F.group_norm(x, 32, module.norm.weight, module.norm.bias, module.norm.eps)


def test_bifpn_equals_its_definition():
    pyramid = random_weights(BidirectionalPyramid(CHANNELS, 64, num_layers=2))
    with torch.no_grad():
        pyramid.layers[1].up[0].weights[1] = -0.3  # a map that is left out
    p2, p3, p4, p5 = (
        conv_norm(project, x) for project, x in zip(pyramid.input_projections, backbone_maps(), strict=True)
    )
    for layer in pyramid.layers:
        to2, to3, to4 = layer.down
        from2, from3, from4 = layer.up
        p4_between = fused(to4, p4, doubled(p5))
        p3_between = fused(to3, p3, doubled(p4_between))
        p2 = fused(to2, p2, doubled(p3_between))
        p3 = fused(from2, p3, p3_between, halved(p2))
        p4 = fused(from3, p4, p4_between, halved(p3))
        p5 = fused(from4, p5, halved(p4))
    found_masks, levels = pyramid(backbone_maps())
    expected = F.conv2d(p2, pyramid.mask_features.weight, pyramid.mask_features.bias)
    for found, other in zip((found_masks, *levels), (expected, p5, p4, p3), strict=True):
        torch.testing.assert_close(found, other, atol=1e-10, rtol=0)
