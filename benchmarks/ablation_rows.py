"""The paper's ablations as settings of a training run, with what the paper measured.

    row = ROWS["plain-attention"]
    row.settings, row.difference("mIoU")      # ("model.cross_attention=plain",), -1.7

Mask2Former (Cheng et al., CVPR 2022), tables 4, 5 and X; R50, all figures in points. Its rows SMCA, Semantic FPN and
FaPN are not here: they are other papers' parts, and ours has none of them. `few-layers` is ours: the paper has no
figures of networks trained with fewer layers.
"""

from __future__ import annotations

from dataclasses import dataclass

METRICS = ("mIoU", "AP", "PQ")
PAPER_DATA = {"mIoU": "ADE20K val", "AP": "COCO val2017", "PQ": "COCO panoptic val2017"}
BASELINE = "mask2former"


@dataclass(frozen=True)
class Row:
    """settings: for train.py's --set. queries: the base's number of queries is multiplied by it. table: the paper's.
    mIoU, AP, PQ: the paper's figures in points, None where it has none."""

    name: str
    settings: tuple[str, ...]
    table: str
    mIoU: float | None = None
    AP: float | None = None
    PQ: float | None = None
    queries: float = 1.0

    def difference(self, metric: str) -> float | None:
        """The paper's figure less Mask2Former's, in points."""
        figure, base = getattr(self, metric), getattr(ROWS[BASELINE], metric)
        return None if figure is None else round(figure - base, 1)

    def settings_for(self, num_queries: int) -> tuple[str, ...]:
        """`num_queries`: the base's."""
        if self.queries == 1:
            return self.settings
        return (*self.settings, f"model.num_queries={max(1, round(self.queries * num_queries))}")


_ROWS = (
    Row(BASELINE, (), "4", 47.2, 43.7, 51.9),
    Row("plain-attention", ("model.cross_attention=plain",), "4a", 45.5, 37.8, 47.1),
    Row("mask-pooling", ("model.cross_attention=mask-pooling",), "4c", 46.0, 43.1, 51.5),
    Row("stride-32", ("model.decoder_features=stride-32",), "4a, 4d", 46.1, 41.5, 50.2),
    Row("stride-16", ("model.decoder_features=stride-16",), "4d", 46.5, 43.0, 51.5),
    Row("stride-8", ("model.decoder_features=stride-8",), "4d", 47.4, 44.0, 51.8),
    Row("concatenated", ("model.decoder_features=concatenated",), "4d", 46.3, 44.0, 51.9),
    # Table 4b has 45.4 for the mIoU of zero queries, table Xb 45.5.
    Row("zero-queries", ("model.query_features=zero",), "4b, Xb", 45.4, 42.9, 51.2),
    Row("unsupervised-queries", ("model.query_features=unsupervised",), "Xb", 47.0, 42.9, 51.2),
    Row("self-first", ("model.attention_order=self-first",), "4b", 46.3, 43.2, 51.6),
    Row("dropout", ("model.decoder_dropout=0.1",), "4b", 47.2, 43.0, 51.3),
    Row(
        "all-three",  # zero queries, self-attention first, dropout
        ("model.query_features=zero", "model.attention_order=self-first", "model.decoder_dropout=0.1"),
        "4b", 46.3, 42.3, 50.8,
    ),
    Row("fpn", ("model.pixel_decoder=fpn",), "4e", 45.6, 41.5, 50.7),
    Row("bifpn", ("model.pixel_decoder=bifpn",), "4e", 45.6, 43.5, 51.8),
    Row("masks-masks", ("loss.matching_on=masks", "loss.loss_on=masks"), "5", 45.9, 41.0, 50.3),
    Row("masks-points", ("loss.matching_on=masks",), "5", 45.9, 41.0, 50.8),  # matching on masks, loss on points
    Row("points-masks", ("loss.loss_on=masks",), "5", 47.3, 43.1, 51.4),
    Row("half-queries", (), "Xa", 46.2, 42.4, 50.5, queries=0.5),  # the paper: 50 against 100
    Row("double-queries", (), "Xa", 47.0, 43.5, 52.2, queries=2.0),
    Row("few-layers", ("model.decoder_layers=3",), "–"),
)  # fmt: skip
ROWS = {row.name: row for row in _ROWS}
