"""GPU memory through both bindings, on a pretended GPU; the calls' types against the real cuda-python."""

import contextlib
import ctypes
import gc
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cuda_doubles import CudaDouble, Machine
from pycuda_double import PyCudaDouble
from tensorrt_doubles import install, write_plan_engine

from mask2edge.runtime import Segmenter, device_memory
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import (
    CapturedGraph,
    Device,
    DeviceBuffer,
    DeviceError,
    Event,
    HostBuffer,
    Stream,
    TransferBuffer,
    cuda_obstacle,
    open_device,
)
from mask2edge.runtime.spec import Profile


@pytest.fixture(params=["cuda-python", "cuda-python before 12.6", "pycuda"])
def binding(request, monkeypatch) -> str:
    """The names under which the pretended GPU is found; others are not installed."""
    for name in ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    return request.param


@pytest.fixture
def gpu(binding, monkeypatch):
    """gpu(**arguments of Machine) -> the machine; `open_device` then finds it through the binding."""

    def make(**arguments: object) -> Machine:
        machine = Machine(**arguments)
        modules = {
            "cuda-python": ("cuda.bindings.runtime", CudaDouble(machine)),
            "cuda-python before 12.6": ("cuda.cudart", CudaDouble(machine)),
            "pycuda": ("pycuda.driver", PyCudaDouble(machine)),
        }
        if "12.6" in binding:
            # A module that is set to None is "not found" under its own name, as one that is not installed.
            monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
        monkeypatch.setitem(sys.modules, *modules[binding])
        return machine

    return make


def clean(machine: Machine) -> None:
    assert (machine.leaks(), machine.violations) == ([], [])


def test_properties(gpu, binding):
    gpu(sm=110, integrated=True)
    with open_device() as device:
        assert device.binding == binding.split(" ")[0]
        properties = device.properties
        assert (properties.name, properties.sm, properties.integrated) == ("Pretend GPU", 110, True)
        assert (properties.total_memory, properties.multiprocessors) == (8 << 30, 16)
        assert properties.memory_bandwidth == pytest.approx(204.7e9, rel=1e-3)


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("integrated", [False, True])
def test_copies_there_and_back(gpu, integrated, zero_copy):
    machine = gpu(integrated=integrated)
    with open_device() as device, Stream(device) as stream:
        buffer = TransferBuffer(device, 1000, zero_copy)
        shared = integrated and zero_copy
        assert (buffer.address == buffer.host.ctypes.data) == shared
        assert sum(kind == "device" for kind, _, _ in machine.memory.values()) == (not shared)
        buffer.host[:] = np.arange(1000) % 251
        buffer.upload(stream.handle, 1000)
        device.fill(buffer.address + 10, 7, 5, stream.handle)
        stream.synchronize()
        if not shared:
            buffer.host[:] = 0
        buffer.download(stream.handle, 20)
        stream.synchronize()
        assert buffer.host[:20].tolist() == [*range(10), *[7] * 5, *range(15, 20)]
        assert buffer.host[20] == (20 if shared else 0)
        buffer.close()
    clean(machine)


def test_events(gpu):
    machine = gpu()
    with open_device() as device, Stream(device) as stream, Event(device) as start:
        end = Event(device)
        start.record(stream.handle)
        end.record(stream.handle)
        with pytest.raises(DeviceError, match="could not read the time between two events"):
            end.ms_since(start)
        stream.synchronize()
        assert 0 <= end.ms_since(start) < 1000
        end.close()
    clean(machine)


def test_graphs(gpu, binding):
    machine = gpu()
    with open_device() as device, Stream(device) as stream:
        assert device.supports_graphs == (binding != "pycuda")
        if not device.supports_graphs:
            with pytest.raises(NotImplementedError):
                CapturedGraph(device, stream.handle, lambda: None)
            return
        with TransferBuffer(device, 4, zero_copy=False) as buffer:
            queue = lambda: device.fill(buffer.address, 9, 4, stream.handle)  # noqa: E731
            with CapturedGraph(device, stream.handle, queue) as graph:
                for _ in range(2):
                    buffer.host[:] = 0
                    buffer.upload(stream.handle, 4)
                    stream.synchronize()
                    graph.launch(stream.handle)
                    buffer.download(stream.handle, 4)
                    stream.synchronize()
                    assert buffer.host.tolist() == [9] * 4

            def fail() -> None:
                raise ValueError("while capturing")

            with pytest.raises(ValueError, match="while capturing"):
                CapturedGraph(device, stream.handle, fail)
            assert machine.captures == machine.graphs == {}
    clean(machine)


def test_owners_free_once(gpu):
    machine = gpu()
    with open_device() as device:
        owners = [DeviceBuffer(device, 64), HostBuffer(device, 64), Stream(device), Event(device)]
        forgotten = DeviceBuffer(device, 64)
        for owner in owners:
            owner.close()
            owner.close()
        assert len(machine.memory) == 1
        del forgotten, owner, owners
        gc.collect()
    clean(machine)


@pytest.mark.parametrize("method", ["malloc", "host_alloc"])
def test_too_little_memory_says_what_to_do(gpu, monkeypatch, method):
    machine = gpu()
    with open_device() as device:
        monkeypatch.setattr(machine, "fails", lambda name: True)
        with pytest.raises(
            DeviceError, match=r"could not allocate 123 .*[mM]emory.*; free memory on the GPU, use fewer"
        ):
            getattr(device, method)(123)
        monkeypatch.undo()


def test_an_error_in_any_call_names_it(gpu, binding):
    failed = set()
    for number in range(100):
        machine = gpu(fail_at=number)
        try:
            use_everything()
        except InputError as error:
            message = str(error)
            del error
            named = machine.failed if binding == "pycuda" else "cudaError"
            assert ("could not" in message, named in message) == (True, True), f"{machine.failed}: {message}"
        machine.captures.clear()
        assert machine.leaks() == [], machine.failed
        if not machine.failed:
            break
        failed.add(machine.failed)
    assert len(failed) > 10


def use_everything() -> None:
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(open_device())
        stack.enter_context(device.current())
        stream, start, end = (stack.enter_context(kind(device)) for kind in (Stream, Event, Event))
        buffer = stack.enter_context(TransferBuffer(device, 8, zero_copy=False))
        start.record(stream.handle)
        buffer.upload(stream.handle, 8)
        device.fill(buffer.address, 0, 8, stream.handle)
        buffer.download(stream.handle, 8)
        end.record(stream.handle)
        stream.synchronize()
        end.ms_since(start)


def test_the_whole_way_through_pycuda(make_engine, monkeypatch, picture, tmp_path, toy_spec):
    machine = install(monkeypatch, Machine(integrated=True), library=tmp_path, model=toy_spec())
    double = PyCudaDouble(machine)
    monkeypatch.setitem(sys.modules, "pycuda.driver", double)
    monkeypatch.setenv("MASK2EDGE_CUDA_BINDING", "pycuda")
    profile = Profile((1, 32, 32), (1, 64, 96), (2, 128, 128))
    reference = Segmenter.load(make_engine(profile, name="cpu"))
    with Segmenter.load(write_plan_engine(make_engine(profile))) as segmenter:
        assert "pycuda cannot capture graphs" in segmenter.session.graph_obstacle
        for task in ("panoptic", "instance", "semantic"):
            for result, expected in zip(segmenter([picture] * 3, task), reference([picture] * 3, task), strict=True):
                np.testing.assert_array_equal(result.label_map, expected.label_map)
    assert (double.contexts, double._stack) == (0, [])
    clean(machine)


def test_an_error_on_the_way_through_pycuda_leaves_no_context(make_engine, monkeypatch, picture, tmp_path, toy_spec):
    folder = write_plan_engine(make_engine())
    for number in range(0, 1000, 3):  # a third of the calls: those of the session are all tried with cuda-python
        with monkeypatch.context() as patch:
            machine = install(patch, Machine(fail_at=number), library=tmp_path, model=toy_spec())
            double = PyCudaDouble(machine)
            patch.setitem(sys.modules, "pycuda.driver", double)
            patch.setenv("MASK2EDGE_CUDA_BINDING", "pycuda")
            with contextlib.suppress(InputError), Segmenter.load(folder) as segmenter:
                segmenter(picture)
            assert (double.contexts, double._stack) == (0, []), machine.failed
            clean(machine)
            if not machine.failed:
                break
    assert number > 60


def test_the_binding_that_works_is_taken(monkeypatch):
    machine = Machine()
    monkeypatch.setitem(sys.modules, "pycuda.driver", PyCudaDouble(machine))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", CudaDouble(Machine(fail_at=0)))
    with open_device() as device:
        assert device.binding == "pycuda"
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", CudaDouble(machine))
    with open_device() as device:
        assert device.binding == "cuda-python"
    for wished in ("pycuda", "cuda-python"):
        monkeypatch.setenv("MASK2EDGE_CUDA_BINDING", wished)
        with open_device() as device:
            assert device.binding == wished
    monkeypatch.setenv("MASK2EDGE_CUDA_BINDING", "cupy")
    with pytest.raises(InputError, match="MASK2EDGE_CUDA_BINDING: expected cuda-python or pycuda, got 'cupy'"):
        open_device()


def test_no_binding_says_why_each_does_not_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", CudaDouble(Machine(fail_at=0)))
    with pytest.raises(InputError, match=r"cudaErrorInsufficientDriver .*; pycuda: .*; install cuda-python") as caught:
        open_device()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (None, "no CUDA driver was found (libcuda.so.1)"),
        ((100, 0), "the CUDA driver does not work (error 100)"),
        ((0, 0), "the CUDA driver sees no GPU"),
        ((0, 1), ""),
    ],
)
def test_the_driver_is_asked_first(monkeypatch, library, expected):
    def load(name: str) -> SimpleNamespace:
        if library is None:
            raise OSError("not found")
        error, count = library

        def device_count(target: object) -> int:
            target._obj.value = count
            return 0

        return SimpleNamespace(cuInit=lambda flags: error, cuDeviceGetCount=device_count)

    monkeypatch.setattr(device_memory.platform, "system", lambda: "Linux")
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert cuda_obstacle() == expected


@pytest.mark.skipif(not cuda_obstacle(), reason="made-up addresses would harm a real GPU")
def test_every_call_has_types_that_the_real_cuda_python_takes():
    # Without a driver each function converts its arguments, calls CUDA, and gets this error back.
    methods = {
        name for name, member in vars(Device).items()
        if inspect.isfunction(member) and name[0] != "_" and name not in ("close", "current")
    }  # fmt: skip
    code = (
        "import inspect, sys\n"
        "from mask2edge.runtime.device_cuda_python import CudaPython, _runtime_module\n"
        "from mask2edge.runtime.device_memory import DeviceError\n"
        "device = object.__new__(CudaPython); device._cuda = _runtime_module()\n"
        "for name in sys.argv[1:]:\n"
        "    method = getattr(device, name)\n"
        "    arguments = [4096 * (1 + index) for index in range(len(inspect.signature(method).parameters))]\n"
        "    try: print(name, method(*arguments))\n"
        "    except DeviceError as error: print(name, 'cudaErrorInsufficientDriver' in str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *methods], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(methods) > 15
    assert sorted(done.stdout.splitlines()) == sorted(f"{name} True" for name in methods)
