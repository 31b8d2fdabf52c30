"""Many jobs in one process: the command line, and the stages that use it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from fabricated import one_error
from test_recipes import STRATEGIES, Recipe, copy_recipes, value_of


def write_jobs(path: Path, *jobs: list[object]) -> Path:
    path.write_text("".join(shlex.join(map(str, job)) + "\n" for job in jobs))
    return path


@pytest.mark.espnet
def test_one_process_decodes_several_strategies_loads_the_model_once_and_makes_the_same_codes(
    corpus: Path, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.inference import model_ref
    from espnet_ext.inference.experiment import Experiment

    loaded, real = [], Experiment.load_corelm
    monkeypatch.setattr(Experiment, "load_corelm", lambda one: (loaded.append(one), real(one))[1])
    model_ref._load_once.cache_clear()
    line = ["--exp", experiment, "--data_dir", corpus / "dev", "--decoding"]
    outputs = {name: tmp_path / f"a {name}" for name in ("parallel", "local_ar")}
    jobs = write_jobs(tmp_path / "jobs", *([*line, name, "--output_dir", out] for name, out in outputs.items()))
    codec_lm_inference.main(["--jobs", str(jobs)])
    assert len(loaded) == 1
    assert (tmp_path / "jobs.finished").read_text() == "0\n1\n"
    for name, out in outputs.items():
        codec_lm_inference.main([*map(str, line), name, "--output_dir", str(tmp_path / "alone")])
        assert (tmp_path / "alone/codes.ark").read_bytes() == (out / "codes.ark").read_bytes()


@pytest.mark.espnet
def test_job_that_fails_is_told_and_does_not_stop_the_others(
    corpus: Path, experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from espnet_ext.bin import codec_lm_inference

    line = ["--exp", experiment, "--data_dir", corpus / "dev"]
    bad = [*line, "--decoding", "fast", "--output_dir", tmp_path / "bad"]
    jobs = write_jobs(tmp_path / "jobs", bad, [*line, "--decoding", "parallel", "--output_dir", tmp_path / "good"])
    told = one_error(codec_lm_inference.main, "--jobs", jobs)
    assert told.startswith("error: 1 of 2 jobs failed, the first of them: decoding must be one of ")
    assert "job 1 of 2 failed" in caplog.text and str(tmp_path / "bad") in caplog.text
    assert (tmp_path / "jobs.finished").read_text() == "1\n" and (tmp_path / "good/timing.json").is_file()
    assert one_error(codec_lm_inference.main, "--jobs", jobs, "--seed", 3).endswith(f"got ['{jobs}', '--seed', '3']")
    assert one_error(codec_lm_inference.main, "--jobs=none") == "error: jobs not found: none"


# --- stages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mini(tmp_path: Path) -> Recipe:
    recipe = copy_recipes(tmp_path, "mini_libritts")
    recipe.run("--stop_stage", "train")
    recipe.calls()
    return recipe


def decoded(recipe: Recipe) -> list[tuple[str, str]]:
    """Strategy and output directory of each decoding."""
    calls = [call for call in recipe.calls() if call[1] == "espnet_ext.bin.codec_lm_inference"]
    return [(value_of(call, "--decoding"), value_of(call, "--output_dir")) for call in calls]


def lists(recipe: Recipe, label: str) -> list[int]:
    """How many jobs each process was given."""
    paths = sorted((recipe.directory / "exp" / "log").glob(f"inference.{label}.jobs"))
    return [len(path.read_text().splitlines()) for path in paths]


INFERENCE = ["--stage", "inference", "--stop_stage", "inference", "--tune", "false"]


def test_each_model_decodes_in_one_process_or_in_as_many_as_may_run_side_by_side(mini: Recipe) -> None:
    mini.run(*INFERENCE, "--num_repeats", "2")
    assert (lists(mini, "s*"), lists(mini, "resynthesis")) == ([20, 20], [6])
    assert len(set(decoded(mini))) == 40
    assert "finished before" in mini.run(*INFERENCE, "--num_repeats", "2")
    assert decoded(mini) == []
    mini.run(*INFERENCE, "--stacking", "1", "--inference_nj", "3", "--inference_tag", "x")
    assert sorted(lists(mini, "s1*")) == [3, 3, 4]
    assert len(set(decoded(mini))) == 10


def test_changed_configuration_decodes_its_strategy_again_and_no_other(mini: Recipe) -> None:
    mini.run(*INFERENCE)
    decoded(mini)
    (mini.root / "conf" / "decode_local_maskgit.yaml").write_text("seed: 1\n")
    mini.run(*INFERENCE)
    assert [name for name, _ in decoded(mini)] == ["local_maskgit"] * 4


def test_failing_strategy_is_named_and_what_the_process_has_made_stays_finished(mini: Recipe) -> None:
    mini.recorder.with_name("fail").write_text("--decoding local_ar")
    told = mini.run(*INFERENCE, "--stacking", "1", "--inference_nj", "1", status=1)
    assert "error: stage inference (" in told and "inference.s1.log" in told
    names = told.partition("error: stage inference (")[2].partition(")")[0].split(", ")
    assert sorted(names) == ["s1.local_ar.test_seen", "s1.local_ar.test_unseen"]
    decoded(mini)
    mini.recorder.with_name("fail").unlink()
    mini.run(*INFERENCE, "--stacking", "1", "--inference_nj", "1")
    assert [name for name, _ in decoded(mini)] == ["local_ar"] * 2
    assert len(STRATEGIES) * 2 == len(list((mini.directory / "exp").glob("codec_lm_*_s1/decode_*/test_*/.done")))
