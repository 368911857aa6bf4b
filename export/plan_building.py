"""From an ONNX model to a serialised plan: TensorRT's parser, the profile, the options, the build.

    plan = build_plan(tensorrt, logger, errors, model, description.profile, options, progress, cache)
    Path("model.plan").write_bytes(plan)

Precision is in the graph: the network is strongly typed on every version, and no flag asks for another type. Only calls
that TensorRT 10.3, 10.13 and 11 have are used. The plugin library is registered before (trt_plugins.register_plugins).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from mask2edge.export.build_progress import BuildProgress
from mask2edge.export.onnx_nodes import Node, nodes_of, with_plugin_namespace
from mask2edge.export.tensorrt_options import TensorrtOptions
from mask2edge.export.timing_cache import TimingCache
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session import INPUT, first_line
from mask2edge.runtime.spec import Profile
from mask2edge.trt_plugins import OP_DOMAIN, PLUGINS

OUT_OF_MEMORY = re.compile(r"out ?of ?memory|could not be allocated|insufficient (gpu )?memory", re.IGNORECASE)


class Calls:
    """Calls of TensorRT's, each with its purpose. `errors`: where the logger puts what TensorRT says."""

    def __init__(self, errors: Any) -> None:
        self._errors = errors

    def __call__(self, purpose: str, function: Callable[..., Any], *arguments: Any, returns: bool = True) -> Any:
        """The function's result. Raises InputError, with what TensorRT logged, where it raises, or gives None or False
        though it `returns` something.
        """
        self._errors.clear()
        try:
            result = function(*arguments)
        except Exception as error:  # the bindings raise RuntimeError, TypeError and others
            raise InputError(f"TensorRT could not {purpose} ({self.reason(first_line(error))})") from error
        finally:
            del function, arguments  # a traceback must not outlive what they hold: TensorRT's objects go in order
        if returns and (result is None or result is False):
            raise InputError(f"TensorRT could not {purpose} ({self.reason('it does not say why')})")
        return result

    def reason(self, otherwise: str) -> str:
        """The first error of the call that failed: the later ones follow from it."""
        return first_line(self._errors[0]) if self._errors else otherwise


def build_plan(
    trt: Any,
    logger: Any,
    errors: Any,
    model: bytes,
    profile: Profile,
    options: TensorrtOptions,
    progress: BuildProgress,
    cache: TimingCache | None = None,
) -> Any:
    """The plan as a buffer. Raises InputError where TensorRT cannot have it, KeyboardInterrupt after Ctrl-C."""
    call = Calls(errors)
    nodes = nodes_of(model)
    require_known_ops(nodes)
    builder = call("start its builder", trt.Builder, logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = call("make a network", builder.create_network, typed)
    parser = call("start its ONNX parser", trt.OnnxParser, network, logger)
    _require_parser_ops(call, parser, nodes)
    _parse(call, parser, model, nodes)
    config = call("make a configuration", builder.create_builder_config)
    monitor = progress.monitor(trt)
    call("take the options", _configure, trt, config, options, monitor, returns=False)
    if -1 in tuple(network.get_input(0).shape):
        _add_profile(call, builder, config, profile)
    if cache is not None:
        cache.attach(config)
    try:
        plan = progress.run(lambda: call("build the engine", builder.build_serialized_network, network, config))
    except InputError as error:
        raise InputError(f"{error}; {_advice(str(error))}") from error
    if cache is not None:
        cache.save(config)
    return plan


def require_known_ops(nodes: Sequence[Node]) -> None:
    """Raises InputError that lists the operators that are neither ONNX's nor plugins of ours."""
    unknown = {str(node) for node in nodes if node.domain and not (node.domain == OP_DOMAIN and node.op in PLUGINS)}
    if unknown:
        raise InputError(
            f"unknown operators {', '.join(sorted(unknown))}: expected those of ONNX and {', '.join(PLUGINS)} of "
            f"{OP_DOMAIN}; export the model with export/to_onnx.py of this version"
        )


def _require_parser_ops(call: Calls, parser: Any, nodes: Sequence[Node]) -> None:
    ops = sorted({node.op for node in nodes if not node.domain})
    unknown = [op for op in ops if not call(f"look up {op}", parser.supports_operator, op, returns=False)]
    if unknown:
        raise InputError(
            f"this TensorRT does not know the operators {', '.join(unknown)}; use a newer TensorRT, "
            "or --backend onnxruntime"
        )


def _parse(call: Calls, parser: Any, model: bytes, nodes: Sequence[Node]) -> None:
    try:
        call("parse the ONNX model", parser.parse, with_plugin_namespace(model))
    except InputError as error:
        if not parser.num_errors:
            raise
        first = parser.get_error(0)
        index = first.node()
        named = nodes[index] if 0 <= index < len(nodes) else None
        name = first.node_name() or (named.name or named.output if named else "")
        op = first.node_operator() or (named.op if named else "")
        place = f"at node {name or index} ({op})" if op or name else "in the model"
        more = f"; {parser.num_errors - 1} more errors" if parser.num_errors > 1 else ""
        raise InputError(
            f"TensorRT's parser stopped {place}: {first_line(first.desc())}{more}; export the model again with this "
            "version, or use --backend onnxruntime"
        ) from error


def _configure(trt: Any, config: Any, options: TensorrtOptions, monitor: Any) -> None:
    config.progress_monitor = monitor
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for layers.json: types and names, at no cost in time
    flags = trt.BuilderFlag
    if not options.tf32:
        config.clear_flag(flags.TF32)  # on by default, where float32 would round its factors to 10 bits
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.refit:
        config.set_flag(flags.REFIT)
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
        # Without this the plan holds native code, which the runtime would have to execute out of the engine folder.
        config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)


def _add_profile(call: Calls, builder: Any, config: Any, profile: Profile) -> None:
    shapes = [(batch, 3, height, width) for batch, height, width in (profile.min, profile.opt, profile.max)]
    optimization = call("make a profile", builder.create_optimization_profile)
    call("set the profile's shapes", optimization.set_shape, INPUT, *shapes, returns=False)
    if call("add the profile", config.add_optimization_profile, optimization) < 0:
        low, _, high = ("x".join(map(str, shape)) for shape in shapes)
        raise InputError(
            f"TensorRT could not add the profile for {low} to {high} ({call.reason('it does not say why')}); "
            "export again with other --min, --opt and --max"
        )


def _advice(problem: str) -> str:
    if OUT_OF_MEMORY.search(problem):
        return "give it less with --workspace, build for a smaller --max, or free memory of the GPU"
    return "try another --optimization-level or size, or --backend onnxruntime"
