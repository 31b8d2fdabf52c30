"""Words and characters of every script, and what is said of words that a recogniser cannot hear."""

import argparse
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from espnet_ext.scoring.evaluators import recognisers
from espnet_ext.scoring.evaluators.evaluator import Choice
from espnet_ext.scoring.measures.error_rate import ErrorCounts, character_errors, normalise, word_errors, words_of
from espnet_ext.scoring.measures.fluency import is_truncated
from espnet_ext.scoring.measures.words import recogniser_for, words_to_hear
from espnet_ext.scoring.options import add_evaluator_option, parse_evaluators, texts_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [("schon", "schön"), ("мои", "мой"), ("かき", "がぎ"), ("తెలుగు", "తలగ"), ("किताब", "कताब"), ("ขาว", "ข้าว")],
)
def test_marks_are_letters_of_their_language(reference: str, hypothesis: str) -> None:
    """They were dropped, so that these were right."""
    for one, other in ((reference, hypothesis), (hypothesis, reference)):
        assert word_errors(one, other).errors > 0 and character_errors(one, other).errors > 0
        decomposed = unicodedata.normalize("NFD", one)
        assert word_errors(one, decomposed).errors == character_errors(one, decomposed).errors == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में, नमस्ते दुनिया!", ["हिन्दी", "में", "नमस्ते", "दुनिया"]),
        ("తెలుగు భాష", ["తెలుగు", "భాష"]),
        ("เด็ก ไป", ["เ", "ด็", "ก", "ไ", "ป"]),
        ("红狗。two 狗", ["红", "狗", "two", "狗"]),
        ("がぎ お茶ー", ["が", "ぎ", "お", "茶", "ー"]),
        ("ខ្មែរ ລາວ မြန်", ["ខ្", "មែ", "រ", "ລ", "າ", "ວ", "မြ", "န်"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("שָׁלוֹם عَلَيْكُمْ", ["שָׁלוֹם", "عَلَيْكُمْ"]),
        ("it's a well-known “café”", ["it's", "a", "well", "known", "café"]),
    ],
)
def test_words_are_those_of_their_script(text: str, words: list[str]) -> None:
    """Words of Devanagari and Thai were cut at their vowels."""
    wanted = [unicodedata.normalize("NFC", word) for word in words]
    assert words_of(normalise(text)) == wanted
    assert word_errors(text, text).correct == len(words)
    assert normalise(normalise(text)) == normalise(text)


def test_blanks_mean_nothing_in_scripts_without_them() -> None:
    assert character_errors("红狗在门前", "红狗 在 门前") == ErrorCounts(5, 0, 0, 0)
    assert word_errors("红狗在门前", "红猫 在门") == ErrorCounts(3, 1, 1, 0)
    assert is_truncated("红狗在门前等", "红狗在") and not is_truncated("红狗在门前等", "红狗在门前的")


@pytest.mark.parametrize("spelling", ["İstanbul", "I\u0307stanbul", "istanbul"])
def test_a_capital_of_turkish_is_the_same_letter(spelling: str) -> None:
    """Bug: lower() left the dot of İ behind, as a mark of its own."""
    assert normalise(spelling) == normalise(normalise(spelling)) == "istanbul"
    assert word_errors(spelling, "istanbul").errors == character_errors("istanbul", spelling).errors == 0
    assert normalise("Iı Straße") == "iı straße"


def test_words_that_the_recogniser_will_not_hear_are_said_before_the_training(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")

    def said(text: str, *more: str) -> str:
        (tmp_path / "text").write_text(f"u-1 {text}\n", encoding="utf-8")
        command = [sys.executable, ROOT / "local" / "check_words.py", tmp_path / "text", "--num_bootstrap", "9", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
        return done.stderr

    none = "pocketsphinx knows none of the 2 words (lauft, straße): there will be no word error rates, see --asr"
    assert said("läuft Straße") == f"WARNING: {tmp_path}/text: {none}\n"
    assert "pocketsphinx does not know 1 of 3 words, and will never hear them: zyxxyz" in said("two zyxxyz dogs")
    assert said("two dogs") == said("läuft", "--asr", "none") == ""


def test_many_different_words_are_heard_by_the_recogniser_of_any_words_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    few, many = ["two red dogs"] * 400, [f"word{number}" for number in range(301)]
    monkeypatch.setattr(Choice, "unavailable", lambda self: None)
    assert (recogniser_for(few), recogniser_for(many[:300]), recogniser_for(many)) == (
        "pocketsphinx", "pocketsphinx", "faster_whisper",
    )  # fmt: skip
    assert not caplog.text
    monkeypatch.setattr(Choice, "unavailable", lambda self: "it is not installed: pip install it")
    assert (recogniser_for(few), caplog.text) == ("pocketsphinx", "")
    assert recogniser_for(many) == "pocketsphinx"
    assert "the texts have 301 different words, too many for pocketsphinx to tell apart well" in caplog.text
    assert "faster_whisper hears any, but it is not installed: pip install it" in caplog.text


def test_the_words_of_the_texts_decide_only_where_no_recogniser_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choice, "unavailable", lambda self: None)
    parser = argparse.ArgumentParser()
    add_evaluator_option(parser, "asr")
    (tmp_path / "text").write_text("b two red dogs\na one\n", encoding="utf-8")
    further = tmp_path / "further"
    further.write_text("".join(f"{number:03d} word{number}\n" for number in range(300)), encoding="utf-8")

    def named(*options: str, texts: tuple[Path, ...] = (further,)) -> list[str]:
        args = parser.parse_args(options)
        return [one.name for one in parse_evaluators(args, texts_of(tmp_path, texts), ["asr"])["asr"]]

    assert named() == ["faster_whisper"] and named(texts=()) == ["pocketsphinx"]
    assert named("--asr", "pocketsphinx") == ["pocketsphinx"] and named("--asr", "none") == []
    assert named("--asr", "faster_whisper", texts=()) == ["faster_whisper"]


def test_what_whisper_writes_in_digits_is_compared_in_words() -> None:
    pytest.importorskip("inflect")
    spell = recognisers["faster_whisper"].normalise
    assert spell("At 20, Dr. Lee won 7%.") == spell("at twenty doctor lee won seven percent")
    assert spell(spell("In 1905, Mr. Fox")) == "in nineteen oh five mister fox"


@pytest.mark.parametrize(
    ("conf", "texts", "languages", "reason"),
    [
        ({}, ["Two dogs", "мой дом"], [], None),
        ({}, ["Two dogs"], ["en-GB"], None),
        ({}, ["мой дом", "мои"], [], "hears English only, got texts without a letter of English"),
        (
            {},
            ["ein Haus"],
            ["en", "de"],
            "tiny.en of faster_whisper hears English only, got the language de: --asr_conf m",
        ),
        ({"language": "de"}, ["ein Haus"], [], "hears English only, got the language de"),
        ({"language": "ru", "model": "small"}, ["мой дом"], ["ru"], None),
    ],
)
def test_a_model_of_english_alone_refuses_other_languages_with_a_reason(
    conf: dict[str, str], texts: list[str], languages: list[str], reason: str | None
) -> None:
    choice = Choice("asr", "faster_whisper", conf)
    if reason is None:
        assert words_to_hear(choice, texts, languages) == choice
    else:
        with pytest.raises(ValueError, match=re.escape(reason)):
            words_to_hear(choice, texts, languages)
