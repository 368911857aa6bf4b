"""One stream of a TensorRT engine: its buffers, its execution contexts and their CUDA graphs.

    lane = NetworkLane(device, engine, spec, memory)      # memory: an ExitStack that frees the buffers
    lane.load(pixels)
    lane.enqueue((1, 512, 512))
    lane.synchronize()

A lane does one thing at a time; several lanes work side by side.

TensorRT's guide (CUDA graphs) asks for one execution context for each captured graph, and for one plain run after a
change of shape before capturing. So each input shape has a context of its own, and its graph is captured when the
shape comes for the second time. The contexts of a lane share their activations' memory, since they never run together.
Only the network is captured: it is hundreds of launches, while the steps around it are a few and change with the image.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import CapturedGraph, Device, DeviceBuffer, Stream, TransferBuffer
from mask2edge.runtime.session import INPUT, OUTPUTS, first_line
from mask2edge.runtime.spec import MASK_STRIDE, EngineSpec
from mask2edge.runtime.tensorrt_engine import TensorRTEngine

MOST_SHAPES = 4  # contexts kept in a lane: each has some memory of its own beside the shared activations
FLOAT = 4  # bytes

InputShape = tuple[int, int, int]  # N, H, W


@dataclass
class _Context:
    """An execution context, set to one shape."""

    execution: Any
    warm: bool = False  # it has run once since its shape was set
    graph: CapturedGraph | None = None


class NetworkLane:
    def __init__(self, device: Device, engine: TensorRTEngine, spec: EngineSpec, memory: contextlib.ExitStack) -> None:
        """Raises DeviceError, mostly where the memory does not suffice; `memory` then holds what there is to free."""
        self.device = device
        self.stream = memory.enter_context(Stream(device))
        self._engine = engine
        self._spec = spec
        # "": graphs are used; else why not. Captures fail, for instance, where a profiler is attached.
        self.graph_obstacle = "" if device.supports_graphs else f"{device.binding} cannot capture graphs"
        self._contexts: OrderedDict[InputShape, _Context] = OrderedDict()  # the longest unused one first
        # Never zero-copy: the network and the post-processing read these many times.
        self.buffers: dict[str, TransferBuffer] = {}
        for name, shape in self.shapes(spec.profile.max).items():
            buffer = TransferBuffer(device, FLOAT * math.prod(shape), zero_copy=False)
            memory.callback(buffer.close)
            self.buffers[name] = buffer
        size = engine.scratch_size
        self._scratch = memory.enter_context(DeviceBuffer(device, size)).address if size else 0

    def shapes(self, size: InputShape) -> dict[str, tuple[int, ...]]:
        """Of the input and the outputs."""
        batch, height, width = size
        queries, classes = self._spec.model.num_queries, self._spec.model.num_classes
        return {
            INPUT: (batch, 3, height, width),
            "class_logits": (batch, queries, classes + 1),
            "mask_logits": (batch, queries, height // MASK_STRIDE, width // MASK_STRIDE),
        }

    def load(self, pixels: np.ndarray) -> InputShape:
        """Queues the upload of pixels, float32 [N, 3, H, W]; returns their (N, H, W)."""
        buffer = self.buffers[INPUT]
        buffer.host[: pixels.nbytes].view(np.float32).reshape(pixels.shape)[...] = pixels
        buffer.upload(self.stream.handle, pixels.nbytes)
        return pixels.shape[0], pixels.shape[2], pixels.shape[3]

    def enqueue(self, size: InputShape) -> None:
        """Queues the network, from the pixels in its buffer to the logits in theirs."""
        context = self._context(size)
        if context.graph is None and context.warm and not self.graph_obstacle:
            self._capture(context)
        if context.graph is not None:
            context.graph.launch(self.stream.handle)
        else:
            self._execute(context)
            context.warm = True

    def fetch(self, size: InputShape) -> None:
        """Queues the download of the logits."""
        for name, shape in self._outputs(size).items():
            self.buffers[name].download(self.stream.handle, FLOAT * math.prod(shape))

    def outputs(self, size: InputShape) -> dict[str, np.ndarray]:
        """The logits as new arrays, once `fetch` is done."""
        return {
            name: np.array(self.buffers[name].host[: FLOAT * math.prod(shape)].view(np.float32).reshape(shape))
            for name, shape in self._outputs(size).items()
        }

    def synchronize(self) -> None:
        self.stream.synchronize()

    def layer_times(self, size: InputShape, runs: int) -> list[Counter[str]]:
        """Layer's name -> milliseconds, of each of `runs` executions over what is in the buffers, after one to warm up.

        In a context of its own and without a graph: TensorRT waits for each execution then, to read its layers' times.
        """
        profiler, times = self._engine.layer_profiler()
        context = self._new_context(size)
        context.execution.profiler = profiler
        for _ in range(runs + 1):
            times.append(Counter())
            self._execute(context)
            self.synchronize()
        return times[1:]

    def drop_contexts(self) -> None:
        """Frees graphs, then contexts: before the engine, and long before the buffers."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._contexts.clear)
            for graph in [context.graph for context in self._contexts.values()]:  # no local keeps a context
                if graph is not None:
                    stack.callback(graph.close)

    def _outputs(self, size: InputShape) -> dict[str, tuple[int, ...]]:
        shapes = self.shapes(size)
        return {name: shapes[name] for name in OUTPUTS}

    def _context(self, size: InputShape) -> _Context:
        """The context of this shape; made, or taken from the shape that was not used for the longest time."""
        context = self._contexts.pop(size, None)
        if context is None:
            if len(self._contexts) < MOST_SHAPES:
                context = self._new_context(size)
            else:
                _, context = self._contexts.popitem(last=False)
                if context.graph is not None:
                    context.graph.close()  # nothing runs: a lane is given back when its stream is done
                context = _Context(context.execution)
                self._set_shape(context, size)
        self._contexts[size] = context
        return context

    def _new_context(self, size: InputShape) -> _Context:
        context = _Context(self._engine.create_context(self._scratch))
        for name, buffer in self.buffers.items():
            self._engine.call(f"bind {name}", context.execution.set_tensor_address, name, buffer.address)
        self._set_shape(context, size)
        return context

    def _set_shape(self, context: _Context, size: InputShape) -> None:
        shapes = self.shapes(size)
        execution = context.execution
        self._engine.call(
            f"set the input's shape to {list(shapes[INPUT])}", execution.set_input_shape, INPUT, shapes[INPUT]
        )
        for name in OUTPUTS:
            found = tuple(execution.get_tensor_shape(name))
            if found != shapes[name]:
                raise InputError(
                    f"{name}: expected {list(shapes[name])} of the engine, got {list(found)}; build the engine again"
                )

    def _execute(self, context: _Context) -> None:
        self._engine.call("run the network", context.execution.execute_async_v3, self.stream.handle)

    def _capture(self, context: _Context) -> None:
        try:
            context.graph = CapturedGraph(self.device, self.stream.handle, lambda: self._execute(context))
        except InputError as error:
            self.graph_obstacle = first_line(error)
