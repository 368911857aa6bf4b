"""Tensor names of Hugging Face's Mask2FormerForUniversalSegmentation, as save_pretrained writes them.

weights = convert(foreign, model.state_dict(), RULES, IGNORED, source="folder")
"""

from __future__ import annotations

from mask2edge.train.foreign.tensor_names import Rule, Source

ENCODER = "model.pixel_level_module.encoder"
PIXEL = "model.pixel_level_module.decoder"
DECODER = "model.transformer_module"

# Buffers that are computed from the configuration, counters of training, and the classifier's norm that Swin as a
# backbone does not use.
IGNORED = (
    r"criterion\.empty_weight|.*\.relative_position_index|.*\.num_batches_tracked"
    rf"|{ENCODER}\.(swin\.)?layernorm\.(weight|bias)"
)

NORM = {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"}
SWIN = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.projection": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}

RULES: tuple[Rule, ...] = (
    # ResNet
    (r"backbone\.stem\.conv\.weight", lambda m: f"{ENCODER}.embedder.embedder.convolution.weight"),
    (r"backbone\.stem\.norm\.(\w+)", lambda m: f"{ENCODER}.embedder.embedder.normalization.{m[1]}"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.conv\.weight",
     lambda m: f"{ENCODER}.encoder.stages.{m[1]}.layers.{m[2]}.layer.{int(m[3]) - 1}.convolution.weight"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)",
     lambda m: f"{ENCODER}.encoder.stages.{m[1]}.layers.{m[2]}.layer.{int(m[3]) - 1}.normalization.{m[4]}"),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.conv\.weight",
     lambda m: f"{ENCODER}.encoder.stages.{m[1]}.layers.{m[2]}.shortcut.convolution.weight"),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.norm\.(\w+)",
     lambda m: f"{ENCODER}.encoder.stages.{m[1]}.layers.{m[2]}.shortcut.normalization.{m[3]}"),
    # Swin
    (r"backbone\.patch_embed\.projection\.(\w+)",
     lambda m: f"{ENCODER}.embeddings.patch_embeddings.projection.{m[1]}"),
    (r"backbone\.patch_embed\.norm\.(\w+)", lambda m: f"{ENCODER}.embeddings.norm.{m[1]}"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attention\.relative_position_bias_table",
     lambda m: f"{ENCODER}.encoder.layers.{m[1]}.blocks.{m[2]}.attention.self.relative_position_bias_table"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attention\.qkv\.(\w+)",
     lambda m: Source(
         tuple(
             f"{ENCODER}.encoder.layers.{m[1]}.blocks.{m[2]}.attention.self.{part}.{m[3]}"
             for part in ("query", "key", "value")
         )
     )),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.(norm1|norm2|attention\.projection|mlp\.fc1|mlp\.fc2)\.(\w+)",
     lambda m: f"{ENCODER}.encoder.layers.{m[1]}.blocks.{m[2]}.{SWIN[m[3]]}.{m[4]}"),
    (r"backbone\.stages\.(\d)\.downsample\.(.+)", lambda m: f"{ENCODER}.encoder.layers.{m[1]}.downsample.{m[2]}"),
    (r"backbone\.norms\.(\d)\.(\w+)", lambda m: f"{ENCODER}.hidden_states_norms.stage{int(m[1]) + 1}.{m[2]}"),
    # pixel decoder
    (r"pixel_decoder\.input_projections\.(.+)", lambda m: f"{PIXEL}.input_projections.{m[1]}"),
    (r"pixel_decoder\.level_embed", lambda m: f"{PIXEL}.level_embed"),
    (r"pixel_decoder\.layers\.(\d+)\.self_attention\.(value|output)_projection\.(\w+)",
     lambda m: f"{PIXEL}.encoder.layers.{m[1]}.self_attn.{m[2]}_proj.{m[3]}"),
    (r"pixel_decoder\.layers\.(\d+)\.self_attention\.(.+)",
     lambda m: f"{PIXEL}.encoder.layers.{m[1]}.self_attn.{m[2]}"),
    (r"pixel_decoder\.layers\.(\d+)\.(norm\d)\.(\w+)", lambda m: f"{PIXEL}.encoder.layers.{m[1]}.{NORM[m[2]]}.{m[3]}"),
    (r"pixel_decoder\.layers\.(\d+)\.linear(\d)\.(\w+)", lambda m: f"{PIXEL}.encoder.layers.{m[1]}.fc{m[2]}.{m[3]}"),
    (r"pixel_decoder\.lateral\.conv\.weight", lambda m: f"{PIXEL}.adapter_1.0.weight"),
    (r"pixel_decoder\.lateral\.norm\.(\w+)", lambda m: f"{PIXEL}.adapter_1.1.{m[1]}"),
    (r"pixel_decoder\.output\.conv\.weight", lambda m: f"{PIXEL}.layer_1.0.weight"),
    (r"pixel_decoder\.output\.norm\.(\w+)", lambda m: f"{PIXEL}.layer_1.1.{m[1]}"),
    (r"pixel_decoder\.mask_features\.(\w+)", lambda m: f"{PIXEL}.mask_projection.{m[1]}"),
    # mask decoder
    (r"mask_decoder\.query_features", lambda m: f"{DECODER}.queries_features.weight"),
    (r"mask_decoder\.query_positions", lambda m: f"{DECODER}.queries_embedder.weight"),
    (r"mask_decoder\.level_embed", lambda m: f"{DECODER}.level_embed.weight"),
    (r"mask_decoder\.layers\.(\d+)\.cross_attention\.(query|key|value)_projection\.(\w+)",
     lambda m: Source(
         (f"{DECODER}.decoder.layers.{m[1]}.cross_attn.in_proj_{m[3]}",), ("query", "key", "value").index(m[2]), 3
     )),
    (r"mask_decoder\.layers\.(\d+)\.self_attention\.(query|key|value)_projection\.(\w+)",
     lambda m: f"{DECODER}.decoder.layers.{m[1]}.self_attn.{m[2][0]}_proj.{m[3]}"),
    (r"mask_decoder\.layers\.(\d+)\.(cross|self)_attention\.output_projection\.(\w+)",
     lambda m: f"{DECODER}.decoder.layers.{m[1]}.{m[2]}_attn.out_proj.{m[3]}"),
    (r"mask_decoder\.layers\.(\d+)\.(cross|self)_norm\.(\w+)",
     lambda m: f"{DECODER}.decoder.layers.{m[1]}.{m[2]}_attn_layer_norm.{m[3]}"),
    (r"mask_decoder\.layers\.(\d+)\.ffn_norm\.(\w+)",
     lambda m: f"{DECODER}.decoder.layers.{m[1]}.final_layer_norm.{m[2]}"),
    (r"mask_decoder\.layers\.(\d+)\.linear(\d)\.(\w+)", lambda m: f"{DECODER}.decoder.layers.{m[1]}.fc{m[2]}.{m[3]}"),
    (r"mask_decoder\.norm\.(\w+)", lambda m: f"{DECODER}.decoder.layernorm.{m[1]}"),
    (r"mask_decoder\.class_head\.(\w+)", lambda m: f"class_predictor.{m[1]}"),
    (r"mask_decoder\.mask_head\.(\d)\.(\w+)",
     lambda m: f"{DECODER}.decoder.mask_predictor.mask_embedder.{m[1]}.0.{m[2]}"),
)  # fmt: skip
