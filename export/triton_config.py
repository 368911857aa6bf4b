"""config.pbtxt of Triton's models: our network's tensors, batches, instances and warm-up, as text protobuf.

    (folder / "config.pbtxt").write_text(text(segmentation_config("street", spec, options)))

The messages are plain dictionaries with the fields of Triton's model_config.proto; `text` writes them. A test parses
what comes out with that proto itself. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session import INPUT, OUTPUTS
from mask2edge.runtime.spec import MASK_STRIDE, EngineSpec
from mask2edge.runtime.triton_names import (
    GEOMETRY,
    IMAGE,
    LABEL_MAP,
    SEGMENTS,
    TASK,
    TASK_PARAMETER,
    THREADS_PARAMETER,
)

WARMUP_FILE = "image"  # in the model's folder warmup/
CLASS_LOGITS, MASK_LOGITS = OUTPUTS
Message = dict[str, Any]


class Word(str):
    """A value that stands without quotes: one of an enumeration."""


@dataclass(frozen=True)
class ServingOptions:
    """What the engine does not say."""

    task: str
    max_batch: int  # requests that the network gets together at most
    max_delay_us: int = 2000  # how long the first of a batch waits for others
    max_queue: int = 256  # requests that wait at most; those beyond are refused at once
    instances: int = 1  # of each model, on each device
    gpu: bool = False
    threads: int = 0  # of one instance on the CPU; 0: as many as it may use


def segmentation_config(name: str, spec: EngineSpec, options: ServingOptions) -> Message:
    """Image files to label maps and segments, with our runtime around any engine."""
    image = {"data_type": Word("TYPE_STRING"), "dims": [1], "input_data_file": WARMUP_FILE}
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": options.max_batch,
        **_queue(spec, options),
        "input": [_tensor(IMAGE, "STRING", 1), {**_tensor(TASK, "STRING", 1), "optional": True}],
        "output": [_tensor(LABEL_MAP, "INT32", -1, -1), _tensor(SEGMENTS, "STRING", 1)],
        **_versions(),
        "instance_group": [_instances(options.instances, options.gpu)],
        "parameters": _parameters(options),
        "model_warmup": [_warmup(size, IMAGE, image) for size in sorted({1, options.max_batch})],
    }


def preprocess_config(name: str, spec: EngineSpec, options: ServingOptions) -> Message:
    """Image files to the network's pixels, on the CPU."""
    _, height, width = _network_dims(spec)
    return {
        "name": name,
        "backend": "python",
        **_batch(spec, options),
        "input": [_tensor(IMAGE, "STRING", *_lead(spec), 1)],
        "output": [
            _tensor(INPUT, "FP32", *_lead(spec), 3, height, width),
            _tensor(GEOMETRY, "INT32", *_lead(spec), 4),
        ],
        **_versions(),
        "instance_group": [_instances(options.instances, gpu=False)],
        "parameters": _parameters(options),
    }


def network_config(name: str, spec: EngineSpec, options: ServingOptions) -> Message:
    """The plan in Triton's own TensorRT backend: pixels to logits."""
    _, height, width = _network_dims(spec)
    queries, classes = spec.model.num_queries, spec.model.num_classes + 1
    pixels = {"data_type": Word("TYPE_FP32"), "dims": [*_lead(spec), 3, *spec.profile.opt[1:]], "zero_data": True}
    sizes = [0] if _lead(spec) else sorted({1, options.max_batch})  # 0: the batch is one of the dimensions
    masks = [length if length < 0 else length // MASK_STRIDE for length in (height, width)]
    return {
        "name": name,
        "platform": "tensorrt_plan",
        "default_model_filename": "model.plan",
        **_batch(spec, options),
        "input": [_tensor(INPUT, "FP32", *_lead(spec), 3, height, width)],
        "output": [
            _tensor(CLASS_LOGITS, "FP32", *_lead(spec), queries, classes),
            _tensor(MASK_LOGITS, "FP32", *_lead(spec), queries, *masks),
        ],
        **_versions(),
        "instance_group": [_instances(options.instances, gpu=True)],
        "model_warmup": [_warmup(size, INPUT, pixels) for size in sizes],
    }


def postprocess_config(name: str, spec: EngineSpec, options: ServingOptions) -> Message:
    """Logits and geometry to label maps and segments, on the CPU."""
    network = network_config(name, spec, options)
    return {
        "name": name,
        "backend": "python",
        **_batch(spec, options),
        "input": [*network["output"], _tensor(GEOMETRY, "INT32", *_lead(spec), 4)],
        "output": _results(spec),
        **_versions(),
        "instance_group": [_instances(options.instances, gpu=False)],
        "parameters": _parameters(options),
    }


def ensemble_config(name: str, parts: tuple[str, str, str], spec: EngineSpec, options: ServingOptions) -> Message:
    """Image files to label maps and segments through `parts`: preprocess, network, postprocess."""
    preprocess, network, postprocess = parts
    results = {tensor: tensor for tensor in (LABEL_MAP, SEGMENTS)}
    logits = {tensor: tensor for tensor in OUTPUTS}
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": _batch(spec, options)["max_batch_size"],
        "input": [_tensor(IMAGE, "STRING", *_lead(spec), 1)],
        "output": _results(spec),
        **_versions(),
        "ensemble_scheduling": {
            "step": [
                _step(preprocess, {IMAGE: IMAGE}, {INPUT: INPUT, GEOMETRY: GEOMETRY}),
                _step(network, {INPUT: INPUT}, logits),
                _step(postprocess, {**logits, GEOMETRY: GEOMETRY}, results),
            ]
        },
    }


def text(message: Mapping[str, Any], indent: str = "") -> str:
    """Text protobuf: lists are repeated fields, dictionaries are messages, and a `Word` stands without quotes."""
    lines = []
    for key, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{key} {{\n{text(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_scalar(one)}\n")
    return "".join(lines)


def require_batch_of_one(spec: EngineSpec) -> None:
    """Raises InputError where a plan takes no single image and no fixed number of them: Triton cannot fill it up."""
    low, high = spec.profile.min[0], spec.profile.max[0]
    if 1 < low < high:
        raise InputError(
            f"the plan takes {low} to {high} images, and Triton's batches begin with one; build it with --min 1xHxW, "
            "or leave the ensemble out with --only-model"
        )


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return str(value)
    return json.dumps(value)  # true, numbers, and quoted text with escapes that protobuf reads as well


def _tensor(name: str, kind: str, *dims: int) -> Message:
    return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": list(dims)}


def _results(spec: EngineSpec) -> list[Message]:
    return [_tensor(LABEL_MAP, "INT32", *_lead(spec), -1, -1), _tensor(SEGMENTS, "STRING", *_lead(spec), 1)]


def _lead(spec: EngineSpec) -> list[int]:
    """The batch among the dimensions: Triton batches only plans whose first dimension is free."""
    low, high = spec.profile.min[0], spec.profile.max[0]
    return [low] if low == high else []


def _network_dims(spec: EngineSpec) -> tuple[int, int, int]:
    low, high = spec.profile.min, spec.profile.max
    free = [most if least == most else -1 for least, most in zip(low, high, strict=True)]
    return free[0], free[1], free[2]


def _batch(spec: EngineSpec, options: ServingOptions) -> Message:
    if _lead(spec):
        return {"max_batch_size": 0}
    return {"max_batch_size": options.max_batch, **_queue(spec, options)}


def _queue(spec: EngineSpec, options: ServingOptions) -> Message:
    best = spec.profile.opt[0]
    preferred = {"preferred_batch_size": [best]} if 1 < best <= options.max_batch else {}
    return {
        "dynamic_batching": {
            **preferred,
            "max_queue_delay_microseconds": options.max_delay_us,
            "default_queue_policy": {"max_queue_size": options.max_queue},
        }
    }


def _versions() -> Message:
    return {"version_policy": {"latest": {"num_versions": 1}}}


def _instances(count: int, gpu: bool) -> Message:
    return {"count": count, "kind": Word("KIND_GPU" if gpu else "KIND_CPU")}


def _parameters(options: ServingOptions) -> list[Message]:
    values = {TASK_PARAMETER: options.task, THREADS_PARAMETER: str(options.threads)}
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _warmup(size: int, tensor: str, data: Message) -> Message:
    return {"name": f"batch of {size}", "batch_size": size, "inputs": [{"key": tensor, "value": data}]}


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Message:
    def pairs(tensors: Mapping[str, str]) -> list[Message]:
        return [{"key": key, "value": value} for key, value in tensors.items()]

    return {"model_name": model, "model_version": -1, "input_map": pairs(inputs), "output_map": pairs(outputs)}
