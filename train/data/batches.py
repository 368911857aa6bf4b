"""Training batches as a pure function of (seed, step): a resumed run sees what it would have seen, with no state kept.

    for batch in training_batches(data, augment, mean, std, batch_size=4, seed=0, steps=range(0, 100)): ...

Each sample has a number; its image and its augmentation follow from the seed and that number.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import Annotation, Dataset
from mask2edge.train.data.transforms import Augmentation, normalise, targets

ORDER, AUGMENTATION, LOSS, DROP_PATH = range(4)  # independent random streams of one seed


def derived_seed(seed: int, stream: int, number: int) -> int:
    """A 63-bit seed for one purpose at one place of the run, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Sample:
    """pixels: float32 [3,H,W]; target: {"labels": int64 [n], "masks": bool [n,H,W]}; faults: of images it replaces."""

    number: int
    pixels: Tensor
    target: dict[str, Tensor]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch. pixels: float32 [N,3,H,W]; targets, numbers: N, one for each sample.

    faults: a line for each image that could not be read and was replaced by the next one of its epoch.
    """

    pixels: Tensor
    targets: list[dict[str, Tensor]]
    numbers: tuple[int, ...]
    faults: tuple[str, ...]

    @property
    def skipped(self) -> int:
        """Images of this batch that were replaced."""
        return len(self.faults)


class TrainingSamples(TorchDataset):
    """Sample number n of an endless sequence: n // len(data) counts epochs, each in its own order."""

    def __init__(
        self,
        data: Dataset,
        augment: Augmentation,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        seed: int,
    ) -> None:
        self.data, self.augment, self.mean, self.std, self.seed = data, augment, mean, std, seed

    def __getitem__(self, number: int) -> Sample | InputError:
        """An error where not one image can be read: returned, since what a worker raises arrives with its traceback."""
        try:
            image, annotation, faults = self._readable(number)
        except InputError as error:
            return error
        generator = np.random.default_rng(derived_seed(self.seed, AUGMENTATION, number))
        image, annotation = self.augment(image, annotation, generator)
        labels, masks = targets(annotation)
        pixels = torch.from_numpy(normalise(image, self.mean, self.std))  # [3,H,W]
        target = {"labels": torch.from_numpy(labels), "masks": torch.from_numpy(masks)}
        return Sample(number, pixels, target, faults)

    def _readable(self, number: int) -> tuple[np.ndarray, Annotation, tuple[str, ...]]:
        epoch, place = divmod(number, len(self.data))
        order = _order(self.seed, epoch, len(self.data))
        faults: list[str] = []
        for index in np.roll(order, -place):
            try:
                return *self.data[int(index)], tuple(faults)
            except InputError as error:
                faults.append(str(error))
        raise InputError(f"{self.data.root}: none of {len(self.data)} images can be read; {faults[0]}")


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng(derived_seed(seed, ORDER, epoch)).permutation(length)  # [length]


def training_batches(
    data: Dataset,
    augment: Augmentation,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    batch_size: int,
    seed: int,
    steps: range,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The batches of `steps`, a contiguous range, for one of `world_size` processes.

    batch_size: of all processes together; sample numbers [step * B, (step + 1) * B) are dealt in contiguous parts, so
    any number of processes sees the same global batch. An image that cannot be read is replaced by the next one of its
    epoch, said once on stderr, and counted in the batch. Raises InputError where no image can be read, or where
    `batch_size` is no multiple of `world_size`.
    """
    if batch_size % world_size:
        raise InputError(
            f"train.batch_size: expected a multiple of the {world_size} processes, got {batch_size}; "
            f"use --set train.batch_size={-(-batch_size // world_size) * world_size}"
        )
    return _batches(TrainingSamples(data, augment, mean, std, seed), batch_size, steps, workers, rank, world_size)


def sample_numbers(step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """The samples of one process in a step: samples [step * batch_size, (step + 1) * batch_size) in equal parts."""
    part = batch_size // world_size
    start = step * batch_size + rank * part
    return range(start, start + part)


def _batches(
    samples: TrainingSamples, batch_size: int, steps: range, workers: int, rank: int, world_size: int
) -> Iterator[Batch]:
    loader = DataLoader(
        samples,
        batch_sampler=[sample_numbers(step, batch_size, rank, world_size) for step in steps],
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_signals,
    )
    said: set[str] = set()
    for batch in _started(loader):
        if isinstance(batch, InputError):
            raise batch
        for fault in batch.faults:
            if fault not in said:
                tqdm.write(f"warning: skipped {fault}", file=sys.stderr)  # above a progress bar, where there is one
                said.add(fault)
        yield batch


def _started(loader: DataLoader) -> Iterator[Batch | InputError]:
    """Workers are forks, and a fork has none of its parent's threads: what is garbage in the parent is collected there,
    and frozen for them. The owner of a thread pool, say an inference session, would wait for threads for ever."""
    gc.collect()
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()


def _collate(samples: Sequence[Sample | InputError]) -> Batch | InputError:
    if errors := [sample for sample in samples if isinstance(sample, InputError)]:
        return errors[0]
    return Batch(
        torch.stack([sample.pixels for sample in samples]),  # [N,3,H,W]
        [sample.target for sample in samples],
        tuple(sample.number for sample in samples),
        tuple(fault for sample in samples for fault in sample.faults),
    )


def _ignore_signals(worker: int) -> None:
    # a terminal's Ctrl-C and torchrun's SIGTERM go to the whole group; the main process decides when a step is over
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
