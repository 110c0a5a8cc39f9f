from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, kstest
from torch import Tensor, nn

from dm2at_ray.algorithm.acquisition import STRATEGIES, Candidates, Strategy, make_strategy
from dm2at_ray.algorithm.counter_rng import Stream, uniform

N, K, D, C = 12, 3, 5, 4


class TinyClassifier(nn.Module):
    """Images (N, 1, 2, 3) to features (N, 5) to logits (N, 4); notes the batch shapes it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(6, D), nn.Tanh())
        self.head = nn.Linear(D, C)
        self.shapes: list[tuple[int, ...]] = []
        self.head.register_forward_pre_hook(lambda _, args: self.shapes.append(tuple(args[0].shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture
def model() -> TinyClassifier:
    torch.manual_seed(0)
    return TinyClassifier().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(N, 1, 2, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def neighbor_rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, N, (N, K))


@pytest.fixture
def candidates(model: TinyClassifier, images: Tensor, neighbor_rows: np.ndarray) -> Candidates:
    """Everything a strategy may ask for: float16 features as they travel, neighbours within the batch."""
    with torch.no_grad():
        features = model.body(images).half()
    return Candidates(
        seed=4,
        round_index=2,
        sample_ids=np.arange(N) * 1000,
        features=features,
        images=images,
        neighbor_features=features[neighbor_rows],
        neighbor_images=lambda rank: images[neighbor_rows[:, rank]],
    )


def make(name: str = "dm2_at", **changes) -> Strategy:
    return make_strategy(
        name, **{"measure": "entropy", "aggregate": "mean", "alpha": 1.0, "space": "feature", **changes}
    )


def slow_dm2_at(weight: np.ndarray, bias: np.ndarray, features: np.ndarray, neighbors: np.ndarray) -> list:
    """Mean entropy of the head over mixtures in float64, one mixture at a time; α is 1, so μ = u."""
    mu = uniform(4, 2, Stream.MIXUP, np.arange(N) * 1000, K)
    scores = []
    for i in range(N):
        mixtures = [mu[i, j] * features[i] + (1 - mu[i, j]) * neighbors[i, j] for j in range(K)]
        scores.append(np.mean([entropy(softmax(weight @ mixture + bias)) for mixture in mixtures]))
    return scores


def test_dm2_at__feature_space_agrees_with_a_float64_loop(
    model: TinyClassifier, candidates: Candidates
) -> None:
    scores = make().score(model, replace(candidates, images=None, neighbor_images=None))

    weight, bias = (p.detach().double().numpy() for p in (model.head.weight, model.head.bias))
    expected = slow_dm2_at(
        weight, bias, candidates.features.double().numpy(), candidates.neighbor_features.double().numpy()
    )
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_dm2_at__input_space_agrees_with_a_float64_loop(
    model: TinyClassifier, images: Tensor, neighbor_rows: np.ndarray
) -> None:
    # A linear model: mixing images and mixing logits are then the same, and the loop above serves.
    model.body = nn.Sequential(nn.Flatten(), nn.Linear(6, D))
    candidates = Candidates(
        seed=4,
        round_index=2,
        sample_ids=np.arange(N) * 1000,
        images=images,
        neighbor_images=lambda rank: images[neighbor_rows[:, rank]],
        neighbor_count=K,
    )

    scores = make(space="input").score(model, candidates)

    weight, bias = (p.detach().double().numpy() for p in (model.head.weight, model.head.bias))
    body = model.body[1]
    inner, offset = body.weight.detach().double().numpy(), body.bias.detach().double().numpy()
    pixels = images.double().flatten(1).numpy()
    expected = slow_dm2_at(weight @ inner, weight @ offset + bias, pixels, pixels[neighbor_rows])
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("space", ["feature", "input"])
def test_dm2_at__one_rank_at_a_time(model: TinyClassifier, candidates: Candidates, space: str) -> None:
    make(space=space).score(model, candidates)

    assert model.shapes == [(N, D)] * K


@pytest.mark.parametrize("space", ["feature", "input"])
def test_dm2_at__mixed_with_itself_is_plain_uncertainty(
    model: TinyClassifier, candidates: Candidates, space: str
) -> None:
    own = replace(
        candidates,
        features=candidates.features.float(),
        neighbor_features=candidates.features.float()[:, None].expand(-1, K, -1),
        neighbor_images=lambda rank: candidates.images,
    )

    for aggregate in ("mean", "max", "mean_prediction"):
        scores = make(space=space, measure="margin", aggregate=aggregate).score(model, own)
        torch.testing.assert_close(scores, make("margin").score(model, own), atol=1e-3, rtol=0)


def test_dm2_at__alone_in_the_pool(model: TinyClassifier, candidates: Candidates) -> None:
    lonely = replace(candidates, neighbor_features=candidates.neighbor_features[:, :0])

    assert torch.equal(make().score(model, lonely), make("entropy").score(model, lonely))


def test_dm2_at__coefficients_change_with_the_round_and_the_seed(
    model: TinyClassifier, candidates: Candidates
) -> None:
    scores = make().score(model, candidates)

    assert not torch.equal(make().score(model, replace(candidates, round_index=3)), scores)
    assert not torch.equal(make().score(model, replace(candidates, seed=5)), scores)


@pytest.mark.parametrize(
    ("space", "missing"),
    [("feature", "features"), ("input", "images"), ("input", "neighbor_images")],
)
def test_dm2_at__says_what_is_missing(
    model: TinyClassifier, candidates: Candidates, space: str, missing: str
) -> None:
    with pytest.raises(ValueError, match=f"{space}s"):
        make(space=space).score(model, replace(candidates, **{missing: None}))


def test_dm2_at__forgotten_neighbours_are_not_taken_for_none(
    model: TinyClassifier, candidates: Candidates
) -> None:
    with pytest.raises(ValueError, match="carry no neighbours"):
        make().score(model, replace(candidates, neighbor_features=None))


@pytest.mark.parametrize("name", ["entropy", "least_confidence", "margin"])
def test_uncertainty__of_the_unmixed_sample(model: TinyClassifier, candidates: Candidates, name: str) -> None:
    logits = model.head(candidates.features.float()).detach().double().numpy()
    probabilities = softmax(logits, axis=1)
    lowest_first = np.sort(probabilities, axis=1)
    expected = {
        "entropy": entropy(probabilities, axis=1),
        "least_confidence": 1 - lowest_first[:, -1],
        "margin": 1 - lowest_first[:, -1] + lowest_first[:, -2],
    }

    np.testing.assert_allclose(make(name).score(model, candidates), expected[name], atol=1e-6)


def test_random__needs_ids_only() -> None:
    candidates = Candidates(seed=0, round_index=1, sample_ids=np.arange(5000))

    scores = make("random").score(None, candidates).numpy()

    assert kstest(scores, "uniform").pvalue > 0.01
    np.testing.assert_allclose(scores, uniform(0, 1, Stream.ACQUISITION, np.arange(5000), 1)[:, 0], rtol=1e-7)
    later = make("random").score(None, replace(candidates, round_index=2)).numpy()
    assert abs(np.corrcoef(scores, later)[0, 1]) < 0.05


every_strategy = pytest.mark.parametrize(
    "strategy",
    [make(name) for name in STRATEGIES] + [make(space="input")],
    ids=[*STRATEGIES, "dm2_at input"],
)


@every_strategy
def test_strategies__scores_do_not_depend_on_the_rest_of_the_batch(
    model: TinyClassifier, candidates: Candidates, strategy: Strategy
) -> None:
    together = strategy.score(model, candidates)

    assert (together.shape, together.dtype) == ((N,), torch.float32)
    assert not together.requires_grad
    for rows in ([7, 2, 11], [4]):
        part = replace(
            candidates,
            sample_ids=candidates.sample_ids[rows],
            features=candidates.features[rows],
            images=candidates.images[rows],
            neighbor_features=candidates.neighbor_features[rows],
            neighbor_images=lambda rank, rows=rows: candidates.neighbor_images(rank)[rows],
        )
        torch.testing.assert_close(strategy.score(model, part), together[rows], atol=1e-6, rtol=0)


@every_strategy
def test_strategies__read_only_what_they_ask_for(
    model: TinyClassifier, candidates: Candidates, strategy: Strategy
) -> None:
    least = replace(
        candidates,
        features=candidates.features if strategy.needs_features else None,
        images=candidates.images if strategy.needs_images else None,
        neighbor_features=(
            candidates.neighbor_features if strategy.needs_neighbors and strategy.needs_features else None
        ),
        neighbor_images=candidates.neighbor_images if strategy.needs_images else None,
        neighbor_count=K if strategy.needs_neighbors else None,
    )

    assert torch.equal(strategy.score(model, least), strategy.score(model, candidates))


def test_make_strategy__by_name() -> None:
    for name in STRATEGIES:
        assert make(name).name == name
    with pytest.raises(ValueError, match="unknown strategy 'bald': choose one of dm2_at, random"):
        make("bald")
