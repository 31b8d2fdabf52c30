"""Text to ids, and what is said about text that does not fit."""

import json
import os
import pickle
import random
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pytest

from espnet_ext.bin.token_list import main
from espnet_ext.errors import UserError
from espnet_ext.testing import check_g2p
from espnet_ext.tokenizers.text.cleaners import CLEANERS, clean_english, compose, removed
from espnet_ext.tokenizers.text.cmudict import pronunciations
from espnet_ext.tokenizers.text.english import ABBREVIATIONS
from espnet_ext.tokenizers.text.g2p import g2ps
from espnet_ext.tokenizers.text.tokens import (
    END,
    SPACE,
    TOKEN_TYPES,
    UNKNOWN,
    Encoding,
    TextSplitter,
    TextTokenizer,
    make_token_list,
)
from espnet_ext.tokenizers.text.tokens import read_token_list as read

ROOT = Path(__file__).resolve().parent.parent
# what Unicode and transcribers can do to a text
NASTY = "aZ éßİſŒæ'’‘`´ʼ\"“”«».,!?;:…-–—‑()[]{}*_#&½²™ﬁ№1\t\n\u00a0\u0301\u200b中" + "".join(map(str, range(3)))

# the real g2p_en on a dictionary of three words and a tagger of one rule, in the files that NLTK's downloader makes
G2P_DATA = {
    "corpora/cmudict.zip": {"cmudict/cmudict": "A 1 AH0\nTWO 1 T UW1\nDOGS 1 D AO1 G Z\n"},
    "taggers/averaged_perceptron_tagger_eng.zip": {
        f"averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.{name}.json": json.dumps(content)
        for name, content in (("weights", {"bias": {"NN": 1.0}}), ("tagdict", {}), ("classes", ["NN"]))
    },
}
USE_G2P = """
from espnet_ext.bin import run
from espnet_ext.tokenizers.text.tokens import TextSplitter
run(lambda: print(*TextSplitter("phn", cleaner="english", g2p="g2p_en")("Two dogs, 2 zorgs")))
"""
# a machine without network, whose attempts to use it are seen
NO_NETWORK = """
import socket, sys
def refuse(*args, **options):
    sys.exit("the network was used")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def write_text(path: Path, *texts: str) -> Path:
    path.write_text("".join(f"u{index} {text}\n" for index, text in enumerate(texts)), encoding="utf-8")
    return path


def run_g2p(tmp_path: Path, *modules: Path) -> subprocess.CompletedProcess:
    """What a process says that has the NLTK data of `tmp_path` and no network."""
    environment = {name: value for name, value in os.environ.items() if name != "NLTK_DATA"}
    environment |= {"NLTK_DATA": str(tmp_path), "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, modules), str(ROOT), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-c", NO_NETWORK + USE_G2P]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_token_list_holds_every_character_once_between_unknown_and_end():
    tokens, rare = make_token_list(["Two dogs", "a  cat"], TextSplitter("char"))
    assert tokens == [UNKNOWN, SPACE, "a", "c", "d", "g", "o", "s", "t", "w", END] and not rare


def test_every_text_of_the_corpus_is_known_and_ends():
    texts = ["two dogs", "a cat"]
    tokenizer = TextTokenizer(TextSplitter(), make_token_list(texts, TextSplitter())[0])
    for text in texts:
        encoding = tokenizer.read(text)
        assert len(encoding.ids) == len(text) + 1 and encoding.ids[-1] == tokenizer.ids[END]
        assert encoding.known and not encoding.unknown


def test_unknown_characters_come_with_their_encoding_and_are_counted_and_named():
    """They were left on the tokenizer, where every thread and every later call found them."""
    tokenizer = TextTokenizer(TextSplitter(), make_token_list(["abc"], TextSplitter())[0])
    encoding = tokenizer.read("a?b?ç")
    assert encoding.unknown == ("?", "?", "ç") and tokenizer.describe(encoding.unknown) == "'?' (2), 'ç' (1)"
    assert tokenizer.read("abc").unknown == () and not hasattr(tokenizer, "unknown")


ENGLISH = [*"abcdefghijklmnopqrstuvwxyz'.,!", SPACE]


@pytest.mark.parametrize("cleaner", ["lower", "english"])
@pytest.mark.parametrize("text", ["!!!", "\U0001f600", "\u4f60\u597d", "?! ...", "\u00bf"])
def test_a_text_of_which_nothing_is_known_is_not_spoken(text, cleaner):
    tokenizer = TextTokenizer(TextSplitter(cleaner=cleaner), [UNKNOWN, *ENGLISH, END])
    with pytest.raises(UserError, match="text must have something that"):
        tokenizer.read_to_speak(text)
    assert tokenizer.read_to_speak(f"a {text}").known


def test_what_cleaner_and_g2p_drop_is_unknown_but_for_punctuation(tmp_path):
    tokenizer = TextTokenizer(TextSplitter(cleaner="english"), [UNKNOWN, *ENGLISH, END])
    assert tokenizer.read("\u201cCaf\u00e9\u201d [b]").unknown == ()
    assert tokenizer.read("a \U0001f600 \u4f60\U0001f600 \u20ac").unknown == (
        "\U0001f600",
        "\u4f60",
        "\U0001f600",
        "\u20ac",
    )
    pytest.importorskip("pocketsphinx")
    splitter = TextSplitter("phn", g2p="cmudict")
    tokenizer = TextTokenizer(splitter, make_token_list(["two dogs"], splitter)[0])
    assert tokenizer.read("Two dogs\U0001f600!").unknown == ("\U0001f600",)


def test_composed_and_decomposed_letters_are_one_text(tmp_path, caplog):
    text = "\u00dcber die Stra\u00dfe l\u00e4uft ein M\u00e4dchen"
    apart = unicodedata.normalize("NFD", text)
    for number, (token_type, more) in enumerate((("char", []), ("word", []), ("bpe", ["--vocab_size", "30"]))):
        out, model = tmp_path / f"{number}.txt", tmp_path / f"{number}.model"
        line = ["--text", str(write_text(tmp_path / "text", apart, text)), "--token_type", token_type, *more]
        main([*line, "--out", str(out), *(["--bpemodel", str(model)] if more else [])])
        tokenizer = TextTokenizer(TextSplitter(token_type, model if more else None), read(out))
        assert tokenizer.read(text) == tokenizer.read(apart) and tokenizer.read(apart).unknown == ()
        assert not any("\u0308" in token for token in read(out))


def test_an_older_token_list_of_decomposed_letters_still_knows_them():
    old = [UNKNOWN, *"schno", "\u0308", END]
    tokenizer = TextTokenizer(TextSplitter(), old)
    assert tokenizer.encode("sch\u00f6n") == tokenizer.encode("scho\u0308n") == [1, 2, 3, 5, 6, 4, 7]
    words = TextTokenizer(TextSplitter("word"), [UNKNOWN, "scho\u0308n", END])
    assert words.encode("sch\u00f6n") == [1, 2]


def test_invisible_characters_are_left_out_and_counted(tmp_path, caplog):
    text, out = write_text(tmp_path / "text", "ge\u00adsagt\u200b", "\ufeffge\u200csagt"), tmp_path / "tokens.txt"
    with caplog.at_level("INFO"):
        main(["--text", str(text), "--out", str(out)])
    assert read(out) == [UNKNOWN, *sorted(set("gesagt")), END]
    assert "invisible characters (zero-width, soft hyphens, …) that are left out: 4" in caplog.text
    assert TextTokenizer(TextSplitter(), read(out)).read("ge\u00adsagt") == Encoding([3, 2, 4, 1, 3, 5, 6], (), 1, True)
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert compose(persian) == (persian, 0), "the joiner is spelling there"


def test_a_byte_order_mark_is_no_part_of_a_token_list(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text(f"{UNKNOWN}\na\n{END}\n", encoding="utf-8-sig")
    assert read(path) == [UNKNOWN, "a", END]


def test_a_sentencepiece_model_that_is_there_is_kept_unless_it_should_be_trained(tmp_path):
    text, model = write_text(tmp_path / "text", "two dogs and a cat " * 3), tmp_path / "bpe.model"
    line = ["--text", str(text), "--token_type", "bpe", "--bpemodel", str(model), "--out", str(tmp_path / "tokens.txt")]
    main([*line, "--vocab_size", "16"])
    first, tokens = model.read_bytes(), read(tmp_path / "tokens.txt")
    main([*line, "--vocab_size", "24"])
    assert model.read_bytes() == first and read(tmp_path / "tokens.txt") == tokens
    main([*line, "--vocab_size", "24", "--train_bpe"])
    assert model.read_bytes() != first and read(tmp_path / "tokens.txt") != tokens


def test_separators_of_unicode_are_tokens_like_others(tmp_path):
    """The token list was read by str.splitlines, which also ends a line there."""
    out = tmp_path / "tokens.txt"
    main(["--text", str(write_text(tmp_path / "text", "a\u2028b\x85\x1c\rc")), "--cleaner", "none", "--out", str(out)])
    assert read(out) == [UNKNOWN, *sorted("a\u2028b\x85\x1c\rc"), END]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_is_refused(text):
    with pytest.raises(ValueError, match="text must not be empty"):
        TextTokenizer(TextSplitter(), [UNKNOWN, "a", END]).encode(text)


def test_words_and_phones_are_split_at_blanks():
    tokenizer = TextTokenizer(TextSplitter("phn", cleaner="none"), [UNKNOWN, "HH", "AY", END])
    assert tokenizer.encode("HH AY") == [1, 2, 3]


def test_tokens_rarer_than_min_count_become_unknown_and_are_reported(tmp_path, caplog):
    text, out = write_text(tmp_path / "text", "aab", "aq"), tmp_path / "tokens.txt"
    with caplog.at_level("INFO"):
        main(["--text", str(text), "--min_count", "2", "--out", str(out)])
    assert read(out) == [UNKNOWN, "a", END]
    assert "tokens seen fewer than 2 times, now <unk>: 'b' (1), 'q' (1)" in caplog.text


def test_a_min_count_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"text must contain a token at least 9 times \(min_count\)"):
        make_token_list(["aab"], TextSplitter(), 9)
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        make_token_list(["aab"], TextSplitter(), 0)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("“Mr. O’Neill’s café”—well…", "mister o'neill's cafe - well..."),
        ("Dr. Smith, of St. Ives, met Mrs. Ball.", "doctor smith, of saint ives, met missus ball."),
        ("the mr.smith no. 5 [sic] (1911)", "the mr.smith no. 5 sic 1911"),
        ("first--second  - third.. fourth", "first - second - third... fourth"),
        ("Œuvre & Æsop\u00a0said : yes !", "oeuvre and aesop said: yes!"),
        ("St. Mr (.", "saint mister"),
        ("*** 中 #", ""),
    ],
)
def test_english_is_cleaned_as_it_is_read(text, cleaned):
    assert clean_english(text) == cleaned


@pytest.mark.parametrize("name", list(CLEANERS))
def test_a_cleaned_text_stays_as_it_is(name):
    generator, clean = random.Random(0), CLEANERS[name]
    words = [*NASTY, *(f"{word}." for word in ABBREVIATIONS), *ABBREVIATIONS, " "]
    for _ in range(3000):
        text = "".join(generator.choices(words, k=generator.randrange(12)))
        assert clean(clean(text)) == clean(text), repr(text)


def test_what_the_english_cleaner_removes_is_reported_with_counts(tmp_path, caplog):
    text = write_text(tmp_path / "text", "a [b] “c”", "a [d]")
    with caplog.at_level("INFO"):
        main(["--text", str(text), "--cleaner", "english", "--out", str(tmp_path / "tokens.txt")])
    assert "cleaner english removed: '[' (2), ']' (2), '“' (1), '”' (1)" in caplog.text
    assert not removed("a [b]", "lower")


def test_bpe_pieces_cover_the_text(tmp_path):
    sentences = ["two red dogs waited", "open the blue door"] * 5
    text, model, tokens = write_text(tmp_path / "text", *sentences), tmp_path / "bpe.model", tmp_path / "tokens.txt"
    line = ["--text", text, "--token_type", "bpe", "--bpemodel", model, "--vocab_size", 40, "--out", tokens]
    main([str(word) for word in line])
    tokenizer = TextTokenizer(TextSplitter("bpe", model), read(tokens))
    ids = tokenizer.encode("two dogs")
    assert tokenizer.ids[UNKNOWN] not in ids and len(ids) < len("two dogs") + 1


def test_a_damaged_bpe_model_is_refused(tmp_path):
    (tmp_path / "bpe.model").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="bpemodel must be a SentencePiece model, got .*bpe.model"):
        TextSplitter("bpe", tmp_path / "bpe.model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_type": "letters"}, "token_type must be one of"),
        ({"cleaner": "loud"}, "cleaner must be one of"),
        ({"token_type": "bpe"}, "bpemodel must be given"),
        ({"g2p": "loud"}, "g2p must be one of .*'cmudict', 'g2p_en', 'none'.*, got 'loud'"),
        ({"g2p": "g2p_en"}, "g2p must be none with token_type char, got 'g2p_en'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextSplitter(**options)


def test_a_token_list_without_the_special_tokens_is_refused():
    with pytest.raises(ValueError, match="token_list must contain <unk> and <eos>"):
        TextTokenizer(TextSplitter(), ["a"])


def test_a_missing_empty_or_repeating_token_list_is_refused(tmp_path):
    path = tmp_path / "tokens.txt"
    with pytest.raises(FileNotFoundError, match="token_list not found: .*tokens.txt"):
        read(path)
    path.write_text("")
    with pytest.raises(ValueError, match="an empty file"):
        read(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"\['a'\]"):
        read(path)


def test_a_third_party_adds_its_own_phones(monkeypatch):
    monkeypatch.setattr(g2ps, "_classes", dict(g2ps._classes))

    @g2ps.register("spelling")
    class Spelling:
        def __call__(self, text):
            return [letter.upper() for letter in text if letter.isalpha()]

    splitter = TextSplitter("phn", g2p="spelling")
    assert splitter("two") == ["T", "W", "O"]
    assert make_token_list(["two"], splitter)[0] == [UNKNOWN, "O", "T", "W", END]


@pytest.mark.parametrize("name", list(g2ps))
def test_contract_of_g2p(name):
    try:
        g2ps[name]()
    except UserError as error:
        pytest.skip(str(error))
    check_g2p(name)


def test_phones_come_from_the_recognisers_dictionary_and_a_word_it_lacks_is_reported():
    pytest.importorskip("pocketsphinx")
    splitter = TextSplitter("phn", cleaner="none", g2p="cmudict")
    assert splitter("Two dogs, don't!") == ["T", "UW", "<space>", "D", "AA", "G", "Z", "<space>", "D", "OW", "N", "T"]
    tokenizer = TextTokenizer(splitter, make_token_list(["two dogs"], splitter)[0])
    assert tokenizer.encode("two zyxq dogs").count(tokenizer.ids[UNKNOWN]) == 1
    assert tokenizer.read("two zyxq dogs").unknown == ("zyxq",)


def test_pronunciations_come_in_the_order_of_the_dictionary():
    """Bug: they came in the order of a set, another one in every process, and with them the recogniser's words."""
    pytest.importorskip("pocketsphinx")
    words = ["window", "dogs", "seven", "apple", "near", "zyxq", "river", "birds"]
    assert list(pronunciations(words)) == sorted(set(words) - {"zyxq"})


@pytest.mark.parametrize("token_type", [name for name in TOKEN_TYPES if name != "bpe"])
def test_what_splits_a_text_can_be_sent_to_another_process(token_type):
    splitter = TextSplitter(token_type, cleaner="english")
    assert pickle.loads(pickle.dumps(splitter))("a b") == splitter("a b")


def test_phones_are_made_by_g2p_en_without_network(tmp_path):
    pytest.importorskip("g2p_en")
    for name, files in G2P_DATA.items():
        (tmp_path / name).parent.mkdir()
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)
    done = run_g2p(tmp_path)
    phones = ["T", "UW1", "<space>", "D", "AO1", "G", "Z", "<space>", ",", "<space>", "T", "UW1", "<space>"]
    assert done.stdout.split()[: len(phones)] == phones, done.stderr
    assert len(done.stdout.split()) > len(phones) + 2, "a word outside of the dictionary has phones too"


def test_missing_g2p_data_are_named_with_the_command_that_gets_them(tmp_path):
    """g2p_en downloads them while it is imported, which hangs without network."""
    pytest.importorskip("g2p_en")
    done = run_g2p(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: g2p g2p_en needs data that are not there: "
        "python -m nltk.downloader cmudict averaged_perceptron_tagger_eng"
    ]


def test_a_missing_g2p_package_is_named_with_the_command_that_gets_it(tmp_path):
    (tmp_path / "nltk.py").write_text("raise ModuleNotFoundError(\"No module named 'nltk'\", name='nltk')\n")
    done = run_g2p(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'espnet_ext[phones]'") and done.stderr.count("\n") == 1
