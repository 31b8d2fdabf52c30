"""What the README shows works."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from espnet_ext.bin.command import module_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake (?:-C \S+ )?([a-z-]+)", README))
    assert named and named <= targets


def test_every_path_in_backticks_exists():
    named = re.findall(r"`((?:egs2|conf|espnet_ext|local|tests|requirements)/[\w./-]*)`", README)
    assert named and [path for path in named if not (ROOT / path).exists()] == []


def test_the_experiments_named_are_those_the_recipe_makes():
    script = (ROOT / "egs2/mini_libritts/codec_lm1/run.sh").read_text()
    conf = re.search(r"mini\) defaults=\(--train_config conf/(\w+)\.yaml", script).group(1)
    codec, *tokens = (re.search(rf"--{name} (\w+)", script).group(1) for name in ("codec", "token_type", "g2p"))
    named = set(re.findall(r"exp/codec_lm_\w+", README))
    assert named and named <= {f"exp/codec_lm_{conf}_{codec}_{'_'.join(tokens)}_s{factor}" for factor in (1, 2)}


def test_every_strategy_of_ours_has_a_row():
    from conftest import built_in

    from espnet_ext.decoding import strategies

    rows = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    assert set(built_in(strategies)) <= rows


PAGES = [
    "README.md",
    "docs/evaluation.md",
    "docs/choosing.md",
    "docs/python.md",
    "benchmarks/results/mini_sweep_h200.md",
]


def commands_of(page: str) -> list[tuple[str, list[str]]]:
    """Every command of ours in the shell blocks of a page: its module and words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:python -m espnet_ext\.bin\.|^[^#]*espnet-ext )([a-z]\w+)(.*)", line) for line in lines]
    return [(module_of(match[1]), shlex.split(match[2], comments=True)) for match in found if match]


@pytest.mark.espnet
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_have_options_that_there_are(page):
    commands = commands_of(page)
    assert commands
    for name, words in commands:
        parser = importlib.import_module(f"espnet_ext.bin.{name}").get_parser()
        parser.parse_args(words)  # a wrong one exits


@pytest.mark.espnet
def test_the_say_command_speaks(corpus, experiment, tmp_path, monkeypatch):
    from espnet_ext.bin import say

    command = next(block for block in blocks("bash") if "espnet_ext.bin.say" in block).replace("\\\n", " ")
    words = shlex.split(next(line for line in command.splitlines() if "espnet_ext.bin.say" in line))
    words = words[words.index("espnet_ext.bin.say") + 1 :]
    assert words[0].startswith("exp/codec_lm_")
    words[0] = str(experiment)
    words[words.index("--data_dir") + 1] = str(corpus / "train")
    words[words.index("--speaker") + 1] = "s"
    monkeypatch.chdir(tmp_path)
    say.main(words)
    assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 44


@pytest.mark.espnet
def test_the_python_example_runs(corpus, experiment, tmp_path, monkeypatch):
    import soundfile
    from fabricated import tone

    (code,) = blocks("python")
    name = re.search(r'from_experiment\("(.*?)"\)', code).group(1)
    shutil.copytree(experiment, tmp_path / name)
    soundfile.write(tmp_path / "seven.wav", tone(), 16000)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_tour_has_at_most_eight_files_and_passes_through_sampling_and_a_codec():
    tour = re.findall(r"^\d\. `([\w/]+\.py)`: ", README.partition("A tour in reading order")[2], flags=re.MULTILINE)
    assert 1 < len(tour) <= 8 and [path for path in tour if not (ROOT / path).is_file()] == []
    assert "espnet_ext/decoding/sampling.py" in tour and tour[-1].startswith("espnet_ext/tokenizers/codec/")
