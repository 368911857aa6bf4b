"""Masked attention (Mask2Former, sec. 3.2.1): a query attends inside the mask that it predicted one layer before.

    output = masked_attention(query, key, value, mask_logits, num_heads=8)   # [N, Q, C]

`masked_attention` is the operator of the deployed graphs in plain PyTorch. `mask_pooling` is what K-Net has in its
place (K-Net, sec. 3.2; Mask2Former, table 4c): the plain mean inside the mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int, dropout: float = 0.0
) -> Tensor:
    """Attention where a key counts if its mask logit is >= 0 (sigmoid >= 0.5); a query with no such key sees all.

    query [N, Q, C], key and value [N, S, C], all projected; mask_logits [N, Q, S]. Returns [N, Q, C].
    The mask is a constant for the gradient, as in the reference. `dropout`: the part of the attention weights that is
    dropped.
    """
    output = F.scaled_dot_product_attention(
        split_heads(query, num_heads),
        split_heads(key, num_heads),
        split_heads(value, num_heads),
        attended_keys(mask_logits)[:, None],
        dropout,
    )  # [N, M, Q, D]
    return output.transpose(1, 2).flatten(2)


def mask_pooling(value: Tensor, mask_logits: Tensor | None) -> Tensor:
    """The mean of the values whose mask logit is >= 0; a query with no such value, or no mask, averages all.

    value [N, S, C], mask_logits [N, Q, S] or None. Returns [N, Q, C], or [N, 1, C] without masks.
    """
    if mask_logits is None:
        return value.mean(1, keepdim=True)
    attended = attended_keys(mask_logits).to(torch.promote_types(value.dtype, torch.float32))  # [N, Q, S]
    weights = attended / attended.sum(-1, keepdim=True)  # [N, Q, S]; float16 cannot count beyond 65504
    return weights.to(value.dtype) @ value


def attended_keys(mask_logits: Tensor) -> Tensor:
    """Where a logit is >= 0 (all of a row that has no such logit): [N, Q, S] -> bool [N, Q, S]."""
    attended = mask_logits.detach() >= 0  # [N, Q, S]
    return attended | ~attended.any(-1, keepdim=True)


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """[N, S, M*D] -> [N, M, S, D]"""
    return tokens.unflatten(2, (num_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with its projections; masked where mask logits are given."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_projection = nn.Linear(dim, dim)
        self.key_projection = nn.Linear(dim, dim)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        for module in self.children():
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor | None = None) -> Tensor:
        """query [N, Q, C], key and value [N, S, C], mask_logits [N, Q, S] or None -> [N, Q, C]."""
        query, key, value = self.query_projection(query), self.key_projection(key), self.value_projection(value)
        dropout = self.dropout if self.training else 0.0
        if mask_logits is not None:
            output = masked_attention(query, key, value, mask_logits, self.num_heads, dropout)
        else:
            heads = (split_heads(tokens, self.num_heads) for tokens in (query, key, value))
            output = F.scaled_dot_product_attention(*heads, dropout_p=dropout).transpose(1, 2).flatten(2)  # [N, Q, C]
        return self.output_projection(output)


class MaskPooling(nn.Module):
    """`mask_pooling` between two projections, in the place of cross-attention: it has no queries, keys or positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        for module in self.children():
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, value: Tensor, mask_logits: Tensor | None) -> Tensor:
        """value [N, S, C], mask_logits [N, Q, S] or None -> [N, Q, C] or, the same for all queries, [N, 1, C]."""
        return self.output_projection(mask_pooling(self.value_projection(value), mask_logits))
