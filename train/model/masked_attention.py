"""Masked attention (Mask2Former, sec. 3.2.1): a query attends inside the mask that it predicted one layer before.

    output = masked_attention(query, key, value, mask_logits, num_heads=8)   # [N, Q, C]

`masked_attention` is the operator of the deployed graphs in plain PyTorch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int) -> Tensor:
    """Attention where a key counts if its mask logit is >= 0 (sigmoid >= 0.5); a query with no such key sees all.

    query [N, Q, C], key and value [N, S, C], all projected; mask_logits [N, Q, S]. Returns [N, Q, C].
    The mask is a constant for the gradient, as in the reference.
    """
    attended = mask_logits.detach() >= 0  # [N, Q, S]
    attended = attended | ~attended.any(-1, keepdim=True)
    output = F.scaled_dot_product_attention(
        split_heads(query, num_heads), split_heads(key, num_heads), split_heads(value, num_heads), attended[:, None]
    )  # [N, M, Q, D]
    return output.transpose(1, 2).flatten(2)


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """[N, S, M*D] -> [N, M, S, D]"""
    return tokens.unflatten(2, (num_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with its projections; masked where mask logits are given."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
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
        if mask_logits is not None:
            output = masked_attention(query, key, value, mask_logits, self.num_heads)
        else:
            heads = (split_heads(tokens, self.num_heads) for tokens in (query, key, value))
            output = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)  # [N, Q, C]
        return self.output_projection(output)
