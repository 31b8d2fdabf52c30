"""One command at a time writes to a directory; the second one names the first."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from espnet_ext.jobs import Record
from espnet_ext.storage.lock import LOCK_NAME, Owner, claim, start_of

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
HOLD = (
    "import sys, time\n"
    "from espnet_ext.bin import run\n"
    "from espnet_ext.storage.lock import claim\n"
    "def main():\n"
    "    with claim(sys.argv[1]):\n"
    "        print('held', flush=True)\n"
    "        time.sleep(float(sys.argv[2]))\n"
    "        {}\n"
    "run(main)\n"
)


@contextmanager
def holder(directory: Path, seconds: float = 60, then: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """Another command that has the directory."""
    command = [sys.executable, "-c", HOLD.format(then), str(directory), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_command_names_process_and_host_of_the_first_in_one_line(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        for _ in range(2):
            with pytest.raises(BlockingIOError) as caught, claim(tmp_path):
                pass
        name = f"process {first.pid} on {socket.gethostname()}"
        assert str(caught.value) == f"{tmp_path} is in use by {name}; remove {tmp_path / LOCK_NAME} if that has ended"
        record = Record.of(tmp_path, {}, [])
        with pytest.raises(BlockingIOError, match=name):
            record.make(lambda: pytest.fail("both write"))


@pytest.mark.parametrize(
    ("number", "then", "status"),
    [(signal.SIGTERM, "pass", 143), (signal.SIGINT, "pass", 130), (signal.SIGHUP, "pass", 129)]
    + [(0, "pass", 0), (0, "raise OSError('broken')", 1), (0, "1 / 0", 1)],
)
def test_no_end_but_a_kill_leaves_a_lock(tmp_path: Path, number: int, then: str, status: int) -> None:
    with holder(tmp_path / "new", 60 if number else 0, then) as process:
        if number:
            process.send_signal(number)
        _, error = process.communicate(timeout=20)
    assert process.returncode == status
    if number:
        assert error == f"error: stopped by {signal.Signals(number).name}\n"
    assert not (tmp_path / "new").exists(), "nothing was made there"


def test_the_lock_of_a_process_that_was_killed_is_taken_over_by_one(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.kill()
        first.wait()
        assert (tmp_path / LOCK_NAME).exists()

        others = [subprocess.Popen(["sleep", "60"]) for _ in range(6)]
        try:

            def take(other: subprocess.Popen[bytes]) -> int:
                command = [sys.executable, "-S", "espnet_ext/storage/lock.py", str(other.pid), str(tmp_path)]
                return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env=ENVIRONMENT).returncode

            with ThreadPoolExecutor(6) as threads:
                assert sorted(threads.map(take, others)) == [0, 1, 1, 1, 1, 1]
        finally:
            for other in others:
                other.kill()
                other.wait()


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    with holder(tmp_path / "other") as process:
        pid, host, start = Owner.of(process.pid)
        (tmp_path / LOCK_NAME).write_text(f"{pid} {host} {int(start) - 1}\n")
        with claim(tmp_path):
            assert (tmp_path / LOCK_NAME).read_text().split() == [str(os.getpid()), host, start_of(os.getpid())]


@pytest.mark.parametrize(
    "text", ["", "x", "-1 here", "0 here", "1", "a b c", "1 \x1b[2J 5", "\udcff", "9" * 5000 + " here"]
)
def test_what_names_nobody_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_NAME).write_text(text, errors="surrogateescape")
    with claim(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_nobody_knows_whether_a_process_of_another_machine_has_ended(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("1 elsewhere 5\n")
    with pytest.raises(BlockingIOError, match="process 1 on elsewhere"), claim(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).exists()


def test_what_a_command_starts_may_write_where_it_does(tmp_path: Path) -> None:
    with claim(tmp_path):
        with claim(tmp_path), holder(tmp_path, 0) as child:
            assert child.wait() == 0
        assert (tmp_path / LOCK_NAME).exists(), "it is the outermost that has it"
        if (pid := os.fork()) == 0:  # a fork leaves the block as well
            try:
                with claim(tmp_path):
                    pass
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert (tmp_path / LOCK_NAME).exists()
    assert not list(tmp_path.iterdir())


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from espnet_ext.jobs.processes import run_in_processes\n"
        "def work(name):\n"
        "    Path(name).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    run_in_processes(work, ['a', 'b'], [], 2, print)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], cwd=tmp_path) as process:
        pids = [tmp_path / name for name in "ab"]
        until = time.monotonic() + 60
        while not all(path.is_file() and path.read_text() for path in pids):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.kill()
        process.wait()
        until = time.monotonic() + 5
        while any(start_of(int(path.read_text())) for path in pids):
            assert time.monotonic() < until, "they work on for nobody"
            time.sleep(0.05)
