"""Command lines; `run` turns the errors a user can mend into one line."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(main: Callable[[], object]) -> None:
    """Call a command's `main` and exit: 0, or 1 with one line on stderr.

    Only what names an option or a file is shortened; a defect of the program keeps its traceback.

    Args:
        main: the command, without arguments.
    """
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


__all__ = ["run"]
