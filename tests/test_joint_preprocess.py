"""Units and codes of an utterance on their way to the model: checked, joined, cropped together, de-duplicated."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_ext.codes import CodecSpec
from espnet_ext.data.joint_preprocess import JointPreprocessor
from espnet_ext.data.preprocess import collate
from espnet_ext.data.streams import Streams, read_silence

CODEC = CodecSpec(num_codebooks=2, codebook_size=1000, frame_rate_hz=25.0, sample_rate_hz=16000)
UNITS = CodecSpec(num_codebooks=1, codebook_size=1000, frame_rate_hz=50.0, sample_rate_hz=16000)
SILENCE = Streams(np.full(50, 999), np.full((25, 2), 999))


def counted(frames, first=0):
    """Codes that tell their frame, and units that tell the frame they belong to: two of each."""
    codes = np.repeat(np.arange(first, first + frames), 2)
    return codes.astype(np.int32), codes.astype(np.int32)


def preprocessor(**options):
    return JointPreprocessor(CODEC, UNITS, options.pop("deduplicates", True), **options)


def test_units_lose_their_repetitions_and_codes_keep_theirs():
    units, codes = counted(10)
    arrays = preprocessor()("a", {"semantic": units, "codes": codes})
    assert arrays["semantic"].tolist() == list(range(10)) and arrays["codes"].tolist() == [[n, n] for n in range(10)]
    kept = preprocessor(deduplicates=False)("a", {"semantic": units, "codes": codes})
    assert kept["semantic"].tolist() == units.tolist()


@pytest.mark.parametrize(("frames", "fits"), [(46, False), (48, True), (50, True), (52, True), (53, False)])
def test_lengths_that_are_more_than_two_frames_apart_are_refused_with_the_id(frames, fits):
    units, _ = counted(50)
    _, codes = counted(frames)
    if fits:
        assert len(preprocessor()("utt-7", {"semantic": units, "codes": codes})["codes"]) == frames
        return
    with pytest.raises(ValueError, match=rf"of utt-7: lengths differ by .*: 100 units .*, {frames} codec frames"):
        preprocessor()("utt-7", {"semantic": units, "codes": codes})


def test_both_streams_are_cropped_at_the_same_place():
    np.random.seed(0)
    units, codes = counted(200)
    starts = set()
    for _ in range(50):
        arrays = preprocessor(crop_sec=2.0)("a", {"semantic": units, "codes": codes})
        assert len(arrays["codes"]) == 50
        assert arrays["semantic"].tolist() == arrays["codes"][:, 0].tolist()
        starts.add(int(arrays["codes"][0, 0]))
    assert len(starts) > 20 and min(starts) >= 0 and max(starts) <= 150


def test_a_validation_always_has_the_beginning_of_a_long_utterance():
    units, codes = counted(200)
    for _ in range(5):
        arrays = preprocessor(crop_sec=2.0, train=False)("a", {"semantic": units, "codes": codes})
        assert arrays["codes"][:, 0].tolist() == arrays["semantic"].tolist() == list(range(50))


def test_a_short_utterance_is_not_cropped():
    units, codes = counted(50)
    assert len(preprocessor(crop_sec=2.0)("a", {"semantic": units, "codes": codes})["codes"]) == 50


def joined(**options):
    units, codes = counted(10, first=500)
    prompt_units, prompt_codes = counted(20)
    data = {"semantic": units, "codes": codes, "prompt_semantic": prompt_units, "prompt": prompt_codes}
    return preprocessor(join_prompt=1.0, silence=SILENCE, prompt_sec=3.0, **options)("a", data)


def test_an_utterance_is_joined_to_its_prompt_with_a_tenth_of_a_second_between():
    arrays = joined()
    assert arrays["codes"][:, 0].tolist() == [*range(20), 999, 999, *range(500, 510)]
    assert arrays["semantic"].tolist() == [*range(20), 999, *range(500, 510)], "de-duplicated after joining"


def test_a_long_prompt_is_cropped_before_it_is_joined():
    np.random.seed(1)
    units, codes = counted(10, first=500)
    prompt_units, prompt_codes = counted(200)
    data = {"semantic": units, "codes": codes, "prompt_semantic": prompt_units, "prompt": prompt_codes}
    arrays = preprocessor(join_prompt=1.0, silence=SILENCE, prompt_sec=1.0)("a", data)
    assert len(arrays["codes"]) == 25 + 2 + 10
    assert arrays["semantic"].tolist() == [*arrays["codes"][:26, 0].tolist(), *range(500, 510)]


def test_prompts_are_joined_as_often_as_asked():
    np.random.seed(0)
    units, codes = counted(10)
    data = {"semantic": units, "codes": codes, "prompt_semantic": units, "prompt": codes}
    some = preprocessor(join_prompt=0.3, silence=SILENCE, prompt_sec=3.0)
    lengths = [len(some("a", data)["codes"]) for _ in range(2000)]
    assert set(lengths) == {10, 22}
    assert np.mean([length == 22 for length in lengths]) == pytest.approx(0.3, abs=5 * (0.21 / 2000) ** 0.5)
    assert len(preprocessor()("a", data)["codes"]) == 10


def test_languages_are_numbered_from_one_and_zero_is_unknown():
    units, codes = counted(10)
    data = {"semantic": units, "codes": codes}
    some = preprocessor(languages=["en", "zh"])
    found = [int(some("a", {**data, **more})["language"]) for more in ({}, {"language": "en"}, {"language": "zh"})]
    assert found == [0, 1, 2]
    assert int(preprocessor()("a", {**data, "language": "en"})["language"]) == 0
    with pytest.raises(ValueError, match=r"language of utt-3 must be one of \['en', 'zh'\], got 'fr'"):
        some("utt-3", {**data, "language": "fr"})


def test_a_batch_has_one_language_per_row():
    data = dict(zip(("semantic", "codes"), counted(10), strict=True))
    _, batch = collate([(name, preprocessor()(name, data)) for name in "ab"])
    assert batch["language"].shape == (2,) and "language_lengths" not in batch
    assert batch["semantic"].shape == (2, 10) and batch["codes"].shape == (2, 10, 2)


def test_units_out_of_their_vocabulary_are_refused():
    units, codes = counted(10)
    with pytest.raises(ValueError, match=r"semantic of utt-1: codes must lie in \[0, 1000\), got \[0, 1000\]"):
        preprocessor()("utt-1", {"semantic": np.append(units[:-1], 1000), "codes": codes})


def test_silence_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="silence not found: .*silence.npz"):
        read_silence(tmp_path)
