import numpy as np
import pytest
from scipy import stats

from dm2at_ray.algorithm.counter_rng import Stream, philox4x32, uniform


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 on Python integers, one counter at a time, as the paper's figure has it."""
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


# Rows "philox4x32 10" of tests/kat_vectors in Random123 1.14.0: counter, key, words.
KNOWN_ANSWERS = {
    "zeros": ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS)
def test_philox4x32__random123_known_answers(counter: str, key: str, answer: str) -> None:
    assert philox4x32(words(counter), words(key)).tolist() == words(answer).tolist()


def test_philox4x32__many_counters_at_once() -> None:
    counters = np.stack([words(counter) for counter, _, _ in KNOWN_ANSWERS.values()])

    batched = philox4x32(counters.reshape(3, 1, 4), words("a4093822 299f31d0"))

    assert batched.shape == (3, 1, 4)
    for counter, row in zip(counters, batched[:, 0], strict=True):
        assert row.tolist() == scalar_philox(counter.tolist(), [0xA4093822, 0x299F31D0])


def test_uniform__is_philox_of_the_documented_counter() -> None:
    seed, sample_id = 0x0123456789ABCDEF, 0x00000005_80000003

    draws = uniform(seed, 9, Stream.ATTACK, np.array([sample_id]), count=4)

    expected = []
    for block in range(2):
        first, second, third, fourth = scalar_philox(
            [0x80000003, 0x00000005, block, 9 << 8 | 3], [0x89ABCDEF, 0x01234567]
        )
        expected += [
            (first * 2**20 + second // 2**12 + 0.5) / 2**52,
            (third * 2**20 + fourth // 2**12 + 0.5) / 2**52,
        ]
    assert draws.tolist() == [expected]


def test_uniform__does_not_depend_on_the_batch() -> None:
    # More draws than are computed at once, in rows and in columns.
    ids = np.random.default_rng(0).permutation(3000)
    long = uniform(1, 2, Stream.ATTACK, ids[:2], count=70_001)
    wide = uniform(1, 2, Stream.ATTACK, ids, count=37)

    for row in (0, 1, 442, 443, 2999):
        alone = uniform(1, 2, Stream.ATTACK, ids[row : row + 1], count=20)
        assert (wide[row, :20] == alone).all()
    assert (long[:, :37] == wide[:2]).all()
    late = scalar_philox([int(ids[1]), 0, 35_000, 2 << 8 | 3], [1, 0])
    assert long[1, 70_000] == (late[0] * 2**20 + late[1] // 2**12 + 0.5) / 2**52


@pytest.mark.parametrize(
    "other",
    [
        (1, 0, Stream.MIXUP, 0),
        (2**32, 0, Stream.MIXUP, 0),
        (0, 1, Stream.MIXUP, 0),
        (0, 0, Stream.SPLIT, 0),
        (0, 0, Stream.MIXUP, 1),
        (0, 0, Stream.MIXUP, 2**32),
    ],
    ids=["seed", "seed high word", "round", "stream", "id", "id high word"],
)
def test_uniform__every_part_of_the_key_counts(other: tuple[int, int, Stream, int]) -> None:
    seed, round_index, stream, sample_id = other
    base = uniform(0, 0, Stream.MIXUP, np.array([0]), count=8)

    assert not np.isin(uniform(seed, round_index, stream, np.array([sample_id]), count=8), base).any()


def test_uniform__is_uniform_over_ids_and_over_draws() -> None:
    over_ids = uniform(7, 0, Stream.INITIAL, np.arange(20_000), count=2)
    over_draws = uniform(7, 0, Stream.INITIAL, np.array([3]), count=20_000)[0]

    for sample in (over_ids[:, 0], over_ids[:, 1], over_draws):
        assert stats.kstest(sample, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(over_ids.T)[0, 1]) < 0.02


def test_uniform__extreme_words_stay_inside_the_open_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (0, 2**32 - 1):
        monkeypatch.setattr(
            "dm2at_ray.algorithm.counter_rng.philox4x32",
            lambda counter, key, word=word: np.full(counter.shape, word, dtype=np.uint32),
        )
        draw = uniform(0, 0, Stream.MIXUP, np.array([0]), count=1).item()
        assert 0 < draw < 1


@pytest.mark.parametrize(("rows", "count"), [(0, 3), (3, 0)])
def test_uniform__nothing_to_draw(rows: int, count: int) -> None:
    assert uniform(0, 0, Stream.MIXUP, np.arange(rows), count).shape == (rows, count)


@pytest.mark.parametrize(("seed", "round_index"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**24)])
def test_uniform__out_of_range(seed: int, round_index: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        uniform(seed, round_index, Stream.MIXUP, np.array([0]), count=1)


@pytest.mark.parametrize("first", [0, 1, 6, 7, 33_000])
def test_uniform__passes_over_the_first_draws(first: int) -> None:
    ids = np.array([3, 2**40])

    draws = uniform(1, 2, Stream.ATTACK, ids, count=5, first=first)

    assert np.array_equal(draws, uniform(1, 2, Stream.ATTACK, ids, count=first + 5)[:, first:])
