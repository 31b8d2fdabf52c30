"""The doctor finds whatever is planted, names the command that mends it, and is well with everything else."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ARCHIVES
from fabricated import command, one_error

from espnet_ext.bin import doctor
from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.jobs import finished

pytest.importorskip(ARCHIVES)

pytestmark = pytest.mark.espnet


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, corpus: Path, experiment: Path) -> Path:
    """A recipe with codec, data directory and experiment, each with a record as recipes write them."""
    root = tmp_path_factory.mktemp("recipe")
    (root / "run.sh").touch()
    shutil.copytree(corpus / "codec", root / "dump" / "codec")
    shutil.copytree(corpus / "train", root / "dump" / "codec" / "train")
    exp = shutil.copytree(experiment, root / "exp" / "model", symlinks=True)
    (exp / "decode").mkdir()
    (exp / "decode" / "decode_local_ar.yaml").write_text("decoding: local_ar\nsampling: {temperature: 0.8}\n")
    for scp in (root / "dump").rglob("*.scp"):
        scp.write_text(scp.read_text().replace(str(corpus / "train"), "dump/codec/train"))
    train = root / "dump" / "codec" / "train"
    write_scp(train / "wav.scp", dict.fromkeys(read_scp(train / "codes.scp"), "a.wav"))
    (root / "a.wav").touch()
    for directory, words in (
        (root / "dump" / "codec", ["codec_fit", "--out", "dump/codec"]),
        (train, ["codec_tokens", "--out", "dump/codec/train"]),
        (exp, ["codec_lm_train", "--output_dir", "exp/model"]),
    ):
        job = [str(directory), "--", "python", "-m", f"espnet_ext.bin.{words[0]}", *words[1:]]
        finished.main(job)
        finished.main(["--end", *job])
    return root


@pytest.fixture
def recipe(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(healthy, tmp_path / "recipe", symlinks=True))
    return Path.cwd()


def told(path: Path, capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """What the command says, to end with a status."""
    capsys.readouterr()
    found = 0
    try:
        doctor.main([str(path)])
    except SystemExit as end:
        found = int(end.code or 0)
    text = capsys.readouterr().out
    assert found == status, text
    assert re.search(r"^(nothing|\d+) wrong; checked: \d+ \w+", text.splitlines()[-1])
    return text


def test_nothing_is_wrong_with_what_is_whole(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(healthy, capsys, 0)
    assert text.startswith("nothing wrong; checked: ") and text.count("\n") == 1
    for count in ("12 entries", "1 experiments", "1 decode yamls", "2 weights", "3 codecs and tokenizers"):
        assert count in text
    for part in ("exp", "exp/model", "exp/model/codec", "dump", "dump/codec", "dump/codec/train"):
        told(healthy / part, capsys, 0)


def flipped(path: Path, place: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def exchanged(scp: Path) -> None:
    table = read_scp(scp)
    write_scp(scp, {**table, "s-1": table["s-2"], "s-2": table["s-1"]})
    (scp.parent / ".made.json").unlink()


def of_another_range(train: Path) -> None:
    archive = train / "codes.ark"
    content = archive.read_bytes()
    archive.write_bytes(content[:-4] + np.int32(77).tobytes())
    (train / ".made.json").unlink()


def with_nan(exp: Path) -> None:
    (exp / ".made.json").unlink()
    weights = torch.load(exp / "1epoch.pth")
    next(value for value in weights.values() if value.is_floating_point()).view(-1)[0] = float("nan")
    torch.save(weights, exp / "1epoch.pth")


def left_lock(directory: Path) -> None:
    (directory / ".running").write_text(f"999999999 {os.uname().nodename}\n")


def text(path: str, content: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text(content)


def config(**changes: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        exp = root / "exp/model"
        (exp / ".made.json").unlink()
        before = yaml.safe_load((exp / "config.yaml").read_text())
        (exp / "config.yaml").write_text(yaml.safe_dump({**before, **changes}))

    return change


def fingerprint(root: Path) -> None:
    facts = yaml.safe_load((root / "exp/model/config.yaml").read_text())["codec_info"]
    config(codec_info={**facts, "fingerprint": "0" * 64})(root)


CODES, MODEL = "dump/codec/train", "exp/model"
TOKENS, FIT = f"espnet_ext.bin.codec_tokens --out {CODES} --force", "espnet_ext.bin.codec_fit --out dump/codec --force"
TRAIN = f"espnet_ext.bin.codec_lm_train --output_dir {MODEL}"
Fault = tuple[Callable[[Path], object], str, str]  # planted in a recipe; what is said, and the remedy
FAULTS: dict[str, Fault] = {
    "archive": (lambda root: flipped(root / CODES / "codes.ark"), "codes.ark is damaged", TOKENS),
    "table": (lambda root: flipped(root / CODES / "text"), "text is damaged", TOKENS),
    "lost": (lambda root: (root / CODES / "codes.ark").unlink(), "codes.ark is missing", TOKENS),
    "list": (text(f"{CODES}/.made.json", "{"), ".made.json is damaged", TOKENS),
    "record": (text(f"{CODES}/.done", "{"), ".done is not a whole record", "codec_tokens"),
    "exchanged": (lambda root: exchanged(root / CODES / "codes.scp"), "must point at the entry of s-1", TOKENS),
    "range": (lambda root: of_another_range(root / CODES), "codes must lie in [0, 8)", TOKENS),
    "recording": (lambda root: (root / "a.wav").unlink(), "6 recordings are missing", TOKENS),
    "codec": (lambda root: flipped(root / "dump/codec/codec.npz"), "codec.npz is damaged", FIT),
    "description": (text(f"{CODES}/codec_info.yaml", "[" * 9999), "codec_info.yaml", TOKENS),
    "weights": (lambda root: flipped(root / MODEL / "1epoch.pth", 5000), "1epoch.pth is damaged", TRAIN),
    "NaN": (lambda root: with_nan(root / MODEL), "must hold finite weights, got NaN", TRAIN),
    "checkpoint": (text(f"{MODEL}/checkpoint.pth", "PK"), "checkpoint.pth is damaged", TRAIN),
    "config": (config(prompt_sec="long"), "prompt_sec must be", TRAIN),
    "other": (config(frame_stacking_factor=3), "model_file must be of a model", TRAIN),
    "fingerprint": (fingerprint, "must hold codec 000000000000", TRAIN),
    "yaml": (text(f"{MODEL}/decode/decode_local_ar.yaml", "beam: 5"), "beam", "again"),
    "other yaml": (text(f"{MODEL}/decode/decode_parallel.yaml", "decoding: ar"), "'ar'", "again"),
    "temporary": (lambda root: (root / "dump/.codec.x1.tmp").mkdir(), "left by a process", "rm -r "),
    "lock": (lambda root: left_lock(root / "exp"), "left by process 999999999", "rm "),
    "begun": (lambda root: (root / CODES / ".done").rename(root / CODES / ".started"), "was begun", TOKENS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_its_remedy_named(
    recipe: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, what, remedy = FAULTS[fault]
    plant(recipe)
    lines = told(recipe, capsys).splitlines()
    place = next((number for number, line in enumerate(lines) if what in line), None)
    assert place is not None, "\n".join(lines)
    assert remedy in lines[place + 1] and lines[place + 1].startswith("    ")
    assert len(lines) <= 9, "\n".join(lines)
    if "espnet_ext" in remedy and remedy != "codec_tokens":
        assert f"cd {recipe} && python -m espnet_ext.bin" in lines[place + 1]


def test_the_doctor_survives_everything(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    files = sorted(path for path in recipe.rglob("*") if path.is_file() and not path.is_symlink())
    whole = {path: path.read_bytes() for path in files}
    for _ in range(60):
        path = rng.choice(files)
        content = bytearray(whole[path])
        damage = rng.choice(["cut", "noise", "empty", "link", "directory", "gone"])
        if damage == "cut":
            path.write_bytes(content[: rng.randrange(len(content) + 1)])
        elif damage == "noise":
            path.write_bytes(rng.randbytes(max(1, len(content) % 5000)))
        else:
            path.unlink()
            if damage == "empty":
                path.touch()
            elif damage == "link":
                path.symlink_to(path)
            elif damage == "directory":
                path.mkdir()
        with suppress(SystemExit):  # anything else fails the test
            doctor.main([str(recipe)])
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(whole[path])
    capsys.readouterr()


def test_changes_that_are_wanted_are_accepted(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = recipe / "dump" / "codec" / "train"
    text = (train / "text").read_text()
    (train / "text").write_text(text.replace("abcd", "abca"))
    assert f"doctor --accept {train}" in told(recipe, capsys)
    doctor.main(["--accept", str(train)])
    told(recipe, capsys, 0)
    assert "--accept must be for a directory with a .made.json" in one_error(doctor.main, "--accept", recipe)
    assert "path must be an existing directory" in one_error(doctor.main, recipe / "nowhere")


def test_training_and_decoding_refuse_what_the_doctor_finds(recipe: Path, corpus: Path) -> None:
    from espnet_ext.bin import codec_lm_train

    flipped(recipe / "dump/codec/train/codes.ark")
    line = [word.replace(f"{corpus}/train/codes", f"{recipe}/{CODES}/codes") for word in command(corpus, "out")]
    assert "codes.ark is damaged (SHA-256" in one_error(codec_lm_train.main, *line)


ORDER = "\x1b]0;title\a"  # to a terminal


def hostile(place: Path, kind: str) -> None:
    """A directory of somebody else, who means ill."""
    made = {"../../../etc/passwd": [1, 1, 1, "x"]} if kind == "leads out" else {"x" * 9999: [1, 1, 1, "x"]}
    request = {"command": ["-c", f"touch X {ORDER}"] if kind == "command" else ["-m", f"espnet_ext.bin.say {ORDER}"]}
    record = json.dumps({"format": finished.FORMAT, "request": request, "files": {}})
    if kind in ("leads out", "too long"):
        (place / ".made.json").write_text(json.dumps({"format": "espnet_ext made 1", "files": made}))
    elif kind in ("command", "order"):
        (place / ".started").write_text(record)
    elif kind == "name":
        (place / ORDER).mkdir()
        (place / ORDER / "wav.scp").write_text("broken\n")
    else:
        os.mkfifo(place / kind)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (".done", ".done is not a whole record"),
        (".running", ".running must be a regular file"),
        ("leads out", ".made.json is damaged"),
        ("too long", ".made.json is damaged"),
        ("name", r"\x1b]0;title\x07/wav.scp:1: must be a key and a value"),
        ("command", "run again what made it"),
        ("order", "run again what made it"),
    ],
)
def test_a_directory_of_somebody_else_neither_stops_nor_misuses_the_doctor(
    tmp_path: Path, kind: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile(tmp_path, kind)
    said = told(tmp_path, capsys)
    assert what in said and "\x1b" not in said and "touch X" not in said
