"""Tuning the sampling: what is tried, what is chosen, on which sentences, and what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fabricated import one_error

from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.scoring.evaluators import Recogniser, recognisers
from espnet_ext.scoring.scores import ErrorRate, FrameDistance
from espnet_ext.tuning.candidates import Grid, Tried, choose, name_of, reason, search
from espnet_ext.tuning.development_set import read_tuning_set, some

BASE = DecodeOptions("local_ar", sampling={"temperature": 0.7, "top_k": 80, "cfg_scale": 1.5})


def tried(rate: float, distance: float | None, spread: float = 0.02, **sampling: Any) -> Tried:
    """A setting whose word error rate moves with that of the others from resample to resample."""
    shift = np.linspace(-spread, spread, 200)
    wer = ErrorRate(rate=rate, interval=(rate - spread, rate + spread))
    interval = None if distance is None else (distance - 1, distance + 1)
    frechet = FrameDistance(corrected=distance, interval=interval)
    return Tried(DecodeOptions("local_ar", sampling=sampling), wer, rate + shift, frechet)


# --- the choice ------------------------------------------------------------------------------------------------------


def test_fewest_words_wrong_win_where_the_paired_interval_tells_them_apart() -> None:
    """The intervals overlap, but the differences are the same in every resample."""
    cells = [tried(0.21, 1.0), tried(0.20, 9.0), tried(0.22, 0.5)]
    assert choose(cells).chosen is cells[1]
    assert "fewer than each of the 2 others beyond what chance explains" in reason(choose(cells), cells)


def test_of_those_that_cannot_be_told_apart_the_closest_codes_win() -> None:
    noisy = tried(0.25, 2.0, spread=0.2, temperature=0.5)
    cells = [tried(0.20, 3.0, temperature=0), noisy, tried(0.30, 0.1)]
    choice = choose(cells)
    assert choice.chosen is noisy and choice.best is cells[0]
    told = reason(choice, cells)
    assert told.startswith("temperature 0.5, top-k 0, guidance 1: 25.0 % (5.0 … 45.0) word errors; the fewest, 20.0 %")
    assert "2 of 3 settings cannot be told apart" in told and told.endswith(
        "2.000 (1.000 … 3.000), is the lowest of them."
    )


def test_setting_without_a_distance_is_the_last_choice_of_equals() -> None:
    cells = [tried(0.2, None), tried(0.2, 5.0)]
    assert choose(cells).chosen is cells[1]
    assert choose(cells[:1]).chosen is cells[0]


# --- what is tried ---------------------------------------------------------------------------------------------------


class Scripted:
    """Scores by a rule; notes what it is asked."""

    def __init__(self, rule) -> None:
        self.rule, self.asked = rule, []

    def __call__(self, several: Sequence[DecodeOptions]) -> list[Tried]:
        self.asked.append([dict(one.sampling) for one in several])
        return [Tried(one, *self._scores(one)) for one in several]

    def _scores(self, options: DecodeOptions) -> tuple[Any, Any, Any]:
        rate = self.rule(options.sampler)
        return ErrorRate(rate=rate), np.full(9, rate), FrameDistance(corrected=1.0)

    def values(self, name: str) -> list[list[Any]]:
        return [[one.get(name) for one in stage] for stage in self.asked]


def test_stages_go_on_with_what_was_best_and_try_nothing_twice() -> None:
    measure = Scripted(lambda s: abs(s.temperature - 0.5) + abs(s.cfg_scale - 2) + (s.top_k > 0))
    found = search(BASE, Grid(), measure, 8, guided=True)
    assert measure.values("temperature") == [[0.7, 0, 0.3, 0.5], [0.5, 0.5], [0.5]]
    assert measure.values("cfg_scale") == [[1.5] * 4, [1, 2], [2]]
    assert measure.values("top_k") == [[80] * 4, [80] * 2, [0]]
    assert len(found) == 7 <= Grid().cells
    assert choose(found).chosen.options.sampling == {"temperature": 0.5, "cfg_scale": 2, "top_k": 0}


def test_no_truncation_is_tried_where_the_most_likely_code_is_taken() -> None:
    measure = Scripted(lambda s: s.temperatures[0])
    search(BASE, Grid(), measure, 8, guided=True)
    assert measure.values("temperature") == [[0.7, 0, 0.3, 0.5], [0, 0]]


def test_model_that_has_not_learned_it_is_not_guided() -> None:
    measure = Scripted(lambda s: s.temperature)
    search(BASE, Grid(temperature=(0.5,)), measure, 8, guided=False)
    assert {one["cfg_scale"] for stage in measure.asked for one in stage} == {1.0}
    assert len(measure.asked) == 2


def test_codebook_0_is_tried_colder_and_warmer_than_the_others_where_that_is_asked_for() -> None:
    measure = Scripted(lambda s: abs(s.temperatures[0] - 0.3) + abs(s.temperatures[-1] - 0.5))
    grid = Grid((0.3, 0.5), (), (), per_codebook=True)
    found = search(BASE, grid, measure, 3, guided=True)
    assert measure.values("temperature")[-1] == [[0.5, 0.3, 0.3], [0.3, 0.5, 0.5]]
    chosen = choose(found).chosen.options
    assert chosen.sampling["temperature"] == [0.3, 0.5, 0.5]
    assert name_of(chosen) == "temperature-0.3+2x0.5_top_k-80_cfg_scale-1.5"
    assert len(found) <= grid.cells
    assert len(search(BASE, grid, measure, 1, guided=True)) == 3, "one codebook has one temperature"


def test_greedy_settings_leave_out_the_avoidance_of_repetition() -> None:
    base = DecodeOptions("local_ar", sampling={"repetition_window": 10, "temperature": 0.7})
    measure = Scripted(lambda s: s.temperature)
    search(base, Grid((0,), (), ()), measure, 8, guided=True)
    assert measure.asked == [[{"repetition_window": 10, "temperature": 0.7}, {"temperature": 0}]]


# --- the development set ---------------------------------------------------------------------------------------------


def test_some_utterances_are_of_all_speakers_and_the_same_every_time() -> None:
    speakers = {f"{name}-{number}": name for name in "ab" for number in range(9)}
    few = some(speakers, 4)
    assert sorted(speakers[one] for one in few) == ["a", "a", "b", "b"]
    assert set(few) <= set(some(speakers, 7)) and some(speakers, 0) == sorted(speakers)


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    names = [f"s-{number:02d}" for number in range(30)]
    write_scp(folder / "text", dict.fromkeys(names, "two dogs"))
    write_scp(folder / "utt2spk", dict.fromkeys(names, "s"))
    write_scp(folder / "codes.scp", dict.fromkeys(names, "codes.ark:5"))
    return folder


def test_set_without_texts_is_refused(dev: Path, tmp_path: Path) -> None:
    write_scp(dev / "text", dict.fromkeys(read_scp(dev / "text"), ""))
    with pytest.raises(
        ValueError, match="data_dir must have texts, whose words can be counted, got none in .*dev/text"
    ):
        read_tuning_set(dev, tmp_path / "place", 0, [], tmp_path)
    (dev / "text").unlink()
    with pytest.raises(ValueError, match="data_dir must have texts"):
        read_tuning_set(dev, tmp_path / "place", 0, [], tmp_path)
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize("other", ["test_seen", "train"])
def test_utterances_of_the_test_or_the_training_are_refused(dev: Path, tmp_path: Path, other: str) -> None:
    write_scp(tmp_path / other / "codes.scp", {"s-07": "x:1", "z-1": "x:2"})
    with pytest.raises(ValueError, match=rf"data_dir must share no utterance with .*{other}, .* 1 of 30 .*\(s-07 …\)"):
        read_tuning_set(dev, tmp_path / "place", 0, [tmp_path / other], tmp_path)
    write_scp(tmp_path / other / "codes.scp", {"z-1": "x:2"})
    assert read_tuning_set(dev, tmp_path / "place", 0, [tmp_path / other], tmp_path).remarks == ()


def test_set_that_was_decoded_before_or_is_called_a_test_is_remarked_upon(dev: Path, tmp_path: Path) -> None:
    write_scp(tmp_path / "exp/decode_parallel/seen/status", dict.fromkeys(read_scp(dev / "codes.scp"), "ok"))
    (remark,) = read_tuning_set(dev, tmp_path / "place", 25, [], tmp_path / "exp").remarks
    assert "has the utterances of" in remark and "decode_parallel/seen: scores on what sampling was tuned on" in remark
    (remark,) = read_tuning_set(dev.rename(tmp_path / "test_x"), tmp_path / "place", 0, [], tmp_path / "no").remarks
    assert "test_x is called a test set" in remark


def test_few_sentences_are_remarked_upon_and_only_those_with_text_speaker_and_codes_count(
    dev: Path, tmp_path: Path
) -> None:
    write_scp(dev / "utt2spk", dict.fromkeys(list(read_scp(dev / "utt2spk"))[:21], "s"))
    assert read_tuning_set(dev, tmp_path / "place", 0, [], tmp_path).remarks == ()
    found = read_tuning_set(dev, tmp_path / "place", 19, [], tmp_path)
    assert found.remarks == ("19 sentences are few to tune on: below 20 most settings cannot be told apart",)
    assert len(found.reference.transcripts) == 19 == len(read_scp(tmp_path / "place" / "codes.scp"))


# --- the command -----------------------------------------------------------------------------------------------------


class Loud(Recogniser):
    """Hears one word more in every file that is longer than the shortest that it has heard."""

    requires = {"numpy": "numpy"}

    def recognise(self, samples: np.ndarray) -> str:
        return "abc" if len(samples) % 3 else "abcd"


@pytest.fixture
def command(corpus: Path, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tuning of a copy of the experiment on two utterances."""
    monkeypatch.setitem(recognisers._classes, "loud", Loud)
    for folder in (experiment, corpus / "dev"):
        shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / "conf").mkdir()
    base = {"maxlenratio": 2.0, "sampling": {"temperature": 0.8, "top_k": 5}}
    for name in ("parallel", "local_ar", "local_speculative"):
        (tmp_path / "conf" / f"decode_{name}.yaml").write_text(yaml.safe_dump({"decoding": name, **base}))
    options = ["--exp", str(tmp_path / experiment.name), "--data_dir", str(tmp_path / "dev")]
    options += ["--conf_dir", str(tmp_path / "conf"), "--output_dir", str(tmp_path / "tuned"), "--asr", "loud"]
    return [*options, "--temperature", "0,0.8", "--cfg_scale", "1", "--top_k", "0,5", "--num_bootstrap", "20"]


@pytest.mark.espnet
def test_tuning_stores_a_complete_decode_yaml_of_each_strategy_in_the_experiment(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from espnet_ext.bin import codec_lm_inference, tune

    command += ["--decodings", "local_speculative parallel local_ar", "--per_codebook"]
    tune.main(command)
    exp = tmp_path / "model"
    found = json.loads((tmp_path / "tuned" / "tuned.json").read_text())
    assert list(found["strategies"]) == ["parallel", "local_ar", "local_speculative"]
    assert found["remarks"] == ["2 sentences are few to tune on: below 20 most settings cannot be told apart"]
    for strategy, about in found["strategies"].items():
        path = exp / "decode" / f"decode_{strategy}.yaml"
        assert about["config"] == str(path)
        assert path.read_text().startswith(
            f"# Chosen by espnet_ext.bin.tune on {tmp_path / 'dev'}.\n# {about['why']}\n"
        )
        content = yaml.safe_load(path.read_text())
        assert list(content) == ["decoding", "decoding_conf", "sampling", "seed", "maxlenratio", "min_frames"]
        assert (content["decoding"], content["maxlenratio"]) == (strategy, 2.0)
        DecodeOptions.from_mapping(content)
    cells = found["strategies"]["local_ar"]["cells"]
    assert set(cells[found["strategies"]["local_ar"]["chosen"]]) >= {"sampling", "wer", "difference", "frechet"}
    assert found["strategies"]["local_speculative"]["why"].startswith("It has the codes of local_ar: ")
    page = (tmp_path / "tuned" / "TUNED.md").read_text()
    assert "## local_ar" in page and "|**temperature" in page
    assert found["strategies"]["parallel"]["why"] in capsys.readouterr().out

    # the stored file says the codes of the cell that was chosen
    place = tmp_path / "tuned" / "cells" / "local_ar" / found["strategies"]["local_ar"]["chosen"]
    again = ["--exp", str(exp), "--data_dir", str(tmp_path / "dev"), "--output_dir", str(tmp_path / "again")]
    codec_lm_inference.main([*again, "--inference_config", str(exp / "decode" / "decode_local_ar.yaml")])
    assert (tmp_path / "again" / "codes.ark").read_bytes() == (place / "codes.ark").read_bytes()
    assert not (place / "wav").exists(), "the audio is not kept"

    monkeypatch.setattr(codec_lm_inference, "decode", lambda *_: pytest.fail("decoded twice"))
    tune.main(command)
    assert json.loads((tmp_path / "tuned" / "tuned.json").read_text()) == found


@pytest.mark.espnet
def test_strategies_that_the_model_lacks_are_left_out_and_another_one_is_a_wrong_option(
    command: list[str], tmp_path: Path, experiment: Path
) -> None:
    from espnet_ext.bin import tune

    for more, message in (
        (["--decodings", "nonsense"], "decoding must be one of "),
        (["--asr", "none"], "--asr must be a recogniser, whose words are counted, got 'none'"),
        (["--temperature", "-1"], "temperature must be in [0, 10], got -1"),
        (["--top_k", "1.5"], "top_k must be an integer, got 1.5"),
        (["--limit", "-1"], "limit must be at least 0, got -1"),
        (["--num_bootstrap", "1"], "num_bootstrap must be at least 2, got 1"),
        (["--not_these", str(tmp_path / "dev")], "data_dir must share no utterance with"),
        (["--data_dir", str(tmp_path)], "data_dir must have texts"),
    ):
        assert message in one_error(tune.main, *command, *more)
    with pytest.raises(SystemExit):
        tune.main([*command, "--temperature", "hot"])
    assert not (tmp_path / "tuned").exists()


@pytest.mark.espnet
def test_words_that_the_recogniser_lacks_do_not_stop_a_recipe(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from espnet_ext.bin import tune

    monkeypatch.setattr(recognisers["pocketsphinx"], "known_words", classmethod(lambda cls, words: set()))
    tune.main([*command, "--asr", "pocketsphinx"])
    assert "nothing is tuned, and the sampling stays that of the configurations: the texts must" in caplog.text
    assert not (tmp_path / "tuned" / "tuned.json").exists()


@pytest.mark.espnet
def test_temperatures_of_another_number_of_codebooks_are_one_line(command: list[str], tmp_path: Path) -> None:
    from espnet_ext.bin import codec_lm_inference

    (tmp_path / "list.yaml").write_text("{decoding: parallel, sampling: {temperature: [0.5, 0.7]}}\n")
    options = ["--inference_config", tmp_path / "list.yaml", "--output_dir", tmp_path / "out"]
    line = one_error(codec_lm_inference.main, *command[:4], *options)
    assert "temperature must be a number or 8 of them, one for each codebook of the model, got [0.5, 0.7]" in line
