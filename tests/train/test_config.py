"""Configurations: what is unknown or of the wrong type raises, by name; --set changes one value."""

from pathlib import Path

import pytest

from mask2edge.runtime.command_line import InputError
from mask2edge.train.config import CONFIG_FOLDER, Config, ModelConfig, from_dict, load_config


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    assert load_config(path.stem).name == path.stem


def test_street_lite_is_the_small_network() -> None:
    config = load_config("street-lite")
    assert config.model == ModelConfig(
        backbone="efficientnet-lite0",
        num_classes=11,
        num_queries=50,
        hidden_dim=128,
        encoder_layers=3,
        encoder_ffn=512,
        decoder_layers=6,
        decoder_ffn=512,
    )
    assert config.data.crop == (256, 256)
    assert len(config.data.colors) == config.model.num_classes


def test_a_file_is_named_after_itself_and_keeps_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[train]\nsteps = 7\n")
    config = load_config(str(tmp_path / "mine.toml"))
    assert (config.name, config.train.steps, config.train.batch_size) == ("mine", 7, 16)


def test_set_takes_toml_values_and_bare_words() -> None:
    config = load_config(
        "street-lite",
        {"train.steps": "3", "data.crop": "[64, 96]", "data.flip": "false", "train.schedule": "step", "name": "other"},
    )
    assert config.train.steps == 3
    assert config.data.crop == (64, 96)
    assert config.data.flip is False
    assert (config.train.schedule, config.name) == ("step", "other")


def test_the_digest_tells_settings_apart() -> None:
    one, same = load_config("street-lite"), load_config("street-lite")
    assert one.digest() == same.digest()
    assert one.digest() != load_config("street-lite", {"train.seed": "1"}).digest()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.stepz", "3", r"unknown key train\.stepz; known here: steps"),
        ("trane.steps", "3", r"unknown key trane; known here: name"),
        ("model", "3", r"model\.: expected a section, got 3"),
        ("train.steps", "three", r"train\.steps: expected int, got 'three'"),
        ("train.steps", "2.5", r"train\.steps: expected int, got 2\.5"),
        ("train.steps", "true", r"train\.steps: expected int, got True"),
        ("train.steps", "0", r"train\.steps: expected at least 1, got 0"),
        ("train.log_every", "0", r"train\.log_every: expected at least 1, got 0"),
        ("train.learning_rate", "0", r"train\.learning_rate: expected a number above 0, got 0\.0"),
        ("train.learning_rate", "nan", r"train\.learning_rate: expected a number above 0, got nan"),
        ("train.seed", "-1", r"train\.seed: expected 0 or more, got -1"),
        ("train.schedule", "linear", r"train\.schedule: expected polynomial, step or cosine, got 'linear'"),
        ("loss.num_points", "0", r"loss\.num_points: expected at least 1, got 0"),
        ("loss.loss_on", "pixels", r"loss\.loss_on: expected points or masks, got 'pixels'"),
        ("loss.matching_on", "both", r"loss\.matching_on: expected points or masks, got 'both'"),
        ("loss.importance_sample_ratio", "1.5", r"loss\.importance_sample_ratio: expected 0 to 1, got 1\.5"),
        ("loss.dice_weight", "-1", r"loss\.dice_weight: expected 0 or more, got -1\.0"),
        ("data.flip", "1", r"data\.flip: expected bool, got 1"),
        ("data.crop", "256", r"data\.crop: expected a list like .*, got 256"),
        ("data.crop", "[256]", r"data\.crop: expected a list like .*, got \[256\]"),
        ("data.crop", "[250, 256]", r"data\.crop: expected .* multiples of 32, got \[250, 256\]"),
        ("data.scale", "[1.5, 0.5]", r"data\.scale: expected \[low, high\] with 0 < low <= high"),
        ("data.max_category_area", "0", r"data\.max_category_area: expected above 0 and up to 1, got 0\.0"),
        ("data.workers", "-1", r"data\.workers: expected 0 or more"),
        ("data.longest_edge", "10", r"data: expected 0 < shortest_edge <= longest_edge"),
        ("data.colors", "[[0, 0, 300]]", r"data\.colors: expected \[red, green, blue\]"),
        ("model.backbone", "vgg", r"model\.backbone: expected one of resnet50.*, got 'vgg'"),
        ("model.hidden_dim", "100", r"model\.hidden_dim: expected a multiple of 32"),
        ("model.num_classes", "0", r"model\.num_classes: expected at least 1, got 0"),
        ("name.first", "x", r"--set name\.first: name is a value, not a section"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config("street-lite", {key: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train = [", r"bad\.toml: expected TOML"),
        (b"\xff\xfe\x00", r"bad\.toml: expected TOML"),
        (b"[data]\ncolour = 1\n", r"unknown key data\.colour"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_config(str(tmp_path / "bad.toml"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"expected a TOML file or one of .*street-lite.*; got 'no-such'"):
        load_config("no-such")


def test_from_dict_wants_a_section() -> None:
    with pytest.raises(InputError, match="config: expected a section, got 3"):
        from_dict(Config, 3)  # type: ignore[arg-type]
