"""The network as inference needs it: the plain model's arithmetic, with everything that only training needs left out.

    graph = InferenceGraph(model, StandardOps(), size=(512, 512))   # size=None: dynamic batch, height and width
    class_logits, mask_logits = graph(pixels)

Every rewrite is exact (equal in real numbers; tests/export/test_rewrites.py compares in float64). What each gains,
counted in GFLOP or timed in ONNX Runtime 1.32 on 2 threads, for R50 at 512×512 (5376 tokens of 256, 100 queries):

- Attention masks. The map under the masks is resized once per level and multiplied at that resolution, because
  bilinear resizing commutes with the sum over channels; full-size masks exist for the result alone. 7.55 -> 0.83 GFLOP.
- The 1×1 convolution `mask_features` moves into the last linear layer of the mask head: e·(Wx + b) = (Wᵀe)·x + e·b.
  It ran over the map at stride 4; now the layer has one output more: 2.15 -> 0.00 GFLOP.
- Frozen batch norms are folded into the convolutions before them: 53 multiply-adds over whole maps less.
- The first prediction sees the learned queries alone, so its mask embedding and the first layer's query projection are
  constants (but for guided queries); classes are computed for the result alone: 0.11 GFLOP less for 133 classes.
- Keys of the layers that share a level come from one GEMM, and so do values; level embeddings are in the biases:
  29.7 ms at stride 8, 32.7 as six GEMMs. (One GEMM for both, the position part a constant, was tried: 32.2.)
- Fixed size: the position part of sampling offsets and logits is a constant added to source·W, and source + position
  never exists: 12.9 ms instead of 15.3 a layer for its linears. The file holds the small factors of these constants,
  and the backend multiplies them when it loads.
- Decoder self-attention: queries, keys and values from one GEMM instead of three, the query positions' part a constant.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.export.ablation_graph import InferencePyramid, PlainMaskDecoder, is_mask2former
from mask2edge.export.stages import stage
from mask2edge.export.standard_ops import Operators
from mask2edge.train.model.backbones.frozen_batch_norm import FrozenBatchNorm2d
from mask2edge.train.model.decoder_layer import DecoderLayer
from mask2edge.train.model.guided_queries import FirstQueries, GuidedQueries, best_pixels
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.pixel_decoder import (
    STRIDES,
    DeformableEncoderLayer,
    PixelDecoder,
    located,
    pixel_centres,
)
from mask2edge.train.model.position import sine_position


class InferenceGraph(nn.Module):
    """Built from a trained model, which stays as it is. Where `size` (H, W) is given, constants may depend on it."""

    def __init__(self, model: Mask2Former, ops: Operators, size: tuple[int, int] | None) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval().requires_grad_(False)
        self.backbone = fold_frozen_norms(model.backbone)
        mask_features = model.pixel_decoder.mask_features
        self.pixel_decoder = (
            InferencePixelDecoder(model.pixel_decoder, ops, fixed_size=size is not None)
            if isinstance(model.pixel_decoder, PixelDecoder)
            else InferencePyramid(model.pixel_decoder)
        )
        self.mask_decoder = (
            InferenceMaskDecoder(model.mask_decoder, mask_features, ops)
            if is_mask2former(model.mask_decoder)
            else PlainMaskDecoder(model.mask_decoder, mask_features)
        )
        self.size = size

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [N, 3, H, W] -> class logits [N, Q, K+1], mask logits [N, Q, H/4, W/4]."""
        features = [stage(x, f"backbone.res{i + 2}") for i, x in enumerate(self.backbone(pixels))]
        fine, levels, shapes = self.pixel_decoder(features)
        return self.mask_decoder(fine, levels, shapes)


class InferencePixelDecoder(nn.Module):
    """The pixel decoder without its last convolution; maps of the encoder stay tokens, as both users want them."""

    def __init__(self, decoder: PixelDecoder, ops: Operators, fixed_size: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.ops = ops
        self.fixed_size = fixed_size

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
        """res2 … res5 -> the input of `mask_features` [N, C, H/4, W/4], tokens by level [N, hw, C], their sizes."""
        decoder = self.decoder
        res2, *coarse = features
        projected = [project(x) for project, x in zip(decoder.input_projections, reversed(coarse), strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in projected]
        places = decoder.token_places
        source = torch.cat([located(x, places).flatten(2).transpose(1, 2) for x in projected], 1)  # [N, S, C]
        positions = [
            position_tokens(height, width, source) + embed
            for (height, width), embed in zip(shapes, decoder.level_embed, strict=True)
        ]
        position = torch.cat(positions, 1)  # [1, S, C]
        reference_points = pixel_centres(shapes, source)  # [1, S, 2]
        for layer in decoder.layers:
            source = self.encode(layer, source, position, reference_points, shapes)
        areas = [height * width for height, width in shapes]
        levels = [
            stage(tokens, f"pixel_decoder.level{stride}")
            for tokens, stride in zip(source.split(areas, 1), STRIDES, strict=True)
        ]
        finest = levels[-1].transpose(1, 2).unflatten(2, shapes[-1])  # [N, C, H/8, W/8]
        fine = decoder.lateral(res2)  # [N, C, H/4, W/4]
        fine = fine + F.interpolate(finest, fine.shape[2:], mode="bilinear", align_corners=False)
        fine = located(F.relu(decoder.output(fine)), decoder.fine_places)
        return stage(fine, "pixel_decoder.fine"), levels, shapes

    def encode(
        self,
        layer: DeformableEncoderLayer,
        source: Tensor,
        position: Tensor,
        reference_points: Tensor,
        shapes: list[tuple[int, int]],
    ) -> Tensor:
        """One deformable encoder layer: source [N, S, C] -> [N, S, C]."""
        attention = layer.self_attention
        if self.fixed_size:
            # position @ W depends on the weights alone: whoever loads the graph folds it.
            offsets, logits = (
                source @ linear.weight.T + (position @ linear.weight.T + linear.bias)  # [N, S, M*L*P*2], [N, S, M*L*P]
                for linear in (attention.sampling_offsets, attention.attention_weights)
            )
        else:
            query = source + position  # [N, S, C]
            offsets, logits = attention.sampling_offsets(query), attention.attention_weights(query)
        attended = self.ops.multiscale_deformable_attention(
            attention.value_projection(source),
            offsets,
            logits,
            reference_points,
            shapes,
            attention.num_heads,
            attention.num_points,
        )  # [N, S, C]
        source = layer.norm1(source + attention.output_projection(attended))
        return layer.norm2(source + layer.linear2(F.relu(layer.linear1(source))))


class InferenceMaskDecoder(nn.Module):
    """The mask decoder, predicting in full after the last layer alone."""

    query_features: Tensor
    first_mask_embed: Tensor
    first_mask_bias: Tensor
    first_query: Tensor

    def __init__(self, decoder: MaskDecoder, mask_features: nn.Conv2d, ops: Operators) -> None:
        super().__init__()
        self.ops = ops
        self.class_head = decoder.class_head
        self.norm: nn.LayerNorm = decoder.norm
        self.mask_head = nn.ModuleList(
            [*decoder.mask_head[:2], fold_mask_features(decoder.mask_head[2], mask_features)]
        )
        self.layers = nn.ModuleList(
            InferenceDecoderLayer(layer, decoder.query_positions, ops) for layer in decoder.layers
        )
        self.guided_queries = decoder.guided_queries
        self.levels = decoder.levels_read
        # of each layer its level, as a place in `levels`, and how many layers before it read the same
        reads = [self.levels.index(level) for (level,) in decoder.schedule]
        self.schedule = [(read, reads[:index].count(read)) for index, read in enumerate(reads)]
        self.keys, self.values = nn.ModuleList(), nn.ModuleList()
        for read, level in enumerate(self.levels):
            embed = decoder.level_embed[level].detach()
            attentions = [
                layer.cross_attention for layer, own in zip(decoder.layers, reads, strict=True) if own == read
            ]
            self.keys.append(merge_linears([attention.key_projection for attention in attentions], embed))
            self.values.append(merge_linears([attention.value_projection for attention in attentions], embed))
        if decoder.query_features is not None:
            self.fold_first(decoder, decoder.query_features.detach())

    @torch.no_grad()
    def fold_first(self, decoder: MaskDecoder, features: Tensor) -> None:
        """Of learned queries [Q, C], what the first prediction and the first layer make of them."""
        embed, bias = self.mask_embed(features[None])
        query = decoder.layers[0].cross_attention.query_projection(features + decoder.query_positions)  # [Q, C]
        self.register_buffer("query_features", features)  # [Q, C]
        self.register_buffer("first_mask_embed", embed)  # [1, Q, C]
        self.register_buffer("first_mask_bias", bias)  # [1, Q, 1]
        self.register_buffer("first_query", query[None])  # [1, Q, C]

    def forward(
        self, fine: Tensor, levels: Sequence[Tensor], shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """fine [N, C, H/4, W/4], levels [N, hw, C] at strides 32, 16, 8 -> class logits [N, Q, K+1], mask logits."""
        batch = fine.shape[0]
        small = []  # the map under the masks at the size of each level that is read, [N, C, hw]
        keys, values = [], []  # per level, the keys and values of its layers, each [N, hw, C]
        for read, level in enumerate(self.levels):
            tokens, (height, width) = levels[level], shapes[level]
            resized = F.interpolate(fine, (height, width), mode="bilinear", align_corners=False)  # [N, C, h, w]
            small.append(resized.flatten(2))
            positioned = tokens + position_tokens(height, width, tokens)  # [N, hw, C]
            keys.append(self.keys[read](positioned).split(tokens.shape[2], 2))
            values.append(self.values[read](tokens).split(tokens.shape[2], 2))

        positions = centres = query = None
        if self.guided_queries is None:
            queries = self.query_features.expand(batch, -1, -1)  # [N, Q, C]
            query = self.first_query.expand(batch, -1, -1)  # [N, Q, C]
            embed, bias = self.first_mask_embed, self.first_mask_bias
        else:
            queries, positions, centres = self.guide(self.guided_queries, levels[-1], *shapes[-1])
            embed, bias = self.mask_embed(queries)
        for index, (layer, (read, turn)) in enumerate(zip(self.layers, self.schedule, strict=True)):
            if index > 0:
                query = None
                embed, bias = self.mask_embed(queries)
            mask_logits = embed @ small[read] + bias  # [N, Q, hw]
            if centres is not None:
                mask_logits = mask_logits + self.window(queries, centres, fine, STRIDES[self.levels[read]] // 4)
            mask_logits = stage(mask_logits, f"decoder.{index}.mask_logits")
            queries = layer(queries, query, keys[read][turn], values[read][turn], mask_logits, positions)
            queries = stage(queries, f"decoder.{index}.queries")
        embed, bias = self.mask_embed(queries)
        full = embed @ fine.flatten(2) + bias  # [N, Q, H/4 * W/4]
        if centres is not None:
            full = full + self.window(queries, centres, fine, 1)
        return self.class_head(self.norm(queries)), full.unflatten(2, fine.shape[2:])

    def guide(self, guided: GuidedQueries, tokens: Tensor, height: int, width: int) -> FirstQueries:
        """tokens [N, hw, C] at stride 8."""
        logits = guided.scores(tokens.transpose(1, 2).unflatten(2, (height, width)))  # [N, K, h, w]
        chosen = best_pixels(stage(logits, "decoder.proposal_logits"), guided.num_queries)  # [N, Q]
        return guided.queries_at(chosen, tokens, height, width)

    def window(self, queries: Tensor, centres: Tensor, fine: Tensor, factor: int) -> Tensor:
        """What guided queries add to their masks, `factor` times smaller than the fine map: [N, Q, hw]."""
        assert self.guided_queries is not None
        parts = self.guided_queries.windows(self.norm(queries), centres, *fine.shape[2:])
        if factor > 1:  # bilinear resizing by an even factor: the mean of the two in the middle
            parts = [(part[..., factor // 2 - 1 :: factor] + part[..., factor // 2 :: factor]) / 2 for part in parts]
        rows, columns = parts
        return (rows[..., None] + columns[:, :, None]).flatten(2)

    def mask_embed(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """queries [N, Q, C] -> the fine map's factor [N, Q, C], and what is added to the mask logits [N, Q, 1]."""
        embed = self.norm(queries)
        for linear in self.mask_head[:-1]:
            embed = F.relu(linear(embed))
        embed = self.mask_head[-1](embed)  # [N, Q, C+1]
        return embed[..., :-1], embed[..., -1:]


class InferenceDecoderLayer(nn.Module):
    """A decoder layer whose query positions, where they are learned, are constants in the biases of its projections."""

    cross_bias: Tensor
    query_bias: Tensor
    key_bias: Tensor
    value_bias: Tensor

    def __init__(self, layer: DecoderLayer, query_positions: Tensor | None, ops: Operators) -> None:
        super().__init__()
        self.layer = layer
        self.ops = ops
        attention = layer.self_attention
        linears = (attention.query_projection, attention.key_projection, attention.value_projection)
        # what is projected with a position: the queries of both attentions, and the keys of one
        positioned = merge_linears([layer.cross_attention.query_projection, *linears[:2]])
        with torch.no_grad():
            self.register_buffer("value_bias", linears[2].bias.clone())  # [C]
            self.self_weight = nn.Buffer(torch.cat([linear.weight for linear in linears]))  # [3C, C]
            if query_positions is None:
                self.positioned = positioned
            else:
                biases = positioned(query_positions).chunk(3, -1)  # 3 x [Q, C]
                for name, bias in zip(("cross_bias", "query_bias", "key_bias"), biases, strict=True):
                    self.register_buffer(name, bias.contiguous())

    def forward(
        self,
        queries: Tensor,
        query: Tensor | None,
        key: Tensor,
        value: Tensor,
        mask_logits: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """queries [N, Q, C]; projected query (None: calculated), key and value [N, S, C]; mask_logits [N, Q, S];
        positions [N, Q, C] of queries that have no constant ones -> [N, Q, C]."""
        layer, heads = self.layer, self.layer.cross_attention.num_heads
        if positions is None:
            cross_bias, query_bias, key_bias = self.cross_bias, self.query_bias, self.key_bias
        else:
            cross_bias, query_bias, key_bias = self.positioned(positions).chunk(3, -1)  # 3 x [N, Q, C]
        if query is None:
            query = queries @ layer.cross_attention.query_projection.weight.T + cross_bias  # [N, Q, C]
        attended = self.ops.masked_attention(query, key, value, mask_logits, heads)  # [N, Q, C]
        queries = layer.cross_norm(queries + layer.cross_attention.output_projection(attended))
        queries = layer.self_norm(
            queries + layer.self_attention.output_projection(self.attend_to_queries(queries, query_bias, key_bias))
        )
        return layer.ffn_norm(queries + layer.linear2(F.relu(layer.linear1(queries))))

    def attend_to_queries(self, queries: Tensor, query_bias: Tensor, key_bias: Tensor) -> Tensor:
        """Self-attention up to its output projection: [N, Q, C] -> [N, Q, C]. Biases [Q, C] or [N, Q, C]."""
        heads = self.layer.self_attention.num_heads
        # One bias [Q, 3C] before the split would do, but TensorRT's fused attention takes it for [3C], and fails.
        projected = (queries @ self.self_weight.T).chunk(3, 2)  # 3 x [N, Q, C]
        biases = (query_bias, key_bias, self.value_bias)
        query, key, value = (
            (x + bias).unflatten(2, (heads, -1)).transpose(1, 2) for x, bias in zip(projected, biases, strict=True)
        )  # [N, M, Q, D]
        scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)  # [N, M, Q, Q]
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def position_tokens(height: int, width: int, like: Tensor) -> Tensor:
    """`sine_position` as tokens [1, height*width, C], from one row and one column: small constants for a fixed size."""
    dim, half = like.shape[2], like.shape[2] // 2
    rows = sine_position(height, 1, dim, like.device, like.dtype)[0, :half, :, 0].T  # [height, C/2]
    columns = sine_position(1, width, dim, like.device, like.dtype)[0, half:, 0].T  # [width, C/2]
    table = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], 2)  # [H, W, C]
    return table.reshape(1, height * width, dim)


def merge_linears(linears: Sequence[nn.Linear], input_offset: Tensor | None = None) -> nn.Linear:
    """One layer with the outputs of all, for an input to which `input_offset` [C] would have been added."""
    weight = torch.cat([linear.weight for linear in linears])  # [n*C, C]
    bias = torch.cat([linear.bias for linear in linears])  # [n*C]
    return _linear(weight, bias if input_offset is None else bias + weight @ input_offset)


def fold_mask_features(last: nn.Linear, convolution: nn.Conv2d) -> nn.Linear:
    """The mask head's last layer and the 1×1 convolution: [C] -> [C+1], the last output is added to the mask logits."""
    kernel = convolution.weight[:, :, 0, 0]  # [C, C_in]: mask = embed · (kernel x + b)
    assert convolution.bias is not None
    factor = torch.cat([kernel, convolution.bias[:, None]], 1).T  # [C_in + 1, C]
    return _linear(factor @ last.weight, factor @ last.bias)


def fold_frozen_norms(module: nn.Module) -> nn.Module:
    """Multiplies each FrozenBatchNorm2d into the convolution before it (attributes `conv` and `norm`), in place."""
    for parent in module.modules():
        norm, convolution = getattr(parent, "norm", None), getattr(parent, "conv", None)
        if isinstance(norm, FrozenBatchNorm2d) and isinstance(convolution, nn.Conv2d):
            scale, shift = norm.scale_and_shift()  # [C], [C]
            bias = shift if convolution.bias is None else shift + convolution.bias * scale
            convolution.weight = nn.Parameter(convolution.weight * scale[:, None, None, None], requires_grad=False)
            convolution.bias = nn.Parameter(bias, requires_grad=False)
            parent.norm = nn.Identity()
    return module


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
