"""In which order MaskGIT reveals slots."""

import pytest
import torch
from conftest import SAMPLING, SPEC, decode, ragged_batch, shared_model, tiny_model

from espnet_ext.decoding import LocalMaskGIT, local_maskgit
from espnet_ext.decoding.generate import legal_ids
from espnet_ext.decoding.local_maskgit import noise_share
from espnet_ext.decoding.masked_step import rank
from espnet_ext.local_transformer import MaskGITLocalTransformer
from espnet_ext.sampling import Sampler, row_generators


def sampler_of(model, rows, sampling="sampled", min_frames=1):
    """For the second step of so many utterances."""
    sampler = Sampler(SAMPLING[sampling], row_generators(0, [str(row) for row in range(rows)]))
    return sampler.for_step(legal_ids(SPEC, model.layout, 1, min_frames)[None])


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_fades_to_nothing_before_the_last_round():
    for rounds in range(1, 41):
        shares = [noise_share(number, rounds) for number in range(rounds)]
        assert shares == sorted(shares, reverse=True) and all(0 <= share < 1 for share in shares)
        assert shares[-2:] == [0.0] * min(rounds, 2)
    assert [noise_share(number, 5) for number in range(5)] == pytest.approx([0.6, 0.4, 0.2, 0.0, 0.0])


class KnowsNothing(MaskGITLocalTransformer):
    """The same logits for every code of every slot, so that noise is all that orders slots."""

    def logits(self, given, codes):
        return torch.zeros(*codes.shape, SPEC.vocab_size, dtype=torch.float64)


@pytest.mark.parametrize("order", ["confidence", "purity"])
def test_noise_is_centred_and_as_wide_as_its_share_of_the_option(order, monkeypatch):
    """2,000 rows: a false alarm at 5 standard errors has a probability below 1e-5."""
    model, rows, width, rounds = tiny_model(stacking=2, local="maskgit"), 2_000, 0.8, 6
    model.heads.of(MaskGITLocalTransformer).__class__ = KnowsNothing
    noises = []

    def watched(priority):
        if priority.is_floating_point():
            noises.append(priority[priority.isfinite()] - 1 / SPEC.codebook_size)
        return rank(priority)

    monkeypatch.setattr(local_maskgit, "rank", watched)
    strategy = LocalMaskGIT(n_rounds=rounds, noise=width, order=order)
    strategy.decode_step(model.heads, torch.zeros(rows, 32), sampler_of(model, rows, "greedy", min_frames=99))
    assert len(noises) == rounds
    for number, noise in enumerate(noises):
        half = width * noise_share(number, rounds) / 2
        assert noise.abs().max() <= half + 1e-6, "uniform around 0"
        assert noise.mean().abs() <= 5 * half / (3 * len(noise)) ** 0.5 + 1e-6
        assert noise.var().sqrt() == pytest.approx(half / 3**0.5, rel=0.05, abs=1e-6)


def test_noise_needs_three_rounds_to_do_anything():
    model, batch, greedy = shared_model(stacking=2), ragged_batch(), SAMPLING["greedy"]
    for n_rounds in (1, 2):
        without = decode(model, batch, "local_maskgit", greedy, n_rounds=n_rounds)
        noisy = decode(model, batch, "local_maskgit", greedy, n_rounds=n_rounds, noise=5.0)
        assert torch.equal(noisy.codes, without.codes)
