"""The criterion: its terms against float64 NumPy, its invariants, empty targets, resume, bad input.

pytest tests/train/test_loss.py
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime.command_line import InputError
from mask2edge.train.loss import SetCriterion, point_sampling
from mask2edge.train.loss import criterion as criterion_module
from mask2edge.train.loss.criterion import average_num_masks, dice_loss, mask_loss
from mask2edge.train.loss.point_sampling import uniform_points

CLASSES, QUERIES, CPU = 4, 6, torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def criterion(seed: int = 0, **changes) -> SetCriterion:
    return SetCriterion(CLASSES, **{"num_points": 64, "generator": seeded(seed), **changes})


def make(counts: list[int], auxiliary: int = 0, seed: int = 0):
    g = seeded(seed)

    def prediction():
        return {
            "class_logits": torch.randn(len(counts), QUERIES, CLASSES + 1, generator=g).requires_grad_(),
            "mask_logits": torch.randn(len(counts), QUERIES, 8, 8, generator=g).requires_grad_(),
        }

    outputs = {**prediction(), "auxiliary": [prediction() for _ in range(auxiliary)]}
    targets = [
        {
            "labels": torch.randint(0, CLASSES, (t,), generator=g),
            "masks": torch.rand(t, 32, 32, generator=g) > 0.5,
        }
        for t in counts
    ]
    return outputs, targets


@settings(max_examples=40, deadline=None)
@given(
    masks=st.integers(0, 4),
    points=st.integers(1, 50),
    scale=st.sampled_from([0.1, 3.0, 80.0]),
    seed=st.integers(0, 1000),
)
def test_mask_and_dice_against_float64_numpy(masks, points, scale, seed):
    g = seeded(seed)
    logits = scale * torch.randn(masks, points, generator=g)
    wanted = torch.rand(masks, points, generator=g)
    x, t = logits.double().numpy(), wanted.double().numpy()
    bce = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
    p = 1 / (1 + np.exp(-x))
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    assert mask_loss(logits, wanted).item() == pytest.approx(bce.mean(1).sum(), rel=1e-5, abs=1e-6)
    assert dice_loss(logits, wanted).item() == pytest.approx(dice.sum(), rel=1e-5, abs=1e-6)


def test_perfect_predictions_cost_next_to_nothing_and_wrong_ones_do_not():
    labels = torch.tensor([2, 0])
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :8], masks[1, 24:] = True, True  # no complements: negated logits must fit neither
    class_logits = torch.full((1, QUERIES, CLASSES + 1), -20.0)
    class_logits[0, :, CLASSES] = 20  # no object, but for the two below
    class_logits[0, :2, CLASSES] = -20
    class_logits[0, [0, 1], labels] = 20
    mask_logits = torch.full((1, QUERIES, 32, 32), -50.0)
    mask_logits[0, :2][masks] = 50
    targets = [{"labels": labels, "masks": masks}]
    # uniform points: importance sampling would seek out the border, where a hard edge is interpolated
    c = criterion(importance_sample_ratio=0.0, num_points=2000)
    losses = c({"class_logits": class_logits, "mask_logits": mask_logits}, targets)
    assert losses["class"] < 1e-6
    assert losses["dice"] < 0.05
    wrong = c({"class_logits": -class_logits, "mask_logits": -mask_logits}, targets)
    assert wrong["class"] > 5
    assert wrong["dice"] > 0.4
    assert wrong["mask"] > 10


def test_class_loss_is_the_weighted_mean():
    outputs, targets = make([2, 3])
    for no_object_weight in (0.1, 1.0):
        c = criterion(no_object_weight=no_object_weight)
        got = c(outputs, targets)["class"].item()
        generator = seeded()  # both images' points to match on come first
        indices = []
        for n, target in enumerate(targets):
            pair = (outputs["class_logits"][n], outputs["mask_logits"][n])
            indices += c.matcher([pair], target["labels"], target["masks"], uniform_points(1, 64, generator, CPU))
        log = torch.log_softmax(outputs["class_logits"].double(), -1).detach().numpy()
        loss = weight = 0.0
        for n, (i, j) in enumerate(indices):
            label = np.full(QUERIES, CLASSES)
            label[i] = targets[n]["labels"][j]
            for q in range(QUERIES):
                w = no_object_weight if label[q] == CLASSES else 1.0
                loss, weight = loss - w * log[n, q, label[q]], weight + w
        assert got == pytest.approx(loss / weight, rel=1e-5)


def test_total_weights_every_prediction_alike():
    c = criterion(class_weight=2.0, mask_weight=3.0, dice_weight=7.0)
    losses = c(*make([2, 1], auxiliary=2))
    assert list(losses) == ["class", "mask", "dice", "class_0", "mask_0", "dice_0", "class_1", "mask_1", "dice_1"]
    expected = sum({"class": 2, "mask": 3, "dice": 7}[k.split("_")[0]] * v.item() for k, v in losses.items())
    assert c.total(losses).item() == pytest.approx(expected, rel=1e-6)
    assert c.total(losses).shape == ()


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(QUERIES)), seed=st.integers(0, 99))
def test_the_order_of_queries_does_not_matter(order, seed):
    """On points that do not depend on the order: uniform ones, the same for every mask."""
    outputs, targets = make([3, 2], seed=seed)
    shuffled = {key: outputs[key][:, list(order)] for key in ("class_logits", "mask_logits")}
    with fixed_points():
        losses, other = criterion()(outputs, targets), criterion()(shuffled, targets)
    for name, value in losses.items():
        torch.testing.assert_close(other[name], value)


@contextlib.contextmanager
def fixed_points() -> Iterator[None]:
    """Within it every image and every mask is read at the same points."""
    points = torch.rand(1, 1000, 2, generator=seeded(77))

    def fixed(count, num_points, generator, device):
        return points[:, :num_points].expand(count, -1, -1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(criterion_module, "uniform_points", fixed)
        patch.setattr(point_sampling, "uniform_points", fixed)
        yield


def test_a_batch_equals_its_images():
    """Mask terms add up; the class term is a mean over the weights of all queries."""
    counts = [3, 0, 2]
    outputs, targets = make(counts)
    with fixed_points():
        together = criterion()(outputs, targets, num_masks=1.0)
        single = [
            criterion()(
                {k: outputs[k][n : n + 1] for k in ("class_logits", "mask_logits")}, [targets[n]], num_masks=1.0
            )
            for n in range(3)
        ]
    for name in ("mask", "dice"):
        torch.testing.assert_close(together[name], sum(each[name] for each in single))
    weights = torch.tensor([t + 0.1 * (QUERIES - t) for t in counts])
    torch.testing.assert_close(
        together["class"], (torch.stack([s["class"] for s in single]) * weights).sum() / weights.sum()
    )


def test_num_masks_divides_the_mask_terms_alone():
    outputs, targets = make([3, 2])
    mean = criterion()(outputs, targets)
    given_count = criterion()(outputs, targets, num_masks=10.0)
    torch.testing.assert_close(given_count["mask"] * 2, mean["mask"])
    torch.testing.assert_close(given_count["dice"] * 2, mean["dice"])
    torch.testing.assert_close(given_count["class"], mean["class"])


@pytest.mark.parametrize("counts", [[0, 0], [0, 3], [0], [9, 0]], ids=str)
def test_images_without_targets_are_finite_and_pass_gradient(counts):
    outputs, targets = make(counts, auxiliary=1)
    c = criterion()
    losses = c(outputs, targets)
    assert all(torch.isfinite(value) for value in losses.values())
    c.total(losses).backward()
    for prediction in (outputs, *outputs["auxiliary"]):
        # both have a gradient even where it is zero: DDP waits for every parameter
        assert prediction["class_logits"].grad.isfinite().all()
        assert prediction["mask_logits"].grad.isfinite().all()
        assert (prediction["class_logits"].grad != 0).any(dim=-1).all()
        for n, count in enumerate(counts):
            touched = (prediction["mask_logits"].grad[n].flatten(1) != 0).any(1).sum()
            assert touched == min(count, QUERIES)


def test_the_generator_state_resumes_exactly():
    outputs, targets = make([3, 2], auxiliary=2)
    c = criterion(seed=8)
    c(outputs, targets)
    state = c.generator.get_state()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    expected = c(outputs, targets)
    assert torch.equal(torch.get_rng_state(), before), "the global stream was used"
    resumed = criterion(seed=1)
    resumed.generator.set_state(state)
    got = resumed(outputs, targets)
    assert {k: v.item() for k, v in got.items()} == {k: v.item() for k, v in expected.items()}
    assert c(outputs, targets)["mask"].item() != expected["mask"].item()


def test_an_image_with_its_generator_does_not_depend_on_the_batch():
    """What makes a batch that is split over processes train as the whole."""
    counts = [3, 0, 2]
    outputs, targets = make(counts, auxiliary=2)
    together = criterion()(outputs, targets, 1.0, [seeded(n) for n in range(3)])

    def image(prediction, n):
        return {key: prediction[key][n : n + 1] for key in ("class_logits", "mask_logits")}

    single = []
    for n in range(3):
        alone = {**image(outputs, n), "auxiliary": [image(each, n) for each in outputs["auxiliary"]]}
        single.append(criterion()(alone, targets[n : n + 1], 1.0, [seeded(n)]))
    for name, value in together.items():
        if not name.startswith("class"):
            torch.testing.assert_close(value, sum(each[name] for each in single))


def test_generators_are_one_per_image():
    outputs, targets = make([2, 2])
    with pytest.raises(ValueError, match="expected one generator per image, 2, got 1"):
        criterion()(outputs, targets, generators=[seeded()])
    with pytest.raises(ValueError, match="expected generators, or a criterion that was made with a generator"):
        criterion(generator=None)(outputs, targets)


def test_loss_on_masks_against_float64_numpy():
    """All pixels of the targets, the logits interpolated to their size."""
    outputs, targets = make([3, 2])
    c = criterion(loss_on="masks", matching_on="masks")
    losses = c(outputs, targets)
    bce = dice = 0.0
    for n, target in enumerate(targets):
        pair = (outputs["class_logits"][n], outputs["mask_logits"][n])
        ((i, j),) = c.matcher([pair], target["labels"], target["masks"], None)
        for q, k in zip(i.tolist(), j.tolist(), strict=True):
            x = bilinear_resize(outputs["mask_logits"][n, q].detach().double().numpy(), 32)
            t = target["masks"][k].double().numpy()
            p = 1 / (1 + np.exp(-x))
            bce += -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
            dice += 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert losses["mask"].item() == pytest.approx(bce / 5, rel=1e-5)
    assert losses["dice"].item() == pytest.approx(dice / 5, rel=1e-5)


def bilinear_resize(image: np.ndarray, size: int) -> np.ndarray:
    """A square image at a larger size, pixel centres at half-integers, edges repeated."""
    place = np.clip((np.arange(size) + 0.5) * len(image) / size - 0.5, 0, len(image) - 1)
    first = np.minimum(place.astype(int), len(image) - 2)
    share = place - first
    rows = image[first] * (1 - share)[:, None] + image[first + 1] * share[:, None]
    return rows[:, first] * (1 - share) + rows[:, first + 1] * share


def test_autocast_and_half_logits_keep_the_loss_in_float32():
    outputs, targets = make([3, 2], auxiliary=1)
    plain = criterion()(outputs, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = criterion()(outputs, targets)
    for name, value in plain.items():
        assert mixed[name].dtype == torch.float32
        assert mixed[name].item() == value.item()

    def half(prediction):
        return {k: prediction[k].detach().bfloat16() for k in ("class_logits", "mask_logits")}

    # the same numbers as the float32 copies of the same half-precision logits
    low = {**half(outputs), "auxiliary": [half(p) for p in outputs["auxiliary"]]}
    high = {k: v.float() for k, v in half(outputs).items()}
    high["auxiliary"] = [{k: v.float() for k, v in half(p).items()} for p in outputs["auxiliary"]]
    low_losses, high_losses = criterion()(low, targets), criterion()(high, targets)
    assert {k: v.item() for k, v in low_losses.items()} == {k: v.item() for k, v in high_losses.items()}


def test_float_masks_are_read_like_bool_ones():
    outputs, targets = make([3, 2])
    floats = [{"labels": t["labels"], "masks": t["masks"].float()} for t in targets]
    assert {k: v.item() for k, v in criterion()(outputs, targets).items()} == {
        k: v.item() for k, v in criterion()(outputs, floats).items()
    }


def test_descent_on_the_loss_finds_the_targets():
    """Free logits, trained by the loss alone, end as the targets: one query each, the rest "no object"."""
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :12], masks[1, 12:, :16], masks[2, 12:, 16:] = True, True, True
    labels = torch.tensor([1, 3, 1])
    outputs = {
        "class_logits": torch.zeros(1, QUERIES, CLASSES + 1, requires_grad=True),
        "mask_logits": (0.1 * torch.randn(1, QUERIES, 16, 16, generator=seeded())).requires_grad_(),
    }
    c = criterion(num_points=128)
    optimizer = torch.optim.Adam(list(outputs.values()), lr=0.2)
    for _ in range(120):
        optimizer.zero_grad()
        c.total(c(outputs, [{"labels": labels, "masks": masks}])).backward()
        optimizer.step()
    found = outputs["class_logits"][0].argmax(-1)
    assert sorted(found.tolist()) == [1, 1, 3, 4, 4, 4]
    small = masks[:, ::2, ::2]
    for q in (found < CLASSES).nonzero().flatten().tolist():
        predicted = outputs["mask_logits"][0, q] > 0
        overlap = max(
            ((predicted & m).sum() / (predicted | m).sum()).item()
            for m, label in zip(small, labels, strict=True)
            if label == found[q]
        )
        assert overlap > 0.95


def test_the_mean_number_of_masks_is_at_least_one():
    assert average_num_masks(0, CPU).item() == 1
    assert average_num_masks(7, CPU).item() == 7


WORLD = """
import sys, torch, torch.distributed as dist
from mask2edge.train.loss.criterion import average_num_masks
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
cpu = torch.device("cpu")
print(average_num_masks([3, 6][rank], cpu).item(), average_num_masks([0, 1][rank], cpu).item())
dist.destroy_process_group()
"""


def test_the_number_of_masks_is_averaged_over_processes(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WORLD, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0].split() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert said == [["4.5", "1.0"], ["4.5", "1.0"]]


def _targets(**changes):
    return {"labels": torch.tensor([0, 1]), "masks": torch.zeros(2, 32, 32), **changes}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([_targets()], "targets: expected one per image, 2, got 1"),
        ([_targets(), _targets(labels=torch.tensor([0.0, 1.0]))], r"targets\[1\]: expected labels int64 \[T\], got"),
        ([_targets(labels=torch.tensor(0)), _targets()], r"targets\[0\]: expected labels int64 \[T\]"),
        ([_targets(masks=torch.zeros(3, 32, 32)), _targets()], r"with T = 2 as labels, got \[3, 32, 32\]"),
        ([_targets(masks=torch.zeros(32, 32)), _targets()], r"expected masks \[T, H, W\]"),
        ([_targets(), _targets(masks=torch.zeros(2, 32, 64))], r"expected masks of \[32, 32\].*pad every image"),
        ([_targets(), _targets(labels=torch.tensor([0, CLASSES]))], "expected labels 0 to 3, got 4; leave ignored"),
        ([_targets(), _targets(labels=torch.tensor([0, 255]))], "expected labels 0 to 3, got 255"),
        ([_targets(labels=torch.tensor([-1, 0])), _targets()], "expected labels 0 to 3, got -1"),
    ],
)
def test_bad_targets_are_refused(targets, message):
    outputs, _ = make([2, 2])
    with pytest.raises(InputError, match=message):
        criterion()(outputs, targets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 0}, "num_points: expected at least 1, got 0"),
        ({"importance_sample_ratio": 2.0}, "importance_sample_ratio: expected 0 to 1, got 2.0"),
        ({"importance_sample_ratio": -0.1}, "importance_sample_ratio: expected 0 to 1, got -0.1"),
        ({"oversample_ratio": 0.5}, "oversample_ratio: expected at least 1, got 0.5"),
        ({"oversample_ratio": float("nan")}, "oversample_ratio: expected at least 1, got nan"),
        ({"pilot_weight": -1.0}, "loss.pilot_weight: expected 0 or more, got -1.0"),
        ({"loss_on": "pixels"}, "loss.loss_on: expected points or masks, got 'pixels'"),
        ({"matching_on": ""}, "loss.matching_on: expected points or masks, got ''"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        criterion(**changes)


def test_no_classes_are_refused():
    with pytest.raises(InputError, match="num_classes: expected at least 1, got 0"):
        SetCriterion(0, generator=seeded())
