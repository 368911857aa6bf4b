"""The custom operators on the CPU against the subgraphs that stock exports have in their place.

    python benchmarks/kernels.py --threads 2 --json

Stock means: Hugging Face's multi_scale_deformable_attention with the softmax and the sampling locations around it,
torch's multi-head attention with Hugging Face's mask repeated for every head, torch's layer_norm of a sum and
Conv2d, each exported by torch.onnx and run by ONNX Runtime with all its optimisations. Both sides get the same inputs
and take turns; medians are compared, outputs too. "ratio" is stock / fused: how many times faster ours is.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.cpu_kernel_cases import CPU_TIMED, ConvolutionCase, CpuCase, NormalizationCase, fed
from mask2edge.benchmarks.kernel_cases import TIMED, Case, DeformableCase, MaskedCase, fused_session, session_of
from mask2edge.benchmarks.results_table import append_row
from mask2edge.benchmarks.timing import interleave, summarize, timed
from mask2edge.runtime.command_line import InputError, command, say
from mask2edge.trt_plugins import onnxruntime_ops_library, why_missing

CASES: Mapping[str, Case | CpuCase] = {**TIMED, **CPU_TIMED}
RESULTS = Path(__file__).resolve().parent / "results" / "kernels.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "threads", "versions", "op", "case", "runs", "fused_p50_ms", "stock_p50_ms",
    "ratio", "max_difference",
)  # fmt: skip


def stock_model(case: Case | CpuCase, inputs: dict[str, np.ndarray]) -> bytes:
    """The ONNX file that torch.onnx makes of the stock PyTorch code, for exactly these shapes."""
    import torch

    if isinstance(case, ConvolutionCase):
        module, inputs = _stock_convolution(case, inputs), fed(case, inputs)
    elif isinstance(case, NormalizationCase):
        module = _stock_normalization(case)
    else:
        module = _stock_deformable(case) if isinstance(case, DeformableCase) else _stock_masked(case)
    example = tuple(torch.from_numpy(array) for name, array in inputs.items() if name != "spatial_shapes")
    names = [name for name in inputs if name != "spatial_shapes"]
    program = torch.onnx.export(module.eval(), example, dynamo=True, opset_version=20, input_names=names, verbose=False)
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


def _stock_deformable(case: DeformableCase) -> Any:
    import torch
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    levels, heads, points = len(case.shapes), case.heads, case.points

    class Stock(torch.nn.Module):
        def forward(self, value, offsets, logits, reference_points):
            batch, queries = logits.shape[:2]
            offsets = offsets.view(batch, queries, heads, levels, points, 2)
            weights = logits.view(batch, queries, heads, levels * points).softmax(-1)
            sizes = torch.tensor([[w, h] for h, w in case.shapes])  # [L, 2]
            reference = reference_points[:, :, None, None, None]  # [1 or N, Lq, 1, 1, 1, 2]
            locations = reference + offsets / sizes[None, None, None, :, None]  # [N, Lq, M, L, P, 2]
            return multi_scale_deformable_attention(
                value.view(batch, value.shape[1], heads, -1),
                list(case.shapes),
                locations,
                weights.view(batch, queries, heads, levels, points),
            )

    return Stock()


def _stock_masked(case: MaskedCase) -> Any:
    import torch

    heads, head_dim = case.heads, case.head_dim

    class Stock(torch.nn.Module):
        def forward(self, query, key, value, mask_logits):
            # Mask2FormerMaskPredictor and Mask2FormerMaskedAttentionDecoder: the mask, once per head
            masked = (mask_logits.sigmoid().unsqueeze(1).repeat(1, heads, 1, 1).flatten(0, 1) < 0.5).bool()
            masked = masked & ~masked.all(-1, keepdim=True)  # [N*M, Q, S]; a query without a key sees all
            # torch.nn.functional.multi_head_attention_forward with need_weights, as Hugging Face calls it
            query, key, value = (
                tokens.transpose(0, 1).reshape(tokens.shape[1], -1, head_dim).transpose(0, 1)  # [N*M, Q or S, D]
                for tokens in (query, key, value)
            )
            bias = torch.zeros_like(masked, dtype=query.dtype).masked_fill(masked, float("-inf"))
            weights = torch.baddbmm(bias, query * head_dim**-0.5, key.transpose(1, 2)).softmax(-1)  # [N*M, Q, S]
            output = torch.bmm(weights, value)  # [N*M, Q, D]
            return output.transpose(0, 1).reshape(output.shape[1], -1, heads * head_dim).transpose(0, 1)

    return Stock()


def _stock_convolution(case: ConvolutionCase, inputs: dict[str, np.ndarray]) -> Any:
    import torch

    convolution = torch.nn.Conv2d(case.channels, case.filters, 3, padding=1)
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(inputs["weight"]))
        convolution.bias.copy_(torch.from_numpy(inputs["bias"]))
    return convolution


def _stock_normalization(case: NormalizationCase) -> Any:
    import torch

    class Stock(torch.nn.Module):
        def forward(self, x, residual, scale, bias):
            return torch.nn.functional.layer_norm(
                x + residual, [case.channels], scale, bias, case.attributes["epsilon"]
            )

    return Stock()


def bound_run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> tuple[Callable[[], None], Any]:
    """A call without copies from and to Python, and the output it writes."""
    binding = session.io_binding()
    for name in (i.name for i in session.get_inputs()):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(inputs[name]))
    first = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0]
    output = onnxruntime.OrtValue.ortvalue_from_numpy(first)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
    return lambda: session.run_with_iobinding(binding), output


def measure(name: str, case: Case | CpuCase, library: Path, threads: int, runs: int) -> dict[str, Any]:
    """One case, fused and stock in turns."""
    inputs = case.inputs()
    fused, fused_output = bound_run(fused_session(case, library, threads), inputs)
    stock, stock_output = bound_run(session_of(stock_model(case, inputs), None, threads), inputs)

    times = interleave({"fused": timed(fused), "stock": timed(stock)}, runs=runs)
    medians = {side: summarize([t["ms"] for t in found])["p50"] for side, found in times.items()}
    return {
        "op": case.op,
        "case": name,
        "fused_p50_ms": medians["fused"],
        "stock_p50_ms": medians["stock"],
        "ratio": round(medians["stock"] / medians["fused"], 2),
        "max_difference": float(np.abs(fused_output.numpy() - stock_output.numpy()).max()),
    }


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Times the CPU operators against the stock subgraphs.",
        epilog="example: python benchmarks/kernels.py --case deformable-512 --threads 2",
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--record", action="store_true", help=f"append the rows to {RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1 or arguments.runs < 1:
        raise InputError(f"--threads and --runs: expected 1 or more, got {arguments.threads} and {arguments.runs}")
    library = onnxruntime_ops_library()
    if library is None:
        raise InputError(why_missing())

    rows = []
    for name in arguments.case or CASES:
        say(f"{name} …")
        rows.append(measure(name, CASES[name], library, arguments.threads, arguments.runs))
        if arguments.record:
            here = machine.describe()
            packages = ("onnxruntime", "torch", "transformers", "numpy")
            versions = "; ".join(f"{p} {here['versions'][p]}" for p in packages if p in here["versions"])
            row = {"date": machine.today(), "commit": machine.commit(), "machine": here["machine"], "cpu": here["cpu"]}
            row |= {"threads": arguments.threads, "versions": versions, "runs": arguments.runs}
            append_row(RESULTS, COLUMNS, row | rows[-1])
    if arguments.json:
        print(json.dumps({"kernels": rows, "threads": arguments.threads, "machine": machine.describe()}))
    else:
        for row in rows:
            print(
                f"{row['case']:22} fused {row['fused_p50_ms']:8.3f} ms  stock {row['stock_p50_ms']:8.3f} ms  "
                f"{row['ratio']:6.2f} times faster, differ by {row['max_difference']:.1e}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
