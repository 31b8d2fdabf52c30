"""Options of run.sh that some recipes set: what they add to which command, and nothing where they are not set."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_recipes import RECIPES, Recipe, copy_recipes, pretend_gpus, value_of


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return copy_recipes(tmp_path, "fsdd")


def test_max_epoch_and_gpu_inference_reach_the_commands(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, tmp_path, 1)
    recipe.run("--max_epoch", "3", "--gpu_inference", "--stacking", "1", "--train_args", "--seed 3")
    calls = recipe.calls()
    base, training = [call for call in calls if "--resume" in call]
    assert (value_of(training, "--max_epoch"), value_of(training, "--seed")) == ("3", "3")
    assert "--max_epoch" not in base
    programs = {call[1] for call in calls if "--device" in call and value_of(call, "--device") == "cuda"}
    assert programs == {"espnet_ext.bin.codec_tokens", "espnet_ext.bin.codec_lm_inference"}


@pytest.mark.parametrize("name", RECIPES)
def test_libritts_is_scored_with_the_words_of_the_test_set_alone(tmp_path: Path, name: str) -> None:
    recipe = copy_recipes(tmp_path, name)
    recipe.run("--stacking", "1", "--decodings", "parallel")
    calls = [call for call in recipe.calls() if call[1] == "espnet_ext.bin.evaluate"]
    assert {"--vocabulary_text" in call for call in calls} == {name != "libritts"}


def test_words_that_the_recogniser_lacks_are_looked_for_before_the_training(recipe: Recipe) -> None:
    """Stage score found it out, after the whole training."""
    text = recipe.directory / "data" / "test_seen" / "text"
    text.parent.mkdir(parents=True)
    text.write_text("u-1 zyxxyz\n")
    recipe.run("--stacking", "1", "--score_args", "--asr whisper")
    calls = recipe.calls()
    programs = [call[1] if call[0] == "-m" else call[0] for call in calls]
    (number,) = [index for index, name in enumerate(programs) if name.endswith("check_words.py")]
    assert calls[number][1:] == ["data/test_seen/text", "--asr", "whisper"]
    assert number < next(index for index, name in enumerate(programs) if "format_wav" in name)
    recipe.run("--stage", "score", "--stacking", "1")
    assert not any("check_words" in call[0] for call in recipe.calls())


def test_libritts_is_prepared_for_its_codec(tmp_path: Path) -> None:
    libritts = copy_recipes(tmp_path, "libritts")
    for options, rate in (
        ((), "24000"),
        (("--codec", "world_vq"), "16000"),
        (("--codec=dac", "--fs", "44100"), "44100"),
    ):
        libritts.run("--stop_stage", "codec_tokens", *options)
        calls = libritts.calls()
        formats = [call for call in calls if call[0].endswith("format_wav.py")]
        assert {value_of(call, "--fs") for call in formats} == {rate}
        assert all("--reuse" in call for call in formats)
        tokens = [call for call in calls if call[1] == "espnet_ext.bin.codec_tokens"]
        assert {value_of(call, "--prompt_min_sec") for call in tokens} == {"3"}


def test_a_test_list_that_changes_makes_the_data_again(tmp_path: Path) -> None:
    """Stage 1 looked at the name of the folder alone."""
    libritts = copy_recipes(tmp_path, "libritts")
    table = libritts.root / "my lists" / "test_seen.tsv"
    table.parent.mkdir()
    for content, finished in (("first", False), ("first", True), ("second", False)):
        table.write_text(content)
        text = libritts.run("--stop_stage", "data", "--test_lists", "my lists")
        assert ("nothing to do" in text) == finished


def test_recipes_that_want_no_shortest_prompt_call_what_they_called_before(recipe: Recipe) -> None:
    """Another command line would make their tokens, and with them their models, again."""
    recipe.run("--stop_stage", "codec_tokens")
    assert not [call for call in recipe.calls() if {"--prompt_min_sec", "--reuse", "--device"} & set(call)]


def test_weights_that_change_under_the_same_name_are_read_again(recipe: Recipe) -> None:
    """Only the command line of codec_fit was looked at, so the codes of the old weights stayed."""
    folder = recipe.directory / "weights"
    folder.mkdir()
    (folder / "model.best.pth").write_text("first")
    recipe.run("--stop_stage", "filter")
    recipe.calls()
    for name in ("weights/model.best.pth", "weights"):
        again = ("--stage", "codec", "--stop_stage", "codec", "--codec_conf", f"checkpoint={name} num_codebooks=2")
        for content, calls in (("first", 1), ("first", 0), ("second", 1)):
            (folder / "model.best.pth").write_text(content)
            recipe.run(*again)
            assert len(recipe.calls()) == calls


def test_another_number_of_pieces_is_another_sentencepiece_model(recipe: Recipe) -> None:
    """The model of the first run stayed, whatever became of --nbpe and of the text."""
    for pieces in ("200", "300"):
        recipe.run("--stop_stage", "token_list", "--token_type", "bpe", "--nbpe", pieces)
        (call,) = [call for call in recipe.calls() if call[1] == "espnet_ext.bin.token_list"]
        assert "--train_bpe" in call and value_of(call, "--vocab_size") == pieces


@pytest.mark.parametrize(("cleaner", "passed"), [("english", True), ("lower", False)])
def test_the_filter_knows_the_cleaner_that_can_leave_nothing(recipe: Recipe, cleaner: str, passed: bool) -> None:
    recipe.run("--stop_stage", "filter", "--cleaner", cleaner)
    assert {"--cleaner" in call for call in recipe.calls() if call[0].endswith("filter_data.py")} == {passed}


def test_another_option_of_a_codec_leaves_the_codes_of_the_first_one_in_place(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "filter")
    made = []
    for options in (
        (),
        ("--codec_conf", "num_codebooks=4 merge.rate=2"),
        ("--codec_conf", f"checkpoint={'x' * 90}.pth"),
    ):
        recipe.run("--stage", "codec", "--stop_stage", "codec", *options)
        made.append(value_of([call for call in recipe.calls() if call[1] == "espnet_ext.bin.codec_fit"][-1], "--out"))
    assert made[:2] == ["dump/codec_world_vq", "dump/codec_world_vq_num_codebooks=4_merge.rate=2"]
    assert len(made[2]) < 40, "a path would be too long for a name"
    recipe.run("--stage", "codec", "--stop_stage", "codec", "--codec_conf", "codebook_size=8", "--codec_tag", "small")
    assert (
        value_of([call for call in recipe.calls() if call[1] == "espnet_ext.bin.codec_fit"][-1], "--out")
        == "dump/codec_small"
    )


def test_a_codec_that_cannot_be_made_is_found_before_the_first_stage(recipe: Recipe) -> None:
    """It was found after the download and three stages."""
    recipe.recorder.with_name("fail").write_text("--check_rate 16000")
    assert recipe.run(status=1) == "broken on purpose\n"
    recipe.recorder.with_name("fail").unlink()
    recipe.run("--stop_stage", "filter")
    recipe.calls()
    recipe.run("--stage", "codec", "--stop_stage", "codec")
    recipe.run("--stop_stage", "codec")
    assert not [call for call in recipe.calls() if "--check_rate" in call], "where it was made or is made at once"


def test_more_epochs_continue_a_training_and_fewer_begin_a_new_one(recipe: Recipe) -> None:
    """A training that should go on for some epochs began from nothing."""
    models = []
    for epochs in ("2", "3", "3", "1"):
        recipe.run("--stop_stage", "train", "--stacking", "1", "--max_epoch", epochs)
        models.append(len(list((recipe.directory / "exp").glob("codec_lm_train_*"))))
    assert models == [1, 1, 1, 2]
    recipe.run(
        "--stop_stage",
        "train",
        "--stacking",
        "1",
        "--max_epoch",
        "9",
        "--tag",
        "train_fsdd_world_vq_phn_cmudict",
        "--train_args",
        "--seed 2",
    )
    assert len(list((recipe.directory / "exp").glob("codec_lm_train_*"))) == 3, "another option is no continuation"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--train_config", "conf/nowhere.yaml"), "--train_config must be an existing file, got 'conf/nowhere.yaml'"),
        (("--base_config", "conf/nowhere.yaml"), "--base_config must be an existing file, got "),
        (("--expdir", "exp,1"), "--expdir must have neither comma nor colon, which separate names in tables, got"),
        (("--dumpdir", "a:b"), "--dumpdir must have neither comma nor colon"),
        (("--ngpu", "99"), "--ngpu must be at most "),
        (("--gpu_inference", "true", "--stage", "inference"), "--gpu_inference must be false on a machine without"),
    ],
)
def test_what_would_stop_a_later_stage_is_said_before_the_first(
    recipe: Recipe, options: tuple[str, ...], message: str
) -> None:
    text = recipe.run("--python", sys.executable, *options, status=2)
    assert message in text
    assert not (recipe.directory / "data").exists()


def test_the_second_run_in_a_directory_is_refused_and_names_the_first(recipe: Recipe) -> None:
    lock = recipe.directory / "exp" / ".running"
    lock.parent.mkdir()
    with subprocess.Popen(["sleep", "60"]) as first:
        lock.write_text(f"{first.pid} {socket.gethostname()}\n")
        text = recipe.run("--stop_stage", "data", status=1)
        owner = f"process {first.pid} on {socket.gethostname()}"
        assert text == f"error: exp is in use by {owner}; remove exp/.running if that has ended\n"
        first.kill()
    lock.write_text("7 elsewhere\n")
    assert "in use by process 7 on elsewhere" in recipe.run("--stop_stage", "data", status=1)
    lock.write_text("")
    recipe.run("--stop_stage", "data")
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock.write_text(f"{ended.pid} {socket.gethostname()}\n")
    recipe.run("--stop_stage", "data")
    assert not lock.exists(), "one that was killed does not stand in the way"
    elsewhere = recipe.directory / "elsewhere"
    for begin in (lambda: None, elsewhere.touch):
        begin()
        lock.symlink_to(elsewhere)
        recipe.run("--stop_stage", "data")
        assert not elsewhere.exists() or not elsewhere.read_text(), "a link leads to a file of somebody else"


def test_runs_with_other_experiments_do_not_prepare_the_same_data_at_once(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "token_list")
    assert not list(recipe.directory.rglob(".running"))
    with subprocess.Popen(["sleep", "60"]) as first:
        for name in ("data", "dump"):
            lock = recipe.directory / name / ".running"
            lock.write_text(f"{first.pid} {socket.gethostname()}\n")
            text = recipe.run("--expdir", "other", status=1)
            assert text.startswith(f"error: {name} is in use by process {first.pid} on ") and text.count("\n") == 1
            recipe.run("--stage", "stats", "--stop_stage", "train", "--expdir", "other")  # writes to neither
            lock.unlink()
        first.kill()
