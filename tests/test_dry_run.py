"""`codec_lm_train --dry_run true` against figures computed by hand."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace

import pytest
import torch
from fabricated import command
from fabricated_tokens import gpst_command
from torch import nn

pytest.importorskip("espnet2")
from espnet_ext.model.attention import SelfAttention
from espnet_ext.tasks.codec_lm import CodecLMTask, inputs_of
from espnet_ext.tasks.cost import count_parameters, fused_attention, measure_step, saved_bytes
from espnet_ext.tasks.dry_run import Batch, largest_batch, training_cost

pytestmark = pytest.mark.espnet


def measured(corpus, output, *more):
    CodecLMTask.main(cmd=command(corpus, output, "--dry_run", "true", *more))
    return json.loads((output / "dry_run.json").read_text())


@pytest.fixture(scope="module")
def report(corpus, tmp_path_factory):
    """Two epochs of two batches of three utterances."""
    return measured(corpus, tmp_path_factory.mktemp("dry"), "--max_epoch", "2", "--dry_run_tflops", "0.001")


class Line(nn.Module):
    """The exponential of x w v."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(8, 8))

    def forward(self, x):
        return (x @ self.w @ self.v).exp().sum()[None], {}, torch.ones(1)


def test_what_the_backward_pass_needs_is_counted_once_and_without_the_weights():
    model, x = Line(), torch.ones(2, 4)
    with saved_bytes(model) as saved:
        model(x)[0].backward()
    assert sum(saved.values()) == 4 * (2 * 4 + 2 * 8 + 2 * 8)  # x, x w, and the exponential


def test_attention_matrices_are_not_kept_as_they_are_not_on_a_gpu():
    attention, x = SelfAttention(width=8, heads=2, dropout=0.5), torch.ones(1, 128, 8)
    matrix = 4 * 2 * 128 * 128
    with saved_bytes(attention) as as_on_cpu:
        attention(x, None, None).sum().backward()
    with fused_attention(attention), saved_bytes(attention) as fused:
        attention(x, None, None).sum().backward()
    assert sum(fused.values()) < matrix < sum(as_on_cpu.values())
    assert attention.dropout == 0.5


def test_a_step_of_a_known_model_costs_what_it_should():
    model = Line()
    optimizer = torch.optim.AdamW(model.parameters())
    step = measure_step(model, optimizer, {"x": torch.ones(2, 4)}, 1.0, torch.autocast("cpu", enabled=False))
    # multiply and add; forward, the gradients of the weights, and that of x w
    assert step.flops == 2 * (2 * (2 * 4 * 8) + 3 * (2 * 8 * 8))
    assert step.memory["weights"] == step.memory["gradients"] == 4 * (32 + 64)
    assert step.memory["optimizer"] == 2 * 4 * (32 + 64) + 2 * 4  # two moments and the step of each
    assert set(step.seconds) == {"forward", "backward", "optimizer"} and min(step.seconds.values()) > 0


def test_parameters_are_counted_by_part_and_each_once(corpus, tmp_path):
    model = CodecLMTask.build_model(CodecLMTask.get_parser().parse_args(command(corpus, tmp_path)))
    counts = count_parameters(model)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    parts = {"embedding": model.corelm.embedding, "primary.decoder": model.corelm.primary.decoder}
    for name, part in parts.items():
        assert counts[name] == sum(parameter.numel() for parameter in part.parameters())
    assert {"primary.text_encoder", "primary.context_encoder", "heads.parallel", "heads.ar", "heads.maskgit"} <= set(
        counts
    )


def test_the_largest_batch_is_the_one_with_most_padded_frames_and_tokens(corpus, tmp_path):
    args = CodecLMTask.get_parser().parse_args(command(corpus, tmp_path, "--dry_run_utterances", "2"))
    batch = largest_batch(CodecLMTask, args, inputs_of(args))
    assert batch.tensors["codes_lengths"].tolist() == [10, 9], "the longest two of s-3, s-4, s-5"
    assert (batch.utterances, batch.batches) == (3, 2)
    assert batch.mean_to_largest == pytest.approx((3 * 7 + 3 * 10) / 2 / (3 * 10))


def test_the_report_holds_what_one_step_and_all_of_them_cost(report):
    assert report["measured_batch"] | {"source": ""} == {
        "source": "",
        "utterances": 3,
        "of_utterances": 3,
        "scaled_linearly_by": 1.0,
        "frames": 8 + 9 + 10,
        "longest_frames": 10,
        "steps": 9 + 10 + 11,
        "tokens": 7 + 8 + 9,
        "prompt_frames": report["measured_batch"]["prompt_frames"],
        "codes": 8 * (8 + 9 + 10),
    }
    memory, training = report["memory_bytes"], report["training"]
    assert memory["weights"] >= memory["gradients"] == 4 * report["parameters"]["total"]
    assert memory["saved_for_backward"] > 0
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    assert (training["epochs"], training["batches_per_epoch"]) == (2, 2)
    assert training["hours_at_most"] == pytest.approx(4 * sum(report["measured_seconds"].values()) / 3600)
    assert training["hours_at_assumed_tflops_at_most"] == pytest.approx(4 * report["batch"]["flops"] / 1e9 / 3600)


def test_a_dry_run_writes_its_report_and_leaves_an_experiment_as_it_was(corpus, experiment, tmp_path):
    output = tmp_path / "model"
    shutil.copytree(experiment, output, symlinks=True)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    more = ["--frame_stacking_factor", "2", "--resume", "true"]
    assert measured(corpus, output, *more)["measured_batch"]["steps"] == 5 + 5 + 6  # with the frame of EOS, by twos
    after = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert after.pop(output / "dry_run.json")
    assert after == before


def test_a_part_of_a_random_batch_scales_to_all_of_it(corpus, tmp_path):
    more = ["--dry_run_shape", "4,20,7,10", "--prompt_sec", "0.1", "--local", "ar,maskgit"]
    whole = measured(corpus, tmp_path / "whole", *more)
    part = measured(corpus, tmp_path / "part", *more, "--dry_run_utterances", "1")
    assert part["measured_batch"]["scaled_linearly_by"] == 4
    assert part["batch"]["flops"] == whole["batch"]["flops"] > 0
    saved = [content["memory_bytes"]["saved_for_backward"] for content in (part, whole)]
    assert saved[0] == pytest.approx(saved[1], rel=0.1)
    seconds = part["measured_seconds"]
    expected = 4 * (seconds["forward"] + seconds["backward"]) + seconds["optimizer"]
    assert part["batch"]["seconds"] == pytest.approx(expected)
    assert part["training"]["batches_per_epoch"] == 10


def measured_gpst(token_corpus, output, *more):
    CodecLMTask.main(cmd=gpst_command(token_corpus, output, "--dry_run", "true", *more))
    return json.loads((output / "dry_run.json").read_text())


def test_a_random_batch_of_gpst_has_units_in_place_of_text(token_corpus, tmp_path):
    more = ["--dry_run_shape", "4,20,7,10", "--dry_run_utterances", "2", "--join_prompt", "0.5"]
    found = measured_gpst(token_corpus, tmp_path, *more)
    assert found["measured_batch"] == {
        "source": "random ids, dry_run_shape 4,20,7,10",
        "utterances": 2,
        "of_utterances": 4,
        "scaled_linearly_by": 2.0,
        "frames": 40,
        "longest_frames": 20,
        "steps": 42,
        "tokens": 14,
        "prompt_frames": 0,
        "codes": 320,
    }
    assert {"unit_heads", "heads.ar", "primary.transformer"} <= set(found["parameters"]["by_part"])
    assert found["training"]["batches_per_epoch"] == 10 and found["batch"]["flops"] > 0


def test_local_drop_shows_in_a_dry_run_of_gpst(token_corpus, tmp_path):
    shape = ["--dry_run_shape", "2,100,40"]
    whole = measured_gpst(token_corpus, tmp_path / "whole", *shape)
    part = measured_gpst(token_corpus, tmp_path / "part", *shape, "--corelm_conf", "local_drop=0.75")
    assert part["batch"]["flops"] < whole["batch"]["flops"]
    assert part["memory_bytes"]["saved_for_backward"] < whole["memory_bytes"]["saved_for_backward"]


@pytest.mark.parametrize(
    ("more", "frames", "mean"),
    [
        ([], [30, 29, 28], (3 * 27 + 3 * 30) / 2 / (3 * 30)),
        (["--crop_sec", "1.16"], [29, 29, 28], (3 * 27 + 3 * 29) / 2 / (3 * 29)),
        # the longest two prompts, of 30 and 29 frames, and 2 of silence, go before utterances of 29 and 28
        (["--join_prompt", "0.1"], [30 + 2 + 25, 29 + 2 + 30, 28 + 2 + 29], (3 * 27 + 3 * 30) / 2 / (3 * 30)),
    ],
)
def test_the_largest_batch_of_gpst_is_the_one_that_training_sees(token_corpus, tmp_path, more, frames, mean):
    args = CodecLMTask.get_parser().parse_args(gpst_command(token_corpus, tmp_path, *more))
    args.join_prompt = float(args.join_prompt > 0)  # as `dry_run` does
    batch = largest_batch(CodecLMTask, args, inputs_of(args))
    assert sorted(batch.tensors["codes_lengths"].tolist()) == sorted(frames)
    assert (batch.utterances, batch.batches) == (3, 2)
    assert batch.mean_to_largest == pytest.approx(mean)


def test_hours_follow_from_batches_epochs_and_speed():
    args = Namespace(num_iters_per_epoch=None, max_epoch=10, accum_grad=1, dry_run_tflops=2.0)
    cost = training_cost(args, Batch("", {}, 4, batches=36, mean_to_largest=0.5), seconds=20.0, flops=1e12)
    assert (cost["hours_at_most"], cost["hours"]) == (2.0, 1.0)
    assert cost["hours_at_assumed_tflops"] == pytest.approx(360 * 0.5 / 2 / 3600)
    unknown = training_cost(args, Batch("", {}, 4, batches=0, mean_to_largest=1.0), seconds=20.0, flops=1e12)
    assert "hours" not in unknown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dry_run_shape", "4,20"], "dry_run_shape must be UTTERANCES,FRAMES,TOKENS.*, got '4,20'"),
        (["--dry_run_shape", "4,0,3"], "dry_run_shape must be .* positive"),
        (["--dry_run_utterances", "0"], "dry_run_utterances must be at least 1, got 0"),
        (["--dry_run_tflops", "0"], "dry_run_tflops must be positive, got 0"),
    ],
)
def test_options_of_a_dry_run_are_checked(corpus, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        measured(corpus, tmp_path, *more)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_without_data_or_shape_says_what_it_needs(corpus, tmp_path):
    line = command(corpus, tmp_path, "--dry_run", "true")
    at = line.index("--train_shape_file")
    with pytest.raises(ValueError, match=r"dry_run must have train_shape_file.* or dry_run_shape"):
        CodecLMTask.main(cmd=line[:at] + line[at + 2 :])
