"""Runs an engine's model.plan with TensorRT on an NVIDIA GPU.

    with TensorRTSession(Path("artifacts/street-lite-fp16.engine"), spec, contexts=2) as session:
        session.run(pixels)["mask_logits"].shape                        # [N, Q, H/4, W/4]
        handles = [session.infer_async(batch) for batch in batches]     # two of them at a time
        outputs = [handle.result() for handle in handles]

Where the plugin library is installed, images are prepared and masks are made on the device as well: an image goes up,
a label map and a table of segments come down (`segment_images`). Tested on the host over doubles; not run on a GPU.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import (
    Device,
    DeviceError,
    cuda_obstacle,
    current_if_possible,
    forget_locals,
    open_device,
)
from mask2edge.runtime.image_steps import ImageSteps
from mask2edge.runtime.lane_pool import LanePool, Pending
from mask2edge.runtime.network_lane import NetworkLane
from mask2edge.runtime.session import check_pixels
from mask2edge.runtime.spec import EngineSpec
from mask2edge.runtime.tensorrt_engine import TensorRTEngine

if TYPE_CHECKING:
    from mask2edge.runtime.results import Segmentation

PLAN_FILE = "model.plan"


class TensorRTSession:
    """One loaded engine. Its methods may be called from several threads."""

    def __init__(self, folder: Path, spec: EngineSpec, contexts: int = 1) -> None:
        """`contexts`: how many inferences may be under way at a time; each takes memory for the largest shapes.

        Raises InputError where the GPU, TensorRT, the plugins or the memory that the engine needs are not here.
        """
        if isinstance(contexts, bool) or not isinstance(contexts, int) or contexts < 1:
            raise InputError(f"contexts: expected 1 or more, got {contexts!r}")
        plan = folder / PLAN_FILE
        if not plan.is_file():
            raise InputError(f"{plan}: missing; build the engine again")
        # The driver first: TensorRT's runtime ends the process where there is none.
        obstacle = cuda_obstacle()
        if obstacle:
            raise InputError(
                f"{folder}: this engine runs on an NVIDIA GPU, and {obstacle}; "
                "build one for the CPU with export/build_engine.py --backend onnxruntime"
            )
        self._spec = spec
        self.device = open_device()
        resources = contextlib.ExitStack()
        try:
            with self.device.current():
                self.lanes = self._open(plan, contexts, resources)
        except BaseException as error:
            forget_locals(error)
            with contextlib.suppress(DeviceError):  # the first error is the one that says something
                _release(self.device, None, resources)
            raise
        self._pool = LanePool(self.device, self.lanes)
        # Runs once: by close(), with the session, or at the interpreter's end while modules are still whole.
        self._finalize = weakref.finalize(self, _release, self.device, self._pool, resources)

    def _open(self, plan: Path, contexts: int, resources: contextlib.ExitStack) -> list[NetworkLane]:
        """Freed in the reverse order: graphs, contexts, engine, runtime, buffers, streams."""
        memory = resources.enter_context(contextlib.ExitStack())
        engine = resources.enter_context(TensorRTEngine(plan, self._spec, self.device))
        lanes = [NetworkLane(self.device, engine, self._spec, memory) for _ in range(contexts)]
        for lane in lanes:
            resources.callback(lane.drop_contexts)
        self._steps = ImageSteps.where_possible(self.device, self._spec, lanes, memory)
        return lanes

    @property
    def on_device(self) -> bool:
        """Whether `segment_images` can be used: it takes the plugin library, which a plain network does not."""
        return self._steps is not None

    @property
    def contexts(self) -> int:
        """How many batches may be under way at a time."""
        return len(self.lanes)

    @property
    def graph_obstacle(self) -> str:
        """Why the network is queued launch by launch and not as one CUDA graph; "" where it is a graph."""
        return next((lane.graph_obstacle for lane in self.lanes if lane.graph_obstacle), "")

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Normalised pixels, float32 [N, 3, H, W] within the profile -> float32 class_logits [N, Q, K+1] and
        mask_logits [N, Q, H/4, W/4]. Raises InputError for another shape or type.
        """
        return self.infer_async(pixels).result()

    def infer_async(self, pixels: np.ndarray) -> Pending[dict[str, np.ndarray]]:
        """As `run`, without waiting: `.result()` of what it returns waits. `pixels` are copied before it returns."""
        check_pixels(pixels, self._spec.profile)

        def queue(lane: NetworkLane) -> Callable[[], dict[str, np.ndarray]]:
            size = lane.load(pixels)
            lane.enqueue(size)
            lane.fetch(size)
            return lambda: lane.outputs(size)

        return self._pool.submit(queue)

    def layer_times(self, pixels: np.ndarray, runs: int = 20) -> dict[str, float]:
        """Layer's name -> milliseconds, the median of `runs` executions. `pixels` as in `run`.

        Their sum is more than an inference takes: each layer is timed by itself, and no CUDA graph is used.
        """
        check_pixels(pixels, self._spec.profile)

        def measure(lane: NetworkLane) -> Callable[[], list[Counter[str]]]:
            times = lane.layer_times(lane.load(pixels), runs)
            return lambda: times

        measured = self._pool.submit(measure).result()
        names = dict.fromkeys(name for one in measured for name in one)  # in the engine's order
        return {name: float(np.median([one[name] for one in measured])) for name in names}

    def segment_images(self, batches: Sequence[Sequence[np.ndarray]], task: str) -> list[Segmentation]:
        """Batches of images, uint8 [H, W, 3] BGR, none larger than the profile's -> one result for each image.

        Raises InputError for what is no image, and where `on_device` is false.
        """
        pending = [self.segment_async(batch, task) for batch in batches]
        return [result for one in pending for result in one.result()]

    def segment_async(
        self, images: Sequence[np.ndarray], task: str, times: dict[str, float] | None = None
    ) -> Pending[list[Segmentation]]:
        """One batch, without waiting. `times`, where given, gets the milliseconds that the device took for preprocess
        (upload included), network and postprocess (download included), once the result is there.
        """
        steps = self._steps
        if steps is None:
            raise InputError("segment_images: the plugin library is missing, so images cannot be prepared on the GPU")
        return self._pool.submit(lambda lane: steps.queue(lane, images, task, times))

    def close(self) -> None:
        """Frees the GPU's memory, once everything under way is finished. May be called again."""
        self._finalize()

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _release(device: Device, pool: LanePool | None, resources: contextlib.ExitStack) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(device.close)
        stack.enter_context(current_if_possible(device))
        stack.push(resources)
        if pool is not None:
            pool.close()
