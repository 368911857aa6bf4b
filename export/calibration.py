"""The range of every tensor that will be quantised, from images that go through the runtime's own preprocessing.

    ranges = calibrate(proto, ["cat", "layer_norm"], images, "percentile")        # {"cat": (-3.1, 4.0), …}

Three methods: min-max takes the lowest and highest value seen; percentile leaves out the outermost 0.001 % of the
values; entropy cuts where the quantised histogram is least different from the whole. The histograms are those of
onnxruntime.quantization. The network runs on ONNX Runtime with its custom ops, whatever backend the engine is for.
No torch.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mask2edge.export.calibration_options import METHODS
from mask2edge.export.half_storage import metadata_of
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.stage_comparison import runner
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import read_image
from mask2edge.runtime.preprocess import preprocess_batch
from mask2edge.runtime.session import INPUT

PERCENTILE = 99.999
BINS = {"percentile": 2048, "entropy": 512}  # entropy tries every cut, in time that grows with the square
Ranges = dict[str, tuple[float, float]]
Arrays = dict[str, np.ndarray]


def calibrate(
    proto: onnx.ModelProto, tensors: Sequence[str], images: Sequence[Path], method: str = METHODS[0]
) -> Ranges:
    """Tensor -> lowest and highest value to be represented. `proto` describes its preprocessing, as our files do.

    Raises InputError for a file that is no image, an unknown method, and where the graph cannot run on this machine.
    """
    if method not in METHODS:
        raise InputError(f"--calibration-method: expected one of {', '.join(METHODS)}, got {method!r}")
    collector: _Limits | _Histograms = _Limits() if method == "min-max" else _Histograms(method)
    outputs = [name for name in tensors if name != INPUT]
    run = runner(_with_outputs(proto, outputs))
    for pixels in _batches(proto, images):
        found = run({INPUT: pixels})
        collector.add({name: pixels if name == INPUT else found[name] for name in tensors})
    ranges = collector.ranges()
    broken = [name for name, limits in ranges.items() if not np.isfinite(limits).all()]
    if broken:
        raise InputError(f"{broken[0]}: expected finite numbers on the calibration images; are the weights sound?")
    return ranges


class _Limits:
    """The lowest and highest value seen."""

    def __init__(self) -> None:
        self._found: Ranges = {}

    def add(self, arrays: Arrays) -> None:
        for name, values in arrays.items():
            low, high = self._found.get(name, (np.inf, -np.inf))
            self._found[name] = (min(low, float(values.min())), max(high, float(values.max())))

    def ranges(self) -> Ranges:
        return self._found


class _Histograms:
    """onnxruntime.quantization's, which say on stdout what they do; our stdout is for results."""

    def __init__(self, method: str) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        self._collector = HistogramCollector(
            method, symmetric=False, num_bins=BINS[method], num_quantized_bins=128, percentile=PERCENTILE, scenario=""
        )

    def add(self, arrays: Arrays) -> None:
        _quietly(self._collector.collect, arrays)

    def ranges(self) -> Ranges:
        found = _quietly(self._collector.compute_collection_result)
        return {name: (float(limits[0]), float(limits[1])) for name, limits in found.items()}


def _quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*arguments)


def _batches(proto: onnx.ModelProto, images: Sequence[Path]) -> Iterator[np.ndarray]:
    """Normalised pixels [N, 3, H, W], N as few as the graph takes; the last images fill up the last batch."""
    description = Description.from_metadata(metadata_of(proto), "the graph")
    rules, profile = description.spec.preprocessing, description.profile
    batch = profile.min[0]
    for start in range(0, len(images), batch):
        chosen = [images[min(start + index, len(images) - 1)] for index in range(batch)]
        yield preprocess_batch([read_image(path) for path in chosen], rules, profile)[0]


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in known
    )
    return copy
