"""The post-processing benchmark: what it measures, on a small size, and the logits that it makes."""

import csv
import json

import numpy as np
import pytest

from mask2edge.benchmarks import postprocessing
from mask2edge.benchmarks.synthetic_logits import synthetic_logits
from mask2edge.runtime.postprocess import _softmax
from mask2edge.trt_plugins import cpu_library, why_no_cpu_library


def test_synthetic_logits_are_what_networks_give():
    logits = synthetic_logits(15, 100, 133, (128, 128))
    assert logits.class_logits.shape == (100, 134)
    assert logits.mask_logits.shape == (100, 128, 128)
    assert logits.class_logits.dtype == logits.mask_logits.dtype == np.float32
    probabilities = _softmax(logits.class_logits)
    is_sure = (probabilities.argmax(1) < 133) & (probabilities.max(1) > 0.8)
    assert is_sure.sum() == 15
    assert (probabilities.argmax(1)[~is_sure] == 133).all()
    # Sure masks share the image: about one of them on each pixel, and few pixels that are neither in nor out.
    inside = 1 / (1 + np.exp(-logits.mask_logits[is_sure]))
    assert 0.5 < (inside > 0.5).sum(0).mean() < 1.2
    assert ((inside > 0.1) & (inside < 0.9)).mean() < 0.1
    np.testing.assert_array_equal(synthetic_logits(15).mask_logits, logits.mask_logits)
    assert (synthetic_logits(15, seed=1).mask_logits != logits.mask_logits).any()


@pytest.mark.skipif(cpu_library() is None, reason=why_no_cpu_library())
def test_a_row_has_times_ratio_and_equality(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(postprocessing, "RESULTS", tmp_path / "rows.csv")
    arguments = ["--case", "synthetic-15", "--task", "panoptic", "--size", "90x160", "--runs", "1", "--threads", "1"]
    assert postprocessing.main([*arguments, "--save", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["postprocessing"]
    assert row["native_p50_ms"] > 0
    assert row["numpy_ms"] > 0
    assert row["equal"] >= 0.999
    assert row["share"] == ""
    with (tmp_path / "rows.csv").open() as file:
        (saved,) = csv.DictReader(file)
    assert saved["size"] == "90x160"
    assert float(saved["native_p50_ms"]) == row["native_p50_ms"]


def test_a_size_that_is_none_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        postprocessing.main(["--size", "1080"])
    assert stop.value.code == 2
    assert "--size" in capsys.readouterr().err
