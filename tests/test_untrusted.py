"""Damaged and hostile descriptions: each is one line that names the file, before anything is allocated for it."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_ext.bin import run, several
from espnet_ext.codes import CodecSpec
from espnet_ext.data.audio import read_channels
from espnet_ext.data.ctm import read_ctm
from espnet_ext.data.datadir import read_counts, read_scp, read_segments, write_scp
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record, finished
from espnet_ext.scoring.tables.learning_curve import parse_train_log
from espnet_ext.storage.checkpoint import averaged_model_file, check_finite, read_weights
from espnet_ext.storage.checksums import MADE_FORMAT, verify
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.codec import load_codec, save_codec
from espnet_ext.tokenizers.codec.world_vq import WorldVQCodec
from espnet_ext.tokenizers.text.cleaners import clean_english
from espnet_ext.tokenizers.text.english import spell_symbols
from espnet_ext.tokenizers.text.tokens import read_token_list

ROOT = Path(__file__).resolve().parent.parent
MISSING = object()
DAMAGES = {"text": "ab\0c", "NaN": float("nan"), "huge": 10**12, "below": -1, "empty": {}, "missing": MISSING}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE_YAML = {
    "a" * 3 + ": " + "[" * 20_000: "nested too deep",
    "{" * 20_000: "nested too deep",
    "x: &x [*x]": "nested too deep",
    BOMB: "too many values",
    "x: 0x" + "f" * 10_000: "a number that is too large",
    "x: " + "9" * 5000: "a value that is none",
    "x: 2024-99-99": "a value that is none",
    "x: !!int ''": "a value that is none",
    "x: !!python/object/apply:os.mkdir [ran]": "could not determine a constructor",
}


# --- yaml ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), HOSTILE_YAML.items(), ids=range(len(HOSTILE_YAML)))
def test_yaml_that_would_take_all_memory_or_run_code_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"config must be a yaml file, got .*some.yaml \(.*{message}") as caught:
        read_yaml(path, "config")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    (tmp_path / "codec_info.yaml").write_text(text)
    with pytest.raises(UserError, match="codec_info must be a file written by .*codec_info.yaml"):
        load_codec(tmp_path)
    with pytest.raises(UserError, match="some.yaml"):
        DecodeOptions.from_yaml(path)


# --- codecs ----------------------------------------------------------------------------------------------------------


def damaged(content: Any, place: tuple[Any, ...], damage: Any) -> Any:
    """A copy of the content of a yaml file with another value at a place, or none."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if damage is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = damage
    return content


def places(content: Any, outer: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All keys, those of inner mappings and lists included."""
    for key in content if isinstance(content, dict) else range(len(content)):
        yield (*outer, key)
        if isinstance(content[key], dict | list):
            yield from places(content[key], (*outer, key))


def assert_one_line(error: BaseException) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 1500


def test_a_codec_description_with_any_key_damaged_is_one_line(tmp_path: Path) -> None:
    ones = np.ones(27, dtype=np.float32)
    codec = WorldVQCodec([np.zeros((2, 12), np.float32), np.zeros((2, 96), np.float32)], ones, ones, [24])
    save_codec(codec, "world_vq", tmp_path, origin={"seed": 0})
    path = tmp_path / "codec_info.yaml"
    content = yaml.safe_load(path.read_text())
    for place in places(content):
        for damage in [*DAMAGES.values(), 1e308, [], {1: 2, "a": 3}]:
            path.write_text(yaml.safe_dump(damaged(content, place, damage)))
            if place[0] == "origin":
                continue
            with pytest.raises((UserError, OSError), match=str(tmp_path)) as caught:
                load_codec(tmp_path)
            assert_one_line(caught.value)


@pytest.mark.parametrize("name", ["num_codebooks", "codebook_size", "frame_rate_hz", "sample_rate_hz"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e308, 10**12, "8", None, True])
def test_facts_of_a_codec_are_numbers_that_fit_into_memory(name: str, value: Any) -> None:
    facts = {"num_codebooks": 8, "codebook_size": 1024, "frame_rate_hz": 75.0, "sample_rate_hz": 24000}
    with pytest.raises(UserError, match=f"{name} must be "):
        CodecSpec(**{**facts, name: value})


# --- experiments -----------------------------------------------------------------------------------------------------

READ = (
    *("corelm", "corelm_conf", "primary", "primary_conf", "local", "local_conf", "frame_stacking_factor", "parts"),
    *("codec_info", "semantic_info", "token_list", "token_type", "cleaner", "numbers", "g2p", "bpemodel"),
    *("prompt_sec", "frames_per_token", "longest", "speech_limits", "best_model_criterion"),
)


@pytest.mark.espnet
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_config_with_any_key_damaged_is_one_line(experiment: Path, tmp_path: Path, kind: str) -> None:
    """55 of 221 gave a traceback, others filled the memory or never ended."""
    from espnet_ext.inference import Speaker

    exp = tmp_path / "exp"
    shutil.copytree(experiment, exp)
    config, refused = exp / "config.yaml", 0
    content = yaml.safe_load(config.read_text())
    read = {key: value for key, value in content.items() if key in READ}
    for place in [one for one in places(read) if one[0] != "token_list" or len(one) < 2 or one[1] < 1]:
        config.write_text(yaml.safe_dump(damaged(content, place, DAMAGES[kind])))
        error: Exception | None = None
        try:
            Speaker.from_experiment(exp)
        except (UserError, OSError) as caught:  # all else fails the test
            error, refused = caught, refused + 1
        assert error is None or "\n" not in str(error) and len(str(error)) < 1500
        assert error is None or str(exp) in str(error) or "token_list not found" in str(error)
    assert refused > 20
    others = dict.fromkeys(content.keys() - read.keys(), DAMAGES[kind])
    config.write_text(yaml.safe_dump(read if kind == "missing" else {**content, **others}))
    Speaker.from_experiment(exp)


def test_weights_that_repeat_a_number_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"table": torch.ones(1).expand(10**12)}, path)
    assert path.stat().st_size < 2000
    with pytest.raises(UserError, match=r"a.pth must hold all its weights, got table of \(10+,\) in few bytes"):
        check_finite(read_weights(path), path)


def test_the_name_of_the_weights_stays_in_the_experiment() -> None:
    with pytest.raises(UserError, match="best_model_criterion must be a list of three words each"):
        averaged_model_file({"best_model_criterion": [["../../other/valid", "loss", "min"]]})


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [".", "..", "a\x00b", "a\x1b[2Jb", "a\x7f", "a\x9bm"])
def test_a_key_that_is_no_name_is_neither_read_nor_written(tmp_path: Path, key: str) -> None:
    (tmp_path / "text").write_text(f"{key} one\n")
    with pytest.raises(UserError, match=r"text:1: must be text, got a zero byte|text:1: a key must be a name, got '"):
        read_scp(tmp_path / "text")
    with pytest.raises(UserError, match="wav.scp: a key must be a name, got '"):
        write_scp(tmp_path / "wav.scp", {key: "x.wav"})


def test_a_zero_byte_in_a_value_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_bytes(b"a a.wav\nb b\0.wav\n")
    with pytest.raises(UserError, match=r"wav.scp:2: must be text, got a zero byte"):
        read_scp(tmp_path / "wav.scp")


@pytest.mark.parametrize("count", ["x", "-1", "1.5", "9" * 5000, "\u0661", "9999999999"])
def test_counts_are_whole_numbers_that_memory_can_hold(tmp_path: Path, count: str) -> None:
    (tmp_path / "utt2num_frames").write_text(f"a 1\nb {count}\n")
    with pytest.raises(UserError, match="utt2num_frames:2: b must have a whole number, got '"):
        read_counts(tmp_path / "utt2num_frames")


# --- audio -----------------------------------------------------------------------------------------------------------


def test_a_header_that_promises_more_sound_than_the_file_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 GiB were asked for, for a file of 8 kB."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(16000, np.int16), 16000)
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F]) + b"\xff" * 4  # 36 bits: the number of samples
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"unreadable wav: .*a.flac says that it has 68719476735 samples, for which it is"
    ):
        read_channels(path)
    monkeypatch.syspath_prepend(str(ROOT / "egs2" / "fsdd" / "codec_lm1" / "local"))
    found, skipped = importlib.import_module("fsdd_recordings").read_recordings(recordings(tmp_path, path))
    assert [one.name for one in found] == ["1_a_0"] and list(skipped) == ["1_b_0.wav"]
    assert "too small for the samples" in skipped["1_b_0.wav"]
    sys.modules.pop("fsdd_recordings")


def recordings(folder: Path, hostile: Path) -> Path:
    """A corpus as FSDD is one, with a good recording and another one."""
    place = folder / "recordings"
    place.mkdir()
    soundfile.write(place / "1_a_0.wav", np.sin(np.arange(8000)), 8000)
    shutil.copy(hostile, place / "1_b_0.wav")
    return place


def test_silence_that_is_packed_densely_is_read(tmp_path: Path) -> None:
    for kind in ("flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"a.{kind}", np.zeros(48000 * 30), 48000)
        assert len(read_channels(tmp_path / f"a.{kind}").samples) >= 48000 * 30


def test_a_command_in_a_wav_scp_is_a_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("touch ran |", "| touch ran", "sox a.wav -t wav - ; touch ran |"):
        (tmp_path / "wav.scp").write_text(f"a {command}\n")
        with pytest.raises(UserError, match="missing wav: "):
            read_channels(read_scp(tmp_path / "wav.scp")["a"])
    assert not (tmp_path / "ran").exists()


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_about_security_names_functions_and_tests_that_are_there() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 15
    text = "\n".join(rows)
    for file, names in re.findall(r"`(\w+\.py): (test_\w+(?:`, `test_\w+)*)`", text):
        content = (ROOT / "tests" / file).read_text()
        assert all(f"def {name}(" in content for name in names.split("`, `")), f"{file}: {names}"
    for file, names in re.findall(r"`((?:\w+/)+\w+\.py): (\w+(?:\.\w+)?)", text):
        assert names.rpartition(".")[2] in (ROOT / "espnet_ext" / file).read_text(), f"{file}: {names}"


def test_an_error_gives_no_orders_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> None:
        read_yaml(tmp_path / "\x1b]0;title\a.yaml", "config")

    with pytest.raises(SystemExit, match=r"config not found: .*\\x1b\]0;title\\x07.yaml"):
        run(read)


def test_a_path_in_a_table_has_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a a.wav\nb \x1b[31m.wav\n")
    with pytest.raises(UserError, match=r"wav.scp:2: must name a file without control characters, got '\\x1b"):
        read_scp(tmp_path / "wav.scp")


@pytest.mark.parametrize("text", ["a" + " " * 20_000 + "b", "# " * 20_000, "\n" * 20_000 + "%", "a &" + " " * 20_000])
def test_texts_take_no_more_time_than_in_proportion_to_their_length(text: str) -> None:
    begun = time.perf_counter()
    clean_english(spell_symbols(text))
    assert time.perf_counter() - begun < 1, "0.02 s are usual, the square of the blanks took 4 to 20 s"


def test_a_log_takes_no_more_time_than_in_proportion_to_its_length() -> None:
    begun = time.perf_counter()
    assert parse_train_log(f"1epoch results: [train] {'x' * 40_000}, loss=1.5") == {"train": {"loss": {1: 1.5}}}
    assert time.perf_counter() - begun < 1, "the square of a long word took 24 s"


def read_jobs(path: Path) -> None:
    several(lambda job: None, ["--jobs", str(path)])


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_token_list, b"a\n\xff\n", "token_list must be UTF-8, got .*file"),
        (read_ctm, b"a 1 0.0 0.1 x\nb 1 0.0 0.1 \xff\n", "file:2: must be id, channel, begin"),
        (read_ctm, b"a 1 nan 0.1 x\n", "file:1: must be id, channel, begin"),
        (read_segments, b"a rec 0 1e400\n", "a must have a recording, begin and end"),
        (read_segments, b"a rec nan 1\n", "a must have a recording, begin and end"),
        (read_jobs, b"--a 'b\n", "--jobs must be a file in a shell's quoting"),
        (read_jobs, b"\xff\n", "--jobs must be a file in a shell's quoting"),
    ],
)
def test_a_file_of_another_kind_is_one_line(
    tmp_path: Path, read: Callable[[Path], object], content: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "file")
    assert_one_line(caught.value)


@pytest.mark.parametrize("state", ["abcd", {"1": 1, "2": 2, "3": 3, "4": 4}, [1, 1, 1, {}]])
@pytest.mark.parametrize("command", [7, ["--max_epoch", "9" * 5000], [1]])
def test_a_record_of_somebody_else_is_none(tmp_path: Path, state: object, command: object) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "a").touch()
    (made / ".made.json").write_text(json.dumps({"format": MADE_FORMAT, "files": {"a": state}}))
    with pytest.raises(UserError, match=".made.json is damaged"):
        verify(made / "a")
    record = {"format": finished.FORMAT, "request": {"command": command}}
    (made / ".done").write_text(json.dumps({**record, "files": {"a": state}}))
    assert "is not a whole record" in str(Record.of(made, {}, name=".done").why_not())
    (made / ".done").write_text(json.dumps({**record, "files": {}}))
    job = ["--resumable", str(made), "--", "python", "x", "--max_epoch", "1"]
    assert finished.main(job) == finished.DUE and not (made / "a").exists(), "it is moved aside, not continued"
