"""The wrong-text gain in trainings of ESPnet: reported, drawn, a criterion for epochs, and measured afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from fabricated import command, one_error
from fabricated_tokens import gpst_command

pytest.importorskip("espnet2")
from espnet_ext.bin import text_gain
from espnet_ext.inference.experiment import Experiment
from espnet_ext.model.core_lm import TextCoreLM
from espnet_ext.model.text_gain import gain_statistics, text_nats
from espnet_ext.scoring.tables.figures import learning_curves
from espnet_ext.scoring.tables.learning_curve import read_learning_curves
from espnet_ext.tasks.codec_lm import CodecLMTask

pytestmark = pytest.mark.espnet
CRITERION = [["valid", "gain_ar", "max"], ["valid", "gain_ar_frame1", "max"]]
GAINS = {f"gain_{head}{frame}" for head in ("parallel", "ar", "maskgit") for frame in ("", "_frame0", "_frame1")}


def options(path, criterion, **more):
    path.write_text(
        yaml.safe_dump({"best_model_criterion": criterion, "keep_nbest_models": 1, "frame_stacking_factor": 2, **more})
    )
    return ["--config", str(path)]


@pytest.fixture(scope="module")
def chosen(corpus, tmp_path_factory):
    """Two epochs at S = 2, of which the better one by the gain is kept; with pictures and TensorBoard."""
    folder = tmp_path_factory.mktemp("gain")
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    line = command(corpus, folder / "model", *options(folder / "train.yaml", CRITERION), "--max_epoch", "2")
    CodecLMTask.main(cmd=[*line, "--use_matplotlib", "true", "--use_tensorboard", "true"])
    return folder / "model"


def test_the_gain_of_every_head_and_frame_reaches_reporter_tensorboard_and_pictures(chosen, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = read_learning_curves(chosen)
    assert curves["valid"].keys() >= GAINS and not GAINS & curves["train"].keys()
    assert all(len(curves["valid"][name]) == 2 for name in GAINS)
    events = EventAccumulator(str(chosen / "tensorboard" / "valid"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= GAINS
    assert all((chosen / "images" / f"{name}.png").is_file() for name in GAINS)
    learning_curves(curves, "title", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_epochs_are_chosen_by_the_gain_and_the_best_is_what_is_loaded(chosen):
    gains = read_learning_curves(chosen)["valid"]["gain_ar"]
    best = f"{max(gains, key=gains.__getitem__)}epoch.pth"
    assert (chosen / "valid.gain_ar.best.pth").resolve().name == best
    experiment = Experiment.read(chosen)
    assert experiment.model_file == "valid.gain_ar.ave.pth"
    wanted = torch.load(chosen / best, weights_only=True)["corelm.embedding.table.weight"]
    assert torch.equal(experiment.load_corelm().embedding.table.weight, wanted)


def test_the_command_measures_what_the_validation_of_that_epoch_did(chosen, corpus, tmp_path, capsys):
    """Both utterances of dev make one batch in either."""
    line = ["--exp", chosen, "--model_file", "2epoch.pth", "--data_dir", corpus / "dev", "--out", tmp_path / "g.json"]
    text_gain.main([str(word) for word in line])
    shown, written = capsys.readouterr().out, json.loads((tmp_path / "g.json").read_text())
    valid = {name: curve[2] for name, curve in read_learning_curves(chosen)["valid"].items()}
    for name in ("parallel", "ar"):  # the masks of the other one go with the order of the utterances
        head = written["heads"][name]
        assert head["right"] == pytest.approx(valid[f"loss_{name}"], abs=1e-5)
        assert head["gain"] == pytest.approx(valid[f"gain_{name}"], abs=1e-5)
        for frame, found in enumerate(head["frames"]):
            assert found["gain"] == pytest.approx(valid[f"gain_{name}_frame{frame}"], abs=1e-5)
    assert shown.splitlines()[0] == "|head|frame|NLL right|NLL wrong|gain|codes|" and len(shown.splitlines()) == 2 + 9


def test_the_command_refuses_data_that_cannot_have_a_gain(chosen, corpus, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("codes.scp", "codec_info.yaml", "codec.npz"):
        (data / name).write_bytes((corpus / "dev" / name).read_bytes())
    (data / "text").write_text("s-0 abc\n")
    line = ["--exp", chosen, "--data_dir", data]
    assert "data_dir must hold text of every utterance, got" in one_error(text_gain.main, *line)
    (data / "text").write_text("s-0 abc\ns-1 abc\n")
    assert "data_dir must hold utterances with different texts" in one_error(text_gain.main, *line)
    assert "batch_size must be at least 2, got 1" in one_error(text_gain.main, *line, "--batch_size", "1")


def test_a_batch_of_one_utterance_has_no_share_in_the_epochs_gain(corpus, tmp_path, monkeypatch):
    """Of the first batch of validation, which has one utterance, nothing may reach the mean, and no zero either."""
    seen, forward = [], TextCoreLM.forward

    def watched(self, **batch):
        if not self.training:
            seen.append(batch)
        return forward(self, **batch)

    monkeypatch.setattr(TextCoreLM, "forward", watched)
    line = command(corpus, tmp_path, *options(tmp_path / "train.yaml", [["valid", "loss", "min"]]))
    for name in ("text", "codes.scp", "prompt.scp", "shape"):  # validation with the six utterances of training
        line = [word.replace(f"{corpus}/dev/{name}", f"{corpus}/train/{name}") for word in line]
    CodecLMTask.main(cmd=[*line, "--valid_batch_type", "numel", "--valid_batch_bins", "300"])
    assert [len(batch["text"]) for batch in seen] == [1, 5, 5]
    model, valid = Experiment.read(tmp_path).load_corelm().eval(), read_learning_curves(tmp_path)["valid"]
    with torch.no_grad():
        expected = gain_statistics(text_nats(model, seen[1], model(**seen[1])))
    assert expected.keys() == GAINS
    assert {name: valid[name][1] for name in GAINS} == pytest.approx({name: float(expected[name]) for name in GAINS})


@pytest.mark.parametrize(
    ("criterion", "more", "message"),
    [
        (["valid", "gain_maskgit", "min"], {}, r"a gain must be valid, one of \['gain_parallel', .*got .*, min"),
        (["train", "gain_ar", "max"], {}, "a gain must be valid, .*got train, gain_ar, max"),
        (["valid", "gain_semantic", "max"], {}, "one of .*'gain_ar_frame1'.*, got valid, gain_semantic, max"),
        (["valid", "gain_ar_frame2", "max"], {}, "got valid, gain_ar_frame2, max"),
        (["valid", "gain_ar", "max"], {"valid_batch_size": 1}, "valid_batch_size must be at least 2 .*gain_ar, got 1"),
        (["valid", "gain_ar", "max"], {"batch_size": 1}, "valid_batch_size must be at least 2 .*gain_ar, got 1"),
    ],
)
def test_a_criterion_that_no_epoch_could_meet_is_refused_before_training(corpus, tmp_path, criterion, more, message):
    line = command(corpus, tmp_path / "model", *options(tmp_path / "train.yaml", [criterion]))
    for name, value in more.items():
        line += [f"--{name}", str(value)]
    with pytest.raises(ValueError, match=message):
        CodecLMTask.main(cmd=line)
    assert not (tmp_path / "model").exists()


def test_gpst_has_gains_by_its_units_in_training_and_afterwards(token_corpus, gpst_experiment, capsys):
    valid = read_learning_curves(gpst_experiment)["valid"]
    assert valid.keys() >= GAINS
    text_gain.main(["--exp", str(gpst_experiment), "--data_dir", str(token_corpus / "dev")])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    found = next(row for row in rows if row[:2] == ["ar", "all"])
    assert float(found[4]) == pytest.approx(valid["gain_ar"][1], abs=1e-3)
    line = gpst_command(token_corpus, gpst_experiment, "--corelm_conf", "parallel_heads=false")
    line += options(gpst_experiment.parent / "gain.yaml", [["valid", "gain_parallel", "max"]])
    with pytest.raises(ValueError, match="a gain must be valid, one of .*, got valid, gain_parallel, max"):
        CodecLMTask.main(cmd=line)


def test_a_mean_without_a_value_is_left_out_by_espnets_reporter():
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as sub:
        for gain, weight in ((0.5, 10.0), (np.nan, 1000.0), (0.2, 20.0)):
            sub.register({"gain_ar": torch.tensor([gain])}, torch.tensor([weight]))
            sub.next()
    assert reporter.get_value("valid", "gain_ar") == pytest.approx(0.3)
