"""The contract of a g2p: what token lists and training rely on."""

from __future__ import annotations

import pickle

from espnet_ext.tokenizers.text.g2p import g2ps
from espnet_ext.tokenizers.text.tokens import TextSplitter


def check_g2p(name: str, text: str = "two red dogs") -> None:
    """Hold a registered g2p to its contract.

    Args:
        name: registered name.
        text: a cleaned transcript of its language.

    Raises:
        AssertionError: saying what it does not keep.
    """
    convert = g2ps[name]()
    phones = convert(text)
    assert isinstance(phones, list) and phones, f"a text must become a list of phones, got {phones!r}"
    whole = all(isinstance(phone, str) and phone and not any(map(str.isspace, phone)) for phone in phones)
    assert whole, f"a phone must be text without blanks, got {phones}"
    assert convert("") == [], f"an empty text must have no phones, got {convert('')}"
    assert convert(text) == phones == g2ps[name]()(text), "the same text must have the same phones"
    splitter = TextSplitter("phn", g2p=name)
    assert splitter(text) == pickle.loads(pickle.dumps(splitter))(text), "another process must make the same phones"
