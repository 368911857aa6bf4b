"""The repository that export/triton_repository.py writes, in the real Triton server on this machine's CPU."""

import contextlib
import json
import shutil

import cv2
import numpy as np
import pytest
from triton_server import needs_triton, running_server

from mask2edge.export.triton_repository import main
from mask2edge.runtime import Segmenter
from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.segment_entries import describe
from mask2edge.runtime.spec import Profile

pytest.importorskip("onnxruntime")
pytestmark = [needs_triton, pytest.mark.xdist_group("triton")]
TASKS = ("panoptic", "instance", "semantic")


def encoded(image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def strings(name, *values):
    import tritonclient.http as http

    tensor = http.InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value] for value in values], object))
    return tensor


def inputs(*files, task=None):
    named = [] if task is None else [strings("TASK", *[task.encode()] * len(files))]
    return [strings("IMAGE", *files), *named]


def found(response, index=0):
    return response.as_numpy("LABEL_MAP")[index], json.loads(response.as_numpy("SEGMENTS")[index, 0])


def assert_is(response, result, index=0):
    label_map, segments = found(response, index)
    np.testing.assert_array_equal(label_map, result.label_map)
    assert segments == describe(result)


def executions(client, model="toy"):
    """How many batches of each size the model has run."""
    (statistics,) = client.get_inference_statistics(model)["model_stats"]
    return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in statistics["batch_stats"]}


def refusal(client, model, tensors):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, tensors)
    return caught.value


def written(engine, tmp_path, *options):
    repository = tmp_path / "repository"
    assert main([str(engine), "--out", str(repository), "--threads", "1", *options]) == 0
    return repository


@pytest.fixture
def server(make_engine, tmp_path):
    """client, segmenter of one and the same engine. Requests wait long enough for others to join them."""
    engine = make_engine()
    repository = written(engine, tmp_path, "--max-delay-us", "300000")
    with running_server(repository, tmp_path / "server") as client, Segmenter.load(engine, threads=1) as segmenter:
        yield client, segmenter


def test_what_it_says_about_itself(server):
    client, _ = server
    assert client.is_model_ready("toy", "1")
    metadata = client.get_model_metadata("toy")
    shapes = {one["name"]: (one["datatype"], one["shape"]) for one in metadata["inputs"] + metadata["outputs"]}
    assert shapes == {
        "IMAGE": ("BYTES", [-1, 1]),
        "TASK": ("BYTES", [-1, 1]),
        "LABEL_MAP": ("INT32", [-1, -1, -1]),
        "SEGMENTS": ("BYTES", [-1, 1]),
    }
    assert client.get_model_config("toy")["max_batch_size"] == 4
    assert executions(client) == {1: 1, 4: 1}  # the warm-up has been


def test_results_are_the_runtimes(server, picture):
    client, segmenter = server
    for task in TASKS:
        assert_is(client.infer("toy", inputs(encoded(picture), task=task)), segmenter(picture, task))
    assert_is(client.infer("toy", inputs(encoded(picture))), segmenter(picture))  # its default
    other = np.ascontiguousarray(picture[::-1])
    two = client.infer("toy", inputs(encoded(picture), encoded(other)))
    for index, image in enumerate((picture, other)):
        assert_is(two, segmenter(image), index)


def test_requests_at_a_time_share_a_batch_and_not_a_fate(server, picture):
    """Different sizes and tasks, and two bad ones among them, all at once."""
    client, segmenter = server
    before = executions(client)
    large = cv2.resize(picture, (150, 100), interpolation=cv2.INTER_NEAREST)
    tall = np.ascontiguousarray(picture.transpose(1, 0, 2))
    good = [(picture, "panoptic"), (large, "semantic"), (tall, "panoptic"), (picture, "instance"), (large, "panoptic")]
    bad = [(b"no image at all", "panoptic"), (encoded(picture)[:-30], "panoptic"), (encoded(picture), "depth")]
    waiting = [client.async_infer("toy", inputs(encoded(image), task=task)) for image, task in good[:3]]
    failing = [client.async_infer("toy", inputs(data, task=task)) for data, task in bad]
    waiting += [client.async_infer("toy", inputs(encoded(image), task=task)) for image, task in good[3:]]
    for request, (image, task) in zip(waiting, good, strict=True):
        assert_is(request.get_result(), segmenter(image, task))
    messages = []
    for request in failing:
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException) as caught:
            request.get_result()
        messages.append((caught.value.status(), caught.value.message()))
    assert [status for status, _ in messages] == ["400"] * 3
    assert "IMAGE: expected an image" in messages[0][1]
    assert "got a text file" in messages[0][1]
    assert "cut off" in messages[1][1]
    assert "task: expected one of panoptic, instance, semantic, got 'depth'" in messages[2][1]
    after = executions(client)
    shared = {size: count - before.get(size, 0) for size, count in after.items() if size > 1}
    assert sum(shared.values()) >= 1, after  # eight requests did not go one by one


def test_images_of_two_sizes_in_one_request(server, picture):
    import tritonclient.http as http

    client, segmenter = server
    small = np.ascontiguousarray(picture[:32])
    tensors = inputs(encoded(picture), encoded(small))
    assert (
        "LABEL_MAP: expected images of one size in a request, got 2 sizes" in refusal(client, "toy", tensors).message()
    )
    response = client.infer("toy", tensors, outputs=[http.InferRequestedOutput("SEGMENTS")])
    for index, image in enumerate((picture, small)):
        assert json.loads(response.as_numpy("SEGMENTS")[index, 0]) == describe(segmenter(image))
    assert response.as_numpy("LABEL_MAP") is None


def test_a_changed_engine_is_not_served(make_engine, tmp_path):
    repository = written(make_engine(), tmp_path)
    with (repository / "toy" / "1" / "engine" / "model.onnx").open("ab") as file:
        file.write(b"x")
    with running_server(repository, tmp_path / "server", "--exit-on-error=false", "--strict-readiness=false") as client:
        assert client.is_server_live()
        assert not client.is_model_ready("toy")
        (entry,) = client.get_model_repository_index()
        assert "sha256 differs from spec.json" in entry["reason"]


NETWORK = '''
import pathlib
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """In place of a plan: the same network in ONNX Runtime."""

    def initialize(self, args):
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"))

    def execute(self, requests):
        responses = []
        for request in requests:
            pixels = pb_utils.get_input_tensor_by_name(request, "pixels").as_numpy()
            values = self.session.run(["class_logits", "mask_logits"], {"pixels": pixels})
            tensors = [pb_utils.Tensor(n, v) for n, v in zip(["class_logits", "mask_logits"], values)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
'''


@pytest.mark.parametrize("batch", ["free", "fixed"])
def test_the_ensemble_with_a_network_in_place_of_the_plan(make_engine, tmp_path, picture, batch):
    """No GPU is here: all of the ensemble but its plan, which ONNX Runtime stands in for."""
    profile = Profile((1, 32, 32), (1, 64, 96), (4, 128, 128)) if batch == "free" else Profile.fixed(64, 96)
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"no plan")
    real = make_engine(profile)
    engine = make_engine(profile, name="gpu", backend="tensorrt", files={"model.plan": sha256_of(plan)}, sm=87)
    shutil.copy(plan, engine / "model.plan")
    repository = written(engine, tmp_path, "--task", "instance", "--name", "gpu")
    shutil.rmtree(repository / "gpu")  # our runtime would want the GPU as well
    network = repository / "gpu_network"
    config = (network / "config.pbtxt").read_text()
    config = config.replace('platform: "tensorrt_plan"', 'backend: "python"').replace("KIND_GPU", "KIND_CPU")
    (network / "config.pbtxt").write_text(config.replace('default_model_filename: "model.plan"\n', ""))
    (network / "1" / "model.py").write_text(NETWORK)
    shutil.copy(real / "model.onnx", network / "1" / "model.onnx")
    large = cv2.resize(picture, (150, 100), interpolation=cv2.INTER_NEAREST)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(running_server(repository, tmp_path / "server"))
        segmenter = stack.enter_context(Segmenter.load(real, threads=1))
        for image in (picture, large):
            assert_is(client.infer("gpu_ensemble", inputs(encoded(image))), segmenter(image, "instance"))
        requests = [client.async_infer("gpu_ensemble", inputs(data)) for data in (encoded(picture), b"no image")]
        assert_is(requests[0].get_result(), segmenter(picture, "instance"))
        assert "IMAGE: expected an image" in refusal(client, "gpu_ensemble", inputs(b"no image")).message()
