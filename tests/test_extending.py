"""docs/extending.md is a package that works: its code is installed, its tests are run, its core LM is trained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import soundfile
import torch
from fabricated import tone

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# what tells whether a plug-in that happens to be installed disturbs the tests of what is built in
OF_OURS = [
    "tests/test_codec.py::test_every_codec_of_ours_has_a_tiny_configuration_here",
    "tests/test_conf.py::test_every_strategy_has_a_decoding_configuration_of_its_own",
    "tests/test_evaluators.py::test_every_option_has_its_evaluators",
    "tests/test_gpst_docs.py::test_every_mode_and_every_semantic_tokenizer_has_a_row",
    "tests/test_graphs.py::test_every_strategy_of_ours_can_be_a_graph",
    "tests/test_house.py::test_strategy_of_the_contributing_page_works",
    "tests/test_readme.py::test_every_strategy_of_ours_has_a_row",
    "tests/test_semantic.py::test_every_tokenizer_of_ours_has_a_tiny_configuration",
    "tests/test_strategies.py::test_every_strategy_of_ours_says_how_many_passes_it_takes",
]
# contracts that run on whatever is registered: one of each kind
OF_ALL = [
    "tests/test_codec.py::test_contract[loudness-every_frame_has_a_vector]",
    "tests/test_evaluators.py::test_contract[asr-counter]",
    "tests/test_graphs.py::test_a_batch_that_is_halved_and_looked_at_now_and_then_makes_the_same_codes"
    "[best_of-prefix-greedy]",
    "tests/test_semantic.py::test_contract[crossings-units_depend_on_the_utterance_alone]",
    "tests/test_strategies.py::test_contract[2-min_frames_are_kept-best_of]",
]


def blocks(language: str) -> list[str]:
    """Contents of the page's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package, as pip leaves one behind: modules and what they announce."""
    folder = tmp_path_factory.mktemp("site-packages")
    for block in blocks("python"):
        name = block.partition("\n")[0].removeprefix("# ")
        assert name.endswith(".py"), f"a block must begin with the name of its file, got {name}"
        (folder / name).parent.mkdir(exist_ok=True)
        assert not (folder / name).exists(), f"{name} stands on the page twice"
        (folder / name).write_text(block)
    about = folder / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    groups = tomllib.loads("\n".join(blocks("toml")))["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run_tests(installed: Path, *names: str) -> None:
    """Run tests in a process in which the package is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr


def test_every_group_is_on_the_page_and_what_is_announced_has_a_group() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    kinds = re.search(r"PLUG_INS = \((.*?)\n\)", setup, flags=re.DOTALL)
    assert kinds is not None
    groups = {f"espnet_ext.{kind}" for kind in re.findall(r'"(\w+)"', kinds[1])}
    assert set(tomllib.loads("\n".join(blocks("toml")))["project"]["entry-points"]) <= groups
    assert groups <= set(re.findall(r"`(espnet_ext\.\w+)`", PAGE))


def test_the_package_of_the_page_keeps_its_contracts(installed: Path) -> None:
    run_tests(installed, str(installed / "tests" / "test_my_package.py"))


@pytest.mark.espnet
def test_tests_of_this_package_are_green_where_a_plug_in_is_installed(installed: Path) -> None:
    """Installing the strategy of CONTRIBUTING.md made ten of them fail."""
    run_tests(installed, *OF_OURS, *OF_ALL)


def prepared(recipe: Path) -> None:
    """What the stages in front of the statistics leave behind: a codec, codes and data files of tones, a token list."""
    from espnet_ext.data.ark import codes_writer
    from espnet_ext.data.datadir import read_scp, write_scp
    from espnet_ext.tokenizers.codec import copy_codec, create_codec, save_codec

    dump = recipe / "dump/codec_world_vq"
    codec = create_codec("world_vq", [tone(), tone(0.7)], seed=0, conf={"codebook_size": 8})
    save_codec(codec, "world_vq", dump, origin={})
    tokens = recipe / "data/token_list/char/tokens.txt"
    tokens.parent.mkdir(parents=True)
    tokens.write_text("\n".join(["<unk>", "<space>", *"ha", "<eos>"]) + "\n")
    for part, size in (("train", 4), ("dev", 2), ("test_seen", 2)):
        waves = {f"s-{index}": tone(0.4 + 0.1 * index) for index in range(size)}
        with codes_writer(dump / part) as write:
            for name, wave in waves.items():
                write(name, codec.encode_utterance(torch.from_numpy(wave)).numpy())
                soundfile.write(dump / part / f"{name}.wav", wave, 16000)
        places = list(read_scp(dump / part / "codes.scp").values())
        tables = {
            "prompt.scp": dict(zip(waves, reversed(places), strict=True)),
            "text": dict.fromkeys(waves, "ha"),
            "utt2spk": dict.fromkeys(waves, "s"),
            "wav.scp": {name: str(dump / part / f"{name}.wav") for name in waves},
        }
        for file, table in tables.items():
            write_scp(dump / part / file, table)
        copy_codec(dump, dump / part)


@pytest.mark.recipe
@pytest.mark.espnet
def test_the_core_lm_of_the_page_is_trained_decoded_and_scored_by_the_recipe(installed: Path, tmp_path: Path) -> None:
    """One file of another package: neither the stages nor the package know what it reads and how it is asked."""
    from espnet_ext.data.datadir import read_scp

    prepared(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/lasting.yaml").write_text(blocks("yaml")[-1])
    (tmp_path / "conf/decode.yaml").write_text("decoding: parallel\n")
    options = {
        "recipe_dir": tmp_path, "python": sys.executable, "stage": "stats", "stop_stage": "score", "stacking": "1",
        "train_config": "conf/lasting.yaml", "max_epoch": 1, "inference_config": "conf/decode.yaml",
        "decodings": "parallel local_ar", "inference_args": "--mode_conf stretch=0.5", "nj": 1, "inference_nj": 1,
        "score_args": "--asr none --speaker none --mos none --distortion false --num_bootstrap 10",
    }  # fmt: skip
    command = ["bash", str(ROOT / "local/codec_lm.sh")]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (model,) = (tmp_path / "exp").glob("codec_lm_lasting_*_s1")
    wished = read_scp(tmp_path / "dump/codec_world_vq/test_seen/utt2num_frames")
    for strategy in ("parallel", "local_ar"):
        spoken = read_scp(model / f"decode_{strategy}/test_seen/utt2num_frames")
        assert spoken.keys() == wished.keys()
        assert all(int(spoken[utt]) <= max(round(int(wished[utt]) * 0.5), 1) for utt in wished)
        assert f"s1_{strategy}" in (tmp_path / "exp/RESULTS.md").read_text()
