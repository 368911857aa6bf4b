"""Mask decoder: learned queries read the pixel decoder's maps in turn, and predict after every layer.

    predictions = MaskDecoder(num_classes=133)(levels, mask_features)

Mask2Former, sec. 3.2; mask2former_transformer_decoder.py of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.float32_islands import mask_logits
from mask2edge.train.model.masked_attention import Attention
from mask2edge.train.model.pixel_decoder import NUM_LEVELS
from mask2edge.train.model.position import sine_position


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and a feed-forward network, each with a residual and then a norm."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int) -> None:
        super().__init__()
        self.cross_attention = Attention(dim, num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, memory_position: Tensor, mask_logits: Tensor
    ) -> Tensor:
        """queries [N, Q, C], query_positions [Q, C], memory [N, S, C] (level embedding added),
        memory_position [1, S, C], mask_logits [N, Q, S] at the memory's size -> [N, Q, C]."""
        cross = self.cross_attention(queries + query_positions, memory + memory_position, memory, mask_logits)
        queries = self.cross_norm(queries + cross)
        positioned = queries + query_positions
        queries = self.self_norm(queries + self.self_attention(positioned, positioned, queries))
        return self.ffn_norm(queries + self.linear2(F.relu(self.linear1(queries))))


class MaskDecoder(nn.Module):
    """Layers go round-robin over strides 32, 16, 8."""

    def __init__(
        self,
        num_classes: int,
        num_queries: int = 100,
        hidden_dim: int = 256,
        ffn_dim: int = 2048,
        num_layers: int = 9,
        num_heads: int = 8,
    ) -> None:
        super().__init__()
        self.query_features = nn.Parameter(torch.randn(num_queries, hidden_dim))
        self.query_positions = nn.Parameter(torch.randn(num_queries, hidden_dim))
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.layers = nn.ModuleList(DecoderLayer(hidden_dim, ffn_dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = nn.Linear(hidden_dim, num_classes + 1)  # the last class is "no object"
        self.mask_head = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(3))

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor) -> list[dict[str, Tensor]]:
        """levels: strides 32, 16, 8, each [N, C, h, w]; mask_features [N, C, H/4, W/4].

        Returns one prediction for the learned queries and one per layer, the last being the result, each
        {"class_logits": [N, Q, K+1], "mask_logits": [N, Q, H/4, W/4]}.
        """
        memory = [self.memory(level, x) for level, x in enumerate(levels)]
        positions = [
            sine_position(x.shape[2], x.shape[3], x.shape[1], x.device, x.dtype).flatten(2).transpose(1, 2)
            for x in levels
        ]  # each [1, S, C]
        queries = self.query_features.expand(mask_features.shape[0], -1, -1)  # [N, Q, C]
        predictions = [self.predict(queries, mask_features)]
        for index, layer in enumerate(self.layers):
            level = index % NUM_LEVELS
            attention_logits = F.interpolate(
                predictions[-1]["mask_logits"].detach(), levels[level].shape[2:], mode="bilinear", align_corners=False
            ).flatten(2)  # [N, Q, S]
            queries = layer(queries, self.query_positions, memory[level], positions[level], attention_logits)
            predictions.append(self.predict(queries, mask_features))
        return predictions

    def memory(self, level: int, features: Tensor) -> Tensor:
        """Tokens of one map with its level embedding: [N, C, h, w] -> [N, h*w, C]."""
        return features.flatten(2).transpose(1, 2) + self.level_embed[level]

    def heads(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """queries [N, Q, C] -> class logits [N, Q, K+1] and mask embeddings [N, Q, C]."""
        normed = self.norm(queries)
        first, second, third = self.mask_head
        return self.class_head(normed), third(F.relu(second(F.relu(first(normed)))))

    def predict(self, queries: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        class_logits, mask_embed = self.heads(queries)
        return {
            "class_logits": class_logits,
            "mask_logits": mask_logits(mask_embed, mask_features),
        }
