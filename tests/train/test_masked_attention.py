"""Masked attention against float64 NumPy, and what its mask must and must not do."""

import numpy as np
import pytest
import torch

from mask2edge.train.model.masked_attention import Attention, mask_pooling, masked_attention


def by_hand(query, key, value, mask_logits, heads):
    batch, queries, width = query.shape
    dim = width // heads
    output = np.zeros_like(query)
    for n, q, m in np.ndindex(batch, queries, heads):
        part = slice(m * dim, (m + 1) * dim)
        seen = mask_logits[n, q] >= 0
        if not seen.any():
            seen[:] = True
        scores = key[n, seen, part] @ query[n, q, part] / np.sqrt(dim)
        weights = np.exp(scores - scores.max())
        output[n, q, part] = weights / weights.sum() @ value[n, seen, part]
    return output


def example(seed=0, batch=2, queries=5, keys=11, width=12):
    rng = np.random.default_rng(seed)
    mask_logits = rng.normal(size=(batch, queries, keys))
    mask_logits[0, 1] = -1  # nothing attended: the guard
    mask_logits[0, 2, 3] = 0  # the boundary counts as attended
    return [rng.normal(size=(batch, n, width)) for n in (queries, keys, keys)] + [mask_logits]


def test_equals_the_definition():
    arrays = example()
    got = masked_attention(*(torch.from_numpy(a) for a in arrays), num_heads=3)
    np.testing.assert_allclose(got.numpy(), by_hand(*arrays, heads=3), atol=1e-12)


def test_unattended_keys_do_not_matter():
    query, key, value, mask_logits = (torch.from_numpy(a) for a in example(1))
    mask_logits[:, :, 4] = -1
    mask_logits[:, :, 5] = 1  # so that no row is empty
    before = masked_attention(query, key, value, mask_logits, 3)
    key[:, 4], value[:, 4] = 1e3, -1e3
    torch.testing.assert_close(masked_attention(query, key, value, mask_logits, 3), before)


def test_no_gradient_through_the_mask():
    query, key, value, mask_logits = (torch.from_numpy(a).requires_grad_() for a in example(2))
    masked_attention(query, key, value, mask_logits, 3).sum().backward()
    assert mask_logits.grad is None
    assert query.grad.abs().sum() > 0


def test_unmasked_attention_equals_torch():
    ours = Attention(16, 4).double()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        projections = (ours.query_projection, ours.key_projection, ours.value_projection)
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        theirs.out_proj.load_state_dict(ours.output_projection.state_dict())
    query, memory = torch.randn(2, 3, 16).double(), torch.randn(2, 7, 16).double()
    torch.testing.assert_close(ours(query, memory, memory), theirs(query, memory, memory)[0])


def test_mask_pooling_is_the_mean_inside_the_mask():
    _, _, value, mask_logits = example()
    expected = np.zeros((2, 5, 12))
    for n, q in np.ndindex(2, 5):
        inside = mask_logits[n, q] >= 0
        expected[n, q] = value[n, inside].mean(0) if inside.any() else value[n].mean(0)
    got = mask_pooling(torch.from_numpy(value), torch.from_numpy(mask_logits))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    everything = mask_pooling(torch.from_numpy(value), None)
    np.testing.assert_allclose(everything.numpy(), value.mean(1, keepdims=True), atol=1e-12)


def test_mask_pooling_is_masked_attention_to_equal_keys():
    query, _, value, mask_logits = (torch.from_numpy(a) for a in example(3))
    attended = masked_attention(query, torch.ones_like(value), value, mask_logits, 3)
    torch.testing.assert_close(mask_pooling(value, mask_logits), attended)


def test_no_gradient_through_the_pooled_mask():
    _, _, value, mask_logits = (torch.from_numpy(a).requires_grad_() for a in example(2))
    mask_pooling(value, mask_logits).sum().backward()
    assert mask_logits.grad is None
    assert value.grad.abs().sum() > 0


def test_mask_pooling_in_half_precision_counts_beyond_what_float16_holds():
    value, mask_logits = torch.full((1, 70_000, 1), 2.0).half(), torch.ones(1, 1, 70_000).half()
    assert mask_pooling(value, mask_logits).item() == pytest.approx(2.0, rel=1e-2)
