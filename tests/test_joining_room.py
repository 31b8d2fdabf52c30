"""Room for rows that join: none for what finished rows have held, and enough for positions behind long prefixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import SPEC
from test_graphs import uncaptured

from espnet_ext.decoding import batch as batches
from espnet_ext.decoding import build_strategy, generate, generate_joining, plain_step, rows
from espnet_ext.decoding.request import Decoding
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.fast import static_state
from espnet_ext.testing.models import TEXT_VOCAB, Batch, shared_model, tiny_model
from espnet_ext.testing.speculation import order_of

LONG = 60  # of a prefix, beside which one of 2 has 58 places of padding


@pytest.fixture(autouse=True)
def no_end(monkeypatch):
    """Every row goes on to its limit."""
    legal_ids = rows.legal_ids

    def without_end(spec, layout, step, min_frames):
        legal = legal_ids(spec, layout, step, min_frames)
        legal[:, spec.eos_id] = False
        return legal

    monkeypatch.setattr(rows, "legal_ids", without_end)


def asked(model: Any, limits: list[int], prefixes: list[int], row: int | None = None, **how: Any) -> Decoding:
    """What is asked for of all rows or of one, whose texts and prompts have as many places as `prefixes` says."""
    count, generator, lengths = len(limits), torch.Generator().manual_seed(3), torch.tensor(prefixes)
    batch = Batch(
        torch.randint(TEXT_VOCAB, (count, max(prefixes)), generator=generator),
        lengths,
        torch.zeros(count, 1, 3, dtype=torch.int64),
        torch.ones(count, dtype=torch.int64),
        torch.randint(SPEC.codebook_size, (count, max(prefixes), 3), generator=generator),
        lengths,
    )
    sampler = Sampler(SamplingOptions(temperature=1.0), row_generators(4, [f"row {one}" for one in range(count)]))
    given = model, batch.conditions(model), build_strategy("local_ar"), sampler, torch.tensor(limits), min(limits)
    asked = Decoding(*given, **how)
    return asked if row is None else asked.rows([row])


@pytest.mark.parametrize(
    ("primary", "drafter", "static"),
    [
        ("cross_attention", None, False),
        ("cross_attention", None, True),
        ("cross_attention", "hidden_transfer", False),
        ("prefix", None, False),
        ("prefix", "prompts", False),
    ],
)
def test_a_short_prefix_that_joins_beside_a_long_one_is_what_it_is_alone(primary, drafter, static, monkeypatch):
    monkeypatch.setattr(static_state, "POSITIONS", 4)
    how: dict[str, Any] = {"step": uncaptured() if static else plain_step}
    if drafter:
        how["order"] = order_of(drafter, "exact", width=4)
    given = shared_model(primary), [4, 4, 5, 40], [2, 2, LONG, 2]
    alone = [generate(*asked(*given, row, **how)) for row in range(4)]
    for numbers, made in generate_joining((asked(*given, row, **how) for row in range(4)), 2):
        for place, row in enumerate(numbers):
            assert torch.equal(made.codes[place, : made.lengths[place]], alone[row].codes[0]), f"row {row}"
            torch.testing.assert_close(made.logprobs[place], alone[row].logprobs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(("limits", "most_rows"), [([100] + [95] * 5 + [100] * 5, 6), ([30, 100] * 8, 4)])
def test_a_cache_of_joining_rows_has_at_most_one_eighth_of_free_places(limits, most_rows, gpu, monkeypatch):
    monkeypatch.setattr(batches, "is_gpu", lambda device: gpu)
    places: list[int] = []

    def step(model, strategy, codes, state, sampler):
        places.append(state.cache.capacity)
        return plain_step(model, strategy, codes, state, sampler)

    given = tiny_model(local="ar"), limits, [2] * len(limits)
    generate(*asked(*given, step=step))
    fixed = max(places)
    places.clear()
    generate(*asked(*given, most_rows=most_rows, step=step))
    assert max(places) <= fixed * 9 / 8 + 1
