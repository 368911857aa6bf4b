"""Exports a checkpoint to one ONNX file, and writes it only after every stage agreed with the plain model.

    python export/to_onnx.py models/street-lite.safetensors --size 512x512 --out artifacts/street-lite.onnx

Opset 18, IR version 8: ONNX Runtime 1.18 and TensorRT 10.3 read both, and LayerNormalization stays one node.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common as passes

from mask2edge.export.custom_ops import TRANSLATIONS, CustomOps
from mask2edge.export.inference_graph import InferenceGraph
from mask2edge.export.input_sizes import add_size_arguments, profile_from_arguments
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.stages import name_stages
from mask2edge.export.standard_ops import Operators, StandardOps
from mask2edge.export.verification import verify
from mask2edge.runtime.command_line import InputError, command, say, sha256_of, whole_file
from mask2edge.runtime.spec import SIZE_DIVISOR, ModelSpec, Profile
from mask2edge.train.checkpoint import load_model
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.trt_plugins import OP_DOMAIN, OP_VERSION, onnxruntime_ops_library, why_missing

OPSET = 18
IR_VERSION = 8
OPERATORS: dict[str, type[Operators]] = {"custom": CustomOps, "standard": StandardOps}
# Constants above this many elements stay the small factors they come from (position tables, say); backends fold them.
FOLD_LIMIT = 8192


def export_model(
    model: Mask2Former, spec: ModelSpec, profile: Profile, ops: str = "custom", checkpoint_sha256: str | None = None
) -> onnx.ModelProto:
    """The inference graph as ONNX, not verified yet.

    pixels [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]. What differs between the profile's
    min and max is a dynamic dimension.
    """
    dynamic = profile.min != profile.max
    graph = InferenceGraph(model, OPERATORS[ops](), size=None if dynamic else profile.opt[1:])
    batch, height, width = profile.opt
    if dynamic and profile.max[0] > 1:
        batch = max(batch, 2)  # torch.export would take a sample's batch of 1 for a constant
    parameter = next(model.parameters())
    # Sizes of one tile are special to torch.export as well; any other sample gives the same graph.
    height, width = (
        max(length, min(2 * SIZE_DIVISOR, most)) for length, most in zip((height, width), profile.max[1:], strict=True)
    )
    pixels = torch.zeros(batch, 3, height, width, dtype=parameter.dtype)  # [N, 3, H, W]
    with torch.no_grad(), quiet_exporter():
        program = torch.onnx.export(
            graph.eval(),
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["class_logits", "mask_logits"],
            dynamic_shapes={"pixels": _dynamic_dimensions(profile)} if dynamic else None,
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    description = Description(spec, profile, ops, "fp32", checkpoint_sha256)
    return finish(program.model, description)


def finish(model: ir.Model, description: Description) -> onnx.ModelProto:
    """Folds, names the stages, and leaves nothing in the file that a reader of IR version 8 would not know."""
    onnxscript.optimizer.optimize_ir(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    for clean in (
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=False),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        clean(model)
    name_stages(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "mask2edge", None
    model.metadata_props.clear()
    model.metadata_props.update(description.to_metadata())
    model.opset_imports.pop(OP_DOMAIN, None)  # the stages' markers were of it
    if description.ops == "custom":
        model.opset_imports[OP_DOMAIN] = OP_VERSION
    else:
        model.opset_imports.pop(OP_DOMAIN, None)  # of the stages' markers, which are gone
    _name_dimensions(model, description.profile)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto


def export_verified(
    model: Mask2Former, spec: ModelSpec, profile: Profile, ops: str, checkpoint_sha256: str | None = None
) -> onnx.ModelProto:
    """`export_model`, compared stage by stage with the plain model. Raises RuntimeError where they differ."""
    started = time.perf_counter()
    proto = export_model(model, spec, profile, ops, checkpoint_sha256)
    say(f"exported {len(proto.graph.node)} nodes, {ops} ops, in {time.perf_counter() - started:.1f} s")
    if ops == "custom" and onnxruntime_ops_library() is None:
        say(f"the native ops cannot run here ({why_missing()}): the same graph with standard ops is verified instead")
        verify(export_model(model, spec, profile, "standard"), model, profile)
    else:
        verify(proto, model, profile)
    return proto


def resolve_ops(wished: str) -> str:
    """`auto` is custom where the native library is, else standard."""
    if wished != "auto":
        return wished
    if onnxruntime_ops_library() is not None:
        return "custom"
    say(f"standard ops, which are slower: {why_missing()}")
    return "standard"


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter's warnings are about packages that it does not need and its own use of PyTorch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _dynamic_dimensions(profile: Profile) -> dict[int, Any]:
    dimensions: dict[int, Any] = {}
    low, high = profile.min, profile.max
    if low[0] != high[0]:
        dimensions[0] = torch.export.Dim("batch", min=low[0], max=high[0])
    for axis, index, name in ((2, 1, "height"), (3, 2, "width")):
        if low[index] != high[index]:
            tiles = torch.export.Dim(f"{name}_tiles", min=low[index] // SIZE_DIVISOR, max=high[index] // SIZE_DIVISOR)
            dimensions[axis] = SIZE_DIVISOR * tiles
    return dimensions


def _name_dimensions(model: ir.Model, profile: Profile) -> None:
    """Plain names for the dynamic dimensions of inputs and outputs, instead of the exporter's expressions."""
    names = [
        name if low != high else low
        for name, low, high in zip(("batch", "height", "width"), profile.min, profile.max, strict=True)
    ]
    (pixels,), (classes, masks) = model.graph.inputs, model.graph.outputs
    quarters = [f"{name}/4" if isinstance(name, str) else name // 4 for name in names[1:]]
    assert classes.shape is not None
    assert masks.shape is not None
    pixels.shape = ir.Shape([names[0], 3, *names[1:]])
    classes.shape = ir.Shape([names[0], *classes.shape[1:]])
    masks.shape = ir.Shape([names[0], masks.shape[1], *quarters])


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Export a checkpoint to ONNX.",
        epilog="example: python export/to_onnx.py models/street-lite.safetensors --dynamic --max 4x1024x1024",
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of train.py or import_weights.py")
    parser.add_argument("--out", type=Path, help="default: artifacts/<checkpoint's name>.onnx")
    parser.add_argument(
        "--ops",
        choices=("custom", "standard"),
        default="custom",
        help="custom: two fused operators of the domain mask2edge; standard: ONNX alone (default: custom)",
    )
    parser.add_argument("--fp16", action="store_true", help="store the weights in half precision")
    add_size_arguments(parser)
    arguments = parser.parse_args(argv)

    out = arguments.out or Path("artifacts") / f"{arguments.checkpoint.stem}.onnx"
    if out.suffix != ".onnx" or out.is_dir():
        raise InputError(f"--out: expected a file name ending in .onnx, got {out}")
    model, checkpoint = load_model(arguments.checkpoint)
    profile = profile_from_arguments(arguments, checkpoint.spec)
    proto = export_verified(model, checkpoint.spec, profile, arguments.ops, sha256_of(arguments.checkpoint))
    if arguments.fp16:
        from mask2edge.export.half_storage import store_half_verified

        proto = store_half_verified(proto)
    with whole_file(out) as temporary:
        onnx.save(proto, temporary)
    print(f"{out}  {out.stat().st_size / 1e6:.1f} MB, opset {OPSET}, {arguments.ops} ops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
