"""Nodes read, and plugins named, in the bytes of a model: the same as the onnx package would do it."""

import onnx
import pytest
from onnx import helper
from tiny_export import DYNAMIC, FIXED
from toy_graph import toy_graph

from mask2edge.export.onnx_nodes import Node, nodes_of, with_plugin_namespace
from mask2edge.runtime.command_line import InputError


@pytest.mark.parametrize("ops", ["custom", "standard"])
@pytest.mark.parametrize("profile", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
def test_nodes(ops, profile):
    proto = toy_graph(ops, profile)
    expected = [Node(node.name, node.op_type, node.domain, node.output[0]) for node in proto.graph.node]
    assert nodes_of(proto.SerializeToString()) == expected


def test_names_of_operators():
    assert str(Node("a", "Conv", "", "x")) == "Conv"
    assert str(Node("a", "Swirl", "com.example", "x")) == "com.example.Swirl"


def test_the_domain_of_onnx_has_two_names():
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")], "g", [], [])
    assert [node.domain for node in nodes_of(helper.make_model(graph).SerializeToString())] == [""]


def test_plugins_are_named_and_nothing_else_changes():
    proto = toy_graph("custom", FIXED)
    changed = onnx.load_from_string(with_plugin_namespace(proto.SerializeToString()))
    (node,) = (node for node in changed.graph.node if node.domain)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes == {"num_heads": 4, "plugin_namespace": b"mask2edge", "plugin_version": b"1"}
    del node.attribute[1:]
    assert changed == proto


def test_a_model_without_plugins_stays_as_it_is():
    content = toy_graph("standard", FIXED).SerializeToString()
    assert with_plugin_namespace(content) == content


def test_plugins_are_named_once():
    once = with_plugin_namespace(toy_graph("custom", FIXED).SerializeToString())
    assert with_plugin_namespace(once) == once


@pytest.mark.parametrize("function", [nodes_of, with_plugin_namespace])
@pytest.mark.parametrize(
    "content", [b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x05abc", b"\x3b", b"\xff" * 20, b"\x3a\x06\x0a\x04\x22\x02\xff\xfe"]
)
def test_what_is_no_model(function, content):
    with pytest.raises(InputError, match="expected a whole ONNX model"):
        function(content)


def test_a_model_that_is_cut_short():
    content = toy_graph("custom", FIXED).SerializeToString()
    for length in range(1, len(content), 97):
        try:
            nodes_of(content[:length])
        except InputError:
            continue
        assert length in _ends_of_fields(content)  # a cut between two fields leaves a whole message


def _ends_of_fields(content: bytes) -> set[int]:
    from mask2edge.export.onnx_nodes import _fields

    return {end for _, _, _, end in _fields(content)}
