"""`postprocess` in C++: the same functions, masks and scores, at a fraction of the time.

    native = NativePostprocess.find(threads=2)     # None where this installation has no library
    result = (native or postprocess).panoptic(class_logits, mask_logits, padded, content, image, spec.model)

The library is trt_plugins/segment_fusion/cpu.h, called through ctypes, which lets other Python threads run meanwhile.
Labels equal those of `postprocess` up to ties: where float32 cannot tell which of two scores is higher.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np

from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_kernels import SEGMENT_DTYPE, segmentation
from mask2edge.runtime.native_library import Sizes, Tensors, check_memory, find, load_library
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import ModelSpec

Size = tuple[int, int]

_ORDERS = ("image", "padded")


class NativePostprocess:
    """`threads` 0: as many as the process may use. `instruction_set`: one of `instruction_sets`, None for the best."""

    def __init__(self, library: Path | ctypes.CDLL, threads: int = 0, instruction_set: str | None = None) -> None:
        """Raises InputError where the library is not ours or has no such instruction set."""
        self._library = load_library(library) if isinstance(library, Path) else library
        self.instruction_sets = tuple(self._library.mask2edge_cpu_instruction_sets().decode().split())  # slowest first
        if instruction_set is not None and instruction_set not in self.instruction_sets:
            raise InputError(
                f"instruction set: expected one of {', '.join(self.instruction_sets)}, got {instruction_set!r}"
            )
        place = -1 if instruction_set is None else self.instruction_sets.index(instruction_set)
        self._how = (max(threads, 0), place)

    @classmethod
    def find(cls, threads: int = 0) -> NativePostprocess | None:
        """With the installed library; None where there is none."""
        library = find()
        return None if library is None else cls(library, threads)

    def semantic(
        self, class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size,
        spec: ModelSpec,
    ) -> Segmentation:  # fmt: skip
        """As `postprocess.semantic`."""
        call = _Call(class_logits, mask_logits, padded, content, image, spec)
        if not self._can(call):
            return postprocess.semantic(class_logits, mask_logits, padded, content, image, spec)
        tensors = call.tensors(table_rows=spec.num_classes)
        order = _ORDERS.index(spec.postprocessing.semantic_order)
        check_memory(self._library.mask2edge_cpu_semantic(call.sizes, order, tensors, *self._how))
        return segmentation(call.label_map, call.table, "semantic", spec.labels)

    def panoptic(
        self, class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size,
        spec: ModelSpec, object_threshold: float | None = None, overlap_threshold: float | None = None,
    ) -> Segmentation:  # fmt: skip
        """As `postprocess.panoptic`."""
        postprocess.check_things(spec)
        call = _Call(class_logits, mask_logits, padded, content, image, spec)
        rules = spec.postprocessing
        thresholds = (
            rules.object_threshold if object_threshold is None else object_threshold,
            rules.overlap_threshold if overlap_threshold is None else overlap_threshold,
        )
        if not self._can(call):
            return postprocess.panoptic(class_logits, mask_logits, padded, content, image, spec, *thresholds)
        things = np.array([bool(label.is_thing) for label in spec.labels], np.uint8)  # [K]
        tensors = call.tensors(table_rows=len(class_logits), classes=things)
        check_memory(self._library.mask2edge_cpu_panoptic(call.sizes, *thresholds, tensors, *self._how))
        return segmentation(call.label_map, call.table, "panoptic", spec.labels)

    def instance(
        self, class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size,
        spec: ModelSpec,
    ) -> Segmentation:  # fmt: skip
        """As `postprocess.instance`."""
        call = _Call(class_logits, mask_logits, padded, content, image, spec)
        if not self._can(call):
            return postprocess.instance(class_logits, mask_logits, padded, content, image, spec)
        things_alone = "panoptic" in spec.tasks
        allowed = np.array([bool(label.is_thing) or not things_alone for label in spec.labels], np.uint8)  # [K]
        most = min(spec.postprocessing.instance_top_k, len(class_logits) * spec.num_classes)
        tensors = call.tensors(table_rows=most, classes=allowed)
        handle = ctypes.c_void_p()
        check_memory(self._library.mask2edge_cpu_instances(call.sizes, most, tensors, *self._how, ctypes.byref(handle)))
        try:
            counts = self._counts(handle, int(call.table[0]["id"]))
        finally:
            self._library.mask2edge_cpu_free_counts(handle)
        found = segmentation(call.label_map, call.table, "instance", spec.labels)  # refuses logits that are not finite
        segments = tuple(
            Segment(s.id, s.label_id, s.label, s.is_thing, s.score, s.area, s.box, call.label_map, own)
            for s, own in zip(found.segments, counts, strict=True)
        )
        return Segmentation(call.label_map, segments, "instance", spec.labels)

    def _can(self, call: _Call) -> bool:
        """Whether the library takes these sizes: masks larger than the input, or thousands of queries, it does not."""
        return not self._library.mask2edge_cpu_problem(call.sizes, None, 0)

    def _counts(self, handle: ctypes.c_void_p, rows: int) -> list[np.ndarray]:
        """Run lengths of each row's mask."""
        if not rows:
            return []
        values, begin = ctypes.POINTER(ctypes.c_int32)(), ctypes.POINTER(ctypes.c_int64)()
        total = self._library.mask2edge_cpu_counts(handle, ctypes.byref(values), ctypes.byref(begin))
        counts = np.ctypeslib.as_array(values, (total,)).copy()
        edges = np.ctypeslib.as_array(begin, (rows + 1,)).tolist()
        return [counts[start:stop] for start, stop in itertools.pairwise(edges)]


class _Call:
    """One image's arrays, as the library takes them; they live as long as this object. Raises InputError."""

    def __init__(
        self, class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size,
        spec: ModelSpec,
    ) -> None:  # fmt: skip
        postprocess.check_shapes(class_logits, mask_logits, padded, content, spec)
        self._class_logits = np.ascontiguousarray(class_logits, np.float32)  # [Q, K+1]
        self._mask_logits = np.ascontiguousarray(mask_logits, np.float32)  # [Q, h, w]
        queries, mask_size = len(mask_logits), mask_logits.shape[1:]
        self._sizes = Sizes(queries, spec.num_classes, *mask_size, *padded, *content, *image)
        self._image = image
        self.sizes = ctypes.byref(self._sizes)

    def tensors(self, table_rows: int, classes: np.ndarray | None = None) -> object:
        """`classes`: uint8 [K], what `is_thing` is for the task."""
        self.label_map = np.empty(self._image, np.int32)  # [H0, W0]
        self.table = np.zeros(1 + table_rows, SEGMENT_DTYPE)
        self._classes = classes
        self._tensors = Tensors(
            self._class_logits.ctypes.data,
            self._mask_logits.ctypes.data,
            None if classes is None else classes.ctypes.data,
            self.label_map.ctypes.data,
            self.table.ctypes.data,
        )
        return ctypes.byref(self._tensors)
