"""The stage `score` from directories to scores.json, RESULTS.md and figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_ext.bin import evaluate as score
from espnet_ext.bin import results
from espnet_ext.codes import CodecSpec
from espnet_ext.data.ark import codes_writer
from espnet_ext.data.datadir import write_scp
from espnet_ext.scoring.evaluate import evaluate
from espnet_ext.scoring.scores import ErrorRate, Scores, SystemScores, read_scores, write_scores
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import load_reference, load_system
from espnet_ext.scoring.tables.figures import choose_utterances, error_bars, learning_curves, spectrograms
from espnet_ext.scoring.tables.markdown import table
from espnet_ext.scoring.tables.report import results_page
from espnet_ext.scoring.tables.strategy_table import strategy_table

ROOT = Path(__file__).resolve().parent.parent
LOG = "INFO: 1epoch results: [train] loss=2.5, acc_ar=0.6, [valid] loss=2.25, acc_ar=0.5, loss_cb0_ar=1.0\n"


class ToyCodec:
    """Frame vectors are the codes themselves and their product."""

    spec = CodecSpec(num_codebooks=2, codebook_size=4, frame_rate_hz=25.0, sample_rate_hz=16000)

    def dequantise(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.cat([codes, codes.prod(dim=1, keepdim=True)], dim=1).float()


class HearingCodec(ToyCodec):
    """Its codes are the loudness of a frame, in four steps."""

    def encode(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loud = wav[0].abs().unfold(0, 640, 640).mean(dim=1)
        codes = (loud / loud.max() * 3).long()[:, None].expand(-1, 2)
        return codes[None], torch.tensor([len(codes)])


def buzz(seconds: float, pitch: float) -> np.ndarray:
    """Harmonics of a pitch: no words, but a voice of a kind."""
    time = np.arange(int(16000 * seconds)) / 16000
    return 0.1 * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20))


@pytest.fixture
def test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reference of four buzzing utterances of two speakers, a system that copies it, and one that lacks some."""
    monkeypatch.chdir(tmp_path)
    utterances = ["a-1", "a-2", "b-1", "b-2"]
    generator = np.random.default_rng(0)
    for name in ("reference", "exp/decode_x/set", "exp/decode_y/set"):
        folder = Path(name)
        with codes_writer(folder) as write:
            for one in utterances:
                write(one, generator.integers(4, size=(10, 2)))
        (folder / "wav").mkdir()
        for index, one in enumerate(utterances):
            soundfile.write(folder / "wav" / f"{one}.wav", buzz(1.0 + 0.1 * index, 100 + 60 * (one[0] == "b")), 16000)
        write_scp(folder / "wav.scp", {one: folder / "wav" / f"{one}.wav" for one in utterances})
    write_scp("reference/text", dict.fromkeys(utterances, "two red dogs zyxxyz"))
    write_scp("reference/utt2spk", {one: one[0] for one in utterances})
    bad = Path("exp/decode_y/set")
    (bad / "wav" / "a-2.wav").write_bytes(b"garbage")
    write_scp(bad / "wav.scp", {one: bad / "wav" / f"{one}.wav" for one in utterances[1:]})
    for folder in (Path("exp/decode_x/set"), bad):
        write_scp(folder / "status", {**dict.fromkeys(utterances, "ok"), "b-2": "no_eos"})
        (folder / "timing.json").write_text('{"rtf": 0.25, "steps": 40}')
    return tmp_path


def evaluated() -> Scores:
    reference = load_reference(Path("reference"))
    names = {"original": "reference", "x": "exp/decode_x/set", "y": "exp/decode_y/set"}
    systems = [load_system(name, Path(folder), reference.transcripts) for name, folder in names.items()]
    return evaluate(reference, systems, ToyCodec(), Settings(resamples=20, mos=()))


def test_absent_and_unreadable_utterances_are_named_and_their_words_count_as_deleted(test_set: Path) -> None:
    result = evaluated()
    y = result.systems["y"]
    assert y.missing == {"a-1": "not in wav.scp", "a-2": y.missing["a-2"]}
    assert y.missing["a-2"].startswith("unreadable wav: ")
    assert (y.wer.sentences, y.wer.reference) == (4, 16)
    assert y.wer.deletions >= 8
    assert y.hypotheses["a-1"] == ""
    assert y.eos_rate == 0.75
    assert y.duration_ratio == pytest.approx(1.0)
    assert result.systems["original"].frechet.distance == pytest.approx(0.0, abs=1e-9)
    assert result.systems["original"].eos_rate is None
    assert result.reference.unknown_words == {"zyxxyz": 4}
    assert [(pair.first, pair.second) for pair in result.comparisons] == [("y", "x")]


def test_texts_of_which_the_recogniser_knows_no_word_are_scored_without_error_rates_and_with_the_reason(
    test_set: Path,
) -> None:
    """Stage score ended with an error after the whole training."""
    write_scp("reference/text", dict.fromkeys(["a-1", "a-2", "b-1", "b-2"], "zyxxyz qqzz"))
    result = evaluated()
    reason = "a word of the dictionary of pocketsphinx, got none (qqzz, zyxxyz)"
    assert reason in result.unavailable["wer"] and reason in result.unavailable["cer"]
    assert result.systems["x"].wer is None and result.systems["x"].frechet.distance is not None
    page = results_page([replace(result, title="set", environment={"date": "2026"})], Path())
    assert any(line.startswith("- WER %: the texts must have ") and reason in line for line in page.splitlines())
    assert "### WER" not in page and "the recogniser chooses among" not in page


def test_results_page_says_where_the_words_of_the_recogniser_come_from(test_set: Path) -> None:
    reference, text = load_reference(Path("reference")), Path("train text")
    systems = [load_system("x", Path("exp/decode_x/set"), reference.transcripts)]
    settings = Settings(resamples=20, mos=(), vocabulary=("seven green dogs",), vocabulary_of=(str(text),))
    result = evaluate(reference, systems, ToyCodec(), settings)
    page = results_page([replace(result, title="set", environment={"date": "2026"})], Path())
    assert "chooses among 5 words, those of the test set and of `train text`, all equally likely" in page


def test_results_page_has_the_tables_of_espnet_and_says_what_is_absent(test_set: Path) -> None:
    environment = {"date": "2026", "python version": "3"}
    page = results_page([replace(evaluated(), title="set", environment=environment)], Path())
    for line in ("# RESULTS", "## Environments", "- python version: `3`", "## set", "### WER"):
        assert line in page.splitlines()
    assert "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in page
    assert "- y, no audio (words count as deleted): 1 × not in wav.scp (a-1)" in page
    assert "- y, no audio (words count as deleted): 1 × unreadable wav (a-2)" in page
    assert "- words that the recogniser does not know and so cannot hear: zyxxyz (4)" in page
    row = next(line for line in page.splitlines() if line.startswith("|y|2|")).split("|")
    assert row[-3:-1] == ["1.00", "0.250"]


def three_strategies() -> Scores:
    """Results of x as local_ar, a copy of it as local_speculative, and y as parallel, at S = 2."""
    costs = {"rtf": 0.25, "steps": 40, "batch_size": 16, "num_threads": 1}
    costs |= {"frames_per_second": 400.4, "local_passes_per_frame": 0.5, "codes_per_pass": 4.0}
    shutil.copytree("exp/decode_x", "exp/decode_z")
    reference = load_reference(Path("reference"))
    systems = [load_system("original", Path("reference"), reference.transcripts)]
    for strategy, folder in (("local_ar", "x"), ("local_speculative", "z"), ("parallel", "y")):
        directory = Path(f"exp/decode_{folder}/set")
        costs["decoding"] = strategy
        (directory / "timing.json").write_text(json.dumps(costs))
        systems.append(load_system(f"s2_{strategy}", directory, reference.transcripts))
    return evaluate(reference, systems, ToyCodec(), Settings(resamples=20, mos=()))


def test_strategies_are_compared_with_the_parallel_one_and_with_the_one_they_repeat(test_set: Path) -> None:
    result = three_strategies()
    pairs = [(pair.first, pair.second) for pair in result.comparisons]
    assert pairs == [
        ("s2_local_ar", "s2_parallel"),
        ("s2_local_speculative", "s2_parallel"),
        ("s2_local_speculative", "s2_local_ar"),
    ]
    same = result.comparisons[2]
    assert (same.frechet.difference, same.frechet.interval) == (0.0, (0.0, 0.0))
    assert same.wer.difference == 0.0
    page = results_page([replace(result, environment={"date": "2026"})], Path())
    rows = [line for line in page.partition("### Strategies")[2].splitlines() if line.startswith("|")][:5]
    assert [row.split("|")[1:3] for row in rows[2:]] == [
        ["local_ar", "2"],
        ["local_speculative", "2"],
        ["parallel", "2"],
    ]
    assert rows[2].endswith("|0.50|4.00|400|0.250|WER, FD|")
    assert "16 utterances at once, threads: 1, while" in page


def test_a_timing_file_of_an_earlier_version_leaves_dashes_in_the_table(test_set: Path) -> None:
    scores = {f"s{factor}_parallel": evaluated().systems["x"] for factor in (10, 2)}
    rows = strategy_table({**scores, "original": scores["s2_parallel"]}, {}).splitlines()[2:]
    assert [row.split("|")[2] for row in rows] == ["2", "10"]
    assert all(row.endswith("|–|–|–|0.250|WER, FD|") for row in rows)
    assert strategy_table({"original": scores["s2_parallel"]}, {}) == ""


def test_scores_are_the_same_in_every_run(test_set: Path) -> None:
    assert json.dumps(asdict(evaluated())) == json.dumps(asdict(evaluated()))


def test_score_command_writes_everything_and_a_second_run_has_nothing_to_do(
    test_set: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("espnet_ext.tokenizers.codec.load_codec", lambda path: ToyCodec())
    monkeypatch.setattr("espnet_ext.scoring.measures.frame_codes.codec_of", lambda path: HearingCodec())
    Path("exp/train.log").write_text(LOG)
    Path("codec_info.yaml").write_text("")
    command = ["--codec_info", "codec_info.yaml", "--reference", "reference", "--system", "original=reference"]
    command += [
        "--system",
        "x=exp/decode_x/set",
        "--train_dir",
        "exp",
        "--train_dir",
        "nowhere",
        "--num_bootstrap",
        "20",
    ]
    command += ["--output_dir", "scores/set", "--mos", "none"]
    caplog.set_level("INFO")
    score.main(command)
    written = json.loads(Path("scores/set/scores.json").read_text())
    assert sorted(written["systems"]) == ["original", "x"]
    assert set(written["figures"]) == {"word error rate", "spectrograms", "learning curves of exp"}
    assert all(Path(path).stat().st_size > 5000 for path in written["figures"].values())
    assert "(figures/wer.png)" in Path("scores/set/RESULTS.md").read_text()
    assert "train_dir must hold checkpoint.pth or train.log, got nowhere" in caplog.text
    assert not [path for path in Path("scores").rglob("*") if ".tmp" in path.name or path.name == "shards"]

    made = Path("scores/set/scores.json").stat().st_mtime_ns
    score.main(command)
    assert "nothing to do" in caplog.text
    assert Path("scores/set/scores.json").stat().st_mtime_ns == made
    score.main([*command, "--num_spectrograms", "1"])
    assert Path("scores/set/scores.json").stat().st_mtime_ns > made

    results.main(["scores/set/scores.json", "--out", "RESULTS.md"])
    page = Path("RESULTS.md").read_text()
    assert "## reference" in page
    assert "(scores/set/figures/wer.png)" in page


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--system", "x"], "--system must be NAME=DIR, got 'x'"),
        (["--system", "x=a", "--system", "x=b"], "--system must have different names, got 'x' twice"),
        ([], "--system must be given at least once"),
        (["--system", "x=reference", "--nj", "0"], "nj must be at least 1, got 0"),
    ],
)
def test_wrong_options_of_the_score_command_are_named(test_set: Path, extra: list[str], message: str) -> None:
    command = ["--codec_info", "codec_info.yaml", "--reference", "reference", "--output_dir", "out", *extra]
    with pytest.raises(ValueError, match=message):
        score.main(command)
    assert not Path("out").exists()


def test_a_missing_system_and_an_unknown_comparison_are_named(test_set: Path) -> None:
    reference = load_reference(Path("reference"))
    with pytest.raises(FileNotFoundError, match=r"system 'x': nowhere/wav.scp is missing"):
        load_system("x", Path("nowhere"), reference.transcripts)
    system = load_system("x", Path("reference"), reference.transcripts)
    with pytest.raises(ValueError, match=r"compare must name systems among \['x'\], got 'z'"):
        evaluate(reference, [system], ToyCodec(), Settings(compare=(("x", "z"),)))


def test_results_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "espnet_ext.bin.results", "nowhere.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: scores not found: nowhere.json (espnet_ext.bin.evaluate writes it)\n"
    table = dict.fromkeys(("title", "environment", "systems", "reference", "figures", "unavailable"), {})
    for content in ([], {}, {**table, "systems": ["x"]}, {**table, "systems": {"x": 1}}):
        (tmp_path / "bad.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="scores must be a file written by espnet_ext.bin.evaluate"):
            read_scores(tmp_path / "bad.json")


def test_scores_are_written_as_they_were_read_and_what_an_older_file_lacks_has_its_default(test_set: Path) -> None:
    made = replace(evaluated(), title="set", environment={"date": "2026"}, request={"seed": 0})
    write_scores(made, Path("scores.json"))
    assert read_scores(Path("scores.json")) == made
    write_scores(read_scores(Path("scores.json")), Path("again.json"))
    assert Path("again.json").read_bytes() == Path("scores.json").read_bytes()
    content = json.loads(Path("scores.json").read_text())
    for system in content["systems"].values():
        del system["same_codes_as"]
    older = {key: value for key, value in content.items() if key != "untranscribed"}
    Path("scores.json").write_text(json.dumps({**older, "unknown": 1}))
    assert read_scores(Path("scores.json")) == made


# --- pictures --------------------------------------------------------------------------------------------------------


def test_spectrograms_show_what_most_systems_have_and_different_speakers() -> None:
    speakers = {"a-1": "a", "a-2": "a", "b-1": "b", "b-2": "b"}
    assert choose_utterances(speakers, [speakers, speakers], 2) == ["a-1", "b-1"]
    assert choose_utterances(speakers, [speakers, {"a-2": 0, "b-2": 0}], 3) == ["a-2", "b-2", "a-1"]


def test_pictures_are_drawn_even_of_very_little(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(5), 8000)
    wavs = {"one": {"a": tmp_path / "short.wav"}, "none": {}}
    spectrograms(wavs, {"one": {"a": ""}, "none": {}}, {"a": "two dogs"}, tmp_path / "s.png")
    error_bars({"one": SystemScores(wer=ErrorRate(rate=0.0))}, "title", tmp_path / "e.png")
    curves = {"valid": {"loss": {1: 2.0}, "loss_cb0_ar": {1: 1.0}, "acc_ar": {1: 0.5}}}
    learning_curves(curves, "title", tmp_path / "l.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in "sel")


def test_cells_of_a_table_cannot_break_it() -> None:
    assert table(["a", "b"], [["x|y", "1"]]).splitlines() == ["|a|b|", "|---|---:|", "|x\\|y|1|"]
