"""Typed graphs: which types are where, what overrides do, and what is refused."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_export import DYNAMIC

import mask2edge.export.custom_ops  # noqa: F401  (tells onnx about our operators)
from mask2edge.export.constant_folding import fold_constants
from mask2edge.export.dataflow import MOVES, Dataflow
from mask2edge.export.half_storage import STORED, metadata_of, store_full
from mask2edge.export.half_types import LARGEST, TYPES, from_half, to_half
from mask2edge.export.precision import emulated, precision_plan, typed_graph
from mask2edge.export.stage_comparison import is_mask, noise, runner, with_stage_outputs
from mask2edge.runtime.command_line import InputError
from mask2edge.trt_plugins import onnxruntime_ops_library

HALVES = ("fp16", "bf16")
MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = {"custom": MODELS / "street-lite.onnx", "standard": MODELS / "street-lite-standard.onnx"}
SOURCES = [
    "custom",
    "standard",
    "custom-dynamic",
    pytest.param("standard-dynamic", marks=pytest.mark.slow),  # exporting one takes as long as all tests here
]
of_every_source = pytest.mark.parametrize("source", SOURCES)
in_both_types = pytest.mark.parametrize("precision", HALVES)


@pytest.fixture(scope="module")
def graph(exported):
    """graph(source): the shipped fixed-size files, float32 again; the tiny network with dynamic sizes."""
    cache = {}

    def load(source="standard"):
        if source not in cache:
            ops, _, dynamic = source.partition("-")
            cache[source] = exported(ops, DYNAMIC) if dynamic else store_full(onnx.load(SHIPPED[ops]))
        return cache[source]

    return load


@pytest.fixture(scope="module")
def typed(graph):
    cache = {}

    def load(source, precision):
        if (source, precision) not in cache:
            cache[source, precision] = typed_graph(graph(source), precision)
        return cache[source, precision]

    return load


def named_types(flow, names):
    known = {number: name for name, number in TYPES.items()}
    return [known.get(flow.types.get(name)) for name in names]


def nodes_of(flow, *kinds):
    return [node for node in flow.nodes if node.op_type in kinds]


@in_both_types
@of_every_source
def test_every_operator_gets_the_types_of_its_schema(typed, source, precision):
    """Inputs that share a type variable have one type; what an operator of ours takes is OPS.md's table."""
    proto = typed(source, precision)
    onnx.checker.check_model(proto)
    flow = Dataflow(proto)
    for node in flow.nodes:
        schema = onnx.defs.get_schema(node.op_type, 1 if node.domain else 18, node.domain)
        variables = {}
        for index, name in enumerate(node.input):
            parameter = schema.inputs[min(index, len(schema.inputs) - 1)]  # the last one may repeat
            if name and flow.is_float(name):
                variables.setdefault(parameter.type_str, set()).add(flow.types[name])
        assert all(len(types) == 1 for types in variables.values()), (node.name, node.op_type, variables)
        for kind, types in variables.items():
            if kind.startswith("tensor("):
                assert types == {TensorProto.FLOAT}, (node.name, kind)


def test_onnx_infers_the_same_types(typed):
    """onnx's own inference, in fp16: its operators take bfloat16 from opset 22 on, TensorRT's parser always."""
    proto = typed("standard", "fp16")
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    flow = Dataflow(proto)
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert len(found) > 500
    assert {name for name, kind in found.items() if flow.types[name] != kind} == set()


@in_both_types
@of_every_source
def test_inputs_and_outputs_stay_float32(graph, typed, source, precision):
    before, after = graph(source), typed(source, precision)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    flow = Dataflow(after)
    assert named_types(flow, ["pixels", "class_logits", "mask_logits"]) == ["fp32"] * 3
    entries = metadata_of(after)
    assert entries.pop("mask2edge.arithmetic") == "typed"
    assert entries == metadata_of(before) | {"mask2edge.precision": precision}
    assert (after.opset_import, after.ir_version) == (before.opset_import, before.ir_version)


@in_both_types
@of_every_source
def test_what_is_half_and_what_is_not(typed, source, precision):
    flow = Dataflow(typed(source, precision))
    norms = nodes_of(flow, "LayerNormalization", "InstanceNormalization")
    assert {kind for node in norms for kind in named_types(flow, node.output)} == {"fp32"}
    assert {kind for node in nodes_of(flow, "Conv") for kind in named_types(flow, node.output)} == {precision}
    logits = {"class_logits", "mask_logits", *filter(is_mask, flow.types)}
    full = [node for node in nodes_of(flow, "MatMul") if named_types(flow, node.output) == ["fp32"]]
    full = [node for node in full if flow.sees_pixels(node)]
    assert len(full) == len(logits)
    assert set(named_types(flow, logits)) == {"fp32"}
    levels = [f"pixel_decoder.level{stride}" for stride in (8, 16, 32)]
    assert named_types(flow, [*levels, "pixel_decoder.fine"]) == [precision] * 4  # every reader wants them so
    assert named_types(flow, ["decoder.0.queries"]) == ["fp32"]


@in_both_types
@pytest.mark.parametrize(("source", "layers"), [("custom", (3, 6)), ("custom-dynamic", (1, 4))])
def test_inputs_of_our_operators(typed, precision, source, layers):
    flow = Dataflow(typed(source, precision))
    sampling, attention = nodes_of(flow, "MultiscaleDeformableAttention"), nodes_of(flow, "MaskedAttention")
    assert (len(sampling), len(attention)) == layers
    for node in sampling:
        assert named_types(flow, node.input[:4]) == [precision] * 3 + ["fp32"]
        assert flow.types[node.input[4]] == TensorProto.INT32
    for node in attention:
        assert named_types(flow, node.input) == [precision] * 3 + ["fp32"]
    assert {kind for node in sampling + attention for kind in named_types(flow, node.output)} == {precision}


def test_offsets_and_logits_of_the_sampling_share_a_type(graph, typed):
    """The operator has one type for both, so where an override makes one of them float32, both are."""
    flow = Dataflow(typed("custom", "fp16"))
    offsets = flow.producer[nodes_of(flow, "MultiscaleDeformableAttention")[1].input[1]].name
    flow = Dataflow(typed_graph(graph("custom"), "fp16", {offsets: "fp32"}))
    node = nodes_of(flow, "MultiscaleDeformableAttention")[1]
    assert named_types(flow, node.input[:4]) == ["fp16", "fp32", "fp32", "fp32"]


@in_both_types
@of_every_source
def test_weights_are_stored_in_the_type_of_their_use(graph, typed, source, precision):
    proto = typed(source, precision)
    flow = Dataflow(proto)
    assert not [node.name for node in nodes_of(flow, "Cast") if node.input[0] in flow.initializers]
    assert not [node.name for node in flow.nodes if flow.initializers.keys() >= set(node.input)]
    assert not set(flow.initializers) - {name for node in flow.nodes for name in node.input}
    full = fold_constants(graph(source))
    sizes = [sum(len(tensor.raw_data) for tensor in graph.graph.initializer) for graph in (full, proto)]
    assert 0.5 < sizes[1] / sizes[0] < 0.54  # biases and scales of norms stay float32


@in_both_types
@of_every_source
def test_no_tensor_is_rounded_twice_or_moved_wide(typed, source, precision):
    """One Cast for a tensor and type; and no Cast after a move that could have come before it."""
    flow = Dataflow(typed(source, precision))
    casts = [node for node in nodes_of(flow, "Cast") if flow.is_float(node.input[0]) and flow.is_float(node.output[0])]
    targets = [(node.input[0], flow.types[node.output[0]]) for node in casts]
    assert len(targets) == len(set(targets))
    for node in casts:
        maker = flow.producer.get(node.input[0])
        moved = maker is not None and maker.op_type in MOVES and flow.sees_pixels(maker) and len(maker.output) == 1
        if moved and flow.types[node.input[0]] == TensorProto.FLOAT:
            assert len(flow.readers[node.input[0]]) > 1, node.name  # another one reads it as float32


@pytest.mark.parametrize("source", ["custom", "standard"])
def test_fp32_is_the_same_graph_with_its_constants_folded(graph, source):
    proto = graph(source)
    assert typed_graph(proto, "fp32") == fold_constants(proto)
    plan = precision_plan(proto, "fp32")
    assert {precision for row in plan.rows for precision in row.nodes} == {"fp32"}


def test_half_storage_is_taken(typed):
    """Rounded once; the casts of the storage are gone."""
    stored = onnx.load(SHIPPED["standard"])
    assert any(tensor.name.endswith(STORED) for tensor in stored.graph.initializer)
    assert typed_graph(stored, "fp16") == typed("standard", "fp16")
    assert typed_graph(stored, "fp32") == fold_constants(store_full(stored))


def test_the_graph_given_stays_as_it_is(graph):
    proto = graph()
    before = proto.SerializeToString(deterministic=True)
    emulated(typed_graph(proto, "bf16"))
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("again", [lambda proto: proto, emulated], ids=["typed", "emulated"])
def test_a_typed_graph_is_refused(graph, again):
    proto = again(typed_graph(graph(), "bf16"))
    for precision in ("fp32", "fp16"):
        with pytest.raises(InputError, match=r"typed bf16 already; start from the file that export/to_onnx\.py wrote"):
            typed_graph(proto, precision)


def test_overrides_by_stage_node_and_island(graph):
    proto = graph()
    flow = Dataflow(typed_graph(proto, "fp16", {"backbone.*": "fp32"}))
    assert named_types(flow, [f"backbone.res{i}" for i in (2, 3, 4, 5)]) == ["fp32"] * 4
    convolution = nodes_of(Dataflow(proto), "Conv")[3]
    found = Dataflow(typed_graph(proto, "fp16", {convolution.name: "fp32"}))
    full = [node.name for node in nodes_of(found, "Conv") if named_types(found, node.output) == ["fp32"]]
    assert full == [convolution.name]
    found = Dataflow(typed_graph(proto, "fp16", {"normalisation": "fp16"}))
    norms = nodes_of(found, "LayerNormalization")
    assert {kind for node in norms for kind in named_types(found, [*node.input, *node.output])} == {"fp16"}
    found = Dataflow(typed_graph(proto, "fp16", {"softmax": "fp32"}))
    assert {kind for node in nodes_of(found, "Softmax") for kind in named_types(found, node.output)} == {"fp32"}


def test_later_overrides_win_and_both_halves_mix(graph):
    proto = graph()
    found = Dataflow(typed_graph(proto, "fp16", {"backbone.*": "bf16", "backbone.res3": "fp32"}))
    assert named_types(found, [f"backbone.res{i}" for i in (2, 3, 4)]) == ["bf16", "fp32", "bf16"]
    assert named_types(found, ["pixel_decoder.fine"]) == ["fp16"]
    found = Dataflow(typed_graph(proto, "fp32", {"backbone.res2": "bf16"}))
    assert named_types(found, ["backbone.res2", "backbone.res3", "pixel_decoder.fine"]) == ["bf16", "fp32", "fp32"]


@pytest.mark.parametrize(
    ("precision", "overrides", "message"),
    [
        ("fp8", {}, "precision: expected fp32, fp16, bf16, got 'fp8'"),
        ("fp16", {"backbone.res2": "half"}, "override backbone.res2: expected fp32, fp16, bf16, got 'half'"),
        ("fp16", {"backbon.res2": "fp32"}, "override backbon.res2: .*near it: .*backbone.res2"),
        ("fp16", {"normalization": "fp16"}, "near it: normalisation"),
        ("bf16", {"xyz": "fp32"}, "override xyz: expected the name of a node, island or stage .*decoder.0.queries"),
    ],
)
def test_bad_overrides(graph, precision, overrides, message):
    for function in (typed_graph, precision_plan):
        with pytest.raises(InputError, match=message):
            function(graph(), precision, overrides)


@in_both_types
@of_every_source
def test_the_plan_is_what_the_graph_is(graph, typed, source, precision):
    plan = precision_plan(graph(source), precision)
    flow = Dataflow(typed(source, precision))
    floats = [
        node
        for node in flow.nodes
        if any(map(flow.is_float, (*node.input, *node.output)))
        and node.op_type != "Shape"
        and not node.name.startswith("cast:")
    ]
    planned = {kind: sum(row.nodes.get(kind, 0) for row in plan.rows) for kind in TYPES}
    assert sum(planned.values()) == len(floats)
    results = [kind for node in floats for kind in named_types(flow, node.output[:1]) if kind == precision]
    unseen = [node for node in floats if not flow.is_float(node.output[0])]  # comparisons give no float
    assert len(results) <= planned[precision] <= len(results) + len(unseen)
    rows = {row.name: row for row in plan.rows}
    assert {"backbone", "pixel decoder", "decoder", "normalisation", "mask logits", "class logits"} <= set(rows)
    assert ("sampling grid" in rows) == source.startswith("standard")
    assert ("sizes" in rows) == source.endswith("dynamic")
    assert set(rows["normalisation"].nodes) == {"fp32"}
    assert set(rows["backbone"].nodes) == {precision}
    lines = plan.lines()
    assert len(lines) == 1 + len(plan.rows)
    assert f"{planned['fp32']} fp32, {planned[precision]} {precision}" in lines[0]
    assert all(len(line) < 160 for line in lines)


def test_the_plan_names_overrides(graph):
    plan = precision_plan(graph(), "fp16", {"backbone.res2": "fp32", "mask logits": "bf16"})
    rows = {row.name: row for row in plan.rows}
    assert rows["override"].reason == "as asked"
    assert set(rows["override"].nodes) == {"fp32"}
    assert set(rows["mask logits"].nodes) == {"bf16"}


@pytest.mark.parametrize(("precision", "kept"), [("fp16", "fp32"), ("bf16", "bf16")])
def test_a_weight_that_the_type_cannot_hold(graph, precision, kept):
    proto = onnx.ModelProto()
    proto.CopyFrom(graph())
    convolution = nodes_of(Dataflow(proto), "Conv")[2]
    for tensor in proto.graph.initializer:
        if tensor.name == convolution.input[1]:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] = 7e4
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    flow = Dataflow(typed_graph(proto, precision, {convolution.name: precision}))
    assert named_types(flow, convolution.output) == [kept]
    before, after = (
        {row.name: row.nodes["fp32"] for row in precision_plan(source, precision).rows if row.name == "range"}
        for source in (graph(), proto)
    )
    assert after["range"] - before["range"] == (kept == "fp32")  # the others: what masks scores, -3.4e38


def test_rounding_is_that_of_numpy_and_ml_dtypes():
    random = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519, 65520, 7e4, 3.3e38, 3.4e38, 1e-8, 2**-25, 1e-45]
    ties = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-8]
    bits = random.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([bits, np.array([*special, *ties], np.float32)])
    for precision, kind in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = values.astype(kind).astype(np.float32)
        tensor = to_half(values, "x", precision)
        assert (tensor.data_type, list(tensor.dims), len(tensor.raw_data)) == (
            TYPES[precision], [values.size], 2 * values.size,
        )  # fmt: skip
        np.testing.assert_array_equal(from_half(tensor), expected)
        assert float(np.asarray(LARGEST[precision], np.float64)) == float(ml_dtypes.finfo(kind).max)
    assert from_half(to_half(np.float32(1.5), "scalar", "bf16")).shape == ()


@pytest.mark.parametrize("source", ["standard", "custom-dynamic"])
def test_folding_constants_changes_no_result(graph, source):
    folded = fold_constants(graph(source))
    assert fold_constants(folded) == folded
    flow = Dataflow(folded)
    assert source.endswith("dynamic") or all(flow.sees_pixels(node) for node in flow.nodes)
    assert not [node for node in flow.nodes if flow.initializers.keys() >= set(node.input)]
    if source == "standard" or onnxruntime_ops_library() is not None:
        pixels = {"pixels": noise(1, *((384, 512) if source == "standard" else (64, 96)))}
        expected = runner(with_stage_outputs(graph(source)))(pixels)["pixel_decoder.level8"]
        found = runner(with_stage_outputs(folded))(pixels)["pixel_decoder.level8"]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_graph_of_constants_alone_and_scalars():
    """A scalar stays one; an output that is a constant stays an output."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["a", "a"], ["aa"]), helper.make_node("Add", ["x", "aa"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "aa")],
        [numpy_helper.from_array(np.float32(3), "a")],
    )
    folded = fold_constants(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    (constant,) = folded.graph.initializer
    assert (constant.name, list(constant.dims), numpy_helper.to_array(constant)) == ("aa", [], 9)
    assert [node.op_type for node in folded.graph.node] == ["Add"]


def test_a_device_types_graphs_without_torch():
    code = (
        "import sys; from mask2edge.export import precision; "
        "sys.exit(str({'torch', 'mask2edge.train', 'ml_dtypes.torch'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
