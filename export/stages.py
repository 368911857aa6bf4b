"""Names for the boundaries between a network's stages.

    x = stage(x, "pixel_decoder.mask_features")      # in the torch module
    name_stages(onnx_program.model)                  # that tensor has the name now; no node is left of the marker

Stages are compared one by one (stage_comparison.py), which needs boundaries that can be found in the file.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

MARKER = "Stage"


@torch.library.custom_op("mask2edge::stage", mutates_args=())
def stage(x: Tensor, name: str) -> Tensor:
    """The same tensor, with a name in the exported graph."""
    return x.clone()


@stage.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@stage.register_autograd
def _(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient, None


def name_stages(model: ir.Model) -> list[str]:
    """Removes the markers in place and gives their tensors the marked names; the names in graph order."""
    names = []
    for node in list(model.graph):
        if node.op_type != MARKER:
            continue
        source, marked = node.inputs[0], node.outputs[0]
        name = node.attributes["name"].as_string()
        if source is None or source.producer() is None or marked.is_graph_output():
            raise RuntimeError(f"stage {name}: expected a marker between two nodes of the graph")
        ir.convenience.replace_all_uses_with(marked, source)
        model.graph.remove(node, safe=True)
        source.name = name
        names.append(name)
    return names
