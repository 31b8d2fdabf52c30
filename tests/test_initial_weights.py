"""A training that begins with another experiment's weights, and weights that tell what kind of model they are of."""

import shutil

import pytest
import torch
import yaml
from conftest import SPEC, tiny_model
from fabricated import command, one_error
from test_gpst import UNITS, tiny_gpst
from test_house import ROOT

from espnet_ext.model.core_lm import GPST
from espnet_ext.tasks.initial import FILE, fit_weights

BASE = {
    "primary_conf": {"width": 16, "layers": 1, "heads": 2, "text_layers": 1, "context_layers": 1},
    "corelm_conf": {"frame_tables": "tied"},
    "local": "none",
    "batch_type": "unsorted",
    "batch_size": 3,
    "max_epoch": 1,
    "best_model_criterion": [["train", "loss", "min"]],
    "keep_nbest_models": 1,
}
LOCAL = dict.fromkeys(("ar", "maskgit"), {"width": 8, "heads": 2, "residual": True})


def trained(corpus, output, more=(), **options):
    """One epoch with the configuration `BASE` and other options."""
    from espnet_ext.tasks.codec_lm import CodecLMTask

    conf = output.parent / "train.yaml"
    conf.write_text(yaml.safe_dump({**BASE, **options}))
    CodecLMTask.main(cmd=command(corpus, output, *more, conf=conf))
    return output


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    """Parallel heads alone at S = 1."""
    return trained(corpus, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def stacked(corpus, base, tmp_path_factory):
    """Behind it S = 2, with residual local transformers; at a learning rate of 0."""
    output = tmp_path_factory.mktemp("stacked") / "model"
    options = {"local": ["ar", "maskgit"], "local_conf": LOCAL, "frame_stacking_factor": 2, "optim_conf": {"lr": 0.0}}
    return trained(corpus, output, ("--init_from", str(base)), **options)


def test_a_training_begins_with_the_other_weights_at_another_stacking_factor(base, stacked):
    before = torch.load(base / "train.loss.ave.pth", weights_only=True)
    after = torch.load(stacked / "1epoch.pth", weights_only=True)
    assert torch.equal(after["corelm.embedding.table.weight"], before["corelm.embedding.table.weight"])
    assert torch.equal(after["corelm.heads.parallel.heads.weight"], before["corelm.heads.parallel.heads.weight"])
    same = [name for name, tensor in before.items() if torch.equal(tensor, after[name])]
    assert len(same) == len(before), "with a learning rate of 0 all that fits stays what it was"
    assert (stacked / FILE).is_file() and "corelm.embedding.mix.weight" in after


def test_an_experiment_that_is_not_there_is_refused_by_name(corpus, tmp_path):
    from espnet_ext.bin.codec_lm_train import main

    arguments = command(corpus, tmp_path / "exp", "--init_from", "nowhere")
    assert "init_from not found: nowhere/config.yaml" in one_error(main, *arguments)


def test_an_experiment_of_another_text_is_refused_by_name(corpus, base, tmp_path):
    from espnet_ext.bin.codec_lm_train import main

    tokens = tmp_path / "tokens.txt"
    tokens.write_text((corpus / "tokens.txt").read_text().replace("<eos>", "e\n<eos>"))
    arguments = command(corpus, tmp_path / "exp", "--init_from", str(base), "--token_list", str(tokens))
    assert f"init_from must be an experiment with the same token_list, got {base}" in one_error(main, *arguments)


def test_an_experiment_whose_weights_are_not_finite_is_refused_by_name(corpus, base, tmp_path):
    from espnet_ext.bin.codec_lm_train import main

    exp, name = tmp_path / "base", "corelm.embedding.table.weight"
    shutil.copytree(base, exp)
    weights = torch.load(exp / "train.loss.ave.pth", weights_only=True)
    weights[name][3, 1] = torch.nan
    (exp / "train.loss.ave.pth").unlink()  # a link to the epoch's
    torch.save(weights, exp / "train.loss.ave.pth")
    arguments = command(corpus, tmp_path / "exp", "--init_from", str(exp))
    message = f"{exp / 'train.loss.ave.pth'} must hold finite weights, got NaN in {name} (1 such)"
    assert message in one_error(main, *arguments)


def test_the_frames_of_a_step_begin_with_the_positions_of_the_one_frame():
    one, two = (tiny_model(stacking=stacking, frame_tables="tied", local_conf=LOCAL).float() for stacking in (1, 2))
    books = SPEC.num_codebooks
    taken = fit_weights(two, one.state_dict(), books)
    before = {name: one.heads[name].position for name in ("ar", "maskgit")}
    maskgit, ar = taken["heads.maskgit.position"], taken["heads.ar.position"]
    assert torch.equal(maskgit, torch.cat((before["maskgit"], before["maskgit"][1:])))
    assert torch.equal(ar[:books], before["ar"]) and torch.equal(ar[books + 1 :], before["ar"][1:])
    # nobody has read the last code of a frame autoregressively where it was the last one of the step
    assert torch.equal(ar[books], two.heads["ar"].position[books])
    assert {name for name, _ in two.named_parameters()} - taken.keys() == {
        "embedding.mix.weight",
        "heads.parallel.frames.weight",
        "heads.parallel.frames.bias",
    }


def test_classifiers_of_the_other_kind_and_facts_of_the_model_are_not_taken():
    plain = tiny_model(local_conf=dict.fromkeys(LOCAL, {"width": 8, "heads": 2})).float()
    residual = tiny_model(local_conf=LOCAL).float()
    for model, other in ((plain, residual), (residual, plain)):
        taken = fit_weights(model, other.state_dict(), SPEC.num_codebooks)
        lacking = {name for name, _ in model.named_parameters()} - taken.keys()
        assert lacking == {f"heads.{name}.heads.{part}" for name in LOCAL for part in ("weight", "bias")}
    joint = [tiny_gpst(stacking=stacking) for stacking in (1, 2)]
    assert "depth" not in fit_weights(joint[1], joint[0].state_dict(), SPEC.num_codebooks)


def test_a_training_that_is_continued_needs_no_other_experiment(corpus, stacked, tmp_path, caplog):
    exp = tmp_path / "model"
    shutil.copytree(stacked, exp)
    options = {"local": ["ar", "maskgit"], "local_conf": LOCAL, "frame_stacking_factor": 2, "max_epoch": 2}
    trained(corpus, exp, ("--init_from", "gone", "--resume", "true"), **options)
    assert (exp / "2epoch.pth").is_file()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("residual", False, "residual of local ar must be true as .* was trained, got false"),
        ("frame_tables", "own", "frame_tables must be tied as .* was trained, got own"),
    ],
)
def test_weights_of_the_other_kind_are_refused_in_words(stacked, tmp_path, part, value, message):
    """Bug in waiting: a residual local transformer has the shapes of one that is not, and would load silently."""
    from espnet_ext.inference import CodecLM

    exp = tmp_path / "exp"
    shutil.copytree(stacked, exp)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    if part == "residual":
        config["local_conf"]["ar"][part] = value
    else:
        config["corelm_conf"][part] = value
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=message):
        CodecLM.from_experiment(exp, "1epoch.pth")


def test_an_experiment_without_residual_local_transformers_is_refused_as_one_with_them(experiment, tmp_path):
    from espnet_ext.inference import CodecLM

    exp = tmp_path / "exp"
    shutil.copytree(experiment, exp)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["local_conf"]["ar"]["residual"] is False and config["corelm_conf"]["frame_tables"] == "own"
    config["local_conf"]["ar"]["residual"] = True
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="residual of local ar must be false as .* was trained, got true"):
        CodecLM.from_experiment(exp)
    del (
        config["local_conf"]["ar"]["residual"],
        config["corelm_conf"]["frame_tables"],
    )  # the config.yaml of an older version
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    CodecLM.from_experiment(exp)


def test_residual_needs_parallel_heads():
    conf = {"width": 16, "heads": 2, "residual": True}
    with pytest.raises(ValueError, match="residual must be false with parallel_heads false, got true for local ar"):
        GPST(SPEC, UNITS, primary_conf={"width": 32, "layers": 1, "heads": 2}, local_conf=conf, parallel_heads=False)


def test_the_mini_configurations_fit_each_other():
    base, mini = (yaml.safe_load((ROOT / f"conf/train_{name}.yaml").read_text()) for name in ("mini_base", "mini"))
    assert mini["corelm_conf"].pop("local_drop") > 0  # there are no local transformers in the base
    for name in ("primary", "primary_conf", "corelm_conf", "prompt_sec"):
        assert base[name] == mini[name], name
    # the base ends with the rate with which its models go on
    assert base["scheduler_conf"]["final_lr_scale"] == 1.0 and base["optim_conf"] == mini["optim_conf"]
