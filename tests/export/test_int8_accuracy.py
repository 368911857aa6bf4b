"""The shipped model in int8: labels of a photograph, mIoU on CamVid, and TensorRT's front end on its graph.

    pytest -k int8_accuracy                    # one photograph
    pytest -m slow -k int8_accuracy            # mIoU over CamVid val, and plans of TensorRT-RTX: minutes

CamVid is looked for in MASK2EDGE_DATA, then beside the checkout.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_precision_accuracy import labels
from test_proxy_build import build
from tiny_export import needs_library

from mask2edge.benchmarks import accuracy
from mask2edge.benchmarks.precision_islands import pictures
from mask2edge.export.calibration_options import calibration_images
from mask2edge.export.memory_estimate import estimate_memory
from mask2edge.export.onnx_metadata import read_description
from mask2edge.export.precision import typed_graph
from mask2edge.export.quantize import ONNXRUNTIME, TENSORRT, calibrated, quantized, without_calibration

ROOT = Path(__file__).resolve().parents[2]
CUSTOM, STANDARD = ROOT / "models" / "street-lite.onnx", ROOT / "models" / "street-lite-standard.onnx"
CAMVID = Path(os.environ.get("MASK2EDGE_DATA", ROOT.parent / "shared/data/camvid"))
SCHEMES = pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT], ids=lambda scheme: scheme.name)


@needs_library
@SCHEMES
def test_labels_of_the_photograph_that_it_was_calibrated_on(tmp_path, scheme):
    """In both forms; TensorRT's is run in float32 around its Q/DQ."""
    pytest.importorskip("sklearn", reason="the photograph is scikit-learn's: pip install scikit-learn")
    (photograph,) = pictures(None, 1)
    path = tmp_path / "int8.onnx"
    onnx.save(quantized(calibrated(onnx.load(CUSTOM), [photograph], "min-max"), scheme), path)
    differing = np.mean(labels(CUSTOM, photograph) != labels(path, photograph))
    print(f"{scheme.name}: {differing:.5f} of the pixels have another label")
    assert 0 < differing < 0.03


@pytest.mark.slow
@needs_library
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"needs CamVid in {CAMVID}; set MASK2EDGE_DATA")
def test_miou_of_camvid(tmp_path, capsys):
    """Within half a point of float32, in both forms, calibrated on training images."""

    def miou(path):
        assert accuracy.main([str(path), "--task", "semantic", "--data", str(CAMVID), "--threads", "1", "--json"]) == 0
        return 100 * json.loads(capsys.readouterr().out)["metrics"]["mIoU"]

    calibration = calibrated(onnx.load(CUSTOM), calibration_images(CAMVID / "train"))
    full = miou(CUSTOM)
    assert 75 < full < 77
    for scheme in (ONNXRUNTIME, TENSORRT):
        path = tmp_path / f"{scheme.name}.onnx"
        onnx.save(quantized(calibration, scheme), path)
        found = miou(path)
        with capsys.disabled():
            print(f"\n{scheme.name}: mIoU {found:.2f}, float32 {full:.2f}")
        assert found > full - 0.5


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install tensorrt-rtx")
def test_tensorrt_rtx_builds_the_int8_graph(tmp_path):
    typed = typed_graph(without_calibration(onnx.load(STANDARD), TENSORRT), "fp16")
    found = build(typed, tmp_path)
    assert "error" not in found, found["error"]
    weights = estimate_memory(typed, read_description(STANDARD).profile).weights
    assert weights["int8"] > 3e6
    assert 0.9 * sum(weights.values()) < found["bytes"] < 2 * sum(weights.values()) + 60e6
