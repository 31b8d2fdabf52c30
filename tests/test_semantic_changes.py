"""Semantic units and their tokenizer are of the audio as it is now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import soundfile
from test_semantic_bins import FIT, TOKENS, TRAIN, made, recipe
from tiny_codecs import voice

from espnet_ext.bin import semantic_fit, semantic_tokens
from espnet_ext.tokenizers.semantic import read_semantic_info

__all__ = ["made", "recipe"]  # fixtures


def test_units_are_of_the_audio_as_it_is_now_and_force_makes_them_again() -> None:
    """Only the tables were compared: audio that was replaced under its name kept its old units."""
    semantic_tokens.main(TOKENS)
    fingerprint, old = read_semantic_info("dump/semantic").fingerprint, Path(TRAIN / "semantic.ark").read_bytes()
    before = os.stat("wav/a-1.wav")
    soundfile.write("wav/a-1.wav", voice(0.8, 300.0, 9), 16000)
    os.utime("wav/a-1.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    semantic_tokens.main(TOKENS)
    assert Path(TRAIN / "semantic.ark").read_bytes() != old
    semantic_fit.main(FIT)
    assert read_semantic_info("dump/semantic").fingerprint != fingerprint
    semantic_tokens.main(TOKENS)
    for command, arguments, name in (
        (semantic_fit, FIT, "dump/semantic/skipped"),
        (semantic_tokens, TOKENS, TRAIN / "text"),
    ):
        then = os.stat(name).st_mtime_ns
        command.main([*arguments, "--force"])
        assert os.stat(name).st_mtime_ns > then


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_damaged_archive_of_units_is_made_again(force: list[str]) -> None:
    semantic_tokens.main(TOKENS)
    archive = TRAIN / "semantic.ark"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:100])
    semantic_tokens.main([*TOKENS, *force])
    assert archive.read_bytes() == whole
