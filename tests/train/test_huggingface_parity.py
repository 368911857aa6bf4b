"""Our model against Hugging Face's Mask2Former with the same random weights, through a folder and import_weights.

pytest -k huggingface_parity
"""

import copy
import json

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the oracle is Hugging Face's implementation")

from mask2edge.runtime.command_line import InputError  # noqa: E402
from mask2edge.train.checkpoint import load_model  # noqa: E402
from mask2edge.train.foreign.huggingface_config import (  # noqa: E402
    find_table,
    read_huggingface_config,
    read_huggingface_weights,
)
from mask2edge.train.import_weights import import_weights, main  # noqa: E402
from mask2edge.train.labels import load_labels  # noqa: E402

SIZES = [(128, 160), (96, 64)]  # neither square nor a multiple of Swin's windows


@pytest.fixture(scope="module")
def doubles(huggingface_import):
    """Theirs and ours in float64."""
    ours, _ = load_model(huggingface_import.checkpoint)
    return copy.deepcopy(huggingface_import.model).double(), ours.double()


def pixels_of(size, dtype=torch.float64):
    return torch.randn(2 if size == (96, 64) else 1, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


def largest(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("size", SIZES)
def test_huggingface_parity_of_logits_and_every_stage_in_float64(doubles, size):
    theirs, ours = doubles
    pixels = pixels_of(size)
    with torch.no_grad():
        level = theirs.model.pixel_level_module(pixels, output_hidden_states=True)
        expected = theirs(pixels, output_auxiliary_logits=True)
        features = ours.backbone(pixels)
        mask_features, levels = ours.pixel_decoder(features)
        got = ours(pixels)
    for mine, other in zip(features, level.encoder_hidden_states, strict=True):
        assert largest(mine, other) < 1e-8
    assert largest(mask_features, level.decoder_last_hidden_state) < 1e-8
    for mine, other in zip(levels, level.decoder_hidden_states, strict=True):
        assert largest(mine, other) < 1e-8
    assert len(got["auxiliary"]) == len(expected.auxiliary_logits) == 9
    for mine, other in zip(got["auxiliary"], expected.auxiliary_logits, strict=True):
        assert largest(mine["class_logits"], other["class_queries_logits"]) < 1e-8
        assert largest(mine["mask_logits"], other["masks_queries_logits"]) < 1e-8
    assert largest(got["class_logits"], expected.class_queries_logits) < 1e-8
    assert largest(got["mask_logits"], expected.masks_queries_logits) < 1e-8
    assert expected.masks_queries_logits.std() > 0.05  # the comparison is of signals, not of zeros


def test_huggingface_parity_of_every_stage_in_float32(doubles, huggingface_import):
    """Each stage alone, given the float64 model's inputs, so that no flipped attention mask can spread."""
    reference = doubles[1]
    ours, _ = load_model(huggingface_import.checkpoint)
    seen = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: (inputs, output)}))
        for name, module in reference.named_modules()
        if name in ("backbone", "pixel_decoder") or name.removeprefix("mask_decoder.layers.").isdigit()
    ]
    with torch.no_grad():
        reference(pixels_of(SIZES[1]))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2 + 9

    def single(value):
        return [single(item) for item in value] if isinstance(value, (list, tuple)) else value.float()

    def flat(value):
        return [leaf for item in value for leaf in flat(item)] if isinstance(value, (list, tuple)) else [value]

    for name, (inputs, output) in seen.items():
        with torch.no_grad():
            got = ours.get_submodule(name)(*single(inputs))
        for mine, other in zip(flat(got), flat(output), strict=True):
            assert largest(mine.double(), other) < 1e-4, name


def test_huggingface_parity_of_a_sharded_folder(huggingface_import, tmp_path):
    from reference_models import save_folder

    folder = save_folder(huggingface_import.model, tmp_path / "sharded", max_shard_size="60MB")
    assert (folder / "model.safetensors.index.json").is_file()
    weights, config, _ = import_weights(folder)
    single, single_config, _ = import_weights(huggingface_import.folder)
    assert config == single_config
    assert weights.keys() == single.keys()
    assert all(torch.equal(weights[name], single[name]) for name in weights)


@pytest.fixture
def edited(huggingface_import, tmp_path):
    """A copy of the folder with changed config.json; weights are linked."""

    def make(backbone_changes=None, **changes):
        config = json.loads((huggingface_import.folder / "config.json").read_text())
        config.update(changes)
        config["backbone_config"].update(backbone_changes or {})
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").symlink_to(huggingface_import.folder / "model.safetensors")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_norm": True}, "pre_norm: expected False"),
        ({"activation_function": "gelu"}, "activation_function: expected 'relu'"),
        ({"model_type": "maskformer"}, "expected model_type mask2former"),
        ({"mask_feature_size": 128}, "mask_feature_size: expected 256"),
        ({"num_queries": 50}, "misshapen"),
        ({"num_queries": "many"}, "wrong kind"),
        ({"encoder_layers": 7}, "missing model.pixel_level_module.decoder.encoder.layers.6"),
        ({"decoder_layers": 9}, "unexpected model.transformer_module.decoder.layers.8"),
        ({"id2label": {"0": "a", "2": "b"}}, "without gaps"),
        ({"backbone_config": {"model_type": "convnext"}}, "expected a backbone_config of type swin or resnet"),
        ({"backbone_config": {"model_type": "resnet", "depths": [2, 2, 2, 2]}}, "expected those of ResNet 50 or 101"),
        ({"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}}, "downsample_in_bottleneck"),
        ({"backbone_config": {"model_type": "swin", "window_size": 8}}, "window 8"),
    ],
)
def test_huggingface_parity_is_not_claimed_where_the_config_differs(edited, changes, message, capsys):
    folder = edited(**changes)
    assert main([str(folder), "--out", str(folder / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out.safetensors").exists()


def test_huggingface_parity_names_tell_the_table(edited):
    names = {str(i): label.name.upper() for i, label in enumerate(load_labels("cityscapes"))}
    described = read_huggingface_config(edited(id2label=names))
    assert described.spec.labels == load_labels("cityscapes")
    assert described.spec.tasks == ("panoptic", "instance", "semantic")
    assert (described.spec.preprocessing.shortest_edge, described.spec.size) == (1024, (1024, 2048))


@pytest.mark.parametrize(
    ("table", "hint", "expected"),
    [
        ("coco-panoptic", "", "coco-panoptic"),
        ("coco-instance", "", "coco-instance"),
        ("ade20k-panoptic", "facebook/mask2former-swin-large-ade-panoptic", "ade20k-panoptic"),
        ("ade20k-panoptic", "facebook/mask2former-swin-tiny-ade-semantic", "ade20k"),
        ("mapillary", "", "mapillary"),
    ],
)
def test_huggingface_parity_of_class_tables(table, hint, expected):
    names = [label.name for label in load_labels(table)]
    assert find_table(names, hint) == expected
    assert find_table(names[::-1], hint) is None
    assert find_table(names[:-1], hint) is None


def test_huggingface_parity_preprocessor_config(edited):
    folder = edited()
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 1 / 255})
    )
    preprocessing = read_huggingface_config(folder).spec.preprocessing
    assert preprocessing.mean == pytest.approx((127.5,) * 3)
    assert preprocessing.std == pytest.approx((63.75,) * 3)


def test_huggingface_parity_of_damaged_folders(tmp_path, huggingface_import):
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        import_weights(tmp_path)
    (tmp_path / "config.json").write_text((huggingface_import.folder / "config.json").read_text())
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        import_weights(tmp_path)
    whole = (huggingface_import.folder / "model.safetensors").read_bytes()[:100_000]
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(InputError, match="expected a whole"):
        import_weights(tmp_path)
    index = {"weight_map": {"class_predictor.bias": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="expected plain file names"):
        read_huggingface_weights(tmp_path)
