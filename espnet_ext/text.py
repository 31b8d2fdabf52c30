"""Text to token ids: cleaning, splitting, the token list, and what it does not know."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

UNKNOWN = "<unk>"
SPACE = "<space>"
END = "<eos>"

Split = Callable[[str], list[str]]


def _clean_lower(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().lower()


def _clean_none(text: str) -> str:
    return text.strip()


CLEANERS: dict[str, Callable[[str], str]] = {"lower": _clean_lower, "none": _clean_none}


def _split_char(text: str) -> list[str]:
    return [SPACE if character == " " else character for character in text]


def _split_words(text: str) -> list[str]:
    return text.split()


def _bpe_splitter(model: Path | None) -> Split:
    if model is None:
        raise ValueError("bpemodel must be given with token_type bpe, got none")
    if not model.is_file():
        raise FileNotFoundError(f"bpemodel not found: {model}")
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"bpemodel must be a SentencePiece model, got {model} ({' '.join(str(error).split())})"
        ) from None
    return lambda text: list(processor.encode(text, out_type=str))


# phn: the text is phones separated by blanks, made outside; word: the same for words
TOKEN_TYPES = ("char", "bpe", "phn", "word")


def splitter(token_type: str, bpemodel: Path | None = None) -> Split:
    """The function that splits a cleaned text into tokens.

    Args:
        token_type: char, bpe, phn or word.
        bpemodel: SentencePiece model, for bpe only.

    Returns:
        The function.

    Raises:
        ValueError: if the type is unknown.
    """
    if token_type not in TOKEN_TYPES:
        raise ValueError(f"token_type must be one of {list(TOKEN_TYPES)}, got {token_type!r}")
    if token_type == "bpe":
        return _bpe_splitter(bpemodel)
    return _split_char if token_type == "char" else _split_words


class TextTokenizer:
    """Texts as ids, each ended by the id of <eos>; unknown tokens become <unk> and are counted.

    Args:
        token_type: char, bpe, phn or word.
        tokens: the token list.
        bpemodel: SentencePiece model, for bpe only.
        cleaner: name of the cleaner.

    Attributes:
        unknown: how often each token outside of the list was seen.

    >>> tokenizer = TextTokenizer("char", ["<unk>", "<space>", "a", "b", "<eos>"])
    >>> tokenizer.encode("A bx"), dict(tokenizer.unknown)
    ([2, 1, 3, 0, 4], {'x': 1})
    """

    def __init__(
        self, token_type: str, tokens: Sequence[str], bpemodel: Path | None = None, cleaner: str = "lower"
    ) -> None:
        if cleaner not in CLEANERS:
            raise ValueError(f"cleaner must be one of {list(CLEANERS)}, got {cleaner!r}")
        missing = [token for token in (UNKNOWN, END) if token not in tokens]
        if missing:
            raise ValueError(f"token_list must contain {UNKNOWN} and {END}, missing {missing}")
        self.tokens = list(tokens)
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.clean, self.split = CLEANERS[cleaner], splitter(token_type, bpemodel)
        self.unknown: Counter[str] = Counter()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, <eos> last.

        Args:
            text: any text with at least one token.

        Returns:
            The ids.

        Raises:
            ValueError: if nothing is left of the text after cleaning.
        """
        pieces = self.split(self.clean(text))
        if not pieces:
            raise ValueError(f"text must not be empty, got {text!r}")
        self.unknown.update(piece for piece in pieces if piece not in self.ids)
        return [self.ids.get(piece, self.ids[UNKNOWN]) for piece in pieces] + [self.ids[END]]

    def describe_unknown(self) -> str:
        """The unknown tokens with their counts, most frequent first: "'x' (3), '7' (1)"."""
        return ", ".join(f"{token!r} ({count})" for token, count in self.unknown.most_common())


def make_token_list(texts: Iterable[str], token_type: str, bpemodel: Path | None, cleaner: str) -> list[str]:
    """The tokens of a corpus in sorted order between <unk> and <eos>.

    Args:
        texts: transcripts.
        token_type: char, bpe, phn or word.
        bpemodel: SentencePiece model, for bpe only.
        cleaner: name of the cleaner.

    Returns:
        The token list.

    Raises:
        ValueError: if no text has a token, or an option is unknown.
    """
    if cleaner not in CLEANERS:
        raise ValueError(f"cleaner must be one of {list(CLEANERS)}, got {cleaner!r}")
    split, clean = splitter(token_type, bpemodel), CLEANERS[cleaner]
    seen = {token for text in texts for token in split(clean(text))} - {UNKNOWN, END}
    if not seen:
        raise ValueError("text must contain at least one token, got none")
    return [UNKNOWN, *sorted(seen), END]


def read_token_list(path: Path) -> list[str]:
    """The tokens of a file, one a line.

    Args:
        path: the token list.

    Returns:
        The tokens.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty or names a token twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"token_list not found: {path}")
    tokens = path.read_text(encoding="utf-8").splitlines()
    repeated = [token for token, count in Counter(tokens).items() if count > 1]
    if not tokens or repeated:
        raise ValueError(f"token_list must name tokens once each, got {repeated[:3] or 'an empty file'} in {path}")
    return tokens
