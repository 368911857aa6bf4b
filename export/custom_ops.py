"""The two operators of OPS.md as `torch.library` ops, and as nodes of the ONNX domain `mask2edge`.

    graph = InferenceGraph(model, CustomOps(), size=(512, 512))
    torch.onnx.export(graph, (pixels,), dynamo=True, custom_translation_table=TRANSLATIONS)

In PyTorch they run, and differentiate, as the reference functions of train/model; in ONNX each is one node, which
the CPU library (ONNX Runtime) or a plugin (TensorRT) executes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch
from onnx.defs import OpSchema
from onnxscript import opset18
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from mask2edge.export import stages
from mask2edge.train.model.deformable_attention import multiscale_deformable_attention as deformable_reference
from mask2edge.train.model.masked_attention import masked_attention as masked_reference
from mask2edge.trt_plugins import OP_DOMAIN, OP_VERSION


@torch.library.custom_op(
    "mask2edge::multiscale_deformable_attention",
    mutates_args=(),
    schema="(Tensor value, Tensor offsets, Tensor logits, Tensor reference_points, SymInt[] spatial_shapes, "
    "int num_heads, int num_points) -> Tensor",
)
def multiscale_deformable_attention(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    spatial_shapes: Sequence[int],
    num_heads: int,
    num_points: int,
) -> Tensor:
    """As train.model.deformable_attention, with spatial_shapes flat: (H0, W0, H1, W1, …)."""
    shapes = list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
    return deformable_reference(value, offsets, logits, reference_points, shapes, num_heads, num_points).contiguous()


@multiscale_deformable_attention.register_fake
def _(value, offsets, logits, reference_points, spatial_shapes, num_heads, num_points):  # type: ignore[no-untyped-def]
    return value.new_empty(offsets.shape[0], offsets.shape[1], value.shape[2])


@torch.library.custom_op("mask2edge::masked_attention", mutates_args=())
def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int) -> Tensor:
    """As train.model.masked_attention."""
    return masked_reference(query, key, value, mask_logits, num_heads).contiguous()


@masked_attention.register_fake
def _(query, key, value, mask_logits, num_heads):  # type: ignore[no-untyped-def]
    return torch.empty_like(query)


def _differentiate_through(op: CustomOpDef, reference: Callable[..., Tensor]) -> None:
    """Autograd by running `reference` again; the first four arguments are tensors, the others get no gradient."""
    tensors = 4

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.rest = inputs[tensors:]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            needed = ctx.needs_input_grad[:tensors]
            inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
            output = reference(*inputs, *ctx.rest)
            wanted = [x for x in inputs if x.requires_grad]
            found = iter(torch.autograd.grad(output, wanted, gradient, allow_unused=True))
        return (*(next(found) if x.requires_grad else None for x in inputs), *(None for _ in ctx.rest))

    op.register_autograd(backward, setup_context=setup_context)


def _deformable_with_flat_shapes(*arguments: Any) -> Tensor:
    *tensors, flat, heads, points = arguments
    return deformable_reference(*tensors, list(zip(flat[::2], flat[1::2], strict=True)), heads, points)


_differentiate_through(multiscale_deformable_attention, _deformable_with_flat_shapes)
_differentiate_through(masked_attention, masked_reference)


class CustomOps:
    """The operators as single nodes; see `standard_ops.Operators`."""

    name = "custom"

    def multiscale_deformable_attention(
        self,
        value: Tensor,
        offsets: Tensor,
        logits: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        num_heads: int,
        num_points: int,
    ) -> Tensor:
        flat = [length for shape in spatial_shapes for length in shape]
        return multiscale_deformable_attention(value, offsets, logits, reference_points, flat, num_heads, num_points)

    def masked_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int
    ) -> Tensor:
        return masked_attention(query, key, value, mask_logits, num_heads)


_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
_INT, _STRING = OpSchema.AttrType.INT, OpSchema.AttrType.STRING


def _register(name: str, inputs: dict[str, str], attributes: dict[str, OpSchema.AttrType]) -> None:
    """Tells onnx about an op of our domain; `inputs` maps names to types: T is the output's, O may differ from it."""
    if onnx.defs.has(name, OP_DOMAIN):
        return
    onnx.defs.register_schema(
        OpSchema(
            name,
            OP_DOMAIN,
            OP_VERSION,
            inputs=[OpSchema.FormalParameter(key, kind) for key, kind in inputs.items()],
            outputs=[OpSchema.FormalParameter("output", "T")],
            type_constraints=[(kind, _FLOATS, "") for kind in ("T", "O") if kind in inputs.values()],
            attributes=[OpSchema.Attribute(key, kind, required=True) for key, kind in attributes.items()],
        )
    )


_register(
    "MultiscaleDeformableAttention",
    {
        "value": "T",
        "offsets": "O",
        "logits": "O",
        "reference_points": "tensor(float)",
        "spatial_shapes": "tensor(int32)",
    },
    {"num_heads": _INT, "num_points": _INT},
)
_register(
    "MaskedAttention", {"query": "T", "key": "T", "value": "T", "mask_logits": "tensor(float)"}, {"num_heads": _INT}
)
_register(stages.MARKER, {"x": "T"}, {"name": _STRING})
_OPSET = onnxscript.values.Opset(OP_DOMAIN, OP_VERSION)


def _translate_deformable(  # type: ignore[no-untyped-def]
    value, offsets, logits, reference_points, spatial_shapes, num_heads: int, num_points: int
):
    flat = opset18.Cast(spatial_shapes, to=onnx.TensorProto.INT32)
    shapes = opset18.Reshape(flat, opset18.Constant(value_ints=[-1, 2]))  # type: ignore[type-var, arg-type]  # [L, 2]
    return _OPSET.MultiscaleDeformableAttention(
        value, offsets, logits, reference_points, shapes, num_heads=num_heads, num_points=num_points
    )


def _translate_masked(query, key, value, mask_logits, num_heads: int):  # type: ignore[no-untyped-def]
    return _OPSET.MaskedAttention(query, key, value, mask_logits, num_heads=num_heads)


def _translate_stage(x, name: str):  # type: ignore[no-untyped-def]
    return _OPSET.Stage(x, name=name)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.mask2edge.multiscale_deformable_attention.default: _translate_deformable,
    torch.ops.mask2edge.masked_attention.default: _translate_masked,
    torch.ops.mask2edge.stage.default: _translate_stage,
}
