"""How run.sh starts a training on several machines, measures one, and passes on what a text is made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_recipes import Recipe, recipe, value_of  # noqa: F401  # a fixture

# what starts the command once on each of two machines
SRUN = """#!/usr/bin/env bash
[[ $1 == --nodes=2 ]] && shift
"$@" && "$@"
"""


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bin" / "srun"
    path.parent.mkdir()
    path.write_text(SRUN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def trainings(calls: list[list[str]]) -> list[list[str]]:
    return [call for call in calls if call[1] == "espnet_ext.bin.codec_lm_train" and "--collect_stats" not in call]


def test_a_launcher_starts_the_training_on_every_machine_and_all_meet_at_one_file(recipe: Recipe, srun: None) -> None:  # noqa: F811
    recipe.run("--stop_stage", "stats")
    recipe.calls()
    several = ["--num_nodes", "2", "--launcher", "srun --nodes=2", "--ngpu", "4"]
    recipe.run("--stage", "train", "--stop_stage", "train", "--stacking", "1", *several)
    base, same_base, *calls = trainings(recipe.calls())
    assert base == same_base and len(calls) == 2 and calls[0] == calls[1]
    assert value_of(calls[0], "--dist_launcher") == "slurm" and value_of(calls[0], "--ngpu") == "4"
    meeting = Path(value_of(calls[0], "--dist_init_method").removeprefix("file://"))
    assert meeting.parent.is_dir() and not meeting.exists()
    assert meeting.parent.name == Path(value_of(calls[0], "--output_dir")).name
    # where a model was trained does not change it
    assert "nothing to do" in recipe.run("--stage", "train", "--stop_stage", "train", "--stacking", "1")
    assert recipe.calls() == []


def test_several_machines_without_a_launcher_are_refused(recipe: Recipe) -> None:  # noqa: F811
    assert "--launcher must be given with --num_nodes 2" in recipe.run("--num_nodes", "2", status=2)


def test_a_dry_run_measures_every_model_and_trains_none(recipe: Recipe) -> None:  # noqa: F811
    recipe.run("--stop_stage", "stats")
    recipe.calls()
    recipe.run("--stage", "train", "--dry_run", "true")
    calls = recipe.calls()
    assert len(calls) == 3 and all(value_of(call, "--dry_run") == "true" for call in calls)
    recipe.run("--stage", "train", "--stop_stage", "train")
    assert len(trainings(recipe.calls())) == 3, "a dry run counted as a training"


def test_a_dry_run_is_no_stage_time_and_says_where_it_stopped(recipe: Recipe) -> None:  # noqa: F811
    """It said that all stages were finished, and replaced the time of the training."""
    recipe.run("--stop_stage", "train", "--stacking", "1")
    times = recipe.directory / "exp" / "stage_times.tsv"
    before = times.read_text()
    assert "train\t" in before
    assert "stages 8 to 8 are finished" in recipe.run("--stage", "train", "--dry_run", "true", "--stacking", "1")
    assert times.read_text() == before


def test_a_dry_run_of_later_stages_is_refused(recipe: Recipe) -> None:  # noqa: F811
    """It did nothing and called that finished."""
    text = recipe.run("--stage", "inference", "--dry_run", "true", status=2)
    assert "--stage must not come after train with --dry_run true, got inference" in text
    assert recipe.calls() == []


def test_phones_have_their_own_tokens_statistics_and_models(recipe: Recipe) -> None:  # noqa: F811
    recipe.run(
        "--token_type", "phn", "--g2p", "cmudict", "--min_count", "3", "--stop_stage", "train", "--stacking", "1"
    )
    calls = recipe.calls()
    (tokens,) = [call for call in calls if call[1] == "espnet_ext.bin.token_list"]
    assert value_of(tokens, "--g2p") == "cmudict" and value_of(tokens, "--min_count") == "3"
    assert value_of(tokens, "--out") == "data/token_list/phn_cmudict/tokens.txt"
    for training in trainings(calls):
        assert value_of(training, "--g2p") == "cmudict"
        assert all("phn_cmudict" in value_of(training, name) for name in ("--output_dir", "--train_shape_file"))
