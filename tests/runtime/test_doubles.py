"""The pretended GPU has what the real bindings have, under the same names and with the same parameters."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cuda_doubles import CudaDouble, Machine
from cuda_doubles import real as real_cuda
from kernel_doubles import HostKernels
from tensorrt_doubles import ICudaEngine, IExecutionContext, IPluginRegistry, TensorRT, disagreements
from tensorrt_doubles import real as real_tensorrt

from mask2edge.runtime.device_kernels import DeviceKernels


@pytest.mark.parametrize(
    ("double", "binding"),
    [
        (CudaDouble, "cuda"),
        (TensorRT, "tensorrt"),
        (TensorRT(Machine()).Runtime, "Runtime"),
        (ICudaEngine, "ICudaEngine"),
        (IExecutionContext, "IExecutionContext"),
        (IPluginRegistry, "IPluginRegistry"),
        (HostKernels, "DeviceKernels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_doubles_agree_with_the_bindings(double, binding):
    modules = {"cuda": real_cuda, "tensorrt": real_tensorrt, "DeviceKernels": DeviceKernels}
    assert disagreements(double, modules.get(binding) or getattr(real_tensorrt, binding)) == []


def test_a_call_that_no_binding_has_would_be_seen():
    class IExecutionContext:
        def execute_async_v3(self, stream): ...
        def set_tensor_address(self, name): ...
        def execute_async_v2(self, bindings, stream_handle): ...

    found = disagreements(IExecutionContext, real_tensorrt.IExecutionContext)
    assert len(found) == 3
    assert "execute_async_v2: not in the binding" in found[2]
