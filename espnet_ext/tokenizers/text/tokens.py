"""Text to token ids: cleaning, splitting, the token list, and what it does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.tokenizers.text.cleaners import find_cleaner
from espnet_ext.tokenizers.text.g2p import WORD_BOUNDARY, g2ps

UNKNOWN = "<unk>"
SPACE = WORD_BOUNDARY
END = "<eos>"

Split = Callable[[str], list[str]]


def _split_char(text: str) -> list[str]:
    return [SPACE if character == " " else character for character in text]


def _split_words(text: str) -> list[str]:
    return text.split()


def _bpe_splitter(model: Path | None) -> Split:
    if model is None:
        raise UserError("bpemodel must be given with token_type bpe, got none")
    if not model.is_file():
        raise FileNotFoundError(f"bpemodel not found: {model}")
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"bpemodel must be a SentencePiece model, got {model} ({' '.join(str(error).split())})"
        ) from None
    return lambda text: list(processor.encode(text, out_type=str))


# word: the words between blanks; phn: phones, see g2p
TOKEN_TYPES = ("char", "bpe", "phn", "word")


def _splitter(token_type: str, bpemodel: Path | None, g2p: str) -> Split:
    if token_type not in TOKEN_TYPES:
        raise UserError(f"token_type must be one of {list(TOKEN_TYPES)}, got {token_type!r}")
    kind = g2ps[g2p]
    if token_type == "phn":
        return kind()
    if g2p != "none":
        raise UserError(f"g2p must be none with token_type {token_type}, got {g2p!r}, which makes phones (phn)")
    if token_type == "bpe":
        return _bpe_splitter(bpemodel)
    return _split_char if token_type == "char" else _split_words


class TextSplitter:
    """Texts as tokens: cleaned, then split.

    Args:
        token_type: char, bpe, phn or word.
        bpemodel: SentencePiece model, for bpe only.
        cleaner: name of the cleaner.
        g2p: what makes phones of the text, for phn only; "none" for a text that is phones already.

    Raises:
        UserError: if a name is unknown, or the options do not fit each other.

    >>> TextSplitter("word")(" Two  Dogs")
    ['two', 'dogs']
    """

    def __init__(
        self, token_type: str = "char", bpemodel: Path | None = None, cleaner: str = "lower", g2p: str = "none"
    ) -> None:
        self.clean, self.split = find_cleaner(cleaner), _splitter(token_type, bpemodel, g2p)

    def __call__(self, text: str) -> list[str]:
        """The tokens of a text; none of an empty one."""
        return self.split(self.clean(text))


class TextTokenizer:
    """Texts as ids, each ended by the id of <eos>; unknown tokens become <unk> and are counted.

    Args:
        splitter: makes tokens of a text.
        tokens: the token list.

    Attributes:
        unknown: how often each token outside of the list was seen.

    >>> tokenizer = TextTokenizer(TextSplitter("char"), ["<unk>", "<space>", "a", "b", "<eos>"])
    >>> tokenizer.encode("A bx"), dict(tokenizer.unknown)
    ([2, 1, 3, 0, 4], {'x': 1})
    """

    def __init__(self, splitter: TextSplitter, tokens: Sequence[str]) -> None:
        missing = [token for token in (UNKNOWN, END) if token not in tokens]
        if missing:
            raise UserError(f"token_list must contain {UNKNOWN} and {END}, missing {missing}")
        self.splitter, self.tokens = splitter, list(tokens)
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.unknown: Counter[str] = Counter()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, <eos> last.

        Args:
            text: any text with at least one token.

        Returns:
            The ids.

        Raises:
            UserError: if nothing is left of the text after cleaning.
        """
        pieces = self.splitter(text)
        if not pieces:
            raise UserError(f"text must not be empty, got {text!r}")
        self.unknown.update(piece for piece in pieces if piece not in self.ids)
        return [self.ids.get(piece, self.ids[UNKNOWN]) for piece in pieces] + [self.ids[END]]

    def describe_unknown(self) -> str:
        """The unknown tokens with their counts, most frequent first: "'x' (3), '7' (1)"."""
        return describe_counts(self.unknown)


def describe_counts(counts: Counter[str]) -> str:
    """Tokens with their counts, most frequent first.

    >>> describe_counts(Counter("abb"))
    "'b' (2), 'a' (1)"
    """
    return ", ".join(f"{token!r} ({count})" for token, count in counts.most_common())


def make_token_list(texts: Iterable[str], splitter: TextSplitter, min_count: int = 1) -> tuple[list[str], Counter[str]]:
    """The tokens of a corpus in sorted order between <unk> and <eos>, and those too rare for the list.

    Args:
        texts: transcripts.
        splitter: makes tokens of a text.
        min_count: fewest times that a token of the list is seen; rarer ones become <unk>.

    Returns:
        The token list; the rare tokens with their counts.

    Raises:
        UserError: if no token is left.
    """
    if min_count < 1:
        raise UserError(f"min_count must be at least 1, got {min_count}")
    seen = Counter(token for text in texts for token in splitter(text))
    kept = {token for token, count in seen.items() if count >= min_count} - {UNKNOWN, END}
    if not kept:
        raise UserError(f"text must contain a token at least {min_count} times (min_count), got none")
    return [UNKNOWN, *sorted(kept), END], Counter({token: n for token, n in seen.items() if n < min_count})


def read_token_list(path: Path) -> list[str]:
    """The tokens of a file, one a line.

    Args:
        path: the token list.

    Returns:
        The tokens.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is empty or names a token twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"token_list not found: {path}")
    # only "\n" ends a line: str.splitlines would also split at odd Unicode separators, which are tokens like others
    tokens = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    repeated = [token for token, count in Counter(tokens).items() if count > 1]
    if tokens == [""] or repeated:
        raise UserError(f"token_list must name tokens once each, got {repeated[:3] or 'an empty file'} in {path}")
    return tokens
