"""Step `fusion`: preprocessing and SegmentFusion on the GPU against the CPU's own code, and how long they take.

The logits are made up: 100 queries, 133 classes, 15 or 60 of the queries sure. Those of a network on a photograph go
the same way in the step `parity`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mask2edge.benchmarks.gpu.rows import RowFile
from mask2edge.benchmarks.gpu.workbench import Workbench
from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_kernels import SEGMENT_DTYPE, DeviceKernels, FusionSizes, segmentation
from mask2edge.runtime.device_memory import Device, open_device
from mask2edge.runtime.preprocess import content_size, padded_size, preprocess
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing, Profile
from mask2edge.trt_plugins import tensorrt_plugin_library, why_no_plugin_library

REPEAT = 50
IMAGE = (1080, 1920)
PADDED, CONTENT = (800, 1344), (750, 1333)
MOST_RELABELLED = 1e-4  # of the pixels: ties, and masks that are one half to the last bit
MOST_PIXEL_ERROR = 1 / 50  # one grey level, normalised


@dataclass(frozen=True)
class Logits:
    """One image's network outputs and what leads them back to it."""

    name: str
    spec: ModelSpec
    class_logits: np.ndarray  # [Q, K+1]
    mask_logits: np.ndarray  # [Q, h, w]
    padded: tuple[int, int]
    content: tuple[int, int]
    image: tuple[int, int]

    @property
    def sizes(self) -> FusionSizes:
        queries, classes = self.class_logits.shape
        height, width = self.mask_logits.shape[1:]
        return FusionSizes(queries, classes - 1, (height, width), self.padded, self.content, self.image)


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    library = tensorrt_plugin_library()
    if library is None:
        raise InputError(why_no_plugin_library())
    kernels = DeviceKernels(library)
    with open_device() as device:
        bench = FusionBench(kernels, device)
        for image_size in (IMAGE, (333, 501)):
            bench.check_preprocessing(rows, image_size)
        for sure in (15, 60):
            for order in ("image", "padded"):
                bench.check(rows, made_up_logits(sure, IMAGE, order), "semantic")
            bench.check(rows, made_up_logits(sure, IMAGE), "panoptic")


def made_up_logits(sure: int, image: tuple[int, int], order: str = "image") -> Logits:
    """100 queries, 133 classes, an ellipse a query; `sure` of them score above 0.9, the others are no object."""
    queries, classes, random = 100, 133, np.random.default_rng(sure)
    height, width = PADDED[0] // 4, PADDED[1] // 4
    y, x = np.mgrid[:height, :width].astype(np.float32)
    mask_logits = np.empty((queries, height, width), np.float32)
    for mask in mask_logits:
        centre_y, centre_x, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(8, 60)
        mask[:] = (radius**2 - (y - centre_y) ** 2 - (x - centre_x) ** 2) / (4 * radius)
    class_logits = random.standard_normal((queries, classes + 1)).astype(np.float32)
    chosen = np.where(np.arange(queries) < sure, random.integers(0, classes, queries), classes)
    class_logits[np.arange(queries), chosen] += 10
    labels = tuple(Label(k, f"class {k}", k < 80, (k, k, k), k) for k in range(classes))
    spec = ModelSpec(
        "made up", labels, queries, Preprocessing((127.5,) * 3, (127.5,) * 3), Postprocessing(semantic_order=order),
        ("panoptic", "semantic"),
    )  # fmt: skip
    return Logits(f"{sure} sure of 100, {order}", spec, class_logits, mask_logits, PADDED, CONTENT, image)


class FusionBench:
    def __init__(self, kernels: DeviceKernels, device: Device) -> None:
        self._kernels = kernels
        self._device = device

    def check(self, rows: RowFile, logits: Logits, task: str) -> None:
        """Adds the rows of one task on one image's logits."""
        make = postprocess.semantic if task == "semantic" else postprocess.panoptic
        expected = make(
            logits.class_logits, logits.mask_logits, logits.padded, logits.content, logits.image, logits.spec
        )
        what = f"{task} {logits.name}, {logits.image[0]}x{logits.image[1]}"
        found, milliseconds = self.fuse(logits, task, REPEAT)
        relabelled = float(np.mean(found.label_map != expected.label_map))
        rows.bounded(f"{what}: pixels labelled otherwise than on the CPU", relabelled, MOST_RELABELLED)
        same = [segment.label_id for segment in found.segments] == [segment.label_id for segment in expected.segments]
        rows.bounded(
            f"{what}: segments that differ", 0 if same else abs(len(found.segments) - len(expected.segments)) or 1, 0
        )
        rows.measured(f"{what}: on the device", f"{milliseconds:.2f} ms")

    def fuse(self, logits: Logits, task: str, repeat: int) -> tuple[Segmentation, float]:
        """The result, and the milliseconds that the device takes for it."""
        sizes, rules = logits.sizes, logits.spec.postprocessing
        things = np.array([bool(label.is_thing) for label in logits.spec.labels], np.uint8)  # [K]
        kernels = self._kernels
        with Workbench(self._device) as bench:
            classes, masks = bench.upload(logits.class_logits), bench.upload(logits.mask_logits)
            is_thing = bench.upload(things)
            label_map = bench.allocate(4 * math.prod(logits.image))
            table = bench.allocate(SEGMENT_DTYPE.itemsize * sizes.table_rows(task))
            scratch = (kernels.semantic_workspace if task == "semantic" else kernels.panoptic_workspace)(sizes)
            workspace = bench.allocate(scratch)

            def launch() -> None:
                if task == "semantic":
                    order = rules.semantic_order
                    kernels.semantic(classes, masks, sizes, order, label_map, table, workspace, bench.stream)
                else:
                    thresholds = (rules.object_threshold, rules.overlap_threshold)
                    kernels.panoptic(
                        classes, masks, sizes, is_thing, *thresholds, label_map, table, workspace, bench.stream
                    )

            launch()
            host_map = bench.download(label_map, logits.image, np.dtype(np.int32))
            host_table = bench.download(table, (sizes.table_rows(task),), SEGMENT_DTYPE)
            milliseconds = bench.time(launch, repeat)
        return segmentation(host_map, host_table, task, logits.spec.labels), milliseconds

    def check_preprocessing(self, rows: RowFile, image_size: tuple[int, int]) -> None:
        """Adds the rows of one image size."""
        rules = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), shortest_edge=800, longest_edge=1333)
        image = np.random.default_rng(0).integers(0, 256, (*image_size, 3), np.uint8)
        profile = Profile.fixed(*PADDED)
        content = content_size(image_size, rules, profile)
        padded = padded_size([content], rules, profile)
        expected = preprocess(image, rules, profile).pixels[0]  # [3, H, W]
        with Workbench(self._device) as bench:
            source = bench.upload(image)
            target = bench.allocate(expected.nbytes)

            def launch() -> None:
                self._kernels.preprocess(source, image_size, content, padded, rules, target, bench.stream)

            launch()
            found = bench.download(target, expected.shape, expected.dtype)
            what = f"preprocess {image_size[0]}x{image_size[1]} to {padded[0]}x{padded[1]}"
            rows.bounded(f"{what}: largest difference", float(np.abs(found - expected).max()), MOST_PIXEL_ERROR)
            rows.measured(f"{what}: on the device", f"{bench.time(launch, REPEAT):.3f} ms")
