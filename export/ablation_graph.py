"""Parts of the inference graph for networks with the paper's ablations, as they were trained.

    decoder = PlainMaskDecoder(model.mask_decoder, model.pixel_decoder.mask_features)

The rewrites of inference_graph.py are for Mask2Former itself. A network whose mask decoder has another attention,
concatenated features or other queries keeps its own decoder; one with an FPN or BiFPN keeps that, and its mask decoder
is rewritten all the same. Inputs, outputs and names of the stages are those of the rewritten parts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from mask2edge.export.stages import stage
from mask2edge.train.model.decoder_layer import DecoderLayer
from mask2edge.train.model.feature_pyramid import BidirectionalPyramid, FeaturePyramid
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.masked_attention import Attention
from mask2edge.train.model.pixel_decoder import STRIDES


def is_mask2former(decoder: MaskDecoder) -> bool:
    """Whether the rewrites hold: masked attention before self-attention, one level a layer, queries that predict."""
    return (
        decoder.masked
        and decoder.predicts_first
        and all(len(levels) == 1 for levels in decoder.schedule)
        and all(isinstance(layer.cross_attention, Attention) and not layer.self_first for layer in decoder.layers)
    )


class InferencePyramid(nn.Module):
    """An FPN or BiFPN without its last convolution."""

    def __init__(self, decoder: FeaturePyramid | BidirectionalPyramid) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
        """res2 … res5 -> the input of `mask_features` [N, C, H/4, W/4], tokens by level [N, hw, C], their sizes."""
        fine, maps = self.decoder.pyramid(features)
        levels = [
            stage(x.flatten(2).transpose(1, 2), f"pixel_decoder.level{stride}")
            for x, stride in zip(maps, STRIDES, strict=True)
        ]
        return stage(fine, "pixel_decoder.fine"), levels, [(x.shape[2], x.shape[3]) for x in maps]


class PlainMaskDecoder(nn.Module):
    """The mask decoder as it was trained, with named stages; classes and masks of the last layer."""

    def __init__(self, decoder: MaskDecoder, mask_features: nn.Conv2d) -> None:
        super().__init__()
        self.decoder = copy.deepcopy(decoder)
        self.decoder.layers = nn.ModuleList(
            StagedLayer(layer, index) for index, layer in enumerate(self.decoder.layers)
        )
        guided = self.decoder.guided_queries
        if guided is not None:
            guided.scores.append(StagedScores())
        self.mask_features = mask_features

    def forward(
        self, fine: Tensor, levels: Sequence[Tensor], shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """fine [N, C, H/4, W/4], levels [N, hw, C] at strides 32, 16, 8 -> class logits [N, Q, K+1], mask logits."""
        maps = [tokens.transpose(1, 2).unflatten(2, shape) for tokens, shape in zip(levels, shapes, strict=True)]
        result = self.decoder(maps, self.mask_features(fine))[-1]
        return result["class_logits"], result["mask_logits"]


class StagedScores(nn.Module):
    """A name for the scores that guided queries are chosen by."""

    def forward(self, logits: Tensor) -> Tensor:
        return stage(logits, "decoder.proposal_logits")


class StagedLayer(nn.Module):
    """A decoder layer with names for the masks that it attends by, where there are any, and for its queries."""

    def __init__(self, layer: DecoderLayer, index: int) -> None:
        super().__init__()
        self.layer, self.index = layer, index

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        mask_logits: Tensor | None,
    ) -> Tensor:
        if mask_logits is not None:
            mask_logits = stage(mask_logits, f"decoder.{self.index}.mask_logits")
        queries = self.layer(queries, query_positions, memory, memory_position, mask_logits)
        return stage(queries, f"decoder.{self.index}.queries")
