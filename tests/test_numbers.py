"""English numbers in words, and which models are given them."""

import sys

import pytest

from espnet_ext.errors import UserError
from espnet_ext.tokenizers.text import tokens as tokens_module
from espnet_ext.tokenizers.text.numbers import spell_numbers
from espnet_ext.tokenizers.text.tokens import END, SPACE, UNKNOWN, TextSplitter, TextTokenizer, make_token_list

ENGLISH = [*"abcdefghijklmnopqrstuvwxyz'.,!", SPACE]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I have 3 dogs", "I have three dogs"),
        ("1,250 men, 007, 3.14", "one thousand two hundred fifty men, zero zero seven, three point one four"),
        ("in 1905, 1911 and 1900", "in nineteen oh five, nineteen eleven and nineteen hundred"),
        ("the 1990s", "the nineteen nineties"),
        ("2001 and 2024", "two thousand one and twenty twenty four"),
        ("on May 3, 1911; 2020-03-05", "on May third, nineteen eleven; March fifth, twenty twenty"),
        ("$2.50, $1, £0.50", "two dollars and fifty cents, one dollar, fifty pence"),
        ("€3.5 million, $1,000", "three point five million euros, one thousand dollars"),
        ("the 21st at 12:30, 7%", "the twenty first at twelve thirty, seven percent"),
        ("-5, 3-5, mp3, 5km", "minus five, three-five, mp three, five km"),
        ("9" * 16, " ".join(["nine"] * 16)),
        ("no number: a-b, 'tis", "no number: a-b, 'tis"),
    ],
)  # fmt: skip
def test_english_numbers_are_spelled_as_they_are_read(text, words):
    pytest.importorskip("inflect")
    assert spell_numbers(text) == words


def test_numbers_are_spelled_for_an_english_model_that_knows_no_digit():
    pytest.importorskip("inflect")
    splitter = TextSplitter(cleaner="english")
    without, digits = [UNKNOWN, *ENGLISH, END], [UNKNOWN, *ENGLISH, "3", END]
    assert TextTokenizer(splitter, without).encode("3 dogs") == TextTokenizer(splitter, without).encode("three dogs")
    assert len(TextTokenizer(splitter, digits).encode("3 dogs")) == len("3 dogs") + 1
    assert TextTokenizer(splitter, without, "none").read("3 dogs").unknown == ("3",)
    foreign = TextTokenizer(TextSplitter(), without)
    assert foreign.read("3 dogs").unknown == ("3",), "nobody said that it is English"
    assert foreign.describe(["3"]) == "'3' (1); write numbers as words"
    assert TextTokenizer(TextSplitter(), without, "english").read("3 dogs").unknown == ()
    with pytest.raises(UserError, match="numbers must be one of .*, got 'loud'"):
        TextTokenizer(splitter, without, "loud")
    pytest.importorskip("pocketsphinx")
    spoken = TextSplitter("phn", g2p="cmudict")
    phones = TextTokenizer(spoken, make_token_list(["the three dogs"], spoken)[0])
    assert phones.encode("3 dogs") == phones.encode("three dogs")


def test_without_inflect_digits_are_unknown_with_a_word_about_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "inflect", None)
    monkeypatch.setattr(tokens_module, "can_spell_numbers", lambda: False)
    tokenizer = TextTokenizer(TextSplitter(cleaner="english"), [UNKNOWN, *ENGLISH, END])
    unknown = tokenizer.read("3 dogs").unknown
    assert tokenizer.describe(unknown) == "'3' (1); numbers are spelled out after pip install 'espnet_ext[numbers]'"
