"""One layer of the mask decoder: the queries read the image, then each other, then pass a feed-forward network.

    queries = DecoderLayer(256, 2048, num_heads=8)(queries, query_positions, memory, memory_position, mask_logits)

Mask2Former, sec. 3.2 and fig. 2; mask2former_transformer_decoder.py of the reference. The switches are the ablations of
tables 4b and 4c.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.masked_attention import Attention, MaskPooling


class DecoderLayer(nn.Module):
    """Cross-attention, self-attention and a feed-forward network, each with a residual and then a norm.

    `pooling`: the mean inside the mask instead of cross-attention. `self_first`: self-attention comes before it, as in
    DETR. `dropout`: of attention weights, of each residual and inside the feed-forward network, as in DETR.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        pooling: bool = False,
        self_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_first = self_first
        self.cross_attention = MaskPooling(dim) if pooling else Attention(dim, num_heads, dropout)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        mask_logits: Tensor | None,
    ) -> Tensor:
        """queries [N, Q, C], query_positions [Q, C] or [N, Q, C], memory [N, S, C] (level embedding added),
        memory_position [1, S, C], mask_logits [N, Q, S] at the memory's size, or None -> [N, Q, C]."""
        if self.self_first:
            queries = self.read_queries(queries, query_positions)
        queries = self.read_image(queries, query_positions, memory, memory_position, mask_logits)
        if not self.self_first:
            queries = self.read_queries(queries, query_positions)
        hidden = self.drop(F.relu(self.linear1(queries)))  # [N, Q, F]
        return self.ffn_norm(queries + self.drop(self.linear2(hidden)))

    def read_image(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        mask_logits: Tensor | None,
    ) -> Tensor:
        if isinstance(self.cross_attention, MaskPooling):
            read = self.cross_attention(memory, mask_logits)  # [N, Q or 1, C]
        else:
            read = self.cross_attention(queries + query_positions, memory + memory_position, memory, mask_logits)
        return self.cross_norm(queries + self.drop(read))

    def read_queries(self, queries: Tensor, query_positions: Tensor) -> Tensor:
        positioned = queries + query_positions  # [N, Q, C]
        return self.self_norm(queries + self.drop(self.self_attention(positioned, positioned, queries)))
