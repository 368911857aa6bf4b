"""compare_peers.py with toy contenders: ratios, turns, agreement, what is left out, memory, rows, bad input."""

import csv
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mask2edge.benchmarks import compare_peers, contenders, peak_memory, timing
from mask2edge.benchmarks.contenders import CONTENDERS, OURS, REFERENCE, Contender
from mask2edge.benchmarks.peers import huggingface_postprocessing, openvino_stock, torch_compile, torch_eager
from mask2edge.benchmarks.peers.network import MissingPeer
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer
from mask2edge.runtime.command_line import InputError

LOGITS = {"class_logits": np.ones((1, 3, 4), np.float32), "mask_logits": np.full((1, 3, 16, 24), 2, np.float32)}


class Toy:
    """A network that takes its time and gives LOGITS times `gain`."""

    def __init__(self, name, seconds, gain, calls):
        self.name, self.seconds, self.gain, self.calls = name, seconds, gain, calls

    def run(self, pixels):
        assert pixels.shape == (1, 3, 64, 96)
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return {name: self.gain * value for name, value in LOGITS.items()}


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Stock 20 ms, ours 10 ms, bf16 5 ms and a little off; torch-eager is not installed. The list of calls."""
    calls: list[str] = []

    def toy(name, precision, seconds, gain=1.0):
        return Contender(name, precision, lambda peer, threads: Toy(name, seconds, gain, calls))

    def missing(peer, threads):
        raise MissingPeer("torch-eager: torch is not installed")

    table = (
        toy(REFERENCE, "fp32", 0.02),
        toy(OURS, "fp32", 0.01),
        toy("openvino-bf16", "bf16", 0.005, 1.1),
        Contender("torch-eager", "fp32", missing),
    )
    monkeypatch.setattr(contenders, "CONTENDERS", {one.name: one for one in table})
    monkeypatch.setattr(compare_peers.onnxruntime_stock, "prepare", lambda backbone, size: StockPeer(tmp_path))
    monkeypatch.setattr(compare_peers, "RESULTS", tmp_path / "results" / "peers.csv")
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    return calls


def run(capsys, *arguments):
    code = compare_peers.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


SMALL = ("--size", "64x96", "--threads", "2", "--warmup", "0", "--no-memory")


def test_ratios_of_medians_agreement_and_what_is_left_out(toys, capsys):
    code, out, err = run(capsys, *SMALL, "--runs", "5", "--json")
    result = json.loads(out)
    assert code == 0
    assert list(result["ratios"]) == [REFERENCE, OURS, "openvino-bf16"]
    assert result["ratios"][REFERENCE] == 1.0
    p50 = {name: found["p50"] for name, found in result["network_ms"].items()}
    assert result["ratios"][OURS] == pytest.approx(p50[OURS] / p50[REFERENCE], abs=1e-3)
    assert 0.3 < result["ratios"][OURS] < 0.8
    assert result["ratios"]["openvino-bf16"] < result["ratios"][OURS]
    assert result["ratios_of_fastest"][REFERENCE] == 1.0
    assert 0.3 < result["ratios_of_fastest"][OURS] < 0.8
    for name, (low, high) in result["ratio_quartiles"].items():
        assert low <= high, name
    assert result["agreement"]["openvino-bf16"] == {"class_logits": 0.1, "mask_logits": 0.1}
    assert result["left_out"] == {"torch-eager": "torch-eager: torch is not installed"}
    assert err.count("left out: torch-eager: torch is not installed") == 1
    assert (result["runs"], result["threads"], result["peak_memory_mb"]) == (5, 2, {})
    assert set(result["machine"]["instruction_set"]) <= set(compare_peers.machine.INSTRUCTIONS)


def test_contenders_take_turns_after_all_were_checked(toys, capsys):
    run(capsys, *SMALL, "--runs", "2", "--json")
    assert toys[:3] == [OURS, REFERENCE, "openvino-bf16"]  # the check: ours first
    one_round = [REFERENCE, OURS, "openvino-bf16"]
    assert toys[3:] == [*one_round, *one_round[::-1]]


def test_peers_named_are_timed_beside_the_two_that_always_are(toys, capsys):
    _, out, _ = run(capsys, *SMALL, "--runs", "1", "--json", "--peers", OURS)
    assert list(json.loads(out)["ratios"]) == [REFERENCE, OURS]
    _, out, _ = run(capsys, *SMALL, "--runs", "1", "--json", "--peers", "torch-eager, openvino-bf16")
    assert list(json.loads(out)["ratios"]) == [REFERENCE, OURS, "openvino-bf16"]


def test_rows_have_machine_versions_and_accuracy(toys, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare_peers, "peak_memory_mb", lambda name, peer, size, threads: 100.0 + len(name))
    code, out, err = run(capsys, "--size", "64x96", "--threads", "1", "--runs", "3", "--warmup", "0", "--save")
    assert code == 0
    assert "appended to" in err
    assert re.search(r"mask2edge-fp32 +0\.\d{3} +0\.\d{3}–0\.\d{3} +0\.\d{3} +[\d.]+ +114", out)
    with (tmp_path / "results" / "peers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == compare_peers.COLUMNS
    assert [row["contender"] for row in rows] == [REFERENCE, OURS, "openvino-bf16"]
    assert {row["size"] for row in rows} == {"64x96"}
    assert {row["backbone"] for row in rows} == {"r50"}
    assert rows[2]["class_difference"] == "0.1"
    assert rows[1]["peak_memory_mb"] == "114.0"
    assert "numpy=" in rows[0]["versions"]


def test_a_contender_that_computes_something_else_is_not_timed(toys, monkeypatch, capsys):
    bad = Contender("openvino-bf16", "fp32", contenders.CONTENDERS["openvino-bf16"].open)  # 0.1 off, as if in fp32
    monkeypatch.setitem(contenders.CONTENDERS, "openvino-bf16", bad)
    code, out, err = run(capsys, *SMALL, "--runs", "1")
    assert (code, out) == (2, "")
    assert re.search(
        "error: openvino-bf16: expected the logits of mask2edge-fp32 within 0.05 .*got class_logits 0.1", err
    )


@pytest.mark.parametrize("change", [lambda x: np.full_like(x, np.nan), lambda x: x[:, :2], lambda x: -x])
def test_nan_another_shape_and_another_sign_do_not_agree(change):
    found = {name: change(value) for name, value in LOGITS.items()}
    with pytest.raises(InputError, match="expected the logits of"):
        contenders.check_agreement(CONTENDERS["mask2edge-int8"], found, LOGITS)


def test_an_int8_engine_that_is_named_takes_part(toys, color_engine, monkeypatch, capsys):
    monkeypatch.setitem(contenders.CONTENDERS, contenders.INT8, CONTENDERS[contenders.INT8])
    no_photographs(monkeypatch)
    _, out, err = run(capsys, *SMALL, "--runs", "1", "--json")
    assert "expected scikit-learn's china.jpg" in json.loads(out)["left_out"]["mask2edge-int8"]
    # Its logits are of the colours, not LOGITS: seen to be opened, run and compared.
    arguments = ("--peers", OURS, "--int8-engine", color_engine("eight"))
    code, out, err = run(capsys, *SMALL, "--runs", "1", *arguments)
    assert (code, out) == (2, "")
    assert "error: mask2edge-int8: expected the logits of mask2edge-fp32 within 0.7" in err


def test_engines_of_ones_own_are_contenders(toys, color_engine, monkeypatch, capsys):
    """An engine of other weights is opened, run, and refused."""
    code, out, err = run(capsys, *SMALL, "--runs", "1", "--engine", color_engine("third"))
    assert (code, out) == (2, "")
    assert "error: third: expected the logits of mask2edge-fp32 within 0.05" in err


BAD = [
    (["--peers", "tensorflow"], "--peers: expected some of onnxruntime-stock, .*got 'tensorflow'"),
    (["--size", "60x96"], "--size: expected multiples of 32, got 60x96; use 64x96"),
    (["--size", "large"], "--size: expected HEIGHTxWIDTH"),
    (["--engine", "nowhere.engine"], "nowhere.engine: expected an engine folder"),
    (["--peers", "mask2edge-int8", "--int8-engine", "nowhere.engine"], "nowhere.engine: expected an engine folder"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    "arguments",
    [["--runs", "0"], ["--runs", "2", "--seconds", "1"], ["--seconds", "nan"], ["--backbone", "vgg"]],
)
def test_argparse_refuses(arguments):
    with pytest.raises(SystemExit) as exit_:
        compare_peers.main(arguments)
    assert exit_.value.code == 2


def hide(monkeypatch, *packages):
    find = torch_eager.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in packages else find(name, *rest))
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def no_bf16(monkeypatch):
    openvino = pytest.importorskip("openvino")

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Core)


def no_compiler(monkeypatch):
    monkeypatch.setattr(torch_compile, "load_model", lambda name, peer, threads: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch_compile.shutil, "which", lambda name: None)


def no_photographs(monkeypatch):
    """Nothing to calibrate with."""
    monkeypatch.setattr("mask2edge.benchmarks.demo.importlib.util.find_spec", lambda name: None)


MISSING = [
    ("torch-eager", lambda m: hide(m, "torch"), "torch-eager: torch is not installed; pip install"),
    ("torch-compile", lambda m: hide(m, "transformers"), "torch-compile: transformers is not installed"),
    ("torch-compile", no_compiler, "torch-compile: inductor needs a C.. compiler"),
    ("openvino-fp32", lambda m: hide(m, "openvino"), "openvino-fp32: openvino is not installed"),
    ("openvino-bf16", no_bf16, "openvino-bf16: this CPU has no bf16 arithmetic .OpenVINO lists FP32, INT8."),
    ("mask2edge-int8", no_photographs, "mask2edge-int8: expected scikit-learn's china.jpg, which is not installed"),
]


@pytest.mark.parametrize(("name", "arrange", "message"), MISSING, ids=[str(i) for i in range(len(MISSING))])
def test_what_a_peer_lacks_is_one_line(name, arrange, message, tmp_path, monkeypatch):
    arrange(monkeypatch)
    with pytest.raises(MissingPeer, match=message) as raised:
        CONTENDERS[name].open(StockPeer(tmp_path), 1)
    assert "\n" not in str(raised.value)


def test_openvinos_settings_name_the_precision():
    assert openvino_stock.settings("openvino-bf16", None) == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 0,
    }
    assert openvino_stock.settings("openvino-fp32", 2)["INFERENCE_PRECISION_HINT"] == "f32"


def test_a_pause_lasts_until_the_pool_sleeps(monkeypatch):
    """A thread that spins for a quarter of a second is waited for; an idle process is not."""
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.01)
    used = iter([0.0, 0.01, 0.01, 0.019, 0.019, 0.0192])  # CPU seconds before and after each of three pauses
    monkeypatch.setattr(timing.time, "process_time", lambda: next(used))
    slept = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    timing.wait_for_idle_pools()
    assert slept == [0.01] * 3


def test_peak_memory_is_that_of_a_process_of_its_own(color_engine, tmp_path):
    ballast = np.ones(400 << 17)  # 400 MiB in this process, which the other must not inherit
    engine = color_engine()
    peak = peak_memory.peak_memory_mb(str(engine), StockPeer(tmp_path), (64, 96), 1)
    assert 20 < peak < 300
    assert peak_memory.peak_of_this_process_mb() > 400
    del ballast


def test_peak_memory_of_a_peer_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "openvino.py").write_text("raise ImportError('as if it were not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingPeer, match=r"^openvino-fp32: openvino is not installed"):
        peak_memory.peak_memory_mb("openvino-fp32", StockPeer(tmp_path), (64, 96), 1)
    with pytest.raises(InputError, match="onnxruntime-stock: its process ended with exit code 1"):
        peak_memory.peak_memory_mb("onnxruntime-stock", StockPeer(tmp_path), (64, 96), 1)


def test_huggingface_postprocessing_is_run_at_the_images_size():
    pytest.importorskip("transformers")
    post = huggingface_postprocessing.HuggingFacePostprocessing({1}, 0.5, 0.8)
    class_logits = np.float32([[9, 0, 0], [0, 9, 0]])  # [2, 3]: classes 0 and 1
    mask_logits = np.full((2, 16, 24), -9, np.float32)
    mask_logits[0, :, :12] = mask_logits[1, :, 12:] = 9
    halves = np.zeros((30, 40), int)
    halves[:, 20:] = 1
    for task, first in (("semantic", 0), ("panoptic", 1), ("instance", 0)):
        found = post(task, class_logits, mask_logits, (30, 40))
        assert found.shape == (30, 40)
        if task != "instance":  # its order of queries is topk's, unsorted
            assert (found == halves + first).mean() > 0.94
        assert len(np.unique(found)) == 2
    with pytest.raises(ValueError, match="expected one of semantic, panoptic, instance"):
        post("depth", class_logits, mask_logits, (30, 40))


@pytest.mark.slow
def test_every_peer_agrees_at_a_small_size(tmp_path, monkeypatch, capsys):
    """The real thing at 64x64: the stock export, and whatever this machine has; torch-compile takes minutes."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "--size", "64x64", "--threads", "2", "--runs", "3", "--json")
    result = json.loads(out)
    assert code == 0
    assert {REFERENCE, OURS, "torch-eager"} <= set(result["ratios"])
    assert set(result["ratios"]) | set(result["left_out"]) == set(CONTENDERS)
    assert set(result["peak_memory_mb"]) == set(result["ratios"])
    for name, errors in result["agreement"].items():
        if CONTENDERS[name].precision == "fp32":
            assert max(errors.values()) < 1e-3, name
    assert Path("artifacts/peers/stock-r50-64x64/ours.engine/spec.json").is_file()
