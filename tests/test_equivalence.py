"""The numbers of training are the numbers of decoding, and a row's numbers are its own."""

import math

import pytest
import test_maskgit
import torch
from conftest import SAMPLING, SPEC, make_ends_likely, ragged_batch, tiny_model

from espnet_ext.codes import stack_frames
from espnet_ext.decoding import LocalMaskGIT, LocalMaskGITAdaptive, build_strategy, generate
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.attention import attend
from espnet_ext.model.heads import ARLocalTransformer, MaskGITLocalTransformer
from espnet_ext.model.primary import PathPrior
from espnet_ext.model.transformer import causal_mask


def with_path(model, frames=24):
    """A fixed path for teacher forcing; the aligner's own would look at the codes, and decoding predicts one."""
    path = (
        torch.arange(frames)
        .div(4, rounding_mode="floor")
        .expand(3, -1)
        .minimum(ragged_batch().text_lengths[:, None] - 1)
    )
    prior = getattr(model.primary, "prior", None)
    if isinstance(prior, PathPrior):
        align = prior.align
        prior.align = lambda *args: (align(*args)[0], path[:, : args[1].shape[1] * model.stacking])
    return model, path


def teacher_forced_hidden(model, batch):
    """Hidden vectors (B, L, D) of the primary, and the steps (B, L, M) they predict."""
    steps = model.targets(batch.codes, batch.code_lengths)
    inputs, _ = model.inputs(steps, SPEC.bos_id)
    lengths = torch.full((len(steps),), steps.shape[1])
    return model.primary(
        batch.conditions(model), model.embedding.step(inputs), model.embedding.frames(steps), lengths
    ).hidden, steps


def test_incremental_equals_teacher_forced(primary, stacking):
    (model, path), batch = with_path(tiny_model(primary, stacking)), ragged_batch()
    expected, steps = teacher_forced_hidden(model, batch)
    state = model.prefill(batch.conditions(model), steps.shape[1])
    state.path = path
    codes = torch.full_like(steps[:, 0], SPEC.bos_id)
    for step in range(steps.shape[1]):
        torch.testing.assert_close(model.step(codes, state), expected[:, step], rtol=1e-9, atol=1e-9)
        codes = steps[:, step]


def test_local_ar_with_cache_equals_one_teacher_forced_pass(stacking):
    model = tiny_model(stacking=stacking)
    local = model.heads.of(ARLocalTransformer)
    hidden = torch.randn(4, 32, dtype=torch.float64)
    codes = torch.randint(SPEC.codebook_size, (4, model.slots))
    inputs = model.heads.inputs(local, hidden)
    expected = local(inputs, codes).logits
    cache = local.new_cache(4)
    one_by_one = [local.logits(inputs, codes[:, max(m - 1, 0) : m], cache) for m in range(model.slots)]
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), expected, rtol=1e-9, atol=1e-9)


def test_local_ar_slot_cannot_see_itself_or_later_slots(stacking):
    model = tiny_model(stacking=stacking)
    local = model.heads.of(ARLocalTransformer)
    hidden, codes = torch.randn(1, 32, dtype=torch.float64), torch.zeros(1, model.slots, dtype=torch.long)
    inputs = model.heads.inputs(local, hidden)
    before = local(inputs, codes).logits
    for slot in range(model.slots):
        changed = codes.clone()
        changed[0, slot] = 5
        after = local(inputs, changed).logits
        assert torch.equal(after[:, : slot + 1], before[:, : slot + 1])
        assert slot == model.slots - 1 or not torch.equal(after[:, slot + 1 :], before[:, slot + 1 :])


def test_primary_step_cannot_see_itself_or_later_steps(primary, stacking):
    (model, _), batch = with_path(tiny_model(primary, stacking)), ragged_batch()
    before, steps = teacher_forced_hidden(model, batch)
    frame = 4
    changed = batch._replace(codes=batch.codes.clone())
    changed.codes[:, frame] = (changed.codes[:, frame] + 1) % SPEC.codebook_size
    after, _ = teacher_forced_hidden(model, changed)
    first = frame // stacking + 1
    torch.testing.assert_close(after[:1, :first], before[:1, :first], rtol=0, atol=1e-12)
    assert steps.shape[1] == first or not torch.allclose(after[0, first:], before[0, first:])


def test_teacher_forced_scores_of_a_row_do_not_depend_on_its_batch(primary, stacking):
    model, batch = tiny_model(primary, stacking), ragged_batch()
    together = model(*batch)
    start = 0
    for index in range(3):
        alone = model(*batch.row(index))
        end = start + len(alone.targets)
        assert torch.equal(together.targets[start:end], alone.targets)
        for name, head in alone.heads.items():
            if name == "maskgit":  # its masks are drawn over the whole batch
                continue
            torch.testing.assert_close(together.heads[name].logits[start:end], head.logits, rtol=1e-9, atol=1e-9)
            assert torch.equal(together.heads[name].loss_mask[start:end], head.loss_mask)
        start = end


# a strategy of a third party has no oracle here
ORACLES = ["parallel", "local_ar", "local_maskgit", "local_maskgit_adaptive", "local_speculative"]


@pytest.mark.parametrize("name", ORACLES)
def test_greedy_generation_with_cache_equals_full_recomputation(primary, stacking, name):
    """The oracle prefills anew and replays every step from the start, for every step; no code of a strategy runs."""
    model, batch, strategy = tiny_model(primary, stacking), ragged_batch(), build_strategy(name)
    fast = generate(model, batch.conditions(model), strategy, Sampler(SamplingOptions(0.0)), 8)
    frames = torch.zeros(3, 0, SPEC.num_codebooks, dtype=torch.long)
    for step in range(int(fast.steps.max())):
        history = stack_frames(frames, stacking, SPEC.eos_id)
        state = model.prefill(batch.conditions(model), step + 1)
        hidden = model.step(torch.full((3, model.slots), SPEC.bos_id), state)
        for earlier in range(step):
            hidden = model.step(history[:, earlier], state)
        oracle = naive_greedy_step(model, strategy, hidden, step)
        frames = torch.cat((frames, oracle.unflatten(1, (stacking, -1))), dim=1)
    for row in range(3):
        length = int(fast.lengths[row])
        assert torch.equal(fast.codes[row, :length], frames[row, :length])


def naive_greedy_step(model, strategy, hidden, step):
    """Slot by slot, one full pass of the head for each."""
    legal = legal_ids(SPEC, model.layout, step, min_frames=1)
    head = model.heads.of(strategy.head_types[0])
    inputs = model.heads.inputs(head, hidden)
    if isinstance(head, MaskGITLocalTransformer):
        return naive_masked_step(strategy, head, inputs, legal)[0]
    codes = torch.zeros(len(hidden), model.slots, dtype=torch.long)
    for slot in range(model.slots):
        logits = head(inputs, codes).logits[:, slot]
        codes[:, slot] = logits.masked_fill(~legal[slot], -torch.inf).argmax(-1)
    return codes


def likeliest(local, inputs, codes, legal):
    """Per slot the most likely legal id and its probability, from one pass over one row."""
    with torch.no_grad():
        logits = local.logits(inputs, torch.tensor([codes]))[0]
    guesses = []
    for slot in range(local.slots):
        ids = [v for v in range(SPEC.vocab_size) if legal[slot][v]]
        weights = [math.exp(float(logits[slot, v])) for v in ids]
        best = max(range(len(ids)), key=lambda i: weights[i])
        guesses.append((ids[best], weights[best] / sum(weights)))
    return guesses


def naive_greedy_unmasking(local, inputs, legal, choose, order):
    """One row, one slot at a time; `choose(round, unknown slots by falling probability, guesses)` is the strategy."""
    legal = [row.tolist() for row in legal]
    codes, unseen, rounds, passes = [SPEC.mask_id] * local.slots, set(), 0, 0
    while SPEC.mask_id in codes:
        seen = [SPEC.mask_id if slot in unseen else codes[slot] for slot in range(local.slots)]
        guesses = likeliest(local, inputs, seen, legal)
        if rounds == 0 and order != "left_to_right":
            ends = [m for m in range(0, local.slots, SPEC.num_codebooks) if guesses[m][0] == SPEC.eos_id]
            for slot in range(ends[0], local.slots) if ends else ():
                codes[slot] = SPEC.eos_id
                unseen |= {slot} if order == "frames" else set()
            for row in legal:
                row[SPEC.eos_id] = False
        unknown = [slot for slot in range(local.slots) if codes[slot] == SPEC.mask_id]
        by_probability = sorted(unknown, key=lambda slot: (-guesses[slot][1], slot))
        chosen = choose(rounds, by_probability, guesses)
        for slot in chosen:
            codes[slot] = guesses[slot][0]
        # behind an end that filled many slots there are rounds with nothing to reveal, which need no pass
        passes += bool(chosen) or rounds == 0
        rounds += 1
    return codes, passes


def chooser(strategy, slots):
    """The rule by which a strategy reveals slots, said once more without tensors."""

    def adaptive(number, by_probability, guesses):
        sure = [slot for slot in by_probability if guesses[slot][1] >= strategy.threshold]
        most = strategy.max_codes or slots
        if number == strategy.n_rounds - 1:
            return by_probability
        return by_probability[: max(min(len(sure), most), strategy.min_codes)]

    def cosine(number, by_probability, guesses):
        known = slots - len(by_probability)
        return by_probability[: max(test_maskgit.THREE_ROUNDS[slots][number] - known, 0)]

    def frames(number, by_probability, guesses):
        known = slots - len(by_probability)
        by_frame = sorted(by_probability, key=lambda slot: slot // SPEC.num_codebooks)
        return by_frame[: max(test_maskgit.EQUAL_ROUNDS[slots][number] - known, 0)]

    def left_to_right(number, by_probability, guesses):
        return [slot for slot in by_probability if slot < test_maskgit.EQUAL_ROUNDS[slots][number]]

    if isinstance(strategy, LocalMaskGITAdaptive):
        return adaptive
    return {"frames": frames, "left_to_right": left_to_right}.get(strategy.order, cosine)


def naive_masked_step(strategy, local, inputs, legal):
    """Greedy codes (R, M) and passes (R,) of one step, row by row."""
    choose = chooser(strategy, local.slots)
    order = getattr(strategy, "order", "purity")
    each = [inputs.rows(torch.tensor([row])) for row in range(len(inputs.hidden))]
    rows = [naive_greedy_unmasking(local, row, legal, choose, order) for row in each]
    return torch.tensor([codes for codes, _ in rows]), torch.tensor([passes for _, passes in rows])


NAIVE = [
    LocalMaskGIT(order="purity"),
    LocalMaskGIT(order="confidence"),
    LocalMaskGIT(order="frames"),
    LocalMaskGIT(order="left_to_right"),
    LocalMaskGITAdaptive(threshold=0.25),
    LocalMaskGITAdaptive(threshold=0.2, min_codes=2, max_codes=3),
    LocalMaskGITAdaptive(threshold=0.9, n_rounds=2),
]


@pytest.mark.parametrize("strategy", NAIVE, ids=repr)
@pytest.mark.parametrize("stacking", [1, 2, 4])
def test_greedy_unmasking_equals_the_naive_loop(strategy, stacking):
    """With an EOS that is likely in some rows, so that the rule for the end is compared as well."""
    model = tiny_model(stacking=stacking)
    local = model.heads.of(MaskGITLocalTransformer)
    hidden, _ = test_maskgit.random_steps(local, steps=12)
    make_ends_likely(model, hidden)
    legal = legal_ids(SPEC, model.layout, step=1, min_frames=1)
    expected, passes = naive_masked_step(strategy, local, model.heads.inputs(local, hidden), legal)
    with torch.no_grad():
        filled = strategy.decode_step(model.heads, hidden, Sampler(SAMPLING["greedy"]).for_step(legal[None]))
    ends = expected[:, 0] == SPEC.eos_id
    assert ends.any() and not ends.all(), "the test needs rows that end and rows that go on"
    assert torch.equal(filled.codes, expected)
    assert torch.equal(filled.local_passes, passes)


def test_greedy_equals_top_k_of_one(primary):
    model, batch = tiny_model(primary), ragged_batch()
    conditions, strategy = batch.conditions(model), build_strategy("local_ar")
    greedy = generate(model, conditions, strategy, Sampler(SamplingOptions(0.0)), 8)
    sampler = Sampler(SamplingOptions(1.0, top_k=1), row_generators(0, ["a", "b", "c"]))
    top_one = generate(model, conditions, strategy, sampler, 8)
    assert torch.equal(greedy.codes, top_one.codes)


def test_a_stacking_factor_of_one_is_the_unstacked_model(primary):
    """Every code is scored once, in order, and a step's slots are the frame's codebooks."""
    model, batch = tiny_model(primary), ragged_batch()
    output = model(*batch)
    expected = [
        torch.cat((batch.codes[row, : batch.code_lengths[row]], torch.full((1, 3), SPEC.eos_id))) for row in range(3)
    ]
    assert torch.equal(output.targets, torch.cat(expected))
    assert all(bool(head.loss_mask.all()) for name, head in output.heads.items() if name != "maskgit")


def test_a_state_that_takes_steps_back_goes_on_as_if_they_had_never_been(primary, stacking):
    model, batch = tiny_model(primary, stacking), ragged_batch()
    codes = torch.randint(SPEC.codebook_size, (4, 3, model.slots), generator=torch.Generator().manual_seed(0))
    straight, detour = (model.prefill(batch.conditions(model), 6) for _ in range(2))
    for step in (0, 1):
        model.step(codes[step], straight)
        model.step(codes[step], detour)
    for step in (3, 2, 3):
        model.step(codes[step], detour)
    detour.accept(torch.tensor([0, 0, 0]), 3)
    assert detour.steps.tolist() == straight.steps.tolist() == [2]
    torch.testing.assert_close(model.step(codes[2], detour), model.step(codes[2], straight), rtol=0, atol=0)


def test_gathered_rows_go_on_as_they_would_have_in_their_batch(primary):
    model, batch, rows = tiny_model(primary), ragged_batch(), torch.tensor([2, 0, 2])
    codes = torch.randint(SPEC.codebook_size, (2, 3, model.slots), generator=torch.Generator().manual_seed(0))
    state = model.prefill(batch.conditions(model), 4)
    model.step(codes[0], state)
    gathered = state.gather(rows)
    expected = model.step(codes[1], state)[rows]
    torch.testing.assert_close(model.step(codes[1][rows], gathered), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kept", "count"), [([-1], 2), ([3], 2), ([1], 3)])
def test_a_cache_does_not_keep_what_it_does_not_hold(kept, count):
    cache = tiny_model().heads.of(ARLocalTransformer).new_cache(1)
    cache.length = 2
    with pytest.raises(ValueError, match=r"kept must be in \[0, 2\], got"):
        cache.accept(torch.tensor(kept), count)


def test_a_cache_that_is_full_says_so():
    model, batch = tiny_model(), ragged_batch()
    state = model.prefill(batch.conditions(model), 1)
    model.step(torch.zeros(3, model.slots, dtype=torch.long), state)
    with pytest.raises(ValueError, match="cache capacity must be at least"):
        model.step(torch.zeros(3, model.slots, dtype=torch.long), state)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_short_sequences_equals_the_fused_kernel(masked):
    q, k, v = torch.randn(3, 5, 2, 9, 8, dtype=torch.float64, requires_grad=True)
    mask = causal_mask(9, q.device) if masked else None
    short, fused = attend(q, k, v, mask, 0.0), torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(short, fused)
    weights = torch.randn(short.shape, dtype=torch.float64)
    for ours, theirs in zip(
        *(torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (short, fused)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
