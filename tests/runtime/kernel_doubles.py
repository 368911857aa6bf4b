"""`DeviceKernels` for the pretended GPU: the host's preprocessing and post-processing in its memory and streams.

    monkeypatch.setattr("mask2edge.runtime.image_steps.DeviceKernels", lambda library: HostKernels(machine, spec))

The real kernels are tested against the same functions in test_device_kernels.py. `QueuedKernels` puts the calls of the
real wrapper into the pretended streams: over libmask2edge_simt.so they work on host memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda_doubles import Machine, view

from mask2edge.runtime import postprocess, preprocess
from mask2edge.runtime.device_kernels import SEGMENT_DTYPE, DeviceKernelError, DeviceKernels, FusionSizes
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import ModelSpec, Preprocessing


class HostKernels:
    def __init__(self, machine: Machine, spec: ModelSpec) -> None:
        self._machine = machine
        self._spec = spec

    def preprocess(
        self, image: int, image_size: tuple[int, int], content: tuple[int, int], padded: tuple[int, int],
        rules: Preprocessing, pixels: int, stream: int,
    ) -> None:  # fmt: skip
        def work() -> None:
            source = self._array(image, np.uint8, (*image_size, 3))
            target = self._array(pixels, np.float32, (3, *padded))
            tables = preprocess._normalisation_tables(rules)
            resized = preprocess._resize(source, content)
            target[...] = 0
            for channel in range(3):
                target[channel, : content[0], : content[1]] = tables[channel][resized[:, :, 2 - channel]]

        self._queue("preprocess", work, stream)

    def semantic_workspace(self, sizes: FusionSizes, order: str | None = None) -> int:
        return 64 * sizes.queries

    def panoptic_workspace(self, sizes: FusionSizes) -> int:
        return 128 * sizes.queries

    def semantic(
        self, class_logits: int, mask_logits: int, sizes: FusionSizes, order: str, label_map: int, table: int,
        workspace: int, stream: int,
    ) -> None:  # fmt: skip
        self._fuse(postprocess.semantic, class_logits, mask_logits, sizes, label_map, table, workspace, 64, stream)

    def panoptic(
        self, class_logits: int, mask_logits: int, sizes: FusionSizes, is_thing: int, object_threshold: float,
        overlap_threshold: float, label_map: int, table: int, workspace: int, stream: int,
    ) -> None:  # fmt: skip
        def make(*arguments: Any) -> Segmentation:
            things = self._array(is_thing, np.uint8, (sizes.classes,))
            assert things.tolist() == [bool(label.is_thing) for label in self._spec.labels]
            return postprocess.panoptic(
                *arguments, object_threshold=object_threshold, overlap_threshold=overlap_threshold
            )

        self._fuse(make, class_logits, mask_logits, sizes, label_map, table, workspace, 128, stream)

    def _fuse(
        self, make: Any, class_logits: int, mask_logits: int, sizes: FusionSizes, label_map: int, table: int,
        workspace: int, workspace_each: int, stream: int,
    ) -> None:  # fmt: skip
        def work() -> None:
            logits = (
                self._array(class_logits, np.float32, (sizes.queries, sizes.classes + 1)),
                self._array(mask_logits, np.float32, (sizes.queries, *sizes.mask)),
            )
            self._array(workspace, np.uint8, (workspace_each * sizes.queries,))[...] = 1
            header = self._array(table, np.int32, (8,))
            if not all(np.isfinite(values).all() for values in logits):
                header[:2] = 0, 1
                return
            result = make(*(values.copy() for values in logits), sizes.padded, sizes.content, sizes.image, self._spec)
            self._array(label_map, np.int32, sizes.image)[...] = result.label_map
            rows = self._array(table, np.uint8, ((1 + len(result.segments)) * SEGMENT_DTYPE.itemsize,))
            header[:2] = len(result.segments), 0
            rows.view(SEGMENT_DTYPE)[1:] = [(s.id, s.label_id, s.score, s.area, *s.box) for s in result.segments]

        self._queue("semantic" if make is postprocess.semantic else "panoptic", work, stream)

    def _queue(self, name: str, work: Callable[[], None], stream: int) -> None:
        if self._machine.fails(name):
            raise DeviceKernelError(f"{name}: CUDA error 719, unspecified launch failure")
        self._machine.queue(stream, work)

    def _array(self, address: int, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        self._machine.check(address, size, "device")
        return view(address, size).view(kind).reshape(shape)


class QueuedKernels:
    """The real wrapper's calls, each in its turn on its pretended stream."""

    def __init__(self, machine: Machine, kernels: DeviceKernels) -> None:
        self._machine = machine
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._kernels, name)
        if name.endswith("workspace"):
            return method

        def queue(*arguments: Any) -> None:
            *_, stream = arguments
            self._machine.queue(stream, functools.partial(method, *arguments))

        return queue
