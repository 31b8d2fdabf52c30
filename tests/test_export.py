"""Experiments as safetensors: they say the same bit for bit, hold nothing that runs, and tell damage."""

from __future__ import annotations

import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fabricated import command, one_error
from safetensors.torch import load_file, save_file
from tiny_codecs import EVERY, tiny_codec, voice
from tiny_semantic import EVERY as EVERY_TOKENIZER
from tiny_semantic import tiny_tokenizer

from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import read_weights
from espnet_ext.storage.checksums import content_hash
from espnet_ext.storage.tensor_files import read_arrays, write_tensors
from espnet_ext.storage.yaml_files import without_paths
from espnet_ext.tokenizers.codec import (
    INFO_NAME,
    Codec,
    codec_files,
    codecs,
    copy_codec,
    load_codec,
    read_codec_info,
    save_codec,
)
from espnet_ext.tokenizers.semantic import load_semantic, read_semantic_info, save_semantic, semantic_files

AVERAGE, EXPORTED = "valid.loss.ave.pth", "valid.loss.ave.safetensors"


@pytest.fixture(scope="session")
def exported(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment as one can share it."""
    from espnet_ext.bin import export
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.inference.decode_yaml import keep

    place = tmp_path_factory.mktemp("shared")
    shutil.copytree(experiment, place / "model")
    keep(place / "model", DecodeOptions("parallel", maxlenratio=1.5), f"Chosen below {place}.")
    export.main(["--exp", str(place / "model"), "--output_dir", str(place / "export")])
    return place / "export"


def texts_in(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.rglob("*.yaml")}


@pytest.mark.espnet
def test_an_export_says_the_same_bit_for_bit(experiment: Path, exported: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import say
    from espnet_ext.inference import Speaker

    how = {"decoding": "local_ar", "maxlenratio": 2.0, "seed": 3}
    expected, said = (Speaker.from_experiment(exp)("abba", **how) for exp in (experiment, exported))
    assert np.array_equal(expected.codes, said.codes) and np.array_equal(expected.waveform, said.waveform)
    say.main([str(exported), "abba", "-o", str(tmp_path / "a.wav")])
    assert (tmp_path / "a.wav").stat().st_size > 44


@pytest.mark.espnet
def test_an_export_holds_no_pickle_and_no_place_of_this_machine(experiment: Path, exported: Path) -> None:
    files = sorted(str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file())
    expected = ["codec/codec.safetensors", "codec/codec_info.yaml", "config.yaml", "decode/decode_parallel.yaml"]
    assert files == [*expected, EXPORTED]
    for name, text in texts_in(exported).items():
        assert "/" not in text.replace("</", "").replace("/>", ""), name
    assert not any(zipfile.is_zipfile(path) for path in exported.rglob("*"))
    assert read_codec_info(exported / "codec").fingerprint == read_codec_info(experiment / "codec").fingerprint
    before, after = (yaml.safe_load((exp / "config.yaml").read_text()) for exp in (experiment, exported))
    assert {key: after[key] for key in ("token_list", "optim_conf", "codec_info")}.items() <= before.items()


@pytest.mark.espnet
def test_the_commands_of_a_corpus_take_an_export(
    corpus: Path, experiment: Path, exported: Path, tmp_path: Path
) -> None:
    from espnet_ext.bin import codec_lm_inference

    for name, exp in (("here", experiment), ("there", exported)):
        line = ["--exp", str(exp), "--data_dir", str(corpus / "dev"), "--output_dir", str(tmp_path / name)]
        codec_lm_inference.main([*line, "--decoding", "local_maskgit"])
    assert (tmp_path / "here" / "codes.ark").read_bytes() == (tmp_path / "there" / "codes.ark").read_bytes()


@pytest.mark.espnet
@pytest.mark.parametrize("option", ["init_from", "init_param"])
def test_a_training_can_begin_with_an_export(corpus: Path, exported: Path, tmp_path: Path, option: str) -> None:
    from espnet_ext.tasks.codec_lm import CodecLMTask

    conf = tmp_path / "train.yaml"
    conf.write_text("best_model_criterion: [[valid, loss, min]]\nkeep_nbest_models: 1\n")
    more = ["--config", str(conf), "--frame_stacking_factor", "2", "--optim_conf", "lr=0.0"]
    given = exported if option == "init_from" else exported / EXPORTED
    more += ["--trust", "true"] if option == "init_param" else []
    CodecLMTask.main(cmd=command(corpus, tmp_path / "model", *more, f"--{option}", str(given)))
    before, after = read_weights(exported / EXPORTED), read_weights(tmp_path / "model" / AVERAGE)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.espnet
def test_both_kinds_of_weights_are_refused_and_so_is_a_directory_that_is_there(
    experiment: Path, exported: Path, tmp_path: Path
) -> None:
    from espnet_ext.bin import export, say

    both = tmp_path / "both"
    shutil.copytree(exported, both)
    shutil.copy(experiment / AVERAGE, both)
    told = f"{both} must hold {AVERAGE} or {EXPORTED}, got both"
    assert told in one_error(say.main, both, "ab", "-o", tmp_path / "a.wav")
    say.main([str(both), "ab", "-o", str(tmp_path / "a.wav"), "--model_file", EXPORTED])
    line = one_error(export.main, "--exp", experiment, "--output_dir", both)
    assert line == f"error: output_dir must be a new directory, got {both}, which is there"


@pytest.mark.espnet
def test_an_export_is_decoded_as_the_recipe_of_its_experiment_says(experiment: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import export
    from espnet_ext.inference import Speaker

    exp, conf = tmp_path / "recipe" / "exp" / "model", tmp_path / "recipe" / "conf"
    shutil.copytree(experiment, exp)
    shutil.rmtree(exp / "decode", ignore_errors=True)
    conf.mkdir()
    for name in ("local_ar", "parallel"):
        (conf / f"decode_{name}.yaml").write_text(f"decoding: {name}\nmaxlenratio: 1.25\n")
    export.main(["--exp", str(exp), "--output_dir", str(tmp_path / "export")])
    here, there = Speaker.from_experiment(exp), Speaker.from_experiment(tmp_path / "export")
    for decoding in (None, "parallel"):
        how = {} if decoding is None else {"decoding": decoding}
        expected, said = here("ab", **how), there("ab", **how)
        assert said.options == expected.options and said.options.maxlenratio == 1.25
        assert np.array_equal(expected.codes, said.codes)


@pytest.mark.espnet
def test_an_export_can_be_exported(exported: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import export

    export.main(["--exp", str(exported), "--output_dir", str(tmp_path / "again")])
    for path in exported.rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(exported)).read_bytes() == path.read_bytes()


@pytest.mark.espnet
def test_an_export_that_was_changed_or_cut_is_one_line(exported: Path, tmp_path: Path) -> None:
    """Each byte of the file counts: the format has no checksum of its own, and a flipped bit would be decoded."""
    content, path, chance = (exported / EXPORTED).read_bytes(), tmp_path / EXPORTED, random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    expected = load_file(exported / EXPORTED)
    for number in range(500):
        changed = bytearray(content)
        place = chance.randrange(8 if number % 5 == 0 else header if number % 2 else len(content))
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed[: chance.randrange(len(content))] if number % 10 == 9 else changed)
        state, told = {}, ""
        try:
            state = read_weights(path)
        except UserError as error:  # all else fails the test
            told = str(error)
        # what is read nevertheless differs in nothing that is used, such as the metadata's other names
        assert (str(path) in told and told.isprintable()) if told else state.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items()), place


def test_what_no_experiment_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(3, dtype=torch.float8_e4m3fn)}, path)
    with pytest.raises(UserError, match=r"must hold tensors of float64, .*, got torch.float8_e4m3fn in 'a'"):
        read_weights(path)
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=f"model_file {path} cannot be read: SafetensorError .*[Hh]eader"):
        read_weights(path)
    for value, told in (
        (3, "int"),
        (np.array(["a"]), "<U1"),
        (torch.zeros(2, dtype=torch.complex64), "torch.complex64"),
    ):
        with pytest.raises(UserError, match=rf"c.pth must hold tensors of .* to be exported, got {told} in 'a'"):
            write_tensors(path, {"a": value}, Path("c.pth"))


def test_tied_and_small_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    table = torch.randn(4, 3)
    tensors = {"a": table, "b": table, "rows": table[1:], "turned": table.T, "none": torch.zeros(0, 3)}
    tensors |= {"half": table.bfloat16(), "packed": torch.arange(-3, 4, dtype=torch.int8), "one": torch.tensor(True)}
    write_tensors(tmp_path / "a.safetensors", tensors, tmp_path)
    back = read_weights(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    assert all(back[name].dtype == one.dtype and torch.equal(back[name], one) for name, one in tensors.items())


@pytest.mark.parametrize(
    "text",
    [
        *("/home/me/x", "~/x", "a=/x/y", "file:///x", "../x", "config=./x.yaml", "Chosen below /tmp/x.", "[/a/b]"),
        *("pc:/home/me", "a;/home/me", "{/home/me}", "a|/home/me", "a>/home/me", "~me/x", "//server/home"),
    ],
)
def test_a_place_in_a_text_is_left_out(text: str) -> None:
    assert without_paths({"a": [text, "kyutai/mimi", 3, "https://a.org/x", "</s>"], text: 1}) == {
        "a": [None, "kyutai/mimi", 3, "https://a.org/x", "</s>"]
    }


@pytest.mark.espnet
@pytest.mark.parametrize("name", ["bpe.model", "decode/decode_parallel.yaml", "config.yaml"])
def test_an_export_takes_no_file_along_that_somebody_else_has_named(
    experiment: Path, tmp_path: Path, name: str
) -> None:
    from espnet_ext.sharing.export import export

    private = tmp_path / "private"
    private.write_text("token: mine\n")
    exp = shutil.copytree(experiment, tmp_path / "exp")
    (exp / "decode").mkdir()
    model = str(private) if name == "config.yaml" else "x" if name == "bpe.model" else None
    content = yaml.safe_load((exp / "config.yaml").read_text())
    (exp / "config.yaml").write_text(yaml.safe_dump({**content, "bpemodel": model}))
    if name != "config.yaml":
        (exp / name).symlink_to(private)
    with pytest.raises(UserError, match="SentencePiece|decode_parallel.yaml"):
        export(exp, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


# --- codecs and semantic tokenizers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_an_exported_codec_is_the_same_codec(name: str, tmp_path: Path) -> None:
    codec = tiny_codec(name)
    info = save_codec(codec, name, tmp_path / "codec", origin={"checkpoint": "/home/me/x", "seed": 0})
    codec_files.export(tmp_path / "codec", tmp_path / "shared")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["codec.safetensors", "codec_info.yaml"]
    found = read_codec_info(tmp_path / "shared")
    assert (found.fingerprint, found.origin) == (info.fingerprint, {"checkpoint": None, "seed": 0})
    loaded = load_codec(tmp_path / "shared")
    wav = torch.from_numpy(voice(0.4, 120, 0, codec.spec.sample_rate_hz))
    codes = codec.encode_utterance(wav)
    assert torch.equal(codes, loaded.encode_utterance(wav))
    assert torch.equal(codec.decode_utterance(codes), loaded.decode_utterance(codes))


def test_an_exported_codec_goes_where_codecs_go(tmp_path: Path) -> None:
    """Beside codes, into experiments: the copy is vouched for as the export is; the original is left as it is."""
    save_codec(tiny_codec("world_vq"), "world_vq", tmp_path / "codec", origin={})
    codec_files.export(tmp_path / "codec", tmp_path / "shared")
    copy_codec(tmp_path / "shared", tmp_path / "copy")
    assert read_codec_info(tmp_path / "copy").fits() and load_codec(tmp_path / "copy")
    assert (tmp_path / "copy" / "codec.safetensors").is_file()
    copy_codec(tmp_path / "shared", tmp_path / "codec")
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == ["codec.npz", "codec_info.yaml"]
    weights = tmp_path / "copy" / "codec.safetensors"
    for place in (9, 200, -1):
        content = bytearray((tmp_path / "shared" / weights.name).read_bytes())
        content[place] ^= 1
        weights.write_bytes(content)
        with pytest.raises(UserError, match=f"of codec file {weights} must be .*, or the file is damaged"):
            load_codec(tmp_path / "copy")


@pytest.mark.parametrize("damage", ["gone", "flat", "more", "int64"])
def test_a_codec_of_somebody_else_that_is_none_is_one_line(damage: str, tmp_path: Path) -> None:
    """Its description vouches for it, as that of any codec does: what is in it may be anything."""
    info = save_codec(tiny_codec("world_vq"), "world_vq", tmp_path, origin={})
    weights, content = tmp_path / "codec.safetensors", read_arrays(tmp_path / "codec.npz", "codec file")
    for one, array in content.items():
        other = {"flat": array.reshape(-1, 1, 1), "more": np.concatenate([array, array])}
        changed = {**content, one: other.get(damage, array.astype("int64"))}
        if damage == "gone":
            del changed[one]
        write_tensors(weights, changed, tmp_path)
        codec_files.write(replace(info, checkpoint=weights, exported=content_hash(weights)), tmp_path / INFO_NAME)
        if (one, damage) != ("band_widths", "int64"):  # which they are
            with pytest.raises(UserError, match=str(tmp_path)) as caught:
                load_codec(tmp_path)
            assert str(caught.value).isprintable()


def test_a_codec_that_reads_its_own_files_alone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(cls: type[Codec], checkpoint: Path) -> Codec:
        np.load(checkpoint)  # as a package may that knows nothing of exports
        raise AssertionError

    save_codec(tiny_codec("world_vq"), "world_vq", tmp_path / "codec", origin={})
    monkeypatch.setattr(codecs["world_vq"], "load", classmethod(load))
    with pytest.raises(UserError, match="codec world_vq must read its weights with read_arrays to be exported"):
        codec_files.export(tmp_path / "codec", tmp_path / "shared")


@pytest.mark.espnet
def test_codec_fit_takes_the_weights_of_an_export(tmp_path: Path) -> None:
    from espnet_ext.bin import codec_fit

    info = save_codec(tiny_codec("encodec"), "encodec", tmp_path / "codec", origin={})
    codec_files.export(tmp_path / "codec", tmp_path / "shared")
    line = ["--codec", "encodec", "--codec_conf", f"checkpoint={tmp_path / 'shared' / 'codec.safetensors'}"]
    books = info.spec.num_codebooks
    codec_fit.main([*line, "--codec_conf", f"bandwidth_kbps={0.75 * books:g}", "--out", str(tmp_path / "again")])
    expected, found = (read_arrays(tmp_path / place / "codec.npz", "codec file") for place in ("codec", "again"))
    assert all(np.array_equal(array, found[name]) for name, array in expected.items())


@pytest.mark.parametrize("name", EVERY_TOKENIZER)
def test_an_exported_semantic_tokenizer_is_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(name)
    save_semantic(tokenizer, name, tmp_path / "semantic", deduplicate=True, origin={})
    semantic_files.export(tmp_path / "semantic", tmp_path / "shared")
    wav = torch.from_numpy(voice(0.7, 120, 0))
    assert torch.equal(tokenizer.encode(wav), load_semantic(tmp_path / "shared").encode(wav))
    assert read_semantic_info(tmp_path / "shared").deduplicate


@pytest.mark.espnet
def test_an_exported_gpst_says_the_same_bit_for_bit(token_corpus: Path, gpst_experiment: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import export, gpst_inference

    export.main(["--exp", str(gpst_experiment), "--output_dir", str(tmp_path / "export")])
    assert (tmp_path / "export" / "semantic" / "semantic.safetensors").is_file()
    for name, exp in (("here", gpst_experiment), ("there", tmp_path / "export")):
        line = ["--exp", str(exp), "--data_dir", str(token_corpus / "dev"), "--output_dir", str(tmp_path / name)]
        gpst_inference.main([*line, "--mode", "speaker_transfer", "--decoding", "local_ar", "--prompt_sec", "0.6"])
    for file in ("codes.ark", "wav/s-0.wav", "wav/s-1.wav"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
