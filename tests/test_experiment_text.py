"""What an experiment needs to read text lies inside of it: pieces, cleaner, phones."""

from __future__ import annotations

import shutil

import pytest
import yaml
from fabricated import command

pytest.importorskip("espnet2")
from espnet_ext.bin import token_list
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
    assert speak.tokenizer.encode("abcd dcb") == pieces and not speak.tokenizer.unknown
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
