"""Codec merging and residual quantisation as pure functions, against the obvious loops."""

from __future__ import annotations

import pytest
import torch

from espnet_ext.tokenizers.codec.merge import Merge, expand, group_means, hold, thin
from espnet_ext.tokenizers.codec.neural import spans
from espnet_ext.tokenizers.codec.residual import Branch, Layer, dequantise, quantise, unchanged

MERGE = Merge(rate=3, codebooks=(0, 2))


def drawn(*shape: int, high: int = 9) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))


def table_layer(table: torch.Tensor) -> Layer:
    """The nearest of (entries, D) vectors."""

    def encode(residual: torch.Tensor) -> torch.Tensor:
        return torch.cdist(residual.transpose(1, 2), table[None]).argmin(-1)

    return Layer(encode, lambda codes: table[codes].transpose(1, 2), unchanged, lambda: table)


def branches() -> list[Branch]:
    generator = torch.Generator().manual_seed(1)
    layers = [table_layer(torch.randn(6, 4, generator=generator) / (1 + n)) for n in range(3)]
    # two branches of the same latent, as Mimi has them
    return [Branch(layers[:1]), Branch(layers[1:], lambda latent: 2 * latent, lambda latent: latent / 2)]


def latents(frames: int) -> torch.Tensor:
    return torch.randn(2, 4, frames, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("rate", [1, 2, 3, 20])
def test_group_means_are_those_of_the_frames_that_there_are(frames: int, rate: int) -> None:
    values = latents(frames)
    means = group_means(values, rate)
    for group in range(-(-frames // rate)):
        torch.testing.assert_close(means[..., group], values[..., group * rate : (group + 1) * rate].mean(-1))
    held = hold(means, rate, frames)
    assert held.shape == values.shape
    if rate == 1:
        assert torch.equal(held, values)


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_merged_codes_thin_and_expand_without_loss(frames: int) -> None:
    codes = drawn(frames, 4)
    for index in MERGE.codebooks:
        codes[:, index] = hold(drawn(3), MERGE.rate, frames)
    slow, fast = thin(codes, MERGE)
    assert (slow.shape, fast.shape) == ((-(-frames // 3), 2), (frames, 2))
    assert torch.equal(expand(slow, fast, MERGE), codes)


def test_codes_that_are_not_merged_cannot_be_thinned() -> None:
    with pytest.raises(ValueError, match=r"constant over groups of 3 frames in codebooks \[0, 2\]"):
        thin(torch.tensor([[0, 1, 2], [0, 1, 3]]), MERGE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rate": 0, "codebooks": [0]}, "merge.rate must be a whole number of at least 1, got 0"),
        ({"rate": 1.5, "codebooks": [0]}, "merge.rate must be .*, got 1.5"),
        ({"rate": True, "codebooks": [0]}, "merge.rate must be .*, got True"),
        ({"rate": 2, "codebooks": [4]}, r"merge.codebooks must be whole numbers in \[0, 4\), got \[4\]"),
        ({"rate": 2, "codebooks": []}, "merge.codebooks must be"),
        ({"rate": 2, "codebooks": "all"}, "merge.codebooks must be"),
        ({"rate": 2}, "merge must have rate and codebooks"),
        ({"rate": 2, "codebooks": 0, "mode": 1}, "merge must have rate and codebooks"),
        (2, "merge must have rate and codebooks, got 2"),
    ],
)
def test_impossible_merges_are_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Merge.parse(value, num_codebooks=4)


def test_one_codebook_can_be_given_without_a_list() -> None:
    assert Merge.parse({"rate": 2, "codebooks": 0}, 4) == Merge(2, (0,))
    assert Merge.parse({"codebooks": [3, 1, 3], "rate": 2}, 4).plain() == {"rate": 2, "codebooks": [1, 3]}


@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("merged", [(), (0,), (1,), (0, 1), (2,)])
def test_quantising_is_the_obvious_loop(frames: int, merged: tuple[int, ...]) -> None:
    first, second = branches()
    latent, rate = latents(frames), 2
    expected = []
    for row in latent:
        columns = []
        for branch, count in ((first, 1), (second, 2)):
            residual = branch.project_in(row)
            for layer in branch.layers[:count]:
                codes = []
                for frame in range(frames):
                    start = frame // rate * rate
                    group = residual[:, start : start + rate].mean(1) if len(columns) in merged else residual[:, frame]
                    codes.append(int(torch.cdist(group[None], layer.table()).argmin()))
                residual = residual - layer.table()[codes].T
                columns.append(codes)
        expected.append(torch.tensor(columns).T)
    merge = Merge(rate, merged) if merged else None
    codes = quantise(latent, [first, second], 3, merge)
    assert torch.equal(codes, torch.stack(expected))
    assert torch.equal(quantise(latent, [first, second], 2, merge), codes[..., :2])
    vectors = first.layers[0].table()[codes[..., 0]]
    vectors = vectors + sum(layer.table()[codes[..., 1 + n]] for n, layer in enumerate(second.layers)) / 2
    torch.testing.assert_close(dequantise(codes, [first, second]), vectors.transpose(1, 2))


def test_later_codebooks_mend_what_merging_loses() -> None:
    table = torch.linspace(-2, 2, 9)[:, None]
    layers = [Branch([table_layer(table), table_layer(table / 4)])]
    latent = torch.tensor([[[0.4, 0.6, -1.1, -0.9, 0.1]]])
    plain = dequantise(quantise(latent, layers, 2), layers)
    codes = quantise(latent, layers, 2, Merge(2, (0,)))
    assert codes[0, :, 0].tolist() == [5, 5, 2, 2, 4]
    assert (dequantise(codes, layers) - latent).abs().max() <= (plain - latent).abs().max() + 1e-6
    assert (dequantise(codes[..., :1], layers) - latent).abs().max() > (plain - latent).abs().max()


@pytest.mark.parametrize("frames", [1, 4, 5, 13])
@pytest.mark.parametrize("core", [1, 2, 5, 50])
@pytest.mark.parametrize("context", [0, 3])
def test_chunks_cover_every_frame_once(frames: int, core: int, context: int) -> None:
    chunks = list(spans(frames, core, context))
    assert [frame for span in chunks for frame in range(span.start, span.stop)] == list(range(frames))
    for span in chunks:
        assert span.left == max(span.start - context, 0)
        assert span.right == min(span.stop + context, frames)
