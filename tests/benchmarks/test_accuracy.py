"""accuracy.py end to end: engines with known answers, a checkpoint against its engine, and bad input."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from mask2edge.benchmarks import accuracy
from mask2edge.export.onnx_metadata import Description
from mask2edge.runtime.spec import EngineSpec

CAMVID = Path(__file__).resolve().parents[2].parent / "shared/data/camvid"


def thirds(height=64, width=96):
    """Three vertical stripes of classes 0, 1, 2, whose borders lie on the network's grid."""
    return np.repeat(np.arange(3), width // 3)[None].repeat(height, 0)


def run(capsys, *arguments):
    """Exit code, the JSON object or None, stderr."""
    code = accuracy.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_perfect_predictions_score_one(color_engine, color_data, capsys):
    engine = color_engine()
    code, result, _ = run(
        capsys, engine, "--task", "semantic", "--data", color_data({"val": [(thirds(), thirds())]}), "--json"
    )
    assert code == 0
    assert result["metrics"] == {"mIoU": 1.0, "pixel_accuracy": 1.0}
    assert result["per_class"]["green"] == {"IoU": 1.0, "pixel_share": pytest.approx(1 / 3)}
    assert (result["images"], result["split"], result["task"]) == (1, "val", "semantic")
    assert result["artifact"] == str(engine)
    assert result["sha256"] == hashlib.sha256((engine / "spec.json").read_bytes()).hexdigest()


def test_known_mistakes_score_what_they_should(color_engine, color_data, capsys):
    truth = thirds()
    truth[:32, :32] = 255  # half of red is not labelled
    truth[:32, 64:] = 1  # half of what looks blue is said to be green
    data = color_data({"test": [(thirds(), truth)]})  # the only split there is
    code, result, _ = run(capsys, color_engine(), "--task", "semantic", "--data", data, "--json")
    assert code == 0
    assert result["split"] == "test"
    # In blocks of 32 x 32: red 1 of 1, green 2 of 2 + 1, blue 1 of 2; right 4 of 5 labelled.
    assert result["metrics"] == pytest.approx({"mIoU": (1 + 2 / 3 + 1 / 2) / 3, "pixel_accuracy": 4 / 5})


def test_scores_are_at_the_images_own_size(color_engine, color_data, capsys):
    """An image twice as high as the engine's input is letterboxed, and its truth compared pixel by pixel."""
    big = thirds(256, 192)
    data = color_data({"val": [(big, big), (thirds(), thirds())]})
    code, result, _ = run(capsys, color_engine(), "--task", "semantic", "--data", data, "--json")
    assert code == 0
    assert result["images"] == 2
    assert result["metrics"]["mIoU"] > 0.95  # the borders of the large image are off the network's grid


def test_limit_split_and_the_report_for_people(color_engine, color_data, capsys):
    wrong = np.zeros_like(thirds())
    data = color_data({"train": [(thirds(), thirds()), (thirds(), wrong)], "val": [(thirds(), wrong)]})
    arguments = [str(color_engine()), "--task", "semantic", "--data", str(data), "--split", "train", "--limit", "1"]
    assert accuracy.main(arguments) == 0
    out, _ = capsys.readouterr()
    assert "mIoU 1.0000   pixel accuracy 1.0000" in out
    assert "split train, the first 1 of 2 images" in out


def test_absent_class_is_named_absent(color_engine, color_data, capsys):
    red = np.zeros_like(thirds())
    assert (
        accuracy.main([str(color_engine()), "--task", "semantic", "--data", str(color_data({"val": [(red, red)]}))])
        == 0
    )
    out, _ = capsys.readouterr()
    assert "blue                        IoU absent" in out
    assert "mIoU 1.0000" in out


BAD = [
    ({"task": "panoptic"}, "colors does not say which of its classes are things"),
    ({"task": "instance"}, "colors was made for semantic"),
    ({"extra": ["--detections", "5"]}, "--detections: expected --task instance"),
    ({"extra": ["--boundary"]}, "--boundary: expected --task instance"),
    ({"split": "test"}, "expected a split test of the format semantic; found val"),
    ({"data": "nowhere"}, "--data: expected a folder"),
    ({"data": "nowhere", "extra": ["--format", "ade20k"]}, "--data: expected a folder, got 'nowhere', which is not"),
    ({"artifact": "nowhere.engine"}, "expected an engine folder, an .onnx or a .safetensors file; found nothing"),
    ({"artifact": "data/classes.txt"}, "found a file of another kind"),
    ({"artifact": "data"}, "expected an engine folder with spec.json"),
    ({"names": ("red", "green")}, "the model has 3 classes, the data 2"),
    ({"names": ("red", "blue", "green")}, "class 1 is 'green' in the model and 'blue' in the data"),
    ({"truth": np.full((64, 96), 7)}, "expected class indices 0 to 2"),
    ({"truth": np.full((64, 95), 1)}, "label map that does not fit"),
    ({"truth": np.full((64, 96), 255)}, "expected labelled pixels, got none"),
    ({"extra": ["--size", "64x96"]}, "--size and --keep-ratio are for a checkpoint"),
    ({"extra": ["--size", "60x96"]}, "--size: expected multiples of 32"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(change, message, color_engine, color_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pair = (thirds(), change.get("truth", thirds()))
    data = color_data({"val": [pair]}, change.get("names", ("red", "green", "blue")))
    arguments = [change.get("artifact", str(color_engine())), "--task", change.get("task", "semantic"), "--json"]
    arguments += ["--data", change.get("data", str(data))]
    arguments += ["--split", change["split"]] if "split" in change else []
    assert accuracy.main(arguments + change.get("extra", [])) == 2
    out, err = capsys.readouterr()
    assert out == ""
    error = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert re.search(message, error[0]), error[0]


def test_names_may_differ_in_case_and_punctuation(color_engine, color_data, capsys):
    data = color_data({"val": [(thirds(), thirds())]}, ("Red", "GREEN", "b-lue"))
    code, result, _ = run(capsys, color_engine(), "--task", "semantic", "--data", data, "--json")
    assert (code, result["metrics"]["mIoU"]) == (0, 1.0)


def test_classes_that_were_merged_in_training_are_merged_in_the_data(color_engine, color_data, tmp_path, capsys):
    """Data of four classes, the model of three: the fourth, seen as blue, is part of blue."""
    truth = np.where((thirds() == 2) & (np.arange(64)[:, None] < 32), 3, thirds())
    data = color_data({"val": [(thirds(), truth)]}, ("red", "green", "blue", "azure"))
    table = tmp_path / "merge.json"
    table.write_text('{"blue": ["blue", "azure"]}')
    arguments = color_engine(), "--task", "semantic", "--data", data, "--json"
    code, result, _ = run(capsys, *arguments, "--merge", table)
    assert (code, result["metrics"]["mIoU"]) == (0, 1.0)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "the model has 3 classes, the data 4" in err
    assert "accuracy.py --merge" in err
    training = tmp_path / "training.toml"
    training.write_text('[data.merge]\nblue = ["blue", "azure"]\n')
    code, result, _ = run(capsys, *arguments, "--merge", training)
    assert (code, result["metrics"]["mIoU"]) == (0, 1.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--merge", "none.json"), "none.json: expected a JSON object"),
        (("--merge", "plain.toml"), "plain.toml: expected a table"),
        (("--split", "test"), "expected a split test of the format semantic; found val"),
    ],
)
def test_data_are_checked_before_the_artifact_is_loaded(color_data, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    Path("plain.toml").write_text("[train]\nsteps = 5\n")
    data = color_data({"val": [(thirds(), thirds())]})
    code, _, err = run(capsys, "nowhere.engine", "--task", "semantic", "--data", data, *more)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_an_onnx_file_scores_as_its_engine(color_engine, color_data, tmp_path, capsys):
    engine, data = color_engine(), color_data({"val": [(thirds(200, 150), thirds(200, 150))]})
    spec = EngineSpec.load(engine)
    network = onnx.load(engine / "model.onnx")
    description = Description(spec.model, spec.profile, "standard", "fp32", None)
    for key, value in description.to_metadata().items():
        network.metadata_props.add(key=key, value=value)
    onnx.save(network, tmp_path / "colors.onnx")
    arguments = ("--task", "semantic", "--data", data, "--json")
    _, of_engine, _ = run(capsys, engine, *arguments)
    code, of_file, _ = run(capsys, tmp_path / "colors.onnx", *arguments)
    assert code == 0
    assert of_file["metrics"] == of_engine["metrics"]
    assert of_file["sha256"] == hashlib.sha256((tmp_path / "colors.onnx").read_bytes()).hexdigest()


def test_an_engine_is_measured_without_torch(color_engine, color_data):
    """In a fresh process, where nothing else has imported it."""
    data = color_data({"val": [(thirds(), thirds())]})
    code = (
        "import sys; from mask2edge.benchmarks import accuracy; "
        f"code = accuracy.main([{str(color_engine())!r}, '--task', 'semantic', '--data', {str(data)!r}, '--json']); "
        "loaded = {'torch', 'onnx', 'transformers'} & set(sys.modules); sys.exit(code or str(loaded or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["mIoU"] == 1.0
