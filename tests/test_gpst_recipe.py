"""The run.sh of the GPST recipe with a recorder in Python's place: what it calls for which mode, what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_recipes import ROOT, Recipe, copy_recipes, pretend_gpus, value_of, values_of

from espnet_ext.inference.requests import modes

STAGES = ["data", "format", "filter", "codec", "codec_tokens", "semantic", "semantic_tokens", "mix", "token_list"]
STAGES += ["stats", "train", "train_tts", "inference", "score"]
PROGRAMS = ["format_wav.py", "filter_data.py", "codec_fit", "codec_tokens", "semantic_fit", "semantic_tokens"]
PROGRAMS += ["token_list", "codec_lm_train", "aggregate_stats_dirs"]
MODES = ["semantic_to_acoustic", "speaker_transfer", "speaker_conversion", "continuation", "tts"]
UNITS = "logmel_km_num_units=512_deltas=1_repeated"
GPST = f"gpst_train_mini_gpst_world_vq_{UNITS}_s1"
TTS = f"train_mini_text_to_semantic_{UNITS}_char"
TOKENS, TOKENS_TINY = f"dump/gpst_world_vq_{UNITS}", f"dump_tiny/gpst_world_vq_{UNITS}"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return copy_recipes(tmp_path, "mini_libritts", "gpst1")


def calls_of(recipe: Recipe, program: str) -> list[list[str]]:
    return [call for call in recipe.calls() if call[1] == f"espnet_ext.bin.{program}"]


def test_all_stages_run_in_order(recipe: Recipe) -> None:
    recipe.run()
    first, second, *programs = (name.rpartition(".bin.")[2] for name in recipe.programs())
    assert (first, second) == ("codec_fit", "semantic_fit"), "tokenizers that do not exist are found before any work"
    order = list(dict.fromkeys(programs))
    assert order[: len(PROGRAMS)] == PROGRAMS
    last = {"other_speaker_prompts.py", "gpst_inference", "codec_resynthesis", "evaluate", "results"}
    assert set(order[len(PROGRAMS) :]) == last
    assert "finished before" in recipe.run("--nj", "1")
    assert recipe.calls() == []


def test_help_lists_stages_and_options(recipe: Recipe) -> None:
    text = recipe.run("--help")
    for number, name in enumerate(STAGES, start=1):
        assert f"{number:2d} {name}\n" in text
    assert "--prompt_sec" in text and "--dask_scheduler" in text
    assert f"[{len(STAGES)}]" in text, "the last stage is the default of --stop_stage"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modes", "tts sing"], "--modes must be among unconditional semantic_to_acoustic"),
        (["--modes", " "], "--modes must not be empty"),
        (["--mix", "elsewhere"], "--mix must be NAME=DIR separated by spaces, got 'elsewhere'"),
        (["--mix_language", "en=en"], "--mix_language must be left out without --mix, got 'en=en'"),
        (
            ["--mix", "zh=there", "--mix_language", "en"],
            "--mix_language must be NAME=LANGUAGE separated by spaces, got 'en'",
        ),
        (["--prompt_sec", "short"], "--prompt_sec must be a number, got 'short'"),
        (["--mix_temperature", "-1"], "--mix_temperature must be a number, got '-1'"),
        (["--num_unconditional", "0"], "--num_unconditional must be a number of at least 1, got '0'"),
        (["--deduplicate", "maybe"], "--deduplicate must be true or false, got 'maybe'"),
        (["--decodings", "best_of"], "--decodings must be strategies with a conf/decode_<strategy>.yaml each"),
        (["--inference_config", "conf/none.yaml"], "--inference_config must be an existing file"),
        (["--size", "huge"], "--size must be mini or tiny, got 'huge'"),
    ],
)
def test_wrong_options_are_one_line_and_status_two(recipe: Recipe, options: list[str], message: str) -> None:
    text = recipe.run(*options, status=2)
    assert message in text
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    assert recipe.calls() == []


def test_both_trainings_run_in_stage_train_and_their_data_are_the_token_directory(recipe: Recipe) -> None:
    options = ["--max_epoch", "2", "--train_args", "--seed 3", "--tts_args", "--seed 4"]
    text = recipe.run("--stop_stage", "train_tts", *options)
    assert "(train_tts): finished before" in text, "it ran beside the other one"
    trainings = {value_of(call, "--output_dir"): call for call in recipe.calls() if "--resume" in call}
    model, tts = trainings.values()
    assert sorted(trainings) == [f"exp/{GPST[:-3]}_seed_3_s1", f"exp/{TTS}_seed_4"]
    if "--semantic_info" not in model:
        model, tts = tts, model
    assert values_of(model, "--train_data_path_and_name_and_type") == [
        f"{TOKENS}/train/semantic.scp,semantic,kaldi_ark",
        f"{TOKENS}/train/codes.scp,codes,kaldi_ark",
        f"{TOKENS}/train/prompt.scp,prompt,kaldi_ark",
        f"{TOKENS}/train/prompt_semantic.scp,prompt_semantic,kaldi_ark",
    ]
    stats = f"exp/gpst_stats_world_vq_{UNITS}/valid"
    assert values_of(model, "--valid_shape_file") == [f"{stats}/codes_shape", f"{stats}/semantic_shape"]
    assert model[-4:] == ["--max_epoch", "2", "--seed", "3"]
    assert value_of(model, "--frame_stacking_factor") == "1"
    assert "--token_list" not in model
    assert values_of(tts, "--train_data_path_and_name_and_type") == [
        f"{TOKENS}/train/text,text,text",
        f"{TOKENS}/train/semantic.scp,codes,kaldi_ark",
    ]
    assert value_of(tts, "--codec_info") == f"dump/semantic_{UNITS}/semantic_info.yaml"
    assert tts[-4:] == ["--max_epoch", "2", "--seed", "4"]


def test_stage_train_alone_leaves_the_other_training_to_its_stage(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "stats")
    recipe.calls()
    for stage, trained in (("train", f"exp/{GPST}"), ("train_tts", f"exp/{TTS}")):
        recipe.run("--stage", stage, "--stop_stage", stage)
        assert [value_of(call, "--output_dir") for call in recipe.calls()] == [trained]


def test_without_tts_there_is_no_second_training(recipe: Recipe) -> None:
    recipe.run("--modes", "continuation unconditional")
    calls = recipe.calls()
    assert {value_of(call, "--output_dir") for call in calls if "--resume" in call} == {f"exp/{GPST}"}
    assert {value_of(call, "--mode") for call in calls if "--mode" in call} == {"continuation", "unconditional"}


def test_every_mode_decodes_every_test_set_and_unconditional_once(recipe: Recipe) -> None:
    recipe.run()
    calls = {value_of(call, "--output_dir"): call for call in calls_of(recipe, "gpst_inference")}
    sets = ["test_seen", "test_unseen"]
    of_sets = {f"exp/{GPST}/decode_{mode}_local_ar/{name}": (mode, name) for mode in MODES for name in sets}
    free = f"exp/{GPST}/decode_unconditional_local_ar/free"
    assert calls.keys() == {free, *of_sets}
    for output, (mode, name) in of_sets.items():
        call = calls[output]
        assert value_of(call, "--data_dir") == f"{TOKENS}/{name}"
        assert value_of(call, "--inference_config") == "../../../conf/decode_gpst.yaml"
        assert value_of(call, "--mode") == ("speaker_transfer" if mode == "speaker_conversion" else mode)
        assert ("--prompts" in call) == (mode == "speaker_conversion")
        assert ("--prompt_sec" in call) == (mode != "semantic_to_acoustic")
        assert ("--text_to_semantic" in call) == (mode == "tts")
        assert options_of_modes(call) <= set(modes[value_of(call, "--mode")].reads), "the command refuses others"
        if mode == "speaker_conversion":
            assert value_of(call, "--prompts") == f"exp/other_speakers/{name}/utt2prompt"
        if mode == "tts":
            assert value_of(call, "--text_to_semantic") == f"exp/{TTS}"
    assert "--data_dir" not in calls[free]
    assert value_of(calls[free], "--num_utterances") == "20"
    assert options_of_modes(calls[free]) == {"num_utterances"}


def options_of_modes(call: list[str]) -> set[str]:
    """The options of a call that not all modes read."""
    given = {word[2:] for word in call if word.startswith("--")}
    return given & {option for mode in modes for option in modes[mode].reads}


@pytest.mark.parametrize(("decodings", "ending"), [("local_ar", ""), ("local_ar parallel", "_local_ar")])
def test_systems_are_called_after_mode_and_strategy_where_there_are_several(
    recipe: Recipe, decodings: str, ending: str
) -> None:
    recipe.run("--decodings", decodings, "--modes", "tts unconditional", "--test_sets", "test_seen")
    (call,) = calls_of(recipe, "evaluate")
    assert f"s1_tts{ending}=exp/{GPST}/decode_tts_local_ar/test_seen" in values_of(call, "--system")
    free = values_of(call, "--untranscribed")
    assert free[0] == f"s1_unconditional{ending}=exp/{GPST}/decode_unconditional_local_ar/free"
    assert len(free) == len(decodings.split())
    assert value_of(call, "--reference") == f"{TOKENS}/test_seen"
    assert values_of(call, "--train_dir") == [f"exp/{GPST}", f"exp/{TTS}"]


def test_another_text_to_semantic_model_decodes_tts_alone_again(recipe: Recipe) -> None:
    recipe.run()
    recipe.calls()
    (recipe.root / "conf" / "train_mini_text_to_semantic.yaml").write_text("max_epoch: 9\n")
    recipe.run()
    assert {value_of(call, "--mode") for call in calls_of(recipe, "gpst_inference")} == {"tts"}


def test_units_with_repetitions_have_directories_of_their_own(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "semantic_tokens", "--semantic_conf", "num_units=64")
    _, fit, *tokens = (call for call in recipe.calls() if call[1].rpartition(".")[2].startswith("semantic_"))
    assert value_of(fit, "--deduplicate") == "false"
    assert value_of(fit, "--semantic_conf") == "num_units=64"
    assert value_of(fit, "--out") == "dump/semantic_logmel_km_num_units=64_repeated"
    assert {value_of(call, "--data_dir") for call in tokens} == {
        f"dump/filtered/{name}" for name in ("train", "dev", "test_seen", "test_unseen")
    }


def test_a_mixture_is_what_is_trained_on_and_nothing_else(recipe: Recipe) -> None:
    text = recipe.run("--mix", "zh=other/train", "--stop_stage", "mix", status=2)
    assert "--mix must name token directories, found no other/train/semantic.scp" in text
    (recipe.directory / "other" / "train").mkdir(parents=True)
    for table in ("semantic.scp", "codes.scp"):
        (recipe.directory / "other" / "train" / table).write_text("x\n")
    recipe.calls()
    mixture = ["--mix", "zh=other/train", "--mix_name", "en", "--mix_language", "en=en zh=zh", "--mix_temperature", "3"]
    recipe.run(*mixture)
    calls = recipe.calls()
    call, _ = (call for call in calls if call[0].endswith("mix_corpora.py"))
    mixed = f"{TOKENS}/train_mix_3_zh"
    assert call[1:] == [
        *("--corpus", f"en={TOKENS}/train", "zh=other/train", "--temperature", "3"),
        *("--language", "en=en", "zh=zh", "--out", mixed),
    ]
    (model,) = [call for call in calls if "--resume" in call and "--semantic_info" in call]
    assert values_of(model, "--train_data_path_and_name_and_type")[0].startswith(f"{mixed}/semantic.scp,")
    assert values_of(model, "--valid_data_path_and_name_and_type")[0].startswith(f"{TOKENS}/dev_mix_3_zh/semantic.scp,")
    assert value_of(model, "--output_dir") == f"exp/gpst_train_mini_gpst_world_vq_{UNITS}_mix_3_zh_s1"


def with_other_corpus(recipe: Recipe) -> list[str]:
    """Options that mix it in, it being there."""
    (recipe.directory / "other" / "train").mkdir(parents=True)
    for table in ("semantic.scp", "codes.scp"):
        (recipe.directory / "other" / "train" / table).write_text("x\n")
    return ["--mix", "zh=other/train", "--mix_name", "en", "--mix_language", "zh=zh en=English", "--modes"]


def language_data(recipe: Recipe) -> dict[str, list[str]]:
    """Part → tables of languages that the training of GPST is given."""
    (model,) = [call for call in recipe.calls() if "--resume" in call and "--semantic_info" in call]
    options = {part: values_of(model, f"--{part}_data_path_and_name_and_type") for part in ("train", "valid")}
    return {part: [word for word in words if word.endswith(",language,text")] for part, words in options.items()}


@pytest.mark.parametrize("parts", [[], ["train"], ["valid"], ["train", "valid"]], ids=" ".join)
def test_a_part_that_has_languages_is_trained_with_them(recipe: Recipe, parts: list[str]) -> None:
    """They were left out of both parts where only one had them, as if no utterance had any."""
    recipe.run("--stop_stage", "stats")
    recipe.calls()
    tables = {part: f"{TOKENS}/{'train' if part == 'train' else 'dev'}/utt2lang" for part in parts}
    for table in tables.values():
        (recipe.directory / table).write_text("a-1 en\n")
    recipe.run("--stage", "train", "--stop_stage", "train")
    wanted = {part: [f"{tables[part]},language,text"] if part in parts else [] for part in ("train", "valid")}
    assert language_data(recipe) == wanted


def test_the_language_of_the_own_corpus_in_a_mixture_is_that_of_all_its_sets(recipe: Recipe) -> None:
    """Validation and decoding were told no language, which none of the training utterances was told."""
    options = [*with_other_corpus(recipe), "continuation unconditional", "--max_epoch", "1"]
    recipe.run(*options, "--stop_stage", "mix")
    mixtures = [call for call in recipe.calls() if call[0].endswith("mix_corpora.py")]
    assert mixtures[1][1:] == [
        *("--corpus", f"en={TOKENS}/dev", "--language", "en=English", "--out", f"{TOKENS}/dev_mix_2_zh")
    ]
    for name in ("train", "dev"):
        (recipe.directory / TOKENS / f"{name}_mix_2_zh" / "utt2lang").write_text("a-1 English\n")
    (recipe.directory / TOKENS / "test_seen" / "utt2lang").write_text("a-1 American\n")
    recipe.run(*options, "--stop_stage", "train")
    calls = recipe.calls()
    (stats,) = [call for call in calls if "--collect_stats" in call]
    (model,) = [call for call in calls if "--resume" in call]
    for call in (stats, model):
        found = values_of(call, "--valid_data_path_and_name_and_type")
        assert {Path(word).parent.as_posix() for word in found} == {f"{TOKENS}/dev_mix_2_zh"}
        assert found[-1] == f"{TOKENS}/dev_mix_2_zh/utt2lang,language,text"
    assert value_of(stats, "--valid_shape_file") == f"{TOKENS}/dev_mix_2_zh/utt2num_frames"
    model_config = recipe.directory / value_of(model, "--output_dir") / "config.yaml"
    model_config.write_text("corelm_conf:\n    languages: []\n")
    recipe.run(*options, "--stop_stage", "inference")
    assert not [call for call in calls_of(recipe, "gpst_inference") if "--language" in call], (
        "a model that is told none"
    )
    model_config.write_text("corelm_conf:\n    languages:\n    - English\n    - zh\n")
    recipe.run(*options, "--stage", "inference", "--stop_stage", "inference", "--force")
    told = {Path(value_of(call, "--output_dir")).name: call for call in calls_of(recipe, "gpst_inference")}
    assert {name: values_of(call, "--language") for name, call in told.items()} == {
        "test_seen": [], "test_unseen": ["English"], "free": ["English"]
    }  # fmt: skip


def test_a_corpus_without_text_is_trained_on_and_decoded_and_what_has_text_is_scored(recipe: Recipe) -> None:
    options = ["--modes", "continuation"]
    recipe.run(*options, "--stop_stage", "inference")
    assert "espnet_ext.bin.token_list" not in recipe.programs()
    for name in ("train", "test_unseen"):
        (recipe.directory / "dump/codec_world_vq" / name / "text").unlink()
    text = recipe.run(*options, "--stage", "score", status=2)
    assert "--asr_vocabulary must be test, as dump/codec_world_vq/train has no text" in text
    text = recipe.run(*options, "--stage", "score", "--asr_vocabulary", "test")
    assert "test_unseen has no text: it is not scored" in text
    assert [value_of(call, "--reference") for call in calls_of(recipe, "evaluate")] == [f"{TOKENS}/test_seen"]
    (recipe.directory / "dump/codec_world_vq/test_seen/text").unlink()
    recipe.run(*options, "--stage", "score", "--asr_vocabulary", "test")
    assert recipe.calls() == []
    text = recipe.run("--stage", "token_list", "--modes", "tts", status=2)
    assert "error: --modes must not have tts, as dump/codec_world_vq/train has no text, got tts" in text


def command_of_the_page() -> list[str]:
    """Options of the command of docs/gpst.md that trains on a corpus of one's own."""
    page = (ROOT / "docs" / "gpst.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line for line in page.splitlines() if line.startswith("./run.sh --datadir DATA")]
    return shlex.split(line)[1:]


@pytest.mark.parametrize("name", ["train_gpst", "train_gpst_hires"])
def test_the_command_for_ones_own_corpus_leaves_nothing_of_the_mini_recipe(
    recipe: Recipe, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text-to-semantic model was the mini one, and continuations began with one second."""
    pretend_gpus(monkeypatch, tmp_path, 16)
    options = command_of_the_page()
    for conf in ("train_gpst", "train_gpst_hires", "train_text_to_semantic"):
        (recipe.root / "conf" / f"{conf}.yaml").write_text("corelm: gpst\n")
    (recipe.directory / "conf").mkdir()
    (recipe.directory / "conf" / "decode_gpst.yaml").write_text("max_sec: 1\n")
    for part in ("train", "dev", "test_seen", "test_unseen"):
        (recipe.directory / "DATA" / part).mkdir(parents=True)
        (recipe.directory / "DATA" / part / "wav.scp").write_text("x\n")
    recipe.run(*options, "--train_config", f"conf/{name}.yaml")
    calls = recipe.calls()
    fits = [call for call in calls if call[1].endswith(".semantic_fit")]
    assert len(fits) == 2 and not [call for call in fits if "--semantic_conf" in call]
    assert {value_of(call, "--deduplicate") for call in fits} == {"true"}
    configs = {value_of(call, "--config") for call in calls if "--config" in call}
    assert configs == {f"../../../conf/{name}.yaml", "../../../conf/train_text_to_semantic.yaml"}
    continued = [call for call in calls if "--mode" in call and value_of(call, "--mode") == "continuation"]
    assert {value_of(call, "--prompt_sec") for call in continued} == {"3"}
    assert {value_of(call, "--inference_config") for call in continued} == {"../../../conf/decode_gpst.yaml"}
    header = (ROOT / "conf" / f"{name}.yaml").read_text(encoding="utf-8").partition("\ncorelm:")[0]
    words = shlex.split(header.replace("\\\n#", " ").splitlines()[-1])
    own = {"--train_config", "--ngpu", "--codec_conf"}  # what differs between the pages
    pairs = {option: value for option, value in zip(options, options[1:], strict=False) if option[:2] == "--"}
    for option in pairs.keys() - own:
        assert words[words.index(option) + 1] == pairs[option], option


def test_tiny_size_has_its_own_directories(recipe: Recipe) -> None:
    recipe.run("--size", "tiny")
    assert not [path for path in ("data", "dump", "exp") if (recipe.directory / path).exists()]


def test_what_codec_lm1_prepared_is_not_prepared_again(tmp_path: Path) -> None:
    """A recipe directory is where data, codes and the paths in their tables belong; experiments may be elsewhere."""
    recipe = copy_recipes(tmp_path, "mini_libritts", "gpst1")
    first = copy_recipes(tmp_path / "first", "mini_libritts")
    (first.root / "egs2/mini_libritts/codec_lm1").rename(recipe.root / "egs2/mini_libritts/codec_lm1")
    first = Recipe(recipe.root, "mini_libritts")
    first.run("--stop_stage", "codec_tokens")
    first.calls()
    own = recipe.directory / "conf/decode_gpst.yaml"
    own.parent.mkdir(exist_ok=True)
    shutil.copy2(ROOT / "egs2/mini_libritts/gpst1/conf/decode_gpst.yaml", own)
    recipe.run("--recipe_dir", "egs2/mini_libritts/codec_lm1", "--expdir", "../gpst1/exp")
    calls = recipe.calls()
    configs = {call[call.index("--inference_config") + 1] for call in calls if "--inference_config" in call}
    assert configs == {str(own)}, "with the guidance of this recipe, not as the repository's says"
    programs = [call[1] if call[0] == "-m" else Path(call[0]).name for call in calls]
    assert programs[0].endswith("semantic_fit")
    assert not {"format_wav.py", "filter_data.py", "espnet_ext.bin.codec_tokens"} & set(programs)
    assert (recipe.directory / "exp" / GPST).is_dir()
    assert not (recipe.root / "egs2/mini_libritts/codec_lm1/exp" / GPST).exists()


@pytest.mark.recipe
@pytest.mark.espnet
def test_tiny_recipe_speaks_in_every_mode(tmp_path: Path) -> None:
    for folder in (
        "local",
        "conf",
        *(f"egs2/mini_libritts/{part}" for part in ("corpus", "codec_lm1/local", "gpst1/local")),
    ):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    directory = tmp_path / "egs2/mini_libritts/gpst1"
    shutil.copy2(ROOT / "egs2/mini_libritts/gpst1/run.sh", directory)
    (directory / "conf").mkdir()  # a model of one epoch finds no end
    (directory / "conf" / "decode_gpst.yaml").write_text(
        "{maxlenratio: 1.0, semantic_maxlenratio: 2.0, max_sec: 1.0}\n"
    )
    command = [str(directory / "run.sh"), "--python", sys.executable, "--size", "tiny", "--max_epoch", "1"]
    command += ["--test_sets", "test_unseen", "--num_unconditional", "2"]
    command += ["--score_args", "--num_bootstrap 20 --mos_utterances 1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    sentences = {line.split()[0] for line in (directory / f"{TOKENS_TINY}/test_unseen/text").read_text().splitlines()}
    (model,) = (directory / "exp_tiny").glob("gpst_*_s1")
    for mode in MODES:
        output = model / f"decode_{mode}_local_ar" / "test_unseen"
        assert {path.stem for path in (output / "wav").glob("*.wav")} == sentences
        assert json.loads((output / "timing.json").read_text())["rtf"] > 0
    assert len(list((model / "decode_unconditional_local_ar/free/wav").glob("*.wav"))) == 2
    page = (directory / "exp_tiny/RESULTS.md").read_text().partition("### Modes")[2].partition("###")[0]
    assert [row.split("|")[1] for row in page.splitlines() if row.startswith("|")][2:] == ["unconditional", *MODES]
    times = (directory / "exp_tiny/stage_times.tsv").read_text().splitlines()
    nothing_to_do = {"mix": "there is nothing to mix", "train_tts": "it runs beside the other training"}
    assert [line.split("\t")[0] for line in times] == [name for name in STAGES if name not in nothing_to_do]

    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.count("finished before") == len(STAGES) - 1
