"""Stages 1 to 3 on small made-up corpora with everything wrong that real ones have."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_ext.data.datadir import read_scp, write_data_dir, write_scp

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "egs2" / "mini_libritts"
MINI_PREP = MINI / "codec_lm1" / "local" / "data_prep.py"
FSDD_PREP = ROOT / "egs2" / "fsdd" / "codec_lm1" / "local" / "data_prep.py"


def run(script: Path | str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script of the recipes as the stages call it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "local" / script), *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that tells the user what is wrong."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def skipped(folder: Path) -> dict[str, str]:
    """Name → reason, as listed in the folder."""
    return dict(line.split("\t") for line in (folder / "skipped").read_text().splitlines())


def tone(seconds: float, rate_hz: int = 24000) -> np.ndarray:
    """A loud sound."""
    return 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate_hz)) / rate_hz)


def utterance(tree: Path, utt_id: str, text: str | bytes | None = "Two words.", subset: str = "train") -> Path:
    """Add one utterance to a LibriTTS tree."""
    folder = tree / subset / utt_id.split("_")[0] / utt_id.split("_")[1]
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{utt_id}.wav", tone(0.5), 24000)
    if text is not None:
        (folder / f"{utt_id}.normalized.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / f"{utt_id}.wav"


def data_dir(folder: Path, wavs: dict[str, Path], text: dict[str, str]) -> Path:
    """A data directory of the speaker "s"."""
    write_data_dir(folder, wavs, text, dict.fromkeys(wavs, "s"))
    return folder


def test_a_libritts_tree_becomes_a_data_directory_and_lists_what_is_unusable(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    utterance(tree, "19_198_000000_000000", "Don't stop, Mr. Fox!\n")
    utterance(tree, "19_198_000000_000001", None)
    utterance(tree, "19_198_000000_000002", " \n")
    utterance(tree, "19_198_000000_000003", "…!")
    utterance(tree, "19_198_000000_000004", b"\xff\xfe")
    utterance(tree, "196_7_000000_000000")
    utterance(tree, "196_7_000000_000001").unlink()
    utterance(tree, "26_495_000000_000000").rename(tree / "train" / "26" / "495" / "take one.wav")
    result = run("libritts_dir.py", "--tree", "tree", "--subset", "train", "--out", "data/train", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "data" / "train"
    assert read_scp(out / "text") == {"196_7_000000_000000": "two words", "19_198_000000_000000": "don't stop mr fox"}
    assert read_scp(out / "spk2utt") == {"19": "19_198_000000_000000", "196": "196_7_000000_000000"}
    assert "196_7_000000_000000 tree/train/196/7/196_7_000000_000000.wav\n" in (out / "wav.scp").read_text()
    assert {name: reason.split(":")[0] for name, reason in skipped(out).items()} == {
        "19_198_000000_000001": "missing transcript",
        "19_198_000000_000002": "empty transcript",
        "19_198_000000_000003": "empty transcript",
        "19_198_000000_000004": "transcript not UTF-8",
        "196_7_000000_000001": "missing wav",
        "26_495_000000_000000": "missing wav",
        "take one": "misnamed",
    }
    assert "2 empty transcript (19_198_000000_000002, 19_198_000000_000003)" in result.stderr


def test_a_subset_without_audio_is_an_error(tmp_path: Path) -> None:
    utterance(tmp_path, "19_198_000000_000000")
    command = ("libritts_dir.py", "--tree", ".", "--out", "data", "--subset", "train", "--subset")
    assert "--subset absent: absent must hold" in error_line(run(*command, "absent", cwd=tmp_path))
    assert not (tmp_path / "data").exists()


def test_an_utterance_that_occurs_again_is_skipped_there(tmp_path: Path) -> None:
    """It used to stop everything."""
    utterance(tmp_path, "19_198_000000_000000", "First.")
    utterance(tmp_path, "19_198_000000_000000", "Second.", subset="other")
    utterance(tmp_path, "19_198_000000_000001", None)
    utterance(tmp_path, "19_198_000000_000001", "Third.", subset="other")
    command = ("libritts_dir.py", "--tree", ".", "--out", "data", "--subset", "train", "--subset", "other")
    assert run(*command, cwd=tmp_path).returncode == 0
    assert read_scp(tmp_path / "data" / "text") == {"19_198_000000_000000": "first"}
    assert {name: reason.split(":")[0] for name, reason in skipped(tmp_path / "data").items()} == {
        "19_198_000000_000001": "missing transcript",
        "other:19_198_000000_000000": "duplicate",
        "other:19_198_000000_000001": "duplicate",
    }


def test_format_makes_mono_audio_at_the_rate_and_lists_unusable_audio(tmp_path: Path) -> None:
    names = ("good", "stereo", "corrupt", "missing", "empty", "silent", "nan", "cut")
    wavs = {f"s-{name}": tmp_path / f"{name}.wav" for name in names}
    soundfile.write(wavs["s-good"], tone(0.5), 24000)
    soundfile.write(wavs["s-stereo"], np.stack([tone(0.5, 8000)] * 2, axis=1), 8000, subtype="FLOAT")
    wavs["s-corrupt"].write_bytes(b"this is no audio")
    soundfile.write(wavs["s-empty"], np.zeros(0), 24000)
    soundfile.write(wavs["s-silent"], np.zeros(24000), 24000)
    soundfile.write(wavs["s-nan"], np.full(100, np.nan), 24000, subtype="FLOAT")
    wavs["s-cut"].write_bytes(wavs["s-good"].read_bytes()[:20])
    source = data_dir(tmp_path / "data", wavs, {"s-good": "one", "s-stereo": ""})
    command = ("format_wav.py", "--in", source, "--out", "raw", "--fs", 16000)
    result = run(*command, "--nj", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_scp(tmp_path / "raw" / "utt2num_samples") == {"s-good": "8000", "s-stereo": "8000"}
    info = soundfile.info(tmp_path / read_scp(tmp_path / "raw" / "wav.scp")["s-stereo"])
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert {name: reason.split(":")[0] for name, reason in skipped(tmp_path / "raw").items()} == {
        "s-corrupt": "unreadable wav",
        "s-cut": "unreadable wav",
        "s-empty": "empty wav",
        "s-missing": "missing wav",
        "s-nan": "NaN or infinite samples",
        "s-silent": "silent wav",
    }
    before = (tmp_path / "raw" / "wav" / "s-good.wav").stat().st_mtime_ns
    assert run(*command, "--nj", 1, cwd=tmp_path).returncode == 0
    assert (tmp_path / "raw" / "wav" / "s-good.wav").stat().st_mtime_ns == before, "formatted audio was not reused"


def test_format_names_what_has_another_sample_rate_than_the_rest(tmp_path: Path) -> None:
    wavs = {f"s-{number}": tmp_path / f"{number}.wav" for number in range(3)}
    for utt_id, path in wavs.items():
        soundfile.write(path, tone(0.5, 8000 if utt_id == "s-1" else 24000), 8000 if utt_id == "s-1" else 24000)
    source = data_dir(tmp_path / "data", wavs, dict.fromkeys(wavs, "one"))
    command = ("format_wav.py", "--in", source, "--out", "raw", "--fs", 16000)
    assert "raw: 1 odd sample rate (s-1)" in run(*command, cwd=tmp_path).stderr
    listed = (tmp_path / "raw" / "odd_sample_rate").read_text()
    assert listed == "s-1\todd sample rate: 8000 Hz, most have 24000 Hz\n"
    assert set(read_scp(tmp_path / "raw" / "utt2num_samples").values()) == {"8000"}


def test_format_notices_audio_that_was_replaced_and_tables_that_point_elsewhere(tmp_path: Path) -> None:
    """It compared times: an older recording, or one as old as the first, kept the first one's sound, --force or not."""
    wavs = {"s-0": tmp_path / "0.wav", "s-1": tmp_path / "1.wav"}
    for path in (*wavs.values(), tmp_path / "older.wav"):
        soundfile.write(path, tone(0.5, 16000), 16000)
    source = data_dir(tmp_path / "data", wavs, dict.fromkeys(wavs, "one"))
    command = ("format_wav.py", "--in", source, "--out", "raw", "--fs", 16000)

    def loudness(*options: str) -> list[float]:
        result = run(*command, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        made = (tmp_path / path for path in read_scp(tmp_path / "raw" / "wav.scp").values())
        return [round(float(np.abs(soundfile.read(path)[0]).max()), 2) for path in made]

    first = loudness()[0]
    before = wavs["s-0"].stat()
    soundfile.write(wavs["s-0"], tone(0.5, 16000) / 2, 16000)
    os.utime(wavs["s-0"], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert loudness() == [pytest.approx(first / 2, abs=0.01), first]
    soundfile.write(tmp_path / "older.wav", tone(0.5, 16000) / 4, 16000)
    os.utime(tmp_path / "older.wav", (1, 1))
    write_scp(source / "wav.scp", {"s-0": wavs["s-0"], "s-1": tmp_path / "older.wav"})
    assert loudness() == loudness("--force") == [pytest.approx(first / number, abs=0.01) for number in (2, 4)]


def test_format_reuses_audio_that_needs_no_change(tmp_path: Path) -> None:
    wavs = {f"s-{name}": tmp_path / f"{name}.wav" for name in ("right", "float", "fast", "stereo", "silent")}
    soundfile.write(wavs["s-right"], tone(0.5, 16000), 16000)
    soundfile.write(wavs["s-float"], tone(0.5, 16000), 16000, subtype="FLOAT")
    soundfile.write(wavs["s-fast"], tone(0.5, 24000), 24000)
    soundfile.write(wavs["s-stereo"], np.stack([tone(0.5, 16000)] * 2, axis=1), 16000)
    soundfile.write(wavs["s-silent"], np.zeros(8000), 16000)
    source = data_dir(tmp_path / "data", wavs, dict.fromkeys(wavs, "one"))
    command = ("format_wav.py", "--in", source, "--out", "raw", "--fs", 16000, "--reuse")
    assert run(*command, cwd=tmp_path).returncode == 0
    made = read_scp(tmp_path / "raw" / "wav.scp")
    copied = {utt_id for utt_id, path in made.items() if path.startswith(str(tmp_path / "raw/wav"))}
    assert copied == {"s-float", "s-fast", "s-stereo"}
    assert made["s-right"] == str(wavs["s-right"])
    assert list(skipped(tmp_path / "raw")) == ["s-silent"]


def test_fixed_prompts_follow_their_utterances_through_the_stages(tmp_path: Path) -> None:
    wavs = {f"s-{number}": tmp_path / f"{number}.wav" for number in range(4)}
    for number, path in enumerate(wavs.values()):
        soundfile.write(path, tone(0.1 if number == 3 else 0.5, 16000), 16000)
    source = data_dir(tmp_path / "data", wavs, dict.fromkeys(wavs, "one"))
    write_scp(source / "utt2prompt", {"s-0": "s-1", "s-2": "s-3", "s-3": "s-1"})
    assert run("format_wav.py", "--in", source, "--out", "raw", "--fs", 16000, cwd=tmp_path).returncode == 0
    assert read_scp(tmp_path / "raw" / "utt2prompt") == {"s-0": "s-1", "s-2": "s-3", "s-3": "s-1"}
    command = ("filter_data.py", "--in", "raw", "--out", "filtered", "--min_wav_duration", 0.3)
    assert run(*command, cwd=tmp_path).returncode == 0
    assert read_scp(tmp_path / "filtered" / "utt2prompt") == {"s-0": "s-1", "s-2": "s-3"}
    (tmp_path / "raw" / "utt2prompt").unlink()
    assert run(*command, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "filtered" / "utt2prompt").exists(), "prompts of an earlier run stayed"


def test_format_refuses_a_directory_without_usable_audio_and_duplicate_ids(tmp_path: Path) -> None:
    source = data_dir(tmp_path / "data", {"s-1": tmp_path / "absent.wav"}, {"s-1": "one"})
    command = ("format_wav.py", "--in", source, "--out", "raw", "--fs", 16000)
    assert "1 missing wav (s-1)" in error_line(run(*command, cwd=tmp_path))
    assert not (tmp_path / "raw" / "wav.scp").exists()
    (source / "wav.scp").write_text("s-1 a.wav\ns-1 b.wav\n")
    assert "wav.scp:2: s-1 is a duplicate" in error_line(run(*command, cwd=tmp_path))


def test_filter_keeps_what_has_a_transcript_and_a_usable_length(tmp_path: Path) -> None:
    wavs = {f"s-{name}": tmp_path / f"{name}.wav" for name in ("good", "empty", "none", "short", "long")}
    for utt_id, path in wavs.items():
        soundfile.write(path, tone({"s-short": 0.1, "s-long": 3.0}.get(utt_id, 0.5), 16000), 16000)
    source = data_dir(tmp_path / "raw", wavs, {"s-good": "one", "s-empty": "", "s-short": "two", "s-long": "three"})
    write_scp(source / "utt2num_samples", {utt_id: soundfile.info(path).frames for utt_id, path in wavs.items()})
    limits = ("--min_wav_duration", 0.3, "--max_wav_duration")
    result = run("filter_data.py", "--in", source, "--out", "filtered", *limits, 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(read_scp(tmp_path / "filtered" / "wav.scp")) == ["s-good"]
    assert read_scp(tmp_path / "filtered" / "utt2num_samples") == {"s-good": "8000"}
    assert skipped(tmp_path / "filtered") == {
        "s-empty": "empty transcript",
        "s-long": "too long: 3.000 s",
        "s-none": "missing transcript",
        "s-short": "too short: 0.100 s",
    }
    refused = run("filter_data.py", "--in", source, "--out", "none", *limits, 0.2, cwd=tmp_path)
    assert "--min_wav_duration must be >= 0 and below --max_wav_duration, got 0.3 and 0.2" in error_line(refused)


@pytest.mark.parametrize(("cleaner", "kept"), [("english", ["s-good"]), ("lower", ["s-good", "s-odd"])])
def test_a_transcript_that_the_cleaner_leaves_nothing_of_is_skipped(
    tmp_path: Path, cleaner: str, kept: list[str]
) -> None:
    """One such transcript stopped stage stats, hours later."""
    wavs = {name: tmp_path / f"{name}.wav" for name in ("s-good", "s-odd")}
    for path in wavs.values():
        soundfile.write(path, tone(0.5, 16000), 16000)
    source = data_dir(tmp_path / "raw", wavs, {"s-good": "one", "s-odd": "\u201c\u03a0\u03ad\u201d"})
    write_scp(source / "utt2num_samples", dict.fromkeys(wavs, 8000))
    result = run("filter_data.py", "--in", source, "--out", "filtered", "--cleaner", cleaner, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(read_scp(tmp_path / "filtered" / "wav.scp")) == kept
    reasons = {name: reason.split(":")[0] for name, reason in skipped(tmp_path / "filtered").items()}
    assert reasons == dict.fromkeys({"s-good", "s-odd"} - set(kept), f"nothing left by cleaner {cleaner}")


def test_the_mini_corpus_unpacks_into_a_libritts_tree_and_a_second_run_reuses_it(tmp_path: Path) -> None:
    command = (MINI_PREP, "--corpus", MINI / "corpus", "--out", "tree", "--size", "tiny")
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    wavs = sorted((tmp_path / "tree").glob("*/*/*/*.wav"))
    assert len(wavs) == 140
    for wav in wavs:
        assert wav.stem.startswith(f"{wav.parts[-3]}_{wav.parts[-2]}_")
        assert wav.with_suffix(".original.txt").exists()
    samples, rate_hz = soundfile.read(wavs[0])
    edge = round(0.09 * rate_hz)
    assert rate_hz == 24000
    assert np.abs(samples).max() > 0.1
    assert np.abs(samples[:edge]).max() < 0.01 > np.abs(samples[-edge:]).max(), "speech of a neighbour leaks in"
    assert "nothing to do" in run(*command, cwd=tmp_path).stderr
    wavs[0].unlink()
    assert run(*command, cwd=tmp_path).returncode == 0
    assert wavs[0].exists()
    wavs[1].write_bytes(b"damaged")
    assert run(*command, "--force", cwd=tmp_path).returncode == 0
    assert soundfile.info(wavs[1]).frames, "--force unpacks what seems to be there"


def test_no_sentence_of_the_mini_corpus_is_said_twice_and_test_words_are_trained() -> None:
    rows = [line.split("\t") for line in (MINI / "corpus" / "MANIFEST.tsv").read_text().splitlines()[1:]]
    sentences = [row[7] for row in rows]
    assert len(set(sentences)) == len(sentences)
    words = {row[1]: set() for row in rows}
    for row in rows:
        words[row[1]].update(row[7].lower().rstrip(".").split())
    assert all(words["train-clean-mini"] >= others for others in words.values())
    assert {row[2] for row in rows if row[1] == "test-seen-mini"} == {
        row[2] for row in rows if row[1] == "train-clean-mini"
    }


def test_the_mini_corpus_is_small_and_as_its_checksums_say() -> None:
    lines = (MINI / "corpus" / "SHA256SUMS").read_text().splitlines()
    for line in lines:
        expected, name = line.split()
        assert hashlib.sha256((MINI / "corpus" / name).read_bytes()).hexdigest() == expected, name
    assert sum(path.stat().st_size for path in (MINI / "corpus").iterdir()) < 10e6


def test_a_damaged_or_missing_archive_of_the_mini_corpus_is_named(tmp_path: Path) -> None:
    corpus = shutil.copytree(MINI / "corpus", tmp_path / "corpus")
    archive = corpus / "train-clean-mini_1003.opus"
    archive.write_bytes(archive.read_bytes()[:-1])
    command = (MINI_PREP, "--corpus", corpus, "--out", "tree")
    assert "train-clean-mini_1003.opus must match SHA256SUMS" in error_line(run(*command, cwd=tmp_path))
    archive.unlink()
    assert "train-clean-mini_1003.opus is missing" in error_line(run(*command, cwd=tmp_path))
    assert "must hold SHA256SUMS" in error_line(run(MINI_PREP, "--corpus", "x", "--out", "tree", cwd=tmp_path))
    assert not (tmp_path / "tree").exists()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Ten takes of three digits by two speakers: a hum whose pitch tells the digit."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for digit in (0, 3, 9):
        for take in range(10):
            for speaker in ("anna", "bert"):
                samples = np.concatenate([np.zeros(800), tone(0.3 + 0.02 * digit, 8000), np.zeros(800)])
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", samples, 8000)
    return folder


def test_digit_strings_share_no_recording_between_splits_and_are_the_same_every_time(
    tmp_path: Path, digits: Path
) -> None:
    with tarfile.open(tmp_path / "fsdd.tar.gz", "w:gz") as archive:
        archive.add(digits, "fsdd-1.0/recordings")
    outputs = []
    for source, name in ((digits, "a"), (tmp_path / "fsdd.tar.gz", "b")):
        result = run(FSDD_PREP, "--fsdd", source, "--out", "strings", "--datadir", name, "--size", "tiny", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        outputs.append({path.name: path.read_bytes() for path in sorted((tmp_path / "strings").rglob("*.wav"))})
        shutil.copytree(tmp_path / "strings", tmp_path / f"strings_{name}")
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 2 * (40 + 3 + 4)
    used = {
        split: {int(name.split("_")[2]) for names in read_scp(path / "recordings").values() for name in names.split()}
        for split, path in ((split, tmp_path / "strings" / split) for split in ("train", "dev", "test_seen"))
    }
    assert used == {"train": {8, 9}, "dev": {5, 6, 7}, "test_seen": {0, 1, 2, 3, 4}}
    for utt_id, text in read_scp(tmp_path / "a" / "train" / "text").items():
        names = read_scp(tmp_path / "strings" / "train" / "recordings")[utt_id].split()
        assert text.split() == [{"0": "zero", "3": "three", "9": "nine"}[name[0]] for name in names]
        assert all(name.split("_")[1] == utt_id.split("-")[0] for name in names)
        assert 1 <= len(names) <= 5


def test_unusable_digit_recordings_are_listed(tmp_path: Path, digits: Path) -> None:
    (digits / "0_anna_8.wav").write_bytes(b"RIFF")
    soundfile.write(digits / "3_anna_8.wav", np.zeros(0), 8000)
    soundfile.write(digits / "9_anna_8.wav", tone(0.02, 8000), 8000)
    soundfile.write(digits / "readme.wav", tone(0.5, 8000), 8000)
    soundfile.write(digits / "0_bert_8.wav", tone(0.5, 16000), 16000)
    result = run(FSDD_PREP, "--fsdd", digits, "--out", "strings", "--size", "tiny", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {name: reason.split(":")[0] for name, reason in skipped(tmp_path / "strings").items()} == {
        "0_anna_8.wav": "unreadable wav",
        "0_bert_8.wav": "wrong sample rate",
        "3_anna_8.wav": "empty or silent wav",
        "9_anna_8.wav": "too short",
        "readme.wav": "misnamed",
    }


def test_a_wrong_digits_path_a_cut_archive_and_a_missing_split_are_errors(tmp_path: Path, digits: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(digits, "recordings")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:5000])
    for take in range(5, 8):
        for digit in (0, 3, 9):
            (digits / f"{digit}_bert_{take}.wav").unlink()
    for source, message in (
        ("absent", "--fsdd absent must be"),
        ("cut.tar.gz", "--fsdd cut.tar.gz must be a complete tar archive"),
        (digits, "takes 5-7 of every speaker, got none of bert"),
    ):
        assert message in error_line(run(FSDD_PREP, "--fsdd", source, "--out", "strings", cwd=tmp_path))
    assert not (tmp_path / "strings").exists()
    assert not (tmp_path / "data").exists()
