"""The published attention prior: along the diagonal while training begins, a moving window in inference."""

from functools import cache

import pytest
import torch
from conftest import NAMES, SPEC, TEXT_VOCAB, ragged_batch, tiny_model
from scipy.stats import betabinom
from training import train

from espnet_ext.decoding import build_strategy, generate
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.alignment import forward_sum_loss
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.loss import LossWeights, alignment_losses
from espnet_ext.model.primary import AnnealedPrior, CrossAttentionPrimary
from espnet_ext.model.primary.annealed_prior import diagonal_prior

OUTSIDE = torch.tensor(0.1).log().item()


def with_prior(stacking=1, **conf):
    """A tiny model whose prior has these options."""
    model = tiny_model("cross_attention_annealed", stacking, conditioning_dropout=0.1)
    model.primary.prior = AnnealedPrior(model.primary.width, stacking, **conf)
    return model


def allowed(prior, path, frame, tokens):
    """Per frame of the step the tokens of row 0 inside of the window."""
    log_prior = prior.step(
        torch.tensor([path]), torch.arange(frame, frame + prior.stacking)[None], torch.ones(1, tokens, dtype=torch.bool)
    )
    inside = log_prior[0, :, 0] == 0
    torch.testing.assert_close(log_prior[0, :, 0], torch.where(inside, 0.0, OUTSIDE))
    return [row.nonzero()[:, 0].tolist() for row in inside]


def test_the_diagonal_prior_is_the_beta_binomial_distribution_with_its_peak_at_one():
    lengths, tokens = torch.tensor([9, 4]), torch.tensor([3, 5])
    prior = diagonal_prior(lengths, tokens, frames=9, tokens=5, concentration=0.5)
    for row in range(2):
        count, last = int(lengths[row]), int(tokens[row]) - 1
        for frame in range(count):
            pmf = torch.tensor(betabinom(last, 0.5 * (frame + 1), 0.5 * (count - frame)).pmf(range(last + 1)))
            expected = (pmf / pmf.max()).float()
            torch.testing.assert_close(prior[row, frame, : last + 1], expected, rtol=1e-4, atol=1e-5)
    assert (prior[0, :, 3:] == 0).all()


def test_the_prior_fades_between_two_batches_of_the_training_and_stays_away():
    model = with_prior(anneal_from=2, anneal_until=4).train()
    prior, strengths = model.primary.prior, []
    for _ in range(6):
        strengths.append(prior.strength())
        model(*ragged_batch())
    assert strengths == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    model.eval()
    model(*ragged_batch())
    assert int(prior.batches) == 6, "an evaluation is no batch of the training"
    assert model.state_dict()["primary.prior.batches"] == 6, "a continued training must know how far it is"


def test_passes_for_parts_that_are_trained_beside_the_rest_are_no_batches():
    model = with_prior(anneal_from=2, anneal_until=6)
    model.add_parts({"routers": {}, "early_exit": {}, "hidden_transfer": {}})
    model.double().train()
    for _ in range(3):
        model(*ragged_batch())
    assert int(model.primary.prior.batches) == 3


def test_a_prior_that_follows_an_optimizer_counts_its_steps_and_no_batches():
    model = with_prior(anneal_from=2, anneal_until=4).train()
    optimizer, strengths = torch.optim.SGD(model.parameters(), lr=0.0), []
    model.primary.prior.follow(optimizer)
    for batch in range(12):
        strengths.append(model.primary.prior.strength())
        model(*ragged_batch())
        if batch % 2:  # two batches are a step
            optimizer.step()
    assert strengths == [1.0] * 6 + [0.5] * 2 + [0.0] * 4


def test_a_prior_may_vanish_from_one_batch_to_the_next():
    """Fading within no batches at all was a division by zero."""
    prior = AnnealedPrior(8, 1, anneal_from=2, anneal_until=2)
    strengths = []
    for batches in range(4):
        prior.batches.fill_(batches)
        strengths.append(prior.strength())
    assert strengths == [1.0, 1.0, 0.0, 0.0]


def test_an_attention_that_knows_nothing_reads_what_the_prior_says(stacking):
    model, batch, biases = with_prior(stacking), ragged_batch(), []
    cross = model.primary.decoder.blocks[0].cross
    cross.query.weight.data.zero_()
    cross.register_forward_pre_hook(lambda _, args: biases.append(args[3]))
    alignment = model(*batch).alignment
    frames, tokens = alignment.log_attention.shape[1:]
    prior = diagonal_prior(alignment.frame_lengths, batch.text_lengths, frames, tokens, concentration=0.5)
    read = biases[0][:, :, -frames // stacking :].softmax(-1)  # behind the prompt
    per_frame = read.transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(per_frame, prior.double() / prior.double().sum(-1, keepdim=True), rtol=1e-5, atol=1e-6)


def test_the_loss_of_the_alignment_is_that_of_the_scores_without_the_prior(stacking):
    """With the prior in it, a model without any attention had a low loss while the prior was strong."""
    model, batch = with_prior(stacking), ragged_batch()
    assert model.primary.prior.strength() == 1.0
    for block in model.primary.decoder.blocks:
        block.cross.query.weight.data.zero_()
    alignment = model(*batch).alignment
    frames, lengths = alignment.log_attention.shape[1], batch.text_lengths
    exists = torch.arange(7) < lengths[:, None]
    uniform = torch.zeros(3, frames, 7).masked_fill(~exists[:, None], -1e4).log_softmax(-1)
    torch.testing.assert_close(alignment.log_attention, uniform)
    expected = forward_sum_loss(uniform, alignment.frame_lengths, lengths)
    torch.testing.assert_close(alignment_losses(alignment)["alignment"], expected)


def test_the_window_follows_the_token_attended_to_last():
    prior = AnnealedPrior(8, 1, behind=1, ahead=2)
    assert allowed(prior, [0, 0, 0], 0, 8) == [[0, 1, 2]]
    assert allowed(prior, [0, 3, 0], 2, 8) == [[2, 3, 4, 5]]
    assert allowed(prior, [0, 3, 7], 3, 8) == [[6, 7]]
    assert allowed(prior, [0, 3, 1], 3, 8) == [[0, 1, 2, 3]], "it may go back"


def test_later_frames_of_a_step_may_be_further_on():
    prior = AnnealedPrior(8, 3, behind=0, ahead=1)
    assert allowed(prior, [0, 1, 1, 0, 0, 0], 3, 8) == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_a_token_attended_to_for_too_long_is_left_and_the_end_of_the_text_is_not():
    prior = AnnealedPrior(8, 1, behind=1, ahead=1, sink_frames=3)
    path = [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]
    assert allowed(prior, path, 3, 4) == [[0, 1, 2]]
    assert allowed(prior, path, 4, 4) == [[2, 3]], "token 1 is a sink"
    assert allowed(prior, path, 7, 4) == [[3]], "two sinks in a row"
    assert allowed(prior, path, 12, 4) == [[3]]


def test_a_strict_window_leaves_a_token_to_every_row():
    prior = AnnealedPrior(8, 2, floor=0.0, sink_frames=1, behind=0, ahead=1)
    tokens = torch.tensor([[True, True, True], [True, False, False]])
    for path in ([0, 0, 0, 0], [0, 1, 0, 0], [2, 2, 0, 0], [2, 0, 0, 0]):
        log_prior = prior.step(torch.tensor([path, [0] * 4]), torch.arange(2, 2 + prior.stacking)[None], tokens)
        assert (log_prior.masked_fill(~tokens[:, None, None], -torch.inf).amax(-1) == 0).all()


def test_steps_with_a_window_equal_one_pass_with_the_same_priors(stacking):
    """The cache, the scores and the window of single steps, against the whole sequence at once."""
    model, batch = with_prior(stacking, ahead=1, sink_frames=2), ragged_batch()
    primary, priors = model.primary, []
    assert isinstance(primary, CrossAttentionPrimary)
    state = model.prefill(batch.conditions(model), 5)
    take = primary.prior.step
    primary.prior.step = lambda *args: priors.append(take(*args)) or priors[-1]
    inputs = torch.randn(3, 5, primary.width, dtype=torch.float64)
    stepped = torch.stack([primary.step(inputs[:, step], state) for step in range(5)], dim=1)
    assert len({tuple(prior.flatten().tolist()) for prior in priors}) > 2, "the window must move"
    primary.prior.forward = lambda *args: (torch.cat(priors, dim=2), None)
    lengths = torch.full((3,), 5)
    with torch.no_grad():
        whole = primary(batch.conditions(model), inputs, inputs, lengths)
    torch.testing.assert_close(stepped, whole.hidden, rtol=1e-9, atol=1e-9)
    guided = whole.alignment.log_attention + torch.cat(priors, dim=2).transpose(1, 2).flatten(1, 2)
    attended = guided.argmax(-1)
    assert torch.equal(attended, state.path), "what was attended to is what is remembered"


def test_a_row_with_a_window_does_not_depend_on_its_batch_mates(stacking):
    model, batch = with_prior(stacking, ahead=1, sink_frames=2), ragged_batch()

    def codes(part, names):
        sampler = Sampler(SamplingOptions(temperature=0.8, cfg_scale=1.5), row_generators(0, names))
        return generate(model, part.conditions(model), build_strategy("local_ar"), sampler, 12, min_frames=6)

    together = codes(batch, NAMES)
    for row, name in enumerate(NAMES):
        alone = codes(batch.row(row), [name])
        length = int(alone.lengths[0])
        assert int(together.lengths[row]) == length
        assert torch.equal(together.codes[row, :length], alone.codes[0, :length])


def test_the_loss_of_the_alignment_teaches_the_cross_attention_and_no_frames_are_predicted(stacking):
    model = with_prior(stacking).train()
    losses = alignment_losses(model(*ragged_batch()).alignment)
    assert list(losses) == ["alignment"]
    losses["alignment"].backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("decoder.blocks.0.cross.query", "decoder.blocks.1.cross.key_value", "text_encoder.embedding"):
        assert f"primary.{part}.weight" in taught


def test_rows_without_conditions_do_not_count_in_the_loss_of_the_alignment():
    model, batch = with_prior(), ragged_batch()
    conditions = batch.conditions(model)
    steps, lengths = torch.randn(3, 8, model.primary.width, dtype=torch.float64), torch.full((3,), 8)
    given = conditions._replace(given=torch.tensor([True, False, True]))
    alignment = model.primary(given, steps, steps, lengths).alignment
    assert alignment.text_lengths.tolist() == [7, 5]
    expected = model.primary(conditions, steps, steps, lengths).alignment.log_attention[[0, 2]]
    torch.testing.assert_close(alignment.log_attention, expected)
    nobody = conditions._replace(given=torch.zeros(3, dtype=torch.bool))
    assert alignment_losses(model.primary(nobody, steps, steps, lengths).alignment)["alignment"].item() == 0.0


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"anneal_from": 5, "anneal_until": 4}, "anneal_until must be at least 5, got 4"),
        ({"floor": 1.5}, "floor must be in [0, 1], got 1.5"),
        ({"ahead": 0}, "ahead must be at least 1, got 0"),
        ({"sink_frames": 0}, "sink_frames must be at least 1, got 0"),
        ({"concentration": 0}, "concentration must be above 0"),
    ],
)
def test_impossible_options_are_refused(conf, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        CrossAttentionPrimary(TEXT_VOCAB, 1, prior="annealed", prior_conf=conf)
    assert message in str(caught.value)


def test_an_unknown_option_of_the_prior_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"prior_conf of path must be among \['spread', 'moves'\], got \['floor'\]"):
        CrossAttentionPrimary(TEXT_VOCAB, 1, prior="path", prior_conf={"floor": 0.1})


# --- learning: a text is spoken, every token for three frames --------------------------------------------------------

TOKENS, HOLD, UPDATES = 6, 3, 600


def spoken(rows, generator):
    """Random texts without repetitions, and their codes: the token of every frame in all codebooks."""
    text = torch.stack([torch.randperm(SPEC.codebook_size, generator=generator)[:TOKENS] for _ in range(rows)])
    return text, text.repeat_interleave(HOLD, dim=1)[..., None].expand(-1, -1, 3).contiguous()


@cache
def reader(stacking):
    """A model that learned to read aloud with the annealed prior; the prior is gone after half of the training."""
    torch.manual_seed(0)
    small = {"width": 48, "layers": 2, "heads": 2, "text_layers": 1, "context_layers": 0, "dropout": 0.0}
    prior_conf = {"anneal_from": UPDATES // 4, "anneal_until": UPDATES // 2, "sink_frames": 2 * HOLD, "ahead": 2}
    model = TextCoreLM(
        SPEC, TEXT_VOCAB, primary_conf={**small, "prior": "annealed", "prior_conf": prior_conf}, local="none",
        frame_stacking_factor=stacking, code_corruption=0.3,
    ).train()  # fmt: skip
    generator, rows = torch.Generator().manual_seed(1), 24
    lengths, none = torch.full((rows,), TOKENS * HOLD), torch.zeros(rows, dtype=torch.long)

    def batch():
        text, codes = spoken(rows, generator)
        return text, none + TOKENS, codes, lengths, torch.zeros(rows, 0, 3, dtype=torch.long), none

    train(model, batch, UPDATES, lr=3e-3, weights=LossWeights(alignment=0.1))
    return model


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_model_trained_with_the_annealed_prior_reads_new_texts_inside_of_the_window(stacking):
    model = reader(stacking)
    assert model.primary.prior.strength() == 0.0
    rows = 16
    text, codes = spoken(rows, torch.Generator().manual_seed(2))
    none = torch.zeros(rows, dtype=torch.long)
    conditions = model.conditions(text, none + TOKENS, torch.zeros(rows, 0, 3, dtype=torch.long), none)
    sampler = Sampler(SamplingOptions(temperature=0.0), row_generators(0, [str(row) for row in range(rows)]))
    result = generate(model, conditions, build_strategy("parallel"), sampler, TOKENS * HOLD + 6, min_frames=4)
    right = [
        int(length) == TOKENS * HOLD and torch.equal(said[: TOKENS * HOLD], wanted)
        for said, length, wanted in zip(result.codes, result.lengths, codes, strict=True)
    ]
    assert sum(right) / rows > 0.8, f"{sum(right)} of {rows} texts are read right"
