"""benchmarks/kernels.py: both sides compute the same, and its words where there is no library."""

import json
from pathlib import Path

import pytest

from mask2edge.benchmarks import kernels
from mask2edge.trt_plugins import LIBRARY_VARIABLE, onnxruntime_ops_library, why_missing


def test_without_a_library_it_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert kernels.main([]) == 2
    assert capsys.readouterr().err == f"error: {why_missing()}\n"


@pytest.mark.slow
def test_the_stock_subgraph_computes_the_same(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformers", reason="the stock subgraph is Hugging Face's: pip install transformers")
    if onnxruntime_ops_library() is None:
        pytest.skip(why_missing())
    assert kernels.main(["--case", "deformable-512", "--runs", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["kernels"]
    assert row["max_difference"] < 1e-4
    assert row["ratio"] > 0
