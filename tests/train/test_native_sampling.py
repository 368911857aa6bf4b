"""The native sampling core and its gradient against PyTorch's formulation and its autograd, in float64.

pytest tests/train/test_native_sampling.py
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge import trt_plugins
from mask2edge.train import native_library
from mask2edge.train.model import deformable_attention
from mask2edge.train.model.deformable_attention import MultiscaleDeformableAttention, multiscale_deformable_attention
from mask2edge.train.model.native_sampling import applies, native_deformable_attention
from mask2edge.train.model.pixel_decoder import pixel_centres

if trt_plugins.training_library() is None and os.environ.get("MASK2EDGE_REQUIRE_OPS") != "1":
    pytest.skip(trt_plugins.why_no_training_library(), allow_module_level=True)

SETS = native_library.find().mask2edge_training_instruction_sets().decode().split()
PYRAMID = [(2, 3), (4, 6), (8, 12)]


def make(batch=2, queries=9, heads=2, dim=16, points=4, shapes=PYRAMID, reference_batch=1, spread=2.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    samples = heads * len(shapes) * points
    tensors = (
        torch.randn(batch, sum(h * w for h, w in shapes), heads * dim, generator=g),
        spread * torch.randn(batch, queries, samples * 2, generator=g),  # some of them lead out of the maps
        torch.randn(batch, queries, samples, generator=g),
    )
    return tensors, torch.rand(reference_batch, queries, 2, generator=g), (shapes, heads, points)


def output_and_gradients(function, tensors, reference, settings, dtype=torch.float32, **options):
    leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    output = function(*leaves, reference.to(dtype), *settings, **options)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, direction)]


def assert_equals_autograd(tensors, reference, settings, **options):
    expected = output_and_gradients(multiscale_deformable_attention, tensors, reference, settings, torch.float64)
    got = output_and_gradients(native_deformable_attention, tensors, reference, settings, **options)
    for name, mine, other in zip(("output", "value", "offsets", "logits"), got, expected, strict=True):
        scale = max(other.abs().max().item(), 1.0)
        torch.testing.assert_close(mine.double(), other, atol=2e-5 * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("instruction_set", range(len(SETS)), ids=SETS)
@pytest.mark.parametrize("dim", [1, 3, 4, 8, 16, 20, 32, 64, 70])
def test_every_instruction_set_and_head_size(instruction_set, dim):
    assert_equals_autograd(*make(dim=dim), instruction_set=instruction_set)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    queries=st.integers(1, 40),
    heads=st.integers(1, 4),
    points=st.integers(1, 6),
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    own_references=st.booleans(),
    spread=st.sampled_from([0.1, 2.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_any_sizes(batch, queries, heads, points, shapes, own_references, spread, seed):
    reference_batch = batch if own_references else 1
    assert_equals_autograd(*make(batch, queries, heads, 4, points, shapes, reference_batch, spread, seed))


@pytest.mark.parametrize("instruction_set", range(len(SETS)), ids=SETS)
def test_whole_pixels_and_the_border(instruction_set):
    """Places at pixel centres, on the outermost ones, and half a pixel, one pixel and more outside.

    There the bilinear read has a kink: the gradient is that of the cell at the right and below, as PyTorch takes it.
    The maps' sides are powers of two, so that both sides find the same cell.
    """
    shapes = [(4, 8), (8, 8)]
    steps = torch.tensor([-40.0, -9.0, -8.5, -8.0, -4.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 4.0, 7.5, 8.0, 8.5, 9.0, 40.0])
    x, y = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([x.flatten(), y.flatten()], -1)  # [Q, 2]
    queries, samples = len(offsets), len(shapes) * 1
    g = torch.Generator().manual_seed(3)
    tensors = (
        torch.randn(1, 96, 8, generator=g),
        offsets.repeat(1, samples)[None],  # [1, Q, 2 levels * (x, y)]
        torch.randn(1, queries, samples, generator=g),
    )
    reference = torch.tensor([0.0625, 0.9375]).expand(1, queries, 2)  # the centre of a corner pixel of the second map
    assert_equals_autograd(tensors, reference, (shapes, 1, 1), instruction_set=instruction_set)


def test_finite_differences():
    tensors, reference, (shapes, heads, points) = make(batch=1, queries=3, dim=4)
    direction = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(5))
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    (native_deformable_attention(*leaves, reference, shapes, heads, points) * direction).sum().backward()
    for which, step in ((0, 1e-6), (1, 1e-6), (2, 1e-6)):
        flat = tensors[which].double().flatten()
        for index in range(0, flat.numel(), 7):
            values = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[index] += sign * step
                inputs = [t.double() for t in tensors]
                inputs[which] = moved.view_as(tensors[which])
                output = multiscale_deformable_attention(*inputs, reference.double(), shapes, heads, points)
                values.append((output * direction).sum().item())
            expected = (values[0] - values[1]) / (2 * step)
            assert leaves[which].grad.flatten()[index].item() == pytest.approx(expected, abs=2e-4, rel=2e-3)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_threads_and_repetition_change_no_bit(batch):
    case = make(batch=batch, queries=70, heads=6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = output_and_gradients(native_deformable_attention, *case)
        for count in (1, 2, 3, 4, 5, 16):
            torch.set_num_threads(count)
            got = output_and_gradients(native_deformable_attention, *case)
            assert all(torch.equal(mine, other) for mine, other in zip(got, expected, strict=True)), count
    finally:
        torch.set_num_threads(threads)


def test_tensors_that_are_not_contiguous():
    tensors, reference, settings = make()
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    assert not strided[0].is_contiguous()
    for mine, other in zip(
        output_and_gradients(native_deformable_attention, strided, reference, settings),
        output_and_gradients(native_deformable_attention, tensors, reference, settings),
        strict=True,
    ):
        assert torch.equal(mine, other)


def test_the_module_takes_it_to_train_and_only_then(monkeypatch):
    module = MultiscaleDeformableAttention(32, levels=3, num_heads=2, num_points=4)
    source = torch.randn(2, 126, 32)
    calls = []
    monkeypatch.setattr(
        deformable_attention,
        "native_deformable_attention",
        lambda *arguments: calls.append(1) or native_deformable_attention(*arguments),
    )
    reference = pixel_centres(PYRAMID, source)
    trained = module(source, reference, source, PYRAMID)
    assert calls == [1]
    with torch.no_grad():
        evaluated = module(source, reference, source, PYRAMID)
    torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=1e-5)
    module.double()(source.double(), reference.double(), source.double(), PYRAMID)
    monkeypatch.setenv(trt_plugins.TRAINING_LIBRARY_VARIABLE, "/nowhere")
    assert "/nowhere" in trt_plugins.why_no_training_library()
    module.float()(source, reference, source, PYRAMID)
    assert calls == [1]


def test_reference_points_with_a_gradient_are_left_to_pytorch():
    tensors, reference, _ = make()
    leaves = [tensor.requires_grad_() for tensor in tensors]
    assert applies(*leaves, reference)
    assert not applies(*leaves, reference.requires_grad_())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": [(2, 3), (4, 6)]}, "expected offsets"),
        ({"shapes": [(2, 3), (4, 6), (8, 11)]}, "areas of spatial_shapes must add up to value's S = 126, got 118"),
        ({"heads": 3, "points": 4}, "expected offsets"),
        ({"shapes": [(2, 3), (4, 6), (0, 12)]}, "must be 1 or more, got .0, 12. at level 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    tensors, reference, (shapes, heads, points) = make()
    settings = {"shapes": shapes, "heads": heads, "points": points, **change}
    with pytest.raises(ValueError, match=message):
        native_deformable_attention(*tensors, reference, *settings.values())


def test_another_library_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "library.so"
    file.write_bytes(b"no library")
    with pytest.raises(native_library.InputError, match=r"expected mask2edge's training library.*install"):
        native_library.load_library(file)
    monkeypatch.setattr(native_library, "TRAINING_INTERFACE", 99)
    with pytest.raises(native_library.InputError, match="expected interface 99, got 1: "):
        native_library.load_library(trt_plugins.training_library())
