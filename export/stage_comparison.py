"""Two graphs compared stage by stage, with the same attention masks in both. NumPy, onnx and ONNX Runtime; no torch.

    run_injected, run_free = runner(with_injected_masks(proto)), runner(with_stage_outputs(proto))
    report(compare(expected_stages, run_injected, run_free, pixels))

The sign of a mask logit decides what the next decoder layer attends to, so one flipped pixel moves all that follows by
more than any tolerance. Stages are therefore compared with the reference's masks injected into every decoder layer;
then the graph runs as it is, and the mask pixels that flipped are counted. So are the scores that guided queries are
chosen by: two that are nearly equal may change places, and with them their queries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from mask2edge.runtime.command_line import InputError, say
from mask2edge.trt_plugins import OP_DOMAIN, onnxruntime_ops_library, why_missing

TOLERANCE = 1e-4  # largest absolute error over the largest absolute value (at least 1) of the stage
OUTPUTS = ("class_logits", "mask_logits")
STAGE = re.compile(
    r"backbone\.res[2-5]|pixel_decoder\.(level\d+|fine)|decoder\.(\d+\.(mask_logits|queries)|proposal_logits)"
)
PROPOSALS = "decoder.proposal_logits"
INJECTED = "injected."
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """`errors`: stage -> largest error relative to its scale; `flips`: mask pixels whose sign changed."""

    errors: dict[str, float]
    flips: int
    mask_pixels: int

    @property
    def largest(self) -> float:
        return max(self.errors.values())


def stage_names(proto: onnx.ModelProto) -> list[str]:
    """The named boundaries of an exported graph, in its order."""
    return [name for node in proto.graph.node for name in node.output if STAGE.fullmatch(name)]


def with_stage_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs are all stages and the results."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(_tensor(name) for name in stage_names(proto))
    return copy


def with_injected_masks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As `with_stage_outputs`, and what decides (`decides`) comes from inputs `injected.<stage>`."""
    copy = with_stage_outputs(proto)
    masks = {name for name in stage_names(proto) if decides(name)}
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            if name in masks:
                node.input[index] = INJECTED + name
    copy.graph.input.extend(_tensor(INJECTED + name) for name in sorted(masks))
    return copy


def runner(proto: onnx.ModelProto) -> Callable[[Arrays], Arrays]:
    """The graph on ONNX Runtime's CPU: inputs by name -> outputs by name.

    Raises InputError where it has custom ops and their library is missing.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if any(opset.domain == OP_DOMAIN for opset in proto.opset_import):
        library = onnxruntime_ops_library()
        if library is None:
            raise InputError(f"expected the library of the custom ops: {why_missing()}")
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def noise(batch: int, height: int, width: int) -> np.ndarray:
    """Reproducible normalised pixels, float32 [N, 3, H, W]."""
    return np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)


def compare(
    expected: Mapping[str, np.ndarray],
    run_injected: Callable[[Arrays], Arrays],
    run_free: Callable[[Arrays], Arrays],
    pixels: np.ndarray,
) -> Comparison:
    """`expected`: every stage of the reference; its masks are injected for the stages, and counted against without.
    Where guided queries change places, their masks' pixels count as flipped."""
    masks = {INJECTED + name: value.astype(np.float32) for name, value in expected.items() if decides(name)}
    found = run_injected({"pixels": pixels, **masks})
    missing = sorted(set(expected) - set(found))
    if missing:
        raise RuntimeError(f"verification: expected the graph to have the stages {', '.join(missing)}")
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    free = run_free({"pixels": pixels})
    counted = [name for name in expected if is_mask(name) or name == "mask_logits"]
    flips = sum(int(np.count_nonzero((free[name] >= 0) != (expected[name] >= 0))) for name in counted)
    return Comparison(errors, flips, sum(expected[name].size for name in counted))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute error over max(1, largest absolute value); infinite where something is not finite."""
    if found.shape != expected.shape:
        raise RuntimeError(f"verification: expected shape {expected.shape}, got {found.shape}")
    error = float(np.abs(found.astype(np.float64) - expected).max()) / max(1.0, float(np.abs(expected).max()))
    return error if np.isfinite(error) else float("inf")


def worse(first: Comparison | None, second: Comparison) -> Comparison:
    if first is None:
        return second
    errors = {name: max(first.errors[name], error) for name, error in second.errors.items()}
    return Comparison(errors, first.flips + second.flips, first.mask_pixels + second.mask_pixels)


def require(comparison: Comparison, tolerance: float) -> None:
    """Raises RuntimeError with the stages beyond the tolerance."""
    wrong = [f"{name} {error:.1e}" for name, error in comparison.errors.items() if not error <= tolerance]
    if wrong:
        raise RuntimeError(
            f"verification: expected every stage within {tolerance:.0e} of the plain model, got {', '.join(wrong)}; "
            "nothing was written"
        )


def report(comparison: Comparison) -> None:
    """One line for each group of stages: backbone, pixel decoder, each decoder layer, result."""
    groups: dict[str, float] = {}
    for name, error in comparison.errors.items():
        parts = name.split(".")
        group = f"decoder layer {parts[1]}" if parts[0] == "decoder" else parts[0].replace("_", " ")
        group = "proposals" if name == PROPOSALS else group
        group = f"result, {group}" if name in OUTPUTS else group
        groups[group] = max(groups.get(group, 0.0), error)
    say("stage                   largest error, relative to the stage's largest value")
    for group, error in groups.items():
        say(f"  {group:<22}{error:.1e}")
    say(f"  masks flipped end to end: {comparison.flips} of {comparison.mask_pixels} pixels")


def is_mask(stage: str) -> bool:
    """Whether a stage is the mask logits that a decoder layer attends by."""
    return stage.startswith("decoder.") and stage.endswith(".mask_logits")


def decides(stage: str) -> bool:
    """Whether something discrete follows from a stage: what a layer attends to, or which pixels become queries."""
    return is_mask(stage) or stage == PROPOSALS


def _tensor(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
