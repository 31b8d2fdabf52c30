"""GPST through ESPnet: options, statistics, training, a complete config.yaml, checkpoints, refusals."""

from __future__ import annotations

import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
import yaml
from fabricated import command
from fabricated_tokens import GPST_SMALL, gpst_command

pytest.importorskip("espnet2")
from espnet_ext.data.ark import codes_writer
from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.model.core_lm import GPST, TextCoreLM
from espnet_ext.storage.checkpoint import load_strictly
from espnet_ext.tasks.codec_lm import CodecLMTask

pytestmark = pytest.mark.espnet
MODEL_FILE = "valid.loss.ave.pth"


def config_of(experiment):
    return yaml.safe_load((experiment / "config.yaml").read_text())


def model_of(experiment):
    return CodecLMTask.build_model(Namespace(**config_of(experiment)))


def test_the_experiment_holds_both_tokenizers_and_a_complete_config(gpst_experiment):
    config = config_of(gpst_experiment)
    assert config["semantic_info"]["tokenizer"] == "mfcc_km" and config["semantic_info"]["deduplicate"] is True
    assert config["semantic_info"]["spec"]["codebook_size"] == 12
    assert config["codec_info"]["codec"] == "world_vq"
    assert config["corelm_conf"]["shared_head"] is True and config["local_conf"]["ar"]["layers"] == 1
    assert (gpst_experiment / "semantic" / "semantic_info.yaml").is_file()
    assert (gpst_experiment / "codec" / "codec_info.yaml").is_file()


def test_the_checkpoint_has_every_key_and_loads_strictly(gpst_experiment, tmp_path):
    model = model_of(gpst_experiment)
    assert isinstance(model.corelm, GPST)
    load_strictly(model, gpst_experiment / MODEL_FILE)
    state = torch.load(gpst_experiment / MODEL_FILE, weights_only=True)
    assert set(state) == set(model.state_dict())
    del state["corelm.unit_heads.parallel.heads.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match="unit_heads.parallel.heads.weight is missing"):
        load_strictly(model, tmp_path / "less.pth")


def test_statistics_hold_units_without_repetitions_and_frames(token_corpus, tmp_path):
    CodecLMTask.main(cmd=gpst_command(token_corpus, tmp_path, "--collect_stats", "true"))
    codes = dict(line.split() for line in (tmp_path / "train" / "codes_shape").read_text().splitlines())
    assert codes == {f"s-{i}": f"{25 + i},8" for i in range(6)}
    units = dict(line.split() for line in (tmp_path / "train" / "semantic_shape").read_text().splitlines())
    assert all(30 < int(count) < 50 + 2 * index for index, count in enumerate(units.values()))


def test_resuming_continues_and_another_tokenizer_is_refused(token_corpus, gpst_experiment, tmp_path):
    output = tmp_path / "model"
    shutil.copytree(gpst_experiment, output, symlinks=True)
    more = ["--resume", "true", "--frame_stacking_factor", "2", "--max_epoch", "2"]
    CodecLMTask.main(cmd=gpst_command(token_corpus, output, *more, "--keep_nbest_models", "2"))
    assert torch.load(output / "checkpoint.pth", weights_only=False)["reporter"]["epoch"] == 2
    epochs = [
        torch.load(output / name, weights_only=True)["corelm.depth"]
        for name in ("2epoch.pth", "valid.loss.ave_2best.pth")
    ]
    assert [depth.tolist() for depth in epochs] == [[8, 2]] * 2, "codebooks and frames are not added up"
    config = config_of(output)
    config["semantic_info"]["fingerprint"] = "0" * 64
    (output / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="semantic_info must be .* to continue"):
        CodecLMTask.main(cmd=gpst_command(token_corpus, output, *more))


def test_languages_come_from_a_table(token_corpus, tmp_path):
    lines = []
    for part, name in (("train", "train"), ("valid", "dev")):
        lines += [f"--{part}_data_path_and_name_and_type", f"{token_corpus / name / 'utt2lang'},language,text"]
    more = ["--corelm_conf", "languages=[en,zh]", "--local", "none", *lines]
    small = [word for word in GPST_SMALL if not word.endswith("width=16")]
    small = [word for word in small if word != "--local_conf"]
    CodecLMTask.main(cmd=gpst_command(token_corpus, tmp_path, *more, small=small))
    assert config_of(tmp_path)["corelm_conf"]["languages"] == ["en", "zh"]
    state = torch.load(tmp_path / "1epoch.pth", weights_only=True)
    assert state["corelm.language_embedding.weight"].shape == (3, 32)


@pytest.mark.parametrize("part", [None, "valid"])
def test_languages_that_no_training_utterance_is_told_are_refused(token_corpus, tmp_path, part):
    """A position that always said "unknown" was trained."""
    more = ["--corelm_conf", "languages=[en,zh]"]
    if part is not None:
        more += [f"--{part}_data_path_and_name_and_type", f"{token_corpus / 'dev' / 'utt2lang'},language,text"]
    with pytest.raises(ValueError, match=r"languages must be left out without data named language, got \['en', 'zh'\]"):
        CodecLMTask.main(cmd=gpst_command(token_corpus, tmp_path, *more))


def test_a_part_without_languages_is_validated_as_unknown(token_corpus, tmp_path):
    more = ["--corelm_conf", "languages=[en,zh]", "--max_epoch", "1"]
    more += ["--train_data_path_and_name_and_type", f"{token_corpus / 'train' / 'utt2lang'},language,text"]
    CodecLMTask.main(cmd=gpst_command(token_corpus, tmp_path, *more))
    assert (tmp_path / "1epoch.pth").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--semantic_info", "none"],
            "semantic_info must be the semantic_info.yaml of the units with corelm gpst, got none",
        ),
        (["--token_list", "tokens.txt"], "token_list must be left out with corelm gpst"),
        (["--crop_sec", "-1"], "crop_sec must be at least 0"),
        (["--join_prompt", "2"], r"join_prompt must be in \[0, 1\], got 2.0"),
        (
            ["--join_prompt", "0.5", "--prompt_sec", "0"],
            "prompt_sec must be at least one codec frame, 0.04 s, with join_prompt 0.5, got 0.0",
        ),
        (["--crop_sec", "0.03"], "crop_sec must be at least one codec frame, 0.04 s, got 0.03"),
        (["--primary", "cross_attention"], "primary must be prefix with corelm gpst"),
        (["--model_conf", "label_smoothing=1.0"], r"label_smoothing must be in .*, got 1.0"),
        (["--corelm_conf", "delays=[0]"], "corelm_conf of gpst must be among"),
    ],
)
def test_options_that_do_not_belong_to_gpst_are_refused(token_corpus, tmp_path, more, message):
    small = [w for w in GPST_SMALL if w not in ("--primary_conf",) and not w.startswith(("width=3", "layers="))]
    with pytest.raises(ValueError, match=message):
        CodecLMTask.main(cmd=gpst_command(token_corpus, tmp_path, *more, small=small))


def test_options_of_gpst_are_refused_by_the_model_that_reads_text(corpus, tmp_path):
    with pytest.raises(ValueError, match="join_prompt must be left out with corelm codec_lm, got 0.5"):
        CodecLMTask.main(cmd=command(corpus, tmp_path, "--join_prompt", "0.5"))


def test_data_without_units_are_refused(token_corpus, tmp_path):
    line = gpst_command(token_corpus, tmp_path)
    line = [word.replace("semantic.scp,semantic", "semantic.scp,other") for word in line]
    with pytest.raises(ValueError, match=r"train_data_path_and_name_and_type must name \['semantic', 'codes'\]"):
        CodecLMTask.main(cmd=line)


def test_units_of_another_tokenizer_are_refused(token_corpus, tmp_path):
    tokens = tmp_path / "tokens"
    shutil.copytree(token_corpus, tokens, symlinks=True)
    info = tokens / "train" / "semantic_info.yaml"
    content = yaml.safe_load(info.read_text())
    content["fingerprint"] = "1" * 64
    info.write_text(yaml.safe_dump(content))
    with pytest.raises(
        ValueError, match="train/semantic.scp must hold tokens of .*, got units of semantic tokenizer 111111111111"
    ):
        CodecLMTask.main(cmd=gpst_command(tokens, tmp_path / "exp"))


def test_codes_in_the_place_of_units_are_refused(token_corpus, tmp_path):
    """A token directory vouches for both tokenizers; codes of a small codebook would pass for units."""
    line = gpst_command(token_corpus, tmp_path)
    line = [word.replace("train/semantic.scp,semantic", "train/codes.scp,semantic") for word in line]
    with pytest.raises(ValueError, match="train/codes.scp must hold tokens of .*, got codes of codec"):
        CodecLMTask.main(cmd=line)


def test_units_and_codes_of_different_lengths_are_refused_with_the_id(token_corpus, tmp_path):
    tokens = tmp_path / "tokens"
    shutil.copytree(token_corpus, tokens, symlinks=True)
    with codes_writer(tmp_path / "longer") as write:
        write("s-0", np.zeros((60, 1), np.int64))
    table = read_scp(tokens / "train" / "semantic.scp")
    write_scp(tokens / "train" / "semantic.scp", table | read_scp(tmp_path / "longer" / "codes.scp"))
    with pytest.raises(
        ValueError, match="of s-0: lengths differ by more than 2 frames of 25 Hz: 60 units .*, 25 codec frames"
    ):
        CodecLMTask.main(cmd=gpst_command(tokens, tmp_path / "exp"))


def test_text_to_semantic_is_a_text_model_of_one_codebook(token_corpus, tmp_path):
    line = ["--output_dir", tmp_path, "--ngpu", "0", "--num_workers", "0", "--use_matplotlib", "false"]
    line += ["--use_tensorboard", "false", "--codec_info", token_corpus / "semantic" / "semantic_info.yaml"]
    line += ["--token_list", token_corpus / "tokens.txt", "--local", "none", "--prompt_sec", "0", "--max_epoch", "1"]
    line += ["--primary_conf", "width=32", "--batch_type", "unsorted", "--batch_size", "3"]
    for part, name in (("train", "train"), ("valid", "dev")):
        line += [f"--{part}_data_path_and_name_and_type", f"{token_corpus / name / 'text'},text,text"]
        line += [f"--{part}_data_path_and_name_and_type", f"{token_corpus / name / 'semantic.scp'},codes,kaldi_ark"]
        line += [f"--{part}_shape_file", token_corpus / name / "shape"]
    CodecLMTask.main(cmd=[str(word) for word in line])
    config = config_of(tmp_path)
    assert config["codec_info"]["tokenizer"] == "mfcc_km"
    assert (tmp_path / "semantic" / "semantic_info.yaml").is_file() and not (tmp_path / "codec").exists()
    model = model_of(tmp_path).corelm
    assert isinstance(model, TextCoreLM) and model.slots == 1 and model.spec.codebook_size == 12
