"""What is read from disk, as the model gets it."""

import numpy as np
import pytest
import torch

from espnet_ext.codes import CodecSpec
from espnet_ext.data.preprocess import CodecLMPreprocessor, collate
from espnet_ext.tokenizers.text.tokens import END, UNKNOWN, TextSplitter, TextTokenizer


def preprocessor(train=False, prompt_frames=3):
    spec = CodecSpec(num_codebooks=2, codebook_size=12, frame_rate_hz=25.0, sample_rate_hz=16000)
    return CodecLMPreprocessor(TextTokenizer(TextSplitter(), [UNKNOWN, "a", "b", END]), spec, prompt_frames, train)


def flat(frames):
    return np.arange(frames * 2, dtype=np.int32)


def test_codes_get_their_shape_back_and_the_prompt_is_cropped():
    arrays = preprocessor()("u", {"text": "ab", "codes": flat(4), "prompt": flat(5)})
    assert arrays["codes"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert arrays["prompt"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert arrays["text"].tolist() == [1, 2, 3]


def test_training_crops_the_prompt_anywhere():
    np.random.seed(0)
    starts = {int(preprocessor(train=True)("u", {"prompt": flat(6)})["prompt"][0, 0]) // 2 for _ in range(60)}
    assert starts == {0, 1, 2, 3}


def test_without_a_prompt_there_are_no_prompt_frames():
    assert preprocessor()("u", {"text": "a", "codes": flat(2)})["prompt"].shape == (0, 2)


def test_codes_of_another_number_of_codebooks_are_refused_by_name():
    with pytest.raises(ValueError, match="codes of utt7 must hold a multiple of num_codebooks = 2 codes, got 3"):
        preprocessor()("utt7", {"codes": np.zeros(3, dtype=np.int32)})


def test_codes_outside_of_the_codebook_are_refused_by_name():
    with pytest.raises(ValueError, match=r"codes of utt7: codes must lie in \[0, 12\), got \[0, 12\]"):
        preprocessor()("utt7", {"codes": np.array([0, 12], dtype=np.int32)})


def test_an_empty_text_is_refused_by_name():
    with pytest.raises(ValueError, match="utt7: text must not be empty"):
        preprocessor()("utt7", {"text": " "})


def test_a_batch_is_padded_and_knows_its_lengths():
    rows = [
        (name, preprocessor()(name, {"text": text, "codes": flat(t)}))
        for name, text, t in [("x", "a", 3), ("y", "ab", 1)]
    ]
    names, batch = collate(rows)
    assert names == ["x", "y"]
    assert batch["codes"].shape == (2, 3, 2) and batch["codes"].dtype == torch.int64
    assert batch["codes_lengths"].tolist() == [3, 1] and batch["text_lengths"].tolist() == [2, 3]
    assert batch["prompt"].shape == (2, 0, 2) and batch["prompt_lengths"].tolist() == [0, 0]


def test_a_text_is_trained_on_alike_composed_or_not():
    spec = CodecSpec(2, 4, 25.0, 16000)
    preprocess = CodecLMPreprocessor(TextTokenizer(TextSplitter(), [UNKNOWN, "\u00f6", "n", END]), spec, 3, train=True)
    for text in ("\u00f6n", "o\u0308n", "\ufeffo\u0308\u00adn"):
        assert preprocess("u", {"text": text})["text"].tolist() == [1, 2, 3]
