"""What the engine inspector says, as a table: spellings of several versions, times, and which layers are ours."""

import pytest

from mask2edge.export.engine_inspection import LayerRow, layer_table, summary, table_lines


def layer(name, kind="kgen", output="Half", **more):
    return {"Name": name, "LayerType": kind, "Outputs": [{"Name": "x", "Format/Datatype": output}], **more}


INFORMATION = {
    "Layers": [
        layer("conv1 + relu", "CaskConvolution", "Channel major FP16 format where channel % 8 == 0"),
        layer("Reformatting CopyNode for Input Tensor 0 to node_masked_attention", "Reformat"),
        layer("node_masked_attention", "PluginV3", PluginType="MaskedAttention"),
        layer("__myl_Add_0x1", Metadata="[ONNX Layer: node_norm]\x1f[ONNX Layer: node_add]", output="Float"),
        layer("fused", Metadata="[ONNX Layer: node_multiscale_deformable_attention_2]"),
    ],
    "Bindings": ["pixels"],
    "mask2edge": ["node_masked_attention", "node_multiscale_deformable_attention_2"],
}


def test_rows():
    rows = layer_table(INFORMATION)
    assert [row.precision for row in rows] == ["fp16", "fp16", "fp16", "fp32", "fp16"]
    assert [row.ours for row in rows] == [False, False, True, False, True]
    assert rows[0] == LayerRow("conv1 + relu", "CaskConvolution", "fp16", False)
    assert summary(rows) == "5 layers: 4 fp16, 1 fp32; 2 ours"


@pytest.mark.parametrize(
    ("spelling", "precision"),
    [
        ("Half", "fp16"), ("Row major linear FP16 format", "fp16"), ("kHALF", "fp16"), ("Float", "fp32"),
        ("Row major linear FP32", "fp32"), ("kFLOAT", "fp32"), ("BFloat16", "bf16"), ("Row major linear BF16", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"), ("Int32", "int32"), ("Int64", "int64"),
        ("Bool", "bool"), ("", ""), ("something new", ""),
    ],
)  # fmt: skip
def test_spellings_of_types(spelling, precision):
    (row,) = layer_table({"Layers": [layer("x", output=spelling)]})
    assert row.precision == precision


def test_the_type_may_be_apart_from_the_format_or_with_the_inputs():
    apart = {"Name": "a", "Outputs": [{"Name": "x", "Format": "Row major linear", "Datatype": "Half"}]}
    only_inputs = {"Name": "b", "Inputs": [{"Name": "x", "Format/Datatype": "Float"}], "Outputs": []}
    assert [row.precision for row in layer_table({"Layers": [apart, only_inputs]})] == ["fp16", "fp32"]


def test_names_alone():
    """As the inspector gives them for an engine that was built without detailed verbosity."""
    names = ["conv1", "MaskedAttention_3", "Reformatting CopyNode for Input Tensor 0 to MaskedAttention_3"]
    rows = layer_table({"Layers": names, "Bindings": []})
    assert [(row.name, row.ours, row.precision) for row in rows] == [
        (names[0], False, ""), (names[1], True, ""), (names[2], False, ""),
    ]  # fmt: skip
    assert summary(rows) == "3 layers: 3 other; 1 ours"


def test_times():
    times = {"conv1 + relu": 0.5, "node_masked_attention": 0.3, "a layer of the profiler's alone": 0.2}
    rows = layer_table(INFORMATION, times)
    assert len(rows) == 6
    assert sum(row.ms for row in rows) == pytest.approx(1.0)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert rows[2].share == pytest.approx(0.3)
    assert rows[1].ms == 0
    lines = table_lines(rows, most=2)
    assert lines[1] == " 50.0%    0.500  fp16         conv1 + relu"
    assert lines[2] == " 30.0%    0.300  fp16   ours  node_masked_attention"
    assert lines[3] == "… and 4 more"
    assert lines[4] == "of the time: fp16 80.0%, ours 30.0%, other 20.0%, fp32 0.0%"


def test_no_times_and_no_layers():
    assert table_lines(layer_table({})) == ["type         layer"]
    assert len(table_lines(layer_table(INFORMATION))) == 6
    assert [row.share for row in layer_table(INFORMATION, {})] == [0.0] * 5


def test_long_names_are_cut_in_the_table_alone():
    name = "{ForeignNode[" + "a" * 300 + "]}"
    rows = layer_table({"Layers": [layer(name)]})
    assert rows[0].name == name
    assert len(table_lines(rows)[1]) < 100
