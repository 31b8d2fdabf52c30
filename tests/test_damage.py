"""Damage: whatever a bit of it was flipped in is refused by one line, and --force, or the same command, mends it."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCHIVES
from fabricated import command, one_error

from espnet_ext.codes import CodecSpec
from espnet_ext.data.ark import codes_writer, read_codes, read_pointers, units_writer
from espnet_ext.data.datadir import read_scp, write_scp
from espnet_ext.data.inputs.checks import check_data
from espnet_ext.data.kaldi import read_entry
from espnet_ext.data.streams import SILENCE_NAME, read_silence
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checkpoint import read_weights
from espnet_ext.storage.checksums import MADE_NAME, made_in, verify, vouch
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.description import Description, fingerprint_of

pytest.importorskip(ARCHIVES)

NAMES = [f"s-{number}" for number in range(8)]


def codes_dir(directory: Path, finished: bool = True) -> Path:
    """A directory as codec_tokens makes it, of random codes."""
    rng = np.random.default_rng(0)

    def make() -> None:
        with codes_writer(directory) as write:
            for name in NAMES:
                write(name, rng.integers(1024, size=(30, 8)))
        pointers = read_scp(directory / "codes.scp")
        write_scp(directory / "utt2prompt", {name: NAMES[number - 1] for number, name in enumerate(NAMES)})
        write_scp(directory / "prompt.scp", {name: pointers[NAMES[number - 1]] for number, name in enumerate(NAMES)})

    if finished:
        Record.of(directory, {}).make(make)
    else:
        make()
    return directory


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Another bit at a place of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    before = os.stat(path)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # clocks are coarser than this test is fast


# --- archives --------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_an_archive_is_refused_by_all_who_read_it(tmp_path: Path) -> None:
    """42 of 60 were decoded without a word."""
    scp, archive = codes_dir(tmp_path) / "codes.scp", tmp_path / "codes.ark"
    whole, rng = archive.read_bytes(), random.Random(0)
    for _ in range(60):
        flip(archive, rng.randrange(len(whole)), rng.randrange(8))
        for read in (lambda: read_codes(scp, 8)["s-3"], lambda: check_data([(str(scp), "codes", "kaldi_ark")], [], {})):
            with pytest.raises(UserError, match=r"codes.ark is damaged \(SHA-256 \w+…, not \w+…\).* --force"):
                read()
        archive.write_bytes(whole)
    assert read_codes(scp, 8)["s-3"].shape == (30, 8)


def test_what_nobody_vouches_for_is_read_as_before(tmp_path: Path) -> None:
    made = codes_dir(tmp_path / "made")
    copied = shutil.copytree(made, tmp_path / "copied")
    (copied / MADE_NAME).unlink()
    scp = (copied / "codes.scp").read_text().replace("/made/", "/copied/")
    (copied / "codes.scp").write_text(scp)
    flip(copied / "codes.ark", 40)
    changed = read_codes(copied / "codes.scp", 8)["s-0"] != read_codes(made / "codes.scp", 8)["s-0"]
    assert changed.sum() == 1
    assert not verify(copied / "codes.ark") and verify(made / "codes.ark")


def test_a_file_is_read_once_by_a_process_to_be_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = read_codes(codes_dir(tmp_path) / "codes.scp", 8)
    assert codes["s-0"].shape == codes["s-1"].shape
    monkeypatch.setattr("hashlib.file_digest", pytest.fail)
    assert codes["s-2"].shape == (30, 8)


@pytest.mark.parametrize("name", ["codes.scp", "utt2num_frames", "prompt.scp"])
def test_tables_are_vouched_for_and_what_the_package_writes_itself_is_no_damage(tmp_path: Path, name: str) -> None:
    path = codes_dir(tmp_path) / name
    text = path.read_text()
    path.write_text(text.replace("s-7 ", "s-8 "))
    with pytest.raises(UserError, match=f"{name} is damaged .*: python -m espnet_ext.bin.doctor --accept {tmp_path}"):
        read_scp(path)
    with atomic_path(path) as temporary:
        temporary.write_text(text.replace("s-7 ", "s-9 "))
    assert "s-9" in read_scp(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "espnet_ext made 1", "files": {"codes.ark": 3}}'])
def test_a_list_that_is_damaged_itself_is_said(tmp_path: Path, content: str) -> None:
    scp = codes_dir(tmp_path) / "codes.scp"
    (tmp_path / MADE_NAME).write_text(content)
    with pytest.raises(UserError, match=rf"{MADE_NAME} is damaged: .*--force"):
        read_codes(scp, 8)


def test_what_a_record_vouches_for_is_on_the_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of power left records of files that were empty."""
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.partition(".tmp")[0])
        sync(handle)

    def note_replace(old: str, new: str) -> None:
        calls.append(f"-> {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", note_replace)
    codes_dir(tmp_path / "out")
    (tmp_path / "out" / "wav").mkdir()
    (tmp_path / "out" / "wav" / "a.wav").touch()
    listed, recorded = calls.index(f"-> {MADE_NAME}"), calls.index("-> .finished.json")
    assert {"codes.ark", "codes.scp", "prompt.scp", "out"} <= set(calls[:listed])
    assert calls[listed - 1].startswith(MADE_NAME) and calls[listed + 1] == "out"
    assert calls[recorded - 1].startswith(".finished.json") and calls[recorded + 1] == "out"
    calls.clear()
    vouch(tmp_path / "out")
    assert "a.wav" in calls and "wav" in calls


# --- pointers --------------------------------------------------------------------------------------------------------


def exchange(scp: Path, one: int, other: int) -> None:
    table = read_scp(scp)
    names = list(table)
    table[names[one]], table[names[other]] = table[names[other]], table[names[one]]
    write_scp(scp, table)


def both(scp: Path) -> list[Callable[[], object]]:
    """Inference and training."""
    data = [(str(scp), "codes", "kaldi_ark")]
    return [lambda: read_pointers(scp), lambda: check_data(data, [], {})]


def test_pointers_that_were_exchanged_are_refused_with_file_and_line(tmp_path: Path) -> None:
    """Everything fits: the codes of one utterance were trained and scored with the text of another."""
    for name, message in (
        ("codes.scp", r"codes.scp:2: must point at the entry of s-1, got that of s-5"),
        ("prompt.scp", r"prompt.scp:2: must point at the entry of s-0, got that of s-4"),
    ):
        scp = codes_dir(tmp_path / name, finished=False) / name
        for read in both(scp):
            read()
        exchange(scp, 1, 5)
        for read in both(scp):
            with pytest.raises(UserError, match=message):
                read()


@pytest.mark.parametrize("name", ["codes.scp", "prompt.scp"])
def test_a_pointer_into_the_middle_of_an_entry_is_refused(tmp_path: Path, name: str) -> None:
    """Units may look like an entry of their own."""
    with units_writer(tmp_path) as write:
        write("a", np.array([1, 0x42 << 24, 1, 5]))
    offset = (tmp_path / "semantic.ark").read_bytes().index(b"\0B\4\1")
    (tmp_path / name).write_text(f"a {tmp_path}/semantic.ark:{offset}\n")
    assert read_entry(f"{tmp_path}/semantic.ark:{offset}").tolist() == [5]
    for read in both(tmp_path / name):
        with pytest.raises(UserError, match=rf"{name}:1: must point at an entry, got .*, where none begins"):
            read()


@pytest.mark.parametrize(
    "rename", [lambda name: f"en-{name}", lambda name: f"mix-en-{name}-r2", lambda name: f"v{hash(name)}"]
)
def test_tables_with_other_names_than_their_archives_are_read(tmp_path: Path, rename: Callable[[str], str]) -> None:
    """local/mix_corpora.py puts the name of the corpus in front, and repeats utterances."""
    pointers = read_scp(codes_dir(tmp_path / "one") / "codes.scp")
    write_scp(tmp_path / "codes.scp", {rename(name): place for name, place in pointers.items()})
    for read in both(tmp_path / "codes.scp"):
        read()
    if "s-1" not in rename("s-1"):
        return
    exchange(tmp_path / "codes.scp", 1, 5)
    with pytest.raises(
        UserError, match=r"codes.scp:2: must point at the entry of (mix-)?en-s-1(-r2)?, got that of s-5"
    ):
        read_pointers(tmp_path / "codes.scp")


# --- silence, weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PK\3\4", "no units", "cut", "floats"])
def test_damaged_silence_is_one_line(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / SILENCE_NAME
    arrays = {"units": np.zeros(3, np.int32), "codes": np.zeros((3, 8), np.int32)}
    if content == "floats":
        arrays["units"] = np.full(3, np.nan)
    np.savez(path, **({"codes": arrays["codes"]} if content == "no units" else arrays))
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{SILENCE_NAME} must hold both streams of silence") as caught:
        read_silence(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listed", [True, False])
def test_a_flipped_bit_in_any_weight_is_refused(tmp_path: Path, listed: bool) -> None:
    """All of them are finite; torch does not look at the checksums that it writes."""
    weights, path = torch.randn(1000), tmp_path / "valid.loss.ave_3best.pth"
    torch.save({"corelm.weight": weights}, path)
    (tmp_path / "valid.loss.ave.pth").symlink_to(path.name)
    if listed:
        vouch(tmp_path)
        assert list(made_in(tmp_path)) == [path.name]
    whole, rng = path.read_bytes(), random.Random(0)
    first = whole.index(weights.numpy().tobytes())
    for _ in range(60):
        flip(path, rng.randrange(first, first + weights.nbytes), rng.randrange(8))
        with pytest.raises(UserError, match=r"valid.loss.ave.pth is damaged \((SHA-256|the checksum of)"):
            read_weights(tmp_path / "valid.loss.ave.pth")
        path.write_bytes(whole)


def test_a_changed_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("prompt_sec: 3.0\n")
    vouch(tmp_path)
    (tmp_path / "config.yaml").write_text("prompt_sec: 3.5\n")
    with pytest.raises(UserError, match=r"config.yaml is damaged"):
        read_yaml(tmp_path / "config.yaml", "config.yaml")


@pytest.mark.espnet
@pytest.mark.parametrize("name", ["1epoch.pth", "checkpoint.pth"])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_damaged_epochs_and_checkpoints_are_named_by_resuming_and_averaging(
    corpus: Path, experiment: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """It was a traceback, or an average with the damage in it."""
    from espnet_ext.bin import codec_lm_train

    shutil.copytree(experiment, tmp_path / "model", symlinks=True)
    path = tmp_path / "model" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        with zipfile.ZipFile(path) as parts:
            largest = max(parts.infolist(), key=lambda part: part.file_size)
        flip(path, largest.header_offset + largest.file_size // 2)
    options = ["--resume", "true", "--frame_stacking_factor", "2", "--max_epoch", "2", "--keep_nbest_models", "2"]
    error = one_error(codec_lm_train.main, *command(corpus, tmp_path / "model", *options))
    assert f"{path} is damaged (the checksum of" in error or f"checkpoint {path} cannot be read" in error


def test_weights_are_read_once_by_a_process_to_be_vouched_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the list of the directory and by the fingerprint: each read the whole file, under names of its own."""
    monkeypatch.chdir(tmp_path)
    info = Description("world_vq", Path("codec/codec.npz"), {}, CodecSpec(1, 4, 25.0, 16000), "", {})
    info.checkpoint.parent.mkdir()
    info.checkpoint.write_bytes(b"weights")
    info = replace(info, fingerprint=fingerprint_of(info.checkpoint, {}))
    vouch(info.checkpoint.parent)
    monkeypatch.setattr("hashlib.file_digest", pytest.fail)
    assert verify(tmp_path / info.checkpoint) and info.fits()
