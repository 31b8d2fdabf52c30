"""The recipe egs2/librispeech_voices: recordings of many speakers without transcripts become sets and prompts."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from fabricated_corpora import write_tone
from real_data import need_real_data

from espnet_ext.data.datadir import read_scp

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "egs2" / "librispeech_voices" / "gpst1"


def write_voices(root: Path, spread: bool = False) -> Path:
    """Five voices to train on, one recording each, and two to test on, with two recordings each."""
    for number, speaker in enumerate([103, 1040, 27, 32, 60]):
        folder = root / (f"LibriSpeech/train-clean-100/{speaker}/12" if spread else "librispeech_train-clean-100")
        write_tone(folder / f"{speaker}-12-0000.flac", number, 1.5 if speaker == 60 else 7.0)
    for number, name in enumerate(["367-130732-0000", "367-130732-0001", "533-1066-0000", "533-1066-0001"]):
        write_tone(root / "librispeech_test-other" / name.partition("-")[0] / f"{name}.flac", 20 + number, 3.0)
    return root


def recipe_at(folder: Path) -> Path:
    """A copy of the recipe."""
    for name in ("local", "conf", "espnet_ext"):
        (folder / name).symlink_to(ROOT / name)
    target = folder / "egs2" / "librispeech_voices" / "gpst1"
    for file in (
        "run.sh",
        "local/data.sh",
        "local/voices_dir.py",
        "conf/train_voices_gpst.yaml",
        "conf/decode_gpst.yaml",
    ):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (target / file).write_bytes((RECIPE / file).read_bytes())
    return target


def run(recipe: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(recipe / "run.sh"), "--python", sys.executable, *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=recipe.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("packed", [False, True])
def test_voices_become_sets_in_pieces_that_are_each_others_prompts(tmp_path: Path, packed: bool) -> None:
    recipe, corpus = recipe_at(tmp_path), write_voices(tmp_path / "corpus", spread=packed)
    write_tone(corpus / "librispeech_train-clean-100" / "strange.flac", 40)
    write_tone(corpus / "1-2-3.flac", 41)
    (corpus / "librispeech_test-other" / "533" / "533-1066-0009.flac").write_bytes(b"fLaC, cut")
    if packed:
        with tarfile.open(tmp_path / "voices.tar", "w") as archive:
            archive.add(corpus, ".")
        corpus = tmp_path / "voices.tar"
    done = run(recipe, "--corpus", corpus, "--stop_stage", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    data = recipe / "data"
    speakers = {part: set(read_scp(data / part / "utt2spk").values()) for part in ("train", "dev", "test")}
    assert speakers["test"] == {"367", "533"} and len(speakers["dev"]) == 1 and len(speakers["train"]) == 4
    assert not speakers["train"] & speakers["dev"]
    pieces = {**read_scp(data / "train" / "segments"), **read_scp(data / "dev" / "segments")}
    assert len(pieces) == 4 * 2 + 1, "too short a recording stays whole"
    assert pieces["27-12-0000-00"] == "27-12-0000 0.000 3.500" and pieces["27-12-0000-01"].endswith("3.500 -1")
    assert not (data / "test" / "segments").exists() and len(read_scp(data / "test" / "wav.scp")) == 4
    assert not list(data.glob("*/text"))
    reasons = read_scp(data / "skipped")
    assert sorted(reason.partition(":")[0] for reason in reasons.values()) == [
        "unknown name",
        "unknown part",
        "unreadable wav",
    ]
    assert "finished before" in run(recipe, "--corpus", corpus, "--stop_stage", "data").stdout


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("nothing", "must be a folder of recordings or a tar archive, found nothing there"),
        ("empty", "must have SPEAKER-CHAPTER-NUMBER.flac below train-…, found none"),
        ("one", "--corpus must have at least two speakers to train on, got ['103']"),
        ("text", "must be a complete tar archive"),
    ],
)
def test_what_are_no_voices_is_one_line(tmp_path: Path, made: str, message: str) -> None:
    corpus = tmp_path / "corpus"
    if made == "empty":
        corpus.mkdir()
    elif made == "text":
        corpus.write_text("no archive")
    elif made == "one":
        write_voices(corpus)
        for path in corpus.glob("*_train-*/*"):
            if not path.name.startswith("103-"):
                path.unlink()
    command = [sys.executable, str(RECIPE / "local" / "voices_dir.py"), "--corpus", str(corpus), "--datadir", "data"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and done.stderr.startswith("error: ") and message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.recipe
def test_voices_become_codes_and_units(tmp_path: Path) -> None:
    weights = need_real_data("lyra")
    recipe = recipe_at(tmp_path)
    conf = ["--codec_conf", f"checkpoint={weights}", "--semantic_conf", "num_units=8 deltas=1", "--nj", 1]
    done = run(recipe, "--corpus", write_voices(tmp_path / "corpus"), "--stop_stage", "semantic_tokens", *conf)
    assert done.returncode == 0, done.stdout + done.stderr
    tokens = recipe / "dump" / "gpst_lyra_logmel_km_num_units=8_deltas=1_repeated"
    for part in ("train", "dev", "test"):
        frames, units = (read_scp(tokens / part / name) for name in ("utt2num_frames", "utt2num_units"))
        assert all(abs(int(frames[name]) - int(units[name])) <= 1 for name in frames), "50 of both in a second"
        assert (tokens / part / "prompt_semantic.scp").is_file()
