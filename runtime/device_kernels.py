"""Pre- and post-processing on the GPU: the plugin library's C functions, called through ctypes with device addresses.

    kernels = DeviceKernels(library)                       # trt_plugins.tensorrt_plugin_library()
    kernels.preprocess(image, (720, 960), (384, 512), (512, 512), spec.model.preprocessing, pixels, stream)
    kernels.panoptic(class_logits, mask_logits, sizes, is_thing, 0.8, 0.8, label_map, table, workspace, stream)
    result = segmentation(label_map_on_host, table_on_host, "panoptic", spec.model.labels)

Addresses and the stream are ints. A call puts work on the stream and returns: it allocates nothing and waits for
nothing, so that it may be captured into a CUDA graph, which then keeps the sizes and thresholds of the capture. Results
equal those of `preprocess` and `postprocess`, up to rounding where classes or queries tie or a mask is at one half.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import Label, Preprocessing

Size = tuple[int, int]

DEVICE_INTERFACE = 1  # kDeviceInterface of trt_plugins/segment_fusion/c_api.h

# One row of a table of segments. The first row is a header: `id` says how many rows follow, `label` is not 0 where the
# logits were not finite.
SEGMENT_DTYPE = np.dtype(
    [("id", "<i4"), ("label", "<i4"), ("score", "<f4"), ("area", "<i4")]
    + [(name, "<i4") for name in ("x0", "y0", "x1", "y1")]
)

_ORDERS = ("image", "padded")
_TEXT_BYTES = 512


class DeviceKernelError(RuntimeError):
    """CUDA refused a launch."""


@dataclass(frozen=True)
class FusionSizes:
    """Of one image's logits and result, as in `postprocess`; `classes` is K, without "no object"."""

    queries: int
    classes: int
    mask: Size  # (h, w) of the mask logits
    padded: Size  # (H, W) of the network's input
    content: Size
    image: Size  # (H0, W0), also of the label map

    def table_rows(self, task: str) -> int:
        """Rows of SEGMENT_DTYPE, the header among them, that a table for `task` has to have room for."""
        return 1 + (self.classes if task == "semantic" else self.queries)


class Sizes(ctypes.Structure):
    """FusionSizes of trt_plugins/segment_fusion/shape.h."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "queries", "classes", "mask_height", "mask_width", "padded_height", "padded_width",
            "content_height", "content_width", "image_height", "image_width",
        )
    ]  # fmt: skip


class _Tensors(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("class_logits", "mask_logits", "is_thing", "label_map", "table", "workspace")
    ]


class Shape(ctypes.Structure):
    """PreprocessShape of trt_plugins/preprocess/shape.h."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "image_height", "image_width", "content_height", "content_width", "padded_height", "padded_width",
        )
    ]  # fmt: skip


class _Normalisation(ctypes.Structure):
    _fields_ = [("mean", ctypes.c_double * 3), ("std", ctypes.c_double * 3)]


_POINTER, _INT32, _INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {  # name -> result, arguments
    "mask2edge_device_interface": (_INT32, ()),
    "mask2edge_device_layout": (_INT32, (_POINTER, _INT32)),
    "mask2edge_error_text": (ctypes.c_char_p, (_INT32,)),
    "mask2edge_fusion_problem": (_INT32, (_POINTER, ctypes.c_char_p, _INT32)),
    "mask2edge_semantic_workspace": (_INT64, (_POINTER, _INT32)),
    "mask2edge_panoptic_workspace": (_INT64, (_POINTER,)),
    "mask2edge_semantic": (_INT32, (_POINTER, _INT32, _POINTER, _POINTER)),
    "mask2edge_panoptic": (_INT32, (_POINTER, ctypes.c_double, ctypes.c_double, _POINTER, _POINTER)),
    "mask2edge_preprocess_problem": (_INT32, (_POINTER, _POINTER, ctypes.c_char_p, _INT32)),
    "mask2edge_preprocess": (_INT32, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
}


def expected_layout() -> list[int]:
    """sizeof and offsets of the structures as declared here, in the order of mask2edge_device_layout."""
    rows = [offset for _, offset, *_ in (SEGMENT_DTYPE.fields or {}).values()]
    return [
        *_layout(Sizes),
        *_layout(_Tensors),
        SEGMENT_DTYPE.itemsize,
        *rows,
        *_layout(Shape),
        *_layout(_Normalisation),
    ]


def _layout(structure: type[ctypes.Structure]) -> list[int]:
    return [ctypes.sizeof(structure), *(getattr(structure, field[0]).offset for field in structure._fields_)]


class DeviceKernels:
    """The functions of one plugin library. Raises InputError where it is not one, or one of another version."""

    def __init__(self, library: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(library))
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(self._library, name)
                function.restype, function.argtypes = result, list(arguments)
        except (OSError, AttributeError) as error:
            raise InputError(
                f"{library}: expected mask2edge's plugin library, got {error}; install mask2edge again on this machine"
            ) from error
        interface = self._library.mask2edge_device_interface()
        expected = expected_layout()
        numbers = (ctypes.c_int32 * len(expected))()
        count = self._library.mask2edge_device_layout(numbers, len(expected))
        if interface != DEVICE_INTERFACE or count != len(expected) or list(numbers) != expected:
            raise InputError(
                f"{library}: expected device interface {DEVICE_INTERFACE}, got {interface}"
                f"{'' if interface != DEVICE_INTERFACE else ' with other structures'}: the library is of another "
                "version of mask2edge; install mask2edge again on this machine"
            )

    def preprocess(
        self, image: int, image_size: Size, content: Size, padded: Size, rules: Preprocessing, pixels: int, stream: int
    ) -> None:
        """uint8 [H0, W0, 3] BGR at `image` -> float32 [3, H, W] at `pixels`, as `preprocess.preprocess` does it.

        `content` and `padded` come from `preprocess.content_size` and `padded_size`. Raises InputError.
        """
        shape = Shape(*image_size, *content, *padded)
        normalisation = _Normalisation((ctypes.c_double * 3)(*rules.mean), (ctypes.c_double * 3)(*rules.std))
        self._refuse(self._library.mask2edge_preprocess_problem, ctypes.byref(shape), ctypes.byref(normalisation))
        self._check(
            "preprocess",
            self._library.mask2edge_preprocess(ctypes.byref(shape), ctypes.byref(normalisation), image, pixels, stream),
        )

    def semantic_workspace(self, sizes: FusionSizes, order: str | None = None) -> int:
        """Bytes that `semantic` needs; `order` None: for either order. Raises InputError."""
        numbers = range(len(_ORDERS)) if order is None else (_order(order),)
        c_sizes = self._sizes(sizes)
        return max(self._library.mask2edge_semantic_workspace(ctypes.byref(c_sizes), number) for number in numbers)

    def panoptic_workspace(self, sizes: FusionSizes) -> int:
        """Bytes that `panoptic` needs. Raises InputError."""
        c_sizes = self._sizes(sizes)
        return int(self._library.mask2edge_panoptic_workspace(ctypes.byref(c_sizes)))

    def semantic(
        self, class_logits: int, mask_logits: int, sizes: FusionSizes, order: str,
        label_map: int, table: int, workspace: int, stream: int,
    ) -> None:  # fmt: skip
        """float32 [Q, K+1] and [Q, h, w] -> int32 [H0, W0] of class ids, and a row for each class that is there.

        `table`: room for `sizes.table_rows("semantic")`; `workspace`: for `semantic_workspace`, aligned to 16 bytes.
        """
        c_sizes = self._sizes(sizes)
        tensors = _Tensors(class_logits, mask_logits, 0, label_map, table, workspace)
        self._check(
            "semantic",
            self._library.mask2edge_semantic(ctypes.byref(c_sizes), _order(order), ctypes.byref(tensors), stream),
        )

    def panoptic(
        self, class_logits: int, mask_logits: int, sizes: FusionSizes, is_thing: int,
        object_threshold: float, overlap_threshold: float, label_map: int, table: int, workspace: int, stream: int,
    ) -> None:  # fmt: skip
        """float32 [Q, K+1] and [Q, h, w] -> int32 [H0, W0] of segment ids from 1 (0: none), and a row for each.

        `is_thing`: uint8 [K]; `table` and `workspace` as for `semantic`.
        """
        c_sizes = self._sizes(sizes)
        tensors = _Tensors(class_logits, mask_logits, is_thing, label_map, table, workspace)
        self._check(
            "panoptic",
            self._library.mask2edge_panoptic(
                ctypes.byref(c_sizes), object_threshold, overlap_threshold, ctypes.byref(tensors), stream
            ),
        )

    def _sizes(self, sizes: FusionSizes) -> Sizes:
        c_sizes = Sizes(sizes.queries, sizes.classes, *sizes.mask, *sizes.padded, *sizes.content, *sizes.image)
        self._refuse(self._library.mask2edge_fusion_problem, ctypes.byref(c_sizes))
        return c_sizes

    def _refuse(self, problem_of: ctypes._NamedFuncPointer, *arguments: object) -> None:
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        if problem_of(*arguments, text, _TEXT_BYTES):
            raise InputError(text.value.decode())

    def _check(self, what: str, error: int) -> None:
        if error:
            text = self._library.mask2edge_error_text(error).decode()
            raise DeviceKernelError(f"{what}: CUDA error {error}, {text}")


def segmentation(label_map: np.ndarray, table: np.ndarray, task: str, labels: Sequence[Label]) -> Segmentation:
    """The result from what `semantic` or `panoptic` left: int32 [H0, W0], and a table of SEGMENT_DTYPE, on the host.

    Raises InputError where the logits were not finite.
    """
    count, not_finite = int(table[0]["id"]), int(table[0]["label"])
    if not_finite:
        raise InputError(
            "post-processing: expected finite logits, got infinities or NaN: the weights are damaged or the precision "
            "does not suffice; build the engine again with --fp32"
        )
    segments = []
    for row in table[1 : 1 + count]:
        label = labels[int(row["label"])]
        box = (int(row["x0"]), int(row["y0"]), int(row["x1"]), int(row["y1"]))
        segments.append(
            Segment(
                int(row["id"]), label.id, label.name, label.is_thing, float(row["score"]), int(row["area"]), box,
                label_map,
            )
        )  # fmt: skip
    return Segmentation(label_map, tuple(segments), task, tuple(labels))


def _order(order: str) -> int:
    if order not in _ORDERS:
        raise InputError(f"semantic order: expected {' or '.join(_ORDERS)}, got {order!r}")
    return _ORDERS.index(order)
