"""The command lines of stages 4 and 5 and of the resynthesis control, on a made-up corpus."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ARCHIVES

pytest.importorskip("pyworld")
pytest.importorskip(ARCHIVES)

from espnet_ext.bin import codec_fit, codec_resynthesis, codec_tokens, run
from espnet_ext.data.ark import read_codes
from espnet_ext.data.datadir import read_scp, write_data_dir, write_scp
from espnet_ext.errors import UserError
from espnet_ext.jobs import finished
from espnet_ext.tokenizers.codec import read_codec_info

FIT = ["--wav_scp", "data/wav.scp", "--codec_conf", "codebook_size=8", "--out", "dump/codec"]
TOKENS = ["--codec_info", "dump/codec/codec_info.yaml", "--data_dir", "data", "--out", "dump/codec/train"]
RESYNTHESIS = ["--codec_info", "dump/codec/codec_info.yaml", "--data_dir", "dump/codec/train"]
BAD = {"a-3": "missing wav", "a-4": "unreadable wav", "a-5": "wrong sample rate", "a-6": "no transcript"}


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe directory with three speakers, one of them with a single utterance, and four useless utterances."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    utterances = ["a-1", "a-2", *BAD, "b-1", "b-2", "c-1"]
    wavs = {utterance: f"wav/{utterance}.wav" for utterance in utterances}
    Path("wav").mkdir()
    for index, utterance in enumerate(utterances):
        time = np.arange(6000 + 700 * index) / 16000
        tone = sum(np.sin(2 * np.pi * 110 * k * time) / k for k in range(1, 30))
        soundfile.write(wavs[utterance], 0.1 * tone + 0.01 * rng.standard_normal(len(time)), 16000)
    Path("wav/a-3.wav").unlink()
    Path("wav/a-4.wav").write_bytes(b"RIFF, not really")
    soundfile.write("wav/a-5.wav", np.zeros(4000), 8000)
    text = {utterance: "words" for utterance in utterances if utterance != "a-6"}
    write_data_dir("data", wavs, text, {utterance: utterance[0] for utterance in utterances})
    return tmp_path


def made() -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path("dump").rglob("*") if path.is_file()}


def test_fitting_writes_a_codec_and_lists_what_it_could_not_use() -> None:
    codec_fit.main(FIT)
    info = read_codec_info("dump/codec")
    assert (info.name, info.spec.codebook_size) == ("world_vq", 8)
    skipped = dict(line.split("\t") for line in Path("dump/codec/skipped").read_text().splitlines())
    assert set(skipped) == {"a-3", "a-4", "a-5"}
    before = made()
    codec_fit.main(FIT)
    assert made() == before
    codec_fit.main([*FIT, "--seed", "1"])
    assert read_codec_info("dump/codec").fingerprint != info.fingerprint


def test_a_yaml_file_gives_options_and_the_command_line_overrides_them() -> None:
    Path("codec.yaml").write_text("max_minutes: 0.01\nseed: 5\ncodec_conf: {codebook_size: 4, band_widths: [4, 20]}\n")
    codec_fit.main(["--config", "codec.yaml", "--wav_scp", "data/wav.scp", "--out", "dump/codec", "--seed", "7"])
    info = read_codec_info("dump/codec")
    assert (info.spec.codebook_size, info.spec.num_codebooks) == (4, 3)
    assert (info.origin["seed"], info.origin["max_minutes"]) == (7, 0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "soundstream", *FIT], "codec must be one of"),
        ([*FIT, "--codec_conf", "merge=3", "--codec_conf", "merge.rate=2"], "codec_conf merge must be given once"),
        ([*FIT, "--codec_conf", "merge.rate=["], "codec_conf merge.rate must be a yaml value, got '['"),
        ([*FIT, "--codec_conf", "size=3"], "codec_conf of world_vq must be among"),
        ([*FIT, "--codec_conf", "size"], "codec_conf must be KEY=VALUE, got 'size'"),
        (["--wav_scp", "data/wav.scp"], "--out must be given"),
        (["--out", "dump/codec"], "--wav_scp must be given: codec world_vq learns from audio"),
        (["--config", "bad.yaml", *FIT], "bad.yaml must have options among"),
        (["--config", "gone.yaml", *FIT], "gone.yaml"),
        ([*FIT, "--max_minutes", "0"], "max_minutes must be positive, got 0"),
    ],
)
def test_wrong_options_are_one_line_errors(arguments: list[str], message: str) -> None:
    Path("bad.yaml").write_text("codec_config: {}\n")
    with pytest.raises(SystemExit) as caught:
        run(lambda: codec_fit.main(arguments))
    assert str(caught.value).startswith("error: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("dump/codec/codec_info.yaml").exists()


def test_tokens_are_complete_sorted_and_everything_else_is_listed() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    kept = ["a-1", "a-2", "b-1", "b-2", "c-1"]
    for name in ("codes.scp", "prompt.scp", "utt2num_frames", "utt2prompt", "text", "utt2spk", "wav.scp"):
        assert list(read_scp(f"dump/codec/train/{name}")) == kept
    skipped = dict(line.split("\t") for line in Path("dump/codec/train/skipped").read_text().splitlines())
    assert {utterance: reason.split(":")[0] for utterance, reason in skipped.items()} == BAD
    codes = read_codes("dump/codec/train/codes.scp", 8)
    frames = read_scp("dump/codec/train/utt2num_frames")
    assert {utterance: str(len(codes[utterance])) for utterance in kept} == frames
    assert read_codec_info("dump/codec/train").checkpoint.is_file()


def test_prompts_are_other_utterances_of_the_speaker_where_there_are_any() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    prompts, pointers = read_scp("dump/codec/train/utt2prompt"), read_scp("dump/codec/train/codes.scp")
    assert [prompts[utterance] for utterance in ("a-1", "a-2", "b-1", "b-2")] == ["a-2", "a-1", "b-2", "b-1"]
    assert prompts["c-1"] != "c-1"
    assert read_scp("dump/codec/train/prompt.scp") == {key: pointers[prompt] for key, prompt in prompts.items()}
    fallback = Path("dump/codec/train/prompt_fallback").read_text()
    assert fallback == "c-1\tof another speaker: c has one utterance\n"


def test_fixed_prompts_are_encoded_and_not_offered_for_decoding() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    pointers = read_scp("dump/codec/train/codes.scp")
    write_scp("data/utt2prompt", {"a-2": "a-1", "b-1": "b-2"})
    codec_tokens.main(TOKENS)
    assert list(read_scp("dump/codec/train/codes.scp")) == list(read_scp("dump/codec/train/text")) == ["a-2", "b-1"]
    assert read_scp("dump/codec/train/prompt.scp") == {"a-2": pointers["a-1"], "b-1": pointers["b-2"]}
    prompts = read_codes("dump/codec/train/prompt.scp", 8)
    assert [len(prompts[utterance]) > 0 for utterance in prompts] == [True, True]


def test_a_shortest_prompt_is_kept_or_the_exception_is_listed() -> None:
    codec_fit.main(FIT)
    codec_tokens.main([*TOKENS, "--prompt_min_sec", "30"])
    listed = Path("dump/codec/train/prompt_fallback").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == [
        "a-1\tshorter than 30 s", "a-2\tshorter than 30 s", "b-1\tshorter than 30 s", "b-2\tshorter than 30 s",
        "c-1\tof another speaker",
    ]  # fmt: skip


def test_finished_tokens_are_kept_until_the_codec_or_the_data_change() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    before = made()
    codec_tokens.main(TOKENS)
    assert made() == before
    codec_fit.main([*FIT, "--seed", "1"])
    codec_tokens.main(TOKENS)
    assert read_codec_info("dump/codec/train").fingerprint == read_codec_info("dump/codec").fingerprint


def replace_in_place(wav: str) -> None:
    """Another sound under the same name, of the same length and of the same age."""
    before, (samples, rate_hz) = os.stat(wav), soundfile.read(wav)
    soundfile.write(wav, samples[::-1] * np.linspace(0.1, 1, len(samples)), rate_hz)
    os.utime(wav, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_codec_and_codes_are_of_the_audio_as_it_is_now() -> None:
    """Only the tables were compared: audio that was replaced under its name kept its old codes."""
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    fingerprint, old = read_codec_info("dump/codec").fingerprint, dict(read_codes("dump/codec/train/codes.scp", 8))
    replace_in_place("wav/a-1.wav")
    codec_tokens.main(TOKENS)
    new = read_codes("dump/codec/train/codes.scp", 8)
    assert [name for name in new if not np.array_equal(new[name], old[name])] == ["a-1"]
    codec_fit.main(FIT)
    assert read_codec_info("dump/codec").fingerprint != fingerprint


def test_force_makes_codec_codes_and_speech_again() -> None:
    resynthesis = [*RESYNTHESIS, "--out", "exp/resynthesis"]
    for command, arguments, made_file in (
        (codec_fit, FIT, "dump/codec/codec_info.yaml"),
        (codec_tokens, TOKENS, "dump/codec/train/codes.ark"),
        (codec_resynthesis, resynthesis, "exp/resynthesis/wav/a-1.wav"),
    ):
        command.main(arguments)
        before = os.stat(made_file).st_mtime_ns
        command.main(arguments)
        assert os.stat(made_file).st_mtime_ns == before
        command.main([*arguments, "--force"])
        assert os.stat(made_file).st_mtime_ns > before


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_damaged_archive_is_made_again(force: list[str]) -> None:
    """A cut codes.ark stayed cut: that it was there was all that counted."""
    for command, arguments, out in (
        (codec_tokens, TOKENS, "dump/codec/train"),
        (codec_resynthesis, [*RESYNTHESIS, "--out", "exp/resynthesis"], "exp/resynthesis"),
    ):
        if command is codec_tokens:
            codec_fit.main(FIT)
        command.main(arguments)
        archive = Path(out, "codes.ark")
        whole = archive.read_bytes()
        for damaged in (whole[:100], whole[:-1] + b"\1", b""):
            archive.write_bytes(damaged)
            command.main([*arguments, *force])
            assert archive.read_bytes() == whole
        archive.unlink()
        command.main([*arguments, *force])
        assert archive.read_bytes() == whole


def test_a_recipe_makes_a_damaged_archive_again() -> None:
    """The shell's record says that the command is due, and the command's own that it is, too."""
    codec_fit.main(FIT)
    job = ["dump/codec/train", "data", "--", "python", "-m", "espnet_ext.bin.codec_tokens", *TOKENS]
    archive, whole = Path("dump/codec/train/codes.ark"), b""
    for damaged in (None, b"cut", b""):
        if damaged is not None:
            archive.write_bytes(damaged)
        assert finished.main(job) == finished.DUE
        codec_tokens.main(TOKENS)
        assert finished.main(["--end", *job]) == finished.main(job) == 0
        whole = whole or archive.read_bytes()
        assert archive.read_bytes() == whole


def test_speech_of_damaged_codes_is_not_made(tmp_path: Path) -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    archive = Path("dump/codec/train/codes.ark")
    archive.write_bytes(archive.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="dump/codec/train/codes.ark is damaged"):
        codec_resynthesis.main([*RESYNTHESIS, "--out", "exp/resynthesis"])


def test_processes_do_not_change_the_codes() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    single = Path("dump/codec/train/codes.ark").read_bytes()
    codec_tokens.main([*TOKENS[:-1], "dump/codec/parallel", "--nj", "2"])
    assert Path("dump/codec/parallel/codes.ark").read_bytes() == single


def test_resynthesis_writes_what_inference_writes() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    codec_resynthesis.main([*RESYNTHESIS, "--out", "exp/resynthesis"])
    frames = read_scp("dump/codec/train/utt2num_frames")
    assert read_scp("exp/resynthesis/utt2num_frames") == frames
    for utterance, path in read_scp("exp/resynthesis/wav.scp").items():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, 640 * int(frames[utterance]))
    assert set(read_scp("exp/resynthesis/status").values()) == {"ok"}
    timing = json.loads(Path("exp/resynthesis/timing.json").read_text())
    assert timing["frames"] == sum(map(int, frames.values()))
    assert timing["rtf"] > 0


def test_shuffling_permutes_whole_frames_and_depends_on_the_seed() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    plain = read_codes("dump/codec/train/codes.scp", 8)
    results = []
    for seed in ("1", "1", "2"):
        codec_resynthesis.main([*RESYNTHESIS, "--out", f"exp/{len(results)}", "--shuffle_frames", seed])
        table = read_codes(f"exp/{len(results)}/codes.scp", 8)
        results.append({utterance: table[utterance].tolist() for utterance in table})
    assert results[0] == results[1] != results[2]
    for utterance, frames in results[0].items():
        assert frames != plain[utterance].tolist()
        assert sorted(frames) == sorted(plain[utterance].tolist())


def test_codes_of_another_codec_and_missing_files_are_one_line_errors() -> None:
    codec_fit.main(FIT)
    codec_tokens.main(TOKENS)
    codec_fit.main([*FIT, "--seed", "1"])
    cases = [
        (codec_resynthesis, [*RESYNTHESIS, "--out", "exp"], "must hold codes of codec"),
        (codec_tokens, ["--codec_info", "gone.yaml", *TOKENS[2:]], "codec_info not found: gone.yaml"),
        (codec_tokens, [*TOKENS, "--data_dir", "gone"], "gone/wav.scp is missing"),
        (codec_tokens, [*TOKENS, "--nj", "0"], "nj must be at least 1, got 0"),
        (
            codec_tokens,
            [*TOKENS, "--dask_scheduler", "here"],
            "dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got 'here'",
        ),
    ]
    for command, arguments, message in cases:
        with pytest.raises(SystemExit, match=message) as caught:
            run(lambda command=command, arguments=arguments: command.main(arguments))
        assert "\n" not in str(caught.value)


def test_a_data_directory_without_usable_audio_is_an_error_and_writes_no_codes() -> None:
    codec_fit.main(FIT)
    write_data_dir("data", {"a-3": "wav/a-3.wav"}, {"a-3": "words"}, {"a-3": "a"})
    with pytest.raises(ValueError, match="must have usable utterances, skipped: 1 missing wav"):
        codec_tokens.main(TOKENS)
    assert not Path("dump/codec/train/codes.scp").exists()
    assert "a-3" in Path("dump/codec/train/skipped").read_text()
    assert not Path("dump/codec/train/codec_info.yaml").exists()


def test_a_codec_is_checked_without_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    monkeypatch.chdir(here)
    codec_fit.main(["--codec", "world_vq", "--check_rate", "16000"])
    assert list(here.iterdir()) == []
    line = ["--codec", "world_vq", "--check_rate", "24000"]
    with pytest.raises(ValueError, match="fs must be 16000, the rate of codec world_vq, got 24000"):
        codec_fit.main(line)
    with pytest.raises(ValueError, match="codec_conf of world_vq must be among"):
        codec_fit.main([*line, "--codec_conf", "checkpoint=nowhere"])
