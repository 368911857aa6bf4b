"""The demo's own parts: which photographs, what is up to date, what a failed step does, what is written and printed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import demo
from mask2edge.runtime.command_line import InputError, sha256_of


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's root with a checkpoint, whatever is in it."""
    root = tmp_path / "project"
    (root / "models").mkdir(parents=True)
    (root / demo.CHECKPOINT).write_bytes(b"weights")
    monkeypatch.setattr(demo, "ROOT", root)
    return root


def test_scikit_learns_photograph_is_found_without_importing_it():
    image = cv2.imread(str(demo.sample_photograph()))
    assert image.shape == (427, 640, 3)


def test_photographs_are_the_image_and_some_of_the_data_spread_out(color_data, tmp_path):
    stripes = np.zeros((8, 8), int)
    data = color_data({"val": [(stripes, stripes)] * 13})
    photographs = demo.gather_photographs(None, data, tmp_path / "photographs")
    # The names' own order is 0, 1, 10, 11, 12, 2, 3, …
    assert [path.name for path in photographs] == [
        "0-china.jpg", "1-0.png", "2-10.png", "3-12.png", "4-3.png", "5-5.png", "6-7.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "photographs").iterdir()) == [path.name for path in photographs]
    again = demo.gather_photographs(None, None, tmp_path / "photographs")
    assert (
        [path.name for path in (tmp_path / "photographs").iterdir()] == ["0-china.jpg"] == [path.name for path in again]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.jpg", "--image: expected an image file"), ("notes.txt", "a name that ends in one of")],
)
def test_a_wrong_image_is_refused(name, message, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=message):
        demo.gather_photographs(tmp_path / name, None, tmp_path / "photographs")
    assert not (tmp_path / "photographs").exists()


def test_an_engine_is_up_to_date_for_its_checkpoint_and_ops_alone(color_engine, monkeypatch):
    engine = color_engine()
    spec = json.loads((engine / "spec.json").read_text())
    (engine / "spec.json").write_text(json.dumps({**spec, "checkpoint_sha256": "abc"}))
    monkeypatch.setattr("mask2edge.trt_plugins.onnxruntime_ops_library", lambda: None)
    assert demo.engine_is_of(engine, "abc")
    assert not demo.engine_is_of(engine, "another")
    monkeypatch.setattr("mask2edge.trt_plugins.onnxruntime_ops_library", lambda: Path("library.so"))
    assert not demo.engine_is_of(engine, "abc")  # of standard ops, and the library is there now
    monkeypatch.setattr("mask2edge.trt_plugins.onnxruntime_ops_library", lambda: None)
    (engine / "model.onnx").write_bytes(b"changed")
    assert not demo.engine_is_of(engine, "abc")
    assert not demo.engine_is_of(engine.parent / "nowhere.engine", "abc")


def test_a_step_prints_its_command_and_keeps_time_and_figure(project, capsys):
    (project / "step.py").write_text("import sys; print('result of', *sys.argv[1:])")
    steps = demo.Demo()
    assert steps.run("first", "step.py", "a b", "--c") == "result of a b --c\n"
    steps.figure("7 things")
    assert "$ python step.py 'a b' --c" in capsys.readouterr().out
    assert "7 things" in steps.table()
    assert steps.rows[0][1] > 0


def test_a_failed_step_is_named_and_its_exit_code_kept(project, capsys):
    (project / "export").mkdir()
    script = "import sys; print('error: broken', file=sys.stderr); sys.exit(2)"
    (project / "export" / "build_engine.py").write_text(script)
    assert demo.main([]) == 2
    out, err = capsys.readouterr()
    assert "error: step build (python export/build_engine.py) failed with exit code 2" in err
    assert "look at" not in out


def test_without_a_checkpoint_there_is_one_clear_line(project, capsys):
    (project / demo.CHECKPOINT).unlink()
    assert demo.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "models/street-lite.safetensors: expected the shipped checkpoint" in err


def test_up_to_date_engine_is_not_built_again(project, monkeypatch):
    monkeypatch.setattr(demo, "engine_is_of", lambda engine, digest: digest == sha256_of(project / demo.CHECKPOINT))
    steps = demo.Demo()
    assert steps.engine(demo.CHECKPOINT) == Path("artifacts/street-lite-fp16.engine")
    assert "(up to date)" in steps.table()


def test_accuracy_is_kept_for_the_same_engine_and_data_alone(tmp_path):
    kept = tmp_path / "accuracy.json"
    assert demo.kept_accuracy(kept, "abc", Path("data")) is None
    kept.write_text(json.dumps({"sha256": "abc", "data": "data", "metrics": {}}))
    assert demo.kept_accuracy(kept, "abc", Path("data")) is not None
    assert demo.kept_accuracy(kept, "other", Path("data")) is None
    assert demo.kept_accuracy(kept, "abc", Path("elsewhere")) is None
    kept.write_text("not JSON")
    assert demo.kept_accuracy(kept, "abc", Path("data")) is None
