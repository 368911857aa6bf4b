"""What the typed graphs of the shipped model see, emulated on the CPU, against float32.

    pytest -k precision                      # one photograph: labels and stages
    pytest -m slow -k precision_accuracy     # mIoU over CamVid val, about four minutes on one core

CamVid is looked for in MASK2EDGE_DATA, then beside the checkout.
"""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_export import needs_library

from mask2edge.benchmarks import accuracy
from mask2edge.benchmarks.artifact import open_artifact
from mask2edge.benchmarks.precision_islands import meter_of, pictures
from mask2edge.export.emulation import emulated
from mask2edge.export.precision import typed_graph

ROOT = Path(__file__).resolve().parents[2]
CUSTOM, STANDARD = ROOT / "models" / "street-lite.onnx", ROOT / "models" / "street-lite-standard.onnx"
CAMVID = Path(os.environ.get("MASK2EDGE_DATA", ROOT.parent / "shared/data/camvid"))
# mIoU: points of 100 that a typed graph may lose; labels: share of a photograph's pixels that may differ; stages:
# largest root mean square error, over that of the stage's values, with float32's masks in every decoder layer.
BOUNDS = {"fp16": {"mIoU": 0.2, "labels": 3e-3, "stages": 1.5e-2}, "bf16": {"mIoU": 0.5, "labels": 1e-2, "stages": 0.1}}


@pytest.fixture(scope="module")
def photograph():
    pytest.importorskip("sklearn", reason="the photograph is scikit-learn's: pip install scikit-learn")
    return pictures(None, 1)[0]


@pytest.fixture(scope="module")
def emulated_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")

    def save(precision):
        path = folder / f"{precision}.onnx"
        if not path.exists():
            onnx.save(emulated(typed_graph(onnx.load(CUSTOM), precision)), path)
        return path

    return save


def labels(path, image):
    with open_artifact(path, threads=1) as segmenter:
        return segmenter(cv2.imread(str(image)), task="semantic").label_map


@needs_library
@pytest.mark.parametrize("precision", BOUNDS)
def test_labels_of_a_photograph(emulated_file, photograph, precision):
    expected, found = (labels(path, photograph) for path in (CUSTOM, emulated_file(precision)))
    differing = np.mean(expected != found)
    print(f"{precision}: {differing:.5f} of the pixels have another label")
    assert 0 < differing < BOUNDS[precision]["labels"]  # none at all would mean that nothing was rounded


@needs_library
@pytest.mark.parametrize("precision", BOUNDS)
def test_stages_of_a_photograph(photograph, precision):
    meter = meter_of(CUSTOM, [photograph])
    errors = meter.errors(meter.typed(precision, {}))
    print(f"{precision}: {max(errors.items(), key=lambda item: item[1])}")
    assert set(errors) == {"levels", "mask features", "layers' masks", "queries", "class_logits", "mask_logits"}
    assert max(errors.values()) < BOUNDS[precision]["stages"]


def test_onnx_runtime_runs_the_typed_graph_itself(tmp_path, photograph):
    """In fp16, with its own kernels: an independent check that types agree, and of what the graph calculates."""
    path = tmp_path / "typed.onnx"
    onnx.save(typed_graph(onnx.load(STANDARD), "fp16"), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {value.type for value in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
    differing = np.mean(labels(STANDARD, photograph) != labels(path, photograph))
    assert differing < 1e-2


@pytest.mark.slow
@needs_library
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"needs CamVid in {CAMVID}; set MASK2EDGE_DATA")
def test_miou_of_camvid(emulated_file, capsys):
    def miou(path):
        assert accuracy.main([str(path), "--task", "semantic", "--data", str(CAMVID), "--threads", "1", "--json"]) == 0
        return 100 * json.loads(capsys.readouterr().out)["metrics"]["mIoU"]

    full = miou(CUSTOM)
    assert 75 < full < 77
    for precision, bounds in BOUNDS.items():
        found = miou(emulated_file(precision))
        with capsys.disabled():
            print(f"\n{precision}: mIoU {found:.2f}, float32 {full:.2f}")
        assert found > full - bounds["mIoU"]
