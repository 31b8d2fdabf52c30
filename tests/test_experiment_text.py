"""What an experiment needs to read text lies inside of it: pieces, cleaner, phones."""

from __future__ import annotations

import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from fabricated import command, one_error

pytest.importorskip("espnet2")
from espnet_ext.bin import codec_lm_inference, say, token_list
from espnet_ext.data.datadir import read_skipped
from espnet_ext.errors import UserError
from espnet_ext.inference import CodecLM, DecodeOptions
from espnet_ext.tasks.codec_lm import CodecLMTask
from espnet_ext.tokenizers.text.g2p import g2ps

pytestmark = pytest.mark.espnet
OPTIONS = DecodeOptions(decoding="parallel", maxlenratio=2.0)


def make_tokens(corpus, folder, *more):
    line = ["--text", str(corpus / "train" / "text"), "--out", str(folder / "tokens.txt"), *map(str, more)]
    token_list.main(line)
    return folder / "tokens.txt"


def make_pieces(corpus, folder, size):
    folder.mkdir()
    model = folder / "given.model"
    return make_tokens(corpus, folder, "--token_type", "bpe", "--bpemodel", model, "--vocab_size", size), model


def train(corpus, output, *more):
    conf = output.parent / "train.yaml"
    conf.write_text(yaml.safe_dump({"best_model_criterion": [["valid", "loss", "min"]], "keep_nbest_models": 1}))
    CodecLMTask.main(cmd=command(corpus, output, "--config", str(conf), *map(str, more)))


def test_an_experiment_with_bpe_works_where_it_is_moved_to(corpus, tmp_path):
    """The path of the SentencePiece model was all that config.yaml knew of it."""
    tokens, model = make_pieces(corpus, tmp_path / "pieces", 12)
    bpe = ["--token_type", "bpe", "--token_list", tokens, "--bpemodel", model]
    train(corpus, tmp_path / "model", *bpe)
    pieces = CodecLM.from_experiment(tmp_path / "model").tokenizer.encode("abcd dcb")
    shutil.move(tmp_path / "model", tmp_path / "moved")
    other_tokens, other = make_pieces(corpus, tmp_path / "other", 9)
    assert other.read_bytes() != model.read_bytes()
    # neither the pieces of another model nor those of a continued training may come in between
    with pytest.raises(ValueError, match=r"bpemodel must be the same as .*bpe.model, got .*given.model"):
        train(corpus, tmp_path / "moved", "--token_type", "bpe", "--token_list", other_tokens, "--bpemodel", other)
    shutil.rmtree(tmp_path / "pieces")
    speak = CodecLM.from_experiment(tmp_path / "moved")
    assert speak.tokenizer.encode("abcd dcb") == pieces
    assert not speak.tokenizer.read("abcd dcb").unknown
    assert len(speak("abcd", options=OPTIONS).codes)


def test_an_experiment_makes_phones_as_its_training_did(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(g2ps, "_classes", dict(g2ps._classes))

    @g2ps.register("spelling")
    class Spelling:
        def __call__(self, text):
            return [f"{letter.upper()}1" for letter in text if letter.isalpha()]

    phones = ["--token_type", "phn", "--g2p", "spelling", "--cleaner", "english"]
    train(corpus, tmp_path / "model", *phones, "--token_list", make_tokens(corpus, tmp_path, *phones))
    speak = CodecLM.from_experiment(tmp_path / "model")
    assert [speak.tokenizer.tokens[index] for index in speak.tokenizer.encode("A b!")] == ["A1", "B1", "<eos>"]
    assert len(speak("ABCD", options=OPTIONS).codes)
    with pytest.raises(ValueError, match="g2p must be spelling to continue .*, got none"):
        train(
            corpus,
            tmp_path / "model",
            *phones,
            "--g2p",
            "none",
            "--token_list",
            tmp_path / "tokens.txt",
            "--resume",
            "true",
        )


@pytest.mark.parametrize("text", ["!!!", "\U0001f600", "\u4f60\u597d"])
def test_a_text_of_which_nothing_is_known_is_refused_by_speaker_and_say(experiment, tmp_path, text):
    speak = CodecLM.from_experiment(experiment)
    message = "text must have something that the model knows, got "
    for call in (
        lambda: speak(text, options=OPTIONS),
        lambda: speak.speak("text", text=text, options=OPTIONS),
        lambda: next(speak.stream(text, options=OPTIONS)),
        lambda: speak.batch(["abba", text], None, OPTIONS),
    ):
        with pytest.raises(UserError, match=message):
            call()
    line = [str(experiment), text, "-o", str(tmp_path / "out.wav"), "--decoding", "parallel"]
    assert message in one_error(say.main, *line)


def test_what_a_model_does_not_know_of_a_text_is_said_once_per_call_and_comes_with_the_speech(experiment, caplog):
    """CodecLM spoke on without a word: only the command say told."""
    speak = CodecLM.from_experiment(experiment)
    said = "tokens outside of the vocabulary: '7' (2), 'x' (1); write numbers as words"
    for call in (
        lambda: speak("ab7x7", options=OPTIONS).unknown,
        lambda: speak.speak("text", text="ab7x7", options=OPTIONS).unknown,
        lambda: list(speak.stream("ab7x7", options=OPTIONS))[-1].unknown,
        lambda: sum((one.unknown for one in speak.batch(["ab7x", "a7"], None, OPTIONS)), ()),
    ):
        caplog.clear()
        assert sorted(call()) == ["7", "7", "x"]
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [said]
    caplog.clear()
    assert speak("abba", options=OPTIONS).unknown == () and not caplog.records


def test_threads_do_not_see_each_others_unknown_characters(experiment):
    speak = CodecLM.from_experiment(experiment)
    texts = [f"ab{letter}" for letter in "wxyz"] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: speak.tokenizer.read(text).unknown, texts))
    assert found == [(text[-1],) for text in texts]


def test_an_utterance_of_which_nothing_is_known_is_skipped_with_that_reason(experiment, tmp_path, caplog):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "text").write_text("s-0 abba\ns-1 \u4f60\u597d\ns-2 abx\n", encoding="utf-8")
    caplog.set_level("INFO")
    line = ["--exp", experiment, "--data_dir", data, "--decoding", "parallel", "--output_dir", out, "--batch_size", "3"]
    codec_lm_inference.main([str(word) for word in line])
    skipped = read_skipped(out / "skipped")
    assert list(skipped) == ["s-1"]
    assert skipped["s-1"].startswith("cannot be spoken: text must have something that the model knows")
    assert [one.message for one in caplog.records if "vocabulary" in one.message] == [
        "tokens outside of the vocabulary: 'x' (1)"
    ]


def test_token_lists_are_composed_and_a_byte_order_mark_is_refused_before_training(corpus, tmp_path):
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        shutil.copytree(corpus, folder)
        for part in ("train", "dev"):
            path = folder / part / "text"
            path.write_text(unicodedata.normalize(form, path.read_text().replace("b", "\u00f6")), encoding="utf-8")
        tokens = make_tokens(folder, folder)
        assert "\u00f6" in tokens.read_text(encoding="utf-8").split("\n")
    path = tmp_path / "NFC/train/text"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    with pytest.raises(UserError, match="train/text must not begin with a byte order mark"):
        train(tmp_path / "NFC", tmp_path / "model", "--token_list", tmp_path / "NFC/tokens.txt")


def test_an_experiment_of_the_first_version_is_read_and_continued(corpus, experiment, tmp_path):
    """Its config.yaml has no g2p."""
    old = tmp_path / "old"
    shutil.copytree(experiment, old, symlinks=True)
    content = yaml.safe_load((old / "config.yaml").read_text())
    assert content.pop("g2p") == "none"
    (old / "config.yaml").write_text(yaml.safe_dump(content))
    assert CodecLM.from_experiment(old).tokenizer.encode("ab")
    train(corpus, old, "--resume", "true", "--frame_stacking_factor", "2", "--max_epoch", "2")
    assert (old / "2epoch.pth").is_file()
