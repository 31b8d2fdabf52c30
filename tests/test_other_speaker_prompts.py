"""Prompts of other speakers, for voice conversion."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from espnet_ext.codes import CodecSpec
from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.tokenizers.codec import write_codec_info
from espnet_ext.tokenizers.description import Description

LOCAL = Path(__file__).resolve().parent.parent / "local"
SPEAKERS = {f"{speaker}-{number}": speaker for speaker in "abc" for number in range(20)}


@pytest.fixture(scope="module")
def prompts() -> ModuleType:
    sys.path.insert(0, str(LOCAL))
    try:
        return importlib.import_module("other_speaker_prompts")
    finally:
        sys.path.remove(str(LOCAL))


def test_the_example_in_the_docstring_is_right(prompts: ModuleType) -> None:
    assert doctest.testmod(prompts) == (0, 2)


def test_every_prompt_is_long_enough_of_another_speaker_and_all_of_them_serve(prompts: ModuleType) -> None:
    seconds = {one: 0.1 if one.endswith("7") else 2.0 for one in SPEAKERS}
    chosen = prompts.choose_other_speakers(SPEAKERS, seconds, 0.5, seed=0)
    assert list(chosen) == sorted(SPEAKERS)
    assert all(SPEAKERS[one] != SPEAKERS[prompt] for one, prompt in chosen.items())
    assert not [prompt for prompt in chosen.values() if prompt.endswith("7")]
    assert {(SPEAKERS[one], SPEAKERS[prompt]) for one, prompt in chosen.items()} == {
        (first, second) for first in "abc" for second in "abc" if first != second
    }
    assert chosen == prompts.choose_other_speakers(dict(reversed(SPEAKERS.items())), seconds, 0.5, seed=0)
    assert chosen != prompts.choose_other_speakers(SPEAKERS, seconds, 0.5, seed=1)


def test_more_utterances_of_a_speaker_leave_the_prompts_of_that_speaker_alone(prompts: ModuleType) -> None:
    more = {**SPEAKERS, "a-99": "a"}
    before = prompts.choose_other_speakers(SPEAKERS, dict.fromkeys(SPEAKERS, 2.0), 0.5, seed=0)
    after = prompts.choose_other_speakers(more, dict.fromkeys(more, 2.0), 0.5, seed=0)
    assert {one: prompt for one, prompt in after.items() if one[0] == "a" and one != "a-99"} == {
        one: prompt for one, prompt in before.items() if one[0] == "a"
    }


@pytest.mark.parametrize(
    ("speakers", "least"), [({"a-1": "a", "a-2": "a"}, 0.5), (SPEAKERS, -1.0), (SPEAKERS, float("nan"))]
)
def test_one_speaker_and_impossible_lengths_are_refused(
    prompts: ModuleType, speakers: dict[str, str], least: float
) -> None:
    with pytest.raises(ValueError, match="need at least 2 speakers, got 1|--min_sec must be at least 0 seconds"):
        prompts.choose_other_speakers(speakers, dict.fromkeys(speakers, 2.0), least, seed=0)


def test_the_command_writes_the_table(tmp_path: Path) -> None:
    spec = CodecSpec(num_codebooks=2, codebook_size=8, frame_rate_hz=10.0, sample_rate_hz=16000)
    write_codec_info(
        Description("world_vq", tmp_path / "codec.npz", {}, spec, "c" * 64, {}), tmp_path / "codec_info.yaml"
    )
    write_scp(tmp_path / "utt2spk", {"a-1": "a", "b-1": "b", "b-2": "b"})
    write_scp(tmp_path / "utt2num_frames", {"a-1": 9, "b-1": 9, "b-2": 30})
    command = [sys.executable, str(LOCAL / "other_speaker_prompts.py"), "--data_dir", str(tmp_path)]
    command += ["--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(LOCAL.parent)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert read_scp(tmp_path / "out" / "utt2prompt") == {"a-1": "b-2", "b-1": "a-1", "b-2": "a-1"}
