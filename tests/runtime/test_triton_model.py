"""What of the Triton model the real server cannot show here: several GPUs, and an engine that fails on a batch."""

import json
import sys
import types

import cv2
import numpy as np
import pytest


class Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


class Response:
    def __init__(self, tensors=(), error=None):
        self.tensors, self.error = {tensor.name: tensor.values for tensor in tensors}, error


class TritonError(Exception):
    INVALID_ARG, INTERNAL = "invalid", "internal"


class Request:
    """One image file."""

    def __init__(self, data):
        self.inputs = {"IMAGE": Tensor("IMAGE", np.array([[data]], object))}

    def requested_output_names(self):
        return ["LABEL_MAP", "SEGMENTS"]


@pytest.fixture
def triton_model(monkeypatch):
    """The module over a double of Triton's own."""
    double = types.ModuleType("triton_python_backend_utils")
    double.Tensor, double.InferenceResponse, double.TritonError = Tensor, Response, TritonError
    double.TritonModelException = type("TritonModelException", (Exception,), {})
    double.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", double)
    for name in ("triton_requests", "triton_model"):
        monkeypatch.delitem(sys.modules, f"mask2edge.runtime.{name}", raising=False)
    from mask2edge.runtime import triton_model

    yield triton_model
    for name in ("triton_requests", "triton_model"):
        sys.modules.pop(f"mask2edge.runtime.{name}", None)


@pytest.mark.parametrize(
    ("kind", "number", "visible", "expected"),
    [
        ("CPU", "0", None, None),
        ("CPU", "0", "2,3", "2,3"),
        ("GPU", "0", None, "0"),
        ("GPU", "1", None, "1"),
        ("GPU", "1", "2,3", "3"),
        ("GPU", "0", "GPU-8f2a", "GPU-8f2a"),
    ],
)
def test_an_instance_sees_its_own_gpu(triton_model, kind, number, visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    triton_model.choose_gpu({"model_instance_kind": kind, "model_instance_device_id": number}, environment)
    assert environment.get("CUDA_VISIBLE_DEVICES") == expected


def test_an_engine_that_fails_on_one_image_fails_its_request(triton_model, make_engine, tmp_path, picture):
    """The batch is tried, then each alone; whatever the error is."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "m" / "1").mkdir(parents=True)
    make_engine().rename(tmp_path / "m" / "1" / "engine")
    config = {"parameters": {"task": {"string_value": "panoptic"}, "threads": {"string_value": "1"}}}
    model = triton_model.SegmentationModel()
    model.initialize(
        {
            "model_repository": str(tmp_path / "m"), "model_version": "1", "model_config": json.dumps(config),
            "model_instance_kind": "CPU", "model_instance_device_id": "0",
        }
    )  # fmt: skip
    run, batches = model._segmenter.session.run, []

    def failing(pixels):
        batches.append(len(pixels))
        if (pixels[:, 1].max(axis=(1, 2)) < 0).any():  # no green anywhere: the second image
            raise RuntimeError("the engine\nbroke")
        return run(pixels)

    model._segmenter.session.run = failing
    blue = np.zeros_like(picture)
    blue[:, :, 0] = 255
    files = [cv2.imencode(".png", image)[1].tobytes() for image in (picture, blue, picture)]
    good, bad, also_good = model.execute([Request(data) for data in files])
    assert batches == [3, 1, 1, 1]
    assert bad.error.args == ("the engine broke", TritonError.INTERNAL)
    for response in (good, also_good):
        assert response.error is None
        np.testing.assert_array_equal(response.tensors["LABEL_MAP"][0], model._segmenter(picture).label_map)
    model.finalize()


def test_an_engine_that_is_not_there(triton_model, tmp_path):
    arguments = {"model_repository": str(tmp_path), "model_version": "1", "model_config": "{}"}
    with pytest.raises(Exception, match="expected an engine folder") as caught:
        triton_model.SegmentationModel().initialize(arguments)
    assert type(caught.value).__name__ == "TritonModelException"
