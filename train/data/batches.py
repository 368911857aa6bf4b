"""Training batches as a pure function of (seed, step): a resumed run sees what it would have seen, with no state kept.

    for pixels, targets in training_batches(data, augment, mean, std, batch_size=4, seed=0, steps=range(0, 100)): ...

Each sample has a number; its image and its augmentation follow from the seed and that number.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.data.transforms import Augmentation, normalise, semantic_targets

Sample = tuple[Tensor, dict[str, Tensor]]

ORDER, AUGMENTATION, LOSS, DROP_PATH = range(4)  # independent random streams of one seed


def derived_seed(seed: int, stream: int, number: int) -> int:
    """A 63-bit seed for one purpose at one place of the run, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TrainingSamples(Dataset):
    """Sample number n of an endless sequence: n // len(data) counts epochs, each in its own order."""

    def __init__(
        self,
        data: SemanticFolder,
        augment: Augmentation,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        seed: int,
    ) -> None:
        self.data, self.augment, self.mean, self.std, self.seed = data, augment, mean, std, seed

    def __getitem__(self, number: int) -> Sample:
        """float32 pixels [3,H,W] and {"labels": int64 [n], "masks": bool [n,H,W]}."""
        epoch, place = divmod(number, len(self.data))
        image, label_map = self.data[int(_order(self.seed, epoch, len(self.data))[place])]
        generator = np.random.default_rng(derived_seed(self.seed, AUGMENTATION, number))
        image, label_map = self.augment(image, label_map, self.data.ignore, generator)
        labels, masks = semantic_targets(label_map, self.data.ignore)
        pixels = torch.from_numpy(normalise(image, self.mean, self.std))  # [3,H,W]
        return pixels, {"labels": torch.from_numpy(labels), "masks": torch.from_numpy(masks)}


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng(derived_seed(seed, ORDER, epoch)).permutation(length)  # [length]


def training_batches(
    data: SemanticFolder,
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
) -> Iterable[tuple[Tensor, list[dict[str, Tensor]]]]:
    """The batches of `steps`, a contiguous range: pixels [N,3,H,W] and N targets each.

    `batch_size` counts the samples of a step over all processes; each process gets its part of them.
    """
    part = batch_size // world_size
    return DataLoader(
        TrainingSamples(data, augment, mean, std, seed),
        batch_size=part,
        sampler=[n for step in steps for n in sample_numbers(step, batch_size, rank, world_size)],
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_signals,
    )


def sample_numbers(step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """The samples of one process in a step: samples [step * batch_size, (step + 1) * batch_size) in equal parts."""
    part = batch_size // world_size
    start = step * batch_size + rank * part
    return range(start, start + part)


def _collate(samples: Sequence[Sample]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    return torch.stack([pixels for pixels, _ in samples]), [target for _, target in samples]


def _ignore_signals(worker: int) -> None:
    # a terminal's Ctrl-C and torchrun's SIGTERM go to the whole group; the main process decides when a step is over
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
