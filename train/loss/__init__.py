"""The training loss: bipartite matching of queries with targets, then three terms, all on sampled points.

criterion = SetCriterion(num_classes=11, num_points=2048, generator=torch.Generator().manual_seed(0))
losses = criterion(model(pixels), targets)
criterion.total(losses).backward()
"""

from mask2edge.train.loss.criterion import SetCriterion
from mask2edge.train.loss.matcher import HungarianMatcher

__all__ = ["HungarianMatcher", "SetCriterion"]
