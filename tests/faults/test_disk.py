"""Disks that are full or read-only, clocks that are wrong, files that are cut or flipped, from audio to codes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.figures import fault
from faults.shrunk import Shrunk, difference

pytestmark = [pytest.mark.faults]

PREPARE = ["--stop_stage", "token_list"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Shrunk:
    recipe = Shrunk.copy(tmp_path_factory.mktemp("undisturbed"), "codec_lm1")
    recipe.run(*PREPARE)
    return recipe


@pytest.fixture
def finished(undisturbed: Shrunk) -> Iterator[Shrunk]:
    """The undisturbed one, which is as it was at the end."""
    before = undisturbed.contents()
    yield undisturbed
    assert difference(before, undisturbed.contents()) == []


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of its own in a directory."""
    place.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small disk, and not everywhere: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def assert_told_in_one_line(said: str) -> None:
    assert "Traceback" not in said
    assert sum(line.startswith("error: ") for line in said.splitlines()) <= 2, said  # the command's and run.sh's


@pytest.mark.parametrize("kilobytes", [2, 40])
def test_a_limit_on_files_stops_a_stage_and_the_same_command_continues(
    undisturbed: Shrunk, tmp_path: Path, kilobytes: int
) -> None:
    recipe = Shrunk.copy(tmp_path, undisturbed.model)
    with fault("a full disk, by a limit on the size of files"):
        said = recipe.run(*PREPARE, limit=kilobytes, status=1)
        assert_told_in_one_line(said)
        recipe.run(*PREPARE)
        assert difference(undisturbed.contents(), recipe.contents()) == []
        assert recipe.left() == []


def test_a_small_disk_stops_a_stage_and_the_same_command_continues(undisturbed: Shrunk, tmp_path: Path) -> None:
    recipe = Shrunk.copy(tmp_path, undisturbed.model)
    dump = recipe.directory / "dump_tiny"
    with small_disk(dump, "300k"), fault("a full disk, a small one"):
        said = recipe.run(*PREPARE, status=1)
        assert_told_in_one_line(said)
        assert "No space left on device" in said
        remount(dump, "size=200m")
        recipe.run(*PREPARE)
        assert difference(undisturbed.contents(), recipe.contents()) == []


def test_a_read_only_directory_stops_a_stage_and_the_same_command_continues(
    undisturbed: Shrunk, tmp_path: Path
) -> None:
    recipe = Shrunk.copy(tmp_path, undisturbed.model)
    dump = recipe.directory / "dump_tiny"
    with small_disk(dump, "200m"), fault("a read-only directory"):
        recipe.run("--stop_stage", "format")
        remount(dump, "ro")
        said = recipe.run(*PREPARE, status=1)
        assert_told_in_one_line(said)
        assert "Read-only file system" in said
        remount(dump, "rw")
        recipe.run(*PREPARE)
        assert difference(undisturbed.contents(), recipe.contents()) == []


@pytest.mark.parametrize("seconds", [-(10**9), 10**9], ids=["past", "future"])
def test_a_clock_that_was_wrong_makes_nothing_else(finished: Shrunk, seconds: int) -> None:
    with fault("files of the past or the future, as after a clock that was wrong"):
        for path in finished.files().values():
            time = path.stat().st_mtime + seconds
            os.utime(path, (time, time))
        said = finished.run(*PREPARE)
        assert said.count("finished before") == 6, "contents count, not times"


def test_another_content_with_the_time_and_size_of_the_old_is_seen(finished: Shrunk) -> None:
    text = finished.directory / "dump_tiny/raw/train/text"
    before, when = text.read_text(), text.stat()
    with fault("another content with the size and the time of the old one"):
        text.write_text(before.replace("e", "a"))
        os.utime(text, ns=(when.st_atime_ns, when.st_mtime_ns))
        said, _ = finished.start(*PREPARE).communicate(timeout=1500)  # it is read, or refused until somebody accepts it
        assert "changed after dump_tiny/filtered/train was made" in said
        text.write_text(before)
        os.utime(text, ns=(when.st_atime_ns, when.st_mtime_ns))
        finished.run(*PREPARE)


DAMAGED = ["codes.ark", "codes.scp", "prompt.scp", "utt2spk", "codec_info.yaml"]


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_damage_is_refused_or_mended_and_force_mends_it(finished: Shrunk, how: str) -> None:
    draw, whole = random.Random(0), finished.contents()
    (codec,) = finished.directory.glob("dump_tiny/codec_*")
    paths = [*(codec / "train" / name for name in DAMAGED), next(codec.glob("*.npz"))]
    damaged = {}
    for path in paths:
        content = bytearray(path.read_bytes())
        if how == "cut":
            del content[len(content) // 2 :]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damaged[path] = bytes(content)
    for path, content in damaged.items():
        before = path.read_bytes()
        try:
            with fault(f"files of a data directory that are {how}"):
                path.write_bytes(content)
                process = finished.start("--stage", "codec_tokens", *PREPARE)
                said, _ = process.communicate(timeout=600)
                itself = str(path.relative_to(finished.directory))
                made = [name for name in difference(whole, finished.contents()) if name != itself]
                assert process.returncode == 0 or "error: " in said
                assert process.returncode or not made, f"{made} are made of {path.name}: {said[-1500:]}"
        finally:
            path.write_bytes(before)
    for path, content in damaged.items():
        path.write_bytes(content)
    finished.run(*PREPARE, "--force")  # which the fixture compares


def test_codes_that_are_flipped_are_never_decoded(finished: Shrunk, tmp_path: Path) -> None:
    (codec,) = finished.directory.glob("dump_tiny/codec_*")
    archive = codec / "train/codes.ark"
    whole = archive.read_bytes()
    words = [sys.executable, "-m", "espnet_ext.bin.codec_resynthesis", "--codec_info", str(codec / "codec_info.yaml")]
    words += ["--data_dir", str(codec / "train"), "--out", str(tmp_path / "speech")]
    try:
        with fault("codes of which a bit is flipped, decoded"):
            archive.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
            done = subprocess.run(words, cwd=finished.directory, capture_output=True, text=True, check=False)
            assert done.returncode == 1 and "error: " in done.stderr, done.stderr[-2000:]
    finally:
        archive.write_bytes(whole)
