"""Where backend and checkpoint part is found: weights and graphs of a tiny network, changed on purpose."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("polygraphy")

from tiny_checkpoint import INNER, LAYERS, SIZE  # noqa: E402

from mask2edge.benchmarks.backends.comparison import Backend, Reference  # noqa: E402
from mask2edge.benchmarks.backends.differences import TOLERANCES, first_divergence  # noqa: E402
from mask2edge.benchmarks.backends.report import verdict  # noqa: E402
from mask2edge.benchmarks.backends.runners import OnnxRunner, SegmenterRunner  # noqa: E402
from mask2edge.benchmarks.backends.stages import is_mask, place, title  # noqa: E402
from mask2edge.benchmarks.timed_engine import noise  # noqa: E402
from mask2edge.export.stage_comparison import stage_names, with_stage_outputs  # noqa: E402
from mask2edge.runtime.spec import Profile  # noqa: E402
from mask2edge.train.checkpoint import load_model  # noqa: E402
from mask2edge.train.model.mask2former import build_model  # noqa: E402
from mask2edge.train.torch_session import torch_segmenter  # noqa: E402

FIXED = Profile.fixed(*SIZE)
RESULTS = ["class_logits", "mask_logits", "label_map"]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def graph(tiny_onnx):
    return onnx.load(tiny_onnx)


@pytest.fixture(scope="module")
def reference(loaded):
    model, checkpoint = loaded
    return Reference(model, checkpoint.spec, FIXED, noise(80, 120))


def changed(loaded, change):
    """The reference after change(model): what the graph was not made from."""
    model, checkpoint = loaded
    other = build_model(checkpoint.model_config)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        change(other)
    return Reference(other.eval(), checkpoint.spec, FIXED, noise(80, 120))


def compared(reference, graph):
    runner = OnnxRunner("graph", lambda: graph, reference.pixels.shape)
    return reference.compare(Backend("graph", "a graph", runner), TOLERANCES["fp32"])


@pytest.mark.parametrize(
    ("part", "stage"),
    [
        (lambda model: model.backbone.stages[4][0].project.conv, "backbone.res4"),
        (lambda model: model.pixel_decoder.layers[0].linear2, "pixel_decoder.level32"),
        (lambda model: model.pixel_decoder.lateral.conv, "pixel_decoder.fine"),
        (lambda model: model.mask_decoder.layers[1].linear2, "decoder.1.queries"),
        (lambda model: model.mask_decoder.mask_head[0], "decoder.0.mask_logits"),
        (lambda model: model.mask_decoder.class_head, "class_logits"),
    ],
)
def test_a_wrong_weight_is_the_first_divergence(loaded, graph, part, stage):
    def change(model):
        weight = part(model).weight
        weight.mul_(1 + 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))

    outcome = compared(changed(loaded, change), graph)
    first = first_divergence(outcome.differences)
    assert first is not None
    assert first.stage == stage
    earlier = [one for one in outcome.differences if place(one.stage) < place(stage)]
    assert all(one.relative_l2 < 1e-5 for one in earlier)
    assert verdict(outcome.differences).startswith(f"first divergence: {title(stage)}, ")


@pytest.mark.parametrize("stage", [name for name in INNER if not name.endswith(("prediction", "mask_features"))])
def test_each_stage_is_named_where_it_goes_wrong(reference, graph, stage):
    outcome = compared(reference, scaled(graph, stage))
    assert first_divergence(outcome.differences).stage == stage


def scaled(graph, stage):
    """A copy whose tensor `stage` is 2 % too large."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    index, node = next((i, n) for i, n in enumerate(copy.graph.node) if stage in n.output)
    node.output[list(node.output).index(stage)] = "right"
    copy.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.02), "factor"))
    copy.graph.node.insert(index + 1, onnx.helper.make_node("Mul", ["right", "factor"], [stage]))
    return copy


def test_flips_are_what_numpy_counts(loaded, graph):
    reference = changed(loaded, lambda model: model.pixel_decoder.mask_features.bias.add_(0.05))
    outcome = compared(reference, graph)
    # ONNX Runtime by itself, without our runners.
    session = onnxruntime.InferenceSession(with_stage_outputs(graph).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"pixels": reference.pixels}), strict=True))
    counted = {one.stage: (one.flips, one.of) for one in outcome.differences if one.flips is not None}
    assert {"mask_logits", *(f"decoder.{layer}.mask_logits" for layer in range(LAYERS))} < set(counted)
    for stage in (name for name in counted if name in found):
        signs = np.signbit(found[stage]), np.signbit(reference.stages[stage])
        assert counted[stage] == (int((signs[0] ^ signs[1]).sum()), found[stage].size), stage
    assert sum(flips for flips, _ in counted.values()) > 0
    assert all(one.flips is None for one in outcome.differences if not is_mask(one.stage) and one.stage != "label_map")


@pytest.mark.parametrize("query_features", ["supervised", "guided"])
def test_predictions_of_inner_layers_are_the_models_own(loaded, query_features):
    _, checkpoint = loaded
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(checkpoint.model_config, query_features=query_features)).eval()
    reference = Reference(model, checkpoint.spec, FIXED, noise(80, 120))
    assert ("decoder.proposal_logits" in reference.stages) == (query_features == "guided")
    assert sorted(reference.stages, key=place)
    with torch.no_grad():
        auxiliary = model(torch.from_numpy(reference.pixels))["auxiliary"][1:]  # without the learned queries'
    assert len(auxiliary) == LAYERS - 1
    for layer, prediction in enumerate(auxiliary):
        for name, key in (("class_prediction", "class_logits"), ("mask_prediction", "mask_logits")):
            np.testing.assert_allclose(
                reference.stages[f"decoder.{layer}.{name}"], prediction[key].numpy(), rtol=1e-4, atol=1e-4
            )


def test_a_graph_that_does_not_load_is_one_line(reference, graph):
    damaged = onnx.ModelProto()
    damaged.CopyFrom(graph)
    damaged.graph.node[0].op_type = "NoSuchOperator"
    outcome = compared(reference, damaged)
    assert outcome.not_run.startswith("graph: ONNX Runtime cannot load the graph (")
    assert "\n" not in outcome.not_run


def test_every_stage_of_a_graph_has_a_place_and_a_title(graph):
    names = [*stage_names(graph), "class_logits", "mask_logits"]
    assert sorted(names, key=place) == sorted(names, key=[*INNER, *RESULTS].index)
    assert len(set(map(title, names))) == len(names)
    for wrong in ("decoder.x.queries", "encoder", "backbone.res9", "decoder.1.nonsense"):
        with pytest.raises(ValueError, match="expected the name of a stage"):
            place(wrong)


def test_an_engines_runner_closes_what_it_opened(loaded):
    model, checkpoint = loaded
    events = []

    @contextmanager
    def opened():
        yield torch_segmenter(model, checkpoint.spec, FIXED)
        events.append("closed")

    with SegmenterRunner("torch", opened, (1, 3, *SIZE)) as runner:
        runner.infer({"pixels": np.zeros((1, 3, *SIZE), np.float32)})
        assert events == []
    assert events == ["closed"]
