"""Where our code uses TensorRT's Python API, and of which class each name is: found in the source, nothing is executed.

    uses = uses_in(source, "export/plan_building.py", apis)
    Use("export/plan_building.py", 63, "Builder", "create_network")

Types are followed from the module (`trt`, `tensorrt`, `self.trt`) through calls, assignments and properties, by what
the bindings' documentation strings say. A call that gets one of TensorRT's functions as an argument, as in
`call("make a network", builder.create_network, flags)`, is taken to return what that function does. What arrives in a
parameter without a type is known by the parameter's name (HOLDS).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tensorrt_api import Api

MODULE_NAMES = ("trt", "tensorrt")

# Parameters without a type, and attributes that others fill: what they hold.
HOLDS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "engine": "ICudaEngine",
    "execution": "IExecutionContext",
    "inspector": "EngineInspector",
    "logger": "ILogger",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "registry": "IPluginRegistry",
    "runtime": "Runtime",
}

# What the documentation strings of some releases leave out.
RETURNS = {("", "get_plugin_registry"): "IPluginRegistry"}


@dataclass(frozen=True)
class Use:
    file: str
    line: int
    owner: str  # the class; "" for the module
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.owner or 'tensorrt'}.{self.name}"


@dataclass(frozen=True)
class Type:
    """Of an expression: TensorRT's module, a class of it, an object of a class, or a function that gives one."""

    kind: str  # module, class, object, function
    name: str = ""


def uses_in(source: str, file: str, apis: Sequence[Api]) -> set[Use]:
    reader = _Reader(file, apis)
    tree = ast.parse(source)
    for _ in range(3):  # an attribute may be set below the method that reads it
        reader.uses.clear()
        reader.read(tree, {})
    return reader.uses


def untyped_parameters(source: str) -> set[str]:
    """Names of parameters without a type, or of type Any, whose attributes are used."""
    names: set[str] = set()
    for function in _functions(ast.parse(source)):
        untyped = {
            argument.arg
            for argument in (*function.args.args, *function.args.kwonlyargs)
            if argument.annotation is None or ast.unparse(argument.annotation) == "Any"
        } - {"self", "cls"}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in untyped:
                names.add(node.value.id)
    return names


def mentions_tensorrt(source: str) -> bool:
    """Whether TensorRT's module is imported, or used under one of its names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "tensorrt" for alias in node.names):
            return True
        if isinstance(node, ast.arg | ast.Name) and (node.arg if isinstance(node, ast.arg) else node.id) == "trt":
            return True
        if isinstance(node, ast.Attribute) and node.attr in ("trt", "_trt"):
            return True
    return False


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


class _Reader:
    def __init__(self, file: str, apis: Sequence[Api]) -> None:
        self.file = file
        self.apis = apis
        self.uses: set[Use] = set()
        self.attributes: dict[str, Type] = {}  # self.attr, in the whole file

    def read(self, node: ast.AST, names: dict[str, Type]) -> None:
        """`names`: local variables; a nested function sees those around it."""
        match node:
            case ast.FunctionDef() | ast.Lambda():
                names = dict(names)
                self._parameters(node.args, names)
            case ast.ClassDef():
                self._class(node, names)
            case ast.Import():
                for alias in node.names:
                    if alias.name == "tensorrt":
                        names[alias.asname or alias.name] = Type("module")
            case ast.Assign():
                kind = self._type(node.value, names)
                for target in node.targets:
                    self._assign(target, node.value, kind, names)
            case ast.AnnAssign() if node.value is not None:
                self._assign(node.target, node.value, self._type(node.value, names), names)
            case ast.Attribute():
                self._attribute(node, names)
        for child in ast.iter_child_nodes(node):
            self.read(child, names)

    def _parameters(self, arguments: ast.arguments, names: dict[str, Type]) -> None:
        for argument in (*arguments.args, *arguments.kwonlyargs):
            names.pop(argument.arg, None)
            if argument.annotation is not None and ast.unparse(argument.annotation) != "Any":
                continue
            if argument.arg in MODULE_NAMES:
                names[argument.arg] = Type("module")
            elif argument.arg in HOLDS:
                names[argument.arg] = Type("object", HOLDS[argument.arg])

    def _class(self, node: ast.ClassDef, names: dict[str, Type]) -> None:
        """A class derived from one of TensorRT's overrides functions of it, and has no other public ones."""
        for base in node.bases:
            kind = self._type(base, names)
            if kind is not None and kind.kind == "class":
                for function in node.body:
                    if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                        self.uses.add(Use(self.file, function.lineno, kind.name, function.name))

    def _assign(self, target: ast.expr, value: ast.expr, kind: Type | None, names: dict[str, Type]) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._assign(one, other, self._type(other, names), names)
        elif isinstance(target, ast.Name):
            if kind is not None:
                names[target.id] = kind
            else:
                names.pop(target.id, None)
        elif isinstance(target, ast.Attribute) and kind is not None:
            self.attributes[ast.unparse(target)] = kind

    def _attribute(self, node: ast.Attribute, names: dict[str, Type]) -> None:
        owner = self._type(node.value, names)
        if owner is not None and owner.kind != "function":
            self.uses.add(Use(self.file, node.lineno, owner.name, node.attr))

    def _type(self, node: ast.expr, names: dict[str, Type]) -> Type | None:
        match node:
            case ast.Name():
                return names.get(node.id, Type("module") if node.id == "trt" else None)
            case ast.Attribute():
                return self._type_of_attribute(node, names)
            case ast.Call():
                called = self._type(node.func, names)
                candidates = [called] if called is not None else [self._type(one, names) for one in node.args]
                for one in candidates:
                    if one is not None and one.kind in ("class", "function"):
                        return Type("object", one.name) if one.name else None
        return None

    def _type_of_attribute(self, node: ast.Attribute, names: dict[str, Type]) -> Type | None:
        known = self.attributes.get(ast.unparse(node))
        if known is not None:
            return known
        owner = self._type(node.value, names)
        if owner is None:
            if node.attr in ("trt", "_trt"):
                return Type("module")
            return Type("object", HOLDS[node.attr]) if node.attr == "execution" else None
        if owner.kind == "function":
            return None
        return self._member(owner.name, node.attr)

    def _member(self, owner: str, name: str) -> Type | None:
        """By the first release whose documentation says it."""
        if (owner, name) in RETURNS:
            return Type("function", RETURNS[owner, name])
        for api in self.apis:
            member = api.attributes(owner).get(name)
            if member is None:
                continue
            if member.value and member.value == member.result:
                return Type("class", member.value)
            value, result = api.class_named(member.value), api.class_named(member.result)
            if value:
                return Type("object", value)
            if not member.value and (result or api is self.apis[-1]):
                return Type("function", result)
        return None
