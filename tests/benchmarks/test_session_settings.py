"""session_settings.py: every setting runs the same network, rows are complete, and a bad engine is one line."""

import csv
import json
import sys
from dataclasses import replace

import pytest

from mask2edge.benchmarks import session_settings, timing
from mask2edge.runtime.session_onnxruntime import session_options
from mask2edge.runtime.spec import EngineSpec


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)


@pytest.fixture
def photograph(tmp_path):
    import cv2
    import numpy as np

    path = tmp_path / "photograph.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    return path


def test_one_row_for_each_setting(color_engine, photograph, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session_settings, "RESULTS", tmp_path / "settings.csv")
    arguments = [str(color_engine()), "--image", str(photograph), "--threads", "2", "--runs", "2", "--json", "--save"]
    assert session_settings.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    assert [row["setting"] for row in rows] == list(session_settings.SETTINGS)
    assert rows[0]["network_ratio"] == rows[0]["total_ratio"] == 1
    assert all(row["peak_memory_mb"] > 10 and row["total_p50_ms"] > 0 for row in rows)
    saved = list(csv.DictReader((tmp_path / "settings.csv").read_text().splitlines()))
    assert [row["setting"] for row in saved] == [row["setting"] for row in rows]


def test_a_setting_takes_the_place_of_the_runtimes_own():
    spins = session_options(2, {"session.force_spinning_stop": "0"})
    assert spins.get_session_config_entry("session.force_spinning_stop") == "0"
    assert session_options(2).get_session_config_entry("session.force_spinning_stop") == "1"
    assert session_options(2).intra_op_num_threads == 2


def test_without_onnx_runtime_is_one_line(color_engine, photograph, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert session_settings.main([str(color_engine()), "--image", str(photograph)]) == 2
    captured = capsys.readouterr()
    assert "this engine runs on ONNX Runtime, which cannot be imported" in captured.err
    assert captured.err.count("\n") == 1


def test_an_engine_for_another_backend_is_refused(color_engine, photograph, capsys):
    engine = color_engine()
    replace(EngineSpec.load(engine), backend="tensorrt").save(engine)
    assert session_settings.main([str(engine), "--image", str(photograph)]) == 2
    assert capsys.readouterr().err == (
        f"error: {engine}: expected an engine for ONNX Runtime, got one for tensorrt; "
        "build one with --backend onnxruntime\n"
    )


def test_warm_up_is_no_negative_number(color_engine, capsys):
    with pytest.raises(SystemExit, match="2"):
        session_settings.main([str(color_engine()), "--warmup", "-1"])
    assert "--warmup: expected a whole number from 0, got '-1'" in capsys.readouterr().err


def test_the_flag_of_the_fresh_process_is_not_offered(capsys):
    with pytest.raises(SystemExit, match="0"):
        session_settings.main(["--help"])
    assert "peak-of" not in capsys.readouterr().out


def test_no_engine_is_one_line(tmp_path, capsys):
    assert session_settings.main([str(tmp_path / "none.engine")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
