"""accuracy.py --save-to: a row says which file was measured on what, and holds no path of this machine."""

import csv
import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from mask2edge.benchmarks import accuracy, accuracy_rows, latency, timing
from mask2edge.benchmarks.accuracy_rows import COLUMNS, METRICS, backbone_of, bytes_of, size_of
from mask2edge.benchmarks.results_table import ROOT, read_rows, recorded_command
from mask2edge.export.onnx_metadata import Description
from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.spec import EngineSpec, ModelSpec, Postprocessing, Preprocessing, Profile
from mask2edge.train.evaluation.task_evaluation import HEADLINE


@pytest.fixture
def stripes():
    return np.repeat(np.arange(3), 32)[None].repeat(64, 0)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_of_a_semantic_engine(color_engine, color_data, stripes, tmp_path, capsys):
    engine, data, table = color_engine(), color_data({"val": [(stripes, stripes), (stripes, 0 * stripes)]}), "t.csv"
    flags = ["--task", "semantic", "--data", str(data), "--limit", "1", "--save-to", str(tmp_path / table), "--json"]
    assert accuracy.main([str(engine), *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    (row,) = rows_of(tmp_path / table)
    assert tuple(row) == COLUMNS
    assert {name: row[name] for name in METRICS} == dict.fromkeys(METRICS, "") | {"mIoU": "1.000000"}
    assert row["sha256"] == printed["sha256"] == sha256_of(engine / "spec.json")
    assert (row["artifact"], row["data"], row["split"]) == ("colors.engine", "data", "val")
    assert (row["images"], row["images_in_split"], row["detections"]) == ("1", "2", "")
    assert (row["precision"], row["backend"], row["ops"], row["size"]) == ("fp32", "onnxruntime", "standard", "64x96")
    assert int(row["bytes"]) == sum(file.stat().st_size for file in engine.iterdir())
    assert row["command"].startswith(
        "python benchmarks/accuracy.py colors.engine --task semantic --data data --limit 1"
    )
    assert str(tmp_path) not in ",".join(row.values())


def test_rows_are_appended_and_other_columns_refused_before_anything_is_measured(
    color_engine, color_data, stripes, tmp_path, monkeypatch, capsys
):
    engine, data, table = color_engine(), color_data({"val": [(stripes, stripes)]}), tmp_path / "t.csv"
    arguments = [str(engine), "--task", "semantic", "--data", str(data), "--save-to", str(table)]
    assert accuracy.main(arguments) == accuracy.main(arguments) == 0
    assert len(rows_of(table)) == 2
    table.write_text("a,b\n1,2\n")
    monkeypatch.setattr(accuracy, "evaluate", lambda *_: pytest.fail("measured"))
    assert accuracy.main(arguments) == 2
    assert "expected the columns date, commit" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_known_before_anything_is_measured(
    color_engine, color_data, stripes, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(accuracy, "evaluate", lambda *_: pytest.fail("measured"))
    arguments = [str(color_engine()), "--task", "semantic", "--data", str(color_data({"val": [(stripes, stripes)]}))]
    assert accuracy.main([*arguments, "--save-to", str(tmp_path / "file/t.csv")]) == 2
    assert "file/t.csv: expected a file in a folder that can be written, got Not a directory" in capsys.readouterr().err


def test_an_engine_that_is_built_anew_meanwhile_does_not_lend_its_checksum(
    color_engine, color_data, stripes, tmp_path, monkeypatch
):
    engine, other = color_engine(), color_engine("other", size=(64, 128))
    opened = sha256_of(engine / "spec.json"), bytes_of(engine)
    evaluate = accuracy.evaluate

    def replaced(*arguments):
        found = evaluate(*arguments)
        for file in other.iterdir():
            file.rename(engine / file.name)
        return found

    monkeypatch.setattr(accuracy, "evaluate", replaced)
    flags = ["--task", "semantic", "--data", str(color_data({"val": [(stripes, stripes)]}))]
    assert accuracy.main([str(engine), *flags, "--save-to", str(tmp_path / "t.csv")]) == 0
    (row,) = rows_of(tmp_path / "t.csv")
    assert (row["sha256"], int(row["bytes"])) == opened != (sha256_of(engine / "spec.json"), bytes_of(engine))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_evaluation_that_is_stopped_halfway_prints_and_saves_nothing(
    stop, color_engine, color_data, stripes, tmp_path, monkeypatch, capsys
):
    """And the same command again, without the stop, is as if nothing had been."""
    engine, data, table = color_engine(), color_data({"val": [(stripes, stripes)] * 4}), tmp_path / "t.csv"
    arguments = [str(engine), "--task", "semantic", "--data", str(data), "--save-to", str(table), "--json"]
    assert accuracy.main(arguments) == 0
    before, printed = table.read_bytes(), capsys.readouterr().out
    for_tasks, images = Segmenter.for_tasks, []

    def stopped(self, image, tasks):
        images.append(image)
        if len(images) == 3:
            raise stop
        return for_tasks(self, image, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "for_tasks", stopped)
        assert accuracy.main(arguments) == (130 if stop is KeyboardInterrupt else 1)
    assert (table.read_bytes(), capsys.readouterr().out) == (before, "")
    assert accuracy.main(arguments) == 0
    assert capsys.readouterr().out == printed
    first, second = rows_of(table)
    assert first == second


def test_save_appends_to_the_results(color_engine, color_data, stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "accuracy.csv")
    data = color_data({"val": [(stripes, stripes)]})
    assert accuracy.main([str(color_engine()), "--task", "semantic", "--data", str(data), "--save"]) == 0
    assert len(rows_of(tmp_path / "accuracy.csv")) == 1
    assert accuracy_rows.RESULTS == ROOT / "benchmarks" / "results" / "accuracy.csv"


def named(name):
    return ModelSpec(name, (), 1, Preprocessing((0.0,) * 3, (1.0,) * 3), Postprocessing())


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("coco-panoptic-r50", "resnet50"),
        ("ade20k-semantic-swin-t", "swin-tiny"),
        ("street-lite", "efficientnet-lite0"),
        ("street-lite-480", "efficientnet-lite0"),  # by its configuration's base
        ("my own", ""),
        ("../street-lite", ""),
    ],
)
def test_the_backbone_is_that_of_the_models_name(name, backbone):
    assert backbone_of(named(name)) == backbone


def test_a_size_of_several():
    assert size_of(Profile((1, 64, 96), (1, 96, 128), (4, 128, 192))) == "64x96-128x192"


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        (str(ROOT / "artifacts" / "a.engine"), "artifacts/a.engine"),
        ("/home/somebody/a b.engine", "'a b.engine'"),
        ("--data=/home/somebody/data", "--data=data"),
        ("~/data", "data"),
        ("../shared/data", "../shared/data"),
        ("--limit", "--limit"),
    ],
)
def test_a_command_keeps_no_path_of_this_machine(argument, kept):
    assert recorded_command("benchmarks/accuracy.py", [argument]) == f"python benchmarks/accuracy.py {kept}"


@pytest.mark.parametrize(("origin", "expected"), [("percentile, 32 images", "percentile, 32 images"), (None, "")])
def test_rows_of_an_int8_engine_say_how_it_was_calibrated(
    origin, expected, color_engine, color_data, stripes, tmp_path, monkeypatch
):
    """What its model.onnx says; a file of others may say nothing, and is measured as well."""
    engine, data = color_engine(), color_data({"val": [(stripes, stripes)]})
    spec = EngineSpec.load(engine)
    if origin:
        network = onnx.load(engine / "model.onnx")
        about = Description(spec.model, spec.profile, "standard", "int8", None, origin)
        onnx.helper.set_model_props(network, about.to_metadata())
        onnx.save(network, engine / "model.onnx")
    files = {"model.onnx": sha256_of(engine / "model.onnx")}
    dataclasses.replace(spec, precision="int8", files=files).save(engine)
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    table = ["--save-to", str(tmp_path / "accuracy.csv")]
    assert accuracy.main([str(engine), "--task", "semantic", "--data", str(data), *table]) == 0
    assert latency.main([str(engine), "--runs", "1", "--save"]) == 0
    for name in ("accuracy", "latency"):
        (row,) = rows_of(tmp_path / f"{name}.csv")
        assert row["calibration"] == expected


def test_an_engine_keeps_its_checkpoint(color_engine, color_data, stripes, tmp_path):
    engine, data = color_engine(), color_data({"val": [(stripes, stripes)]})
    dataclasses.replace(EngineSpec.load(engine), checkpoint_sha256="c" * 64).save(engine)
    assert (
        accuracy.main([str(engine), "--task", "semantic", "--data", str(data), "--save-to", str(tmp_path / "t")]) == 0
    )
    assert rows_of(Path(tmp_path / "t"))[0]["checkpoint_sha256"] == "c" * 64


# Of the task's headline figure: what an engine may differ by from its checkpoint on PyTorch.
PROMISED = {"fp32": 0.001, "fp16": 0.002, "bf16": 0.005, "int8": 0.005}


def test_recorded_engines_are_as_accurate_as_their_checkpoints_on_pytorch():
    """Rows of results/accuracy.csv: the same weights, data and way of fitting an image into the input."""
    rows = read_rows(accuracy_rows.RESULTS, COLUMNS)

    def of(row):
        return tuple(
            row[name] for name in ("checkpoint_sha256", "size", "task", "data", "split", "images", "detections")
        )

    on_pytorch = {of(row): row for row in rows if row["backend"] == "torch"}
    engines = [row for row in rows if row["backend"] != "torch"]
    assert {"fp32", "fp16", "int8"} <= {row["precision"] for row in engines} <= set(PROMISED)
    for row in engines:
        assert of(row) in on_pytorch, f"{row['artifact']}: measure its checkpoint as well"
        name = HEADLINE[row["task"]]
        assert float(row[name]) == pytest.approx(float(on_pytorch[of(row)][name]), abs=PROMISED[row["precision"]])
