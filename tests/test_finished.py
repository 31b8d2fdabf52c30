"""The record of what is finished: what it notices, what it does not read again, and what a kill leaves."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from espnet_ext.jobs import finished
from espnet_ext.jobs.finished import DUE, Record, files_of, read_request
from espnet_ext.storage import checksums

SCRIPT = str(Path(finished.__file__))


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two utterances in a table, and codes in an archive."""
    monkeypatch.chdir(tmp_path)
    Path("wav").mkdir()
    for name in ("a", "b"):
        Path(f"wav/{name}.wav").write_bytes(name.encode() * 1000)
    Path("wav.scp").write_text("a wav/a.wav\nb wav/b.wav\n")


def record(**request: object) -> Record:
    return Record.of(Path("out"), request, ["wav.scp"])


def replace_in_place() -> None:
    """Another sound under the same name, of the same length and of the same age."""
    before = os.stat("wav/a.wav")
    Path("wav/a.wav").write_bytes(b"c" * 1000)
    os.utime("wav/a.wav", ns=(before.st_atime_ns, before.st_mtime_ns))


def point_to_an_older_file() -> None:
    Path("old.wav").write_bytes(b"o" * 1000)
    os.utime("old.wav", (1, 1))
    Path("wav.scp").write_text("a old.wav\nb wav/b.wav\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace_in_place, "wav/a.wav changed after out was made: it is made again"),
        (point_to_an_older_file, "wav.scp and 2 more changed after out was made: it is made again"),
        (lambda: Path("wav/b.wav").unlink(), "wav/b.wav changed after out was made: it is made again"),
        (lambda: Path("out/.finished.json").write_text('{"format": "esp'), "not a whole record of this version"),
        (lambda: Path("out/.finished.json").write_text("{}"), "not a whole record of this version"),
        (lambda: Path("out/codes.ark").unlink(), "out/codes.ark is missing: it is made again"),
    ],
)
def test_whatever_a_step_read_or_made_counts_and_the_log_says_what_changed(
    change: Callable[[], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = [Path("out/codes.ark")]
    assert record(seed=1).make(lambda: made[0].write_text("codes"))
    assert not record(seed=1).make(pytest.fail, made=made)
    change()
    with caplog.at_level(logging.INFO):
        assert not record(seed=1).is_finished(made)
    assert reason in caplog.text


def test_other_options_and_force_make_it_again() -> None:
    ran: list[int] = []
    for seed, force, count in ((1, False, 1), (1, False, 1), (2, False, 2), (2, True, 3), (2, False, 3)):
        record(seed=seed).make(lambda: ran.append(1), force)
        assert len(ran) == count
    assert read_request(Path("out")) == {"seed": 2}


def test_a_step_that_fails_is_not_finished_though_it_was_before() -> None:
    record(seed=1).write()
    with pytest.raises(ZeroDivisionError):
        record(seed=2).make(lambda: 1 / 0)
    assert not record(seed=1).is_finished() and not record(seed=2).is_finished()


def test_force_continues_no_shards() -> None:
    Path("out/shards").mkdir(parents=True)
    Path("out/shards/000000-of-an-earlier-run").touch()
    record().make(lambda: sys.exit(1) if list(Path("out").glob("shards/*")) else None, force=True)


def test_files_that_were_only_touched_are_read_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    record().write()
    os.utime("wav/a.wav", (1, 1))
    assert record().is_finished()
    monkeypatch.setattr(checksums, "_hash", pytest.fail)
    assert record().is_finished()


def test_a_table_stands_for_the_files_that_it_lists_and_a_directory_for_those_in_it() -> None:
    Path("codes.ark").touch()
    Path("codes.scp").write_text("a codes.ark:5\nb codes.ark:70\n")
    Path("pipes.scp").write_text("a sox a.wav |\n")
    assert list(files_of(["codes.scp", "pipes.scp"])) == ["codes.scp", "codes.ark", "pipes.scp"]
    Path(".hidden").touch()
    Path("train.log").touch()
    names = [Path(path).name for path in files_of(["."])]
    assert names == ["codes.ark", "codes.scp", "pipes.scp", "wav.scp"]


def test_a_large_corpus_that_did_not_change_is_checked_in_a_moment() -> None:
    for number in range(10_000):
        Path(f"wav/{number}.wav").write_bytes(b"x")
    Path("wav.scp").write_text("".join(f"u{number:05d} wav/{number}.wav\n" for number in range(10_000)))
    record().write()
    checksums._hash.cache_clear()
    start = time.process_time()
    assert record().is_finished()
    assert time.process_time() - start < 1


def ask(*words: str) -> tuple[int, str]:
    """Status and output of the program that the shell runs."""
    command = [sys.executable, "-S", SCRIPT, *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(SCRIPT).parents[2])}  # as local/stages.sh calls it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_the_shell_begins_a_record_and_ends_it() -> None:
    job = ("out", "wav.scp", "--", "python", "program.py", "--nj", "2", "--seed", "1")
    assert ask(*job) == (DUE, "")
    assert ask(*job) == (DUE, ""), "what was only begun is not finished"
    assert ask("--end", *job) == (0, "")
    assert ask(*[word.replace("2", "8") for word in job]) == (0, "")
    assert ask("--force", *job) == (DUE, "")
    assert ask("--end", *job) == (0, "")
    assert ask(*job[:-1], "3") == (DUE, "out was made with other options\n")


def test_a_record_of_an_earlier_version_is_not_taken_for_one() -> None:
    Path("out").mkdir(exist_ok=True)
    Path("out/.done").write_text("input wav.scp 12 34\nargument program.py\nid 2025-01-01T00:00:00 12\n")
    status, text = ask("out", "wav.scp", "--", "python", "program.py")
    assert (status, text) == (DUE, "out/.done is not a whole record of this version\n")
    assert not Path("out/.done").exists()


def test_a_training_continues_with_more_epochs_and_is_moved_aside_for_anything_else() -> None:
    def train(*options: str) -> str:
        return ask("--resumable", "exp", "wav.scp", "--", "python", "train.py", *options)[1]

    train("--max_epoch", "3")
    Path("exp/checkpoint").touch()
    assert train("--max_epoch", "3") == "", "an interrupted one continues"
    assert ask("--end", "exp", "wav.scp", "--", "python", "train.py", "--max_epoch", "3") == (0, "")
    train("--max_epoch", "5")
    assert Path("exp/checkpoint").exists()
    for number, options in enumerate([("--max_epoch", "4"), ("--max_epoch", "4", "--seed", "1")], start=1):
        assert train(*options) == f"exp was made with other options or inputs: moved to exp.old{number}\n"
        assert not Path("exp/checkpoint").exists()
    Path("wav/a.wav").write_bytes(b"another")
    assert train("--max_epoch", "4", "--seed", "1").endswith("moved to exp.old3\n")
    assert json.loads(Path("exp/.started").read_text())["request"]["command"][0] == "train.py"
