"""Tensor names of the original implementation (facebookresearch/Mask2Former on detectron2).

weights = convert(modern_names(foreign), model.state_dict(), RULES, IGNORED, source="model_final.pkl")
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mask2edge.runtime.command_line import InputError
from mask2edge.train.foreign.tensor_names import Rule, Source

# Buffers that are computed from the configuration, and counters of training.
IGNORED = r"criterion\.empty_weight|.*\.relative_position_index|.*\.num_batches_tracked"

PIXEL = "sem_seg_head.pixel_decoder"
PREDICTOR = "sem_seg_head.predictor"
PARTS = ("query", "key", "value")  # order of in_proj_weight
ATTENTION = {"cross": "multihead_attn", "self": "self_attn"}


def _in_projection(match: re.Match[str]) -> Source:
    layer, kind, part, parameter = match.groups()
    name = f"{PREDICTOR}.transformer_{kind}_attention_layers.{layer}.{ATTENTION[kind]}.in_proj_{parameter}"
    return Source((name,), PARTS.index(part), len(PARTS))


RULES: tuple[Rule, ...] = (
    # ResNet
    (r"backbone\.stem\.conv\.weight", lambda m: "backbone.stem.conv1.weight"),
    (r"backbone\.stem\.norm\.(\w+)", lambda m: f"backbone.stem.conv1.norm.{m[1]}"),
    (r"backbone\.stages\.(\d)\.(\d+)\.(conv\d|shortcut)\.conv\.weight",
     lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.{m[3]}.weight"),
    (r"backbone\.stages\.(\d)\.(\d+)\.(conv\d|shortcut)\.norm\.(\w+)",
     lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.{m[3]}.norm.{m[4]}"),
    # Swin
    (r"backbone\.patch_embed\.projection\.(\w+)", lambda m: f"backbone.patch_embed.proj.{m[1]}"),
    (r"backbone\.patch_embed\.norm\.(\w+)", lambda m: f"backbone.patch_embed.norm.{m[1]}"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attention\.projection\.(\w+)",
     lambda m: f"backbone.layers.{m[1]}.blocks.{m[2]}.attn.proj.{m[3]}"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attention\.(.+)",
     lambda m: f"backbone.layers.{m[1]}.blocks.{m[2]}.attn.{m[3]}"),
    (r"backbone\.stages\.(\d)\.(blocks|downsample)\.(.+)", lambda m: f"backbone.layers.{m[1]}.{m[2]}.{m[3]}"),
    (r"backbone\.norms\.(\d)\.(\w+)", lambda m: f"backbone.norm{m[1]}.{m[2]}"),
    # pixel decoder
    (r"pixel_decoder\.input_projections\.(.+)", lambda m: f"{PIXEL}.input_proj.{m[1]}"),
    (r"pixel_decoder\.level_embed", lambda m: f"{PIXEL}.transformer.level_embed"),
    (r"pixel_decoder\.layers\.(\d+)\.self_attention\.(value|output)_projection\.(\w+)",
     lambda m: f"{PIXEL}.transformer.encoder.layers.{m[1]}.self_attn.{m[2]}_proj.{m[3]}"),
    (r"pixel_decoder\.layers\.(\d+)\.self_attention\.(.+)",
     lambda m: f"{PIXEL}.transformer.encoder.layers.{m[1]}.self_attn.{m[2]}"),
    (r"pixel_decoder\.layers\.(.+)", lambda m: f"{PIXEL}.transformer.encoder.layers.{m[1]}"),
    (r"pixel_decoder\.lateral\.(?:conv\.)?(.+)", lambda m: f"{PIXEL}.adapter_1.{m[1]}"),
    (r"pixel_decoder\.output\.(?:conv\.)?(.+)", lambda m: f"{PIXEL}.layer_1.{m[1]}"),
    (r"pixel_decoder\.mask_features\.(\w+)", lambda m: f"{PIXEL}.mask_features.{m[1]}"),
    # mask decoder
    (r"mask_decoder\.query_features", lambda m: f"{PREDICTOR}.query_feat.weight"),
    (r"mask_decoder\.query_positions", lambda m: f"{PREDICTOR}.query_embed.weight"),
    (r"mask_decoder\.level_embed", lambda m: f"{PREDICTOR}.level_embed.weight"),
    (r"mask_decoder\.layers\.(\d+)\.(cross|self)_attention\.(query|key|value)_projection\.(\w+)", _in_projection),
    (r"mask_decoder\.layers\.(\d+)\.(cross|self)_attention\.output_projection\.(\w+)",
     lambda m: f"{PREDICTOR}.transformer_{m[2]}_attention_layers.{m[1]}.{ATTENTION[m[2]]}.out_proj.{m[3]}"),
    (r"mask_decoder\.layers\.(\d+)\.(cross|self)_norm\.(\w+)",
     lambda m: f"{PREDICTOR}.transformer_{m[2]}_attention_layers.{m[1]}.norm.{m[3]}"),
    (r"mask_decoder\.layers\.(\d+)\.ffn_norm\.(\w+)",
     lambda m: f"{PREDICTOR}.transformer_ffn_layers.{m[1]}.norm.{m[2]}"),
    (r"mask_decoder\.layers\.(\d+)\.(linear\d\.\w+)", lambda m: f"{PREDICTOR}.transformer_ffn_layers.{m[1]}.{m[2]}"),
    (r"mask_decoder\.norm\.(\w+)", lambda m: f"{PREDICTOR}.decoder_norm.{m[1]}"),
    (r"mask_decoder\.class_head\.(\w+)", lambda m: f"{PREDICTOR}.class_embed.{m[1]}"),
    (r"mask_decoder\.mask_head\.(\d\.\w+)", lambda m: f"{PREDICTOR}.mask_embed.layers.{m[1]}"),
)  # fmt: skip


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of files from before version 2 of the reference's head, as the reference renames them when it loads.

    They have `static_query` for `query_feat`, and pixel-decoder names without `pixel_decoder.`. Raises InputError where
    one tensor has both its old and its new name.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        modern = _modern(name)
        if modern in renamed:
            raise InputError(f"expected each tensor once, got {modern} under its old and its new name")
        renamed[modern] = tensor
    return renamed


def _modern(name: str) -> str:
    if name.startswith(f"{PREDICTOR}."):
        return name.replace(".static_query.", ".query_feat.")
    if name.startswith("sem_seg_head.") and not name.startswith(f"{PIXEL}."):
        return f"{PIXEL}.{name.removeprefix('sem_seg_head.')}"
    return name
