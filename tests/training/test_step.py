from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.algorithm.counter_rng import uniform
from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.batch import Batch, load_batch
from dm2at_ray.training.ema import WeightAverage
from dm2at_ray.training.optimizer import make_optimizer
from dm2at_ray.training.passes import Passes
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.step import train_step

MakeModel = Callable[..., nn.Module]
MakeLabeled = Callable[..., LabeledSet]
EPSILON = 0.1
PLACE: dict[str, Any] = {"seed": 0, "round_index": 1, "epoch": 2}


def load(labeled: LabeledSet, share: list[int], settings: TrainSettings) -> Batch:
    return load_batch(
        PlacedSet(labeled, torch.device("cpu")), np.array(share, dtype=np.int64), 1, settings, **PLACE
    )


def to_pixels(image: np.ndarray) -> Tensor:  # (H, W, C) to (1, C, H, W)
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]


def loss_by_hand(model: nn.Module, labeled: LabeledSet, rows: list[int], settings: TrainSettings) -> Tensor:
    """λ ℓ(f(x), y) + (1 − λ) ℓ(f(x_adv), y), one sample and one image at a time."""
    losses = []
    for row in rows:
        label = torch.tensor([int(labeled.labels[row])])
        image = to_pixels(labeled.images[row])
        adversaries = []
        if settings.adversaries != "fresh" and labeled.twin_mask()[row]:
            assert labeled.twins is not None
            adversaries.append(to_pixels(labeled.twins[row]))
        if settings.adversaries != "stored":
            point = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), label), point)
            adversaries.append((image + EPSILON * gradient.sign()).clamp(0, 1))
        clean = F.cross_entropy(model(image), label)
        attacked = [F.cross_entropy(model(adversary), label) for adversary in adversaries]
        if attacked:
            weight = settings.clean_weight
            losses.append(weight * clean + (1 - weight) * sum(attacked) / len(attacked))
        else:
            losses.append(clean)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("rows", [[4, 0, 7, 3, 8], [4, 0, 8], [7, 3]], ids=["some", "twins", "none"])
@pytest.mark.parametrize("adversaries", ["stored", "fresh", "both"])
@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
def test_train_step__gradients_agree_with_a_loop_over_samples(
    rows: list[int],
    adversaries: Any,
    clean_weight: float,
    make_model: MakeModel,
    make_labeled: MakeLabeled,
) -> None:
    """Of a batch where some, all or none of the samples have a twin."""
    labeled = make_labeled(9, twins="half")
    settings = TrainSettings(
        adversaries=adversaries, clean_weight=clean_weight, attack="fgsm", epsilon=EPSILON
    )
    reference = make_model()
    expected = loss_by_hand(reference, labeled, rows, settings)
    expected.backward()

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batch = load(labeled, rows, settings)
    sums = train_step(model, model, optimizer, batch, settings, global_count=len(rows))

    assert sums[6].item() / len(rows) == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        torch.testing.assert_close(ours.detach(), (theirs - 0.5 * theirs.grad).detach())  # type: ignore[operator]


def test_train_step__shares_of_unequal_size_average_to_the_global_gradient(
    make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    labeled = make_labeled(9, twins="half")
    settings = TrainSettings(adversaries="both", attack="fgsm", epsilon=EPSILON)
    reference = make_model()
    loss_by_hand(reference, labeled, [4, 0, 7], settings).backward()

    gradients = []
    for share in ([4, 0], [7], []):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        batch = load(labeled, share, settings)
        train_step(model, model, optimizer, batch, settings, global_count=3, world_size=3)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all((gradient == 0).all() for gradient in gradients[2])  # type: ignore[union-attr]
    for parameter, parts in zip(reference.parameters(), zip(*gradients, strict=True), strict=True):
        torch.testing.assert_close(sum(parts) / 3, parameter.grad)


@pytest.mark.parametrize(
    ("adversaries", "clean_weight", "expected"),
    [
        ("fresh", 1.0, 4),  # clean only
        ("fresh", 0.5, 8),
        ("fresh", 0.0, 4),  # adversarial only
        ("stored", 0.5, 6),  # rows 0 and 2 have a twin
        ("stored", 0.0, 4),  # two twins, two clean images without one
        ("both", 0.5, 10),
        ("both", 0.0, 6),
    ],
)
def test_train_step__one_joint_forward_pass_of_what_counts(
    adversaries: Any, clean_weight: float, expected: int, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    settings = TrainSettings(adversaries=adversaries, clean_weight=clean_weight)
    model = make_model(batch_norm=True).train()
    sizes: list[int] = []
    model.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(inputs[0])) if module.training else None
    )
    batch = load(make_labeled(4, twins="half"), [0, 1, 2, 3], settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sums = train_step(model, model, optimizer, batch, settings, global_count=4)
    assert sizes == [expected]
    assert sums[2] + sums[5] == expected
    assert sums[7] == 4


def test_joint__sums_by_hand() -> None:
    linear = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0], [4.0]]))  # pixel p: logits (0, 4 p)
    confident = nn.Sequential(nn.Flatten(), linear)
    batch = Batch(
        images=torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1),
        labels=torch.tensor([1, 1, 0]),
        weights=torch.tensor([1.0, 1.0, 0.0]),
        samples=2,
        clean_rows=torch.arange(3),
        twins=torch.zeros(1, 1, 1, 1),
        twin_rows=torch.tensor([0]),
        start_keys=torch.zeros(3, dtype=torch.int64),
        fresh=False,
    )
    settings = TrainSettings(clean_weight=0.25, adversaries="stored")
    losses = Passes(confident, batch, settings, scale=1.0, workers=1).joint(batch.images[:0])
    even, sure = np.log(2), np.log1p(np.exp(-4))  # cross-entropy of logits (0, 0) and of (0, 4) for class 1
    total = (0.25 * sure + 0.75 * even) + even
    assert losses.total.item() == pytest.approx(total / 2, rel=1e-5)
    # Equal logits count as class 0, so the second image and the twin are misses.
    assert losses.sums.tolist() == pytest.approx([sure + even, 1, 2, even, 0, 1], rel=1e-5)


@pytest.mark.parametrize("passes", ["joint", "two"])
def test_passes__sums_by_hand_where_every_sample_counts(passes: str) -> None:
    linear = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0], [4.0]]))  # pixel p: logits (0, 4 p)
    confident = nn.Sequential(nn.Flatten(), linear)
    batch = Batch(
        images=torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1),
        labels=torch.tensor([1, 1]),
        weights=torch.ones(2),
        samples=2,
        clean_rows=torch.arange(2),
        twins=torch.zeros(0, 1, 1, 1),
        twin_rows=torch.arange(0),
        start_keys=torch.arange(0),
        fresh=True,
    )
    settings = TrainSettings(clean_weight=0.25)
    step = getattr(Passes(confident, batch, settings, scale=3.0, workers=1), passes)
    losses = step(torch.tensor([0.5, 1.0]).reshape(2, 1, 1, 1))
    even, half, sure = np.log(2), np.log1p(np.exp(-2)), np.log1p(np.exp(-4))
    assert losses.total.item() == pytest.approx((0.25 * (sure + even) + 0.75 * (half + sure)) / 2, rel=1e-5)
    assert losses.sums.tolist() == pytest.approx([sure + even, 1, 2, half + sure, 2, 2], rel=1e-5)
    # Of the loss of label 1 in the second weight: -pixel times the probability of label 0.
    slopes = {pixel: -pixel / (1 + np.exp(4 * pixel)) for pixel in (0.0, 0.5, 1.0)}
    slope = (0.25 * (slopes[1.0] + slopes[0.0]) + 0.75 * (slopes[0.5] + slopes[1.0])) / 2
    assert linear.weight.grad is not None
    assert linear.weight.grad.flatten().tolist() == pytest.approx([-3 * slope, 3 * slope], rel=1e-5)


@pytest.mark.parametrize(
    ("chosen", "draws"),
    [
        ({"attack": "fgsm"}, 0),
        ({"attack": "fgsm", "grad_align": 0.2}, 1),
        ({"attack": "rs_fgsm"}, 1),
        ({"attack": "n_fgsm", "adversaries": "both"}, 1),
        ({"attack": "pgd", "adversaries": "stored"}, 0),
        ({"attack": "pgd", "clean_weight": 1.0}, 0),
        ({"attack": "rs_fgsm", "augment": "shift"}, 2),
    ],
)
def test_train_step__draws_no_more_than_it_uses(
    chosen: Any,
    draws: int,
    make_model: MakeModel,
    make_labeled: MakeLabeled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def counted(*arguments: Any) -> Any:
        drawn.append(arguments)
        return uniform(*arguments)

    monkeypatch.setattr("dm2at_ray.training.draws.uniform", counted)
    settings = TrainSettings(**chosen)
    model = make_model()
    batch = load(make_labeled(6, twins="half"), [5, 2, 0], settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    train_step(model, model, optimizer, batch, settings, global_count=3)
    assert len(drawn) == draws


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"precision": "bf16", "augment": "flip_shift"},
        {"attack": "fgsm", "attack_mode": "train", "passes": "shared"},
        {"attack": "pgd", "adversaries": "both", "grad_align": 0.1},
        {"attack": "n_fgsm", "attack_mode": "train", "passes": "two"},
    ],
)
def test_train_step__never_waits_for_the_device(
    chosen: Any, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    """A host that waits in a step has nothing ready for the device when the step is done."""
    labeled, settings = make_labeled(40, twins="half"), TrainSettings(**chosen)
    model = make_model(batch_norm=True).cuda().train()
    optimizer, average = make_optimizer(model, settings), WeightAverage(model, 0.9)
    placed = PlacedSet(labeled, torch.device("cuda", torch.cuda.current_device()))
    for mode in ("default", "error"):  # the first step sets libraries up, and may wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            batch = load_batch(placed, np.arange(40), 0, settings, **PLACE)
            sums = train_step(model, model, optimizer, batch, settings, global_count=40)
            average.update(model)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sums[7] == 40


def test_load_batch__a_twin_moves_as_its_image_does(make_labeled: MakeLabeled) -> None:
    labeled = make_labeled(6)
    twinned = LabeledSet(labeled.sample_ids, labeled.images, labeled.labels, labeled.images)
    batch = load(twinned, [5, 2, 0], TrainSettings(adversaries="stored", augment="flip_shift"))
    assert torch.equal(batch.images, batch.twins)
    still = load(twinned, [5, 2, 0], TrainSettings(adversaries="stored"))
    assert not torch.equal(batch.images, still.images)
    assert torch.equal(still.images[1:2], to_pixels(labeled.images[2]))
