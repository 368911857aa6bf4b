"""area_sweep.py and the floor: multiply-adds against torch's own count, rows, the newest of each size, the plot."""

import csv
import io
import json
import re
import time

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from mask2edge.benchmarks import area_sweep, timing
from mask2edge.benchmarks.contenders import CONTENDERS, OURS, REFERENCE, Contender
from mask2edge.benchmarks.multiply_adds import Gemm, multiply_adds
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer


class Products(torch.nn.Module):
    """A convolution with a stride, one in groups, a linear layer, a batched product, an einsum."""

    def __init__(self):
        super().__init__()
        self.strided = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = torch.nn.Conv2d(8, 16, (1, 3), groups=4, padding=(0, 1))
        self.linear = torch.nn.Linear(16, 10)

    def forward(self, pixels):
        maps = self.grouped(self.strided(pixels).relu())  # [1, 16, H/2, W/2]
        tokens = self.linear(maps.flatten(2).transpose(1, 2))  # [1, S, 10]
        mixed = tokens.transpose(1, 2) @ tokens  # [1, 10, 10]
        return torch.einsum("bqc,bchw->bqhw", mixed[:, :, :1].expand(-1, -1, 16), maps)


def test_multiply_adds_are_those_that_torch_counts():
    model, pixels = Products().eval(), torch.randn(1, 3, 16, 24)
    with FlopCounterMode(display=False) as counter:
        model(pixels)
    file = io.BytesIO()
    torch.onnx.export(model, (pixels,), dynamo=True, opset_version=18, verbose=False).save(file)
    exported = onnx.load_from_string(file.getvalue())
    assert {"Conv", "Einsum"} <= {node.op_type for node in exported.graph.node}
    assert 2 * multiply_adds(exported, (1, 3, 16, 24)) == counter.get_total_flops()


def one_node(op, inputs, **attributes):
    declared = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(inputs)]
    domain = attributes.pop("domain", "")
    node = helper.make_node(op, [value.name for value in declared], ["y"], domain=domain, **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [onnx.numpy_helper.from_array(np.zeros(s, np.float32), f"x{i}") for i, s in enumerate(inputs) if i]
    graph = helper.make_graph([node], op, declared[:1], [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


COUNTS = [
    ("Gemm", [(5, 7), (7, 3)], {}, 5 * 7 * 3),
    ("Gemm", [(7, 5), (3, 7)], {"transA": 1, "transB": 1}, 5 * 7 * 3),
    ("MatMul", [(2, 4, 5, 7), (7, 3)], {}, 2 * 4 * 5 * 7 * 3),
    ("Einsum", [(2, 5), (2, 5, 6)], {"equation": "bc, bcd -> bd"}, 2 * 5 * 6),
    ("MaskedAttention", [(1, 10, 8), (1, 60, 8), (1, 60, 8), (1, 10, 60)], {"domain": "mask2edge"}, 2 * 10 * 60 * 8),
    ("Relu", [(5, 7)], {}, 0),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "expected"), COUNTS, ids=[str(i) for i in range(len(COUNTS))])
def test_multiply_adds_of_one_node(op, inputs, attributes, expected):
    assert multiply_adds(one_node(op, inputs, **attributes), inputs[0]) == expected


def test_a_product_of_unknown_shape_is_not_counted_as_none():
    model = one_node("MatMul", [(5, 7), (7, 3)])
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ValueError, match=r"MatMul .*the shape of nowhere is unknown"):
        multiply_adds(model, (5, 7))


def test_the_product_that_is_timed_is_of_its_shape():
    product = Gemm(1, (6, 5, 4))
    product.run()
    assert product.flop == 2 * 6 * 5 * 4
    assert np.abs(product._product.numpy()).min() > 0


class Toy:
    def __init__(self, seconds):
        self.seconds = seconds

    def run(self, pixels):
        time.sleep(self.seconds * pixels.shape[2] / 32)
        return {name: np.ones((1, 2, 3), np.float32) for name in ("class_logits", "mask_logits")}


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Ours takes a quarter of the stock network's time; the network is one linear layer of 32 x 96 x H values."""
    table = {
        name: Contender(name, "fp32", lambda peer, threads, seconds=seconds: Toy(seconds))
        for name, seconds in ((REFERENCE, 0.02), (OURS, 0.005))
    }
    monkeypatch.setattr(area_sweep, "CONTENDERS", {**CONTENDERS, **table})
    onnx.save(one_node("MatMul", [(1, 3, 32, 32), (32, 96)]), tmp_path / "model.onnx")
    monkeypatch.setattr(area_sweep.onnxruntime_stock, "prepare", lambda backbone, size: StockPeer(tmp_path))
    monkeypatch.setattr(area_sweep, "RESULTS", tmp_path / "results" / "area_sweep.csv")
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(area_sweep, "Gemm", lambda threads: Gemm(threads, (64, 64, 64)))
    return tmp_path


def run(capsys, *arguments):
    code = area_sweep.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_ratio_floor_and_rows(toys, capsys):
    arguments = ("--sizes", "32x32,64x32", "--threads", "1", "--runs", "3", "--warmup", "0", "--save")
    code, out, _ = run(capsys, *arguments, "--json")
    result = json.loads(out)
    assert code == 0
    assert [row["size"] for row in result["sizes"]] == ["32x32", "64x32"]
    for row, height in zip(result["sizes"], (32, 64), strict=True):
        assert 0.1 < row["ratio"] < 0.6
        assert row["ratio"] == pytest.approx(row["ours_p50_ms"] / row["stock_p50_ms"], abs=1e-3)
        assert row["gflop"] == round(2 * 3 * height * 32 * 96 / 1e9, 2)
        assert row["floor_ratio"] == pytest.approx(row["floor_ms"] / row["stock_p50_ms"], abs=0.01)
    run(capsys, *arguments)
    with (toys / "results" / "area_sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == area_sweep.COLUMNS
    assert [row["size"] for row in rows] == ["32x32", "64x32"] * 2
    newest = area_sweep.saved_rows(toys / "results" / "area_sweep.csv", rows[0]["cpu"], 1, "r50")
    assert newest == rows[2:]


def test_the_plot_has_a_point_for_each_size_and_is_the_same_again(toys, capsys):
    pytest.importorskip("matplotlib")
    run(capsys, "--sizes", "64x32,32x32", "--threads", "1", "--runs", "3", "--warmup", "0", "--save")
    for name in ("one.svg", "two.svg", "three.png"):
        code, out, err = run(capsys, "--sizes", "", "--threads", "1", "--plot", toys / name)
        assert (code, out) == (0, "")
        assert f"wrote {toys / name}" in err
    text = (toys / "one.svg").read_text()
    assert text == (toys / "two.svg").read_text()
    for expected in ("32×32", "64×32", "mask2edge fp32", "floor"):
        assert f"<!-- {expected}" in text or expected in text
    assert (toys / "three.png").read_bytes().startswith(b"\x89PNG")


def test_another_table_is_not_plotted(toys, capsys):
    area_sweep.RESULTS.parent.mkdir()
    area_sweep.RESULTS.write_text("date,ratio\n2026-11-22,0.5\n")
    code, out, err = run(capsys, "--sizes", "", "--plot", toys / "one.svg")
    assert (code, out) == (2, "")
    assert "area_sweep.csv: expected the columns date, commit, machine," in err
    assert err.count("\n") == 1


BAD = [
    (["--sizes", "30x32"], "--size: expected multiples of 32"),
    (["--sizes", "", "--plot", "a.svg", "--threads", "77"], "expected rows of .* with 77 threads to plot, got none"),
    (["--plot", "a.pdf"], "--plot: expected a name ending in .svg or .png, got a.pdf"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(arguments, message, toys, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert re.search(message, err), err
