"""Where a run stopped being finite: which term of the loss, of which prediction, or which parameter's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mask2edge.runtime.command_line import InputError

ADVICE = "Start a new run with a lower train.learning_rate or a longer train.warmup_steps"


class NotFinite(InputError):
    """The weights before the step, or the step itself, are of no use."""


def require_finite_losses(losses: Mapping[str, float], step: int) -> None:
    """Raises NotFinite that names the earliest prediction with a term that is not finite, in the decoder's order.

    losses: by the criterion's names: "mask_3" is of the decoder's prediction 3, counted from 0, "mask" of the last one.
    """
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        first = min(wrong, key=_place)
        others = "" if len(wrong) == 1 else f" and {len(wrong) - 1} more"
        raise NotFinite(
            f"step {step + 1}: the loss term {first} ({_prediction(first)}) is {losses[first]}{others}; "
            f"the files keep the last checkpoint before it. {ADVICE}"
        )


def require_finite_gradients(parameters: Iterable[tuple[str, Tensor]], norm: float, step: int) -> None:
    """Raises NotFinite that names the first parameter, in the network's order, whose gradient is not finite."""
    if math.isfinite(norm):
        return
    for name, parameter in parameters:
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            raise NotFinite(
                f"step {step + 1}: the loss is finite, the gradient of {name} is not; the files keep the last "
                f"checkpoint before it. {ADVICE}"
            )
    raise NotFinite(
        f"step {step + 1}: the norm of the gradient is {norm}; the files keep the last checkpoint before it. {ADVICE}"
    )


def _place(name: str) -> float:
    index = name.partition("_")[2]
    return float(index) if index else math.inf


def _prediction(name: str) -> str:
    index = name.partition("_")[2]
    return f"prediction {index} of the decoder, counted from 0" if index else "the last prediction of the decoder"
