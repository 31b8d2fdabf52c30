"""Mixing token directories: shares, repetitions, ids, and everything that cannot be mixed."""

from __future__ import annotations

import doctest
import importlib
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fabricated import one_error

from espnet_ext.codes import CodecSpec
from espnet_ext.data.datadir import read_scp, speaker_to_utterances, write_scp, write_skipped
from espnet_ext.tokenizers.codec import read_codec_info, write_codec_info
from espnet_ext.tokenizers.description import Description
from espnet_ext.tokenizers.semantic import read_semantic_info, write_semantic_info

LOCAL = Path(__file__).resolve().parent.parent / "local"
FRAMES = {"large": [1000] * 36, "small": [100, 300, 150, 250, 200], "tiny": [90]}


@pytest.fixture(scope="module")
def mixer() -> ModuleType:
    sys.path.insert(0, str(LOCAL))
    try:
        return importlib.import_module("mix_corpora")
    finally:
        sys.path.remove(str(LOCAL))


def token_dir(folder: Path, name: str, codec: str = "c" * 64, semantic: str = "s" * 64, dedup: bool = True) -> Path:
    """A token directory without archives, 10 frames a second; speakers a and b take turns."""
    directory = folder / name
    spec = CodecSpec(num_codebooks=2, codebook_size=8, frame_rate_hz=10.0, sample_rate_hz=16000)
    units = CodecSpec(num_codebooks=1, codebook_size=4, frame_rate_hz=10.0, sample_rate_hz=16000)
    write_codec_info(Description("world_vq", folder / "codec.npz", {}, spec, codec, {}), directory / "codec_info.yaml")
    info = Description("mfcc_km", folder / "km.npz", {}, units, semantic, {}, dedup)
    write_semantic_info(info, directory / "semantic_info.yaml")
    frames = {f"{'ab'[i % 2]}-{i:02d}": count for i, count in enumerate(FRAMES[name])}
    write_scp(directory / "utt2num_frames", frames)
    write_scp(directory / "utt2num_units", frames)
    for table in ("codes.scp", "semantic.scp", "prompt.scp", "prompt_semantic.scp"):
        (directory / f"{table}.ark").touch()
        write_scp(directory / table, {utterance: f"{directory}/{table}.ark:{utterance}" for utterance in frames})
    write_scp(directory / "utt2prompt", {utterance: f"{utterance[0]}-99" for utterance in frames})
    write_scp(directory / "text", {utterance: f"{name} says {utterance}" for utterance in frames})
    write_scp(directory / "wav.scp", {utterance: f"{name}/{utterance}.wav" for utterance in frames})
    write_scp(directory / "utt2spk", {utterance: utterance[0] for utterance in frames})
    write_skipped(directory / "skipped", {"a-77": "too short: 0.1 s"})
    (directory / "silence.npz").write_bytes(b"silence")
    return directory


@pytest.fixture
def three(tmp_path) -> dict[str, str]:
    """Name → token directory of 3600, 100 and 9 seconds."""
    return {name: str(token_dir(tmp_path, name)) for name in FRAMES}


def seconds(directory: Path, name: str) -> float:
    return sum(int(n) for u, n in read_scp(directory / "utt2num_frames").items() if u.startswith(f"{name}-")) / 10


def test_the_examples_in_the_docstrings_are_right(mixer):
    assert doctest.testmod(mixer).failed == 0
    assert doctest.testmod(mixer).attempted >= 2


def test_with_temperature_1_every_utterance_is_there_once(mixer, three, tmp_path):
    rows = mixer.mix(three, 1.0, {}, tmp_path / "out")
    frames = read_scp(tmp_path / "out" / "utt2num_frames")
    assert len(frames) == 42 and not [u for u in frames if u.split("-")[-1].startswith("r")]
    assert [row.repetitions for row in rows] == pytest.approx([1, 1, 1])
    assert [row.share for row in rows] == pytest.approx([row.mixed_share for row in rows])


@pytest.mark.parametrize("temperature", [1.3, 2.0, 5.0, math.inf])
def test_shares_follow_the_temperature_and_the_largest_corpus_is_kept_exactly_once(mixer, three, tmp_path, temperature):
    out = tmp_path / "out"
    rows = mixer.mix(three, temperature, {}, out)
    powers = [value ** (1 / temperature) for value in (3600, 100, 9)]
    for row, power in zip(rows, powers, strict=True):
        assert row.wanted_share == pytest.approx(power / sum(powers))
        assert row.mixed_hours == pytest.approx(seconds(out, row.corpus) / 3600)
        wanted_sec = 3600 * power / powers[0]
        longest = max(FRAMES[row.corpus]) / 10
        assert abs(seconds(out, row.corpus) - wanted_sec) <= longest / 2 + 1e-6
    assert sorted(u for u in read_scp(out / "codes.scp") if u.startswith("large-")) == [
        f"large-{utterance}" for utterance in read_scp(Path(three["large"]) / "codes.scp")
    ]


def test_the_corpus_that_is_kept_once_is_complete_whatever_the_order(mixer, three, tmp_path):
    rows = mixer.mix(dict(reversed(three.items())), 3.0, {}, tmp_path / "out")
    assert {row.corpus: row.repetitions == 1.0 for row in rows} == {"tiny": False, "small": False, "large": True}
    assert rows[-1].mixed_utterances == rows[-1].utterances


def test_whole_repetitions_hold_everything_and_the_part_is_chosen_by_the_ids_alone(mixer, three, tmp_path):
    rows = mixer.mix(three, 2.0, {}, tmp_path / "out")  # small: sqrt(36) = 6 times; tiny: 20 times
    assert [row.repetitions for row in rows] == pytest.approx([1, 6, 20])
    mixer.mix(three, 1.8, {}, tmp_path / "less")  # small: 36 ** 0.444 = 4.92 times
    more, less = (set(read_scp(tmp_path / name / "codes.scp")) for name in ("out", "less"))
    assert less < more
    assert {f"small-{u}-r4" for u in read_scp(Path(three["small"]) / "codes.scp")} <= less
    assert 0 < len([u for u in less if u.endswith("-r5") and u.startswith("small")]) < 5
    mixer.mix(dict(reversed(three.items())), 1.8, {}, tmp_path / "again")
    assert (tmp_path / "again" / "codes.scp").read_bytes() == (tmp_path / "less" / "codes.scp").read_bytes()


def test_all_tables_tell_the_same_of_an_utterance_and_of_its_repetitions(mixer, three, tmp_path):
    out = tmp_path / "out"
    mixer.mix(three, 2.0, {name: name[:2] for name in three}, out)
    tables = {
        path.name: read_scp(path)
        for path in out.iterdir()
        if path.name not in ("skipped", "mix.tsv", "silence.npz", "spk2utt") and path.suffix != ".yaml"
    }
    utterances, small = tables["semantic.scp"].keys(), three["small"]
    assert all(table.keys() == utterances for table in tables.values())
    assert {name: table["small-b-01-r6"] for name, table in tables.items()} == {
        "codes.scp": f"{small}/codes.scp.ark:b-01",
        "semantic.scp": f"{small}/semantic.scp.ark:b-01",
        "prompt.scp": f"{small}/prompt.scp.ark:b-01",
        "prompt_semantic.scp": f"{small}/prompt_semantic.scp.ark:b-01",
        "utt2prompt": "small-b-99",
        "utt2num_frames": "300",
        "utt2num_units": "300",
        "utt2lang": "sm",
        "utt2spk": "small-b",
        "text": "small says b-01",
        "wav.scp": "small/b-01.wav",
    }
    by_speaker = {speaker: " ".join(names) for speaker, names in speaker_to_utterances(tables["utt2spk"]).items()}
    assert read_scp(out / "spk2utt") == by_speaker
    assert all(utterance.startswith(speaker) for utterance, speaker in tables["utt2spk"].items())
    assert (out / "skipped").read_text().splitlines()[0] == "large-a-77\ttoo short: 0.1 s"
    assert (out / "silence.npz").read_bytes() == b"silence"
    for read in (read_codec_info, read_semantic_info):  # the weights are found from the new place
        assert read(out).checkpoint.resolve() == read(three["tiny"]).checkpoint.resolve()


def test_the_table_of_the_mix_can_be_read_back(mixer, three, tmp_path):
    rows = mixer.mix(three, 2.0, {}, tmp_path / "out")
    names, *lines = [line.split("\t") for line in (tmp_path / "out" / "mix.tsv").read_text().splitlines()]
    found = dict(zip(names, lines[1], strict=True))
    assert found["corpus"] == "small" and float(found["repetitions"]) == pytest.approx(6)
    assert float(found["mixed_hours"]) == pytest.approx(6 * 100 / 3600, rel=1e-4)
    assert sum(float(dict(zip(names, line, strict=True))["mixed_share"]) for line in lines) == pytest.approx(
        1, rel=1e-4
    )
    assert len(rows) == len(lines) == 3


def test_own_languages_come_before_those_of_the_option(mixer, three, tmp_path):
    write_scp(Path(three["small"]) / "utt2lang", {"a-00": "de", "b-01": "de"})
    mixer.mix(three, 1.0, {"large": "en", "small": "nl", "tiny": "fi"}, tmp_path / "out")
    languages = read_scp(tmp_path / "out" / "utt2lang")
    wanted = {"small-a-00": "de", "small-a-02": "nl", "large-a-00": "en", "tiny-a-00": "fi"}
    assert {utterance: languages[utterance] for utterance in wanted} == wanted


def test_languages_of_some_utterances_only_are_refused(mixer, three, tmp_path):
    with pytest.raises(ValueError, match=r"utt2lang must be of all .* got none for small-a-00: --language small=…"):
        mixer.mix(three, 1.0, {"large": "en", "tiny": "en"}, tmp_path / "out")
    mixer.mix(three, 1.0, {}, tmp_path / "out")
    assert not (tmp_path / "out" / "utt2lang").exists()


def test_a_table_that_one_corpus_lacks_is_left_out_and_named(mixer, three, tmp_path, caplog):
    mixer.mix(three, 1.0, {}, tmp_path / "out")
    (Path(three["tiny"]) / "text").unlink()
    mixer.mix(three, 1.0, {}, tmp_path / "out")
    assert not (tmp_path / "out" / "text").exists(), "that of the earlier mix is gone"
    assert "text is left out: there is none in tiny" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "d" * 64}, "one codec fingerprint, got c{64} in large .* and d{64} in small "),
        ({"semantic": "d" * 64}, "one semantic fingerprint, got s{64} in large .* and d{64} in small "),
        ({"dedup": False}, "one deduplicate of the semantic tokenizer, got True in large .* and False in small"),
    ],
)
def test_tokens_of_different_tokenizers_are_refused_and_both_named(mixer, three, tmp_path, change, message):
    token_dir(tmp_path, "small", **change)
    with pytest.raises(ValueError, match=message):
        mixer.mix(three, 1.0, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_do_not_lead_anywhere_from_here_are_refused(mixer, three, tmp_path):
    (Path(three["small"]) / "semantic.scp.ark").unlink()
    with pytest.raises(FileNotFoundError, match=r"semantic.scp of --corpus small names .*, which is not there from"):
        mixer.mix(three, 1.0, {}, tmp_path / "out")


@pytest.mark.parametrize("temperature", [0.5, 0.0, -1.0, math.nan])
def test_a_temperature_that_would_drop_speech_is_refused(mixer, three, tmp_path, temperature):
    with pytest.raises(ValueError, match="--temperature must be at least 1, got"):
        mixer.mix(three, temperature, {}, tmp_path / "out")


def test_ids_that_would_meet_are_refused(mixer, three, tmp_path):
    """The second copy of a-00 would have had the id of an utterance a-00-r2."""
    for path in Path(three["tiny"]).iterdir():
        if path.name != "skipped" and path.suffix not in (".yaml", ".npz", ".ark") and "spk2utt" not in path.name:
            write_scp(path, {u: value for old, value in read_scp(path).items() for u in (old, f"{old}-r2")})
    with pytest.raises(ValueError, match="names that keep ids apart, got tiny-a-00-r2 from two utterances"):
        mixer.mix(three, 2.0, {}, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["large={large}", "large={tiny}"], "--corpus must have every name once, got large"),
        (["{large}"], "--corpus must be NAME=VALUE"),
        (["=x"], "--corpus must be NAME=VALUE"),
        (["a=absent"], "utt2num_units is missing"),
        (["a={large}", "--language", "b=en"], "--language must name corpora among ['a'], got b"),
        (["a={large}", "--out", "{large}"], "--out must be another directory than those that are mixed"),
    ],
)
def test_a_wrong_command_line_is_answered_by_one_line(mixer, three, tmp_path, arguments, message):
    given = [word.format(**three) for word in arguments]
    assert message in one_error(mixer.main, "--out", tmp_path / "out", "--corpus", *given)


def test_the_command_says_what_became_of_every_corpus(three, tmp_path):
    words = [f"{name}={place}" for name, place in three.items()]
    line = [sys.executable, str(LOCAL / "mix_corpora.py"), "--temperature", "2", "--out", "out", "--corpus", *words]
    environment = {**os.environ, "PYTHONPATH": str(LOCAL.parent)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True)
    expected = (
        "small: 5 utterances, 0.028 h, 2.7% of the speech; 6.000 times: 30 utterances, 0.167 h, 13.7% (wanted 13.7%)"
    )
    assert expected in done.stderr.splitlines()
