"""Reads the nodes of a serialised ONNX model, and names the plugins of ours, without the onnx package.

    model = Path("artifacts/street-lite.onnx").read_bytes()
    [node.op for node in nodes_of(model) if node.domain == "mask2edge"]
    parser.parse(with_plugin_namespace(model))

TensorRT's parser looks for a plugin in the namespace that the node's attribute `plugin_namespace` names; before 10.10
it does not try the node's domain. A device that builds from ONNX has no onnx package to add the attribute with, and
the file keeps working elsewhere without it, so it is added to the bytes that the parser gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mask2edge.runtime.command_line import InputError
from mask2edge.trt_plugins import OP_DOMAIN, PLUGIN_VERSION

# Field numbers of onnx.proto: ModelProto.graph, GraphProto.node, then those of NodeProto and AttributeProto.
GRAPH, NODE = 7, 1
OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_STRING, ATTRIBUTE_TYPE = 1, 4, 20
STRING = 3  # AttributeProto.AttributeType
VARINT, LENGTH, FIXED = 0, 2, {1: 8, 5: 4}  # protobuf wire types; fixed ones and their bytes
Message = bytes | memoryview  # parts of a model are views: it may be larger than half of a device's memory


@dataclass(frozen=True)
class Node:
    name: str
    op: str
    domain: str  # "" is ONNX's own
    output: str  # its first

    def __str__(self) -> str:
        return f"{self.domain}.{self.op}" if self.domain else self.op


def nodes_of(model: bytes) -> list[Node]:
    """In graph order, without the nodes inside of branches and loops. Raises InputError for what is no ONNX model."""
    try:
        graphs = _contents(memoryview(model), GRAPH)
        return [_node(content) for graph in graphs for content in _contents(graph, NODE)]
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"expected a whole ONNX model, got {error}; copy or export it again") from error


def with_plugin_namespace(model: bytes) -> bytes:
    """The same model, its nodes of our domain with the attributes by which TensorRT's parser finds a plugin."""
    try:
        return _rewritten(memoryview(model), GRAPH, lambda graph: _rewritten(graph, NODE, _with_attributes))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"expected a whole ONNX model, got {error}; copy or export it again") from error


def _node(content: Message) -> Node:
    found: dict[int, str] = {}
    for number, value in _texts(content, {OUTPUT, NAME, OP_TYPE, DOMAIN}):
        found.setdefault(number, value)
    domain = found.get(DOMAIN, "")
    return Node(
        found.get(NAME, ""), found.get(OP_TYPE, ""), "" if domain == "ai.onnx" else domain, found.get(OUTPUT, "")
    )


def _with_attributes(node: Message) -> Message:
    if _node(node).domain != OP_DOMAIN:
        return node
    present = {name for content in _contents(node, ATTRIBUTE) for _, name in _texts(content, {ATTRIBUTE_NAME})}
    added = bytearray(node)
    for name, value in (("plugin_namespace", OP_DOMAIN), ("plugin_version", PLUGIN_VERSION)):
        if name not in present:
            attribute = _field(ATTRIBUTE_NAME, name.encode()) + _field(ATTRIBUTE_STRING, value.encode())
            attribute += _encoded(ATTRIBUTE_TYPE << 3 | VARINT) + _encoded(STRING)
            added += _field(ATTRIBUTE, attribute)
    return bytes(added)


def _texts(content: Message, wanted: set[int]) -> Iterator[tuple[int, str]]:
    for number, _, start, end in _fields(content):
        if number in wanted:
            yield number, bytes(content[start:end]).decode()


def _contents(message: Message, wanted: int) -> Iterator[Message]:
    for number, _, start, end in _fields(message):
        if number == wanted:
            yield message[start:end]


def _rewritten(message: Message, wanted: int, change: Callable[[Message], Message]) -> bytes:
    """The message with `change` applied to each field `wanted`; all else byte for byte."""
    parts: list[Message] = []
    kept = 0  # everything before is in `parts`
    for number, tag, start, end in _fields(message):
        if number == wanted:
            content = change(message[start:end])
            parts += [message[kept:tag], _tag(wanted, len(content)), content]
            kept = end
    return b"".join([*parts, message[kept:]])


def _fields(message: Message) -> Iterator[tuple[int, int, int, int]]:
    """Number, start of the tag, start and end of the content, of each field."""
    position = 0
    while position < len(message):
        tag_at = position
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            start = position
            _, position = _varint(message, position)
        elif wire == LENGTH:
            length, start = _varint(message, position)
            position = start + length
        elif wire in FIXED:
            start, position = position, position + FIXED[wire]
        else:
            raise ValueError(f"an unknown field at byte {tag_at}")
        if position > len(message):
            raise ValueError(f"{len(message)} bytes of at least {position}")
        yield number, tag_at, start, position


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, len(content)) + content


def _tag(number: int, length: int) -> bytes:
    return _encoded(number << 3 | LENGTH) + _encoded(length)


def _varint(message: Message, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("an end inside a field")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
