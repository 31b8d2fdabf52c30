"""Text to token ids: cleaning, splitting, the token list, and what it does not know."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import verify
from espnet_ext.tokenizers.text.cleaners import compose, find_cleaner
from espnet_ext.tokenizers.text.english import spell_abbreviations, spell_symbols
from espnet_ext.tokenizers.text.g2p import WORD_BOUNDARY, g2ps
from espnet_ext.tokenizers.text.numbers import INSTALL, can_spell_numbers, spell_numbers

UNKNOWN = "<unk>"
SPACE = WORD_BOUNDARY
END = "<eos>"
SAID = frozenset("#%&*@/\\§¶†‡‰")  # Unicode calls them punctuation, as it does commas

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
    """Texts as tokens: composed (NFC) without invisible characters, cleaned, then split.

    Args:
        token_type: char, bpe, phn or word.
        bpemodel: SentencePiece model, for bpe only.
        cleaner: name of the cleaner.
        g2p: what makes phones of the text, for phn only; "none" for a text that is phones already.

    Attributes:
        is_english: whether cleaner or g2p say so; g2p_en, which reads numbers itself, does not.

    Raises:
        UserError: if a name is unknown, or the options do not fit each other.

    >>> TextSplitter("word")(" Two  Dogs")
    ['two', 'dogs']
    """

    def __init__(
        self, token_type: str = "char", bpemodel: Path | None = None, cleaner: str = "lower", g2p: str = "none"
    ) -> None:
        self.clean, self.split = find_cleaner(cleaner), _splitter(token_type, bpemodel, g2p)
        self.is_english = g2p == "cmudict" or (cleaner == "english" and g2p != "g2p_en")

    def __call__(self, text: str) -> list[str]:
        """The tokens of a text; none of an empty one."""
        return self.split(self.clean(compose(text)[0]))

    def left_out(self, text: str) -> list[str]:
        """What one would say of a text, and cleaner and g2p make nothing of at all, such as an emoji or a #."""
        odd = [one for one in compose(text)[0] if not (one.isascii() and one.isalnum())]
        said = {one for one in odd if unicodedata.category(one)[0] in "LNS" or one in SAID}
        gone = {one for one in said if not self(one)}
        return [one for one in odd if one in gone]


@dataclass(frozen=True)
class Encoding:
    """A text as a model reads it, and what is lost of it.

    Attributes:
        ids: of its tokens, that of <eos> last.
        unknown: tokens that are <unk> to the model and characters that make no token, each as often as it occurs.
        invisible: how many invisible characters were left out.
        known: whether anything that can be said is left.
    """

    ids: list[int]
    unknown: tuple[str, ...] = ()
    invisible: int = 0
    known: bool = True


NUMBERS = ("auto", "english", "none")


class TextTokenizer:
    """Texts as ids, each ended by the id of <eos>; unknown tokens become <unk> and come with the ids.

    Numbers, abbreviations and symbols are spelled out for an English model that knows no digit.

    Args:
        splitter: makes tokens of a text.
        tokens: the token list.
        numbers: the language of numbers, english or none; auto: what cleaner and g2p say of the language.

    Raises:
        UserError: if the token list or the language is not usable.

    >>> tokenizer = TextTokenizer(TextSplitter("char"), ["<unk>", "<space>", "a", "b", "<eos>"])
    >>> tokenizer.read("A bx")
    Encoding(ids=[2, 1, 3, 0, 4], unknown=('x',), invisible=0, known=True)
    """

    def __init__(self, splitter: TextSplitter, tokens: Sequence[str], numbers: str = "auto") -> None:
        missing = [token for token in (UNKNOWN, END) if token not in tokens]
        if missing:
            raise UserError(f"token_list must contain {UNKNOWN} and {END}, missing {missing}")
        if numbers not in NUMBERS:
            raise UserError(f"numbers must be one of {list(NUMBERS)}, got {numbers!r}")
        self.splitter, self.tokens = splitter, list(tokens)
        self.ids: dict[str, int] = {}
        for index, token in enumerate(tokens):
            self.ids.setdefault(unicodedata.normalize("NFC", token), index)
        english = splitter.is_english if numbers == "auto" else numbers == "english"
        self.spells_numbers = english and not any(token.lstrip("▁")[:1].isdigit() for token in tokens)

    def read(self, text: str) -> Encoding:
        """Ids of a text, <eos> last, and what is unknown in it.

        Args:
            text: any text with at least one token.

        Returns:
            The encoding.

        Raises:
            UserError: if there is no token in the text.
        """
        spelt, invisible = compose(text)
        if self.spells_numbers:
            spelt = spell_symbols(spell_abbreviations(spelt))
            spelt = spell_numbers(spelt) if can_spell_numbers() else spelt
        pieces = [part for piece in self.splitter(spelt) for part in self._parts(piece)]
        if not pieces:
            reason = "must have something that can be read" if text.strip() else "must not be empty"
            raise UserError(f"text {reason}, got {text!r}")
        unknown = [piece for piece in pieces if piece not in self.ids]
        known = any(piece in self.ids and is_spoken(piece) for piece in pieces)
        ids = [self.ids.get(piece, self.ids[UNKNOWN]) for piece in pieces] + [self.ids[END]]
        return Encoding(ids, (*unknown, *self.splitter.left_out(spelt)), invisible, known)

    def read_to_speak(self, text: str) -> Encoding:
        """As `read`, but a text of which nothing is known that can be said is refused.

        Args:
            text: what to say.

        Returns:
            The encoding.

        Raises:
            UserError: naming the unknown symbols.
        """
        encoding = self.read(text)
        if not encoding.known:
            reason = self.describe(encoding.unknown) or "punctuation alone"
            raise UserError(f"text must have something that the model knows, got {text!r}: {reason}")
        return encoding

    def encode(self, text: str) -> list[int]:
        """The ids of `read`."""
        return self.read(text).ids

    def count(self, text: str) -> int:
        """How many ids a text has; 0 if nothing in it can be read."""
        try:
            return len(self.encode(text))
        except UserError:
            return 0

    def is_known(self, text: str) -> bool:
        """Whether anything in a text is known that can be said."""
        try:
            return self.read(text).known
        except UserError:
            return False

    def describe(self, unknown: Iterable[str]) -> str:
        """Unknown tokens with their counts, most frequent first, and how digits would be read: "'x' (3), '7' (1)"."""
        counts = Counter(unknown)
        said = describe_counts(counts)
        if not any(token[:1].isdigit() for token in counts):
            return said
        if self.spells_numbers and not can_spell_numbers():
            return f"{said}; numbers are spelled out after {INSTALL}"
        return f"{said}; write numbers as words"

    def _parts(self, piece: str) -> list[str]:
        """The piece, or, of an older token list of decomposed characters, its letter and its marks."""
        piece = unicodedata.normalize("NFC", piece)
        parts = list(unicodedata.normalize("NFD", piece))
        return parts if piece not in self.ids and all(part in self.ids for part in parts) else [piece]


def is_spoken(token: str) -> bool:
    """Whether a token is more than blanks and punctuation."""
    return token not in (SPACE, UNKNOWN, END) and any(
        unicodedata.category(one)[0] not in "PZC" and one != "▁" for one in token
    )


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
    verify(path)
    # only "\n" ends a line: str.splitlines would also split at odd Unicode separators, which are tokens like others
    try:
        tokens = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"token_list must be UTF-8, got {path} ({error})") from None
    repeated = [token for token, count in Counter(tokens).items() if count > 1]
    if tokens == [""] or repeated:
        raise UserError(f"token_list must name tokens once each, got {repeated[:3] or 'an empty file'} in {path}")
    return tokens
