"""What happens to images on the device before and after the network: upload, preprocessing, fusion of the masks.

    steps = ImageSteps.where_possible(device, spec, lanes, memory)
    finish = steps.queue(lane, images, "panoptic")
    lane.synchronize()
    results = finish()                                # one Segmentation for each image

An image goes up as it is; a label map and a table of segments come down, in semantic and panoptic tasks. An instance
result needs all masks, so there the logits come down and the host does the rest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np

from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_kernels import (
    SEGMENT_DTYPE,
    DeviceKernelError,
    DeviceKernels,
    FusionSizes,
    segmentation,
)
from mask2edge.runtime.device_memory import LOOK_CLOSER, Device, DeviceBuffer, DeviceError, Event, TransferBuffer
from mask2edge.runtime.native_postprocess import NativePostprocess
from mask2edge.runtime.network_lane import FLOAT, InputShape, NetworkLane
from mask2edge.runtime.preprocess import check_image, content_size, padded_size
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.session import INPUT, OUTPUTS
from mask2edge.runtime.spec import MASK_STRIDE, EngineSpec

ALIGNED = 256  # bytes: where one image's part of a buffer begins
LABEL = 4  # bytes of one pixel of a label map
STEPS = ("preprocess", "network", "postprocess")
Buffer = TypeVar("Buffer", TransferBuffer, DeviceBuffer)


@dataclass(frozen=True)
class _Image:
    """One image of a batch, and which bytes of the lane's buffers are its own."""

    pixels: np.ndarray  # uint8 [H0, W0, 3] BGR
    sizes: FusionSizes
    image: slice
    label_map: slice
    table: slice


@dataclass
class _LaneMemory:
    """Buffers of one lane; they grow to the largest batch seen."""

    images: TransferBuffer | None = None  # uint8 [H0, W0, 3] each
    maps: TransferBuffer | None = None  # int32 [H0, W0] each
    tables: TransferBuffer | None = None  # SEGMENT_DTYPE, the first row of each a header
    workspace: DeviceBuffer | None = None
    events: list[Event] = field(default_factory=list)  # made when times are asked for

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for owned in (self.images, self.maps, self.tables, self.workspace, *self.events):
                if owned is not None:
                    stack.callback(owned.close)


class ImageSteps:
    """The steps of all lanes of one session."""

    def __init__(
        self,
        device: Device,
        spec: EngineSpec,
        kernels: DeviceKernels,
        lanes: Sequence[NetworkLane],
        memory: contextlib.ExitStack,
    ) -> None:
        self._device = device
        self._spec = spec
        self._kernels = kernels
        self._host = NativePostprocess.find() or postprocess  # of instances, whose masks are made on the host
        self._memory = {id(lane): _LaneMemory() for lane in lanes}
        for own in self._memory.values():
            memory.callback(own.close)
        things = np.array([bool(label.is_thing) for label in spec.model.labels], np.uint8)  # [K]
        self._things = TransferBuffer(device, things.nbytes, zero_copy=False)
        memory.callback(self._things.close)
        self._things.host[:] = things
        self._things.upload(lanes[0].stream.handle, things.nbytes)
        lanes[0].synchronize()

    @classmethod
    def where_possible(
        cls, device: Device, spec: EngineSpec, lanes: Sequence[NetworkLane], memory: contextlib.ExitStack
    ) -> ImageSteps | None:
        """None where the plugin library, which has the kernels, is not installed."""
        from mask2edge.trt_plugins import tensorrt_plugin_library

        library = tensorrt_plugin_library()
        return None if library is None else cls(device, spec, DeviceKernels(library), lanes, memory)

    def queue(
        self, lane: NetworkLane, images: Sequence[np.ndarray], task: str, times: dict[str, float] | None = None
    ) -> Callable[[], list[Segmentation]]:
        """Queues everything from upload to download; what it returns makes the results once the stream is done.

        Raises InputError for what is no image, and where the device refuses.
        """
        most = self._spec.profile.max[0]
        if not 1 <= len(images) <= most:
            raise InputError(f"segment_images: expected batches of 1 to {most} images, got {len(images)}")
        for image in images:
            check_image(image)
        batch = self._lay_out(images, task)
        size = (max(len(images), self._spec.profile.min[0]), *batch[0].sizes.padded)
        own = self._memory[id(lane)]
        marks = self._marks(own) if times is not None else []

        def mark(index: int) -> None:
            if marks:
                marks[index].record(lane.stream.handle)

        try:
            self._make_room(own, batch, task)
            mark(0)
            self._prepare(lane, own, batch, size)
            mark(1)
            lane.enqueue(size)
            mark(2)
            if task == "instance":
                lane.fetch(size)
            else:
                self._fuse(lane, own, batch, task)
            mark(3)
        except DeviceKernelError as error:
            raise DeviceError(f"could not launch {error}; {LOOK_CLOSER}") from error

        def finish() -> list[Segmentation]:
            if times is not None:
                for name, (start, end) in zip(STEPS, pairwise(marks), strict=True):
                    times[name] = end.ms_since(start)
            if task == "instance":
                return self._instances(lane, batch, size)
            return [self._result(own, image, task) for image in batch]

        return finish

    def _lay_out(self, images: Sequence[np.ndarray], task: str) -> list[_Image]:
        model, profile = self._spec.model, self._spec.profile
        contents = [content_size((image.shape[0], image.shape[1]), model.preprocessing, profile) for image in images]
        padded = padded_size(contents, model.preprocessing, profile)
        mask = (padded[0] // MASK_STRIDE, padded[1] // MASK_STRIDE)
        batch: list[_Image] = []
        for image, content in zip(images, contents, strict=True):
            height, width = image.shape[:2]
            sizes = FusionSizes(model.num_queries, model.num_classes, mask, padded, content, (height, width))
            lengths = (image.nbytes, LABEL * height * width, SEGMENT_DTYPE.itemsize * sizes.table_rows(task))
            before = (batch[-1].image, batch[-1].label_map, batch[-1].table) if batch else (slice(0, 0),) * 3
            own = [_after(place, length) for place, length in zip(before, lengths, strict=True)]
            batch.append(_Image(image, sizes, *own))
        return batch

    def _make_room(self, own: _LaneMemory, batch: list[_Image], task: str) -> None:
        # An integrated device needs no copy of maps, each of whose pixels it writes once. Images are read several times
        # and tables counted up by atomics: such a device does not cache memory of the host (CUDA for Tegra, "Memory
        # types"), so a copy is cheaper.
        last = batch[-1]
        own.images = self._grown(own.images, last.image.stop, zero_copy=False)
        if task == "instance":
            return
        own.maps = self._grown(own.maps, last.label_map.stop, zero_copy=True)
        own.tables = self._grown(own.tables, last.table.stop, zero_copy=False)
        needed = max(self._workspace(image.sizes, task) for image in batch)
        if own.workspace is None or own.workspace.size < needed:
            if own.workspace is not None:
                own.workspace.close()
            own.workspace = DeviceBuffer(self._device, max(needed, ALIGNED))

    def _prepare(self, lane: NetworkLane, own: _LaneMemory, batch: list[_Image], size: InputShape) -> None:
        """Upload and preprocessing; entries of the batch that have no image become zeros, as on the host."""
        stream, (count, height, width) = lane.stream.handle, size
        images, pixels = _there(own.images), lane.buffers[INPUT].address
        for image in batch:
            images.host[image.image].reshape(image.pixels.shape)[...] = image.pixels
        images.upload(stream, batch[-1].image.stop)
        one = 3 * height * width * FLOAT
        for index, image in enumerate(batch):
            sizes, rules = image.sizes, self._spec.model.preprocessing
            source, target = images.address + image.image.start, pixels + index * one
            self._kernels.preprocess(source, sizes.image, sizes.content, sizes.padded, rules, target, stream)
        if len(batch) < count:
            self._device.fill(pixels + len(batch) * one, 0, (count - len(batch)) * one, stream)

    def _fuse(self, lane: NetworkLane, own: _LaneMemory, batch: list[_Image], task: str) -> None:
        """Masks and their download."""
        stream, rules = lane.stream.handle, self._spec.model.postprocessing
        maps, tables, workspace = _there(own.maps), _there(own.tables), _there(own.workspace)
        shapes = lane.shapes((1, *batch[0].sizes.padded))
        for index, image in enumerate(batch):
            logits = [lane.buffers[name].address + index * FLOAT * math.prod(shapes[name]) for name in OUTPUTS]
            places = (maps.address + image.label_map.start, tables.address + image.table.start, workspace.address)
            if task == "semantic":
                self._kernels.semantic(*logits, image.sizes, rules.semantic_order, *places, stream)
            else:
                thresholds = (rules.object_threshold, rules.overlap_threshold)
                self._kernels.panoptic(*logits, image.sizes, self._things.address, *thresholds, *places, stream)
        maps.download(stream, batch[-1].label_map.stop)
        tables.download(stream, batch[-1].table.stop)

    def _result(self, own: _LaneMemory, image: _Image, task: str) -> Segmentation:
        shown = _there(own.maps).host[image.label_map].view(np.int32).reshape(image.sizes.image)  # [H0, W0]
        table = _there(own.tables).host[image.table].view(SEGMENT_DTYPE)
        return segmentation(shown.copy(), table, task, self._spec.model.labels)  # the buffer is the next image's

    def _instances(self, lane: NetworkLane, batch: list[_Image], size: InputShape) -> list[Segmentation]:
        logits = zip(*lane.outputs(size).values(), strict=True)  # of each entry of the batch: [Q, K+1], [Q, h, w]
        return [
            self._host.instance(*one, image.sizes.padded, image.sizes.content, image.sizes.image, self._spec.model)
            for image, one in zip(batch, logits, strict=False)
        ]

    def _workspace(self, sizes: FusionSizes, task: str) -> int:
        if task == "semantic":
            return self._kernels.semantic_workspace(sizes, self._spec.model.postprocessing.semantic_order)
        return self._kernels.panoptic_workspace(sizes)

    def _grown(self, buffer: TransferBuffer | None, size: int, zero_copy: bool) -> TransferBuffer:
        if buffer is not None:
            if buffer.size >= size:
                return buffer
            buffer.close()  # before its successor takes memory; nothing uses it while the lane has nothing to do
        return TransferBuffer(self._device, size, zero_copy)

    def _marks(self, own: _LaneMemory) -> list[Event]:
        while len(own.events) <= len(STEPS):
            own.events.append(Event(self._device))
        return own.events


def _after(previous: slice, length: int) -> slice:
    start = (previous.stop + ALIGNED - 1) // ALIGNED * ALIGNED
    return slice(start, start + length)


def _there(buffer: Buffer | None) -> Buffer:
    if buffer is None:
        raise RuntimeError("a buffer was used before _make_room")
    return buffer
