"""Queries that begin as pixels of the image's own map, chosen by a score, instead of as learned vectors.

    guided = GuidedQueries(num_queries=200, num_classes=2, dim=256)
    first, logits = guided(levels[-1])                          # first.features, .positions, .centres
    rows, columns = guided.windows(queries, first.centres, 128, 128)
    mask_logits = mask_logits + rows[..., None] + columns[:, :, None]

FastInst (He et al., CVPR 2023), sec. 3.2: instance activation-guided queries. Where an image is full of small alike
objects, learned queries have to agree which of them takes which; a query that is a pixel knows its object from the
beginning. There the score is a softmax over a map at stride 16; here it is a sigmoid per class at stride 8, and
positions are projected place codes (model/position.py), since neighbouring pixels have to differ.

A query knows where it began, so its mask has a window around that place: less by a quadratic of the distance, of which
it says itself how steep and how far moved. That is the Gaussian of SMCA (Gao et al., ICCV 2021, sec. 3.2) as a
logarithm, on mask logits instead of attention logits. Without it each mask is a product with features that have to tell
an object from all that look like it. A quadratic is a sum of a function of y and one of x, so it costs two additions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.float32_islands import at_least_float32, wide_dtype
from mask2edge.train.model.position import place_code

PRIOR = 0.01  # what an untrained score says of a pixel (RetinaNet, sec. 4.1)
NOT_A_PEAK = 100.0  # taken off the logit of a pixel beside a better one, which puts it behind all peaks
NO_PIXEL = 10000.0  # below any rank, and a number in half precision
UNIT = 64.0  # input pixels: the unit of a window's centre and of its distances
STEEPNESS, STEEPEST = 7.0, 6.0  # what a window's steepness begins at, and the largest of its logarithm
FARTHEST = 10000.0  # what a window takes off at most, as NO_PIXEL


class FirstQueries(NamedTuple):
    """features [N, Q, C]; positions [N, Q, C] or [Q, C]; centres [N, Q, 2], (y, x) in units, of guided queries."""

    features: Tensor
    positions: Tensor
    centres: Tensor | None = None


class GuidedQueries(nn.Module):
    def __init__(self, num_queries: int, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.scores = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(), nn.Conv2d(dim, num_classes, 1))
        self.features = nn.Linear(dim, dim)
        self.positions = nn.Linear(dim, dim)
        self.window = nn.Linear(dim, 4)  # the centre's move (y, x), and logarithms of the steepness along y and x
        nn.init.constant_(self.scores[2].bias, -math.log(1 / PRIOR - 1))  # type: ignore[arg-type]
        with torch.no_grad():
            self.window.weight.mul_(0.1)
            self.window.bias.copy_(torch.tensor([0, 0, math.log(STEEPNESS), math.log(STEEPNESS)]))

    def forward(self, pixels: Tensor) -> tuple[FirstQueries, Tensor]:
        """pixels [N, C, h, w] at stride 8 -> queries, score logits [N, K, h, w]."""
        logits = self.scores(pixels)  # [N, K, h, w]
        chosen = best_pixels(logits.detach(), self.num_queries)
        return self.queries_at(chosen, pixels.flatten(2).transpose(1, 2), pixels.shape[2], pixels.shape[3]), logits

    def queries_at(self, chosen: Tensor, tokens: Tensor, height: int, width: int) -> FirstQueries:
        """chosen [N, Q], tokens [N, h*w, C] at stride 8."""
        dim = tokens.shape[2]
        features = tokens.gather(1, chosen[:, :, None].expand(-1, -1, dim))  # [N, Q, C]
        rows = place_code(height, 1, dim, tokens.device, tokens.dtype)[0, : dim // 2, :, 0].T  # [h, C/2]
        columns = place_code(1, width, dim, tokens.device, tokens.dtype)[0, dim // 2 :, 0].T  # [w, C/2]
        row = torch.div(chosen, width, rounding_mode="floor")  # [N, Q]
        column = chosen - row * width  # [N, Q]
        places = torch.cat([F.embedding(row, rows), F.embedding(column, columns)], 2)  # [N, Q, C]
        return FirstQueries(self.features(features), self.positions(places), centres_of(row, column, tokens.dtype))

    def windows(self, queries: Tensor, centres: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What is added to mask logits at stride 4: normed queries [N, Q, C], centres [N, Q, 2] -> rows [N, Q, height],
        columns [N, Q, width], at least float32, none above 0."""
        window = at_least_float32(self.window(queries))  # [N, Q, 4]
        moved = centres + window[..., :2]  # [N, Q, 2]
        steepness = window[..., 2:].clamp(max=STEEPEST).exp()  # [N, Q, 2]
        parts = []
        for axis, length in enumerate((height, width)):
            places = (torch.arange(length, device=queries.device).to(moved) + 0.5) * (4 / UNIT)  # [length]
            distances = places - moved[..., axis, None]  # [N, Q, length]
            parts.append((-steepness[..., axis, None] * distances * distances).clamp(min=-FARTHEST))
        return parts[0], parts[1]


def centres_of(row: Tensor, column: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where pixels at stride 8 lie in units: rows and columns [N, Q] -> (y, x) [N, Q, 2], at least float32."""
    return (torch.stack([row, column], 2).to(wide_dtype(dtype)) + 0.5) * (8 / UNIT)


def best_pixels(logits: Tensor, count: int) -> Tensor:
    """Indices [N, count] into h*w of the best pixels of logits [N, K, h, w]: first those that no neighbour exceeds in
    the same class, best first, then the others, and the last pixel for what is left of `count`."""
    peaks = logits == F.max_pool2d(logits, 3, stride=1, padding=1)  # [N, K, h, w]
    ranks = torch.where(peaks, logits, logits - NOT_A_PEAK).amax(1).flatten(1)  # [N, h*w]
    enough = F.pad(ranks, (0, count), value=-NO_PIXEL)  # [N, h*w + count]
    last = torch.full((), ranks.shape[1] - 1, dtype=torch.int64, device=ranks.device)
    return torch.minimum(enough.topk(count).indices, last)  # not clamp, which TensorRT has for floats alone
