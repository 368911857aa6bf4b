"""The native gradient of depthwise convolutions against PyTorch's in float64.

pytest tests/train/test_depthwise_convolution.py
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mask2edge import trt_plugins
from mask2edge.train import native_library
from mask2edge.train.model.backbones import depthwise_convolution as module
from mask2edge.train.model.backbones.depthwise_convolution import applies, depthwise_convolution
from mask2edge.train.model.backbones.efficientnet_lite import build_efficientnet_lite

if trt_plugins.training_library() is None and os.environ.get("MASK2EDGE_REQUIRE_OPS") != "1":
    pytest.skip(trt_plugins.why_no_training_library(), allow_module_level=True)

SETS = native_library.find().mask2edge_training_instruction_sets().decode().split()


def make(batch=2, channels=48, height=9, width=7, kernel=3, stride=1, padding=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, height, width, generator=g).contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=g))
    return features.requires_grad_(), conv


def assert_equals_autograd(features, conv):
    assert applies(features, conv)
    output = depthwise_convolution(features, conv)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(output, (features, conv.weight), direction)
    leaves = [tensor.detach().double().requires_grad_() for tensor in (features, conv.weight)]
    reference = F.conv2d(*leaves, None, conv.stride, conv.padding, groups=conv.groups)
    expected = torch.autograd.grad(reference, leaves, direction.double())
    torch.testing.assert_close(output.double(), reference, atol=1e-4, rtol=0)
    for mine, other in zip(got, expected, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(mine.double(), other, atol=1e-5 * scale, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([16, 48, 64, 80, 144]),
    height=st.integers(5, 14),
    width=st.integers(5, 14),
    kernel=st.sampled_from([3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_any_sizes(batch, channels, height, width, kernel, stride, padding, seed):
    assert_equals_autograd(*make(batch, channels, height, width, kernel, stride, padding, seed))


@pytest.mark.parametrize("instruction_set", range(len(SETS)), ids=SETS)
@pytest.mark.parametrize("kernel", [3, 5])
def test_every_instruction_set(instruction_set, kernel, monkeypatch):
    monkeypatch.setattr(module, "call", lambda *arguments: native_library.call(*arguments, instruction_set))
    assert_equals_autograd(*make(channels=80, kernel=kernel, stride=2, padding=2))


def test_threads_change_no_bit():
    features, conv = make(batch=3, channels=80, kernel=5, padding=2)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            output = depthwise_convolution(features, conv)
            results.append(torch.autograd.grad(output, (features, conv.weight), torch.ones_like(output)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(mine, their) for mine, their in zip(results[0], other, strict=True))


def test_a_gradient_of_another_memory_format():
    features, conv = make(width=9)
    output = depthwise_convolution(features, conv)
    direction = torch.randn(output.shape)
    assert not direction.is_contiguous(memory_format=torch.channels_last)
    first = torch.autograd.grad(output, features, direction, retain_graph=True)[0]
    second = torch.autograd.grad(output, features, direction.contiguous(memory_format=torch.channels_last))[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({"groups": 1}, 16),
        ({"kernel_size": 7}, 16),
        ({"dilation": 2}, 16),
        ({"bias": True}, 16),
        ({"padding": (0, 1)}, 16),
        ({"stride": (1, 2)}, 16),
        ({}, 24),
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_pytorch(changes, channels):
    options = {"kernel_size": 3, "groups": channels, "bias": False, **changes}
    conv = nn.Conv2d(channels, channels, **options)
    features = torch.randn(1, channels, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert not applies(features, conv)
    assert torch.equal(depthwise_convolution(features, conv), conv(features))


def test_what_does_not_train_is_left_to_pytorch():
    features, conv = make()
    assert applies(features, conv)
    assert not applies(features.detach(), conv)
    assert not applies(features.contiguous(), conv)
    assert not applies(features.double(), conv.double())
    conv.float()
    with torch.no_grad():
        assert not applies(features, conv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not applies(features, conv)


def test_the_backbone_trains_as_with_pytorch(monkeypatch):
    torch.manual_seed(0)
    backbone = build_efficientnet_lite("efficientnet-lite0")
    pixels = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def gradients():
        backbone.zero_grad()
        sum(features.square().mean() for features in backbone(pixels)).backward()
        return [parameter.grad.clone() for parameter in backbone.parameters()]

    native = gradients()
    monkeypatch.setattr(module, "find", lambda: None)
    for mine, other in zip(native, gradients(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4 * max(1e-3, other.abs().max().item()), rtol=1e-3)
