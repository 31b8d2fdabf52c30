"""The command lines that make semantic units and token directories, on a made-up corpus."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fabricated import one_error
from tiny_codecs import voice

pytest.importorskip("pyworld")

from espnet_ext.bin import codec_fit, codec_tokens, semantic_fit, semantic_tokens
from espnet_ext.data import encoding
from espnet_ext.data.ark import codes_writer, load_codes_entry, read_codes
from espnet_ext.data.datadir import read_scp, write_data_dir, write_scp
from espnet_ext.tokenizers.codec import read_codec_info
from espnet_ext.tokenizers.semantic import load_semantic, read_semantic_info

FIT = ["--semantic_conf", "num_units=12", "--wav_scp", "data/wav.scp", "--out", "dump/semantic"]
CODES = ["--codec_info", "dump/codec/codec_info.yaml", "--data_dir", "data", "--out", "dump/codec/train"]
TOKENS = [
    "--semantic_info",
    "dump/semantic/semantic_info.yaml",
    "--data_dir",
    "data",
    "--codes_dir",
    "dump/codec/train",
]
TOKENS += ["--out", "dump/gpst/train"]
TRAIN = Path("dump/gpst/train")
KEPT = ["a-1", "a-2", "a-3", "b-1", "b-2", "c-1"]
TABLES = ["codes.scp", "utt2num_frames", "semantic.scp", "utt2num_units", "prompt.scp", "prompt_semantic.scp"]
TABLES += ["utt2prompt", "text", "utt2spk", "wav.scp"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe directory with audio of three speakers, one of whom has a single utterance, codec, codes, tokenizer."""
    root = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("wav").mkdir()
        wavs = {utterance: f"wav/{utterance}.wav" for utterance in KEPT}
        for index, (utterance, wav) in enumerate(wavs.items()):
            pitch = {"a": 100.0, "b": 150.0, "c": 220.0}[utterance[0]]
            soundfile.write(wav, voice(0.8 + 0.08 * index, pitch, index), 16000)  # whole codec frames of 40 ms
        write_data_dir("data", wavs, dict.fromkeys(KEPT, "words"), {utterance: utterance[0] for utterance in KEPT})
        codec_fit.main(["--wav_scp", "data/wav.scp", "--codec_conf", "codebook_size=8", "--out", "dump/codec"])
        codec_tokens.main(CODES)
        semantic_fit.main(FIT)
    return root


@pytest.fixture(autouse=True)
def recipe(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the test runs."""
    folder = tmp_path / "recipe"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def listed(path: Path | str) -> dict[str, str]:
    return dict(line.split("\t") for line in Path(path).read_text().splitlines())


def states(folder: str = "dump") -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def shorten(changes: dict[str, int]) -> None:
    """Give utterances so many frames less, or more if negative, in the archive of codes."""
    table = read_codes("dump/codec/train/codes.scp", 8)
    codes = {utterance: table[utterance] for utterance in table}
    for utterance, less in changes.items():
        own = codes[utterance]
        codes[utterance] = own[:-less] if less > 0 else np.concatenate([own, own[less:]])
    with codes_writer(Path("dump/codec/train")) as write:
        for utterance, rows in codes.items():
            write(utterance, rows)
    places = read_scp("dump/codec/train/codes.scp")
    prompts = read_scp("dump/codec/train/utt2prompt")
    write_scp("dump/codec/train/prompt.scp", {utterance: places[prompt] for utterance, prompt in prompts.items()})


# --- semantic_fit ----------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_learned_from_what_is_usable_and_kept() -> None:
    Path("wav/b-1.wav").unlink()
    Path("wav/b-2.wav").write_bytes(b"RIFF, not really")
    soundfile.write("wav/c-1.wav", np.full(4000, np.nan), 16000, subtype="FLOAT")
    soundfile.write("wav/a-3.wav", np.zeros(4000), 8000)
    semantic_fit.main([*FIT, "--out", "dump/other"])
    info = read_semantic_info("dump/other")
    assert (info.name, info.spec.codebook_size, info.spec.frame_rate_hz, info.deduplicate) == (
        "mfcc_km",
        12,
        50,
        True,
    )
    reasons = {utterance: reason.split(":")[0] for utterance, reason in listed("dump/other/skipped").items()}
    assert reasons == {
        "b-1": "unreadable wav", "b-2": "unreadable wav", "c-1": "not finite", "a-3": "wrong sample rate"
    }  # fmt: skip
    before = states()
    semantic_fit.main([*FIT, "--out", "dump/other"])
    assert states() == before
    semantic_fit.main([*FIT, "--out", "dump/other", "--deduplicate", "false"])
    assert (read_semantic_info("dump/other").fingerprint, read_semantic_info("dump/other").deduplicate) == (
        info.fingerprint, False,
    )  # fmt: skip
    semantic_fit.main([*FIT, "--out", "dump/other", "--seed", "1"])
    assert read_semantic_info("dump/other").fingerprint != info.fingerprint


def test_a_tokenizer_is_learned_from_a_part_of_the_corpus() -> None:
    semantic_fit.main([*FIT, "--out", "dump/part", "--max_minutes", "0.02", "--nj", "2"])
    assert read_semantic_info("dump/part").fingerprint != read_semantic_info("dump/semantic").fingerprint


def test_a_yaml_file_gives_options_and_the_command_line_overrides_them() -> None:
    Path("semantic.yaml").write_text("seed: 5\nsemantic: logmel_km\nsemantic_conf: {num_units: 4, deltas: 0}\n")
    semantic_fit.main(["--config", "semantic.yaml", *FIT[2:], "--out", "dump/yaml", "--semantic_conf", "num_units=6"])
    info = read_semantic_info("dump/yaml")
    assert (info.name, info.spec.codebook_size) == ("logmel_km", 6)
    assert info.origin["semantic_conf"] == {"num_units": 6, "deltas": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--semantic", "wavlm_km"], "semantic must be one of"),
        (["--semantic_conf", "units=3"], "semantic_conf of mfcc_km must be among"),
        (["--semantic_conf", "num_units"], "semantic_conf must be KEY=VALUE, got 'num_units'"),
        (["--semantic_conf", "frame_rate_hz=30"], "frame_rate_hz must be 100 divided by a whole number"),
        (["--deduplicate", "maybe"], "deduplicate must be true or false, got 'maybe'"),
        (["--max_minutes", "nan"], "max_minutes must be positive, got nan"),
        (["--nj", "0"], "nj must be at least 1, got 0"),
        (["--wav_scp", "gone.scp"], "gone.scp is missing"),
        (["--config", "gone.yaml"], "gone.yaml"),
    ],
)
def test_wrong_options_are_one_line_errors(arguments: list[str], message: str) -> None:
    line = one_error(semantic_fit.main, *FIT, "--out", "dump/bad", *arguments)
    assert message in line
    assert not Path("dump/bad/semantic_info.yaml").exists()


def test_a_tokenizer_is_checked_without_being_written() -> None:
    before = states(".")
    semantic_fit.main(["--semantic_conf", "num_units=64", "--check"])
    assert states(".") == before
    for conf, message in (
        ("deltas=7", "deltas must be in"),
        ("checkpoint=x", "semantic_conf of mfcc_km must be among"),
    ):
        assert message in one_error(semantic_fit.main, "--check", "--semantic_conf", conf)


def test_what_must_be_named_is_asked_for() -> None:
    assert "--out must be given" in one_error(semantic_fit.main, *FIT[:4])
    assert "--wav_scp must be given: semantic tokenizer mfcc_km" in one_error(semantic_fit.main, "--out", "dump/bad")


def test_a_corpus_without_usable_audio_makes_no_tokenizer() -> None:
    for path in Path("wav").glob("*"):
        path.unlink()
    assert "num_units must be at most 0" in one_error(semantic_fit.main, *FIT, "--out", "dump/bad")
    assert not Path("dump/bad/semantic_info.yaml").exists()


# --- semantic_tokens -------------------------------------------------------------------------------------------------


def test_a_token_directory_has_both_streams_of_every_utterance_and_of_its_prompt() -> None:
    semantic_tokens.main(TOKENS)
    tables = {name: read_scp(TRAIN / name) for name in TABLES}
    assert {name: list(table) for name, table in tables.items()} == dict.fromkeys(TABLES, KEPT)
    for name in ("codes.scp", "prompt.scp", "utt2num_frames", "utt2prompt", "text", "wav.scp"):
        assert tables[name] == read_scp(f"dump/codec/train/{name}")
    for utterance, prompt in tables["utt2prompt"].items():
        assert tables["prompt_semantic.scp"][utterance] == tables["semantic.scp"][prompt]
        assert tables["prompt.scp"][utterance] == tables["codes.scp"][prompt]
    tokenizer = load_semantic(TRAIN)
    for utterance in KEPT:
        units = load_codes_entry(tables["semantic.scp"][utterance], 1)[:, 0]
        samples, _ = soundfile.read(f"wav/{utterance}.wav", dtype="float32")
        assert units.tolist() == tokenizer.encode(torch.from_numpy(samples)).tolist()
        assert len(units) == int(tables["utt2num_units"][utterance]) == 2 * int(tables["utt2num_frames"][utterance])
    assert read_codec_info(TRAIN).fingerprint == read_codec_info("dump/codec").fingerprint
    assert read_codec_info(TRAIN).checkpoint.is_file()
    assert listed(TRAIN / "skipped") == {}
    assert not (TRAIN / "utt2lang").exists() and not (TRAIN / "shards").exists()


def test_silence_is_a_second_of_both_streams() -> None:
    semantic_tokens.main(TOKENS)
    with np.load(TRAIN / "silence.npz") as silence:
        assert set(silence) == {"codes", "units"}
        assert (silence["codes"].shape, silence["units"].shape) == ((25, 8), (50,))
        assert silence["codes"].dtype == silence["units"].dtype == np.int32
        assert silence["units"].tolist() == load_semantic(TRAIN).encode(torch.zeros(16000)).tolist()


def test_lengths_that_cannot_belong_together_are_listed_with_numbers_and_prompts_are_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompts = read_scp("dump/codec/train/utt2prompt")
    assert prompts["a-1"] == "a-3"
    shorten({"a-2": 2, "a-3": 3, "b-1": -2, "b-2": -3})
    with caplog.at_level("INFO"):
        semantic_tokens.main(TOKENS)
    assert list(read_scp(TRAIN / "semantic.scp")) == ["a-1", "a-2", "b-1", "c-1"]
    assert listed(TRAIN / "skipped") == {
        "a-3": "lengths differ by more than 2 frames of 25 Hz: 48 units (0.960 s), 21 codec frames (0.840 s)",
        "b-2": "lengths differ by more than 2 frames of 25 Hz: 56 units (1.120 s), 31 codec frames (1.240 s)",
    }
    assert "4 utterances; skipped: 2 lengths differ by more than 2 frames of 25 Hz (a-3, b-2)" in caplog.text
    tables = {name: read_scp(TRAIN / name) for name in TABLES}
    assert {name: list(table) for name, table in tables.items()} == dict.fromkeys(TABLES, ["a-1", "a-2", "b-1", "c-1"])
    assert tables["utt2prompt"]["a-1"] == "a-2"
    assert tables["utt2prompt"]["b-1"][0] != "b"
    assert set(tables["utt2prompt"].values()) <= set(tables["semantic.scp"])
    fallbacks = listed(TRAIN / "prompt_fallback")
    assert fallbacks["a-1"] == "prompt not usable: a-3"
    assert fallbacks["b-1"] == "of another speaker: b has one utterance"
    assert set(fallbacks) == {utterance for utterance in tables["utt2prompt"] if prompts[utterance] in ("a-3", "b-2")}


def test_audio_that_changed_since_the_codes_were_made_is_listed() -> None:
    Path("wav/a-1.wav").unlink()
    Path("wav/a-2.wav").write_bytes(b"RIFF, not really")
    soundfile.write("wav/b-1.wav", np.zeros(0), 16000)
    soundfile.write("wav/b-2.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    soundfile.write("wav/c-1.wav", np.zeros(16000), 24000)
    line = one_error(semantic_tokens.main, *TOKENS)
    assert "a speaker prompt needs another utterance" in line
    soundfile.write("wav/c-1.wav", voice(1.2, 220.0, 5), 16000)
    semantic_tokens.main(TOKENS)
    reasons = {utterance: reason.split(":")[0] for utterance, reason in listed(TRAIN / "skipped").items()}
    assert reasons == {
        "a-1": "missing wav", "a-2": "unreadable wav", "b-1": "empty wav", "b-2": "not finite"
    }  # fmt: skip
    assert list(read_scp(TRAIN / "semantic.scp")) == ["a-3", "c-1"]


def test_nothing_usable_is_an_error_and_writes_no_description() -> None:
    for path in Path("wav").glob("*"):
        path.unlink()
    line = one_error(semantic_tokens.main, *TOKENS)
    assert "data must have usable utterances, skipped: 6 missing wav (a-1, a-2, a-3, …)" in line
    assert not (TRAIN / "semantic.scp").exists() and not (TRAIN / "semantic_info.yaml").exists()


def test_utterances_that_only_one_of_the_directories_has_are_listed() -> None:
    wavs, text, utt2spk = (read_scp(f"data/{name}") for name in ("wav.scp", "text", "utt2spk"))
    wavs["b-3"] = wavs["b-4"] = wavs.pop("a-2")
    utt2spk |= {"b-3": "b", "b-4": "b"}
    write_data_dir("data", wavs, {**text, "b-3": "words", "b-4": "words"}, utt2spk)
    Path("dump/codec/train/skipped").write_text("b-4\tno transcript\n")
    semantic_tokens.main(TOKENS)
    assert listed(TRAIN / "skipped") == {
        "a-2": "no audio: not in data", "b-3": "no codes: not in dump/codec/train", "b-4": "no codes: no transcript"
    }  # fmt: skip
    assert "a-2" not in read_scp(TRAIN / "codes.scp")


def test_fixed_prompts_have_units_and_are_not_offered_for_training() -> None:
    write_scp("data/utt2prompt", {"a-2": "a-1", "a-3": "a-1", "b-1": "b-2"})
    codec_tokens.main(CODES)
    semantic_tokens.main(TOKENS)
    tables = {name: read_scp(TRAIN / name) for name in TABLES}
    assert {name: list(table) for name, table in tables.items()} == dict.fromkeys(TABLES, ["a-2", "a-3", "b-1"])
    assert tables["utt2prompt"] == {"a-2": "a-1", "a-3": "a-1", "b-1": "b-2"}
    assert tables["prompt.scp"] == read_scp("dump/codec/train/prompt.scp")
    tokenizer = load_semantic(TRAIN)
    samples, _ = soundfile.read("wav/b-2.wav", dtype="float32")
    units = load_codes_entry(tables["prompt_semantic.scp"]["b-1"], 1)[:, 0]
    assert units.tolist() == tokenizer.encode(torch.from_numpy(samples)).tolist()
    assert listed(TRAIN / "prompt_only") == {"a-1": "prompt", "b-2": "prompt"}
    assert listed(TRAIN / "skipped") == {}


def test_a_fixed_prompt_that_cannot_be_used_is_replaced() -> None:
    write_scp("data/utt2prompt", {"a-2": "a-1", "a-3": "a-1", "b-1": "b-2"})
    codec_tokens.main(CODES)
    soundfile.write("wav/a-1.wav", voice(1.5, 100.0, 0), 16000)
    semantic_tokens.main(TOKENS)
    assert read_scp(TRAIN / "utt2prompt") == {"a-2": "a-3", "a-3": "a-2", "b-1": "b-2"}
    assert listed(TRAIN / "prompt_fallback") == dict.fromkeys(("a-2", "a-3"), "prompt not usable: a-1")
    assert listed(TRAIN / "skipped")["a-1"].startswith("lengths differ by more than 2 frames")


def test_languages_are_carried_and_an_utterance_without_one_is_listed() -> None:
    write_scp("data/utt2lang", {utterance: "en" for utterance in KEPT if utterance != "b-2"})
    semantic_tokens.main(TOKENS)
    kept = [utterance for utterance in KEPT if utterance != "b-2"]
    assert read_scp(TRAIN / "utt2lang") == dict.fromkeys(kept, "en")
    assert listed(TRAIN / "skipped") == {"b-2": "no language"}
    Path("data/utt2lang").unlink()
    semantic_tokens.main(TOKENS)
    assert not (TRAIN / "utt2lang").exists()


def test_finished_tokens_are_kept_until_tokenizer_codes_or_data_change() -> None:
    semantic_tokens.main(TOKENS)
    before = states()
    semantic_tokens.main(TOKENS)
    assert states() == before
    shorten({"a-1": 1})
    codec_record = read_scp("dump/codec/train/utt2num_frames")["a-1"]
    semantic_tokens.main(TOKENS)
    assert read_scp(TRAIN / "utt2num_frames")["a-1"] == codec_record
    semantic_fit.main([*FIT, "--seed", "1"])
    semantic_tokens.main(TOKENS)
    assert read_semantic_info(TRAIN).fingerprint == read_semantic_info("dump/semantic").fingerprint
    semantic_fit.main([*FIT, "--seed", "1", "--deduplicate", "false"])
    semantic_tokens.main(TOKENS)
    assert not read_semantic_info(TRAIN).deduplicate


def test_a_run_that_was_stopped_continues_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_tokens, "SHARD_SIZE", 2)
    original, seen = encoding.encode_units, []

    @functools.wraps(original)
    def stopping(semantic_info, device, found_hz, wavs):  # type: ignore[no-untyped-def]
        if len(seen) == 3:
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.extend(wavs)
        return original(semantic_info, device, found_hz, wavs)

    monkeypatch.setattr(encoding, "encode_units", stopping)
    with pytest.raises(KeyboardInterrupt):
        semantic_tokens.main(TOKENS)
    assert not (TRAIN / "semantic.scp").exists()
    semantic_tokens.main(TOKENS)
    assert seen == [*KEPT[:3], "stopped", *KEPT[3:]]
    assert list(read_scp(TRAIN / "semantic.scp")) == KEPT


def test_processes_do_not_change_the_units() -> None:
    semantic_tokens.main(TOKENS)
    semantic_tokens.main([*TOKENS, "--out", "dump/gpst/parallel", "--nj", "2"])
    assert Path("dump/gpst/parallel/semantic.ark").read_bytes() == (TRAIN / "semantic.ark").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--semantic_info", "gone.yaml"], "semantic_info not found: gone.yaml"),
        (["--codes_dir", "gone"], "codec_info not found: gone"),
        (["--data_dir", "gone"], "gone/wav.scp is missing"),
        (["--nj", "0"], "nj must be at least 1, got 0"),
        (["--dask_scheduler", "here"], "dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got 'here'"),
    ],
)
def test_wrong_options_of_the_tokens_are_one_line_errors(arguments: list[str], message: str) -> None:
    assert message in one_error(semantic_tokens.main, *TOKENS, *arguments)


def test_tables_of_codes_that_do_not_fit_each_other_are_refused() -> None:
    frames = read_scp("dump/codec/train/utt2num_frames")
    write_scp("dump/codec/train/utt2num_frames", {utt: frames[utt] for utt in frames if utt != "b-1"})
    line = one_error(semantic_tokens.main, *TOKENS)
    assert "utt2num_frames must list the utterances of codes.scp, they differ in b-1" in line


@pytest.mark.espnet
def test_codec_and_tokenizer_may_want_different_sample_rates() -> None:
    import yaml
    from tiny_codecs import CONF

    pytest.importorskip("transformers")
    Path("wav24").mkdir()
    wavs = {utterance: f"wav24/{utterance}.wav" for utterance in KEPT}
    for index, wav in enumerate(wavs.values()):
        soundfile.write(wav, voice(1.1, 120.0, index, 24000), 24000)
    write_data_dir("data24", wavs, dict.fromkeys(KEPT, "words"), {utterance: utterance[0] for utterance in KEPT})
    Path("codec.yaml").write_text(yaml.safe_dump({"codec": "encodec_hf", "codec_conf": CONF["encodec_hf"]}))
    codec_fit.main(["--config", "codec.yaml", "--out", "dump/codec24"])
    codec_tokens.main(
        ["--codec_info", "dump/codec24/codec_info.yaml", "--data_dir", "data24", "--out", "dump/codec24/train"]
    )
    semantic_fit.main([*FIT[:2], "--wav_scp", "data24/wav.scp", "--out", "dump/semantic24"])
    tokens = ["--semantic_info", "dump/semantic24", "--data_dir", "data24", "--codes_dir", "dump/codec24/train"]
    tokens[1] += "/semantic_info.yaml"
    semantic_tokens.main([*tokens, "--out", "dump/gpst24"])
    assert list(read_scp("dump/gpst24/semantic.scp")) == KEPT
    assert set(read_scp("dump/gpst24/utt2num_units").values()) == {"55"}
    infos = read_codec_info("dump/gpst24"), read_semantic_info("dump/gpst24")
    assert [info.spec.sample_rate_hz for info in infos] == [24000, 16000]
