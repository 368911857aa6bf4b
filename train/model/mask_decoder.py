"""Mask decoder: queries read the pixel decoder's maps in turn, and predict after every layer.

    predictions = MaskDecoder(num_classes=133)(levels, mask_features)

Mask2Former, sec. 3.2; mask2former_transformer_decoder.py of the reference. The switches are the ablations of the
paper's tables 4b to 4d and Xb.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.decoder_layer import DecoderLayer
from mask2edge.train.model.float32_islands import mask_logits
from mask2edge.train.model.guided_queries import FirstQueries, GuidedQueries
from mask2edge.train.model.piloting import Pilots
from mask2edge.train.model.pixel_decoder import NUM_LEVELS
from mask2edge.train.model.position import sine_position

SINGLE_LEVEL = {"stride-32": 0, "stride-16": 1, "stride-8": 2}


def levels_of_layers(features: str, num_layers: int) -> list[tuple[int, ...]]:
    """The levels (0, 1, 2: strides 32, 16, 8) that each layer reads, for one of config.DECODER_FEATURES."""
    if features == "round-robin":
        return [(layer % NUM_LEVELS,) for layer in range(num_layers)]
    if features == "concatenated":
        return [tuple(range(NUM_LEVELS))] * num_layers
    return [(SINGLE_LEVEL[features],)] * num_layers


class MaskDecoder(nn.Module):
    """`cross_attention`, `features`, `query_features`: one of config.CROSS_ATTENTIONS, DECODER_FEATURES and
    QUERY_FEATURES; `self_first` and `dropout` as in DecoderLayer.

    Zero queries are DETR's: only their positions are learned. Before the first layer all of them would predict the same
    mask, so they predict nothing, and the first layer reads the whole image. Unsupervised queries predict the first
    layer's mask, but that prediction is not returned, so no loss sees it. Guided ones are pixels of the finest level
    (guided_queries.py).
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int = 100,
        hidden_dim: int = 256,
        ffn_dim: int = 2048,
        num_layers: int = 9,
        num_heads: int = 8,
        cross_attention: str = "masked",
        features: str = "round-robin",
        query_features: str = "supervised",
        self_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.masked = cross_attention != "plain"
        self.supervised = query_features in ("supervised", "guided")
        self.schedule = levels_of_layers(features, num_layers)
        self.levels_read = sorted({level for levels in self.schedule for level in levels})
        self.predicts_first = query_features != "zero"
        self.query_features: nn.Parameter | None = None
        self.query_positions: nn.Parameter | None = None
        self.guided_queries: GuidedQueries | None = None
        if query_features == "guided":
            self.guided_queries = GuidedQueries(num_queries, num_classes, hidden_dim)
        else:
            if query_features != "zero":
                self.query_features = nn.Parameter(torch.randn(num_queries, hidden_dim))
            self.query_positions = nn.Parameter(torch.randn(num_queries, hidden_dim))
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, ffn_dim, num_heads, cross_attention == "mask-pooling", self_first, dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = nn.Linear(hidden_dim, num_classes + 1)  # the last class is "no object"
        self.mask_head = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(3))

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor) -> list[dict[str, Tensor]]:
        """levels: strides 32, 16, 8, each [N, C, h, w]; mask_features [N, C, H/4, W/4].

        Returns one prediction for the first queries (where they are supervised) and one per layer, the last being
        the result, each {"class_logits": [N, Q, K+1], "mask_logits": [N, Q, H/4, W/4]}. Of guided queries the first has
        the scores of the pixels that they were chosen from too, "proposal_logits": [N, K, H/8, W/8].
        """
        memory, positions = self.memories(levels), self.positions(levels)
        (queries, query_positions, centres), proposal_logits = self.first_queries(levels)
        prediction = self.predict(queries, mask_features, centres) if self.predicts_first else None
        if prediction is not None and proposal_logits is not None:
            prediction["proposal_logits"] = proposal_logits
        predictions = [prediction] if prediction is not None and self.supervised else []
        for layer, read in zip(self.layers, self.schedule, strict=True):
            mask_logits = None
            if self.masked and prediction is not None:
                mask_logits = attention_logits(prediction["mask_logits"], [levels[level] for level in read])
            queries = layer(
                queries,
                query_positions,
                joined([memory[level] for level in read]),
                joined([positions[level] for level in read]),
                mask_logits,
            )
            prediction = self.predict(queries, mask_features, centres)
            predictions.append(prediction)
        return predictions

    def piloted(self, levels: Sequence[Tensor], mask_features: Tensor, pilots: Pilots) -> list[Tensor]:
        """The mask logits [N, P, H/4, W/4] after every layer of queries that know their class and are led by masks.

        MP-Former, sec. 3: each begins as its class and attends inside the mask given instead of the one it predicts.
        What stands for a class is its row of the class head, so there is nothing to learn that a checkpoint would keep.
        """
        memory, positions = self.memories(levels), self.positions(levels)
        queries = self.class_head.weight.detach()[pilots.labels]  # [N, P, C]
        nowhere = torch.zeros_like(queries[0])  # [P, C]
        attended = {level: pilots.attended((levels[level].shape[2], levels[level].shape[3])) for level in memory}
        masks = []
        for layer, read in zip(self.layers, self.schedule, strict=True):
            queries = layer(
                queries,
                nowhere,
                joined([memory[level] for level in read]),
                joined([positions[level] for level in read]),
                joined([attended[level] for level in read], dim=2) if self.masked else None,
            )
            masks.append(mask_logits(self.heads(queries)[1], mask_features))
        return masks

    def first_queries(self, levels: Sequence[Tensor]) -> tuple[FirstQueries, Tensor | None]:
        """What the first layer reads, and the logits [N, K, H/8, W/8] that guided queries were chosen by."""
        if self.guided_queries is not None:
            return self.guided_queries(levels[-1])
        assert self.query_positions is not None
        first = torch.zeros_like(self.query_positions) if self.query_features is None else self.query_features
        return FirstQueries(first.expand(levels[-1].shape[0], -1, -1), self.query_positions), None

    def memories(self, levels: Sequence[Tensor]) -> dict[int, Tensor]:
        """Of each level that is read, its tokens [N, S, C]."""
        return {level: self.memory(level, levels[level]) for level in self.levels_read}

    def positions(self, levels: Sequence[Tensor]) -> dict[int, Tensor]:
        """Of each level that is read, its tokens' sine positions [1, S, C]."""
        return {
            level: sine_position(x.shape[2], x.shape[3], x.shape[1], x.device, x.dtype).flatten(2).transpose(1, 2)
            for level, x in enumerate(levels)
            if level in self.levels_read
        }

    def memory(self, level: int, features: Tensor) -> Tensor:
        """Tokens of one map with its level embedding: [N, C, h, w] -> [N, h*w, C]."""
        return features.flatten(2).transpose(1, 2) + self.level_embed[level]

    def heads(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """queries [N, Q, C] -> class logits [N, Q, K+1] and mask embeddings [N, Q, C]."""
        normed = self.norm(queries)
        first, second, third = self.mask_head
        return self.class_head(normed), third(F.relu(second(F.relu(first(normed)))))

    def predict(self, queries: Tensor, mask_features: Tensor, centres: Tensor | None = None) -> dict[str, Tensor]:
        """centres: those of guided queries."""
        class_logits, mask_embed = self.heads(queries)
        logits = mask_logits(mask_embed, mask_features)  # [N, Q, H/4, W/4]
        if self.guided_queries is not None and centres is not None:
            rows, columns = self.guided_queries.windows(self.norm(queries), centres, *logits.shape[2:])
            logits = logits + rows[..., None] + columns[:, :, None]
        return {"class_logits": class_logits, "mask_logits": logits}


def attention_logits(logits: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Mask logits [N, Q, H/4, W/4] at the sizes of the maps [N, C, h, w] that are read together: [N, Q, sum of h*w]."""
    return joined(
        [F.interpolate(logits.detach(), x.shape[2:], mode="bilinear", align_corners=False).flatten(2) for x in maps],
        dim=2,
    )


def joined(parts: Sequence[Tensor], dim: int = 1) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
