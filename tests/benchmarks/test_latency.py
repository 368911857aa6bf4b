"""latency.py: its JSON, several engines in turns, the peer's ratio and the check of equal weights, bad input."""

import csv
import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest

from mask2edge.benchmarks import latency, latency_report, own_engine
from mask2edge.benchmarks.peers import onnxruntime_stock
from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.spec import EngineSpec, Profile

SUMMARY = {"p50", "p90", "p95", "p99", "mean", "min", "max"}


def run(capsys, *arguments):
    code = latency.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def check_engine(report, runs):
    for step in ("network", "preprocess", "postprocess", "total"):
        summary = report[f"{step}_ms"]
        assert set(summary) == SUMMARY
        ordered = [summary[name] for name in ("min", "p50", "p90", "p95", "p99", "max")]
        assert ordered[0] > 0
        assert ordered == sorted(ordered)
    parts = sum(report[f"{step}_ms"]["mean"] for step in ("network", "preprocess", "postprocess"))
    assert report["total_ms"]["mean"] == pytest.approx(parts, abs=0.005)
    assert report["throughput"] == pytest.approx(1000 * report["batch"] / report["total_ms"]["mean"], abs=0.01)
    assert report["runs"] == runs


def test_one_engine_is_the_object_itself(color_engine, capsys):
    engine = color_engine(batch=2)
    code, out, _ = run(capsys, engine, "--runs", 4, "--warmup", 1, "--threads", 1, "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["engine"], report["batch"], report["size"]) == (str(engine), 2, "64x96")
    assert report["machine"]["cores"] >= 1
    check_engine(report, 4)


def test_several_engines_are_a_list_in_their_order(color_engine, capsys):
    engines = [color_engine("one"), color_engine("two", size=(32, 32))]
    code, out, _ = run(capsys, *engines, "--runs", 3, "--json")
    result = json.loads(out)
    assert code == 0
    assert [report["engine"] for report in result["engines"]] == [str(engine) for engine in engines]
    for report in result["engines"]:
        check_engine(report, 3)


def test_an_image_of_ones_own_and_the_table(color_engine, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((50, 70, 3), 90, np.uint8))
    code, out, err = run(capsys, color_engine(), "--image", tmp_path / "photo.png", "--seconds", "0.01")
    assert code == 0
    assert re.search(r"network( +[\d.]+){7}\n", out)
    assert "images/s" in out
    assert "timing 1 in turns" in err


def test_an_engine_of_several_sizes_names_those_that_it_was_timed_at(color_engine, tmp_path, capsys):
    """Not the best size of its profile, which none of these images has."""
    engine = color_engine()
    network = onnx.load(engine / "model.onnx")
    for value in (*network.graph.input, *network.graph.output):
        for place, length in enumerate(value.type.tensor_type.shape.dim):
            if place > 1:
                length.dim_param = f"{value.name}{place}"
    onnx.save(network, engine / "model.onnx")
    profile = Profile((1, 32, 32), (1, 64, 96), (1, 128, 128))
    files = {"model.onnx": sha256_of(engine / "model.onnx")}
    dataclasses.replace(EngineSpec.load(engine), profile=profile, files=files).save(engine)
    images = []
    for name, size in (("wide", (40, 80)), ("square", (70, 70)), ("wide as well", (41, 80))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((*size, 3), 90, np.uint8))
        images += ["--image", tmp_path / f"{name}.png"]
    for given, size in ((images, "64x64, 64x128"), ([], "64x96")):
        code, out, _ = run(capsys, engine, *given, "--runs", 1, "--monitor", 0, "--json")
        assert (code, json.loads(out)["size"]) == (0, size)


@pytest.fixture
def fake_peer(color_engine, monkeypatch):
    """The peer without its export: our own tiny engine on both sides."""
    engine = color_engine("ours")
    peer = SimpleNamespace(engine=engine, onnx=engine / "model.onnx")
    monkeypatch.setattr(onnxruntime_stock, "prepare", lambda backbone, size: peer)
    return peer


def test_peer_gives_a_ratio_of_medians_and_a_row(fake_peer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "RESULTS", tmp_path / "results")
    arguments = ["--peer", "onnxruntime-stock", "--size", "64x96", "--runs", "5", "--threads", "1", "--save", "--json"]
    code, out, _ = run(capsys, *arguments)
    result = json.loads(out)
    assert code == 0
    assert result["engine"] == str(fake_peer.engine)
    assert result["relative_difference"] == {"class_logits": 0.0, "mask_logits": 0.0}
    assert result["peer"]["name"] == "onnxruntime-stock"
    expected = result["network_ms"]["p50"] / result["peer"]["network_ms"]["p50"]
    assert result["ratio"] == pytest.approx(expected, abs=1e-4)
    run(capsys, *arguments)
    with (tmp_path / "results" / "latency.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert tuple(rows[0]) == latency_report.COLUMNS
    assert rows[0]["engine"] == "ours.engine fp32 standard"
    assert float(rows[0]["ratio"]) == result["ratio"]
    assert "onnxruntime=" in rows[0]["versions"]


def test_peer_of_other_weights_is_not_timed(fake_peer, monkeypatch, capsys):
    class Other:
        def __init__(self, path, threads):
            pass

        def run(self, pixels):
            return {"class_logits": np.ones((1, 3, 4), np.float32), "mask_logits": np.ones((1, 3, 16, 24), np.float32)}

    monkeypatch.setattr(onnxruntime_stock, "StockSession", Other)
    code, out, err = run(capsys, "--peer", "onnxruntime-stock", "--size", "64x96", "--runs", "1")
    assert (code, out) == (2, "")
    assert re.search("error: .*expected the stock export's outputs within 0.05", err)


def test_relative_error_is_none_for_equal_and_about_one_for_unrelated():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 3, 50)).astype(np.float32)
    assert onnxruntime_stock.relative_error(one, one.copy()) == 0
    assert onnxruntime_stock.relative_error(1.01 * one, one) == pytest.approx(0.01, rel=1e-3)
    assert onnxruntime_stock.relative_error(other, one) > 1


BAD = [
    ([], "expected an engine, or --peer"),
    (["nowhere.engine"], "expected an engine folder with spec.json"),
    (["ENGINE", "--image", "nowhere.jpg"], "nowhere.jpg"),
    (["ENGINE", "--task", "panoptic"], "task panoptic"),
    (["--peer", "onnxruntime-stock", "--size", "60x96"], "--size: expected multiples of 32"),
    (["--peer", "onnxruntime-stock", "--size", "wide"], "--size: expected HEIGHTxWIDTH"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(arguments, message, color_engine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    engine = str(color_engine())
    code, out, err = run(capsys, *(engine if argument == "ENGINE" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--runs", "2", "--seconds", "1"], ["--peer", "nobody"]])
def test_argparse_refuses(arguments, color_engine, capsys):
    with pytest.raises(SystemExit) as exit_:
        latency.main([str(color_engine()), *arguments])
    assert exit_.value.code == 2


def test_an_engine_of_another_size_than_the_peers_is_refused(fake_peer, color_engine, capsys):
    small = color_engine("small", size=(32, 32))
    code, _, err = run(capsys, small, "--peer", "onnxruntime-stock", "--size", "64x96", "--runs", "1")
    assert code == 2
    assert "expected batch and size 1x64x96 as the peer's, got 1x32x32" in err


def test_unknown_backbone_of_the_peer_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected one of r50, r101, swin-t, got 'vgg'"):
        onnxruntime_stock.prepare("vgg", (64, 64), tmp_path)


def test_the_peer_is_made_once_and_again_where_it_was_changed(tmp_path, monkeypatch):
    made = []

    def export(backbone, size, folder):
        made.append("export")
        (folder / "model.onnx").write_bytes(b"network")

    def run(script, *arguments):
        made.append(script)
        out = Path(arguments[arguments.index("--out") + 1])
        if script == "export/build_engine.py":
            out.mkdir(exist_ok=True)
            (out / "spec.json").write_text("{}")
        else:
            out.write_bytes(b"weights")

    monkeypatch.setattr(onnxruntime_stock, "_in_a_process_of_its_own", export)
    monkeypatch.setattr(onnxruntime_stock, "run_script", run)
    monkeypatch.setattr(own_engine, "run_script", run)
    both = ["export", "train/import_weights.py", "export/build_engine.py"]
    peer = onnxruntime_stock.prepare("r50", (64, 96), tmp_path)
    assert made == both
    assert peer.onnx == tmp_path / "stock-r50-64x96" / "model.onnx"
    onnxruntime_stock.prepare("r50", (64, 96), tmp_path)
    assert made == both  # nothing was to be done
    peer.onnx.write_bytes(b"changed")
    onnxruntime_stock.prepare("r50", (64, 96), tmp_path)
    assert made == both * 2  # our engine goes with the export
    monkeypatch.setattr(own_engine, "exporter_digest", lambda: "of other code")
    onnxruntime_stock.prepare("r50", (64, 96), tmp_path)
    assert made == [*both * 2, "export/build_engine.py"]  # an older exporter's engine is not measured


def test_a_peer_that_cannot_be_made_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(backbone, size, folder):
        own_engine.run_python("-c", "raise SystemExit('transformers is not installed')")

    monkeypatch.setattr(onnxruntime_stock, "_in_a_process_of_its_own", fail)
    with pytest.raises(InputError, match="exit code 1: transformers is not installed"):
        onnxruntime_stock.prepare("r50", (64, 96), tmp_path)
    assert list(tmp_path.iterdir()) == []
