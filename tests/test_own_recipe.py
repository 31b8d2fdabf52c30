"""egs2/own for real, in a shrunk form: corpora in four layouts, each from a folder of recordings to scores."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fabricated_corpora import speech

from espnet_ext.data.datadir import read_scp

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SHRUNK = [
    *("--size", "tiny", "--max_epoch", "1", "--base_args", "--max_epoch 1 --num_iters_per_epoch 4"),
    *("--train_args", "--num_iters_per_epoch 4", "--stacking", "1", "--decodings", "parallel", "--estimate", "no"),
    *("--codec_conf", "codebook_size=16", "--nj", "1", "--inference_nj", "1", "--inference_args", "--batch_size 8"),
    *("--score_args", "--num_bootstrap 10 --mos none --speaker none --distortion false --num_spectrograms 0"),
]


def recipe_at(folder: Path) -> Path:
    """A copy of the recipe."""
    for name in ("local", "conf", "espnet_ext"):
        (folder / name).symlink_to(ROOT / name)
    target = folder / "egs2" / "own" / "codec_lm1"
    ignored = shutil.ignore_patterns("data", "dump", "exp")
    shutil.copytree(ROOT / "egs2" / "own" / "codec_lm1", target, ignore=ignored)
    return target


def call(command: list[str], folder: Path) -> str:
    environment = ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def run(recipe: Path, *options: object) -> str:
    return call([str(recipe / "run.sh"), "--python", sys.executable, *map(str, options)], recipe)


def commands_of_the_page() -> list[list[str]]:
    """Every command of docs/own-data.md, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "own-data.md").read_text(), flags=re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def run_page(folder: Path, number: int, *options: str) -> str:
    """A command of the page as it stands there, but for names of experiments and Python; with further options."""
    made = next((folder / "egs2/own/codec_lm1/exp").glob("codec_lm_train_*_s1"), Path("none"))
    words = [re.sub(r"codec_lm_train_own_\w+", made.name, word) for word in commands_of_the_page()[number]]
    words = [sys.executable if word == ".venv/bin/python" else word for word in words]
    return call([*words, *(["--python", sys.executable, *options] if words[0].endswith("run.sh") else [])], folder)


def clips(voice: str, count: int):
    return itertools.islice(speech(voice), count)


def lj(root: Path, count: int = 30) -> Path:
    """LJSpeech's layout."""
    (root / "wavs").mkdir(parents=True)
    rows = []
    for number, (samples, rate_hz, text) in enumerate(clips("1001", count)):
        soundfile.write(root / "wavs" / f"LJ-{number:03d}.flac", samples, rate_hz)
        rows.append(f"LJ-{number:03d}|{text}|{text.lower()}\n")
    (root / "metadata.csv").write_text("".join(rows))
    return root


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe behind a run on LJSpeech's layout, by the first commands of the page."""
    folder = tmp_path_factory.mktemp("own recipe")
    recipe = recipe_at(folder)
    lj(folder / "recordings")
    assert "## What to change" in run_page(folder, 0, *SHRUNK)
    assert not (recipe / "dump").exists()
    run_page(folder, 1, *SHRUNK)
    return recipe


def scored(recipe: Path) -> dict:
    return json.loads((recipe / "exp" / "scoring" / "test" / "scores.json").read_text())


@pytest.mark.recipe
def test_ljspeechs_layout_becomes_a_voice_and_scores(first: Path) -> None:
    page = (first / "data" / "report.md").read_text()
    assert "Layout table: metadata.csv, columns separated by '|', no header: id = column 1, text = column 3." in page
    assert "30 utterances" in page and "Tokens: phones: all " in page
    texts = [set(read_scp(first / "data" / part / "text").values()) for part in ("train", "dev", "test")]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert len(list((first / "exp").glob("codec_lm_train_tiny_*_s1/decode_parallel/test/wav/*.wav"))) == len(texts[2])
    assert "s1_parallel" in (first / "exp" / "RESULTS.md").read_text()
    assert scored(first)
    assert len(commands_of_the_page()) == 4
    run_page(first.parents[2], 2)
    assert soundfile.info(first.parents[2] / "hello.wav").samplerate == 16000


@pytest.mark.recipe
def test_texts_beside_recordings_of_two_speakers_continue_an_experiment(first: Path) -> None:
    folder = first.parents[2]
    for speaker, voice in (("anna", "1003"), ("berta", "1005")):
        (folder / "new_voice" / speaker).mkdir(parents=True)
        for number, (samples, rate_hz, text) in enumerate(clips(voice, 12)):
            soundfile.write(folder / "new_voice" / speaker / f"{number}.wav", samples, rate_hz)
            (folder / "new_voice" / speaker / f"{number}.txt").write_text(f"{text}\n")
    told = run_page(folder, 3, "--speaker_from", "folder", *SHRUNK)
    assert "2 speakers: " in told and "anna (12, " in told
    (exp,) = (first / "exp").glob("codec_lm_train_tiny_*_s1")
    (made,) = (first / "exp_new").glob("codec_lm_finetune_*_s1")
    assert "init_from" in "".join(log.read_text() for log in made.glob("*.log"))
    for line in ("width: 96", "lr: 0.0005", "token_type: phn"):
        assert line in (made / "config.yaml").read_text()
    assert (made / "codec" / "codec.npz").read_bytes() == (exp / "codec" / "codec.npz").read_bytes()
    assert (first / "exp_new" / "scoring" / "test" / "scores.json").is_file()
    assert not list((first / "exp_new").glob("base_*"))


@pytest.mark.slow  # the layout is tested by itself, and the stages by the first test
@pytest.mark.recipe
def test_a_kaldi_directory_with_segments_becomes_scores(tmp_path: Path) -> None:
    recipe, corpus = recipe_at(tmp_path), tmp_path / "corpus"
    corpus.mkdir()
    tables: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "text", "utt2spk")}
    for voice in ("1001", "1003"):
        pieces, place = [], 0
        for number, (samples, rate_hz, text) in enumerate(clips(voice, 12)):
            end = place + len(samples)
            tables["segments"].append(f"{voice}-{number} {voice} {place / rate_hz:.4f} {end / rate_hz:.4f}\n")
            tables["text"].append(f"{voice}-{number} {text}\n")
            tables["utt2spk"].append(f"{voice}-{number} v{voice}\n")
            pieces.append(samples)
            place = end
        soundfile.write(corpus / f"{voice}.wav", np.concatenate(pieces), rate_hz)
        tables["wav.scp"].append(f"{voice} {voice}.wav\n")
    for name, lines in tables.items():
        (corpus / name).write_text("".join(lines))
    run(recipe, "--corpus", corpus, *SHRUNK, "--base_config", "")
    assert "2 speakers: v100" in (recipe / "data" / "report.md").read_text()
    assert scored(recipe)


@pytest.mark.slow
@pytest.mark.recipe
def test_two_languages_are_told_apart_and_words_that_nobody_hears_are_given_as_the_reason(tmp_path: Path) -> None:
    recipe, corpus = recipe_at(tmp_path), tmp_path / "corpus"
    corpus.mkdir()
    cyrillic = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшхыз")
    rows = ["file_name,language,text\n"]
    for language, voice in (("en", "1001"), ("ru", "1003")):
        for number, (samples, rate_hz, text) in enumerate(clips(voice, 15)):
            soundfile.write(corpus / f"{language}{number}.wav", samples, rate_hz)
            said = text if language == "en" else text.lower().translate(cyrillic)
            rows.append(f'{language}{number}.wav,{language},"{said}"\n')
    (corpus / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    told = run(recipe, "--corpus", corpus, *SHRUNK, "--base_config", "")
    assert "Tokens: characters: the dictionary of phones is English, and the corpus has ru." in told
    assert "2 languages: " in told and "ы" in (recipe / "data" / "characters.tsv").read_text()
    assert set(read_scp(recipe / "data" / "train" / "utt2lang").values()) == {"en", "ru"}
    results = (recipe / "exp" / "RESULTS.md").read_text()
    assert "words that the recogniser does not know and so cannot hear: " in results, results
