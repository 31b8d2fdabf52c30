"""Audio as users have it: cut off, out of range, in antiphase, in long recordings; what is wrong is mended or named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_ext.data.audio import Span, read_channels, read_wav
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.waveform import read_mono
from espnet_ext.testing.sound import voice

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 16000
VOICE = (0.5 * voice(1.2, 120.0, 0) / np.abs(voice(1.2, 120.0, 0)).max()).astype(np.float32)


def cut(path: Path) -> Path:
    """A wav that lost its second half."""
    soundfile.write(path, VOICE, RATE_HZ, format="WAV")
    path.write_bytes(path.read_bytes()[: 44 + len(VOICE)])
    return path


def killed(path: Path) -> Path:
    """A wav whose recorder never came to write how much it holds."""
    soundfile.write(path, VOICE, RATE_HZ, format="WAV")
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(4) + content[8:40] + bytes(4) + content[44:])
    return path


def phone(path: Path) -> Path:
    """The beginning of an m4a."""
    path.write_bytes(b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00M4A mp42isom\x00\x00\x00\x00" + bytes(2000))
    return path


def format_wav(source: Path, *options: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Stage format."""
    command = [ROOT / "local" / "format_wav.py", "--in", source, "--out", "raw", "--fs", RATE_HZ, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def listed(path: Path) -> dict[str, str]:
    """Utterance → reason."""
    return dict(line.split("\t") for line in path.read_text().splitlines())


def data_dir(folder: Path, **tables: str) -> Path:
    """A data directory of tables as they are given."""
    folder.mkdir()
    for name, content in tables.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (cut, "a.wav", r"truncated wav: .*a.wav holds 0.60 s of the 1.20 s that it says it has"),
        (killed, "a.wav", r"unfinished wav: .*a.wav says that it is empty, and 38400 bytes follow: its recorder"),
        (phone, "a.m4a", r"unreadable wav: .*a.m4a is not an audio file this can read \(wav, .*convert it with ffmpeg"),
    ],
)
def test_a_file_that_is_not_what_it_seems_says_what_is_wrong(tmp_path: Path, make, name: str, message: str) -> None:
    for read in (read_channels, read_mono, lambda path: read_wav(path, RATE_HZ)):
        with pytest.raises(ValueError, match=message):
            read(make(tmp_path / name))


def test_a_cut_flac_is_refused_and_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", VOICE, RATE_HZ)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"(truncated|unreadable) wav: .*a.flac"):
        read_channels(tmp_path / "a.flac")
    soundfile.write(tmp_path / "a.wav", VOICE, RATE_HZ)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:4] + b"\xff" * 4 + content[8:40] + b"\xff" * 4 + content[44:])
    assert len(read_channels(tmp_path / "a.wav").samples) == len(VOICE)


@pytest.mark.parametrize(
    ("factor", "divisor"), [(0.9, 1.0), (3.0, 1.5), (20000.0, 32768.0), (2.0**22, 2.0**23), (2.0**30, 2.0**31)]
)
def test_floats_beyond_full_scale_are_scaled_and_not_clipped(tmp_path: Path, factor: float, divisor: float) -> None:
    soundfile.write(tmp_path / "a.wav", factor * VOICE.astype(np.float64), RATE_HZ, subtype="FLOAT")
    audio = read_channels(tmp_path / "a.wav")
    np.testing.assert_allclose(audio.samples[:, 0], factor / divisor * VOICE, rtol=1e-6, atol=1e-7)
    assert audio.mended.startswith("beyond full scale: ") == (divisor != 1)
    part = read_channels(tmp_path / "a.wav", span=Span(0.1, 0.2))
    np.testing.assert_array_equal(part.samples, audio.samples[1600:3200])


def test_channels_of_opposite_phase_stay_audible_and_others_are_averaged(tmp_path: Path, caplog) -> None:
    quiet = np.zeros_like(VOICE)
    for name, channels, expected in (
        ("opposite", [0.5 * VOICE, -0.48 * VOICE], 0.5 * VOICE),
        ("alike", [VOICE, 0.5 * VOICE], 0.75 * VOICE),
        ("five_one", [quiet, quiet, VOICE, quiet, quiet, quiet], VOICE / 6),
        ("silent", [quiet, quiet], quiet),
    ):
        soundfile.write(tmp_path / f"{name}.wav", np.stack(channels, axis=1), RATE_HZ, subtype="FLOAT")
        np.testing.assert_allclose(read_mono(tmp_path / f"{name}.wav")[0], expected, atol=1e-6)
        assert ("opposite phase: channel 1 of 2 is used alone" in caplog.text) == (name == "opposite")
        caplog.clear()


def test_format_lists_what_it_mended_and_what_is_broken(tmp_path: Path) -> None:
    """Antiphase was "silent", a killed recorder's wav "empty"; half an utterance and clipped noise passed as normal."""
    (tmp_path / "in").mkdir()
    names = ("cut", "killed", "loud", "opposite", "phone", "right")
    cut(tmp_path / "in" / "cut"), killed(tmp_path / "in" / "killed"), phone(tmp_path / "in" / "phone")
    soundfile.write(tmp_path / "in" / "loud", 20000 * VOICE, RATE_HZ, subtype="FLOAT", format="WAV")
    soundfile.write(tmp_path / "in" / "opposite", np.stack([VOICE, -0.9 * VOICE], axis=1), RATE_HZ, format="WAV")
    soundfile.write(tmp_path / "in" / "right", VOICE, RATE_HZ, format="WAV")
    source = data_dir(
        tmp_path / "data",
        wav_scp="".join(f"{name} in/{name}\n" for name in names),
        utt2spk="".join(f"{name} s\n" for name in names),
    )
    result = format_wav(source, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    reasons = {name: reason.split(":")[0] for name, reason in listed(tmp_path / "raw" / "skipped").items()}
    assert reasons == {"cut": "truncated wav", "killed": "unfinished wav", "phone": "unreadable wav"}
    mended = {name: reason.split(":")[0] for name, reason in listed(tmp_path / "raw" / "mended").items()}
    assert mended == {"loud": "beyond full scale", "opposite": "channels of opposite phase"}
    assert "1 beyond full scale (loud), 1 channels of opposite phase (opposite)" in result.stderr
    for name, factor in (("loud", 20000 / 32768), ("opposite", 1.0), ("right", 1.0)):
        made, _ = soundfile.read(tmp_path / "raw" / "wav" / f"{name}.wav")
        np.testing.assert_allclose(made, factor * VOICE, atol=1e-4)


def test_segments_make_utterances_of_recordings(tmp_path: Path) -> None:
    """They were ignored without a word, or the ids were blamed."""
    soundfile.write(tmp_path / "rec1.wav", VOICE, RATE_HZ)
    source = data_dir(
        tmp_path / "data",
        wav_scp="rec1 rec1.wav\n",
        segments="second rec1 0.6 -1\nfirst rec1 0.1 0.6\n",
        utt2spk="second b\nfirst a\nfirst_of_nobody a\n",
        text="second two\nfirst one\nthird three\n",
    )
    result = format_wav(source, "--reuse", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    raw = tmp_path / "raw"
    assert read_scp(raw / "text") == {"first": "one", "second": "two"}
    assert read_scp(raw / "spk2utt") == {"a": "first", "b": "second"}
    assert read_scp(raw / "utt2num_samples") == {"first": "8000", "second": "9600"}
    assert listed(raw / "skipped") == {"third": "not in segments"}
    made, _ = soundfile.read(raw / "wav" / "first.wav")
    np.testing.assert_allclose(made, VOICE[1600:9600], atol=1e-4)
    (source / "segments").write_text("second rec1 0.6 -1\nfirst rec1 0.1 0.3\n")
    assert format_wav(source, cwd=tmp_path).returncode == 0
    assert read_scp(raw / "utt2num_samples")["first"] == "3200", "other segments were not noticed"


def test_segments_with_the_ids_of_recordings_trim_them(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, RATE_HZ)
    source = data_dir(tmp_path / "data", wav_scp="a a.wav\n", segments="a a 0.20 0.70\n", utt2spk="a s\n")
    assert format_wav(source, cwd=tmp_path).returncode == 0
    assert read_scp(tmp_path / "raw" / "utt2num_samples") == {"a": "8000"}


def test_bad_segments_are_listed_by_name_and_a_broken_line_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, RATE_HZ)
    segments = {
        "backwards": "rec 0.7 0.2",
        "beyond": "rec 0.2 1.5",
        "behind": "rec 1.3 -1",
        "good": "rec 0.1 1.205",  # a rounded end
        "negative": "rec -0.1 1",
        "nowhere": "other 0.1 0.5",
    }
    source = data_dir(
        tmp_path / "data",
        wav_scp="rec a.wav\n",
        segments="".join(f"{name} {line}\n" for name, line in segments.items()),
        utt2spk="".join(f"{name} s\n" for name in segments),
    )
    assert format_wav(source, cwd=tmp_path).returncode == 0
    skipped = listed(tmp_path / "raw" / "skipped")
    assert skipped.keys() == segments.keys() - {"good"}
    assert {reason.split(":")[0] for reason in skipped.values()} == {"bad segment"}
    assert skipped["beyond"] == "bad segment: it ends at 1.5 s, and a.wav has 1.20 s"
    assert skipped["nowhere"] == "bad segment: other is not in wav.scp"
    (source / "segments").write_text("good rec 0.1\n")
    result = format_wav(source, cwd=tmp_path)
    assert "segments: good must have a recording, begin and end (s), got 'rec 0.1'" in result.stderr
    assert result.returncode == 1


def test_segments_that_were_not_applied_are_refused_by_codec_tokens(tmp_path: Path) -> None:
    from espnet_ext.bin.codec_tokens import encode_data_dir

    source = data_dir(tmp_path / "data", wav_scp="rec a.wav\n", segments="a rec 0 1\n", utt2spk="a s\n")
    with pytest.raises(ValueError, match=r"data_dir must have no segments, which local/format_wav.py applies"):
        encode_data_dir(None, source, tmp_path / "out", None)
