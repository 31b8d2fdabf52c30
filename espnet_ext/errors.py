"""What a user can mend, told apart from defects of the program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def printable(text: str) -> str:
    """A text that gives a terminal no orders: escaped where it has characters that are not seen."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class UserError(ValueError):
    """An option, a file or a text that is not usable: names it, its value and what is allowed.

    Command lines print it as one line. Every other error is a defect, of this program or of a plug-in, and keeps its
    traceback.
    """


@contextmanager
def needs_package(user: str, requirement: str) -> Iterator[None]:
    """While the block runs, a module that is not installed is a UserError that tells what installs it.

    Args:
        user: who needs it, in the words of an option, such as "codec lyra".
        requirement: for pip.

    Yields:
        Nothing.

    Raises:
        UserError: if a module is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{user} needs a package that is not there ({error}): pip install {requirement}") from None
