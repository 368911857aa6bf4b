"""Files in the layout of the official zoo: written here name by name, imported, and equal to their origin.

pytest -k detectron2
"""

import pickle

import numpy as np
import pytest
import torch

from mask2edge.runtime.command_line import InputError
from mask2edge.train.checkpoint import load_model
from mask2edge.train.config import ModelConfig
from mask2edge.train.foreign.detectron2_config import read_detectron2_config, read_yaml
from mask2edge.train.import_weights import import_weights, main
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.presets import PRESETS

CONFIGS = {
    "r50": ModelConfig(backbone="resnet50", num_classes=19),
    "swin-t": ModelConfig(backbone="swin-tiny", num_classes=19),
}

BASE_YAML = """
MODEL:
  BACKBONE: {FREEZE_AT: 0, NAME: "build_resnet_backbone"}
  WEIGHTS: "R-50.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {DEPTH: 50, STRIDE_IN_1X1: False, OUT_FEATURES: ["res2", "res3", "res4", "res5"]}
DATASETS:
  TRAIN: ("cityscapes_fine_panoptic_train",)
  TEST: ("cityscapes_fine_panoptic_val",)
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["open('CANARY', 'w').close() or [1]"]
  MAX_SIZE_TRAIN: !!python/object/apply:os.system ["touch CANARY"]
  OTHER: !!python/object/new:os.system {args: ["touch CANARY"]}
  MIN_SIZE_TEST: 1024
  MAX_SIZE_TEST: 2048
  FORMAT: "RGB"
"""
R50_YAML = """
_BASE_: Base.yaml
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    NUM_CLASSES: 19
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DIM_FEEDFORWARD: 2048
    DEC_LAYERS: 10
    TEST: {SEMANTIC_ON: True, INSTANCE_ON: True, PANOPTIC_ON: True, OVERLAP_THRESHOLD: 0.7, OBJECT_MASK_THRESHOLD: 0.6}
"""
SWIN_YAML = """
_BASE_: ../r50.yaml
MODEL:
  BACKBONE: {NAME: "D2SwinTransformer"}
  SWIN: {EMBED_DIM: 96, DEPTHS: [2, 2, 6, 2], NUM_HEADS: [3, 6, 12, 24], WINDOW_SIZE: 7, APE: False, PATCH_NORM: True}
"""


def official_layout(model):
    """{name: array} as the reference implementation names its tensors, walking over our modules."""
    out = {}

    def put(name, module, **renamed):
        for key, tensor in module.state_dict().items():
            out[f"{name}.{renamed.get(key, key)}"] = tensor

    def put_conv_norm(name, module):
        put(name, module.conv)
        put(f"{name}.norm", module.norm)

    def put_attention(name, attention):
        parts = (attention.query_projection, attention.key_projection, attention.value_projection)
        out[f"{name}.in_proj_weight"] = torch.cat([part.weight for part in parts])
        out[f"{name}.in_proj_bias"] = torch.cat([part.bias for part in parts])
        put(f"{name}.out_proj", attention.output_projection)

    backbone = model.backbone
    if hasattr(backbone, "stem"):
        put_conv_norm("backbone.stem.conv1", backbone.stem)
        for stage, blocks in enumerate(backbone.stages):
            for i, block in enumerate(blocks):
                for part in ("conv1", "conv2", "conv3", "shortcut"):
                    if getattr(block, part) is not None:
                        put_conv_norm(f"backbone.res{stage + 2}.{i}.{part}", getattr(block, part))
        out["backbone.stem.conv1.norm.num_batches_tracked"] = torch.tensor(7)
    else:
        put("backbone.patch_embed.proj", backbone.patch_embed.projection)
        put("backbone.patch_embed.norm", backbone.patch_embed.norm)
        for i, stage in enumerate(backbone.stages):
            for j, block in enumerate(stage.blocks):
                prefix = f"backbone.layers.{i}.blocks.{j}"
                put(f"{prefix}.norm1", block.norm1)
                put(f"{prefix}.attn.qkv", block.attention.qkv)
                put(f"{prefix}.attn.proj", block.attention.projection)
                out[f"{prefix}.attn.relative_position_bias_table"] = block.attention.relative_position_bias_table
                out[f"{prefix}.attn.relative_position_index"] = block.attention.relative_position_index
                put(f"{prefix}.norm2", block.norm2)
                put(f"{prefix}.mlp", block.mlp)
            if stage.downsample is not None:
                put(f"backbone.layers.{i}.downsample", stage.downsample)
            put(f"backbone.norm{i}", backbone.norms[i])
    pixel, prefix = model.pixel_decoder, "sem_seg_head.pixel_decoder"
    for i, projection in enumerate(pixel.input_projections):
        put(f"{prefix}.input_proj.{i}.0", projection[0])
        put(f"{prefix}.input_proj.{i}.1", projection[1])
    out[f"{prefix}.transformer.level_embed"] = pixel.level_embed
    for i, layer in enumerate(pixel.layers):
        name = f"{prefix}.transformer.encoder.layers.{i}"
        put(f"{name}.self_attn.sampling_offsets", layer.self_attention.sampling_offsets)
        put(f"{name}.self_attn.attention_weights", layer.self_attention.attention_weights)
        put(f"{name}.self_attn.value_proj", layer.self_attention.value_projection)
        put(f"{name}.self_attn.output_proj", layer.self_attention.output_projection)
        for part in ("norm1", "linear1", "linear2", "norm2"):
            put(f"{name}.{part}", getattr(layer, part))
    put_conv_norm(f"{prefix}.adapter_1", pixel.lateral)
    put_conv_norm(f"{prefix}.layer_1", pixel.output)
    put(f"{prefix}.mask_features", pixel.mask_features)
    decoder, prefix = model.mask_decoder, "sem_seg_head.predictor"
    for i, layer in enumerate(decoder.layers):
        put_attention(f"{prefix}.transformer_self_attention_layers.{i}.self_attn", layer.self_attention)
        put(f"{prefix}.transformer_self_attention_layers.{i}.norm", layer.self_norm)
        put_attention(f"{prefix}.transformer_cross_attention_layers.{i}.multihead_attn", layer.cross_attention)
        put(f"{prefix}.transformer_cross_attention_layers.{i}.norm", layer.cross_norm)
        put(f"{prefix}.transformer_ffn_layers.{i}.linear1", layer.linear1)
        put(f"{prefix}.transformer_ffn_layers.{i}.linear2", layer.linear2)
        put(f"{prefix}.transformer_ffn_layers.{i}.norm", layer.ffn_norm)
    put(f"{prefix}.decoder_norm", decoder.norm)
    out[f"{prefix}.query_feat.weight"] = decoder.query_features
    out[f"{prefix}.query_embed.weight"] = decoder.query_positions
    out[f"{prefix}.level_embed.weight"] = decoder.level_embed
    put(f"{prefix}.class_embed", decoder.class_head)
    for i, linear in enumerate(decoder.mask_head):
        put(f"{prefix}.mask_embed.layers.{i}", linear)
    out["criterion.empty_weight"] = torch.ones(20)
    return {name: tensor.detach() for name, tensor in out.items()}


def old_names(layout):
    """As files were named before version 2 of the head."""
    return {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): tensor
        for name, tensor in layout.items()
    }


def write_pkl(path, layout):
    model = {name: tensor.numpy() for name, tensor in layout.items()}
    path.write_bytes(pickle.dumps({"model": model, "__author__": "third_party", "matching_heuristics": True}))
    return path


@pytest.fixture(scope="module", params=["r50", "swin-t"])
def official(request):
    """(name, model, its tensors in the official layout), everything random."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape) * 0.2 + (0.1 if name.endswith("bias") else 0.9))
    return request.param, model, official_layout(model)


@pytest.fixture
def yamls(tmp_path):
    (tmp_path / "Base.yaml").write_text(BASE_YAML.replace("CANARY", str(tmp_path / "canary")))
    (tmp_path / "r50.yaml").write_text(R50_YAML)
    (tmp_path / "swin").mkdir()
    (tmp_path / "swin" / "swin-t.yaml").write_text(SWIN_YAML)
    return {"r50": tmp_path / "r50.yaml", "swin-t": tmp_path / "swin" / "swin-t.yaml"}


@pytest.mark.parametrize("age", ["new", "old"])
def test_detectron2_pkl_imports_exactly(official, yamls, tmp_path, age):
    name, model, layout = official
    source = write_pkl(tmp_path / "model_final.pkl", old_names(layout) if age == "old" else layout)
    out = tmp_path / "out.safetensors"
    assert main([str(source), "--config", str(yamls[name]), "--out", str(out)]) == 0
    imported, checkpoint = load_model(out)
    assert checkpoint.model_config == CONFIGS[name]
    expected = model.state_dict()
    assert imported.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in imported.state_dict().items())
    assert not (tmp_path / "canary").exists()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got, wanted = imported(pixels), model(pixels)
    assert torch.equal(got["class_logits"], wanted["class_logits"])
    assert torch.equal(got["mask_logits"], wanted["mask_logits"])


def test_detectron2_pth_with_a_preset(official, tmp_path):
    name, model, layout = official
    source = tmp_path / "model.pth"
    torch.save({"model": layout, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "iteration": 5}, source)
    weights, config, spec = import_weights(source, preset=f"cityscapes-semantic-{name}")
    assert config == CONFIGS[name]
    assert spec == PRESETS[f"cityscapes-semantic-{name}"].spec()
    assert all(torch.equal(weights[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("official", ["r50"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sem_seg_head.predictor.query_feat.weight": None}, "missing sem_seg_head.predictor.query_feat.weight"),
        (
            {"sem_seg_head.pixel_decoder.adapter_1.norm.bias": None},
            "missing sem_seg_head.pixel_decoder.adapter_1.norm.bias",
        ),
        ({"backbone.extra.weight": (3,)}, "unexpected backbone.extra.weight"),
        (
            {"sem_seg_head.predictor.class_embed.weight": (134, 256)},
            "class_embed.weight is [134, 256], expected [20, 256]",
        ),
        (
            {"sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias": (512,)},
            "in_proj_bias is [512], expected [768]",
        ),
        ({"sem_seg_head.predictor.static_query.weight": (100, 256)}, "under its old and its new name"),
        ({f"backbone.extra.{i}": (1,) for i in range(30)}, "30 unexpected): unexpected backbone.extra.0"),
        ({f"backbone.extra.{i}": (1,) for i in range(30)}, "and 10 more"),
    ],
)
def test_detectron2_every_tensor_is_accounted_for(official, yamls, tmp_path, change, message, capsys):
    name, _, layout = official
    changed = dict(layout)
    for key, shape in change.items():
        changed.pop(key, None)
        if shape is not None:
            changed[key] = torch.zeros(shape)
    source = write_pkl(tmp_path / "changed.pkl", changed)
    out = tmp_path / "out.safetensors"
    assert main([str(source), "--config", str(yamls[name]), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_detectron2_config_says_what_the_network_is(yamls, tmp_path):
    described = read_detectron2_config(yamls["swin-t"])
    assert described.model == CONFIGS["swin-t"]
    spec = described.spec
    assert spec.tasks == ("panoptic", "instance", "semantic")
    assert (spec.postprocessing.object_threshold, spec.postprocessing.overlap_threshold) == (0.6, 0.7)
    assert spec.postprocessing.semantic_order == "image"
    assert (spec.preprocessing.shortest_edge, spec.preprocessing.longest_edge) == (1024, 2048)
    assert spec.size == (1024, 2048)
    assert spec.labels[0].name == "road"
    assert not (tmp_path / "canary").exists()
    assert read_yaml(yamls["r50"])["INPUT"]["MIN_SIZE_TRAIN"] is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_BASE_: Base.yaml", "_BASE_: r50.yaml", "goes round in a circle"),
        ("_BASE_: Base.yaml", "_BASE_: Gone.yaml", "no such file"),
        ("_BASE_: Base.yaml", "_BASE_: [Base.yaml]", "expected _BASE_ to be a file's name"),
        ("MODEL:", "MODEL: {", "expected YAML"),
        ("MODEL:", "OTHER: &a [1]\nANOTHER: [*a]\nMODEL:", "aliases are not read"),
        ('"MaskFormer"', '"VideoMaskFormer"', "META_ARCHITECTURE: expected 'MaskFormer'"),
        ("HIDDEN_DIM: 256", "HIDDEN_DIM: 128", "CONVS_DIM: expected 128"),
        ("HIDDEN_DIM: 256", "HIDDEN_DIM: wide", "HIDDEN_DIM: expected a whole number"),
        ("NUM_CLASSES: 19", "NUM_CLASSES: 20", "labels: expected 20 classes"),
        ("SEMANTIC_ON: True", "SEMANTIC_ON: 1", "SEMANTIC_ON: expected true or false"),
        ("_BASE_: Base.yaml", "_BASE_: Base.yaml\nINPUT: {FORMAT: BGR}", "INPUT.FORMAT: expected 'RGB'"),
        ("_BASE_: Base.yaml", "_BASE_: Base.yaml\nDATASETS: {TEST: mine}", "give the class names with --labels"),
        ("MODEL:\n", "MODEL:\n  PIXEL_MEAN: [1, 2]\n", "PIXEL_MEAN: expected three numbers"),
        ("MODEL:\n", "MODEL:\n  RESNETS: {DEPTH: 18}\n", "expected ResNet 50 or 101"),
        ("MODEL:\n", "MODEL:\n  RESNETS: {STRIDE_IN_1X1: True}\n", "STRIDE_IN_1X1: expected False"),
        ("MODEL:\n", "MODEL:\n  BACKBONE: {NAME: vit}\n", "BACKBONE.NAME: expected build_resnet_backbone"),
    ],
)
def test_detectron2_config_that_does_not_fit(yamls, old, new, message):
    text = yamls["r50"].read_text()
    assert old in text
    yamls["r50"].write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_detectron2_config(yamls["r50"])


def test_detectron2_arguments(yamls, tmp_path):
    source = tmp_path / "model.pkl"
    source.write_bytes(pickle.dumps({"model": {"a": np.zeros(1, np.float32)}}))
    with pytest.raises(InputError, match=r"expected --config FILE\.yaml or --preset NAME"):
        import_weights(source)
    with pytest.raises(InputError, match="one of them"):
        import_weights(source, config=yamls["r50"], preset="coco-panoptic-r50")
    with pytest.raises(InputError, match="--preset: expected one of coco-panoptic-r50"):
        import_weights(source, preset="coco")
    with pytest.raises(InputError, match="no such file or folder"):
        import_weights(tmp_path / "gone.pkl", preset="coco-panoptic-r50")
    with pytest.raises(InputError, match="missing backbone"):
        import_weights(source, preset="coco-panoptic-r50")
    with pytest.raises(InputError, match="labels: expected 133 classes as the model has, got 80"):
        import_weights(source, preset="coco-panoptic-r50", labels="coco-instance")
