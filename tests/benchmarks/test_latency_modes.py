"""latency.py: A/A, several images, the same artifact as accuracy.py's by checksum, cool and sustained, the monitor."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import accuracy, device_monitor, latency, latency_report, timing
from mask2edge.benchmarks.timed_engine import open_engines
from mask2edge.runtime.command_line import sha256_of


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)


def run(capsys, *arguments):
    code = latency.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_same_engine_twice_is_an_a_a_test(color_engine, tmp_path, monkeypatch, capsys):
    engine = color_engine()
    code, out, err = run(capsys, engine, engine, "--runs", 4, "--json")
    result = json.loads(out)
    one, other = result["engines"]
    assert code == 0
    assert f"timing 2 in turns: {engine}, {engine} (2)" in err
    assert one["engine"] == other["engine"] == str(engine)
    assert one["runs"] == other["runs"] == 4
    ratios = {step: other[f"{step}_ms"]["p50"] / one[f"{step}_ms"]["p50"] for step in ("network", "total")}
    assert other["ratio_to_first"] == pytest.approx(ratios, abs=1e-4)
    assert "ratio_to_first" not in one
    twice = result["a_a"]
    assert {step: twice[step] for step in ratios} == other["ratio_to_first"]
    assert twice["bound"] == 0.03
    assert twice["within"] == all(abs(ratio - 1) <= 0.03 for ratio in other["ratio_to_first"].values())
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    code, out, _ = run(capsys, engine, engine, "--runs", 2, "--save")
    with (tmp_path / "latency.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["ratio_to_first"] == ""
    medians = [float(row["total_p50_ms"]) for row in (first, second)]
    assert float(second["ratio_to_first"]) == pytest.approx(medians[1] / medians[0], abs=1e-4)
    assert re.search(r"A/A, .*colors.engine against itself: network [\d.]+, total [\d.]+: (NOT )?within 3%", out)


def report(sha256, network, total):
    return {"engine": f"{sha256}.engine", "sha256": sha256, "network_ms": {"p50": network}, "total_ms": {"p50": total}}


def test_the_farthest_pair_of_one_artifact_decides():
    reports = [report("a", 10, 20), report("b", 5, 5), report("a", 10.1, 20.2), report("b", 5, 4.8), report("c", 1, 1)]
    assert latency_report.a_a(reports) == {
        "engine": "b.engine", "network": 1.0, "total": 0.96, "bound": 0.03, "within": False
    }  # fmt: skip
    assert latency_report.a_a(reports[:3])["within"]
    assert latency_report.a_a(reports[:2]) is None


def test_images_are_taken_in_turn(color_engine, tmp_path, monkeypatch):
    pictures = [np.full((40, 60, 3), value, np.uint8) for value in (10, 20, 30)]
    (engine,) = open_engines([color_engine(batch=2)], pictures, None, 1)
    seen = []
    prepare = engine.segmenter.prepare
    monkeypatch.setattr(
        engine.segmenter,
        "prepare",
        lambda images: seen.append([int(one[0, 0, 0]) for one in images]) or prepare(images),
    )
    for _ in range(3):
        engine.run()
    assert seen == [[10, 20], [30, 10], [20, 30]]
    assert [int(one[0, 0, 0]) for one in engine.first_batch()] == [10, 20]


def test_accuracy_and_latency_of_a_row_are_of_one_artifact(color_engine, color_data, tmp_path, monkeypatch, capsys):
    """The report joins rows by this: the same function made both checksums."""
    monkeypatch.setattr(latency, "RESULTS", tmp_path / "results")
    engine = color_engine()
    painted = np.repeat(np.arange(3), 16)[None].repeat(32, 0)  # [32, 48]
    data = color_data({"val": [(painted, painted)]})
    assert accuracy.main([str(engine), "--task", "semantic", "--data", str(data), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    code, out, _ = run(capsys, engine, "--runs", 2, "--save", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["sha256"] == figures["sha256"] == sha256_of(engine / "spec.json")
    with (tmp_path / "results" / "latency.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["sha256"] == figures["sha256"]
    assert (row["mode"], row["backend"]) == ("in turns", "onnxruntime")
    assert float(row["memory_peak_mb"]) > 1
    for step in ("preprocess", "network", "postprocess", "total"):
        assert float(row[f"{step}_p50_ms"]) == result[f"{step}_ms"]["p50"]
    assert row["power_w"] == row["drift"] == ""
    assert row["command"] == "python benchmarks/latency.py colors.engine --runs 2 --save --json"


def test_another_build_of_an_engine_has_another_checksum(color_engine):
    one, other = open_engines([color_engine("one"), color_engine("other")], [], None, 1)
    assert one.sha256 != other.sha256


def test_old_rows_stay_and_new_columns_are_empty_in_them(color_engine, tmp_path, monkeypatch, capsys):
    """The table as it was before it had checksums."""
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    old = latency_report.COLUMNS[: latency_report.COLUMNS.index("sha256")]
    (tmp_path / "latency.csv").write_text(",".join(old) + "\n" + ",".join(f"old {name}" for name in old) + "\n")
    assert run(capsys, color_engine(), "--runs", 1, "--save")[0] == 0
    with (tmp_path / "latency.csv").open() as file:
        before, after = csv.DictReader(file)
    assert before == {name: f"old {name}" if name in old else "" for name in latency_report.COLUMNS}
    assert len(after["sha256"]) == 64


def test_the_table_of_the_repository_can_grow(tmp_path, color_engine, monkeypatch, capsys):
    shutil.copy(latency.RESULTS / "latency.csv", tmp_path)
    before = (tmp_path / "latency.csv").read_text().splitlines()
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    assert run(capsys, color_engine(), "--runs", 1, "--save")[0] == 0
    after = (tmp_path / "latency.csv").read_text().splitlines()
    assert len(after) == len(before) + 1
    assert all(new.startswith(old) for old, new in zip(before, after, strict=False))


def test_a_table_of_other_columns_is_known_before_anything_is_timed(color_engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    monkeypatch.setattr(latency, "open_engines", lambda *_: pytest.fail("opened"))
    (tmp_path / "latency.csv").write_text("a,b\n1,2\n")
    code, out, err = run(capsys, color_engine(), "--save")
    assert (code, out) == (2, "")
    assert "expected the columns date, commit" in err


def test_cool_sleeps_before_each_run(color_engine, monkeypatch, capsys):
    slept = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    code, out, _ = run(capsys, color_engine(), "--runs", 3, "--cool", "1.5", "--monitor", 0, "--json")
    result = json.loads(out)
    assert code == 0
    assert slept == [1.5] * 3
    assert (result["mode"], result["rules"]["cool"]) == ("cool 1.5 s", 1.5)


def test_sustained_is_each_engine_by_itself_with_its_course(color_engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    engines = [color_engine("one"), color_engine("two")]
    options = ("--sustained", "0.05", "--warmup", 0, "--warmup-ms", 0, "--monitor", "0.01", "--save", "--json")
    code, out, _ = run(capsys, *engines, *options)
    result = json.loads(out)
    assert code == 0
    assert result["mode"] == "sustained 0.05 s"
    for each in result["engines"]:
        assert each["runs"] >= 10
        assert len(each["sustained"]["tenths_ms"]) == 10
        assert each["sustained"]["seconds"] == 0.05
        assert each["device"]["process"]["readings"] >= 1
        assert each["total_ms"]["min"] <= min(each["sustained"]["tenths_ms"])
    with (tmp_path / "latency.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["drift"]) for row in rows] == [each["sustained"]["ratio"] for each in result["engines"]]
    assert all(row["cpu_share"] and row["memory_peak_mb"] == "" for row in rows)  # both engines are in the peak
    assert [row["task"] for row in rows] == ["semantic", "semantic"]
    assert all(int(row["cores"]) == result["machine"]["cores"] for row in rows)
    assert run(capsys, engines[0], *options)[0] == 0
    with (tmp_path / "latency.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["memory_peak_mb"]) > 10
    code, out, _ = run(capsys, *engines, "--sustained", "0.01")
    assert len(re.findall("sustained: first tenth", out)) == len(re.findall("process: cores", out)) == 2


def test_the_monitor_says_what_is_not_there_and_can_be_off(color_engine, monkeypatch, capsys):
    engine = color_engine()
    monkeypatch.setenv("PATH", "")
    code, out, _ = run(capsys, engine, "--runs", 2, "--json")
    device = json.loads(out)["device"]
    assert code == 0
    assert set(device) == {"interval_s", "seconds", "not_present", *device_monitor.SOURCES}
    assert device["tegrastats"] is None
    assert "no Jetson" in device["not_present"]["tegrastats"]
    _, out, _ = run(capsys, engine, "--runs", 2)
    assert re.search(r"\nnot present: .*tegrastats \(no such program", out)
    _, out, _ = run(capsys, engine, "--runs", 2, "--monitor", 0, "--json")
    assert json.loads(out)["device"] is None
    _, out, _ = run(capsys, engine, "--runs", 2, "--monitor", 0)
    assert "device: not watched" in out


def test_rules_are_in_the_report(color_engine, capsys):
    _, out, _ = run(capsys, color_engine(), "--seconds", "0.01", "--iterations", 12, "--warmup-ms", 0, "--json")
    result = json.loads(out)
    assert result["runs"] >= 12
    assert result["rules"] == {
        "warmup": 3, "warmup_ms": 0, "runs": None, "seconds": 0.01, "iterations": 12, "cool": None, "sustained": None,
        "percentiles": "trtexec",
    }  # fmt: skip


BAD = [
    (["--sustained", "1", "--peer", "onnxruntime-stock"], "--sustained: expected no --peer with it"),
    (["--sustained", "1", "--cool", "1"], "--sustained: expected no --cool with it"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_modes_that_exclude_each_other(arguments, message, color_engine, capsys):
    code, out, err = run(capsys, color_engine(), *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cool", "0"],
        ["--sustained", "-1"],
        ["--sustained", "1", "--runs", "2"],
        ["--monitor", "often"],
        ["--cool", "nan"],
        ["--seconds", "nan"],  # would never be over
        ["--seconds", "inf"],
        ["--seconds", "-1", "--scenario", "Offline"],
    ],
)
def test_argparse_refuses(arguments, color_engine, capsys):
    with pytest.raises(SystemExit) as exit_:
        latency.main([str(color_engine()), *arguments])
    assert exit_.value.code == 2


def test_a_photograph_and_an_odd_one_share_a_batch(color_engine, tmp_path, capsys):
    for name, size in (("a", (50, 70)), ("b", (90, 31))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((*size, 3), 90, np.uint8))
    given = ("--image", tmp_path / "a.png", "--image", tmp_path / "b.png")
    assert run(capsys, color_engine(batch=2), *given, "--runs", 2)[0] == 0
