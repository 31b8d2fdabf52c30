"""The voice that comes along speaks, soon, from anywhere."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_ext.storage.pretrained import DEFAULT_VOICE, shipped_voices

pytestmark = pytest.mark.espnet
TEXT = "seven small birds waited near that river"


def test_it_is_small_enough_to_come_along() -> None:
    assert shipped_voices()[DEFAULT_VOICE].stat().st_size <= 8e6


def test_one_command_speaks_anywhere_within_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "espnet_ext.bin.command", "say", TEXT, "-o", "hello.wav"]
    root = Path(__file__).resolve().parent.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    for _ in range(2):  # unpacked, then as it was unpacked
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
    assert "voice: mini, which comes along" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert 1.5 < soundfile.info(tmp_path / "hello.wav").duration < 5


def test_what_it_says_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a small model goes: most words, by a recogniser of the words of its corpus."""
    pytest.importorskip("pocketsphinx", reason="the recogniser is an extra")
    from espnet_ext.inference import Speaker
    from espnet_ext.scoring.evaluators import PocketSphinx

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = [TEXT, "call three five nine now", "two red dogs"]
    words = sorted({word for text in texts for word in text.split()})
    speeches = Speaker.from_pretrained(DEFAULT_VOICE).batch(texts, seed=0)
    hear = PocketSphinx(words)
    heard = [hear.recognise(speech.waveform).split() for speech in speeches]
    found = sum(len(set(text.split()) & set(one)) for text, one in zip(texts, heard, strict=True))
    assert found >= 0.7 * sum(len(text.split()) for text in texts)
