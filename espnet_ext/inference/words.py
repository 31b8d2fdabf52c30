"""When the words of a text are spoken, by the model's own alignment of text and codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from espnet_ext.errors import UserError
from espnet_ext.inference.requests import Mode, Request, Start, padded
from espnet_ext.inference.speech import Word
from espnet_ext.tokenizers.text.tokens import TextTokenizer, is_spoken

if TYPE_CHECKING:
    from espnet_ext.inference.speaker import Speaker


class WordSpan(NamedTuple):
    """Which tokens are a word.

    Attributes:
        text: the word.
        first: its first token.
        end: the token behind its last one.
    """

    text: str
    first: int
    end: int


def word_spans(tokenizer: TextTokenizer, text: str) -> list[WordSpan]:
    """The words of a text with their tokens, blanks and punctuation left out; none of a word without any.

    Args:
        tokenizer: makes tokens of a text, those of its beginning first.
        text: any.

    Returns:
        The words.
    """
    spans, words, end = [], text.split(), 0
    spoken = [is_spoken(tokenizer.tokens[index]) for index in tokenizer.encode(text)]
    for count, word in enumerate(words, start=1):
        begin = end
        try:
            end = len(tokenizer.encode(" ".join(words[:count]))) - 1  # without <eos>
        except UserError:  # nothing can be read yet
            continue
        tokens = [index for index in range(begin, min(end, len(spoken))) if spoken[index]]
        if tokens:
            spans.append(WordSpan(word, tokens[0], tokens[-1] + 1))
    return spans


def spoken_words(
    speaker: Speaker,
    mode: Mode,
    requests: Sequence[Request],
    starts: Sequence[Start],
    codes: Tensor,
    code_lengths: Tensor,
) -> list[tuple[Word, ...]]:
    """The words of every row with their times; none for a model that is not given its text, or aligns nothing.

    Args:
        speaker: who spoke.
        mode: how the rows were asked for.
        requests: their texts.
        starts: their tokens and prompts.
        codes: (B, T, N) of the rows.
        code_lengths: (B,) int64 frames.

    Returns:
        The words of each row.
    """
    nothing: list[tuple[Word, ...]] = [()] * len(requests)
    if mode.source != "text" or not hasattr(speaker.corelm, "spoken_at"):
        return nothing
    units, lengths, prompt, prompt_lengths = padded(starts, speaker.device)
    path = speaker.corelm.spoken_at(units, lengths, codes, code_lengths, prompt, prompt_lengths)
    if path is None:
        return nothing
    rate, found = speaker.corelm.spec.frame_rate_hz, []
    rows = zip(requests, path.tolist(), code_lengths.tolist(), strict=True)
    for request, tokens, length in rows:
        words = []
        for text, first, end in word_spans(speaker.tokenizer, request.text):
            frames = [frame for frame, token in enumerate(tokens[:length]) if first <= token < end]
            if frames:
                words.append(Word(text, round(frames[0] / rate, 3), round((frames[-1] + 1) / rate, 3)))
        found.append(tuple(words))
    return found
