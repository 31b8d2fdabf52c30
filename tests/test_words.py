"""Words and characters of every script, and what is said of words that a recogniser cannot hear."""

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from espnet_ext.scoring.measures.error_rate import ErrorCounts, character_errors, normalise, word_errors, words_of
from espnet_ext.scoring.measures.fluency import is_truncated

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
