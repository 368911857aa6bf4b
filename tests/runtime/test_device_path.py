"""From an image to its masks on the device: the real kernels, executed by the CPU, around ONNX Runtime as the engine.

Only three things are pretended here: CUDA's runtime, TensorRT's Python API, and the network inside the engine. Kernels,
their ctypes wrapper, the session and the segmenter are those that run on a GPU.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from simt_build import Unavailable, simt_library

sys.path.insert(0, str(Path(__file__).parent))

from cuda_doubles import Machine
from kernel_doubles import QueuedKernels
from tensorrt_doubles import install, write_plan_engine

from mask2edge.runtime import Segmenter
from mask2edge.runtime.device_kernels import DeviceKernels
from mask2edge.runtime.spec import Profile


@pytest.fixture(scope="module")
def kernels() -> DeviceKernels:
    try:
        return DeviceKernels(simt_library())
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize(
    "profile", [Profile.fixed(64, 96, 2), Profile((1, 32, 32), (1, 64, 96), (3, 128, 128))], ids=["fixed", "dynamic"]
)
def test_the_whole_way_on_the_device(make_engine, monkeypatch, kernels, picture, integrated, profile):
    machine = install(monkeypatch, Machine(integrated=integrated), library=Path("libmask2edge_tensorrt.so"))
    queued = QueuedKernels(machine, kernels)
    monkeypatch.setattr("mask2edge.runtime.image_steps.DeviceKernels", lambda library: queued)
    larger = cv2.resize(picture, None, fx=1.4, fy=1.4, interpolation=cv2.INTER_NEAREST)
    images = [picture, larger[:, ::-1], picture[:40, :60]]
    reference = Segmenter.load(make_engine(profile, name="cpu"))
    with Segmenter.load(write_plan_engine(make_engine(profile, name="gpu"))) as segmenter:
        for task in ("panoptic", "semantic", "instance"):
            for result, expected in zip(segmenter(images, task), reference(images, task), strict=True):
                np.testing.assert_array_equal(result.label_map, expected.label_map)
                found = [(s.id, s.label, s.is_thing, s.area, s.box) for s in result.segments]
                assert found == [(s.id, s.label, s.is_thing, s.area, s.box) for s in expected.segments]
                scores = [segment.score for segment in expected.segments]
                assert [segment.score for segment in result.segments] == pytest.approx(scores, abs=1e-5)
        result, times = segmenter.timed(picture, "panoptic")
        np.testing.assert_array_equal(result.label_map, reference(picture, "panoptic").label_map)
        assert set(times) == {"preprocess_ms", "network_ms", "postprocess_ms"}
        for threshold in (1.0, 0.1):  # other rules than the session's: the masks are made on the CPU
            other, expected = (one.with_thresholds(threshold, threshold) for one in (segmenter, reference))
            np.testing.assert_array_equal(other(picture).label_map, expected(picture).label_map)
    assert (machine.leaks(), machine.violations) == ([], [])
