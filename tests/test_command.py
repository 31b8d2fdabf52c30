"""One command for all: every command of the package by name, quickly, and configurations that come along by name."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fabricated import one_error

import espnet_ext
from espnet_ext import registries
from espnet_ext.bin import command
from espnet_ext.bin.completion import all_commands
from espnet_ext.registry import Registry
from espnet_ext.storage import shipped

ROOT = Path(__file__).resolve().parent.parent
WITH_TORCH = {"train": "ESPnet's own parser makes most of its options, and importing it imports torch"}
HELP = [sys.executable, "-X", "importtime", "-m", "espnet_ext.bin.command"]


def test_every_command_of_the_package_has_a_name_and_a_line() -> None:
    modules = {path.stem for path in (ROOT / "espnet_ext" / "bin").glob("*.py")} - {"__init__", *command.NO_COMMANDS}
    assert set(command.commands().values()) == modules
    for name, module in command.commands().items():
        assert 10 < len(command.summary(module)) < 130, name
        assert f"  {name} " in command.help_text()


def test_the_help_imports_nothing_heavy_and_takes_less_than_half_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*HELP, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("usage: espnet-ext")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "yaml", "espnet2"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # whatever else the machine does


@pytest.mark.parametrize("name", command.commands())
def test_the_help_of_a_command_imports_no_torch(name: str) -> None:
    """It took two seconds."""
    if name in WITH_TORCH:
        pytest.skip(WITH_TORCH[name])
    script = (
        "import sys\nfrom espnet_ext.bin import command\n"
        f"try:\n    command.main([{name!r}, '--help'])\nexcept SystemExit as error:\n    assert not error.code\n"
        "sys.exit(' '.join({'torch', 'espnet2', 'transformers', 'scipy', 'matplotlib'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: espnet-ext {name}" in done.stdout


def test_a_registry_knows_its_own_classes_before_they_are_imported() -> None:
    """The names in the help are those of the classes, and each is registered by the module that it is said to be in."""
    for registry in (value for value in vars(registries).values() if isinstance(value, Registry)):
        own = {name for name in registry if registry[name].__module__.startswith("espnet_ext.")}
        assert own == set(registry._modules)
        for name in own:
            assert registry[name].__module__ == registry._modules[name]


def test_a_plug_in_cannot_take_the_name_of_a_class_that_is_not_imported_yet() -> None:
    fresh: Registry[type] = Registry("codec", modules={"world_vq": "espnet_ext.tokenizers.codec.world_vq"})
    assert list(fresh) == ["world_vq"] and len(fresh) == 1 and "world_vq" in fresh
    script = (
        "from espnet_ext.registries import codecs\ntry:\n    codecs.register('world_vq')(type('Mine', (), {}))\n"
        "except ValueError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "codec 'world_vq' is already espnet_ext.tokenizers.codec.world_vq:WorldVQCodec" in done.stdout


def test_a_command_runs_under_its_name_and_that_of_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("infer", "codec_lm_inference", "codec-lm-inference"):
        with pytest.raises(SystemExit) as caught:
            command.main([name, "--help"])
        assert caught.value.code == 0 and f"usage: espnet-ext {name}" in capsys.readouterr().out
    command.main(["--version"])
    assert capsys.readouterr().out == f"espnet-ext {espnet_ext.__version__}\n"


def test_an_unknown_command_is_told_the_nearest_or_all() -> None:
    assert "command must be 'evaluate', perhaps, got 'evalute'" in one_error(command.main, "evalute")
    assert "command must be one of ['benchmark'" in one_error(command.main, "xyzzy")


@pytest.mark.espnet
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("espnet2")
    pytest.importorskip("shtab", reason="shtab is an extra")
    from espnet_ext.bin import completion

    completion.main([shell])
    script = capsys.readouterr().out
    for word in ("say", "recommend", "--frame_stacking_factor", "--max_wer", "--temperature"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert {"train", "say"} <= set(all_commands()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]


def test_a_configuration_that_comes_along_is_found_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = str(ROOT / "conf" / "train_mini.yaml")
    assert shipped.shipped_config("train_mini") == found
    for given in ("train_mini.yaml", "conf/train_mini", "no_such"):
        assert shipped.shipped_config(given) == given
    words = ["--config", "train_mini", "--config=train_mini", "--seed", "train_mini"]
    expected = ["--config", found, f"--config={found}", "--seed", "train_mini"]
    assert shipped.with_shipped_configs(words, "--config") == expected
    Path("train_mini").write_text("seed: 1")
    assert shipped.shipped_config("train_mini") == "train_mini"  # what lies here comes first


def test_a_package_that_is_installed_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "espnet_ext"
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train_x.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(shipped, "PACKAGE", package)
    assert shipped.shipped_config("train_x") == str(package / "conf" / "train_x.yaml")


@pytest.mark.espnet
def test_training_and_decoding_take_such_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.bin import codec_lm_train
    from espnet_ext.bin.speaking import add_sampling_options

    with pytest.raises(SystemExit):
        codec_lm_train.main(["--config", "train_tiny", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["primary_conf"]["width"] == 96 and printed["primary"] == "cross_attention"
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    args = parser.parse_args(["--inference_config", "decode_local_ar"])
    assert args.inference_config == ROOT / "conf" / "decode_local_ar.yaml"
