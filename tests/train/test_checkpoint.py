"""Checkpoints come back as they were written, and everything else is refused in one line."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.checkpoint import load_checkpoint, load_initial_weights, load_model, save_checkpoint
from mask2edge.train.config import ModelConfig
from mask2edge.train.labels import labels_from_names
from mask2edge.train.model.mask2former import build_model

CONFIG = ModelConfig(
    backbone="efficientnet-lite0", num_classes=3, num_queries=4, hidden_dim=32, encoder_layers=1, encoder_ffn=32,
    decoder_layers=1, decoder_ffn=32,
)  # fmt: skip
SPEC = ModelSpec(
    "tiny", labels_from_names(["road", "sky", "tree"]), 4, Preprocessing((127.5,) * 3, (127.5,) * 3), Postprocessing()
)


@pytest.fixture
def written(tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, model.state_dict(), CONFIG, SPEC, step=7, config_digest="abc")
    return model, path


def test_round_trip(written):
    model, path = written
    loaded, checkpoint = load_model(path)
    assert (checkpoint.model_config, checkpoint.spec) == (CONFIG, SPEC)
    assert (checkpoint.step, checkpoint.config_digest) == (7, "abc")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, set()),
        ({"num_classes": 5}, {"class_head.weight", "class_head.bias"}),
        ({"num_queries": 9}, {"query_features", "query_positions"}),
        ({"place_codes": True}, {"token_places.weight", "fine_places.weight"}),
        (
            {"query_features": "guided"},
            {
                f"guided_queries.{name}.{kind}"
                for name in ("scores.0", "scores.2", "features", "positions", "window")
                for kind in ("weight", "bias")
            },
        ),
        (
            {"num_classes": 2, "num_queries": 3},
            {"class_head.weight", "class_head.bias", "query_features", "query_positions"},
        ),
    ],
)
def test_a_run_can_start_from_a_model_of_other_classes_and_queries(written, changes, left):
    source = written[0].state_dict()
    model = build_model(dataclasses.replace(CONFIG, **changes))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = load_initial_weights(model, source, "tiny")
    assert {name.partition(".")[2] for name in kept} == left
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in kept else source[name]), name


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"query_features": "supervised"}, {"query_features", "query_positions"}),
        ({"num_queries": 4}, set()),
        ({"num_classes": 5}, {f"{head}.{kind}" for head in ("class_head", "scores.2") for kind in ("weight", "bias")}),
    ],
)
def test_a_run_can_start_from_guided_queries(changes, left):
    guided = dataclasses.replace(CONFIG, query_features="guided")
    source = build_model(guided).state_dict()
    model = build_model(dataclasses.replace(guided, **changes))
    kept = load_initial_weights(model, source, "tiny")
    assert {name.removeprefix("mask_decoder.").removeprefix("guided_queries.") for name in kept} == left
    assert torch.equal(model.mask_decoder.level_embed, source["mask_decoder.level_embed"])


def test_a_run_cannot_start_from_another_network(written):
    model = build_model(dataclasses.replace(CONFIG, num_classes=5, hidden_dim=64))
    message = r"tiny: the tensors do not fit .*level_embed is \[3, 32\], expected \[3, 64\]"
    with pytest.raises(InputError, match=message):
        load_initial_weights(model, written[0].state_dict(), "tiny")
    deeper = build_model(dataclasses.replace(CONFIG, num_classes=5, decoder_layers=2))
    with pytest.raises(InputError, match=r"missing mask_decoder\.layers\.1"):
        load_initial_weights(deeper, written[0].state_dict(), "tiny")


def test_a_checkpoint_older_than_the_switches_is_mask2former(written, tmp_path):
    """Its metadata names none of the ablations: they have the values that it was trained with."""
    model, path = written
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    settings = json.loads(metadata["model_config"])
    for name in (
        "pixel_decoder", "cross_attention", "decoder_features", "attention_order", "query_features", "decoder_dropout",
        "place_codes",
    ):  # fmt: skip
        del settings[name]
    old = tmp_path / "old.safetensors"
    save_file(load_file(path), old, metadata | {"model_config": json.dumps(settings)})
    loaded, checkpoint = load_model(old)
    assert checkpoint.model_config == CONFIG
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixels)["mask_logits"], model(pixels)["mask_logits"])


def test_an_ablated_network_comes_back_as_it_was(tmp_path):
    config = dataclasses.replace(CONFIG, pixel_decoder="fpn", query_features="zero", cross_attention="mask-pooling")
    path = tmp_path / "ablated.safetensors"
    save_checkpoint(path, build_model(config).state_dict(), config, SPEC)
    loaded, checkpoint = load_model(path)
    assert checkpoint.model_config == config
    assert loaded.state_dict().keys() == checkpoint.weights.keys()


def test_half_storage_halves_the_file_and_loads_as_float32(written, tmp_path):
    model, path = written
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, model.state_dict(), CONFIG, SPEC, half=True)
    assert half.stat().st_size < 0.52 * path.stat().st_size
    for name, tensor in load_checkpoint(half).weights.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name


def test_half_storage_keeps_what_float16_cannot_hold(written, tmp_path):
    model, _ = written
    model.backbone.stem.norm.running_var[0] = 1e5
    save_checkpoint(tmp_path / "half.safetensors", model.state_dict(), CONFIG, SPEC, half=True)
    loaded = load_checkpoint(tmp_path / "half.safetensors").weights["backbone.stem.norm.running_var"]
    assert torch.equal(loaded, model.backbone.stem.norm.running_var)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(written, monkeypatch):
    model, path = written
    before = path.read_bytes()

    def broken(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("mask2edge.train.checkpoint.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, model.state_dict(), CONFIG, SPEC)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    save_file({"a": torch.zeros(2)}, path)


def change_metadata(**values):
    def change(path):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = {**file.metadata(), **values}
        save_file(tensors, path, metadata)

    return change


def drop_and_add(path):
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("mask_decoder.norm.weight")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)


def poison(*names):
    def change(path):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        for name, value in zip(names, (math.nan, math.inf), strict=True):
            tensors[name].view(-1)[-1] = value
        save_file(tensors, path, metadata)

    return change


OFFSETS = "pixel_decoder.layers.0.self_attention.sampling_offsets.bias"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file; expected a checkpoint written by"),
        (empty, "expected a whole .safetensors file"),
        (truncate, "expected a whole .safetensors file"),
        (lambda path: path.write_bytes(b"no tensors here, just text"), "expected a whole .safetensors file"),
        (foreign, "expected a mask2edge checkpoint, got a .safetensors file of another kind"),
        (change_metadata(schema="2"), "expected checkpoint schema 1, got 2; update mask2edge"),
        (change_metadata(spec="{}"), "metadata is damaged"),
        (change_metadata(model_config=json.dumps({"backbone": "resnet50", "color": 1})), "unknown key color"),
        (drop_and_add, "missing mask_decoder.norm.weight; unexpected extra"),
        (poison("mask_decoder.norm.weight", OFFSETS), f"expected finite weights, got NaN or infinity in {OFFSETS}; "),
    ],
    ids=[
        "missing",
        "empty",
        "truncated",
        "text",
        "foreign",
        "newer",
        "bad-spec",
        "unknown-key",
        "other-tensors",
        "not-finite",
    ],
)
def test_damaged_files_are_refused(written, damage, message):
    _, path = written
    damage(path)
    with pytest.raises(InputError, match=message):
        load_model(path)
