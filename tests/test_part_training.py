"""Parts that are trained beside a finished experiment, as a task: what stays, what is said, what is refused."""

from __future__ import annotations

import shutil
from argparse import Namespace

import pytest
import torch
import yaml
from fabricated import command, one_error
from test_house import ROOT
from test_initial_weights import trained

from espnet_ext.errors import UserError
from espnet_ext.model.parts import Lookahead

PART = {"parts": {"lookahead": {"steps": 2}}, "train_only": ["lookahead"], "optim_conf": {"lr": 0.01}}
MODEL = {
    "primary_conf": {
        **{"width": 16, "layers": 1, "heads": 2, "text_layers": 1, "context_layers": 1},
        **{"prior": "annealed", "dropout": 0.2},
    },
    "corelm_conf": {"code_corruption": 0.2, "conditioning_dropout": 0.2},
}


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    """A model without parts, whose prior counts steps."""
    return trained(corpus, tmp_path_factory.mktemp("base") / "model", **MODEL)


@pytest.fixture(scope="module")
def beside(corpus, base, tmp_path_factory):
    """Its part."""
    output = tmp_path_factory.mktemp("beside") / "model"
    return trained(corpus, output, ("--init_from", str(base)), **MODEL, **PART)


@pytest.mark.espnet
def test_a_part_that_is_trained_alone_leaves_the_weights_of_the_experiment(base, beside):
    before, after = (torch.load(exp / "train.loss.ave.pth", weights_only=True) for exp in (base, beside))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert int(before["corelm.primary.prior.batches"]) > 0, "facts that a training changes stay as well"
    new = after.keys() - before.keys()
    assert new and all(name.startswith("corelm.parts.lookahead.blocks.") for name in new)
    assert any(bool(after[name].abs().sum() > 0) for name in new if name.endswith("outer.weight")), "it has learned"


@pytest.mark.espnet
def test_a_training_of_parts_says_so_in_its_log_and_its_config(beside, caplog):
    from espnet_ext.inference import CodecLM
    from espnet_ext.tasks.initial import FILE, say_what_begins_anew

    config = yaml.safe_load((beside / "config.yaml").read_text())
    assert config["parts"] == {"lookahead": {"steps": 2, "weight": 1.0}} and config["train_only"] == ["lookahead"]
    model = CodecLM.from_experiment(beside).corelm
    args = Namespace(init_from="base", init_param=[str(beside / FILE)])
    with caplog.at_level("INFO"):
        say_what_begins_anew(args, torch.nn.ModuleDict({"corelm": model}))
    assert "anew: corelm.parts.lookahead.blocks.0.inner.weight" in caplog.text
    stats = torch.load(beside / "checkpoint.pth", weights_only=False)["reporter"]["stats"][1]["train"]
    assert {"loss_lookahead_1", "acc_lookahead_2"} <= stats.keys()


@pytest.mark.espnet
def test_a_training_of_parts_goes_on_where_it_stopped(corpus, base, beside, tmp_path):
    exp = tmp_path / "model"
    shutil.copytree(beside, exp, symlinks=True)
    trained(corpus, exp, ("--resume", "true"), **{**MODEL, **PART, "max_epoch": 2})
    before, after = (torch.load(one, weights_only=True) for one in (beside / "1epoch.pth", exp / "latest.pth"))
    assert (exp / "latest.pth").resolve().name == "2epoch.pth"
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and all(name.startswith("corelm.parts.") for name in changed)


@pytest.mark.espnet
def test_an_experiment_with_parts_is_read_and_decoded(base, beside):
    from espnet_ext.inference import CodecLM

    model = CodecLM.from_experiment(beside).corelm
    assert model.parts.of(Lookahead).steps == 2
    assert not CodecLM.from_experiment(base).corelm.parts


@pytest.mark.espnet
def test_fine_tuning_takes_parts_along_and_adds_those_of_the_configuration(base, beside, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "local")
    from from_experiment import finetuning_conf, open_experiment

    for exp, name, steps in ((beside, "own_finetune", 2), (base, "lookahead", 3)):
        content = yaml.safe_load(finetuning_conf(open_experiment(exp), ROOT / f"conf/train_{name}.yaml"))
        assert content["parts"]["lookahead"]["steps"] == steps and content["primary_conf"]["width"] == 16
    assert "parts" not in yaml.safe_load(finetuning_conf(open_experiment(base), ROOT / "conf/train_own_finetune.yaml"))


@pytest.mark.espnet
def test_parts_of_another_model_are_refused_in_one_line(beside, tmp_path):
    from espnet_ext.inference import CodecLM

    exp = tmp_path / "exp"
    shutil.copytree(beside, exp, symlinks=True)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config["parts"]["lookahead"]["steps"] = 1
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        UserError, match="must hold weights of this model: corelm.parts.lookahead.blocks.1.* is unknown"
    ):
        CodecLM.from_experiment(exp)


@pytest.mark.espnet
def test_parts_alone_need_a_model_that_is_trained(corpus, tmp_path):
    from espnet_ext.bin.codec_lm_train import main

    arguments = command(corpus, tmp_path / "exp", "--parts", "lookahead.steps=2", "--train_only", "lookahead")
    assert "init_from must be given with train_only ['lookahead'], got none" in one_error(main, *arguments)


@pytest.mark.espnet
def test_parts_alone_need_the_same_model(corpus, base, tmp_path):
    from espnet_ext.bin.codec_lm_train import main

    more = ("--parts", "lookahead.steps=2", "--train_only", "lookahead", "--init_from", str(base))
    line = one_error(main, *command(corpus, tmp_path / "exp", *more))
    assert f"init_from must be of the same model with train_only ['lookahead'], got {base} with" in line
