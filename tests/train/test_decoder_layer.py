"""A decoder layer against the same layer put together from PyTorch's own attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask2edge.train.model.decoder_layer import DecoderLayer
from mask2edge.train.model.masked_attention import attended_keys

DIM, HEADS = 16, 4


def example(seed=0):
    """queries, their positions, memory, its position, mask logits with an empty row."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 5, DIM), (5, DIM), (2, 9, DIM), (1, 9, DIM), (2, 5, 9)]
    arrays = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    arrays[-1][1, 2] = -1.0
    return arrays


def random_layer(**switches):
    torch.manual_seed(1)
    layer = DecoderLayer(DIM, 24, HEADS, **switches).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    return layer


def torch_attention(attention, query, key, value, masked=None):
    """F.multi_head_attention_forward with our weights; masked: bool [N, Q, S], what is not attended."""
    projections = (attention.query_projection, attention.key_projection, attention.value_projection)
    if masked is not None:
        masked = masked.repeat_interleave(HEADS, 0)  # [N*M, Q, S]
    output, _ = F.multi_head_attention_forward(
        *(x.transpose(0, 1) for x in (query, key, value)), DIM, HEADS,
        torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections]), None, None, False, 0.0,
        attention.output_projection.weight, attention.output_projection.bias, need_weights=False, attn_mask=masked,
    )  # fmt: skip
    return output.transpose(0, 1)


def by_hand(layer, queries, positions, memory, memory_position, masked, self_first):
    def read_image(x):
        read = torch_attention(layer.cross_attention, x + positions, memory + memory_position, memory, masked)
        return layer.cross_norm(x + read)

    def read_queries(x):
        return layer.self_norm(x + torch_attention(layer.self_attention, x + positions, x + positions, x))

    for step in (read_queries, read_image) if self_first else (read_image, read_queries):
        queries = step(queries)
    return layer.ffn_norm(queries + layer.linear2(layer.linear1(queries).relu()))


@pytest.mark.parametrize("self_first", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_equals_a_layer_composed_of_torch_attention(self_first, plain):
    layer = random_layer(self_first=self_first)
    *tokens, mask_logits = example()
    expected = by_hand(layer, *tokens, None if plain else ~attended_keys(mask_logits), self_first)
    got = layer(*tokens, None if plain else mask_logits)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    other = by_hand(layer, *tokens, None if plain else ~attended_keys(mask_logits), not self_first)
    assert (got - other).abs().max() > 1e-3  # the order matters, so the comparison can tell


def test_pooling_has_no_use_for_positions_and_reads_inside_the_mask():
    layer = random_layer(pooling=True)
    queries, positions, memory, memory_position, mask_logits = example()
    names = {name for name, _ in layer.cross_attention.named_parameters()}
    assert names == {f"{part}_projection.{kind}" for part in ("value", "output") for kind in ("weight", "bias")}
    read = layer.read_image(queries, positions, memory, memory_position, mask_logits)
    for n, q in ((0, 0), (1, 2)):  # an ordinary query, and one whose mask is empty
        inside = mask_logits[n, q] >= 0 if (mask_logits[n, q] >= 0).any() else torch.ones(9, dtype=torch.bool)
        mean = layer.cross_attention.value_projection(memory[n, inside]).mean(0)
        expected = layer.cross_norm(queries[n, q] + layer.cross_attention.output_projection(mean))
        torch.testing.assert_close(read[n, q], expected, atol=1e-12, rtol=0)
    assert torch.equal(read, layer.read_image(queries, positions + 1, memory, memory_position + 1, mask_logits))


def test_dropout_is_off_in_eval_mode_and_drops_in_training():
    dropping, plain = random_layer(dropout=0.5), random_layer()
    arrays = example()
    assert torch.equal(dropping.eval()(*arrays), plain(*arrays))
    dropping.train()
    torch.manual_seed(0)
    first = dropping(*arrays)
    assert (first - plain(*arrays)).abs().max() > 1e-2
    torch.manual_seed(0)
    assert torch.equal(dropping(*arrays), first)  # drawn from the seed that the loop sets at every step


class DropOnly(nn.Module):
    """Drops in tensors of one width alone."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return F.dropout(x, 0.5) if x.shape[-1] == self.width else x


@pytest.mark.parametrize(("width", "attention"), [(DIM, 0.0), (24, 0.0), (None, 0.5)])
def test_dropout_reaches_residuals_hidden_units_and_attention_weights(width, attention):
    layer = random_layer(dropout=attention).train()
    layer.drop = DropOnly(width)
    arrays = example()
    assert (layer(*arrays) - layer(*arrays)).abs().max() > 1e-3
