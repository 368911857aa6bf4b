"""Every name of TensorRT's Python API that our code uses is there in 10.3 (JetPack 6), 10.13 and 11.

The bindings themselves are asked (tensorrt_api.py), about what the source says (tensorrt_uses.py).
"""

import ast

import pytest
from native_build import ROOT
from tensorrt_api import RELEASES, Api, Unavailable, load_api
from tensorrt_uses import HOLDS, MODULE_NAMES, Use, mentions_tensorrt, untyped_parameters, uses_in

ROOMS = ("export", "runtime", "trt_plugins", "benchmarks")
SOURCES = {
    str(file.relative_to(ROOT)): file.read_text() for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))
}
TENSORRT_SOURCES = {file: source for file, source in SOURCES.items() if mentions_tensorrt(source)}

# Parameters of these files without a type that hold nothing of TensorRT's. Others have to be in tensorrt_uses.HOLDS.
NOT_TENSORRTS = {
    "errors",  # lines that the logger kept
    "layer",  # of layers.json
    "model",  # ONNX
}

# Names that some releases have and others have not, and that things of ours bear too.
ALSO_OURS = {"precision"}

EXAMPLE = """
import tensorrt as trt

def build(config, purpose):
    flags = trt.BuilderFlag
    config.set_flag(flags.FP16)
    config.max_workspace_size = 1
    builder = purpose("start", trt.Builder, None)
    network = purpose("make", builder.create_network, 1)
    kind, engine = network.get_input(0).dtype, purpose.thing
    engine.device_memory_size
    trt.get_plugin_registry().get_plugin_creator("a", "1", "b")

class Monitor(trt.IProgressMonitor):
    def phase_starts(self): ...
"""


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release[1])
def api(request: pytest.FixtureRequest) -> Api:
    try:
        return load_api(*request.param)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def apis() -> list[Api]:
    try:
        return [load_api(*release) for release in RELEASES]
    except Unavailable as reason:
        pytest.skip(str(reason))


def missing(uses: set[Use], api: Api) -> list[str]:
    return sorted(str(use) for use in uses if use.name not in api.attributes(use.owner))


def test_names_in_use_exist(api: Api) -> None:
    uses = set().union(*(uses_in(source, file, [api]) for file, source in SOURCES.items()))
    assert missing(uses, api) == [], f"not in TensorRT {api.version}: use what 10.3, 10.13 and 11 all have"
    # The way from the module to an engine was followed: nothing is checked where types are lost on the way.
    found = {f"{use.owner}.{use.name}" for use in uses}
    assert found >= {
        "Builder.create_network", "IBuilderConfig.set_memory_pool_limit", "OnnxParser.parse", "ParserError.desc",
        "Builder.build_serialized_network", "IOptimizationProfile.set_shape", "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_name", "ICudaEngine.create_execution_context", "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address", "IPluginRegistry.load_library", "ILogger.log",
    }  # fmt: skip


def test_names_that_come_and_go_are_not_used(apis: list[Api]) -> None:
    """Also where the type of what bears them is not known."""
    changing = set().union(*(one.names() for one in apis)) - set.intersection(*(one.names() for one in apis))
    found = [
        f"{file}:{node.lineno}: {node.attr}"
        for file, source in TENSORRT_SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in changing - ALSO_OURS
    ]
    assert found == []
    assert {"FP16", "get_plugin_creator", "max_workspace_size"} - changing == {"max_workspace_size"}  # gone before 10.3


@pytest.mark.parametrize("file", TENSORRT_SOURCES)
def test_parameters_without_a_type_are_declared(file: str) -> None:
    unknown = untyped_parameters(TENSORRT_SOURCES[file]) - set(HOLDS) - set(MODULE_NAMES) - NOT_TENSORRTS
    assert unknown == set(), "say in tensorrt_uses.HOLDS what they hold, or in NOT_TENSORRTS that it is not TensorRT's"


def test_the_scan_finds_what_is_gone(apis: list[Api]) -> None:
    uses = uses_in(EXAMPLE, "example.py", apis)
    assert {"INetworkDefinition.get_input", "ITensor.dtype"} <= {f"{use.owner}.{use.name}" for use in uses}
    gone = {one.version: [text.partition(": ")[2] for text in missing(uses, one)] for one in apis}
    everywhere = {"IBuilderConfig.max_workspace_size", "IProgressMonitor.phase_starts"}
    assert all(set(names) >= everywhere for names in gone.values())
    assert set(gone["10.3.0"]) == everywhere
    assert set(gone["11.4.0.106"]) == everywhere | {"BuilderFlag.FP16", "IPluginRegistry.get_plugin_creator"}


def test_the_bindings_are_asked_without_tensorrt(api: Api) -> None:
    assert api.attributes("Builder")["create_network"].result == "INetworkDefinition"
    assert api.attributes("ITensor")["shape"].value == "Dims"
    assert "create_netwrok" not in api.names()
