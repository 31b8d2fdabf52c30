"""The mini corpus in ESPnet3: configurations in its words anywhere, all stages where ESPnet 202609 or later is."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs.lengths import training_lengths
from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import averaged_model_file

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "egs3" / "mini_libritts" / "esp2_codec_lm"
WITHOUT = "ESPnet before 202609 has no espnet3"
NEEDED = ("espnet3", "lightning", "dask_jobqueue")
TRAIN = sorted((ROOT / "conf").glob("train_*.yaml"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def espnet2_config() -> ModuleType:
    pytest.importorskip("espnet2")
    import espnet_ext.tasks  # noqa: F401 (its shim makes torchaudio importable)

    spec = importlib.util.spec_from_file_location("espnet2_config", RECIPE / "src" / "espnet2_config.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.espnet
@pytest.mark.parametrize("path", [path for path in TRAIN if "gpst" not in path.name], ids=lambda path: path.stem)
def test_every_training_configuration_can_be_said_in_the_words_of_espnet3(
    espnet2_config: ModuleType, path: Path
) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = espnet2_config.espnet3_config(config, "stats")
    assert found["model"]["corelm"] == config["corelm"] and "optim" not in found["model"]
    assert found["trainer"]["max_epochs"] == config["max_epoch"]
    for part in ("optimizer", "scheduler"):
        module, _, name = found[part]["_target_"].rpartition(".")
        assert hasattr(importlib.import_module(module), name)
    batches = found["dataloader"]["train"]["iter_factory"]["batches"]
    assert batches["shape_files"] == ["stats/train/codes_shape", "stats/train/text_shape"]
    assert batches["type"] == config["batch_type"] and batches["batch_bins"] == config.get("batch_bins", 100_000)
    (phase, name, mode), *_ = config["best_model_criterion"]
    assert found["best_model_criterion"][0] == [f"{phase}/{name}", config["keep_nbest_models"], mode]
    assert averaged_model_file(found) == averaged_model_file(config), (
        "the weights have the name that our commands look for"
    )


@pytest.mark.espnet
def test_single_options_differ_and_what_espnet3_cannot_be_told_is_named(espnet2_config: ModuleType) -> None:
    config = yaml.safe_load((ROOT / "conf" / "train_tiny.yaml").read_text(encoding="utf-8"))
    other = espnet2_config.changed(config, {"max_epoch": 1, "optim_conf": {"lr": 0.5}})
    assert other["optim_conf"] == {**config["optim_conf"], "lr": 0.5} and config["max_epoch"] == 3
    assert espnet2_config.espnet3_config(other, "stats")["optimizer"]["lr"] == 0.5
    with pytest.raises(UserError, match=r"got \['patience'\]: its trainer has none"):
        espnet2_config.espnet3_config({**config, "patience": 3}, "stats")
    with pytest.raises(UserError, match="optim must be one of .*, got 'magic'"):
        espnet2_config.espnet3_config({**config, "optim": "magic"}, "stats")


def test_an_average_that_espnet3_chose_is_found_by_its_criterion() -> None:
    assert averaged_model_file({"best_model_criterion": [["valid/gain_ar", 2, "max"]]}) == "valid.gain_ar.ave.pth"
    for wrong in ("loss", "../x/loss", "a/b/c", 3):
        with pytest.raises(UserError, match="best_model_criterion must be a list of three words each"):
            averaged_model_file({"best_model_criterion": [[wrong, 2, "min"]]})


def test_lengths_are_read_from_shape_files_in_the_order_of_numbers(tmp_path: Path) -> None:
    """ESPnet3 numbers the utterances: 10 comes behind 9, and such a file was refused as unsorted."""
    for name, value in (("codes", "8,2"), ("text", "4")):
        (tmp_path / f"{name}_shape").write_text("".join(f"{number} {value}\n" for number in range(12)))
    lengths = training_lengths([str(tmp_path / f"{name}_shape") for name in ("codes", "text")], "text")
    assert (lengths.frames_per_token, lengths.longest) == (2.0, 4)


@pytest.mark.skipif(importlib.util.find_spec("espnet3") is not None, reason="ESPnet 202609 or later has espnet3")
def test_the_recipe_says_in_one_line_which_espnet_it_needs(tmp_path: Path) -> None:
    command = [sys.executable, str(RECIPE / "run.py"), "--stages", "train"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: this recipe needs ESPnet 202609 or later")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe beside the files that it uses, to be written to."""
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            pytest.skip(WITHOUT if module == "espnet3" else f"ESPnet3 needs {module}, which is not installed")
    ignored = shutil.ignore_patterns("data*_*", "dump*", "exp*", "data", "downloads", "__pycache__")
    for name in ("local", "conf", "egs2/mini_libritts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copytree(
        ROOT / "egs2/mini_libritts/codec_lm1/local", tmp_path / "egs2/mini_libritts/codec_lm1/local", dirs_exist_ok=True
    )
    shutil.copytree(
        RECIPE, tmp_path / RECIPE.relative_to(ROOT), ignore=shutil.ignore_patterns("data_*", "dump_*", "exp")
    )
    (tmp_path / "espnet_ext").symlink_to(ROOT / "espnet_ext")
    return tmp_path / RECIPE.relative_to(ROOT)


def run(recipe: Path, *stages: str) -> str:
    command = [sys.executable, "run.py", "--stages", *stages]
    for role in ("training", "inference", "metrics", "publication", "demo"):
        command += [f"--{role}_config", f"conf/{role}.yaml"]
    done = subprocess.run(
        command, cwd=recipe, env=ENVIRONMENT, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.recipe
@pytest.mark.espnet
def test_all_stages_run_and_what_espnet3_trained_is_an_experiment_of_ours(recipe: Path) -> None:
    told = run(recipe, "upload_model", "--dry_run")
    assert "[DRY RUN] would run stage: upload_model" in told
    run(recipe, "create_dataset", "collect_stats", "train", "infer", "measure", "pack_model", "pack_demo")
    exp = recipe / "exp" / "training_tiny"
    config = yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))
    assert config["frames_per_token"] > 0 and config["speech_limits"] and config["codec_info"]["fingerprint"]
    said = read_scp(exp / "inference" / "test_seen" / "speech.scp", in_order=False)
    assert len(said) == 8
    measures = json.loads((exp / "inference" / "metrics.json").read_text(encoding="utf-8"))
    assert set(measures["src.metrics.Evaluation"]) == {"test_seen", "test_unseen"}
    assert (exp / "inference" / "test_seen" / "scores.json").is_file()

    from espnet_ext.inference import CodecLM

    for place in (exp, exp / "model_pack" / "exp" / "training_tiny"):
        speech = CodecLM.from_experiment(place)("two red dogs", decoding="local_ar", seed=0)
        assert len(speech.waveform)
    assert (exp / "demo" / "app.py").is_file()
    packed = [*(exp / "model_pack").rglob("*.yaml"), *(exp / "model_pack").rglob("*.md")]
    assert [path for path in packed if str(recipe.parent) in path.read_text(encoding="utf-8")] == []
