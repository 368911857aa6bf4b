"""The processes of one run: a single one, or those that torchrun started; gloo on CPUs, NCCL on NVIDIA GPUs.

    with joined() as processes:
        with processes.together():       # an InputError on one is raised on all
            data = open_data(...)
        count, = processes.sum([len(data)])

Only the main process writes files. It speaks for all, but for what another alone knows: each warns of the images that
it could not read for its part of a batch.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from mask2edge.runtime.command_line import InputError

# The others wait while the main process validates. A process that died is torchrun's to notice, not a timeout's.
LONGEST_WAIT = timedelta(hours=24)


@dataclass(frozen=True)
class Processes:
    """rank: this one's number, 0 to size - 1. Every method is to be called by all of them, in the same order."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element by element over the processes, in float64, the same on all."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        return self._reduced(values, dist.ReduceOp.MAX)

    def from_main(self, values: Sequence[float]) -> list[float]:
        """The main process's values, on all."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return tensor.tolist()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """An InputError in the block of any process is raised on all, with the message of the lowest rank's."""
        error = None
        try:
            yield
        except InputError as caught:
            error = caught
        if self.size == 1:
            if error:
                raise error
            return
        first = int(self.max([self.size - self.rank if error else 0])[0])
        if first:
            raise InputError(self._text_from(self.size - first, str(error))) from error

    def speaking_once(self) -> contextlib.AbstractContextManager[object]:
        """What all processes write to stderr alike in the block, the main one alone does."""
        return contextlib.nullcontext() if self.is_main else contextlib.redirect_stderr(io.StringIO())

    def _reduced(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()

    def _text_from(self, rank: int, text: str) -> str:
        data = text.encode() if rank == self.rank else b""
        length = int(self.max([len(data)])[0])
        buffer = torch.zeros(length, dtype=torch.uint8, device=self.device)  # [bytes]
        if rank == self.rank:
            buffer.copy_(torch.tensor(list(data), dtype=torch.uint8))
        dist.broadcast(buffer, rank)
        return bytes(buffer.tolist()).decode()


def own_device() -> torch.device:
    """The GPU that this process is to use, or the CPU. Raises InputError where there are fewer GPUs than processes."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise InputError(f"--nproc-per-node: expected at most one process per GPU, {there}, got a process {local + 1}")
    return torch.device("cuda", local)


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """This process among those of its run, as torchrun's environment says; connected between enter and exit."""
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes(device)
        return
    if "RANK" not in os.environ:
        raise InputError(f"WORLD_SIZE is {size} and RANK is not set: start several processes with torchrun")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(device, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
