"""Scores of systems that have modes: whose voice counts, what is heard, and what has no text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from test_score_stage import ToyCodec, buzz
from test_scoring import corpus_clips

from espnet_ext.bin import evaluate as score
from espnet_ext.data.ark import codes_writer
from espnet_ext.data.datadir import write_scp, write_skipped
from espnet_ext.scoring.evaluate import evaluate
from espnet_ext.scoring.scores import Scores, SystemScores
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import load_reference, load_system, load_untranscribed
from espnet_ext.scoring.tables.mode_table import mode_table
from espnet_ext.scoring.tables.report import results_page, terminal_summary
from espnet_ext.scoring.tables.strategy_table import strategy_table

PITCHES = {"a": 100.0, "b": 170.0, "c": 240.0}
UTTERANCES = [f"{speaker}-{number}" for speaker in PITCHES for number in (1, 2)]
OTHER = {"a": "b", "b": "c", "c": "a"}


def write_speech(folder: Path, speech: dict[str, np.ndarray], seed: int = 0) -> None:
    """What every output directory has: audio, and random codes."""
    (folder / "wav").mkdir(parents=True)
    for one, samples in speech.items():
        soundfile.write(folder / "wav" / f"{one}.wav", samples, 16000)
    write_scp(folder / "wav.scp", {one: folder / "wav" / f"{one}.wav" for one in speech})
    generator = np.random.default_rng(seed)
    with codes_writer(folder) as write:
        for one in speech:
            write(one, generator.integers(4, size=(10, 2)))


def write_costs(folder: Path, mode: str, decoding: str = "local_ar", **status: str) -> None:
    """What says that a directory is a system's, and how it was asked."""
    (folder / "timing.json").write_text(json.dumps({"rtf": 0.5, "steps": 9, "mode": mode, "decoding": decoding}))
    write_scp(folder / "status", status)


def voice(speaker: str) -> np.ndarray:
    return buzz(1.0, PITCHES[speaker])


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two utterances of each of three voices."""
    monkeypatch.chdir(tmp_path)
    folder = Path("reference")
    write_speech(folder, {one: voice(one[0]) for one in UTTERANCES})
    write_scp(folder / "text", dict.fromkeys(UTTERANCES, "two red dogs"))
    write_scp(folder / "utt2spk", {one: one[0] for one in UTTERANCES})
    return folder


def scores_of(folders: dict[str, str], free: dict[str, str] | None = None) -> Scores:
    reference = load_reference(Path("reference"))
    systems = [load_system(name, Path(folder), reference.transcripts) for name, folder in folders.items()]
    untranscribed = [load_untranscribed(name, Path(folder)) for name, folder in (free or {}).items()]
    return evaluate(reference, systems, ToyCodec(), Settings(resamples=20, mos=()), untranscribed)


def page_of(result: Scores) -> str:
    return results_page([replace(result, environment={"date": "2026"})], Path())


def test_converted_speech_is_compared_with_the_speaker_of_its_prompt(reference: Path) -> None:
    folder = Path("exp/decode_speaker_conversion_local_ar/set")
    write_speech(folder, {one: voice(OTHER[one[0]]) for one in UTTERANCES})
    write_costs(folder, "speaker_transfer", **dict.fromkeys(UTTERANCES, "ok"))
    write_scp(folder / "utt2prompt", {one: f"{OTHER[one[0]]}-1" for one in UTTERANCES})
    result = scores_of({"s1_speaker_conversion": str(folder)})
    voices = result.systems["s1_speaker_conversion"].speaker
    assert voices.own > 0.99 > voices.other
    assert voices.nearest == 1.0
    assert voices.source < voices.own
    page = page_of(result)
    assert "- prompts of another speaker than the recording's: s1_speaker_conversion (6)" in page
    (folder / "utt2prompt").unlink()
    without = scores_of({"s1_speaker_conversion": str(folder)}).systems["s1_speaker_conversion"].speaker
    assert without.own < voices.own and without.source is None, "no prompt: the recording's speaker"


def test_words_and_length_are_those_of_the_whole_and_the_voice_is_that_of_the_continuation(
    reference: Path, tmp_path: Path
) -> None:
    folder = Path("exp/decode_continuation_local_ar/set")
    write_speech(folder, {one: voice(one[0]) for one in UTTERANCES})
    write_costs(folder, "continuation", **dict.fromkeys(UTTERANCES, "ok"))
    alone = scores_of({"s1_continuation": str(folder)}).systems["s1_continuation"]
    spoken, rate = soundfile.read(next(iter(corpus_clips(tmp_path, 1, 1)[0].values())))  # words, which a buzz has not
    whole = np.resize(soxr.resample(spoken, rate, 16000), 3 * 16000)
    write_speech(folder / "whole", dict.fromkeys(UTTERANCES, whole))
    whole = scores_of({"s1_continuation": str(folder)}).systems["s1_continuation"]
    assert whole.duration_ratio == pytest.approx(3 * alone.duration_ratio)
    assert whole.speaker == alone.speaker
    assert whole.hypotheses != alone.hypotheses
    Path(folder / "whole" / "wav" / "a-1.wav").unlink()
    assert list(scores_of({"s1_continuation": str(folder)}).systems["s1_continuation"].missing) == ["a-1"]


def test_speech_without_a_text_is_counted_and_has_no_error_rate(reference: Path) -> None:
    folder = Path("exp/decode_unconditional_local_ar/free")
    write_speech(folder, {"u-0": voice("a"), "u-1": np.zeros(16000), "u-2": buzz(2.0, 170.0)})
    write_costs(folder, "unconditional", **{"u-0": "ok", "u-1": "no_eos", "u-2": "no_eos", "u-3": "skipped"})
    write_skipped(folder / "skipped", {"u-3": "cannot be spoken: no room"})
    result = scores_of({"original": "reference"}, {"s1_unconditional": str(folder)})
    assert list(result.systems) == ["original"]
    scores = result.untranscribed["s1_unconditional"]
    assert (scores.utterances, scores.silent, scores.eos_failures) == (3, 1, 3)
    assert scores.seconds == pytest.approx(4.0)
    assert scores.missing == {"u-3": "cannot be spoken: no room"}
    assert 0.8 < scores.nearest_voice < 1
    assert scores.frechet.distance > 0
    assert scores.wordless >= 1
    page = page_of(result)
    assert "|unconditional|local_ar|1|–|–|–|–|–|–|" in page
    assert "### Speech without a text" in page
    assert "- no text, so no error rate and no prompt's speaker: s1_unconditional" in page
    assert "- s1_unconditional, no audio: 1 × cannot be spoken (u-3)" in page
    assert "s1_unconditional  no text" in terminal_summary([replace(result, title="set")])


def test_modes_have_a_table_of_their_own_and_are_not_compared_with_each_other(reference: Path) -> None:
    folders = {}
    for mode in ("speaker_transfer", "speaker_conversion"):
        for strategy in ("parallel", "local_ar"):
            folder = Path(f"exp/decode_{mode}_{strategy}/set")
            shutil.copytree("reference", folder)
            write_costs(folder, "speaker_transfer", strategy, **dict.fromkeys(UTTERANCES[:4], "ok"))
            folders[f"s2_{mode}_{strategy}"] = str(folder)
    result = scores_of(folders)
    assert [(pair.first, pair.second) for pair in result.comparisons] == [
        ("s2_speaker_transfer_local_ar", "s2_speaker_transfer_parallel"),
        ("s2_speaker_conversion_local_ar", "s2_speaker_conversion_parallel"),
    ]
    assert strategy_table(result.systems, {}) == ""
    rows = [row.split("|")[1:4] for row in mode_table(result.systems, {}).splitlines()[2:]]
    assert rows == [
        [mode, strategy, "2"]
        for mode in ("speaker_transfer", "speaker_conversion")
        for strategy in ("parallel", "local_ar")
    ]
    assert "|2 of 6|0.500|" in mode_table(result.systems, {})
    assert mode_table({"s1_parallel": SystemScores()}, {}) == ""


def test_what_a_system_or_the_test_set_left_out_is_named_with_the_reason(reference: Path) -> None:
    folder = Path("exp/decode_speaker_transfer_local_ar/set")
    write_speech(folder, {one: voice(one[0]) for one in UTTERANCES[1:]})
    write_skipped(folder / "skipped", {"a-1": "prompt of a-1 must last at least 0.5 s: got 0.40 s"})
    write_skipped(reference / "skipped", {"a-3": "rates do not agree: 40 units, 90 frames"})
    page = page_of(scores_of({"x": str(folder)}))
    assert "- x, no audio (words count as deleted): 1 × prompt of a-1 must last at least 0.5 s (a-1)" in page
    assert "- left out of the test set: 1 × rates do not agree (a-3)" in page


def test_names_of_systems_with_and_without_a_text_must_differ(reference: Path) -> None:
    command = ["--codec_info", "codec_info.yaml", "--reference", "reference", "--output_dir", "out"]
    command += ["--system", "x=reference"]
    with pytest.raises(ValueError, match="--untranscribed must have different names, got 'x' twice"):
        score.main([*command, "--untranscribed", "x=reference"])
    with pytest.raises(ValueError, match="--untranscribed must be NAME=DIR, got 'y'"):
        score.main([*command, "--untranscribed", "y"])
