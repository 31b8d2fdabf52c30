"""The real run.sh of every recipe with a recorder in Python's place: what it calls, refuses and skips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ["mini_libritts", "fsdd", "libritts"]
STRATEGIES = ["parallel", "local_ar", "local_maskgit", "local_maskgit_adaptive", "local_speculative"]
DECODINGS = {"mini_libritts": STRATEGIES, "fsdd": STRATEGIES[:2], "libritts": STRATEGIES[:2]}
MODELS = {
    "mini_libritts": [f"train_mini_world_vq_phn_cmudict_s{factor}" for factor in (1, 2)],
    "fsdd": [f"train_fsdd_world_vq_phn_cmudict_s{factor}" for factor in (1, 2)],
    "libritts": [f"train_local_ar_encodec_char_s{factor}" for factor in (1, 2, 4)],
}
STAGES = ["data", "format", "filter", "codec", "codec_tokens", "token_list", "stats", "train", "tune", "inference"]
STAGES.append("score")
PROGRAMS = ["codec_fit", "codec_tokens", "token_list", "codec_lm_train", "aggregate_stats_dirs"]

# Notes its arguments in one write, fails for the program named in the file "fail", else makes what programs make, with
# their arguments and configuration as contents; that for each of --jobs. What is finished is the real record's to say.
RECORDER = (
    f"""#!/usr/bin/env bash
if [[ $1 == -c || ${{2-}} == */espnet_ext/*.py ]]; then exec '{sys.executable}' "$@"; fi
"""
    + """here=$(dirname "$0")
if [[ $3 == --jobs ]]; then
  number=0 status=0
  while read -r line; do
    eval "words=(${line})"
    if "$0" -m "$2" "${words[@]}"; then echo "${number}" >> "$4.finished"; else status=3; fi
    number=$((number + 1))
  done < "$4"
  exit ${status}
fi
printf -v line '%s\\x1f' "$@"
printf '%s\\n' "${line}" >> "${here}/calls"
if [[ -f ${here}/fail && "$*" == *"$(< "${here}/fail")"* ]]; then echo "broken on purpose" >&2; exit 3; fi
while (( $# > 0 )); do
  case $1 in
    --config) line+=$(< "$2") ;;
    --out | --output_dir)
      if [[ $2 == *.txt || $2 == *.md ]]; then
        mkdir -p "${2%/*}"; echo "${line}" > "$2"
      else
        mkdir -p "$2"/{train,valid}
        for name in wav.scp text utt2spk utt2num_frames codes.scp prompt.scp codec_info.yaml config.yaml \\
          semantic.scp semantic_info.yaml {train,valid}/{codes,text,semantic}_shape; do
          echo "${line}" > "$2/${name}"
        done
      fi ;;
  esac
  shift
done
"""
)

DATA = """#!/usr/bin/env bash
arguments=("$@")
while (( $# > 0 )); do [[ $1 != --datadir ]] || datadir=$2; shift; done
for name in "${datadir}"/{train,dev,test_seen,test_unseen}; do mkdir -p "${name}"; echo x > "${name}/wav.scp"; done
"""


@dataclass
class Recipe:
    """A copy of the recipes in a directory whose name has spaces."""

    root: Path
    name: str
    model: str = "codec_lm1"

    @property
    def directory(self) -> Path:
        return self.root / "egs2" / self.name / self.model

    @property
    def recorder(self) -> Path:
        return self.root / "my tools" / "python recorder"

    def run(self, *options: str, status: int = 0) -> str:
        command = [str(self.directory / "run.sh"), "--python", str(self.recorder), *options]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def calls(self) -> list[list[str]]:
        """Recorded command lines since the last call, oldest first."""
        path = self.recorder.with_name("calls")
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split("\x1f")[:-1] for line in lines]

    def programs(self) -> list[str]:
        return [call[1] if call[0] == "-m" else Path(call[0]).name for call in self.calls()]


@pytest.fixture(params=RECIPES)
def any_recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    return copy_recipes(tmp_path, request.param)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return copy_recipes(tmp_path, "fsdd")


def copy_recipes(tmp_path: Path, name: str, model: str = "codec_lm1") -> Recipe:
    made = Recipe(tmp_path / "a place with spaces", name, model)
    shutil.copytree(ROOT / "local", made.root / "local", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (made.directory / "local").mkdir(parents=True)
    (made.root / "conf").mkdir()
    shutil.copy2(ROOT / "egs2" / name / model / "run.sh", made.directory)
    (made.directory / "local" / "data.sh").write_text(DATA)
    for config in (
        *(
            "train_mini",
            "train_mini_base",
            "train_fsdd",
            "train_fsdd_base",
            "train_local_ar",
            "train_tiny",
            "train_tiny_base",
        ),
        "train_mini_gpst",
        "train_mini_text_to_semantic",
        "train_tiny_gpst",
        "train_tiny_text_to_semantic",
        "decode_gpst",
        "decode_fsdd",
        *(f"decode_{strategy}" for strategy in STRATEGIES),
    ):
        (made.root / "conf" / f"{config}.yaml").write_text("{}\n")
    made.recorder.parent.mkdir(parents=True)
    made.recorder.write_text(RECORDER)
    made.recorder.chmod(0o755)
    return made


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, count: int) -> None:
    """Let run.sh, which asks torch, find so many GPUs."""
    (folder / "torch.py").write_text(f"class cuda:\n    device_count = staticmethod(lambda: {count})\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def value_of(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


def values_of(call: list[str], option: str) -> list[str]:
    return [after for before, after in zip(call, call[1:], strict=False) if before == option]


def test_all_stages_run_in_order(any_recipe: Recipe) -> None:
    any_recipe.run()
    check, *programs = any_recipe.programs()
    assert check == "espnet_ext.bin.codec_fit", "whether there is such a codec is asked before any work"
    order = list(dict.fromkeys(programs))
    assert [name.rpartition(".bin.")[2] for name in order[:7]] == ["format_wav.py", "filter_data.py", *PROGRAMS]
    last = ["codec_lm_inference", "codec_resynthesis", "evaluate", "results"]
    tuned = ["tune"] if any_recipe.name == "mini_libritts" else []
    assert [name.rpartition(".")[2] for name in order[7:]] == [*tuned, *last]


def test_help_lists_stages_and_options(any_recipe: Recipe) -> None:
    text = any_recipe.run("--help")
    for number, name in enumerate(STAGES, start=1):
        assert f"{number:2d} {name}\n" in text
    assert "--stop_stage" in text
    assert any_recipe.calls() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stag", "1"], "unknown option --stag; the options are: --stage "),
        (["--stage", "codes"], "9 tune, 10 inference, 11 score; got 'codes'"),
        (["--stage", "12"], "got '12'"),
        (["--stage", "0"], "got '0'"),
        (["--stage", "5", "--stop_stage", "filter"], "--stage must not come after --stop_stage, got 5 and filter"),
        (["--nj", "two"], "--nj must be a whole number, got 'two'"),
        (["--stacking", "1 0"], "--stacking must be numbers of at least 1"),
        (["--decodings", " "], "--decodings must not be empty"),
        (["--dask_scheduler", "here"], "--dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got 'here'"),
        (["--tag"], "--tag needs a value"),
        (["--asr_vocabulary", "all"], "--asr_vocabulary must be train or test, got 'all'"),
        (["--max_epoch", "0"], "--max_epoch must be a number of at least 1, got '0'"),
        (["--prompt_min_sec", "long"], "--prompt_min_sec must be seconds, got 'long'"),
        (["--force", "maybe"], "--force must be true or false, got 'maybe'"),
        (["train"], "arguments must be options (--name value), got 'train'"),
        (["--python", "no/such/python"], "--python must be a Python interpreter"),
    ],
)
def test_wrong_options_are_one_line_and_status_two(recipe: Recipe, options: list[str], message: str) -> None:
    text = recipe.run(*options, status=2)
    assert message in text
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    assert recipe.calls() == []


@pytest.mark.parametrize(
    "options",
    [
        ["--stage", "3", "--stop_stage", "3", "--min_wav_duration", "0.7"],
        ["--stage", "filter", "--stop-stage", "filter", "--min-wav-duration", "0.7"],
        ["--stage=filter", "--stop-stage=3", "--min_wav-duration=0.7"],
    ],
)
def test_stages_by_name_or_number_and_options_in_every_spelling(recipe: Recipe, options: list[str]) -> None:
    recipe.run("--stop_stage", "format")
    recipe.calls()
    recipe.run(*options)
    calls = recipe.calls()
    assert [Path(call[0]).name for call in calls] == ["filter_data.py"] * 3
    assert {value_of(call, "--min_wav_duration") for call in calls} == {"0.7"}


def test_missing_predecessor_names_the_file_and_the_stage(recipe: Recipe) -> None:
    text = recipe.run("--stage", "codec", status=1)
    assert "error: stage codec needs dump/filtered/train/wav.scp" in text
    assert "run stage 3 (filter) first" in text
    assert recipe.calls() == []


def test_missing_configuration_names_the_option(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "token_list")
    text = recipe.run("--stage", "stats", "--train_config", "conf/none.yaml", status=2)
    assert "error: --train_config must be an existing file, got 'conf/none.yaml'" in text


def test_failing_stage_names_itself_and_its_log(recipe: Recipe) -> None:
    recipe.recorder.with_name("fail").write_text("codec_fit --codec world_vq --wav_scp")
    text = recipe.run(status=1)
    last = text.splitlines()[-1]
    assert last.startswith("error: stage codec (world_vq) failed, see ")
    assert "broken on purpose" in Path(last.partition(" see ")[2]).read_text()


def test_failing_training_stops_the_other_one_and_is_not_taken_for_finished(recipe: Recipe) -> None:
    recipe.recorder.with_name("fail").write_text("--frame_stacking_factor 2")
    assert "error: stage train (s2) failed" in recipe.run(status=1)
    recipe.recorder.with_name("fail").unlink()
    recipe.calls()
    recipe.run("--stop_stage", "train")
    assert "2" in [value_of(call, "--frame_stacking_factor") for call in recipe.calls()]


def test_a_cluster_gets_the_work_and_changes_no_result(recipe: Recipe) -> None:
    recipe.run("--dask_scheduler", "tcp://host:8786")
    told = [call for call in recipe.calls() if "--dask_scheduler" in call]
    assert {value_of(call, "--dask_scheduler") for call in told} == {"tcp://host:8786"}
    programs = {(call[1] if call[0] == "-m" else Path(call[0]).name).rpartition(".bin.")[2] for call in told}
    assert programs == {"format_wav.py", "codec_tokens", "codec_lm_inference", "codec_resynthesis", "evaluate"}
    assert "finished before" in recipe.run()
    assert recipe.calls() == []


def test_training_command(recipe: Recipe) -> None:
    options = ("--train_args", "--max_epoch 1 --seed 3", "--base_args", "--seed 5", "--stacking", "1 4", "--tag", "x")
    recipe.run("--stop_stage", "train", *options)
    base, *both = recipe.calls()[-3:]
    first, second = sorted(both, key=lambda call: value_of(call, "--frame_stacking_factor"))
    assert [value_of(base, name) for name in ("--frame_stacking_factor", "--seed")] == ["1", "5"]
    assert "--max_epoch" not in base
    assert {value_of(call, "--init_from") for call in both} == {value_of(base, "--output_dir")}
    assert [value_of(call, "--output_dir") for call in (first, second)] == ["exp/codec_lm_x_s1", "exp/codec_lm_x_s4"]
    assert (value_of(first, "--max_epoch"), value_of(first, "--seed")) == ("1", "3")
    stats = "exp/codec_lm_stats_world_vq_phn_cmudict/train"
    assert values_of(first, "--train_shape_file") == [f"{stats}/codes_shape", f"{stats}/text_shape"]
    codes = "dump/codec_world_vq/train"
    assert values_of(first, "--train_data_path_and_name_and_type") == [
        f"{codes}/text,text,text",
        f"{codes}/codes.scp,codes,kaldi_ark",
        f"{codes}/prompt.scp,prompt,kaldi_ark",
    ]


def test_every_strategy_and_stacking_factor_decodes_every_test_set(any_recipe: Recipe) -> None:
    any_recipe.run()
    calls = [call for call in any_recipe.calls() if call[1] == "espnet_ext.bin.codec_lm_inference"]
    outputs = {value_of(call, "--output_dir") for call in calls}
    sets = ["test_seen"] if any_recipe.name == "fsdd" else ["test_seen", "test_unseen"]
    assert outputs == {
        f"exp/codec_lm_{model}/decode_{strategy}/{name}"
        for model in MODELS[any_recipe.name]
        for strategy in DECODINGS[any_recipe.name]
        for name in sets
    }
    for call in calls:
        of = "fsdd" if any_recipe.name == "fsdd" else value_of(call, "--decoding")
        assert value_of(call, "--inference_config") == f"../../../conf/decode_{of}.yaml"


def test_a_strategy_of_somebody_else_needs_a_configuration_and_is_told_before_the_first_stage(recipe: Recipe) -> None:
    text = recipe.run("--decodings", "parallel best_of", "--inference_config", "", status=2)
    assert text == ("error: --decodings must be strategies with a conf/decode_<strategy>.yaml each, got 'best_of'\n")
    assert recipe.calls() == []
    (recipe.directory / "conf").mkdir()
    (recipe.directory / "conf" / "decode_best_of.yaml").write_text("decoding: best_of\n")
    recipe.run("--decodings", "best_of", "--inference_config", "")
    calls = [call for call in recipe.calls() if "--decoding" in call]
    assert [value_of(call, "--inference_config") for call in calls] == ["conf/decode_best_of.yaml"] * 2
    recipe.run("--stage", "score", "--decodings", "best_of")  # decodes nothing, so it needs none
    recipe.run("--stop_stage", "train", "--decodings", "other")


def test_a_given_decoding_configuration_is_that_of_every_strategy(recipe: Recipe) -> None:
    (recipe.root / "conf" / "warm.yaml").write_text("sampling: {temperature: 1.0}\n")
    recipe.run("--inference_config", "conf/warm.yaml")
    calls = [call for call in recipe.calls() if "--decoding" in call]
    assert {value_of(call, "--inference_config") for call in calls} == {"../../../conf/warm.yaml"}
    assert len(calls) == 4


def test_tiny_size_has_its_own_directories(tmp_path: Path) -> None:
    mini = copy_recipes(tmp_path, "mini_libritts")
    mini.run("--size", "tiny")
    assert not [path for path in ("data", "dump", "exp") if (mini.directory / path).exists()]
    assert "must be mini or tiny, got 'huge'" in mini.run("--size", "huge", status=2)


def test_path_with_spaces_reaches_the_corpus_script_whole(recipe: Recipe) -> None:
    script = recipe.directory / "local" / "data.sh"
    script.write_text(DATA + 'printf "%s\\n" "${arguments[@]}" > arguments\n')
    (recipe.root / "my digits").mkdir()
    recipe.run("--stop_stage", "data", "--fsdd", "my digits")
    arguments = (recipe.directory / "arguments").read_text().splitlines()
    assert value_of(arguments, "--fsdd") == str(recipe.root / "my digits")


QUICK = ["--stacking", "2", "--decodings", "parallel local_ar local_maskgit"]
QUICK += ["--score_args", "--num_bootstrap 20 --mos_utterances 1"]


@pytest.mark.recipe
@pytest.mark.espnet
@pytest.mark.parametrize(
    ("options", "outputs"),
    [
        pytest.param(QUICK, 6, id="one model, three strategies, two sets"),
        pytest.param([], 20, id="two models, five strategies, two sets", marks=pytest.mark.slow),
    ],
)
def test_tiny_recipe_speaks_every_test_sentence(tmp_path: Path, options: list[str], outputs: int) -> None:
    for folder in ("local", "conf", "egs2/mini_libritts/corpus", "egs2/mini_libritts/codec_lm1/local"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    directory = tmp_path / "egs2/mini_libritts/codec_lm1"
    shutil.copy2(ROOT / "egs2/mini_libritts/codec_lm1/run.sh", directory)
    command = [str(directory / "run.sh"), "--python", sys.executable, "--size", "tiny", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    sentences = {
        name: {
            line.split()[0] for line in (directory / f"dump_tiny/codec_world_vq/{name}/text").read_text().splitlines()
        }
        for name in ("test_seen", "test_unseen")
    }
    decoded = sorted(directory.glob("exp_tiny/codec_lm_*_s?/decode_*/test_*"))
    assert len(decoded) == outputs
    for folder in decoded:
        assert {path.stem for path in (folder / "wav").glob("*.wav")} == sentences[folder.name]
        assert json.loads((folder / "timing.json").read_text())["rtf"] > 0
    assert (directory / "exp_tiny/RESULTS.md").stat().st_size > 0
    times = (directory / "exp_tiny/stage_times.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in times] == STAGES

    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.count("finished before") == len(STAGES)
