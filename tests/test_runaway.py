"""Speech that has run away: told where it happens, stopped, decoded again, and counted."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from conftest import SPEC, ragged_batch, tiny_model

from espnet_ext.data.ark import codes_writer
from espnet_ext.data.inputs.lengths import speech_limits
from espnet_ext.decoding import (
    DecodingStrategy,
    Filled,
    Runaway,
    SpeechLimits,
    Watch,
    build_strategy,
    generate,
    generate_stream,
    plain_step,
    same_passes,
)
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.decoding.request import RETRY_TEMPERATURE, Decoding
from espnet_ext.decoding.retry import generate_with_retries
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.errors import UserError
from espnet_ext.inference.long_text import join_speech
from espnet_ext.inference.speech import Speech, Timing
from espnet_ext.model.heads import ParallelHeads

NAMES = ["loop", "silence", "fine"]
LIMITS = SpeechLimits(period=5, repeated=4, pause=3, silence=(7,))  # half a second, 12.5 frames, stands above both
FINE = "0123456701274635120361E"
SCRIPTS = {"loop": "0123" + "45" * 30, "silence": "01" + "7" * 62, "fine": FINE}
# 13 frames repeat those two before by frame 19, 13 are silent by frame 15; every eighth frame is looked at
ENDS = (24, 16, 22)


@dataclass(frozen=True)
class Planted(DecodingStrategy):
    """Says what is planned for the draws of a row and an attempt: a digit is a frame of that code, "E" the end."""

    plans: dict = field(default_factory=dict)
    said: dict = field(default_factory=dict)
    head_types = (ParallelHeads,)

    def decode_step(self, heads, hidden, sampler):
        stacking, codes = heads.of(ParallelHeads).slots // SPEC.num_codebooks, []
        for draws in sampler.generators:
            key = draws.initial_seed()
            first = self.said.get(key, 0)
            self.said[key] = first + stacking
            frames = self.plans[key][first : first + stacking].ljust(stacking, "E")
            codes.append([SPEC.eos_id if frame == "E" else int(frame) for frame in frames])
        filled = torch.tensor(codes).repeat_interleave(SPEC.num_codebooks, dim=1)
        return Filled(filled, torch.full(filled.shape, -1.0), same_passes(hidden, 1))


def seed_of(name):
    return row_generators(0, [name])[0].initial_seed()


def planned(stacking=1, watch=None, frames=64, **scripts):
    """What is decoded; attempts that no script is for say what is fine."""
    scripts = SCRIPTS | scripts
    plans = {seed_of(name): scripts[name] for name in NAMES}
    plans |= {seed_of(f"{name} attempt {k}"): scripts.get(f"{name} {k}", FINE) for name in NAMES for k in (1, 2)}
    model = tiny_model(stacking=stacking)
    sampler = Sampler(SamplingOptions(), row_generators(0, NAMES))
    limit = torch.tensor([frames] * 3)
    given = ragged_batch().conditions(model), Planted(plans), sampler, limit, 1, plain_step, NAMES
    return Decoding(model, *given, watch)


def said(generation, row):
    return "".join(map(str, generation.codes[row, : generation.lengths[row], 0].tolist()))


@pytest.mark.parametrize("stacking", [1, 2])
def test_loops_and_silence_are_told_where_they_are_longer_than_any_of_the_training_and_stop(stacking):
    made = generate(*planned(stacking, Watch(LIMITS)))
    assert made.runaway == (Runaway.LOOP, Runaway.SILENCE, None)
    assert made.lengths.tolist() == list(ENDS) and made.has_eos.tolist() == [False, False, True]
    assert made.steps.tolist()[:2] == [-(-length // stacking) for length in ENDS[:2]], "time is saved"
    for row, name in enumerate(NAMES):
        assert said(made, row) == SCRIPTS[name][: ENDS[row]]


@pytest.mark.parametrize("stacking", [1, 2])
def test_who_is_only_watched_says_the_same_bit_for_bit(stacking):
    without, watched = generate(*planned(stacking)), generate(*planned(stacking, Watch(LIMITS, stops=False)))
    for name in ("codes", "lengths", "has_eos", "logprobs", "steps", "local_passes"):
        assert torch.equal(getattr(without, name), getattr(watched, name)), name
    assert without.runaway == (Runaway.NO_END, Runaway.NO_END, None)
    assert watched.runaway == (Runaway.LOOP, Runaway.SILENCE, None)


@pytest.mark.parametrize("name", ["parallel", "local_ar", "local_maskgit"])
def test_batch_mates_of_a_row_that_is_stopped_keep_their_codes(name):
    model, strategy = tiny_model(), build_strategy(name)

    def made(watch):
        sampler = Sampler(SamplingOptions(temperature=0.8), row_generators(3, NAMES))
        return generate(model, ragged_batch().conditions(model), strategy, sampler, 40, 9, watch=watch)

    whole, some = made(None), made(Watch(SpeechLimits(), torch.tensor([99, 5, 99])))
    assert int(some.lengths[1]) == 9 < int(whole.lengths[1]), "not below the shortest length that is asked for"
    for row in (0, 2):
        length = int(whole.lengths[row])
        assert int(some.lengths[row]) == length
        assert torch.equal(some.codes[row, :length], whole.codes[row, :length])


def test_speech_without_end_and_speech_that_is_too_long_for_its_text_are_told_apart():
    endless = "".join(str(number * number // 7 % 8) for number in range(64))
    watch = Watch(SpeechLimits(), torch.tensor([30, 99, 99]))
    made = generate(*planned(1, watch, 40, loop=endless, silence=endless))
    assert made.runaway == (Runaway.LENGTH, Runaway.NO_END, None) and made.lengths.tolist() == [30, 40, 22]
    told = generate(*planned(1, replace(watch, stops=False), 40, loop=endless, silence=endless))
    assert told.runaway == made.runaway and told.lengths.tolist() == [40, 40, 22]


def test_a_runaway_is_decoded_again_with_other_draws_that_name_seed_and_attempt_give():
    made = generate_with_retries(planned(1, Watch(LIMITS)), 0, 1)
    assert made.runaway == (None,) * 3 and made.retries == (1, 1, 0)
    assert [said(made, row) for row in range(3)] == [FINE[:-1]] * 3 and made.has_eos.all()
    assert made.failed == (Runaway.LOOP, Runaway.SILENCE)
    assert made.steps.tolist() == [24 + 23, 16 + 23, 23], "the costs are those of all attempts"
    assert torch.equal(made.primary_passes, made.steps) and bool((made.primary_layers % made.steps == 0).all())
    timing = Timing.of(made, 3, torch.zeros(3), 16000)
    assert (timing.retries, timing.runaways_loop, timing.runaways_silence, timing.runaways_no_end) == (2, 1, 1, 0)


def test_the_first_attempt_stays_where_every_other_runs_away_as_well():
    again = {"loop 1": "01" * 40, "loop 2": "7" * 60}
    made = generate_with_retries(planned(1, Watch(LIMITS), **again), 0, 2)
    assert made.runaway == (Runaway.LOOP, None, None) and made.retries == (2, 1, 0)
    assert said(made, 0) == SCRIPTS["loop"][:24] and not made.has_eos[0]
    assert made.failed == (Runaway.LOOP, Runaway.SILENCE, Runaway.LOOP, Runaway.SILENCE)


def test_without_retries_nothing_is_decoded_again():
    made = generate_with_retries(planned(1, Watch(LIMITS, stops=False)), 0, 0)
    assert torch.equal(made.codes, generate(*planned(1)).codes) and made.retries == (0, 0, 0)


def test_a_retry_does_not_depend_on_batch_mates_and_draws_where_the_first_attempt_did_not():
    model, conditions = tiny_model(), ragged_batch().conditions(tiny_model())
    for options in (SamplingOptions(temperature=0.8), SamplingOptions(temperature=0.0)):
        sampler = Sampler(options, row_generators(5, NAMES))
        given = conditions, build_strategy("local_ar"), sampler, torch.tensor([9, 20, 14]), 1, plain_step, NAMES
        decoding = Decoding(model, *given, Watch(SpeechLimits(), torch.tensor([50, 50, 50])))
        together = generate(*decoding.again([0, 1, 2], 5, 1))
        for row in range(3):
            alone = generate(*decoding.again([row], 5, 1))
            assert torch.equal(alone.codes[0], together.codes[row, : together.lengths[row]])
        assert not torch.equal(together.codes[0, :4], generate(*decoding).codes[0, :4])
    assert decoding.again([0], 5, 1).sampler.options.temperature == RETRY_TEMPERATURE


def test_a_stream_stops_where_it_has_run_away_and_says_so():
    decoding = planned(1, Watch(LIMITS))
    pieces = list(generate_stream(*decoding[:-2]))
    assert pieces[-1].runaway == (Runaway.LOOP, Runaway.SILENCE, None)
    assert pieces[16].runaway == (None, Runaway.SILENCE, None) and pieces[14].runaway == (None,) * 3


# --- the end of the text as a guard -----------------------------------------------------------------------------------


def paced(stacking, eos_bias, moves):
    """A model whose predicted path takes two frames for a token, and which wants to end at once or never."""
    model = tiny_model(stacking=stacking)
    prior = model.primary.prior
    prior.moves = moves
    prior.predict = lambda reading: torch.full(reading.text.shape[:2], 2.0, dtype=torch.float64).log()
    for head in model.heads.values():
        head.heads.bias.data.view(-1, SPEC.vocab_size)[:: SPEC.num_codebooks, SPEC.eos_id] += eos_bias
    return model


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("stacking", [1, 2])
def test_speech_cannot_end_before_its_text_by_the_path_and_must_soon_after_it(stacking, moves):
    sizes, sampler = (7, 4, 5), Sampler(SamplingOptions(0.0))

    def lengths(eos_bias, seconds):
        model = paced(stacking, eos_bias, moves)
        given = model, ragged_batch().conditions(model), build_strategy("parallel"), sampler, 60
        return generate(*given, end_guard=seconds).lengths.tolist()

    steps = 10 // stacking  # 0.4 s
    assert lengths(1e4, 0.4) == [2 * (size - 3) + stacking for size in sizes], "the step behind the last three tokens"
    assert lengths(-1e4, 0.4) == [2 * (size - 2) + steps * stacking for size in sizes], "so long behind the last two"
    assert max(lengths(1e4, 0)) <= 1 and lengths(-1e4, 0) == [60] * 3, "no guard"


def test_a_model_that_does_not_follow_its_text_has_no_guard():
    model = tiny_model("prefix")
    given = model, ragged_batch().conditions(model), build_strategy("parallel"), Sampler(SamplingOptions(0.0)), 9
    with pytest.raises(UserError, match="end_guard must be 0 with a model that does not follow its text"):
        generate(*given, end_guard=1.0)
    generate(*given, end_guard=0)


# --- what is known of the training -----------------------------------------------------------------------------------


def test_limits_are_those_of_the_recordings_of_the_training(tmp_path):
    rng = np.random.default_rng(0)
    speech = [np.concatenate(([5] * 3, rng.permutation(5), [5] * 6, [1, 2, 3] * 4, [5] * 2)) for _ in range(4)]
    with codes_writer(tmp_path) as write:
        for number, coarse in enumerate(speech):
            write(f"u{number}", np.stack([coarse] * 3, axis=1))
    limits = speech_limits([str(tmp_path / "codes.scp")], SPEC, 4.0)
    assert limits == {"frames_per_token": 4.0, "period": 25, "repeated": 9, "pause": 6, "silence": [5]}
    assert SpeechLimits.of(limits) == SpeechLimits(4.0, 25, 9, 6, (5,))
    assert SpeechLimits.of(None) == SpeechLimits.of({}) == SpeechLimits()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("many", "speech_limits must have keys among .*, got 'many'"),
        ({"noise": 1}, "speech_limits must have keys among"),
        ({"pause": 1.5}, "speech_limits.pause must be an integer, got 1.5"),
        ({"pause": 10**9}, r"speech_limits.pause must be in \[0, 1000000\], got"),
        ({"period": 10**6}, r"speech_limits.period must be in \[0, 10000\], got"),  # a step would take seconds
        ({"silence": 5}, "speech_limits.silence must be codes, got 5"),
        ({"silence": [-1]}, "speech_limits.silence must be at least 0, got -1"),
    ],
)
def test_limits_that_cannot_be_are_refused(conf, message):
    with pytest.raises(UserError, match=message):
        SpeechLimits.of(conf)


def test_options_that_cannot_be_are_refused_and_those_not_given_change_no_record():
    assert not {"retries", "end_guard"} & set(DecodeOptions().complete())
    assert DecodeOptions(retries=2, end_guard=1.0).given()["retries"] == 2
    for conf, message in (({"retries": -1}, "retries must be in"), ({"end_guard": -1}, "end_guard must be at least 0")):
        with pytest.raises(UserError, match=message):
            DecodeOptions(**conf)


# --- what a user is told ---------------------------------------------------------------------------------------------


def test_speech_says_that_it_ran_away_and_how_often_it_was_tried():
    fine = Speech(np.zeros((3, 3), int), np.zeros(9, np.float32), True, -1.0, sample_rate=3)
    ran = replace(fine, has_eos=False, runaway=Runaway.LOOP, retries=1)
    assert "ran away: the same codes again and again, 1 retries" in repr(ran) and "ran" not in repr(fine)
    joined = join_speech([fine, ran, fine])
    assert (joined.runaway, joined.retries) == (Runaway.LOOP, 1)
