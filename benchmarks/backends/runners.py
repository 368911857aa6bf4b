"""Our backends as Polygraphy's runners: its comparator opens, runs and closes them one after the other.

    Comparator.run([TorchRunner(model, shape), OnnxRunner("custom", graph, shape)], data_loader=[{INPUT: pixels}])

Polygraphy's own runner for ONNX Runtime cannot register a library of custom ops, and its one for TensorRT knows nothing
of an engine folder. torch and onnx are imported by the runners that need them: the GPU check does without.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session import INPUT, first_line

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]


class Runner(BaseRunner):
    """What the runners share: one input, pixels [N, 3, H, W], and the time that Polygraphy asks for."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__(name=name)
        self._shape = shape

    def get_input_metadata_impl(self) -> Any:
        return TensorMetadata().add(INPUT, np.float32, self._shape)

    def infer_impl(self, feed_dict: Any) -> Any:
        started = time.perf_counter()
        outputs = OrderedDict(self.calculate(feed_dict[INPUT]))
        self.inference_time = time.perf_counter() - started
        return outputs

    def calculate(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        raise NotImplementedError


class TorchRunner(Runner):
    """The plain model on PyTorch, with every stage by hooks."""

    def __init__(self, model: Any, shape: Shape, name: str = "torch") -> None:
        super().__init__(name, shape)
        self._model = model

    def calculate(self, pixels: np.ndarray) -> Arrays:
        from mask2edge.export.verification import plain_stages

        return plain_stages(self._model, pixels)


class OnnxRunner(Runner):
    """A graph on ONNX Runtime's CPU, its stages marked as outputs; custom ops where it has them.

    `make` gives the graph when the runner is opened. Raises InputError there where it cannot run.
    """

    def __init__(self, name: str, make: Callable[[], onnx.ModelProto], shape: Shape) -> None:
        super().__init__(name, shape)
        self._make = make
        self._run: Callable[[Arrays], Arrays] | None = None

    def activate_impl(self) -> None:
        from mask2edge.export.stage_comparison import runner, with_stage_outputs

        graph = with_stage_outputs(self._make())
        with self._one_line("load the graph"):
            self._run = runner(graph)

    def calculate(self, pixels: np.ndarray) -> Arrays:
        assert self._run is not None
        with self._one_line(f"run on pixels {list(pixels.shape)}"):
            return self._run({INPUT: pixels})

    def deactivate_impl(self) -> None:
        self._run = None

    @contextlib.contextmanager
    def _one_line(self, purpose: str) -> Any:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise InputError(f"{self.name}: ONNX Runtime cannot {purpose} ({first_line(error)})") from error


class SegmenterRunner(Runner):
    """An engine's own session, as it ships: class and mask logits. `opened` is entered when the runner is opened."""

    def __init__(self, name: str, opened: Callable[[], AbstractContextManager[Segmenter]], shape: Shape) -> None:
        super().__init__(name, shape)
        self._opened = opened
        self._stack = contextlib.ExitStack()
        self._segmenter: Segmenter | None = None

    def activate_impl(self) -> None:
        self._segmenter = self._stack.enter_context(self._opened())

    def calculate(self, pixels: np.ndarray) -> Arrays:
        assert self._segmenter is not None
        return self._segmenter.session.run(pixels)

    def deactivate_impl(self) -> None:
        self._segmenter = None
        self._stack.close()
