"""The stages that all backends have under the same names: their order, and their names for people.

    sorted(outputs, key=place)              # as the network calculates them
    title("decoder.3.mask_logits")          # "decoder layer 3's attention mask"

The names are those of export/stages.py, and those that predictions.py adds. No torch.
"""

from __future__ import annotations

import re

FINE, FEATURES = "pixel_decoder.fine", "pixel_decoder.mask_features"
PROPOSALS = "decoder.proposal_logits"
LABEL_MAP = "label_map"
RESULTS = ("class_logits", "mask_logits", LABEL_MAP)
# What --fail-on counts: every stage, what a user gets of the network, or what a user sees.
COUNTED: dict[str, tuple[str, ...]] = {"stages": (), "results": RESULTS, "pixels": (LABEL_MAP,)}
OF_A_LAYER = {  # in the order of calculation
    "mask_logits": "attention mask",
    "queries": "queries",
    "class_prediction": "class prediction",
    "mask_prediction": "mask prediction",
}


def place(stage: str) -> tuple[int, int, int]:
    """A key that sorts stages as they are calculated. Raises ValueError for a name that is none of ours."""
    if stage in RESULTS:
        return 3, 0, RESULTS.index(stage)
    if stage == PROPOSALS:
        return 2, -1, 0
    part, number, kind = _parts(stage)
    if part == "decoder":
        return 2, number, list(OF_A_LAYER).index(kind)
    return (0, 0, number) if part == "backbone" else (1, 0, (FINE, FEATURES).index(stage) if not number else -number)


def title(stage: str) -> str:
    """For people. Layers count from 0, as in the names."""
    if stage in RESULTS:
        return stage.replace("_", " ")
    if stage == PROPOSALS:
        return "scores that queries are chosen by"
    part, number, kind = _parts(stage)
    if part == "decoder":
        return f"decoder layer {number}'s {OF_A_LAYER[kind]}"
    if part == "backbone":
        return f"backbone's {kind}, stride {2**number}"
    return {FINE: "pixel decoder's finest map", FEATURES: "mask features"}.get(
        stage, f"pixel decoder's memory, stride {number}"
    )


def is_counted(stage: str, fail_on: str) -> bool:
    """`fail_on`: a key of COUNTED."""
    return fail_on == "stages" or stage in COUNTED[fail_on]


def is_mask(stage: str) -> bool:
    """Whether the sign of its values decides: the attention masks, and what a user gets as masks."""
    return stage.rsplit(".", 1)[-1] in ("mask_logits", "mask_prediction")


def _parts(stage: str) -> tuple[str, int, str]:
    match = re.fullmatch(
        rf"(decoder)\.(\d+)\.({'|'.join(OF_A_LAYER)})|(backbone)\.res([2-5])|(pixel_decoder)\.(?:level(\d+)|fine|mask_features)",
        stage,
    )
    if match is None:
        raise ValueError(f"expected the name of a stage, got {stage!r}")
    if match[1]:
        return "decoder", int(match[2]), match[3]
    return ("backbone", int(match[5]), f"res{match[5]}") if match[4] else ("pixel_decoder", int(match[7] or 0), "")
