"""Files and directories appear under their final names complete, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from espnet_ext.storage.atomic import atomic_dir, atomic_path


def fill_file(final: Path, fail: bool) -> None:
    with atomic_path(final) as temporary:
        temporary.write_text("new")
        if fail:
            raise RuntimeError


def fill_directory(final: Path, name: str, fail: bool) -> None:
    with atomic_dir(final) as temporary:
        (temporary / name).write_text(name)
        if fail:
            raise RuntimeError


def test_a_file_appears_when_the_block_ends_and_nothing_else_is_left(tmp_path: Path) -> None:
    final = tmp_path / "new" / "codes.txt"
    with atomic_path(final) as temporary:
        assert (temporary.suffix, temporary.parent) == (".txt", final.parent)
        assert temporary != final
        temporary.write_text("complete")
        assert not final.exists()
    assert final.read_text() == "complete"
    assert os.listdir(final.parent) == ["codes.txt"]


def test_an_error_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    final = tmp_path / "codes.txt"
    final.write_text("old")
    with pytest.raises(RuntimeError):
        fill_file(final, fail=True)
    assert final.read_text() == "old"
    assert os.listdir(tmp_path) == ["codes.txt"]


def test_a_finished_file_has_the_permissions_of_a_plain_one(tmp_path: Path) -> None:
    """The temporary file is made so that only its owner can read it."""
    plain, final = tmp_path / "plain", tmp_path / "final"
    plain.write_text("")
    with atomic_path(final) as temporary:
        temporary.write_text("")
    assert final.stat().st_mode == plain.stat().st_mode


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    final = tmp_path / "exp"
    for name in ("first", "second"):
        fill_directory(final, name, fail=False)
    assert os.listdir(final) == ["second"]
    assert os.listdir(tmp_path) == ["exp"]


def test_an_error_keeps_the_old_directory(tmp_path: Path) -> None:
    final = tmp_path / "exp"
    final.mkdir()
    (final / "old").write_text("old")
    with pytest.raises(RuntimeError):
        fill_directory(final, "half", fail=True)
    assert os.listdir(final) == ["old"]
    assert os.listdir(tmp_path) == ["exp"]


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path) -> None:
    """A failed write knows the number of the open file, not its name."""
    script = (
        "import resource, signal, sys\n"
        "from espnet_ext.storage.atomic import atomic_path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with atomic_path(sys.argv[1]) as temporary:\n"
        "        temporary.write_bytes(bytes(5000))\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    final = tmp_path / "codes.ark"
    result = subprocess.run([sys.executable, "-c", script, str(final)], capture_output=True, text=True, check=True)
    assert str(final) in result.stdout
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named_by_whatever_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio files fail with "System error", and torch "unexpected pos"."""
    free = {"free": 2**30}

    def write() -> None:
        with atomic_path(tmp_path / "x.wav"):
            raise OSError("wav cannot be written: x.wav (System error.)")

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(**free))
    with pytest.raises(OSError, match=r"System error"):
        write()
    free["free"] = 2**12
    with pytest.raises(OSError, match=r"No space left on device: '.*/x.wav'"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["path", "dir"])
def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(
    tmp_path: Path, kind: str
) -> None:
    script = (
        "import sys, time\n"
        f"from espnet_ext.storage.atomic import atomic_{kind} as atomic\n"
        "with atomic(sys.argv[1]) as temporary:\n"
        "    print(temporary, flush=True)\n"
        "    time.sleep(float(sys.argv[2]))\n"
        "    (temporary / 'x' if temporary.is_dir() else temporary).write_text('new')\n"
    )
    final = tmp_path / ("ü" * 100 + ".pth")

    def start(seconds: float) -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", script, str(final), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return process, Path(process.stdout.readline().strip())

    (killed, left), (alive, kept) = start(60), start(60)
    with killed, alive:
        killed.kill()
        killed.wait()
        (tmp_path / ".checkpoint.abc.tmp.pth").touch()  # of nobody that can be told
        assert left.exists() and kept.exists()
        start(0)[0].communicate(timeout=30)
        assert final.exists() and kept.exists() and not left.exists()
        assert (tmp_path / ".checkpoint.abc.tmp.pth").exists()
        alive.kill()
    start(0)[0].communicate(timeout=30)
    assert {path.name for path in tmp_path.iterdir()} == {final.name, ".checkpoint.abc.tmp.pth"}
