"""Configurations: what is unknown or of the wrong type raises, by name; --set changes one value."""

from pathlib import Path

import pytest

from mask2edge.runtime.command_line import InputError
from mask2edge.train.config import Config, ModelConfig, from_dict, load_config
from mask2edge.train.config_file import CONFIG_FOLDER
from mask2edge.train.labels import load_labels
from mask2edge.train.presets import PRESETS
from mask2edge.train.train import build_spec


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
        ("loss.no_object_weight", "0", r"loss\.no_object_weight: expected a number above 0, got 0\.0"),
        ("train.step_milestones", "[0.9, 0.5]", r"train\.step_milestones: expected ascending .*, got \[0\.9, 0\.5\]"),
        ("train.step_milestones", "[0.5, 1.0]", r"train\.step_milestones: expected .* below 1, got \[0\.5, 1\.0\]"),
        ("train.step_milestones", "[1000]", r"train\.step_milestones: expected .* below 1, got \[1000\.0\]"),
        ("train.step_milestones", "[nan]", r"train\.step_milestones: expected .* below 1, got \[nan\]"),
        ("data.scale_limit", "100", r"data\.scale_limit: expected 0 unless data\.scale_to is shortest_edge, got 100"),
        ("data.classes", '["a", "b"]', r"data\.classes: expected none but for .*, got a, b with semantic"),
        ("data.flip", "1", r"data\.flip: expected bool, got 1"),
        ("data.crop", "256", r"data\.crop: expected a list like .*, got 256"),
        ("data.crop", "[256]", r"data\.crop: expected a list like .*, got \[256\]"),
        ("data.crop", "[250, 256]", r"data\.crop: expected .* multiples of 32, got \[250, 256\]"),
        ("data.scale", "[1.5, 0.5]", r"data\.scale: expected \[low, high\] with 0 < low <= high"),
        ("data.max_category_area", "0", r"data\.max_category_area: expected above 0 and up to 1, got 0\.0"),
        ("data.workers", "-1", r"data\.workers: expected 0 or more"),
        ("data.longest_edge", "10", r"data: expected 0 < shortest_edge <= longest_edge"),
        ("data.format", "voc", r"data\.format: expected auto or one of semantic, coco-panoptic, .*, got 'voc'"),
        ("data.scale_to", "width", r"data\.scale_to: expected image, shortest_edge or crop, got 'width'"),
        ("data.scale_limit", "-1", r"data\.scale_limit: expected 0 \(none\) or a length"),
        ("data.cache_mib", "-1", r"data\.cache_mib: expected 0 or more"),
        ("data.merge", "[1]", r"data\.merge: expected a table like .*, got \[1\]"),
        ("data.merge.a", "1", r"data\.merge\.a: expected a list like .*, got 1"),
        ("tasks", "[]", r"tasks: expected some of panoptic, instance, semantic, got none"),
        ("tasks", '["depth"]', r"tasks: expected some of panoptic, instance, semantic, got depth"),
        ("postprocessing.instance_top_k", "0", r"postprocessing\.instance_top_k: expected 1 or more, got 0"),
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


@pytest.mark.parametrize("name", sorted(PRESETS.keys() & {path.stem for path in CONFIG_FOLDER.glob("*.toml")}))
def test_a_config_of_the_zoos_name_trains_the_zoos_model(name: str) -> None:
    config, preset = load_config(name), PRESETS[name]
    assert config.model == preset.model
    assert config.tasks == preset.tasks
    assert (config.data.shortest_edge, config.data.longest_edge) == (
        preset.preprocessing.shortest_edge, preset.preprocessing.longest_edge
    )  # fmt: skip
    spec = build_spec(config, load_labels(preset.labels))
    assert spec.postprocessing == preset.postprocessing
    assert spec.preprocessing == preset.preprocessing


def test_the_zoos_settings_of_training() -> None:
    # facebookresearch/Mask2Former, configs/: steps, crop, scale, schedule
    found = {
        name: (config.train.steps, config.data.crop, config.data.scale, config.data.scale_to, config.train.schedule)
        for name in (path.stem for path in CONFIG_FOLDER.glob("*-r50.toml"))
        if (config := load_config(name))
    }
    coco = (368_750, (1024, 1024), (0.1, 2.0), "crop", "step")
    cityscapes = (90_000, (512, 1024), (0.5, 2.0), "shortest_edge", "polynomial")
    mapillary = (300_000, (1024, 1024), (0.5, 2.0), "shortest_edge", "polynomial")
    ade20k = (160_000, (640, 640), (0.5, 2.0), "shortest_edge", "polynomial")
    assert found == {
        "coco-panoptic-r50": coco,
        "coco-instance-r50": coco,
        "ade20k-semantic-r50": (160_000, (512, 512), (0.5, 2.0), "shortest_edge", "polynomial"),
        "ade20k-panoptic-r50": ade20k,
        "ade20k-instance-r50": ade20k,
        "cityscapes-semantic-r50": cityscapes,
        "cityscapes-panoptic-r50": cityscapes,
        "cityscapes-instance-r50": cityscapes,
        "mapillary-semantic-r50": mapillary,
        "mapillary-panoptic-r50": mapillary,
    }


def test_what_the_zoo_trains_alike() -> None:
    # the same files: MAX_SIZE_TRAIN, COLOR_AUG_SSD, SINGLE_CATEGORY_MAX_AREA, SOLVER and MASK_FORMER
    limits = {"coco": 0, "cityscapes": 4096, "mapillary": 8192, "ade20k": 2560}
    for name in (path.stem for path in CONFIG_FOLDER.glob("*-r50.toml")):
        config, source = load_config(name), name.split("-")[0]
        data, loss, train = config.data, config.loss, config.train
        assert data.scale_limit == (2048 if name == "ade20k-semantic-r50" else limits[source]), name
        assert data.color_jitter == (source != "coco"), name
        assert (data.flip, data.vertical_flip, data.rotate) == (True, False, False), name
        assert (data.max_category_area, data.avoid_empty, data.merge) == (1.0, False, {}), name
        assert (train.batch_size, train.learning_rate, train.backbone_multiplier) == (16, 1e-4, 0.1), name
        assert (train.weight_decay, train.clip_norm, train.warmup_steps, train.ema_decay) == (0.05, 0.01, 0, 0), name
        assert (train.step_milestones, train.freeze) == ((0.889, 0.963), ()), name  # 327,778 and 355,092 of 368,750
        assert (loss.class_weight, loss.mask_weight, loss.dice_weight, loss.no_object_weight) == (2, 5, 5, 0.1), name
        assert (loss.num_points, loss.oversample_ratio, loss.importance_sample_ratio) == (12544, 3, 0.75), name
        assert (loss.matching_on, loss.loss_on, loss.pilot_weight) == ("points", "points", 0), name


def test_a_base_is_changed_setting_by_setting(tmp_path: Path) -> None:
    (tmp_path / "low.toml").write_text('tasks = ["panoptic"]\n[train]\nsteps = 7\nseed = 3\n[data]\nflip = false\n')
    (tmp_path / "mid.toml").write_text(f'base = "{tmp_path}/low.toml"\n[train]\nsteps = 8\n')
    (tmp_path / "top.toml").write_text(f'base = "{tmp_path}/mid.toml"\n[model]\nnum_classes = 5\n')
    config = load_config(str(tmp_path / "top.toml"), {"train.batch_size": "2"})
    assert (config.name, config.tasks, config.model.num_classes) == ("top", ("panoptic",), 5)
    assert (config.train.steps, config.train.seed, config.train.batch_size) == (8, 3, 2)
    assert config.data.flip is False
    assert load_config(str(tmp_path / "low.toml")).train.steps == 7


def test_a_base_lies_beside_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine/shared").mkdir(parents=True)
    (tmp_path / "mine/shared/low.toml").write_text("[train]\nsteps = 7\n")
    (tmp_path / "mine/shared/mid.toml").write_text('base = "low.toml"\n')
    (tmp_path / "mine/top.toml").write_text('base = "shared/mid.toml"\n')
    monkeypatch.chdir(tmp_path)
    assert load_config("mine/top.toml").train.steps == 7
    # beside the file first, then from the working folder as --config itself; a name of train/configs before both
    (tmp_path / "low.toml").write_text("[train]\nsteps = 8\n")
    assert load_config("mine/top.toml").train.steps == 7
    (tmp_path / "mine/shared/low.toml").unlink()
    assert load_config("mine/top.toml").train.steps == 8
    (tmp_path / "mine/top.toml").write_text('base = "street-lite"\n')
    (tmp_path / "mine/street-lite").write_text("[train]\nsteps = 9\n")
    assert load_config("mine/top.toml").train.steps == load_config("street-lite").train.steps


def test_a_chain_of_bases_ends_however_its_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.toml").write_text('base = "sub/../a.toml"')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"a\.toml: is its own base"):
        load_config("a.toml")


def test_a_base_that_is_missing_or_endless_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'base = "{tmp_path}/b.toml"')
    with pytest.raises(InputError, match=r"a\.toml: base: expected a TOML file or one of .*; got '.*b\.toml'"):
        load_config(str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_text(f'base = "{tmp_path}/a.toml"')
    with pytest.raises(InputError, match=r"a\.toml: is its own base"):
        load_config(str(tmp_path / "a.toml"))


def test_a_table_of_merged_classes(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[data.merge]\nvehicle = ["car", "bus"]\n')
    config = load_config(str(tmp_path / "mine.toml"))
    assert config.data.merge == {"vehicle": ("car", "bus")}
    assert config.digest() != load_config(str(tmp_path / "mine.toml"), {"data.merge.vehicle": '["car"]'}).digest()
    with pytest.raises(InputError, match=r"data\.merge and data\.merge_file: expected one of them, got both"):
        load_config(str(tmp_path / "mine.toml"), {"data.merge_file": "x.json"})


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
