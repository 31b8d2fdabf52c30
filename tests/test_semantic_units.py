"""k-means over a stream of features, and sequences of units."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from espnet_ext.codes import CodecSpec
from espnet_ext.data.streams import disagreement
from espnet_ext.tokenizers.semantic.kmeans import buffers, learn_centroids, nearest
from espnet_ext.tokenizers.semantic.learn import in_order
from espnet_ext.tokenizers.semantic.units import deduplicate


def clusters(count: int, frames: int = 50, seed: int = 0) -> Iterator[np.ndarray]:
    """Utterances of frames around four far points."""
    rng = np.random.default_rng(seed)
    points = 10.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    for _ in range(count):
        yield (points[rng.integers(4, size=frames)] + rng.standard_normal((frames, 2))).astype(np.float32)


def test_a_stream_larger_than_the_buffer_gives_the_centres_of_all_of_it() -> None:
    found = learn_centroids(clusters(400), 4, seed=0, buffer_frames=1000, sweeps=2)
    assert found.dtype == np.float32
    order = np.lexsort(np.sign(found).T)
    np.testing.assert_allclose(found[order], [[-10, -10], [10, -10], [-10, 10], [10, 10]], atol=0.15)


def test_later_buffers_move_the_centroids() -> None:
    """Of what came after the first buffer nothing would be heard if it were learned from alone."""
    first, later = np.zeros((100, 2), np.float32), np.full((100, 2), 4.0, np.float32)
    first[::2] += 1
    moved = learn_centroids(iter([first, later]), 2, seed=0, buffer_frames=100)
    assert moved.max() > 2.0


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    runs = [learn_centroids(clusters(40), 6, seed, buffer_frames=700) for seed in (0, 0, 1)]
    assert runs[0].tobytes() == runs[1].tobytes() != runs[2].tobytes()


def test_memory_does_not_grow_with_the_corpus() -> None:
    def measure(utterances: int) -> int:
        tracemalloc.start()
        learn_centroids(clusters(utterances, frames=200), 4, 0, buffer_frames=2000, sweeps=1)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    measure(20)
    assert measure(600) < 1.2 * measure(60)


def test_buffers_hold_every_frame_once_in_order() -> None:
    lengths = [3, 10, 1, 7]
    frames = [np.full((length, 1), index, np.float32) for index, length in enumerate(lengths)]
    pieces = [piece.copy() for piece in buffers(frames, 4)]
    assert [len(piece) for piece in pieces] == [4] * 5 + [1]
    assert np.concatenate(pieces)[:, 0].tolist() == np.repeat(range(4), lengths).tolist()


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="num_units must be at most 0, the frames to learn from, got 4"):
        learn_centroids(iter([]), 4, seed=0)


def test_the_nearest_centroid_is_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features, centroids = torch.randn(50, 5, generator=generator), torch.randn(9, 5, generator=generator)
    monkeypatch.setattr("espnet_ext.tokenizers.semantic.kmeans._NEAREST_FRAMES", 7)
    assert torch.equal(nearest(features, centroids), torch.cdist(features, centroids).argmin(1))


def test_threads_keep_the_order_and_look_only_a_few_items_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[np.ndarray]:
        for number in range(40):
            taken.append(number)
            yield np.array([number])

    results = in_order(lambda item: 2 * item, items(), threads=3)
    first = next(results)
    assert len(taken) <= 8
    assert [int(item[0]) for item in [first, *results]] == list(range(0, 80, 2))


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "left"), [([], []), ([4], [4]), ([4, 4, 4], [4]), ([0, 0, 1, 0, 0], [0, 1, 0]), ([2, 1], [2, 1])]
)
@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_deduplication_removes_what_repeats_the_unit_before(units: list[int], left: list[int], kind: type) -> None:
    found = deduplicate(np.array(units, dtype=kind))
    assert found.tolist() == left and found.dtype == kind


def test_deduplication_refuses_a_batch() -> None:
    with pytest.raises(ValueError, match=r"units must be \(T,\), got shape \(2, 3\)"):
        deduplicate(np.zeros((2, 3), np.int64))


@pytest.mark.parametrize(
    ("rates", "exactly_two", "more"),
    [
        ((50.0, 75.0), [(52, 75), (48, 75)], [(53, 75), (47, 75)]),
        ((50.0, 25.0), [(54, 25), (46, 25)], [(55, 25), (45, 25)]),
        ((50.0, 50.0), [(52, 50), (48, 50)], [(53, 50), (47, 50)]),
        ((50.0, 12.5), [(56, 12), (40, 12)], [(57, 12), (39, 12)]),
    ],
)
def test_two_frames_of_the_slower_rate_are_the_limit(
    rates: tuple[float, float], exactly_two: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    specs = [CodecSpec(1, 4, rate, 16000) for rate in rates]
    for units, frames in exactly_two:
        assert disagreement(units, frames, *specs) is None
    for units, frames in more:
        assert disagreement(units, frames, *specs) is not None
