"""From another project's tensors to ours, with every tensor accounted for.

    weights = convert(foreign, model.state_dict(), RULES, ignored=IGNORED, source="model.pkl")

A rule turns one of our names into the foreign name it is read from, so that what is missing or misshapen is reported
under the name that the user's file has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mask2edge.runtime.command_line import InputError

SHOWN = 20  # faults that an error lists; the rest is a count


@dataclass(frozen=True)
class Source:
    """Where a tensor of ours comes from: several foreign ones joined along dimension 0, or a part of one."""

    names: tuple[str, ...]
    part: int = 0
    parts: int = 1


Rule = tuple[str, Callable[[re.Match[str]], "str | Source"]]  # a pattern on our name, and the foreign name


def convert(
    foreign: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    rules: Sequence[Rule],
    ignored: str,
    source: str,
) -> dict[str, Tensor]:
    """Our state dict from a foreign one, float32.

    `ours` gives names and shapes; `ignored` is a pattern of foreign names that carry no information.

    Raises InputError that lists every missing, unexpected and misshapen foreign tensor.
    """
    sources = {name: find_source(name, rules) for name in ours}
    shapes: dict[str, tuple[int, ...]] = {}  # foreign name -> the shape that it must have
    for name, tensor in ours.items():
        found = sources[name]
        first, *rest = tensor.shape or (1,)
        for foreign_name in found.names:
            shapes[foreign_name] = (first * found.parts // len(found.names), *rest)
    faults = [f"missing {name}" for name in shapes if name not in foreign]
    faults += [f"unexpected {name}" for name in foreign if name not in shapes and not re.fullmatch(ignored, name)]
    faults += [
        f"{name} is {_describe(foreign[name])}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in foreign and (tuple(foreign[name].shape) != shape or not foreign[name].is_floating_point())
    ]
    if faults:
        shown = "; ".join(faults[:SHOWN]) + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")
        kinds = Counter("misshapen" if " is " in fault else fault.split()[0] for fault in faults)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise InputError(f"{source}: the tensors do not fit the configured model ({counts}): {shown}")
    return {name: _collect(foreign, found) for name, found in sources.items()}


def find_source(name: str, rules: Sequence[Rule]) -> Source:
    """The foreign source of our tensor `name`, by the first rule whose pattern is the whole name."""
    for pattern, target in rules:
        if match := re.fullmatch(pattern, name):
            found = target(match)
            return found if isinstance(found, Source) else Source((found,))
    raise KeyError(f"no rule for {name}")  # a bug: the tests convert every kind of model


def _collect(foreign: Mapping[str, Tensor], source: Source) -> Tensor:
    tensor = torch.cat([foreign[name] for name in source.names]) if len(source.names) > 1 else foreign[source.names[0]]
    return tensor.chunk(source.parts)[source.part].to(torch.float32).contiguous()


def _describe(tensor: Tensor) -> str:
    return str(list(tensor.shape)) + ("" if tensor.is_floating_point() else f" of {tensor.dtype}")
