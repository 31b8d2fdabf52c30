"""English numbers in words, and which models are given them."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from espnet_ext.errors import UserError
from espnet_ext.tokenizers.text import tokens as tokens_module
from espnet_ext.tokenizers.text.cleaners import clean_english
from espnet_ext.tokenizers.text.english import spell_abbreviations
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
        ("the 21st at 12:30, 9:05", "the twenty first at twelve thirty, nine oh five"),
        ("-5, 3-5, mp3, 5km", "minus five, three-five, mp three, five km"),
        ("9" * 16, " ".join(["nine"] * 16)),
        ("no number: a-b, 'tis", "no number: a-b, 'tis"),
        ("$1,234.56", "one thousand two hundred thirty four dollars and fifty six cents"),
        ("$1900, $12.5", "one thousand nine hundred dollars, twelve point five dollars"),
        ("$5m, £2.5bn, €10K", "five million dollars, two point five billion pounds, ten thousand euros"),
        ("US$3kg, $3-million", "US three dollars kg, three million dollars"),
        ("you may 3 times, they march 20 miles", "you may three times, they march twenty miles"),
        ("12:00 o'clock, 3:00:00, 1:02:03", "twelve o'clock, three o'clock, one oh two oh three"),
        ("10:005, 25:00, 4:00pm", "ten:zero zero five, twenty five zero zero, four o'clock pm"),
        ("v2.0.1", "v two point zero point one"),
        ("1" * 40 + ".5", " ".join(["one"] * 40) + " point five"),
    ],
)  # fmt: skip
def test_english_numbers_are_spelled_as_they_are_read(text, words):
    pytest.importorskip("inflect")
    assert spell_numbers(text) == words


def test_threads_do_not_mix_their_numbers(monkeypatch):
    """Bug: they shared an engine, which counts the groups of three digits on itself: 1000 became one million."""
    inflect = pytest.importorskip("inflect")
    hundreds = inflect.engine.hundfn

    def slowly(*given):
        time.sleep(0.002)  # until the others have come as far
        return hundreds(*given)

    monkeypatch.setattr(inflect.engine, "hundfn", slowly)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(spell_numbers, ["1000"] * 40)) == {"one thousand"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dr. Lee of St. Louis", "doctor Lee of saint Louis"),
        ("DR. LEE, dr. lee", "doctor LEE, doctor lee"),
        ("The Dr. said so to Dr. A. Lee", "The doctor said so to doctor A. Lee"),
        ("on Main St. near Elm Dr., by 5th St.", "on Main street near Elm drive, by 5th street."),
        ("She left Baker St. The house is empty", "She left Baker street. The house is empty"),
        ("In St. Ives, etc.", "In saint Ives, et cetera"),
        ("the mr.smith", "the mr.smith"),
    ],
)
def test_abbreviations_are_written_out_as_their_neighbours_say(text, words):
    assert spell_abbreviations(text) == words == spell_abbreviations(words)
    assert clean_english(text) == clean_english(words), "the cleaner knows what capitals say, too"


def test_abbreviations_and_symbols_are_spelled_wherever_numbers_are():
    """Bug: with cleaner lower "Dr. Lee" was drive Lee, and of "rock & roll @ home #" nothing was said or reported."""
    pytest.importorskip("pocketsphinx")
    pytest.importorskip("inflect")
    for cleaner in ("lower", "english"):
        splitter = TextSplitter("phn", cleaner=cleaner, g2p="cmudict")
        tokenizer = TextTokenizer(splitter, make_token_list(["doctor rock"], splitter)[0])
        for text, words in (
            ("Dr. Lee of St. Louis, 12 Main St.", "doctor Lee of saint Louis, twelve Main street"),
            ("rock & roll @ home, 7%, #1", "rock and roll at home, seven percent, number one"),
        ):
            assert tokenizer.encode(text) == tokenizer.encode(words)
        characters = TextTokenizer(TextSplitter(cleaner=cleaner), [UNKNOWN, *ENGLISH, END], "english")
        assert characters.encode("Dr. A & B") == characters.encode("doctor a and b")
    assert characters.read("a * #b § c/d").unknown == ("*", "#", "§", "/")
    assert characters.read("“a” (b), c. d e… [f] ‹g›!").unknown == ()
    reported = TextTokenizer(splitter, make_token_list(["a rock"], splitter)[0]).read("A rock # * §!?").unknown
    assert reported == ("#", "*", "§")


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
