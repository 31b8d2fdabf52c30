"""Text to ids, and what is said about text that does not fit."""

import pytest

from espnet_ext.text import END, SPACE, UNKNOWN, TextTokenizer, make_token_list, read_token_list


def test_a_token_list_holds_every_character_once_between_unknown_and_end():
    tokens = make_token_list(["Two dogs", "a  cat"], "char", None, "lower")
    assert tokens == [UNKNOWN, SPACE, "a", "c", "d", "g", "o", "s", "t", "w", END]


def test_every_text_of_the_corpus_is_known_and_ends():
    texts = ["two dogs", "a cat"]
    tokenizer = TextTokenizer("char", make_token_list(texts, "char", None, "lower"))
    for text in texts:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text) + 1 and ids[-1] == tokenizer.ids[END]
    assert not tokenizer.unknown


def test_unknown_characters_are_counted_and_named():
    tokenizer = TextTokenizer("char", make_token_list(["abc"], "char", None, "lower"))
    tokenizer.encode("a?b?ç")
    assert tokenizer.describe_unknown() == "'?' (2), 'ç' (1)"


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_is_refused(text):
    with pytest.raises(ValueError, match="text must not be empty"):
        TextTokenizer("char", [UNKNOWN, "a", END]).encode(text)


def test_words_and_phones_are_split_at_blanks():
    tokenizer = TextTokenizer("phn", [UNKNOWN, "HH", "AY", END], cleaner="none")
    assert tokenizer.encode("HH AY") == [1, 2, 3]


def test_bpe_pieces_cover_the_text(tmp_path):
    from espnet_ext.bin.token_list import main

    text = tmp_path / "text"
    text.write_text("".join(f"u{i} {'two red dogs waited' if i % 2 else 'open the blue door'}\n" for i in range(9)))
    model, tokens = tmp_path / "bpe.model", tmp_path / "tokens.txt"
    main(
        [
            "--text",
            str(text),
            "--token_type",
            "bpe",
            "--bpemodel",
            str(model),
            "--vocab_size",
            "40",
            "--out",
            str(tokens),
        ]
    )
    tokenizer = TextTokenizer("bpe", read_token_list(tokens), model)
    ids = tokenizer.encode("two dogs")
    assert tokenizer.ids[UNKNOWN] not in ids and len(ids) < len("two dogs") + 1


def test_a_damaged_bpe_model_is_refused(tmp_path):
    (tmp_path / "bpe.model").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="bpemodel must be a SentencePiece model, got .*bpe.model"):
        TextTokenizer("bpe", [UNKNOWN, "a", END], tmp_path / "bpe.model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_type": "letters"}, "token_type must be one of"),
        ({"cleaner": "loud"}, "cleaner must be one of"),
        ({"token_type": "bpe"}, "bpemodel must be given"),
        ({"tokens": ["a"]}, "token_list must contain <unk> and <eos>"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextTokenizer(**{"token_type": "char", "tokens": [UNKNOWN, "a", END], **options})


def test_a_missing_empty_or_repeating_token_list_is_refused(tmp_path):
    path = tmp_path / "tokens.txt"
    with pytest.raises(FileNotFoundError, match="token_list not found: .*tokens.txt"):
        read_token_list(path)
    path.write_text("")
    with pytest.raises(ValueError, match="an empty file"):
        read_token_list(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"\['a'\]"):
        read_token_list(path)
