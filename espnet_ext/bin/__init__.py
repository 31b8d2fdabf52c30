"""Command lines; `run` turns the errors a user can mend into one line, `several` does many jobs in one process."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from espnet_ext.errors import UserError, printable

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_like_ctrl_c() -> Iterator[list[int]]:
    """While the block runs, signals that ask to end raise a KeyboardInterrupt, so that temporary files are removed.

    The first one does; others are ignored then, but for a second Ctrl-C.

    Yields:
        The number of the signal, once there was one.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN)
        raise KeyboardInterrupt

    ours = (signal.SIG_DFL, signal.default_int_handler)  # nohup ignores one
    is_main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in STOPS if is_main and signal.getsignal(one) in ours}
    try:
        for number in before:
            signal.signal(number, stop)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def one_line(error: Exception) -> str:
    """The message of an error on one line.

    Args:
        error: the error; one that a worker process of a DataLoader passed on carries the worker's whole traceback.

    Returns:
        The line; of a worker's traceback only the last line, without the name of the class.
    """
    text = str(error).rstrip()
    if text.startswith("Caught ") and "DataLoader worker process" in text.partition("\n")[0]:
        text = re.sub(rf"^[\w.]*{type(error).__name__}: ", "", text.rpartition("\n")[2])
    return printable(" ".join(text.split())) or type(error).__name__  # names of files come from anybody


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """Show --jobs in the help of a command that begins with `several`.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--jobs", metavar="FILE",
        help="instead of all other options: a file with the options of one job in each line, in a shell's quoting, to "
        "be done in one process; FILE.finished gets the number of each job that is done, from 0",
    )  # fmt: skip


def several(main: Callable[[Sequence[str]], object], cmd: Sequence[str] | None) -> bool:
    """Do the jobs of --jobs FILE, if that is the command line; one that fails does not stop the others.

    Args:
        main: the command.
        cmd: command line without the program's name; None for the process's own.

    Returns:
        Whether it was.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if there is another option as well, or jobs failed: naming them, and why the first one did.
    """
    words = sys.argv[1:] if cmd is None else list(cmd)
    name, equals, value = words[0].partition("=") if words else ("", "", "")
    if name != "--jobs":
        return False
    given = ([value] if equals else []) + words[1:]
    if len(given) != 1:
        raise UserError(f"--jobs must be one file and nothing else, got {given}")
    if not Path(given[0]).is_file():
        raise FileNotFoundError(f"jobs not found: {given[0]}")
    try:
        jobs = [shlex.split(line) for line in Path(given[0]).read_text(encoding="utf-8").splitlines()]
    except ValueError as error:  # also what is not UTF-8
        raise UserError(f"--jobs must be a file in a shell's quoting, got {given[0]} ({error})") from None
    failed = {}
    with Path(f"{given[0]}.finished").open("w", encoding="utf-8") as finished:
        for number, job in enumerate(jobs):
            try:
                main(job)
            except (UserError, OSError) as error:
                failed[number] = one_line(error)
                logging.error("job %d of %d failed: %s (%s)", number + 1, len(jobs), failed[number], shlex.join(job))
                continue
            finished.write(f"{number}\n")
            finished.flush()
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} jobs failed, the first of them: {next(iter(failed.values()))}")
    return True


def run(main: Callable[[], object]) -> None:
    """Call a command's `main` and exit: 0, 1 with one line on stderr, or as shells report a signal, 130 for Ctrl-C.

    Only what names an option or a file is shortened; a defect of the program keeps its traceback. That of a shortened
    error is logged at level DEBUG.

    Args:
        main: the command, without arguments.
    """
    with signals_like_ctrl_c() as received:
        try:
            main()
        except (Exception, KeyboardInterrupt) as error:
            if received or isinstance(error, KeyboardInterrupt):  # any error, if it meets what has ended already
                for child in multiprocessing.active_children():
                    child.terminate()
                number = signal.Signals(next(iter(received), signal.SIGINT))
                sys.stderr.write(f"error: stopped by {number.name}\n")
                sys.exit(128 + number)
            if not isinstance(error, UserError | OSError):
                raise
            logging.debug("where the error comes from", exc_info=True)
            sys.exit(f"error: {one_line(error)}")


__all__ = ["add_jobs_option", "one_line", "run", "several"]
