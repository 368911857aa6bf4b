"""The TensorRT session on a pretended GPU: the same results as on the CPU, every order kept, every byte given back."""

import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tensorrt_doubles
from cuda_doubles import CudaDouble, Machine, view
from tensorrt_doubles import install, write_plan_engine

from mask2edge.runtime import Segmenter
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.network_lane import MOST_SHAPES
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Profile

TASKS = ("panoptic", "instance", "semantic")
DYNAMIC = Profile((1, 32, 32), (1, 64, 96), (3, 128, 128))


@pytest.fixture
def plan_engine(make_engine, tmp_path) -> Callable[..., Path]:
    """plan_engine(profile, **fields of EngineSpec): an engine folder for the pretended GPU."""

    def make(profile: Profile | None = None, name: str = "plan", **fields: object) -> Path:
        return write_plan_engine(make_engine(profile, name=name), **fields)

    return make


@pytest.fixture
def gpu(monkeypatch, tmp_path, toy_spec) -> Callable[..., Machine]:
    """gpu(library=True, version=VERSION, patch=the test's own, **arguments of Machine): a pretended GPU."""

    def make(
        library: bool = True, version: str = tensorrt_doubles.VERSION, patch=monkeypatch, **machine: object
    ) -> Machine:
        file = tmp_path / "libmask2edge_tensorrt.so"
        file.write_bytes(b"a library")
        return install(patch, Machine(**machine), version, file if library else None, toy_spec())

    return make


def clean(machine: Machine) -> None:
    assert (machine.leaks(), machine.violations) == ([], []), (
        f"with an error in call {machine.fail_at}, {machine.failed}"
    )


def described(result: Segmentation) -> list[tuple]:
    return [(s.id, s.label_id, s.label, s.is_thing, s.area, s.box, pytest.approx(s.score)) for s in result.segments]


def check_same(result: Segmentation, expected: Segmentation) -> None:
    assert (result.task, result.labels) == (expected.task, expected.labels)
    np.testing.assert_array_equal(result.label_map, expected.label_map)
    assert described(result) == described(expected)
    for one, other in zip(result.segments, expected.segments, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def check_same_as_on_the_cpu(segmenter: Segmenter, reference: Segmenter, images: list[np.ndarray], task: str) -> None:
    for result, expected in zip(segmenter(images, task), reference(images, task), strict=True):
        check_same(result, expected)


@pytest.fixture
def images(picture) -> list[np.ndarray]:
    large = cv2.resize(picture, None, fx=1.4, fy=1.4, interpolation=cv2.INTER_NEAREST)
    return [picture, large[:, ::-1], picture[:40, :60], np.zeros((1, 1, 3), np.uint8)]


@pytest.mark.parametrize("where", ["discrete", "integrated", "steps_on_the_host"])
@pytest.mark.parametrize(
    "profile", [Profile.fixed(64, 96), Profile.fixed(64, 96, 2), DYNAMIC], ids=["fixed", "batch", "dynamic"]
)
def test_results_are_those_of_the_cpu(make_engine, plan_engine, gpu, images, profile, where):
    machine = gpu(integrated=where == "integrated", library=where != "steps_on_the_host")
    reference = Segmenter.load(make_engine(profile, name="cpu"))
    with Segmenter.load(plan_engine(profile)) as segmenter:
        assert segmenter.session.on_device == (where != "steps_on_the_host")
        for task in TASKS:
            for _ in range(3):  # plain, captured, replayed
                check_same_as_on_the_cpu(segmenter, reference, images, task)
        check_same(segmenter(images[0]), reference(images[0]))
        for task, result in segmenter.for_tasks(images[1], TASKS).items():
            check_same(result, reference(images[1], task))
        assert segmenter([], "semantic") == []
        assert segmenter.session.graph_obstacle == ""
        assert machine.violations == []
    assert "cudaGraphLaunch" in machine.journal
    assert ("cudaHostGetDevicePointer" in machine.journal) == (where == "integrated")
    clean(machine)


def test_the_session_gives_the_logits(make_engine, plan_engine, gpu):
    machine = gpu()
    reference = Segmenter.load(make_engine(DYNAMIC, name="cpu")).session
    generator = np.random.default_rng(0)
    batches = [
        generator.standard_normal((batch, 3, height, width), np.float32)
        for batch, height, width in [(1, 64, 96), (3, 128, 128), (1, 64, 96), (2, 32, 64), (1, 64, 96)]
    ]
    with Segmenter.load(plan_engine(DYNAMIC)).session as session:
        for pixels in [*batches, batches[0][:, :, ::-1]]:
            outputs = session.run(pixels)
            for name, expected in reference.run(pixels).items():
                np.testing.assert_array_equal(outputs[name], expected)
                assert outputs[name].dtype == np.float32
        with pytest.raises(InputError, match=r"got \[4, 3, 64, 96\]"):
            session.run(np.zeros((4, 3, 64, 96), np.float32))
    clean(machine)


def test_host_and_device_steps_may_be_mixed(plan_engine, gpu, picture):
    machine = gpu()
    with Segmenter.load(plan_engine(DYNAMIC)) as segmenter:
        pixels, prepared = segmenter.prepare([picture])
        by_hand = segmenter.finish(segmenter.session.run(pixels), prepared, "panoptic")[0]
        check_same(segmenter(picture, "panoptic"), by_hand)
    clean(machine)


def test_thresholds_reach_the_device(plan_engine, gpu, picture):
    machine = gpu()
    with Segmenter.load(plan_engine(), object_threshold=1.0) as strict:
        assert strict(picture, "panoptic").segments == ()
    clean(machine)


def test_logits_that_are_no_numbers_are_refused(plan_engine, gpu, picture, monkeypatch):
    machine = gpu()
    with Segmenter.load(plan_engine()) as segmenter:
        lane = segmenter.session.lanes[0]
        enqueue = lane.enqueue

        def spoilt(size):
            enqueue(size)
            machine.queue(lane.stream.handle, lambda: lane_floats(lane)[:1].fill(np.nan))

        monkeypatch.setattr(lane, "enqueue", spoilt)
        for task in TASKS:
            with pytest.raises(InputError, match="expected finite logits"):
                segmenter(picture, task)
    clean(machine)


def lane_floats(lane) -> np.ndarray:
    buffer = lane.buffers["mask_logits"]
    return view(buffer.address, buffer.size).view(np.float32)


def test_device_times(plan_engine, gpu, picture):
    machine = gpu()
    with Segmenter.load(plan_engine()) as segmenter:
        for task in TASKS:
            times: dict[str, float] = {}
            pending = segmenter.session.segment_async([picture], task, times)
            assert times == {}
            pending.result()
            assert list(times) == ["preprocess", "network", "postprocess"]
            assert all(value >= 0 for value in times.values())
        assert machine.journal.count("cudaEventCreateWithFlags") == 4
    clean(machine)


def test_layer_times_are_summed_by_name_and_leave_graphs_alone(plan_engine, gpu):
    machine = gpu()
    pixels = np.zeros((1, 3, 64, 96), np.float32)
    with Segmenter.load(plan_engine()) as segmenter:
        segmenter.session.run(pixels)
        before = len(machine.executables)
        assert segmenter.session.layer_times(pixels, runs=3) == {"conv": 0.75, "attention": 0.25}
        segmenter.session.run(pixels)
        assert len(machine.executables) == before + 1
        assert segmenter.session.graph_obstacle == ""
        with pytest.raises(InputError, match="expected float32"):
            segmenter.session.layer_times(pixels.astype(np.float64))
    clean(machine)


def test_order_of_calls(plan_engine, gpu):
    machine = gpu(library=False)
    pixels = np.zeros((1, 3, 64, 96), np.float32)

    def calls() -> list[str]:
        since = len(machine.journal)
        session.run(pixels)
        return [name for name in machine.journal[since:] if name != "cudaSetDevice"]

    with Segmenter.load(plan_engine()).session as session:
        # The driver and the device before anything of TensorRT's.
        journal = machine.journal
        assert journal.index("cudaGetDeviceCount") < journal.index("cudaSetDevice") < journal.index("Runtime")
        copies = {"before": ["cudaMemcpyAsync"], "after": ["cudaMemcpyAsync"] * 2 + ["cudaStreamSynchronize"]}
        new = ["create_execution_context", "set_device_memory", *["set_tensor_address"] * 3, "set_input_shape"]
        assert calls() == [*copies["before"], *new, "execute_async_v3", *copies["after"]]
        capture = ["cudaStreamBeginCapture", "execute_async_v3", "cudaStreamEndCapture", "cudaGraphInstantiate"]
        assert calls() == [
            *copies["before"], *capture, "cudaGraphDestroy", "cudaGraphLaunch", *copies["after"],
        ]  # fmt: skip
        for _ in range(2):
            assert calls() == [*copies["before"], "cudaGraphLaunch", *copies["after"]]
        since = len(machine.journal)
    ends = [name for name in machine.journal[since:] if name != "cudaSetDevice"]
    ends = [name for number, name in enumerate(ends) if ends[number - 1] != name or not number]
    assert ends[:4] == ["cudaGraphExecDestroy", "free context", "free engine", "free runtime"]
    assert set(ends[4:-1]) == {"cudaFree", "cudaFreeHost"}
    assert ends[-1] == "cudaStreamDestroy"
    clean(machine)


def test_a_graph_for_each_shape_and_no_more_than_the_bound(plan_engine, gpu):
    machine = gpu()
    sizes = [(32, 32), (32, 64), (64, 64), (64, 96), (96, 96), (96, 128)]

    def run(count: int) -> None:
        for height, width in sizes[:count]:
            session.run(np.zeros((1, 3, height, width), np.float32))

    with Segmenter.load(plan_engine(DYNAMIC)).session as session:
        for _ in range(5):
            run(MOST_SHAPES)
        assert machine.journal.count("cudaGraphInstantiate") == MOST_SHAPES
        assert machine.journal.count("cudaGraphLaunch") == 4 * MOST_SHAPES
        assert machine.objects["context"] == len(machine.executables) == MOST_SHAPES
        for _ in range(3):  # more shapes than are kept, in turn: none comes twice before it is dropped
            run(len(sizes))
        assert machine.objects["context"] == MOST_SHAPES
        assert machine.journal.count("create_execution_context") == MOST_SHAPES
        assert len(machine.executables) <= MOST_SHAPES
        assert machine.violations == []
    clean(machine)


def test_a_shape_in_use_keeps_its_graph(plan_engine, gpu):
    machine = gpu()
    sizes = [(32, 32), (32, 64), (64, 64), (64, 96), (96, 96), (96, 128)]
    assert len(sizes) > MOST_SHAPES
    with Segmenter.load(plan_engine(DYNAMIC)).session as session:
        for height, width in sizes[1:]:
            session.run(np.zeros((1, 3, height, width), np.float32))
            session.run(np.zeros((1, 3, *sizes[0]), np.float32))  # never the one that was not used for longest
        assert machine.journal.count("cudaGraphInstantiate") == 1
        assert machine.journal.count("set_input_shape") == len(sizes)
    clean(machine)


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]
)
def test_without_graphs_the_network_is_queued_plainly(make_engine, plan_engine, gpu, picture, call, monkeypatch):
    machine = gpu()
    fails = machine.fails
    monkeypatch.setattr(machine, "fails", lambda name: fails(name) or name == call)
    reference = Segmenter.load(make_engine(name="cpu"))
    with Segmenter.load(plan_engine()) as segmenter:
        for _ in range(3):
            check_same(segmenter(picture), reference(picture))
        assert segmenter.session.graph_obstacle.startswith("could not ")
        assert (machine.journal.count(call), machine.journal.count("cudaGraphLaunch")) == (1, 0)
    clean(machine)


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
def test_an_error_in_any_call_is_one_line_and_leaks_nothing(
    make_engine, plan_engine, gpu, picture, monkeypatch, integrated
):
    profile = Profile.fixed(64, 96, 2)  # one image in it leaves an empty entry
    folder = plan_engine(profile)
    reference = Segmenter.load(make_engine(profile, name="cpu"))
    expected = {task: reference(picture, task) for task in TASKS}
    survived, failed = set(), set()
    for number in range(1000):
        with monkeypatch.context() as patch:
            machine = gpu(patch=patch, integrated=integrated, fail_at=number)
            try:
                use(folder, picture, expected)
                survived.add(machine.failed)
            except InputError as error:
                message = str(error)
                del error
                if "\n" in message or not 20 < len(message) < 600:
                    raise AssertionError(f"{machine.failed}: {message}") from None
        clean(machine)
        if not machine.failed:
            break
        failed.add(machine.failed)
    assert number > 100
    # Only what belongs to graphs can be done without; clocks are for reports; freeing is tried on any device.
    assert survived == {
        "", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy",
        "execute_async_v3", "cudaDeviceGetAttribute", "cudaSetDevice",
    }  # fmt: skip
    functions = {name for name, member in vars(CudaDouble).items() if inspect.isfunction(member) and name[0] != "_"}
    assert functions - failed == {"cudaGetErrorName", *([] if integrated else ["cudaHostGetDevicePointer"])}


def use(folder: Path, picture: np.ndarray, expected: dict[str, Segmentation]) -> None:
    with Segmenter.load(folder, contexts=2) as segmenter:
        for task in TASKS:  # plain, captured, replayed
            check_same(segmenter(picture, task), expected[task])
        segmenter.session.segment_async([picture], "panoptic", {}).result()


def test_it_is_freed_without_close_and_at_the_interpreters_end(plan_engine, gpu, picture):
    machine = gpu()
    segmenter = Segmenter.load(plan_engine())
    segmenter(picture)
    del segmenter
    gc.collect()
    clean(machine)
    code = (
        "import atexit, sys; sys.path.insert(0, sys.argv[1]); "
        "from pathlib import Path; import numpy; from pytest import MonkeyPatch; "
        "from tensorrt_doubles import Machine, install; "
        "machine = install(MonkeyPatch(), Machine()); "
        "atexit.register(lambda: print(machine.leaks(), machine.violations)); "
        "from mask2edge.runtime import Segmenter; "
        "segmenter = Segmenter.load(sys.argv[2]); segmenter(numpy.zeros((9, 9, 3), numpy.uint8))"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here, str(plan_engine(name="exit"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] []\n", "")


def test_use_after_close_is_refused(plan_engine, gpu, picture):
    machine = gpu()
    segmenter = Segmenter.load(plan_engine())
    pending = segmenter.session.segment_async([picture], "panoptic")
    segmenter.close()
    segmenter.close()
    assert len(pending.result()[0].segments) == 3  # what was under way is finished first
    for use in (lambda: segmenter(picture), lambda: segmenter.session.run(np.zeros((1, 3, 64, 96), np.float32))):
        with pytest.raises(InputError, match="the engine was closed"):
            use()
    clean(machine)


def test_more_work_than_contexts_waits_for_nobody(make_engine, plan_engine, gpu):
    machine = gpu()
    reference = Segmenter.load(make_engine(DYNAMIC, name="cpu")).session
    generator = np.random.default_rng(1)
    batches = [generator.standard_normal((1, 3, 64, 96), np.float32) for _ in range(7)]
    with Segmenter.load(plan_engine(DYNAMIC), contexts=2).session as session:
        pending = [session.infer_async(pixels) for pixels in batches]
        assert len(machine.streams) == 2
        for pixels in batches:
            pixels[...] = 0  # what was submitted was copied
        generator = np.random.default_rng(1)
        for one in pending:
            pixels = generator.standard_normal((1, 3, 64, 96), np.float32)
            for name, expected in reference.run(pixels).items():
                np.testing.assert_array_equal(one.result()[name], expected)
    clean(machine)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """They take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless_threads")
def test_threads_share_the_contexts(make_engine, plan_engine, gpu, images):
    machine = gpu()
    reference = Segmenter.load(make_engine(DYNAMIC, name="cpu"))
    expected = [reference(image, "panoptic") for image in images]
    errors = []

    def work(offset: int) -> None:
        try:
            for step in range(8):
                index = (offset + step) % len(images)
                check_same(segmenter(images[index], "panoptic"), expected[index])
        except BaseException as error:
            errors.append(error)

    with Segmenter.load(plan_engine(DYNAMIC), contexts=2) as segmenter:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert errors == []
    clean(machine)
