"""Text to phones, for token_type phn; other packages add theirs by the entry point group espnet_ext.g2p."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from espnet_ext.errors import UserError, needs_package
from espnet_ext.registry import Registry
from espnet_ext.tokenizers.text.cmudict import dictionary, phones

WORD_BOUNDARY = "<space>"
REMEMBERED = 2**16  # sentences; an epoch reads the same ones again
DOWNLOAD = "python -m nltk.downloader cmudict averaged_perceptron_tagger_eng"


class G2P(Protocol):
    """Makes phones of a cleaned text; built without arguments, once per process that reads text."""

    def __call__(self, text: str) -> list[str]:
        """The phones of a text.

        Args:
            text: a cleaned transcript.

        Returns:
            Phones, each without blanks.
        """
        ...


g2ps: Registry[type[G2P]] = Registry("g2p", "espnet_ext.g2p")


@g2ps.register("none")
class GivenPhones:
    """The text is phones already, separated by blanks."""

    def __call__(self, text: str) -> list[str]:
        """The words of the text; arguments as in `G2P`."""
        return text.split()


@g2ps.register("cmudict")
class DictionaryG2P:
    """The phones of a pronouncing dictionary, <space> between words; no network, no data to download.

    A word that the dictionary lacks stays a word, which no token list has: it becomes <unk>, and is reported.

    Raises:
        UserError: if pocketsphinx, which brings the dictionary, is not installed.
    """

    def __init__(self) -> None:
        with needs_package("g2p cmudict", "pocketsphinx"):
            dictionary()

    def __call__(self, text: str) -> list[str]:
        """The phones; arguments as in `G2P`."""
        words = [phones(word) or (word,) for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())]
        return [phone for word in words for phone in (*word, WORD_BOUNDARY)][:-1]


@g2ps.register("g2p_en")
class EnglishG2P:
    """ARPAbet phones with stress, <space> between words, punctuation kept: CMU dictionary, and a network beyond it.

    The package g2p_en and its data are optional and loaded here for the first time, without any download.

    Raises:
        UserError: if the package or its data are not installed; the message has the command that installs them.
    """

    def __init__(self) -> None:
        _load_g2p_en()

    def __call__(self, text: str) -> list[str]:
        """The phones; arguments as in `G2P`."""
        return list(_english_phones(text))


@lru_cache(maxsize=REMEMBERED)
def _english_phones(text: str) -> tuple[str, ...]:
    return tuple(WORD_BOUNDARY if phone == " " else phone for phone in _load_g2p_en()(text))


@lru_cache(maxsize=1)
def _load_g2p_en() -> Callable[[str], list[str]]:
    with needs_package("g2p g2p_en", "'espnet_ext[phones]'"):
        return _offline_g2p_en()


def _offline_g2p_en() -> Callable[[str], list[str]]:
    import nltk

    download, nltk.download = nltk.download, _refuse_download
    try:
        from g2p_en import G2p

        convert: Callable[[str], list[str]] = G2p()
        convert("a test")  # the tagger reads its data here
    except LookupError:  # NLTK's message fills a page
        raise UserError(f"g2p g2p_en needs data that are not there: {DOWNLOAD}") from None
    finally:
        nltk.download = download
    return convert


def _refuse_download(*args: object, **options: object) -> None:
    # g2p_en downloads what it misses while it is imported, which hangs on a machine without network
    raise LookupError
