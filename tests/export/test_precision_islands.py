"""The table of fp32 islands, proven on the shipped model's weights and photographs.

    pytest -k precision_islands              # and with -m slow: in bf16 as well

An island that is kept has to matter, and what is left in half has to cost little: docs/precision.md has the figures,
benchmarks/precision_islands.py measures them.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_export import needs_library

from mask2edge.benchmarks import machine, precision_islands
from mask2edge.benchmarks.precision_islands import BACKBONE_IN_FULL, Meter, meter_of, pictures
from mask2edge.export.constant_folding import fold_constants
from mask2edge.export.dataflow import Dataflow
from mask2edge.export.half_storage import store_full
from mask2edge.export.precision_islands import ISLANDS, LEFT_IN_HALF
from mask2edge.export.to_onnx import export_model
from mask2edge.runtime.spec import Profile
from mask2edge.train.checkpoint import load_model

pytest.importorskip("sklearn", reason="the photographs are scikit-learn's: pip install scikit-learn")

MODELS = Path(__file__).resolve().parents[2] / "models"
CUSTOM, STANDARD = MODELS / "street-lite.onnx", MODELS / "street-lite-standard.onnx"
BORDER = 1.2  # error in half over that in float32, where it shows most: what is above it is an island
OF_GUIDED_QUERIES = {"windows", "proposals"}
OF_OUR_OPERATORS = ("sampling offsets", "keys and values")  # standard operators have them elsewhere


@pytest.fixture(scope="module")
def standard():
    return meter_of(STANDARD, pictures(None, 1))


def in_half(meter, precision, island):
    """Errors with the island in float32 and in half, the backbone in float32."""
    return [
        meter.errors(meter.typed(precision, {**overrides, **BACKBONE_IN_FULL}))["levels"]
        for overrides in ({}, {island: precision})
    ]


def test_every_group_has_nodes_and_no_two_islands_share_one():
    members = {}
    for model in (CUSTOM, STANDARD):
        flow = Dataflow(fold_constants(store_full(onnx.load(model))))
        found = {group.name: group.members(flow) for group in (*ISLANDS, *LEFT_IN_HALF)}
        kept = [key for island in ISLANDS for key in found[island.name]]
        assert len(kept) == len(set(kept))
        assert set().union(*found.values()) <= {node.output[0] for node in flow.nodes}
        members[model] = {name for name, keys in found.items() if keys}
    names = {group.name for group in (*ISLANDS, *LEFT_IN_HALF)}
    assert names - members[CUSTOM] == {"sampling grid"} | OF_GUIDED_QUERIES
    assert names - members[STANDARD] == set(OF_OUR_OPERATORS) | OF_GUIDED_QUERIES
    assert all(group.reason for group in (*ISLANDS, *LEFT_IN_HALF))


@needs_library
@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_islands_earn_their_place_and_the_rest_costs_little(precision):
    rows = meter_of(CUSTOM, pictures(None, 2)).rows(precision)
    assert {row.group for row in rows} == {group.name for group in (*ISLANDS, *LEFT_IN_HALF)} - {
        "sampling grid",
        *OF_GUIDED_QUERIES,
    }
    print(*precision_islands.table(rows), sep="\n")
    for row in rows:
        assert np.isfinite(row.error_half), row
        assert (row.ratio > BORDER) == row.kept, row


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_sampling_grid_of_standard_operators(standard, precision):
    """Our operator makes coordinates in float32 inside; GridSample gets them from the graph."""
    full, half = in_half(standard, precision, "sampling grid")
    assert half / full > 1.5


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """The shipped network with guided queries, at a quarter of its size."""
    model, checkpoint = load_model(MODELS / "nuclei-lite.safetensors")
    file = tmp_path_factory.mktemp("nuclei") / "nuclei-lite.onnx"
    onnx.save(export_model(model, checkpoint.spec, Profile.fixed(256, 352), "standard"), file)
    return meter_of(file, pictures(None, 1))


@pytest.mark.parametrize(("island", "place"), [("windows", "layers' masks"), ("proposals", "proposals")])
def test_islands_of_guided_queries_earn_their_place(nuclei, island, place):
    found = [
        nuclei.errors(nuclei.typed("fp16", {**overrides, **BACKBONE_IN_FULL})) for overrides in ({}, {island: "fp16"})
    ]
    ratio = found[1][place] / found[0][place]
    print(island, found[0][place], found[1][place], ratio)
    assert ratio > BORDER


def test_norms_need_their_island_when_activations_are_large(standard):
    """A group norm takes a factor back out, so that float32 gives the same whatever the weights' scale.

    In fp16 the squares inside overflow: a trained network may be at any scale, and this one is only by chance small.
    """
    full, half = in_half(standard, "fp16", "normalisation")
    assert half < 5 * full
    proto = onnx.ModelProto()
    proto.CopyFrom(standard.proto)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("pixel_decoder.decoder.input_projections."):
            tensor.CopyFrom(numpy_helper.from_array(256 * numpy_helper.to_array(tensor), tensor.name))
    scaled_full, scaled_half = in_half(Meter(proto, standard.pixels), "fp16", "normalisation")
    assert scaled_full < 1.1 * full
    assert not scaled_half < 100 * full  # far off, or not a number


def test_the_command_writes_rows(tmp_path, monkeypatch, capsys):
    results = tmp_path / "rows.csv"
    monkeypatch.setattr(precision_islands, "RESULTS", results)
    monkeypatch.setattr(precision_islands, "HALVES", ("bf16",))
    monkeypatch.setattr(precision_islands, "ISLANDS", [one for one in ISLANDS if one.name == "class logits"])
    monkeypatch.setattr(precision_islands, "LEFT_IN_HALF", ())
    folder = pictures(None, 2)[0].parent
    arguments = [str(STANDARD), "--data", str(folder), "--images", "1", "--record"]
    assert precision_islands.main(arguments) == 0
    out = capsys.readouterr().out
    assert "class logits" in out
    header, row = results.read_text().splitlines()
    assert header == ",".join(precision_islands.COLUMNS)
    assert "standard,1,bf16,class logits,True,class_logits" in row
    assert row.endswith(f"{machine.describe()['machine']},{machine.cpu_model()}")


def test_bad_input(tmp_path, capsys):
    for arguments, message in (
        (["--data", str(tmp_path)], "expected a folder of images"),
        (["--images", "0"], "expected 1 or more"),
    ):
        assert precision_islands.main(arguments) == 2
        assert message in capsys.readouterr().err
