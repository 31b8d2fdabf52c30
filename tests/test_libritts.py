"""The LibriTTS recipe on a tree with the real layout and what goes wrong in it: stage by stage, then as a whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from fabricated_libritts import DATA_TROUBLE, FORMAT_TROUBLE, ODD_RATE, RATE_HZ, SPEAKERS, TOO_SHORT, write_tree

from espnet_ext.data.datadir import read_scp

ROOT = Path(__file__).resolve().parent.parent
PARTS = "train-clean-100 train-clean-360 train-other-500"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LIBRITTS"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spoilt tree; read only."""
    return write_tree(tmp_path_factory.mktemp("corpora") / "LibriTTS")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe's directory."""
    shutil.copytree(ROOT / "local", tmp_path / "local", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "espnet_ext").symlink_to(ROOT / "espnet_ext")
    ignored = shutil.ignore_patterns("data*", "dump*", "exp*", "downloads", "__pycache__")
    source = ROOT / "egs2" / "libritts" / "codec_lm1"
    shutil.copytree(source, tmp_path / "egs2" / "libritts" / "codec_lm1", ignore=ignored)
    shutil.copytree(source / "local", tmp_path / "egs2" / "libritts" / "codec_lm1" / "local", dirs_exist_ok=True)
    return tmp_path / "egs2" / "libritts" / "codec_lm1"


def run(recipe: Path, *options: object, status: int = 0, environment: dict[str, str] | None = None) -> str:
    command = [str(recipe / "run.sh"), "--python", sys.executable, "--codec", "world_vq", "--test_size", "4"]
    done = subprocess.run(
        [*command, *map(str, options)], cwd=recipe.parent, env=ENVIRONMENT | (environment or {}),
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def script(recipe: Path, name: str, *options: object, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(recipe / "../../../local" / name), *map(str, options)], cwd=recipe, env=ENVIRONMENT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr


def listed(path: Path) -> dict[str, str]:
    """Name → kind of trouble."""
    return {name: reason.split(":")[0] for name, reason in (line.split("\t") for line in path.read_text().splitlines())}


def items(path: Path) -> list[list[str]]:
    """Rows of a test list."""
    return [line.split("\t") for line in path.read_text().splitlines()[2:]]


def test_stages_1_to_3_prepare_a_spoilt_tree_and_list_everything_that_is_left_out(recipe: Path, tree: Path) -> None:
    text = run(recipe, "--libritts", tree.parent, "--parts", PARTS, "--stop_stage", "filter", "--fs", RATE_HZ)
    data, raw, filtered = recipe / "data", recipe / "dump" / "raw", recipe / "dump" / "filtered"

    held_out = {name for row in items(data / "lists" / "test_seen.tsv") for name in row[:2]}
    assert listed(data / "train" / "skipped") == DATA_TROUBLE | dict.fromkeys(held_out, "held out")
    assert f"{len(held_out)} held out" in text and "1 duplicate (train-clean-360:26_495_000000_000000)" in text
    assert listed(raw / "train" / "skipped") == FORMAT_TROUBLE
    assert listed(raw / "train" / "odd_sample_rate") == {ODD_RATE: "odd sample rate"}
    assert listed(filtered / "train" / "skipped") == {TOO_SHORT: "too short"}

    speakers = {
        name: set(read_scp(data / name / "utt2spk").values()) for name in ("train", "dev", "test_seen", "test_unseen")
    }
    training = {speaker for part in PARTS.split() for speaker in SPEAKERS[part]}
    assert speakers["train"] == training
    assert speakers["test_seen"] <= SPEAKERS["train-clean-100"].keys()
    assert speakers["dev"] == SPEAKERS["dev-clean"].keys() and speakers["test_unseen"] <= SPEAKERS["test-clean"].keys()
    assert not read_scp(data / "train" / "wav.scp").keys() & read_scp(data / "test_seen" / "wav.scp").keys()
    for name in ("test_seen", "test_unseen"):
        pairs = {row[0]: row[1] for row in items(data / "lists" / f"{name}.tsv")}
        assert read_scp(data / name / "utt2prompt") == read_scp(filtered / name / "utt2prompt") == pairs
        assert read_scp(filtered / name / "wav.scp").keys() == pairs.keys() | set(pairs.values())
    wav = read_scp(filtered / "train" / "wav.scp")
    assert {utt for utt, path in wav.items() if "/dump/" in path} == {ODD_RATE}, "audio was copied needlessly"


def test_transcripts_are_normalized_or_original_or_words(recipe: Path, tree: Path) -> None:
    texts = {}
    for form in ("normalized", "original", "words"):
        script(recipe, "libritts_dir.py", "--tree", tree, "--subset", "dev-clean", "--out", form, "--text", form)
        texts[form] = " ".join(read_scp(recipe / form / "text").values())
    assert texts["normalized"] != texts["normalized"].lower() and "." in texts["normalized"]
    assert "1889" in texts["original"] and "1889" not in texts["normalized"]
    assert not set(texts["words"]) - set("abcdefghijklmnopqrstuvwxyz' ")


def test_test_lists_are_fixed_balanced_and_say_their_digest(recipe: Path, tree: Path) -> None:
    command = ("make_test_list.py", "--tree", tree, "--subset", "train-clean-100")
    first = script(recipe, *command, "--count", 4, "--share", 0.25, "--out", "a.tsv")
    second = script(recipe, *command, "--count", 4, "--share", 0.25, "--out", "b.tsv")
    assert (recipe / "a.tsv").read_text() == (recipe / "b.tsv").read_text()
    assert first.split("sha256")[1] == second.split("sha256")[1]
    rows = items(recipe / "a.tsv")
    assert sorted(Counter(row[0].split("_")[0] for row in rows).values()) == [1, 1, 2]
    for utterance, prompt, seconds, prompt_seconds in rows:
        assert utterance.split("_")[0] == prompt.split("_")[0] and utterance != prompt
        assert 3 <= float(seconds) <= 10 and 3 <= float(prompt_seconds) <= 5
        (wav,) = tree.glob(f"train-clean-100/*/*/{utterance}.wav")
        assert soundfile.info(wav).duration == pytest.approx(float(seconds), abs=0.001)
    names = [name for row in rows for name in row[:2]]
    assert len(set(names)) == len(names)
    assert not set(names) & (DATA_TROUBLE.keys() | FORMAT_TROUBLE.keys())
    script(recipe, *command, "--count", 2, "--share", 0.25, "--out", "few.tsv")
    assert {row[0] for row in items(recipe / "few.tsv")} < {row[0] for row in rows}
    script(recipe, *command, "--count", 400, "--share", 0.25, "--out", "all.tsv")
    assert max(Counter(row[0].split("_")[0] for row in items(recipe / "all.tsv")).values()) == 2  # a quarter of 16


def test_what_else_is_in_the_tree_does_not_change_a_list(recipe: Path, tree: Path) -> None:
    command = ("make_test_list.py", "--subset", "train-clean-100", "--count", 3, "--share", 0.25)
    script(recipe, *command, "--tree", tree, "--out", "before.tsv")
    before = items(recipe / "before.tsv")
    fuller = shutil.copytree(tree / "train-clean-100", recipe / "fuller" / "train-clean-100")
    script(recipe, *command, "--tree", fuller.parent, "--out", "same.tsv")
    assert items(recipe / "same.tsv") == before
    lost = before[0][0]
    next(fuller.glob(f"*/*/{lost}.wav")).unlink()
    script(recipe, *command, "--tree", fuller.parent, "--out", "after.tsv")
    after = items(recipe / "after.tsv")
    others = [row for row in before if row[0].split("_")[0] != lost.split("_")[0]]
    assert [row for row in after if row in before] == others and len(after) == 3


def test_a_share_that_is_too_small_for_anybody_is_named(recipe: Path, tree: Path) -> None:
    command = ("make_test_list.py", "--tree", tree, "--subset", "test-clean", "--out", "none.tsv")
    assert "found no such pair in --share 0.25 of anybody's" in script(recipe, *command, "--share", 0.25, status=1)


def test_given_lists_are_used_and_what_the_tree_lacks_of_them_is_counted(recipe: Path, tree: Path) -> None:
    run(recipe, "--libritts", tree, "--stop_stage", "data")
    lists = shutil.copytree(recipe / "data" / "lists", recipe / "my lists")
    columns = "utterance\tprompt\tseconds\tprompt_seconds\n"
    rows = items(lists / "test_unseen.tsv")
    absent, lame = "1089_1_000000_000000", rows[1][0]
    mine = [
        rows[0],
        [absent, "1089_1_000001_000000", "3", "4"],
        [lame, f"{lame.split('_')[0]}_9_000000_000000", "3", "4"],
    ]
    (lists / "test_unseen.tsv").write_text(columns + "".join("\t".join(row) + "\n" for row in mine))
    text = run(recipe, "--libritts", tree, "--stop_stage", "data", "--test_lists", lists)
    assert read_scp(recipe / "data" / "test_unseen" / "utt2prompt") == {rows[0][0]: rows[0][1]}
    assert listed(recipe / "data" / "test_unseen" / "skipped") == {
        absent: "not in the tree",
        "1089_1_000001_000000": "not in the tree",
        mine[2][1]: "not in the tree",
        lame: "prompt not usable",
    }
    assert "1 to be said and their prompts: 2 utterances, 1 speakers; skipped 3 not in the tree" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t3.9", "\t3.8", ""),  # durations are for the reader only
        ("_000000\t", "_000009\t", "was changed: its first line promises sha256 "),
        ("utterance\t", "utt\t", "must have the columns ['utterance', 'prompt', 'seconds', 'prompt_seconds']"),
        ("\t5.", "\tfive.", "must be ['utterance', 'prompt', 'seconds', 'prompt_seconds'], got '19_198"),
        ("\t19_198_000005_000000", "\t26_495_000005_000001", "must be of its speaker, got 26_495_000005_000001"),
        ("\t19_198_000005_000000", "\t19_198_000006_000001", "must not be both a test utterance and a prompt"),
        ("19_198_000006_000001\t", "19_198_000006_000000\t", "19_198_000006_000000 is a duplicate"),
    ],
)
def test_a_list_that_was_changed_or_is_unfair_is_refused(
    recipe: Path, tree: Path, old: str, new: str, message: str
) -> None:
    command = ("make_test_list.py", "--tree", tree, "--subset", "train-clean-100", "--count", 4, "--share", 0.25)
    script(recipe, *command, "--out", "list.tsv")
    text = (recipe / "list.tsv").read_text()
    assert old in text
    (recipe / "list.tsv").write_text(text.replace(old, new))
    command = ("libritts_dir.py", "--tree", tree, "--subset", "train-clean-100", "--list", "list.tsv", "--out", "data")
    error = script(recipe, *command, status=1 if message else 0)
    if message:
        assert message in error
        assert len(error.splitlines()) == 1 and error.startswith("error: list.tsv")
        assert not (recipe / "data").exists()


def test_a_tree_without_a_part_is_refused_before_anything_is_read(recipe: Path, tree: Path, tmp_path: Path) -> None:
    text = run(
        recipe, "--libritts", tree, "--parts", "train-clean-100 train-clean-900", "--stop_stage", "data", status=1
    )
    assert "--libritts must be a folder with train-clean-100 train-clean-900 dev-clean test-clean, got" in text
    assert "without train-clean-900" in text
    assert not (recipe / "data" / "train").exists()


def test_the_tree_may_come_from_the_environment_and_a_part_may_be_called_like_a_folder_here(
    recipe: Path, tree: Path
) -> None:
    """Options that are no paths were taken for paths when something of that name was in the user's directory."""
    (recipe.parent / "train-clean-100").mkdir()
    options = ("--parts", "train-clean-100", "--stop_stage", "data")
    run(recipe, *options, environment={"LIBRITTS": str(tree)})
    assert set(read_scp(recipe / "data" / "train" / "utt2spk").values()) == SPEAKERS["train-clean-100"].keys()


def test_a_mirror_that_serves_something_else_is_refused_by_its_checksum(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "train-clean-100.tar.gz").write_bytes(b"not LibriTTS")
    command = [
        "bash",
        "local/data.sh",
        "--python",
        sys.executable,
        "--url",
        tmp_path.as_uri(),
        "--parts",
        "train-clean-100",
    ]
    done = subprocess.run(command, cwd=recipe, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "train-clean-100.tar.gz arrived damaged and was removed (its sha256 must be c5608bf1" in done.stderr
    assert not list((recipe / "downloads").iterdir())


def pair_list(tree: Path, path: Path) -> Path:
    """Two pairs of test-clean in F5-TTS' format, and one whose recording is not there."""
    lines = []
    for target in ("1089_134686_000000_000001", "121_134686_000001_000000", "121_134686_000009_000000"):
        said = {}
        for name in (target[:-13] + "000000_000000", target):
            transcript = tree / "test-clean" / name.split("_")[0] / "134686" / f"{name}.normalized.txt"
            said[name] = transcript.read_text() if transcript.exists() else "nobody said this"
        lines.append("\t".join(field for name, text in said.items() for field in (name, "4.0", text)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.recipe
@pytest.mark.espnet
def test_the_recipe_trains_and_decodes_with_the_listed_prompts_and_never_says_a_prompt(
    recipe: Path, tree: Path, tmp_path: Path
) -> None:
    pairs_option = ("--pair_list", pair_list(tree, tmp_path / "few.lst"), "--pair_audio", tree / "test-clean")
    run(
        recipe, "--libritts", tree, "--max_epoch", 1, "--train_config", "conf/train_tiny.yaml", "--stacking", "1",
        "--decodings", "parallel", "--inference_config", "../../../conf/decode_parallel.yaml",
        "--nj", 1, "--train_args", "--num_iters_per_epoch 2", "--score_args", "--num_bootstrap 20 --mos_utterances 1",
        *pairs_option,
    )  # fmt: skip
    codes, exp = recipe / "dump" / "codec_world_vq", recipe / "exp"
    for name in ("test_seen", "test_unseen"):
        pairs = {row[0]: row[1] for row in items(recipe / "data" / "lists" / f"{name}.tsv")}
        assert read_scp(codes / name / "utt2prompt") == pairs
        assert (codes / name / "prompt_fallback").read_text() == ""
        assert listed(codes / name / "prompt_only") == dict.fromkeys(pairs.values(), "prompt")
        for folder in (*exp.glob(f"codec_lm_*/decode_parallel/{name}"), exp / "resynthesis" / name):
            assert {path.stem for path in (folder / "wav").glob("*.wav")} == pairs.keys()
        scores = json.loads((exp / "scoring" / name / "scores.json").read_text())
        assert set(scores["systems"]["s1_parallel"]["hypotheses"]) == pairs.keys()
    fallbacks = listed(codes / "train" / "prompt_fallback")
    assert not fallbacks, "every speaker has a prompt of 3 s"
    assert len(list(exp.glob("codec_lm_*_s1/*epoch.pth"))) >= 1
    assert "## pairs_few" in (exp / "RESULTS.md").read_text()
    assert {path.stem for path in exp.glob("codec_lm_*/decode_parallel/pairs_few/wav/*.wav")} == {
        "1089_134686_000000_000001",
        "121_134686_000001_000000",
    }
    page = (exp / "pairs_few.md").read_text()
    assert "2 of 3 were said; left out: 1 missing audio (121_134686_000009_000000)" in page
    assert page.count("|s1_parallel|") == 1 and "speaker prompt" in page and "DNSMOS" in page
