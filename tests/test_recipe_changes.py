"""What a recipe that runs again does again: what read something that has changed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_recipes import Recipe, copy_recipes, value_of


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return copy_recipes(tmp_path, "fsdd")


def test_second_run_does_nothing(recipe: Recipe) -> None:
    recipe.run("--nj", "2")
    recipe.calls()
    assert "finished before" in recipe.run("--nj", "1")
    assert recipe.calls() == []


def test_force_runs_the_stage_again(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "codec")
    recipe.calls()
    recipe.run("--stage", "codec", "--stop_stage", "codec", "--force")
    assert recipe.programs() == ["espnet_ext.bin.codec_fit"]


def test_force_reaches_every_command_that_remembers_what_it_has_finished(tmp_path: Path) -> None:
    """It made the stages run again, whose commands then found that they had finished before."""
    recipe = copy_recipes(tmp_path, "mini_libritts")
    recipe.run("--stop_stage", "codec_tokens", "--force")
    forced = {call[1] if call[0] == "-m" else Path(call[0]).name for call in recipe.calls() if "--force" in call}
    assert forced == {"format_wav.py", "espnet_ext.bin.codec_fit", "espnet_ext.bin.codec_tokens"}
    recipe.run("--stop_stage", "train")
    recipe.calls()
    recipe.run("--stage", "tune", "--force")
    assert {call[1] for call in recipe.calls() if "--force" not in call} == {"espnet_ext.bin.results"}


def test_a_transcript_that_was_corrected_by_hand_goes_through_all_stages(recipe: Recipe) -> None:
    """A directory that no stage had made, or that was edited after it, was taken for finished."""
    text = recipe.directory / "data" / "train" / "text"
    recipe.run()
    for content in ("u one", "u two"):
        text.write_text(content)
        recipe.calls()
        told = recipe.run("--stop_stage", "format")
        assert f"{Path(*text.parts[-3:])} changed after dump/raw/train was made" in told
        assert [value_of(call, "--in") for call in recipe.calls()] == ["data/train"]
        assert text.read_text() == content, "stage data has not written over it"
    assert "nothing to do" in recipe.run("--stop_stage", "format")


@pytest.mark.parametrize("named", ["option", "script", "beside"])
def test_metadata_that_a_script_of_the_user_reads_makes_the_data_again(recipe: Recipe, named: str) -> None:
    corpus = recipe.directory / "local" if named == "beside" else recipe.root / "a_corpus"
    options = ["--local_data_opts", "--corpus ../../../a_corpus"] if named == "option" else []
    if named == "script":
        script = recipe.directory / "local" / "data.sh"
        script.write_text(script.read_text() + 'corpus="../../../a_corpus"\n')
    corpus.mkdir(exist_ok=True)
    for content, finished in (("first", False), ("first", True), ("second", False)):
        (corpus / "metadata.csv").write_text(content)
        text = recipe.run("--stop_stage", "data", *options)
        assert ("nothing to do" in text) == finished


def test_changed_option_redoes_its_stage_and_what_depends_on_it(recipe: Recipe) -> None:
    recipe.run()
    recipe.calls()
    recipe.run("--codec_conf", "codebook_size=16")
    programs = recipe.programs()
    assert "format_wav.py" not in programs
    assert {"espnet_ext.bin.codec_fit", "espnet_ext.bin.codec_tokens", "espnet_ext.bin.evaluate"} <= set(programs)


def test_changed_configuration_trains_anew_and_keeps_the_old_model(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "train", "--stacking", "1")
    (recipe.root / "conf" / "train_fsdd.yaml").write_text("max_epoch: 3\n")
    recipe.run("--stop_stage", "train", "--stacking", "1")
    models = sorted(path.name for path in (recipe.directory / "exp").glob("codec_lm_train_*"))
    assert models == ["codec_lm_train_fsdd_world_vq_phn_cmudict_s1", "codec_lm_train_fsdd_world_vq_phn_cmudict_s1.old1"]


def test_another_decoding_does_not_repeat_the_others(recipe: Recipe) -> None:
    recipe.run("--decodings", "parallel")
    recipe.calls()
    recipe.run("--decodings", "parallel local_ar", "--stop_stage", "inference")
    assert [value_of(call, "--decoding") for call in recipe.calls()] == ["local_ar", "local_ar"]


@pytest.mark.parametrize(("name", "model"), [("fsdd", "codec_lm1"), ("mini_libritts", "gpst1")])
def test_where_weights_lie_is_in_no_name(tmp_path: Path, name: str, model: str) -> None:
    """Every directory was called after a path of the machine: weights that were moved made another model."""
    recipe = copy_recipes(tmp_path, name, model)
    for place in ("a/b/lyra", "c/moved"):
        told = tmp_path / place
        told.mkdir(parents=True)
        (told / "encoder.tflite").write_text("the same")
        options = ["--codec_conf", f"checkpoint={told} num_codebooks=4"]
        if model == "gpst1":
            options += ["--semantic_conf", f"codebook={told}/encoder.tflite num_units=8"]
        recipe.run("--stop_stage", "codec" if model == "codec_lm1" else "semantic", "--codec", "lyra", *options)
    names = {path.name for path in (recipe.directory / "dump").iterdir() if path.is_dir()}
    assert names - {"raw", "filtered"} == {
        "codec_lyra_num_codebooks=4",
        *(["semantic_logmel_km_num_units=8_repeated"] if model == "gpst1" else []),
    }


def test_a_name_on_a_hub_stays_in_the_names(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "codec", "--codec", "mimi", "--codec_conf", "checkpoint=kyutai/mimi")
    assert (recipe.directory / "dump" / "codec_mimi_checkpoint=kyutai_mimi").is_dir()
