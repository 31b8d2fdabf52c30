"""The ESPnet side on a fabricated corpus: options, training, checkpoints, resuming, decoding."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fabricated import command, tone

pytest.importorskip("espnet2")
from espnet_ext.bin import codec_lm_inference, say
from espnet_ext.data.ark import read_codes
from espnet_ext.decoding import strategies
from espnet_ext.errors import UserError
from espnet_ext.inference import CodecLM, DecodeOptions
from espnet_ext.model.build import complete_primary_conf
from espnet_ext.model.primary.annealed_prior import InferenceRules
from espnet_ext.storage.checkpoint import atomic_saves, averaged_model_file, load_strictly
from espnet_ext.tasks.codec_lm import CodecLMTask
from espnet_ext.tokenizers.codec import copy_codec, create_codec, save_codec

pytestmark = pytest.mark.espnet
MODEL_FILE = "valid.loss.ave.pth"


def test_the_options_of_several_local_transformers_are_given_by_name_and_completed_in_config_yaml(experiment):
    config = yaml.safe_load((experiment / "config.yaml").read_text())
    assert config["local"] == ["ar", "maskgit"]
    common = {"width": 16, "layers": 1, "heads": 4, "dropout": 0.0, "residual": False}
    assert config["local_conf"] == {"ar": common, "maskgit": {**common, "mask": "slots", "weights": "own"}}


def test_the_options_of_the_attention_prior_are_completed_in_config_yaml(experiment):
    conf = yaml.safe_load((experiment / "config.yaml").read_text())["primary_conf"]
    assert conf["prior"] == "path"
    assert conf["prior_conf"] == {"spread": 1.5, "moves": False}


def test_rules_of_the_attention_prior_are_completed_and_those_of_an_older_config_yaml_are_none():
    older = {"prior": "annealed", "prior_conf": {"ahead": 7}}
    conf = complete_primary_conf("cross_attention", older)["prior_conf"]
    assert (conf["ahead"], conf["rules"]) == (7, asdict(InferenceRules()))
    older["prior_conf"]["rules"] = {"end_guard": True}
    rules = complete_primary_conf("cross_attention", older)["prior_conf"]["rules"]
    assert rules == {**asdict(InferenceRules()), "end_guard": True}


def test_the_annealed_prior_counts_steps_of_the_optimizer_also_when_it_is_resumed(corpus, tmp_path):
    """It counted batches, of which `accum_grad` make a step; the third batch of an epoch makes none."""
    more = ["--primary_conf", "prior=annealed", "--primary_conf", "prior_conf.rules.short_text=5"]
    more += ["--accum_grad", "2", "--batch_size", "2", "--resume", "true"]
    for epochs in (1, 2):
        CodecLMTask.main(cmd=command(corpus, tmp_path, *more, "--max_epoch", str(epochs)))
        state = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
        steps = {int(parameter["step"]) for parameter in state["optimizers"][0]["state"].values()}
        assert int(state["model"]["corelm.primary.prior.batches"]) == max(steps) == epochs
    conf = yaml.safe_load((tmp_path / "config.yaml").read_text())["primary_conf"]["prior_conf"]
    assert conf["rules"] == {**asdict(InferenceRules()), "short_text": 5}


def test_local_none_trains_the_parallel_heads_alone(corpus, tmp_path):
    line = [word for word in command(corpus, tmp_path, "--local", "none") if not word.endswith("width=16")]
    args = CodecLMTask.get_parser().parse_args([word for word in line if word != "--local_conf"])
    assert list(CodecLMTask.build_model(args).corelm.heads) == ["parallel"]
    assert (args.local, args.local_conf) == ("none", {})


def test_statistics_hold_the_shape_of_every_utterance(corpus, tmp_path):
    CodecLMTask.main(cmd=command(corpus, tmp_path, "--collect_stats", "true"))
    shapes = dict(line.split() for line in (tmp_path / "train" / "codes_shape").read_text().splitlines())
    assert shapes == {f"s-{i}": f"{5 + i},8" for i in range(6)}
    assert (tmp_path / "valid" / "text_shape").is_file()


def test_training_writes_a_checkpoint_with_every_key_and_the_codec(experiment):
    state = torch.load(experiment / MODEL_FILE, weights_only=True)
    assert {"corelm.embedding.table.weight", "corelm.primary.prior.aligner.log_scale"} <= set(state)
    assert (experiment / "codec" / "codec_info.yaml").is_file()


def test_resuming_continues_the_epochs_and_the_optimizer(corpus, experiment, tmp_path):
    output = tmp_path / "model"
    shutil.copytree(experiment, output, symlinks=True)
    first_epoch = (output / "1epoch.pth").stat().st_mtime_ns
    more = ["--resume", "true", "--frame_stacking_factor", "2", "--max_epoch", "2"]
    CodecLMTask.main(cmd=command(corpus, output, *more))
    states = [torch.load(d / "checkpoint.pth", weights_only=False) for d in (experiment, output)]
    assert [state["reporter"]["epoch"] for state in states] == [1, 2]
    steps = [int(state["optimizers"][0]["state"][0]["step"]) for state in states]
    assert steps[1] == 2 * steps[0] > 0
    assert (output / "1epoch.pth").stat().st_mtime_ns == first_epoch, "the first epoch was trained again"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--frame_stacking_factor", "1"], "frame_stacking_factor must be 2 to continue .*, got 1"),
        (["--primary_conf", "layers=2"], "checkpoint.pth must hold weights of this model: .* is missing"),
        (["--cleaner", "none"], "cleaner must be lower to continue"),
        (["--token_list", "{other}"], "token_list must be .* to continue"),
    ],
)
def test_continuing_another_run_is_refused_and_leaves_it_as_it_was(corpus, experiment, tmp_path, more, message):
    other = tmp_path / "tokens.txt"
    other.write_text("\n".join(["<unk>", "<space>", *"dcba", "<eos>"]) + "\n")
    config = (experiment / "config.yaml").read_bytes()
    more = ["--resume", "true", "--frame_stacking_factor", "2", *[word.format(other=other) for word in more]]
    with pytest.raises(ValueError, match=message):
        CodecLMTask.main(cmd=command(corpus, experiment, *more))
    assert (experiment / "config.yaml").read_bytes() == config


def test_a_damaged_checkpoint_is_refused_in_one_line(corpus, experiment, tmp_path):
    output = tmp_path / "model"
    shutil.copytree(experiment, output, symlinks=True)
    (output / "checkpoint.pth").write_bytes((experiment / "checkpoint.pth").read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint .*checkpoint.pth cannot be read"):
        CodecLMTask.main(cmd=command(corpus, output, "--resume", "true", "--frame_stacking_factor", "2"))


def damage(directory, what):
    """Break one file of a data directory."""
    if what == "text lacks an utterance":
        lines = (directory / "text").read_text().splitlines(keepends=True)
        (directory / "text").write_text("".join(lines[:-1]))
    elif what == "ark is missing":
        (directory / "codes.ark").unlink()
    elif what == "a command":
        lines = (directory / "codes.scp").read_text().splitlines(keepends=True)
        (directory / "codes.scp").write_text(
            "".join(lines[:-1]) + f"s-5 {directory}/codes.ark:5; touch {directory}/ran |\n"
        )
    elif what == "ark is cut":
        (directory / "codes.ark").write_bytes((directory / "codes.ark").read_bytes()[:50])
    else:
        (directory / "codec_info.yaml").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("text lacks an utterance", r"text must hold every utterance of .*: no s-5 \(1 such\)"),
        ("ark is missing", "archive not found: .*codes.ark"),
        (
            "ark is cut",
            "codes.scp:1: must be numbers of .*codes.ark at byte 4, got 40 numbers promised, more than there",
        ),
        ("a command", r"codes.scp:6: must be ARCHIVE:OFFSET, got '.*/codes.ark:5; touch .* \|'"),
        ("codec_info is missing", "codec_info not found"),
    ],
)
def test_incomplete_data_are_refused_before_training(corpus, tmp_path, what, message):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    for scp in copy.glob("*/*.scp"):
        scp.write_text(scp.read_text().replace(str(corpus), str(copy)))
    damage(copy / "train", what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CodecLMTask.main(cmd=command(copy, tmp_path / "exp"))
    assert not (tmp_path / "exp").exists() and not (copy / "train" / "ran").exists()


def test_tokens_outside_of_the_list_are_reported_with_counts(corpus, tmp_path, caplog):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(["<unk>", "<space>", *"abc", "<eos>"]) + "\n")
    CodecLMTask.main(cmd=command(corpus, tmp_path / "s", "--collect_stats", "true", "--token_list", str(tokens)))
    said = [record.getMessage() for record in caplog.records if "outside of the token list" in record.getMessage()]
    assert any("train/text" in line and "'d' (" in line for line in said)


def test_codes_of_another_codec_are_refused(corpus, tmp_path):
    other = create_codec("world_vq", [tone(0.8)], seed=1, conf={"codebook_size": 8})
    save_codec(other, "world_vq", tmp_path / "other", origin={})
    line = command(corpus, tmp_path / "exp")
    line[line.index("--codec_info") + 1] = str(tmp_path / "other" / "codec_info.yaml")
    with pytest.raises(ValueError, match="must hold tokens of .*, got codes of codec"):
        CodecLMTask.main(cmd=line)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--corelm_conf", "depth=3"], "corelm_conf of codec_lm must be among .*'depth'"),
        (["--primary_conf", "depth=3"], "primary_conf of cross_attention must be among .*'depth'"),
        (["--local_conf", "depth=3"], r"local_conf must have keys among \['ar', 'maskgit'\], got \['depth'\]"),
        (["--local_conf", "ar.depth=3"], "local_conf of ar must be among .*'depth'"),
        (["--local_conf", "maskgit.causal=true"], "local_conf of maskgit must be among .*'causal'"),
        (["--local", "ar,mask"], r"local must be one of \['ar', 'maskgit'\], got 'mask'"),
        (["--local", "ar,ar"], r"local must be one or several of .*, each once, got \['ar', 'ar'\]"),
        (["--corelm_conf", "conditioning_dropout=1.5"], r"conditioning_dropout must be in \[0, 1\), got 1.5"),
        (["--corelm_conf", "delays=[0,1]"], r"delays must be 8 whole numbers, .* got \[0, 1\]"),
        (["--model_conf", "depth=3"], "model_conf must be among .*'depth'"),
        (["--primary_conf", "width=abc"], "width must be an integer, got 'abc'"),
        (["--prompt_sec", "-1"], "prompt_sec must be at least 0"),
        (["--frame_stacking_factor", "0"], "frame_stacking_factor must be at least 1, got 0"),
        (["--token_list", "nowhere.txt"], "token_list not found: nowhere.txt"),
        (["--codec_info", "nowhere/codec_info.yaml"], "codec_info not found"),
    ],
)
def test_options_that_do_not_exist_are_refused_by_name(corpus, tmp_path, more, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CodecLMTask.main(cmd=command(corpus, tmp_path, "--dry_run", "true", *more))


@pytest.mark.parametrize("decoding", list(strategies))
def test_inference_writes_everything_it_promises(corpus, experiment, tmp_path, decoding):
    data, text = tmp_path / "data", "s-0 abc\ns-1 a?b\ns-2  \n"
    copy_codec(corpus / "codec", data)
    (data / "text").write_text(text)
    (data / "prompt.scp").write_text((corpus / "dev" / "prompt.scp").read_text())
    line = [
        "--exp",
        str(experiment),
        "--data_dir",
        str(data),
        "--output_dir",
        str(tmp_path / "out"),
        "--decoding",
        decoding,
    ]
    codec_lm_inference.main(line)
    out = tmp_path / "out"
    codes = read_codes(out / "codes.scp", 8)
    assert sorted(codes) == ["s-0", "s-1"]
    assert (out / "skipped").read_text().startswith("s-2\tempty text")
    assert {line.split()[1] for line in (out / "status").read_text().splitlines()} <= {"ok", "no_eos", "skipped"}
    timing = json.loads((out / "timing.json").read_text())
    assert timing["utterances"] == 2 and timing["frames"] == sum(len(codes[utt]) for utt in codes)
    assert timing["decoding"] == decoding and timing["rtf"] > 0
    assert timing["codes_per_pass"] * timing["local_passes_per_step"] == pytest.approx(16)  # M
    assert len(list((out / "wav").glob("*.wav"))) == 2


def test_a_batch_is_its_utterances_alone(corpus, experiment):
    speak = CodecLM.from_experiment(experiment)
    options = DecodeOptions(sampling={"temperature": 1.0}, maxlenratio=4.0)
    prompt = read_codes(corpus / "dev" / "codes.scp", 8)["s-0"]
    together = speak.batch(["abc", "abcd dcba"], [prompt, None], options, ["x", "y"])
    alone = [speak.batch([t], [p], options, [n])[0] for n, t, p in (("x", "abc", prompt), ("y", "abcd dcba", None))]
    for row, single in zip(together, alone, strict=True):
        assert np.array_equal(row.codes, single.codes) and row.has_eos == single.has_eos
        np.testing.assert_allclose(row.waveform, single.waveform, atol=1e-6)


def test_say_writes_one_sentence(corpus, experiment, tmp_path):
    out = tmp_path / "out.wav"
    say.main([str(experiment), "abc", "-o", str(out), "--speaker", "s", "--data_dir", str(corpus / "train")])
    assert out.stat().st_size > 44


def test_an_unknown_speaker_is_refused_with_the_list(corpus, experiment, tmp_path):
    line = [
        str(experiment),
        "abc",
        "-o",
        str(tmp_path / "o.wav"),
        "--speaker",
        "nobody",
        "--data_dir",
        str(corpus / "train"),
    ]
    with pytest.raises(ValueError, match=r"speaker must be one of \['s'\] of .*, got 'nobody'"):
        say.main(line)


@pytest.mark.parametrize("missing", ["config.yaml", MODEL_FILE, "codec/codec_info.yaml", "codec/codec.npz"])
def test_a_half_written_experiment_names_what_it_lacks(experiment, tmp_path, missing):
    broken = tmp_path / "broken"
    shutil.copytree(experiment, broken)
    (broken / missing).unlink()
    with pytest.raises(FileNotFoundError, match=Path(missing).name):
        CodecLM.from_experiment(broken)


@pytest.mark.parametrize("content", ["", "a: [1,", "- 1\n", "frame_stacking_factor: 2\n"])
def test_a_damaged_config_is_refused_in_one_line(experiment, tmp_path, content):
    broken = tmp_path / "broken"
    shutil.copytree(experiment, broken)
    (broken / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="config.yaml must"):
        CodecLM.from_experiment(broken)


def test_the_average_of_the_first_criterion_is_what_is_loaded():
    assert averaged_model_file({"best_model_criterion": [["train", "acc_ar", "max"], ["valid", "loss", "min"]]}) == (
        "train.acc_ar.ave.pth"
    )
    for wrong in (None, [], ["valid"], 3):
        with pytest.raises(ValueError, match="best_model_criterion must be"):
            averaged_model_file({"best_model_criterion": wrong})


def test_a_checkpoint_that_lacks_a_key_or_has_another_shape_is_refused(experiment, tmp_path):
    state = torch.load(experiment / MODEL_FILE, weights_only=True)
    module = torch.nn.Linear(2, 2)
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="bias is missing"):
        load_strictly(module, tmp_path / "a.pth")
    torch.save({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"weight is \(3, 2\), not \(2, 2\)"):
        load_strictly(module, tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes((experiment / MODEL_FILE).read_bytes()[:1000])
    with pytest.raises(ValueError, match="c.pth cannot be read"):
        load_strictly(module, tmp_path / "c.pth")
    assert len(state) > 10


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_names_the_file(tmp_path):
    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("unexpected pos 1 vs 2")

    path = tmp_path / "checkpoint.pth"
    with atomic_saves():
        torch.save({"step": 1}, path)
        with pytest.raises(OSError, match=r"checkpoint.pth cannot be written \(is the disk full\?\): unexpected pos"):
            torch.save({"step": Unwritable()}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_the_same_weights_are_the_same_bytes_whatever_their_temporary_name_was(tmp_path):
    with atomic_saves():
        for name in ("a.pth", "b.pth"):
            torch.save({"weight": torch.arange(3.0)}, tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_unknown_keys_of_a_decode_yaml_are_refused():
    with pytest.raises(ValueError, match=r"inference_config must have keys among .*, got \['temperature'\]"):
        DecodeOptions.from_mapping({"temperature": 1.0})
    with pytest.raises(ValueError, match=r"sampling must have keys among .*, got \['heat'\]"):
        DecodeOptions.from_mapping({"sampling": {"heat": 1.0}})


class Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


RESUMED = ["--resume", "true", "--frame_stacking_factor", "2", "--max_epoch", "2", "--keep_nbest_models", "2"]


@pytest.mark.parametrize("name", ["checkpoint.pth", "1epoch.pth"])
def test_a_checkpoint_that_would_run_code_is_refused_unless_it_is_trusted(corpus, experiment, tmp_path, name):
    """Resuming and averaging read these files; ESPnet unpickles whatever they hold."""
    output = tmp_path / "model"
    shutil.copytree(experiment, output, symlinks=True)
    hostile = torch.load(experiment / name, weights_only=False)
    torch.save({**hostile, "harm": Harm(tmp_path / "ran")}, output / name)
    with pytest.raises(
        UserError, match=f"checkpoint .*{name} must hold tensors and plain values, got posix.mkdir, which"
    ):
        CodecLMTask.main(cmd=command(corpus, output, *RESUMED))
    assert not (tmp_path / "ran").exists()
    if name == "checkpoint.pth":
        with pytest.raises(FileExistsError):  # read twice, its code runs twice
            CodecLMTask.main(cmd=command(corpus, output, *RESUMED, "--trust", "true"))


def test_a_training_resumes_from_its_own_checkpoint(corpus, experiment, tmp_path):
    output = tmp_path / "model"
    shutil.copytree(experiment, output, symlinks=True)
    CodecLMTask.main(cmd=command(corpus, output, *RESUMED))
    assert (output / "2epoch.pth").is_file()
