"""Which utterance becomes whose speaker prompt."""

from __future__ import annotations

import random
from pathlib import Path
from time import perf_counter

import pytest

from espnet_ext.data.datadir import read_scp, speaker_to_utterances, write_data_dir, write_scp
from espnet_ext.data.speaker_prompt import PromptRule, choose_prompts, write_prompts


def corpus(speakers: int, utterances: int, seed: int = 0) -> tuple[dict[str, str], dict[str, float]]:
    """Speakers by utterance and durations of 1 to 9 s."""
    rng = random.Random(seed)
    utt2spk = {f"s{one:04d}-{number:03d}": f"s{one:04d}" for one in range(speakers) for number in range(utterances)}
    return utt2spk, {utterance: rng.uniform(1, 9) for utterance in utt2spk}


def naive(utt2spk: dict[str, str], seconds: dict[str, float], rule: PromptRule) -> dict[str, str]:
    """The rule for speakers with enough long utterances, word by word."""
    return {
        utterance: random.Random(f"{rule.seed} {utterance}").choice(
            [
                other
                for other in sorted(utt2spk)
                if utt2spk[other] == speaker and other != utterance and seconds[other] >= rule.min_sec
            ]
        )
        for utterance, speaker in utt2spk.items()
    }


@pytest.mark.parametrize("min_sec", [0.0, 3.0, 6.0])
def test_a_prompt_is_another_long_enough_utterance_of_the_speaker(min_sec: float) -> None:
    utt2spk, seconds = corpus(4, 30)
    prompts, fallbacks = choose_prompts(utt2spk, seconds, PromptRule(0, min_sec))
    assert prompts == naive(utt2spk, seconds, PromptRule(0, min_sec))
    assert prompts.keys() == utt2spk.keys()
    assert not fallbacks


def test_prompts_depend_on_the_seed_and_on_nothing_else() -> None:
    utt2spk, seconds = corpus(3, 20)
    backwards = dict(reversed(utt2spk.items()))
    first = choose_prompts(utt2spk, seconds, PromptRule(1, 3.0))
    assert choose_prompts(backwards, seconds, PromptRule(1, 3.0)) == first
    assert choose_prompts(utt2spk, seconds, PromptRule(2, 3.0))[0] != first[0]


def test_another_speaker_changes_nobody_elses_prompt() -> None:
    utt2spk, seconds = corpus(5, 12)
    few = {utterance: speaker for utterance, speaker in utt2spk.items() if speaker != "s0002"}
    before, after = (choose_prompts(table, seconds, PromptRule(0, 3.0))[0] for table in (few, utt2spk))
    assert {utterance: after[utterance] for utterance in few} == before


def test_speakers_without_a_long_one_give_their_longest_and_lone_ones_borrow() -> None:
    utt2spk = {"a-1": "a", "a-2": "a", "a-3": "a", "b-1": "b", "c-1": "c", "c-2": "c"}
    seconds = {"a-1": 1.0, "a-2": 2.5, "a-3": 2.0, "b-1": 9.0, "c-1": 4.0, "c-2": 1.0}
    prompts, fallbacks = choose_prompts(utt2spk, seconds, PromptRule(0, 3.0))
    assert prompts == {"a-1": "a-2", "a-2": "a-3", "a-3": "a-2", "b-1": "c-1", "c-1": "c-2", "c-2": "c-1"}
    assert fallbacks == {
        "a-1": "shorter than 3 s: a-2 has 2.50 s",
        "a-2": "shorter than 3 s: a-3 has 2.00 s",
        "a-3": "shorter than 3 s: a-2 has 2.50 s",
        "b-1": "of another speaker: b has one utterance",
        "c-1": "shorter than 3 s: c-2 has 1.00 s",
    }


def test_a_borrowed_prompt_is_anybodys_where_nobody_else_has_a_long_one() -> None:
    prompts, _ = choose_prompts({"a-1": "a", "b-1": "b"}, {"a-1": 9.0, "b-1": 1.0}, PromptRule(0, 3.0))
    assert prompts == {"a-1": "b-1", "b-1": "a-1"}


def test_more_speakers_rarely_change_a_borrowed_prompt() -> None:
    utt2spk, seconds = corpus(200, 1)
    more, more_seconds = utt2spk | {"t-1": "t"}, seconds | {"t-1": 5.0}
    before, after = (
        choose_prompts(utt2spk, seconds, PromptRule())[0],
        choose_prompts(more, more_seconds, PromptRule())[0],
    )
    changed = [utterance for utterance in utt2spk if before[utterance] != after[utterance]]
    assert {after[utterance] for utterance in changed} <= {"t-1"}
    assert len(changed) < 20
    assert len(set(before.values())) > 80, "one voice serves everybody"


def test_fixed_prompts_win_and_only_their_utterances_get_one() -> None:
    utt2spk, seconds = corpus(2, 5)
    seconds["s0000-003"] = 0.5
    fixed = {"s0000-000": "s0000-003", "s0001-001": "s0001-gone", "s0009-000": "s0009-001"}
    prompts, fallbacks = choose_prompts(utt2spk, seconds, PromptRule(0, 3.0), fixed)
    assert prompts.keys() == {"s0000-000", "s0001-001"}
    assert prompts["s0000-000"] == "s0000-003"
    assert prompts["s0001-001"].startswith("s0001-") and prompts["s0001-001"] != "s0001-001"
    assert fallbacks == {"s0001-001": "fixed prompt not usable: s0001-gone"}


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"s0000-000": "s0000-000"}, "s0000-000 must not be its own prompt"),
        ({"s0000-000": "s0001-000"}, "prompt of s0000-000 must be of its speaker, got s0001-000 of s0001"),
    ],
)
def test_unfair_fixed_prompts_are_refused(fixed: dict[str, str], message: str) -> None:
    utt2spk, seconds = corpus(2, 2)
    with pytest.raises(ValueError, match=message):
        choose_prompts(utt2spk, seconds, PromptRule(), fixed)


def test_a_single_utterance_and_an_impossible_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there must be at least 2, got \['a-1'\]"):
        choose_prompts({"a-1": "a"}, {"a-1": 1.0}, PromptRule())
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="--prompt_min_sec must be at least 0 seconds, got"):
            PromptRule(0, value)


def test_a_corpus_of_librittss_size_takes_seconds() -> None:
    """The time was quadratic in a speaker's utterances, and for lone speakers in the corpus."""
    utt2spk, seconds = corpus(1, 30000)
    lone, lone_seconds = corpus(3000, 1)
    start = perf_counter()
    choose_prompts(
        utt2spk | {f"t{name}": f"t{name}" for name in lone}, seconds | {f"t{n}": 1.0 for n in lone}, PromptRule()
    )
    assert perf_counter() - start < 20  # less than a second on a quiet machine; the old way takes more than a minute


def encoded(folder: Path, utterances: list[str]) -> Path:
    """What codec_tokens has made before it comes to the prompts, at one frame per second."""
    write_data_dir(folder, {utt: f"{utt}.wav" for utt in utterances}, dict.fromkeys(utterances, "words"), {
        utt: utt[0] for utt in utterances
    })  # fmt: skip
    write_scp(folder / "codes.scp", {utt: f"codes.ark:{number}" for number, utt in enumerate(utterances)})
    write_scp(folder / "utt2num_frames", {utt: 4 for utt in utterances})
    return folder


def test_what_is_a_prompt_alone_leaves_the_tables_and_is_listed(tmp_path: Path) -> None:
    out, source = encoded(tmp_path / "out", ["a-1", "a-2", "a-3", "b-1", "b-2"]), tmp_path / "data"
    write_scp(source / "utt2prompt", {"a-1": "a-2", "b-2": "b-1"})
    write_prompts(out, source, PromptRule(), frame_rate_hz=1.0)
    for name in ("codes.scp", "prompt.scp", "utt2num_frames", "utt2prompt", "text", "utt2spk", "wav.scp"):
        assert list(read_scp(out / name)) == ["a-1", "b-2"], name
    assert speaker_to_utterances(read_scp(out / "utt2spk")) == {"a": ["a-1"], "b": ["b-2"]}
    assert read_scp(out / "spk2utt") == {"a": "a-1", "b": "b-2"}
    assert read_scp(out / "prompt.scp") == {"a-1": "codes.ark:1", "b-2": "codes.ark:3"}
    assert read_scp(out / "prompt_wav.scp") == {"a-1": "a-2.wav", "b-2": "b-1.wav"}
    assert (out / "prompt_only").read_text() == "a-2\tprompt\na-3\tnot in utt2prompt\nb-1\tprompt\n"


def test_without_fixed_prompts_everything_stays(tmp_path: Path) -> None:
    out = encoded(tmp_path / "out", ["a-1", "a-2", "b-1"])
    (out / "prompt_only").write_text("of an earlier run")
    write_prompts(out, tmp_path / "data", PromptRule(0, 5.0), frame_rate_hz=1.0)
    assert list(read_scp(out / "wav.scp")) == list(read_scp(out / "utt2prompt")) == ["a-1", "a-2", "b-1"]
    assert not (out / "prompt_only").exists()
    assert (out / "prompt_fallback").read_text().splitlines() == [
        "a-1\tshorter than 5 s: a-2 has 4.00 s",
        "a-2\tshorter than 5 s: a-1 has 4.00 s",
        "b-1\tof another speaker: b has one utterance",
    ]


def test_fixed_prompts_of_other_utterances_are_an_error(tmp_path: Path) -> None:
    out, source = encoded(tmp_path / "out", ["a-1", "a-2"]), tmp_path / "data"
    write_scp(source / "utt2prompt", {"c-1": "c-2"})
    with pytest.raises(ValueError, match="utt2prompt must list usable utterances, found none of them in"):
        write_prompts(out, source, PromptRule(), frame_rate_hz=1.0)
