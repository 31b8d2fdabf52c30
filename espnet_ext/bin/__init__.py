"""Command lines; `run` turns the errors a user can mend into one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


def one_line(error: Exception) -> str:
    """The message of an error on one line.

    Args:
        error: the error; one that a worker process of a DataLoader passed on carries the worker's whole traceback.

    Returns:
        The line; of a worker's traceback only the last line, without the name of the class.
    """
    text = str(error).rstrip()
    if text.startswith("Caught ") and "DataLoader worker process" in text.partition("\n")[0]:
        text = text.rpartition("\n")[2].removeprefix(f"{type(error).__name__}: ")
    return " ".join(text.split()) or type(error).__name__


def run(main: Callable[[], object]) -> None:
    """Call a command's `main` and exit: 0, 1 with one line on stderr, or 130 when interrupted.

    Only what names an option or a file is shortened; a defect of the program keeps its traceback. That of a shortened
    error is logged at level DEBUG.

    Args:
        main: the command, without arguments.
    """
    try:
        main()
    except (ValueError, OSError) as error:
        logging.debug("where the error comes from", exc_info=True)
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


__all__ = ["one_line", "run"]
