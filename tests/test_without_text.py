"""Corpora without transcripts, and with languages, from audio to a token directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ARCHIVES
from test_data_prep import run, skipped
from tiny_codecs import voice

pytest.importorskip("pyworld")
pytest.importorskip(ARCHIVES)

from espnet_ext.bin import codec_fit, codec_tokens, semantic_fit, semantic_tokens
from espnet_ext.data.datadir import read_scp, write_data_dir, write_scp
from espnet_ext.data.streams import SILENCE_NAME

UTTERANCES = ["a-1", "a-2", "a-3", "b-1", "b-2"]
LENGTHS_SEC = {"a-3": 0.1}
KEPT = [utterance for utterance in UTTERANCES if utterance not in LENGTHS_SEC]
TOKENS = ["--semantic_info", "semantic/semantic_info.yaml", "--data_dir", "filtered", "--codes_dir", "codec/train"]
TOKENS += ["--out", "tokens"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory without a text, one of whose utterances is too short."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wav").mkdir()
    wavs = {utterance: f"wav/{utterance}.wav" for utterance in UTTERANCES}
    for index, (utterance, wav) in enumerate(wavs.items()):
        sound = voice(LENGTHS_SEC.get(utterance, 0.8 + 0.08 * index), 100.0 if utterance[0] == "a" else 170.0, index)
        soundfile.write(wav, sound, 16000)
    write_data_dir("data", wavs, None, {utterance: utterance[0] for utterance in UTTERANCES})
    return tmp_path / "data"


def format_and_filter(cwd: Path) -> None:
    for command in (
        ("format_wav.py", "--in", "data", "--out", "raw", "--fs", 16000),
        ("filter_data.py", "--in", "raw", "--out", "filtered"),
    ):
        done = run(*command, cwd=cwd)
        assert done.returncode == 0, done.stderr


def encode() -> None:
    codec_fit.main(["--wav_scp", "filtered/wav.scp", "--codec_conf", "codebook_size=8", "--out", "codec"])
    semantic_fit.main(["--semantic_conf", "num_units=8", "--wav_scp", "filtered/wav.scp", "--out", "semantic"])
    codec_tokens.main(["--codec_info", "codec/codec_info.yaml", "--data_dir", "filtered", "--out", "codec/train"])
    semantic_tokens.main(TOKENS)


def test_audio_and_speakers_are_enough_for_a_token_directory(data: Path) -> None:
    """Every stage asked for a text, which only the mode tts and the scores read."""
    format_and_filter(data.parent)
    assert skipped(Path("filtered")) == {"a-3": "too short: 0.100 s"}
    encode()
    for name in ("semantic.scp", "codes.scp", "prompt.scp", "prompt_semantic.scp", "wav.scp", "utt2spk"):
        assert list(read_scp(f"tokens/{name}")) == KEPT
    assert not list(Path().rglob("text"))
    assert skipped(Path("codec/train")) == skipped(Path("tokens")) == {}


def test_fixed_prompts_need_no_text_either(data: Path) -> None:
    write_scp(data / "utt2prompt", {"a-1": "a-2", "b-1": "b-2"})
    format_and_filter(data.parent)
    encode()
    assert list(read_scp("tokens/semantic.scp")) == ["a-1", "b-1"]
    assert not list(Path().rglob("text"))


def test_where_there_is_a_text_every_utterance_must_be_in_it(data: Path) -> None:
    write_scp(data / "text", {utterance: "words" for utterance in UTTERANCES if utterance != "b-1"})
    format_and_filter(data.parent)
    assert skipped(Path("filtered"))["b-1"] == "missing transcript"
    texts = read_scp("filtered/text")
    write_scp("filtered/text", {utterance: "words" for utterance in texts if utterance != "a-2"})
    encode()
    assert skipped(Path("codec/train")) == {"a-2": "no transcript"}
    assert list(read_scp("tokens/text")) == list(read_scp("tokens/semantic.scp")) == ["a-1", "b-2"]


def test_a_text_that_is_taken_away_leaves_all_copies(data: Path) -> None:
    write_scp(data / "text", dict.fromkeys(UTTERANCES, "words"))
    format_and_filter(data.parent)
    encode()
    assert Path("tokens/text").is_file()
    (data / "text").unlink()
    format_and_filter(data.parent)
    encode()
    assert not list(Path().rglob("text"))


def test_languages_reach_the_token_directory(data: Path) -> None:
    """Formatting and filtering lost the table, so that a recipe's model was told no language."""
    languages = {utterance: "en" if utterance[0] == "a" else "zh" for utterance in UTTERANCES}
    write_scp(data / "utt2lang", languages)
    format_and_filter(data.parent)
    assert read_scp("raw/utt2lang") == languages
    assert read_scp("filtered/utt2lang") == {utterance: languages[utterance] for utterance in KEPT}
    encode()
    assert read_scp("tokens/utt2lang") == read_scp("filtered/utt2lang")
    (data / "utt2lang").unlink()
    format_and_filter(data.parent)
    assert not Path("filtered/utt2lang").exists()


def test_silence_that_was_deleted_is_written_again_and_nothing_else(data: Path) -> None:
    """The command looked for the archive of units alone, and said that there was nothing to do."""
    format_and_filter(data.parent)
    encode()
    silence, archive = Path("tokens") / SILENCE_NAME, Path("tokens/semantic.ark").stat().st_mtime_ns
    with np.load(silence) as before:
        wanted = {name: before[name].tolist() for name in before}
    silence.unlink()
    semantic_tokens.main(TOKENS)
    with np.load(silence) as again:
        assert {name: again[name].tolist() for name in again} == wanted
    assert Path("tokens/semantic.ark").stat().st_mtime_ns == archive
