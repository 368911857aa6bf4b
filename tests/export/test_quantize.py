"""int8 graphs: which nodes become integer kernels, what stays float, and how far the results may be from float32's."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_export import DYNAMIC, FIXED, needs_library

from mask2edge.export.constant_folding import fold_constants
from mask2edge.export.cpu_fusion import fuse_for_cpu
from mask2edge.export.dataflow import Dataflow
from mask2edge.export.graph_shapes import tensor_shapes
from mask2edge.export.half_storage import metadata_of, store_half
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.precision import typed_graph
from mask2edge.export.qdq_writer import ONNXRUNTIME, TENSORRT, QdqPlan
from mask2edge.export.quantization_groups import GROUPS, QUANTIZED, groups_of
from mask2edge.export.quantize import Calibration, float_graph, quantized, without_calibration
from mask2edge.export.stage_comparison import noise, runner, with_stage_outputs
from mask2edge.export.token_convolutions import linears_as_convolutions
from mask2edge.export.type_check import type_conflicts
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Profile
from mask2edge.trt_plugins import onnxruntime_ops_library

EVERYTHING = frozenset(group.name for group in GROUPS)
# Of the tiny network: one bottleneck a stage, one encoder layer, three levels, four decoder layers.
COUNTS = {
    "stem": 1, "backbone.res2": 4, "backbone.res3": 4, "backbone.res4": 4, "backbone.res5": 4, "input projections": 3,
    "encoder values": 1, "encoder offsets": 1, "encoder weights": 1, "encoder outputs": 1, "encoder FFN": 2,
    "FPN lateral": 1, "FPN output": 1, "keys and values": 6, "class head": 1,
    "mask head": 4 * 3,  # the first layer's is a constant, the result has one
    "decoder queries": 4 * 5 + 3,  # the first layer's query is a constant
}  # fmt: skip
SOURCES = [
    pytest.param("custom", FIXED, marks=needs_library),
    pytest.param("standard", FIXED),
    pytest.param("custom", DYNAMIC, marks=[needs_library, pytest.mark.slow]),
]


def pixels_of(profile: Profile) -> np.ndarray:
    return noise(*profile.opt)


def calibration_on(proto: onnx.ModelProto, pixels: np.ndarray) -> Calibration:
    """The exact ranges of every float tensor on these pixels, without images."""
    full = float_graph(proto)
    flow = Dataflow(full)
    names = [name for node in flow.nodes for name in node.output if flow.is_float(name) and flow.sees_pixels(node)]
    copy = onnx.ModelProto()
    copy.CopyFrom(full)
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    found = runner(copy)({"pixels": pixels}) | {"pixels": pixels}
    return Calibration(full, {name: (float(x.min()), float(x.max())) for name, x in found.items()}, "a test")


@pytest.fixture(scope="module")
def calibration(exported):
    """calibration(ops, profile): of the tiny network on noise."""
    cache = {}

    def make(ops, profile):
        if (ops, profile) not in cache:
            cache[ops, profile] = calibration_on(exported(ops, profile), pixels_of(profile))
        return cache[ops, profile]

    return make


def optimised(proto: onnx.ModelProto, path) -> onnx.ModelProto:
    """What ONNX Runtime makes of it for this CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    library = onnxruntime_ops_library()
    if library is not None:
        options.register_custom_ops_library(str(library))
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def counted(proto: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in proto.graph.node)


@pytest.mark.parametrize(("ops", "profile"), [("custom", FIXED), ("standard", FIXED)])
def test_each_weighted_node_has_its_group(exported, ops, profile):
    found = Counter(groups_of(Dataflow(float_graph(exported(ops, profile)))).values())
    assert found == COUNTS
    assert set(COUNTS) == EVERYTHING


@pytest.mark.parametrize(("ops", "profile"), SOURCES)
def test_linear_layers_as_convolutions_are_the_same_network(exported, ops, profile):
    proto = float_graph(exported(ops, profile))
    pixels = pixels_of(profile)
    keys = set(groups_of(Dataflow(proto)))
    ranks = {name: len(shape) for name, shape in tensor_shapes(proto, pixels.shape).items()}
    graph, origins = linears_as_convolutions(proto, keys, ranks)
    flow = Dataflow(graph)
    assert not [node.name for node in flow.nodes if node.op_type == "MatMul" and node.input[1] in flow.initializers]
    expected = runner(with_stage_outputs(proto))({"pixels": pixels})
    found = runner(with_stage_outputs(graph))({"pixels": pixels})
    for name in ("pixel_decoder.level8", "pixel_decoder.fine", "class_logits"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-4 * np.abs(expected[name]).max())
    assert set(origins) <= set(flow.producer)
    assert set(origins.values()) <= set(Dataflow(proto).producer)


@pytest.mark.parametrize(("ops", "profile"), SOURCES)
def test_integer_kernels(calibration, tmp_path, ops, profile):
    """Every Q/DQ pair of the default groups ends in an integer kernel; no weighted node of theirs stays float."""
    proto = quantized(calibration(ops, profile), ONNXRUNTIME)
    weighted = sum(COUNTS[name] for name in QUANTIZED) + 2  # keys and values of the shared level are two each
    assert counted(proto)["Conv"] == weighted
    found = counted(optimised(proto, tmp_path / "model.onnx"))
    assert found["QLinearConv"] == weighted
    assert not {"Conv", "FusedConv", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"} & set(found)
    assert found["QLinearAdd"] == 4  # of the bottlenecks
    assert found["QGemm"] == found["QLinearMatMul"] == 0


def test_activations_are_left_to_the_kernels(calibration, tmp_path):
    """The backbone's ReLUs are in the ranges of what follows, and pooling is integer."""
    proto = quantized(calibration("standard", FIXED), ONNXRUNTIME)
    found = optimised(proto, tmp_path / "model.onnx")
    convolutions = {node.output[0] for node in found.graph.node if node.op_type == "QLinearConv"}
    relus = [node for node in found.graph.node if node.op_type == "Relu" and convolutions & set(node.input)]
    assert relus == []
    flow = Dataflow(found)
    for node in found.graph.node:
        if node.op_type in ("MaxPool", "NhwcMaxPool"):
            assert flow.producer[node.input[0]].op_type == "QLinearConv"


@needs_library
def test_transposes_around_linear_layers_cancel(calibration, tmp_path):
    """Of those written around 14 products, those of the first layer are left: its tokens come from maps."""
    proto = quantized(calibration("custom", FIXED), ONNXRUNTIME)
    found = Dataflow(optimised(proto, tmp_path / "model.onnx"))
    linears = [node for node in found.nodes if node.op_type == "QLinearConv" and node.name.startswith("Conv:")]
    assert len(linears) == sum(COUNTS[name] for name in QUANTIZED if name.startswith(("encoder", "keys"))) + 2
    through = ("Reshape", "Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear")
    for node in linears:
        around = found.makers(node.input[0], through) + found.readers[node.output[0]]
        moved = [maker for maker in around if maker.op_type == "Transpose"]
        assert moved == [] or moved[0].input[0].startswith("cat.")


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT], ids=lambda scheme: scheme.name)
def test_scales_and_zero_points(calibration, scheme):
    proto = quantized(calibration("standard", FIXED), scheme)
    onnx.checker.check_model(proto)
    flow = Dataflow(proto)
    value = {name: numpy_helper.to_array(tensor) for name, tensor in flow.initializers.items()}
    weights = 0
    for node in flow.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = value[node.input[1]]
        assert scale.dtype == np.float32
        assert np.all(scale > 0)
        if scheme is TENSORRT:
            np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
        stored = value.get(node.input[0])
        if stored is None:
            zero = value[node.input[2]]
            assert scale.shape == zero.shape == ()
            assert zero.dtype == (np.int8 if scheme is TENSORRT else np.uint8)
            assert scheme is ONNXRUNTIME or zero == 0
        elif stored.dtype == np.int8:
            weights += 1
            (reader,) = flow.readers[node.output[0]]
            axis = 0 if reader.op_type == "Conv" else 1
            assert scale.shape == (stored.shape[axis],)
            assert not value[node.input[2]].any()
            assert np.abs(stored).max(axis=tuple(i for i in range(stored.ndim) if i != axis)).max() == 127
        else:
            assert stored.dtype == np.int32
            assert scheme is ONNXRUNTIME
    assert weights == sum(COUNTS[name] for name in QUANTIZED) + (2 if scheme is ONNXRUNTIME else 0)


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT], ids=lambda scheme: scheme.name)
def test_what_stays_float(calibration, scheme):
    """The residual stream, norms, softmax, products of masks and everything of the queries read no integers."""
    flow = Dataflow(quantized(calibration("standard", FIXED), scheme))
    readers = Counter()
    for node in flow.nodes:
        makers = [flow.producer[name].op_type for name in node.input if name in flow.producer]
        if "DequantizeLinear" in makers:
            readers[node.op_type] += 1
            assert not flow.stage_of(node).endswith("mask_logits")
            assert flow.stage_of(node) != "class_logits"
    # After a convolution's integers come a reshape to groups, a transpose to tokens, or another integer kernel.
    allowed = {"Conv", "Add", "Relu", "MaxPool", "Reshape", "Transpose", "QuantizeLinear"}
    assert set(readers) <= (allowed if scheme is ONNXRUNTIME else {"Conv", "MatMul"})
    for node in flow.nodes:
        if node.op_type == "LayerNormalization":
            total = flow.producer.get(node.input[0])
            terms = [flow.producer.get(name) for name in total.input] if total is not None else []
            assert "DequantizeLinear" not in [term.op_type for term in terms if term is not None]


@pytest.mark.parametrize(("scheme", "bound"), [(ONNXRUNTIME, 0.06), (TENSORRT, 0.06)], ids=["onnxruntime", "tensorrt"])
def test_error_on_the_calibrated_input(calibration, scheme, bound):
    full = calibration("standard", FIXED)
    pixels = pixels_of(FIXED)
    expected = runner(with_stage_outputs(full.proto))({"pixels": pixels})

    def errors(ranges):
        proto = quantized(Calibration(full.proto, ranges, ""), scheme)
        found = runner(with_stage_outputs(proto))({"pixels": pixels})
        stages = ("backbone.res5", "pixel_decoder.level8", "pixel_decoder.fine")
        return [np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in stages]

    found = errors(full.ranges)
    print(scheme.name, [f"{error:.4f}" for error in found])
    assert 1e-4 < max(found) < bound
    cut = {name: (low / 4, high / 4) for name, (low, high) in full.ranges.items()}
    assert max(errors(cut)) > 3 * max(found)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 12), filters=st.integers(1, 8), kernel=st.sampled_from([1, 3]),
    spread=st.floats(1e-3, 50), offset=st.floats(-3, 3), seed=st.integers(0, 2**16),
    scheme=st.sampled_from([ONNXRUNTIME, TENSORRT]),
)  # fmt: skip
def test_a_convolution_is_as_near_as_its_scales_allow(channels, filters, kernel, spread, offset, seed, scheme):
    """Rounding of input and weights bounds the error of each output; float64 sums are the oracle's."""
    random = np.random.default_rng(seed)
    weights = (random.standard_normal((filters, channels, kernel, kernel)) * spread).astype(np.float32)
    bias = random.standard_normal(filters).astype(np.float32)
    x = (random.standard_normal((1, channels, 5, 6)) + offset).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), (kernel, kernel), (1, 2))
    exact = np.einsum("chwij,fcij->fhw", windows, weights.astype(np.float64)) + bias[:, None, None]
    ranges = {"x": (x.min(), x.max()), "y": (exact.min(), exact.max())}
    plan = QdqPlan(proto, {"y"}, scheme)
    found = runner(plan.written({name: ranges[name] for name in plan.tensors}))({"x": x})["y"][0]
    # Half a step of each input, half a step of each weight, half a step of the bias, and of the result.
    bits = 255 if scheme is ONNXRUNTIME else 254
    low, high = min(0.0, x.min()), max(0.0, x.max())
    span = high - low if scheme is ONNXRUNTIME else 2 * max(-low, high)
    step = span / bits * 1.002
    weight_steps = np.maximum(np.abs(weights).max((1, 2, 3)) / 127, np.abs(bias) / step / 2**30) * 1.002
    size = np.abs(windows).sum((0, 3, 4)) + step / 2 * channels * kernel**2  # [h, w]
    bound = step / 2 * np.abs(weights).sum((1, 2, 3))[:, None, None] + weight_steps[:, None, None] / 2 * size
    bound = bound + (step * weight_steps)[:, None, None]
    if scheme is ONNXRUNTIME:
        bound = bound + (max(0.0, exact.max()) - min(0.0, exact.min())) / 255
    # A zero point is rounded too: the outermost values may lie half a step beyond the range.
    bound = bound + step / 2 * np.abs(weights).sum((1, 2, 3))[:, None, None] + 1e-4 * np.abs(exact).max()
    assert np.all(np.abs(found - exact) <= bound)


def test_a_second_time_it_is_the_same_file(calibration):
    first, second = (
        quantized(calibration("standard", FIXED), ONNXRUNTIME).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


@needs_library
def test_fusing_for_the_cpu_leaves_integers_alone(calibration, tmp_path):
    """What an engine gets: the fused float nodes beside as many integer kernels."""
    proto = quantized(calibration("custom", FIXED), ONNXRUNTIME)
    fused = fuse_for_cpu(proto)
    assert counted(fused)["AddLayerNormalization"] > 0
    assert counted(fused)["Conv"] == counted(proto)["Conv"] == counted(optimised(fused, tmp_path / "x"))["QLinearConv"]


def test_groups_can_be_chosen(calibration):
    proto = quantized(calibration("standard", FIXED), ONNXRUNTIME, frozenset({"FPN output", "mask head"}))
    flow = Dataflow(proto)
    integer = [node for node in flow.nodes if node.op_type == "Conv" and node.input[0].endswith(".dequantized")]
    assert len(integer) == COUNTS["FPN output"] + COUNTS["mask head"]


def test_what_the_file_says(calibration):
    for scheme in (ONNXRUNTIME, TENSORRT):
        entries = metadata_of(quantized(calibration("standard", FIXED), scheme))
        assert Description.from_metadata(entries, "it").precision == "int8"
        assert entries["mask2edge.arithmetic"] == f"int8 for {scheme.name}"
        assert Description.from_metadata(entries, "it").calibration == "a test"


def test_int8_is_no_source(calibration):
    for scheme in (ONNXRUNTIME, TENSORRT):
        with pytest.raises(InputError, match=r"got one that is int8 already; start from the file that export/to_onnx"):
            float_graph(quantized(calibration("standard", FIXED), scheme))
    with pytest.raises(InputError, match="typed int8 already"):
        typed_graph(quantized(calibration("standard", FIXED), ONNXRUNTIME), "fp16")


def test_half_storage_is_a_source(exported):
    assert counted(without_calibration(store_half(exported("standard", FIXED)), ONNXRUNTIME))["QuantizeLinear"] > 10


@pytest.mark.parametrize("ops", ["custom", "standard"])
def test_the_rest_for_tensorrt_is_typed(exported, ops):
    """Q/DQ go through the typed graph: no type is missing a Cast, and none stands between a pair and its reader."""
    typed = typed_graph(without_calibration(exported(ops, FIXED), TENSORRT), "fp16")
    assert type_conflicts(typed) == []
    entries = metadata_of(typed)
    assert (entries["mask2edge.precision"], entries["mask2edge.arithmetic"]) == ("int8", "typed")
    flow = Dataflow(typed)
    weighted = [node for node in flow.nodes if node.op_type in ("Conv", "MatMul")]
    integer = [node for node in weighted if flow.producer.get(node.input[0], node).op_type == "DequantizeLinear"]
    assert len(integer) == sum(COUNTS[name] for name in QUANTIZED)
    for node in integer:
        assert flow.producer[node.input[1]].op_type == "DequantizeLinear"
        assert {flow.types[name] for name in node.input} == {TensorProto.FLOAT16}


def test_folding_leaves_weights_small(exported):
    """Weights are constants afterwards, and the file has not grown by tables of positions."""
    proto = exported("standard", FIXED)
    folded = float_graph(proto)
    assert folded.ByteSize() < 1.02 * proto.ByteSize()
    assert fold_constants(quantized(calibration_on(proto, pixels_of(FIXED)), TENSORRT)).ByteSize() < proto.ByteSize()
