"""accuracy.py for instances and panoptic: an engine with known answers on data of every kind that has them."""

import csv
import json

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import accuracy
from mask2edge.runtime.session_onnxruntime import OnnxRuntimeSession
from mask2edge.train.data.coco_panoptic import CocoPanoptic
from mask2edge.train.evaluation.task_evaluation import TaskEvaluation

pytest.importorskip("hotcoco", reason="AP is computed by hotcoco: pip install 'mask2edge[accuracy]'")

ALL = ("panoptic", "instance", "semantic")
THIRDS = np.repeat(np.arange(3), 32)[None].repeat(64, 0)  # [64, 96]: red, green, blue, on the network's grid
RIGHT = (THIRDS, THIRDS + 1, [(0, 0), (1, 0), (2, 0)])


def run(capsys, *arguments):
    """Exit code, the JSON object or None, stderr."""
    code = accuracy.main([str(argument) for argument in (*arguments, "--json")])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


@pytest.mark.parametrize(
    ("task", "figures"),
    [
        ("panoptic", {f"{name}{group}" for name in ("PQ", "SQ", "RQ") for group in ("", "_things", "_stuff")}),
        ("instance", {"AP", "AP50", "AP75", "AP_medium", "AR"}),  # 64 x 32 pixels are of medium size
        ("semantic", {"mIoU", "pixel_accuracy"}),
    ],
)
def test_one_engine_is_right_in_every_task(task, figures, color_engine, coco_data, capsys):
    code, result, _ = run(capsys, color_engine(tasks=ALL), "--task", task, "--data", coco_data([RIGHT, RIGHT]))
    assert code == 0
    assert result["metrics"] == pytest.approx(dict.fromkeys(figures, 1.0))
    assert list(result["per_class"]) == (["red", "green"] if task == "instance" else ["red", "green", "blue"])
    assert (result["images"], result["split"], result["task"]) == (2, "val", task)
    assert result.get("detections") == (100 if task == "instance" else None)


@pytest.mark.parametrize("task", ["all", "panoptic, semantic,instance,panoptic"])
def test_several_tasks_share_a_pass_and_have_the_figures_of_each(
    task, color_engine, coco_data, capsys, tmp_path, monkeypatch
):
    missed = np.where(THIRDS == 1, 2, THIRDS)
    data, engine = coco_data([RIGHT, (missed, THIRDS + 1, [(0, 0), (1, 0), (2, 0)])]), color_engine(tasks=ALL)
    alone = {name: run(capsys, engine, "--task", name, "--data", data)[1] for name in ALL}
    passes = []
    network = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, pixels: passes.append(1) or network(self, pixels))
    table = tmp_path / "rows.csv"
    code, result, _ = run(capsys, engine, "--task", task, "--data", data, "--save-to", table)
    assert (code, len(passes)) == (0, 2)
    assert set(result["tasks"]) == set(result["task"].split(",")) == set(ALL)
    for name in ALL:
        assert result["tasks"][name] == {key: alone[name][key] for key in ("metrics", "per_class")}
        assert alone[name]["metrics"].items() <= result["metrics"].items()
    assert (result["images"], result["detections"], result["sha256"]) == (2, 100, alone["panoptic"]["sha256"])
    rows = list(csv.DictReader(table.open()))
    assert {row["task"]: bool(row["PQ"]) for row in rows} == {"panoptic": True, "instance": False, "semantic": False}
    assert accuracy.main([str(engine), "--task", task, "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert "at most 100 detections" in out
    assert out.splitlines()[-1].startswith(("PQ ", "mIoU "))


def test_three_images_at_most_are_in_memory(color_engine, coco_data, capsys, monkeypatch):
    """One that was read ahead, one that is segmented, one that is counted."""
    read, counted, ahead = [], [], []
    of_data, add = CocoPanoptic.__getitem__, TaskEvaluation.add

    def reading(self, index):
        read.append(index)
        ahead.append(len(read) - len(counted))
        return of_data(self, index)

    def adding(self, annotation, result):
        add(self, annotation, result)
        counted.append(result)

    monkeypatch.setattr(CocoPanoptic, "__getitem__", reading)
    monkeypatch.setattr(TaskEvaluation, "add", adding)
    code, result, _ = run(capsys, color_engine(tasks=ALL), "--task", "panoptic", "--data", coco_data([RIGHT] * 9))
    assert (code, result["images"]) == (0, 9)
    assert read == list(range(9))
    assert max(ahead) <= 3


def test_void_crowds_and_a_missed_thing(color_engine, coco_data, capsys):
    """Void is nobody's, a crowd asks for nothing, and a green third that looks blue is missed."""
    void = THIRDS + 1
    void = np.where(void == 3, 0, void)
    looks_blue = np.where(THIRDS == 1, 2, THIRDS)
    data = coco_data([(THIRDS, void, [(0, 1), (1, 0)]), (looks_blue, THIRDS + 1, [(0, 0), (1, 0), (2, 0)])])
    engine = color_engine(tasks=ALL)
    _, panoptic, _ = run(capsys, engine, "--task", "panoptic", "--data", data)
    # red: once a crowd, once found. green: once found, once missed. blue: void the first time, twice too large then
    counts = {name: (row["TP"], row["FP"], row["FN"]) for name, row in panoptic["per_class"].items()}
    assert counts == {"red": (1, 0, 0), "green": (1, 0, 1), "blue": (0, 1, 1)}
    assert panoptic["metrics"]["PQ_things"] == pytest.approx((1 + 2 / 3) / 2)
    assert panoptic["metrics"]["PQ"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    _, instance, _ = run(capsys, engine, "--task", "instance", "--data", data, "--boundary")
    assert instance["metrics"]["boundary_AP"] <= instance["metrics"]["AP"]
    assert instance["per_class"]["red"]["boundary_AP"] == pytest.approx(1)
    assert instance["per_class"]["red"]["AP"] == pytest.approx(1)
    # the second green is missed, but for IoU 0.50: the blue query calls its two thirds green too, at the lowest score
    assert instance["per_class"]["green"]["AP50"] == pytest.approx(1)
    assert instance["per_class"]["green"]["AP"] == pytest.approx((101 + 9 * 51) / 10 / 101)
    _, semantic, _ = run(capsys, engine, "--task", "semantic", "--data", data)
    ious = {name: row["IoU"] for name, row in semantic["per_class"].items()}
    assert ious == pytest.approx({"red": 1, "green": 1 / 2, "blue": 1 / 2})


def test_the_table_for_people(color_engine, coco_data, capsys):
    void = np.where(THIRDS == 2, 0, THIRDS + 1)
    data = coco_data([(THIRDS, void, [(0, 0), (1, 0)])])
    assert accuracy.main([str(color_engine(tasks=ALL)), "--task", "panoptic", "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["red", "PQ", "1.0000", "SQ", "1.0000", "RQ", "1.0000", "TP", "1", "FP", "0", "FN", "0"]
    assert lines[2].split() == ["blue", "PQ", "absent", "SQ", "absent", "RQ", "absent", "TP", "0", "FP", "0", "FN", "0"]
    assert lines[-1].startswith("PQ 1.0000   SQ 1.0000   RQ 1.0000   PQ things 1.0000")


def test_label_images_of_nuclei_in_every_task(color_engine, tmp_path, capsys):
    """They carry no names: the model's are taken, and what no nucleus covers is its background."""
    for folder in ("images", "labels"):
        (tmp_path / "nuclei/val" / folder).mkdir(parents=True)
    nuclei = np.where(THIRDS == 0, 700, np.where(THIRDS == 2, 900, 0))  # red; green between them is background
    cv2.imwrite(str(tmp_path / "nuclei/val/labels/0.png"), nuclei.astype(np.uint16))
    picture = np.where(nuclei[..., None] > 0, (0, 0, 255), (0, 255, 0)).astype(np.uint8)  # BGR
    cv2.imwrite(str(tmp_path / "nuclei/val/images/0.png"), picture)
    engine = color_engine(tasks=ALL, names=("nucleus", "background"))
    found = {task: run(capsys, engine, "--task", task, "--data", tmp_path / "nuclei")[1] for task in ALL}
    assert found["semantic"]["metrics"] == pytest.approx({"mIoU": 1, "pixel_accuracy": 1})
    # both nuclei are one segment, twice the size of each: IoU one half is a match for AP50 and none for PQ
    assert found["panoptic"]["per_class"]["background"]["PQ"] == pytest.approx(1)
    assert found["panoptic"]["metrics"]["PQ_things"] == 0
    assert found["instance"]["metrics"]["AP50"] == pytest.approx(51 / 101)
    assert found["instance"]["metrics"]["AP"] == pytest.approx(51 / 101 / 10)


def test_the_detections_that_count_are_stated(color_engine, coco_data, capsys):
    data = coco_data([(THIRDS, THIRDS + 1, [(0, 0), (1, 0), (2, 0)])])
    arguments = color_engine(tasks=ALL), "--task", "instance", "--data", data
    _, one, _ = run(capsys, *arguments, "--detections", "1")
    _, many, _ = run(capsys, *arguments, "--detections", "300")
    assert (one["detections"], many["detections"]) == (1, 300)
    assert one["metrics"]["AR"] == pytest.approx(0.5)
    assert many["metrics"]["AR"] == pytest.approx(1)
    assert accuracy.main([str(argument) for argument in (*arguments, "--detections", "300")]) == 0
    assert "COCO's protocol, at most 300 detections of an image" in capsys.readouterr().out


def test_an_interrupted_evaluation_prints_no_figures(color_engine, coco_data, capsys, monkeypatch):
    counted = []

    def interrupted(self, annotation, result):
        if counted:
            raise KeyboardInterrupt
        counted.append(result)

    monkeypatch.setattr(TaskEvaluation, "add", interrupted)
    code, result, err = run(capsys, color_engine(tasks=ALL), "--task", "panoptic", "--data", coco_data([RIGHT, RIGHT]))
    assert (code, result, len(counted)) == (130, None, 1)
    assert "interrupted" in err


BAD = [
    (("panoptic",), "semantic", "colors was made for panoptic"),
    (("instance", "panoptic"), "panoptic --detections 5", "--detections: expected --task instance"),
    (("instance", "panoptic"), "panoptic,semantic", "colors was made for instance, panoptic"),
    (("semantic",), "all --boundary", "--boundary: expected a model that does instances, got one for semantic"),
]


@pytest.mark.parametrize(("tasks", "task", "message"), BAD, ids=["task", "detections", "one-of-two", "boundary"])
def test_bad_input_is_one_line_and_exit_2(tasks, task, message, color_engine, coco_data, capsys):
    code, result, err = run(capsys, color_engine(tasks=tasks), "--task", *task.split(), "--data", coco_data([RIGHT]))
    assert (code, result) == (2, None)
    assert message in err


def test_semantic_data_have_no_instances(color_engine, color_data, capsys):
    data = color_data({"val": [(THIRDS, THIRDS)]})
    code, result, err = run(capsys, color_engine(tasks=ALL), "--task", "panoptic", "--data", data)
    assert (code, result) == (2, None)
    assert "--task panoptic: expected data that tell instances apart" in err
