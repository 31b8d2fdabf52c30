"""The measures of stage score against their formulas, and the files that come of them."""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import soundfile
import torch

from espnet_ext.jobs import Workers
from espnet_ext.scoring.evaluators import Recogniser
from espnet_ext.scoring.evaluators.evaluator import Choice, evaluate_files
from espnet_ext.scoring.evaluators.pocketsphinx import PocketSphinx, flat_unigram_arpa
from espnet_ext.scoring.measures.bootstrap import Resamples, corrected, percentiles, resample_weights
from espnet_ext.scoring.measures.error_rate import ErrorCounts, character_errors, normalise, total, word_errors
from espnet_ext.scoring.measures.frechet import distance_draws, frame_statistics, frechet_distance, square_root
from espnet_ext.scoring.measures.speaker import similarities
from espnet_ext.scoring.measures.words import Vocabulary, words_to_hear
from espnet_ext.scoring.tables.learning_curve import parse_train_log, read_learning_curves

ROOT = Path(__file__).resolve().parent.parent


def buzz(seconds: float, pitch: float) -> np.ndarray:
    """Harmonics of a pitch: no words, but a voice of a kind."""
    time = np.arange(int(16000 * seconds)) / 16000
    return 0.1 * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20))


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("two red dogs", "two red dogs", ErrorCounts(3, 0, 0, 0)),
        ("two red dogs", "two bad dogs now", ErrorCounts(2, 1, 0, 1)),
        ("two red dogs", "", ErrorCounts(0, 0, 3, 0)),
        ("", "two dogs", ErrorCounts(0, 0, 0, 2)),
        ("", "", ErrorCounts()),
        ("Two RED, dogs!", "two red dogs", ErrorCounts(3, 0, 0, 0)),
    ],
)
def test_word_errors_are_counted(reference: str, hypothesis: str, expected: ErrorCounts) -> None:
    assert word_errors(reference, hypothesis) == expected


def test_counts_are_pooled_over_utterances_not_averaged() -> None:
    pooled = total([word_errors("one two three", "one two three"), word_errors("four", "")])
    assert pooled == ErrorCounts(3, 0, 1, 0)
    assert pooled.rate == pytest.approx(1 / 4)
    assert math.isnan(ErrorCounts().rate)


def test_character_errors_count_spaces_and_an_empty_hypothesis() -> None:
    assert character_errors("a bc", "a bd") == ErrorCounts(3, 1, 0, 0)
    assert character_errors("a bc", "") == ErrorCounts(0, 0, 4, 0)
    assert character_errors("", "abc") == ErrorCounts(0, 0, 0, 3)


def test_text_is_normalised_to_the_words_of_the_recogniser() -> None:
    text = "Don’t — stop_it,  ‘CAFÉ’-owner"
    assert PocketSphinx.normalise(text) == normalise(text, fold_accents=True) == "don't stop it cafe owner"
    assert Recogniser.normalise(text) == normalise(text) == "don't stop it café owner"


def test_unknown_words_are_counted_most_frequent_first() -> None:
    vocabulary = Vocabulary.of(PocketSphinx, ["two zyxxyz dogs, abqqba", "Zyxxyz?"])
    assert vocabulary == Vocabulary(("dogs", "two"), {"zyxxyz": 2, "abqqba": 1})


def test_language_model_gives_every_word_the_same_probability() -> None:
    lines = flat_unigram_arpa(["two", "dogs"]).splitlines()
    assert "ngram 1=4" in lines
    assert {line.split()[0] for line in lines if line.split()[1:] in (["two"], ["dogs"], ["</s>"])} == {
        f"{math.log10(1 / 3):.4f}"
    }


def heard_in(wavs: dict[str, Path], texts: Iterable[str], workers: Workers | None = None) -> dict[str, str]:
    """What PocketSphinx hears with the words of texts."""
    choice = words_to_hear(Choice("asr", "pocketsphinx"), texts)
    return evaluate_files(choice, {"all": wavs}, workers or Workers(), None)["all"]


def test_noise_silence_and_a_click_of_audio_are_recognised_without_failing(tmp_path: Path) -> None:
    sounds = {"silence": np.zeros(16000), "click": np.ones(10), "buzz": buzz(0.5, 120)}
    wavs = {}
    for name, samples in sounds.items():
        wavs[name] = tmp_path / f"{name}.wav"
        soundfile.write(wavs[name], samples, 16000)
    heard = heard_in(wavs, ["two red dogs"])
    assert list(heard) == list(sounds)
    assert heard["click"] == ""


def test_a_vocabulary_without_known_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a word of the dictionary of pocketsphinx, got none \(zyxxyz\).*--asr"):
        words_to_hear(Choice("asr", "pocketsphinx"), ["zyxxyz"])


def corpus_clips(folder: Path, per_speaker: int, speakers: int) -> tuple[dict[str, Path], dict[str, str]]:
    """Utterances of the corpus in this repository, cut out of its archives: audio and transcripts."""
    corpus = ROOT / "egs2" / "mini_libritts" / "corpus"
    with (corpus / "MANIFEST.tsv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["subset"].startswith("test-seen")]
    chosen: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        chosen.setdefault(row["speaker"], []).append(row)
    wavs, text = {}, {}
    for speaker in sorted(chosen)[:speakers]:
        for row in chosen[speaker][:per_speaker]:
            samples, rate = soundfile.read(corpus / row["file"], dtype="float32")
            start = int(row["start"])
            wavs[row["utt_id"]] = folder / f"{row['utt_id']}.wav"
            soundfile.write(wavs[row["utt_id"]], samples[start : start + int(row["num_samples"])], rate)
            text[row["utt_id"]] = row["normalized"]
    return wavs, text


def test_recogniser_understands_the_corpus_in_any_order_and_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espnet_ext.scoring.evaluators.evaluator.SHARD_SIZE", 2)
    wavs, text = corpus_clips(tmp_path, per_speaker=3, speakers=2)
    heard = heard_in(wavs, text.values())
    assert total(word_errors(text[one], heard[one]) for one in text).rate < 0.1
    assert heard_in(dict(reversed(wavs.items())), text.values(), Workers(nj=2, startup_seconds=0)) == heard


# --- frames ----------------------------------------------------------------------------------------------------------


def clouds(seed: int, utterances: int = 12, width: int = 5) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width))
    return [generator.normal(size=(20 + u, width)) @ mixing + generator.normal(size=width) for u in range(utterances)]


def test_frechet_distance_equals_the_formula_with_a_general_square_root() -> None:
    first, second = clouds(0), clouds(1)
    origin = np.concatenate(first).mean(axis=0)
    ours = frechet_distance(frame_statistics(first, origin).gaussian(), frame_statistics(second, origin).gaussian())
    (m1, c1), (m2, c2) = ((x.mean(axis=0), np.cov(x.T)) for x in (np.concatenate(first), np.concatenate(second)))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_square_root_squares_to_the_covariance_even_of_lower_rank() -> None:
    covariance = np.cov(np.random.default_rng(0).normal(size=(6, 3)))
    root = square_root(covariance)
    np.testing.assert_allclose(root @ root, covariance, atol=1e-12)
    np.testing.assert_allclose(root, root.T)


def test_distance_of_a_set_to_itself_is_zero_whatever_the_order_of_its_frames() -> None:
    cloud = clouds(0)
    origin = np.zeros(5)
    one = frame_statistics(cloud, origin)
    shuffled = frame_statistics([np.random.default_rng(0).permutation(x) for x in cloud], origin)
    assert frechet_distance(one.gaussian(), shuffled.gaussian()) == pytest.approx(0, abs=1e-9)


def test_distance_does_not_depend_on_the_origin() -> None:
    first, second = clouds(0), clouds(1)
    at = [
        frechet_distance(frame_statistics(first, origin).gaussian(), frame_statistics(second, origin).gaussian())
        for origin in (np.zeros(5), np.full(5, 3.0))
    ]
    assert at[0] == pytest.approx(at[1], rel=1e-9)


def test_resampled_distances_equal_those_of_repeated_utterances() -> None:
    first, second = clouds(0), clouds(1)
    origin = np.zeros(5)
    weights = resample_weights(["a"] * 12, 7, seed=3)
    draws = distance_draws(frame_statistics(first, origin), {"x": frame_statistics(second, origin)}, weights)["x"]
    for row, weight in enumerate(weights.astype(int)):
        repeated = [
            frame_statistics([x for x, n in zip(cloud, weight, strict=True) for _ in range(n)], origin).gaussian()
            for cloud in (first, second)
        ]
        assert draws[row] == pytest.approx(frechet_distance(*repeated), rel=1e-9)


def test_an_unpaired_reference_is_not_resampled() -> None:
    origin = np.zeros(5)
    same = frame_statistics(clouds(0)[:1] * 12, origin)  # any resample of equal utterances has the same mean
    reference = frame_statistics(clouds(1, utterances=3), origin)
    draws = distance_draws(reference, {"x": same}, resample_weights(["a"] * 12, 5, seed=0), paired=False)["x"]
    np.testing.assert_allclose(draws, frechet_distance(reference.gaussian(), same.gaussian()), rtol=1e-2)


def test_a_system_without_frames_has_no_distance() -> None:
    empty = frame_statistics([None] * 12, np.zeros(5))
    assert empty.gaussian() is None
    draws = distance_draws(
        frame_statistics(clouds(0), np.zeros(5)), {"x": empty}, resample_weights(["a"] * 12, 5, seed=0)
    )["x"]
    assert np.isnan(draws).all()
    assert corrected(1.0, draws) is None


# --- resampling ------------------------------------------------------------------------------------------------------


def test_resamples_are_those_of_the_seed_and_of_full_size() -> None:
    speakers = list("aabbbabbb")
    drawn = resample_weights(speakers, 50, seed=1)
    assert (drawn == resample_weights(speakers, 50, seed=1)).all()
    assert (drawn != resample_weights(speakers, 50, seed=2)).any()
    assert (drawn[:, [0, 1, 5]].sum(axis=1) == 3).all()  # within speakers
    assert (drawn.sum(axis=1) == 9).all()
    alone = resample_weights(list("aab"), 50, seed=1)  # b could not vary by itself
    assert (alone.sum(axis=1) == 3).all()
    assert len(set(alone[:, 2])) > 1


def test_intervals_hold_the_middle_of_the_draws() -> None:
    draws = np.arange(1001.0)
    assert percentiles(draws) == pytest.approx((25.0, 975.0))
    value, ends = corrected(400.0, draws)
    assert (value, *ends) == pytest.approx((300.0, -175.0, 775.0))
    assert percentiles(np.full(3, np.nan)) is None


def test_corrected_distance_of_two_samples_of_one_distribution_is_near_zero_and_its_interval_holds_it() -> None:
    generator = np.random.default_rng(0)
    one, other = ([generator.normal(size=(30, 6)) for _ in range(40)] for _ in range(2))
    first, second = frame_statistics(one, np.zeros(6)), frame_statistics(other, np.zeros(6))
    plain = frechet_distance(first.gaussian(), second.gaussian())
    draws = distance_draws(first, {"x": second}, resample_weights(["a"] * 40, 300, seed=0))["x"]
    value, (low, high) = corrected(plain, draws)
    assert abs(value) < plain / 2
    assert low < 0 < high
    assert percentiles(draws)[0] > plain / 2  # what plain percentiles would claim


def test_ratio_of_sums_is_resampled_with_its_utterances() -> None:
    resamples = Resamples(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    np.testing.assert_allclose(resamples.ratio(np.array([[1.0, 3.0]]), np.array([[2.0, 3.0]])), [0.5, 1.0, 0.8])
    assert np.isnan(resamples.ratio(np.zeros((1, 2)), np.zeros((1, 2)))).all()


def test_repeats_are_drawn_with_replacement_and_shared_by_all_systems() -> None:
    resamples = Resamples.draw(["a"] * 6, 400, seed=3)
    chosen = resamples.repeats(3)
    assert (chosen.sum(axis=1) == 3).all() and set(chosen.flatten()) == {0.0, 1.0, 2.0, 3.0}
    assert (chosen == resamples.repeats(3)).all()
    assert (resamples.repeats(1) == 1).all()
    # a figure that differs between seeds alone varies as their mean does, and one that is the same does not vary
    values = np.array([[1.0] * 6, [2.0] * 6, [6.0] * 6])
    mean, draws = resamples.mean(values)
    assert mean == 3.0
    np.testing.assert_allclose(draws, chosen @ [1.0, 2.0, 6.0] / 3)
    np.testing.assert_allclose(resamples.pool([np.full(400, value) for value in (1.0, 2.0, 6.0)]), draws)
    assert np.ptp(resamples.mean(np.full((3, 6), 5.0))[1]) == 0.0


def test_interval_over_utterances_and_repeats_covers_the_truth() -> None:
    """Crossed normal effects of 40 utterances and 8 seeds: a 95 % interval must hold the true mean nearly as often."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(200):
        values = generator.normal(size=(1, 40)) + 0.5 * generator.normal(size=(8, 1)) + generator.normal(size=(8, 40))
        low, high = percentiles(Resamples.draw(["a"] * 40, 200, seed=1).mean(values)[1])
        hits += low < 0 < high
    assert 0.86 < hits / 200 < 1.0  # 0.95 less what eight seeds and percentiles lose; the seeds left out give 0.75


def test_absent_values_do_not_count_in_a_mean() -> None:
    resamples = Resamples.draw(["a"] * 4, 50, seed=0)
    mean, draws = resamples.mean(np.array([[1.0, np.nan, 3.0, np.nan]]))
    assert mean == 2.0 and np.nanmin(draws) >= 1.0 and np.nanmax(draws) <= 3.0
    assert resamples.mean(np.full((1, 4), np.nan))[0] is None
    pooled = resamples.pool([np.full(50, np.nan), np.ones(50)])
    assert np.isnan(pooled).any() and not np.isnan(pooled).all(), "only where the repeat without a value was drawn"


# --- voices ----------------------------------------------------------------------------------------------------------


def unit(*values: float) -> np.ndarray:
    return np.array(values) / np.linalg.norm(values)


def test_similarity_leaves_the_recording_of_the_utterance_itself_out_of_the_centroid() -> None:
    originals = {"a-1": unit(1, 0, 0), "a-2": unit(0, 1, 0), "b-1": unit(0, 0, 1), "b-2": unit(0, 0, 1)}
    speakers = {one: one[0] for one in originals}
    found = similarities(originals, originals, speakers, speakers)
    assert found["a-1"].own == pytest.approx(0.0)  # to a-2 alone
    assert found["b-1"].own == pytest.approx(1.0)
    assert found["b-1"].other == pytest.approx(0.0)
    assert found["b-1"].nearest
    assert not found["a-1"].nearest


def test_similarity_is_to_the_prompted_speaker_and_absent_without_another_recording() -> None:
    originals = {"a-1": unit(1, 0), "b-1": unit(0, 1), "b-2": unit(0, 1)}
    speakers = {one: one[0] for one in originals}
    found = similarities({"a-1": unit(0, 1)}, originals, speakers, {"a-1": "b"})
    assert found["a-1"].own == pytest.approx(1.0)
    assert similarities({"a-1": unit(0, 1)}, originals, speakers, {"a-1": "a"}) == {}


# --- learning curves -------------------------------------------------------------------------------------------------

LOG = """[host] 2026-11-20 09:00:01,000 (trainer:311) INFO: 1/2epoch started
[host] 2026-11-20 09:00:02,000 (trainer:763) INFO: 1epoch:train:1-5batch: iter_time=1.2e-04, loss=9.000
[host] 2026-11-20 09:00:03,000 (trainer:394) INFO: 1epoch results: [train] iter_time=1.256e-04, loss_ar=2.345, \
loss=1.234e+03, time=3.2 seconds, total_count=5, gpu_max_cached_mem_GB=0.1, [valid] loss=nan, loss_ar=2.5, \
time=1 minute and 2.5 seconds, total_count=1, [att_plot] time=0 seconds, total_count=0
[host] 2026-11-20 09:01:03,000 (trainer:394) INFO: 2epoch results: [train] loss_ar=1.345, loss=3.5, time=3 seconds
[host] 2026-11-20 09:02:03,000 (trainer:394) INFO: 2epoch results: [train] loss_ar=1.125, loss=2.5, time=3 seconds
"""


def test_learning_curves_are_parsed_from_the_log_and_a_resumed_epoch_replaces_the_old_one() -> None:
    curves = parse_train_log(LOG)
    assert curves["train"]["loss"] == {1: 1234.0, 2: 2.5}
    assert curves["train"]["loss_ar"] == {1: 2.345, 2: 1.125}
    assert curves["valid"]["loss_ar"] == {1: 2.5}
    assert "time" not in curves["train"]


def test_learning_curves_are_read_from_the_checkpoint_first_and_then_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    assert read_learning_curves(tmp_path)["train"]["loss"] == {1: 1234.0, 2: 2.5}
    stats = {1: {"train": {"loss": np.float64(2.0), "time": datetime.timedelta(seconds=2), "total_count": 5}}}
    torch.save({"reporter": {"stats": stats, "epoch": 1}, "model": {}}, tmp_path / "checkpoint.pth")
    assert read_learning_curves(tmp_path) == {"train": {"loss": {1: 2.0}}}
    (tmp_path / "checkpoint.pth").write_bytes(b"half-written")
    assert read_learning_curves(tmp_path)["train"]["loss"] == {1: 1234.0, 2: 2.5}


def test_learning_curves_of_nothing_are_an_error_that_names_the_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_dir must hold checkpoint\.pth or train\.log, got"):
        read_learning_curves(tmp_path)
    (tmp_path / "train.log").write_text("killed\n")
    with pytest.raises(ValueError, match="train_dir must hold a training with a finished epoch"):
        read_learning_curves(tmp_path)


@pytest.mark.espnet
def test_learning_curves_of_the_reporter_of_espnet_are_complete(tmp_path: Path) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.storage.torchaudio_shim import import_torchaudio

    import_torchaudio()
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    reporter.set_epoch(1)
    for part, loss in (("train", 2.5), ("valid", 3.25)):
        with reporter.observe(part) as sub:
            sub.register({"loss": torch.tensor(loss), "loss_ar": loss / 2}, torch.tensor(2.0))
            sub.register({"iter_time": 0.1})
            sub.next()
    expected = {"train": {"loss": {1: 2.5}, "loss_ar": {1: 1.25}}, "valid": {"loss": {1: 3.25}, "loss_ar": {1: 1.625}}}
    torch.save({"reporter": reporter.state_dict()}, tmp_path / "checkpoint.pth")
    for curves in (read_learning_curves(tmp_path), parse_train_log(reporter.log_message())):
        for part, values in expected.items():
            assert {name: curves[part][name] for name in values} == values


def test_learning_curves_have_each_name_once_beside_the_lines_and_no_scale_of_mixed_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A legend of 24 lines lay upon the lines, had each curve twice, and the loss scale flattened the losses."""
    pytest.importorskip("matplotlib")
    from espnet_ext.scoring.tables import figures

    drawn: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    names = [f"loss_cb{book}_{head}" for book in range(8) for head in ("ar", "maskgit", "parallel")]
    values = {name: {1: 4.0, 2: 3.0} for name in ("loss", "loss_ar", "acc_ar", "gain_ar", "gain_ar_frame0", *names)}
    figures.learning_curves({"train": {**values, "loss_scale": {1: 65536.0}}, "valid": values}, "x", tmp_path / "x.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    labels = {}
    for axes in figure.axes:
        legend = axes.get_legend()
        labels[axes.get_ylabel()[:4]] = [text.get_text() for text in legend.get_texts()]
        assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
        assert legend.get_window_extent().y0 >= figure.bbox.y0 and legend.get_window_extent().x1 <= figure.bbox.x1
    assert labels["loss"] == ["loss", "loss_ar"] and labels["accu"] == ["acc_ar"]
    assert labels["wron"] == ["ar", "ar, frame 0"]
    assert labels["vali"] == [*(f"codebook {book}" for book in range(8)), "ar", "maskgit", "parallel"]
    assert figure.axes[0].dataLim.y1 == 4.0
    assert figure.bbox.width <= 1168 * figure.dpi / figures.DPI * 1.02  # a page of 1,200 pixels does not shrink it
