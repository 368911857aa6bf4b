"""latency.py --scenario: the real MLPerf LoadGen drives a tiny engine; its summary is the oracle of what we report."""

import csv
import json
import os
import re
import signal
import sys

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import latency, loadgen_report, loadgen_scenarios
from mask2edge.benchmarks.artifact import sha256_of_artifact
from mask2edge.benchmarks.loadgen_log import LoadGenLog
from mask2edge.runtime.command_line import InputError

# Early stopping at the 90th percentile takes 64 queries; a valid MultiStream run takes 662, which is not waited for.
SCENARIOS = {
    "SingleStream": [],
    "MultiStream": ["--min-queries", "5", "--samples-per-query", "3"],
    "Server": ["--target-qps", "200", "--min-queries", "20", "--target-latency-ms", "5000"],
    "Offline": ["--min-queries", "7"],
}
# What LoadGen's summary calls what a report gives, in the report's unit times this.
HEADLINES = {
    "SingleStream": ("90.0th percentile latency (ns)", "latency_p90_ms", 1e6),
    "MultiStream": ("99.0th percentile latency (ns)", "latency_p99_ms", 1e6),
    "Server": ("Completed samples per second", "completed_per_s", 1),
    "Offline": ("Samples per second", "samples_per_s", 1),
}


def run(capfd, *arguments):
    """capfd: LoadGen is no Python, and could write past sys.stdout."""
    code = latency.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return code, out, err


def summary_of(folder):
    """LoadGen's text as {name: value}."""
    text = (folder / "mlperf_log_summary.txt").read_text()
    return dict(re.findall(r"^ *([^:\n]+?) *: *(\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("batch", [1, 2])
def test_each_scenario_is_what_loadgen_says(scenario, batch, color_engine, tmp_path, capfd):
    engine = color_engine(batch=batch)
    arguments = ["--scenario", scenario, "--seconds", "0.1", "--monitor", "0", "--logs", tmp_path / "logs", "--json"]
    code, out, _ = run(capfd, engine, *arguments, *SCENARIOS[scenario])
    report = json.loads(out)
    assert code == 0
    assert (report["engine"], report["sha256"]) == (str(engine), sha256_of_artifact(engine))
    assert (report["scenario"], report["mode"], report["measures"]) == (scenario, scenario, "end-to-end")
    assert report["logs"] == str(tmp_path / "logs" / f"colors.engine-{scenario}")
    summary = summary_of(tmp_path / "logs" / f"colors.engine-{scenario}")
    assert report["verdict"] == summary["Result is"]
    words = {"min_duration": "Min duration", "min_queries": "Min queries", "early_stopping": "Early stopping"}
    for name, said in words.items():
        assert report["constraints"][name] == (summary[f"{said} satisfied"] in ("Yes", "Skipped"))
    said, name, factor = HEADLINES[scenario]
    assert report["result"][name] * factor == pytest.approx(float(summary[said]), rel=1e-3)
    assert report["settings"]["min_duration_ms"] == 100
    assert report["differs_from_mlperf"]["min_duration_ms"] == {"here": 100, "mlperf": 600000}
    assert float(summary["min_duration (ms)"]) == 100
    per_query = report["samples"] / report["queries"]
    assert per_query == float(summary["samples_per_query"]) == {"MultiStream": 3}.get(scenario, per_query)
    if scenario == "Offline":
        assert report["latency_ms"] is None
        assert report["samples"] >= 7
    else:
        for ours, theirs in (
            ("min", "Min"),
            ("max", "Max"),
            ("p50", "50.00 percentile"),
            ("p99_9", "99.90 percentile"),
        ):
            assert report["latency_ms"][ours] * 1e6 == pytest.approx(float(summary[f"{theirs} latency (ns)"]))


def test_a_run_that_is_long_enough_is_valid_and_fewer_queries_are_not(color_engine, capfd):
    engine = color_engine()
    code, out, _ = run(capfd, engine, "--scenario", "SingleStream", "--seconds", "0.1", "--json")
    report = json.loads(out)
    assert (code, report["verdict"]) == (0, "VALID")
    assert report["queries"] >= 100
    assert report["device"]["process"]["memory_peak_mb"] > 1
    options = ("--scenario", "MultiStream", "--min-queries", "2", "--seconds", "0.01", "--json")
    code, out, _ = run(capfd, engine, *options)
    report = json.loads(out)
    assert (code, report["verdict"], report["constraints"]["early_stopping"]) == (0, "INVALID", False)
    assert "Need to process at least 662 queries for early stopping." in report["notes"]
    assert report["differs_from_mlperf"]["min_query_count"] == {"here": 2, "mlperf": 662}
    assert report["settings"]["multi_stream_samples_per_query"] == 8  # MLPerf's own
    assert report["result"]["early_stopping_p99_ms"] is None


def test_a_late_server_is_invalid_and_the_target_is_stated(color_engine, capfd):
    options = ("--target-qps", "300", "--target-latency-ms", "0.001", "--min-queries", "10", "--seconds", "0.05")
    code, out, _ = run(capfd, color_engine(), "--scenario", "Server", *options, "--json")
    report = json.loads(out)
    assert (code, report["verdict"], report["constraints"]["performance"]) == (0, "INVALID", False)
    assert report["result"]["late_queries"] == report["queries"]
    assert report["settings"]["server_target_qps"] == 300
    assert report["settings"]["server_target_latency_ns"] == 1000
    assert "Reduce target QPS to improve latency." in report["notes"]


def test_a_servers_queries_are_enough_for_early_stopping(color_engine):
    loadgen = pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen: pip install 'mask2edge[latency]'")
    scenario = loadgen_scenarios.Scenario("Server", 1.0, target_qps=5.0)
    settings, _ = loadgen_scenarios._settings(loadgen, scenario, 0.1, 1, 1)
    count = settings.min_query_count
    assert 0.99**count <= 0.01 < 0.99 ** (count - 1)  # none of them late, at 99 % confidence


@pytest.mark.parametrize("network_only", [False, True])
def test_several_engines_images_and_the_table(network_only, color_engine, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(latency, "RESULTS", tmp_path / "results")
    engines = [color_engine("one"), color_engine("two", batch=3)]
    images = [tmp_path / f"{name}.png" for name in "ab"]
    for number, path in enumerate(images):
        cv2.imwrite(str(path), np.full((50 + 20 * number, 70, 3), 90, np.uint8))
    given = [argument for path in images for argument in ("--image", path)]
    flag = ["--network-only"] if network_only else []
    options = ["--scenario", "SingleStream", "--seconds", "0.05", "--save"]
    code, out, _ = run(capfd, *engines, *given, *options, *flag)
    assert code == 0
    assert out.count("SingleStream by MLPerf LoadGen") == 2
    assert "images 2" in out
    assert "differs from MLPerf: min_duration_ms 50, there 600000" in out
    assert ("network: VALID" if network_only else "end-to-end: VALID") in out
    with (tmp_path / "results" / "scenarios.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == loadgen_report.COLUMNS
    assert [row["sha256"] for row in rows] == [sha256_of_artifact(engine) for engine in engines]
    assert json.loads(rows[0]["settings"])["min_duration_ms"] == 50
    assert json.loads(rows[1]["result"])["latency_p90_ms"] > 0


@pytest.mark.parametrize("scenario", ["SingleStream", "Server"])
@pytest.mark.parametrize("error", [InputError("engine: broke down"), None], ids=["error", "Ctrl-C"])
def test_an_error_ends_the_run_and_is_reported(scenario, error, color_engine, tmp_path, monkeypatch, capfd):
    """In a callback of LoadGen's, an exception would end the process."""
    calls = []
    before = signal.getsignal(signal.SIGINT)

    def breaks_down(engine):
        def work(places):
            calls.append(places)
            if len(calls) == 11:
                if error:
                    raise error
                os.kill(os.getpid(), signal.SIGINT)

        return work

    monkeypatch.setattr(loadgen_scenarios, "end_to_end", breaks_down)
    options = SCENARIOS[scenario] + ["--scenario", scenario, "--seconds", "0.05", "--warmup-ms", "0"]
    code, out, err = run(capfd, color_engine(), *options, "--logs", tmp_path / "logs")
    assert (code, out) == ((2, "") if isinstance(error, InputError) else (130, ""))
    assert ("error: engine: broke down" if code == 2 else "interrupted") in err
    assert len(calls) == 11 or not error  # a signal comes when the main thread has time for it
    assert signal.getsignal(signal.SIGINT) is before
    assert list((tmp_path / "logs").iterdir()) == []  # no half of a log


def test_without_the_package_the_extra_is_named(color_engine, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    code, out, err = run(capfd, color_engine(), "--scenario", "Offline")
    assert (code, out) == (2, "")
    assert re.search(r"error: --scenario: MLPerf LoadGen cannot be imported .*pip install 'mask2edge\[latency\]'", err)


BAD = [
    (["--scenario", "Server"], "--scenario Server: expected --target-qps"),
    (["--target-qps", "3"], "--target-qps: expected --scenario with it"),
    (["--network-only"], "--network-only: expected --scenario with it"),
    (["--scenario", "SingleStream", "--target-qps", "3"], "--target-qps: expected --scenario Server or Offline, got"),
    (["--scenario", "Offline", "--target-latency-ms", "3"], "--target-latency-ms: expected --scenario Server, got Off"),
    (["--scenario", "Offline", "--samples-per-query", "3"], "--samples-per-query: expected --scenario MultiStream"),
    (["--scenario", "Offline", "--runs", "3"], "--scenario: expected no --runs with it"),
    (["--scenario", "Offline", "--cool", "3"], "--scenario: expected no --cool with it"),
    (["--scenario", "Offline", "--sustained", "3"], "--scenario: expected no --sustained with it"),
    (["--scenario", "Offline", "--peer", "onnxruntime-stock"], "--scenario: expected no --peer with it"),
    (["--scenario", "SingleStream", "--logs", "file"], "--logs file: expected a folder, got a file of that name"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(arguments, message, color_engine, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code, out, err = run(capfd, color_engine(), *arguments)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert re.search(message, err), err


def test_a_log_without_a_verdict_is_no_result(tmp_path):
    (tmp_path / "mlperf_log_summary.txt").write_text("================\nMLPerf Results Summary\n")
    (tmp_path / "mlperf_log_detail.txt").write_text("")
    with pytest.raises(ValueError, match="no verdict"):
        LoadGenLog.read(tmp_path)
