"""What a user can mend, told apart from defects of the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec


def printable(text: str) -> str:
    """A text that gives a terminal no orders: escaped where it has characters that are not seen."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class UserError(ValueError):
    """An option, a file or a text that is not usable: names it, its value and what is allowed.

    Command lines print it as one line. Every other error is a defect, of this program or of a plug-in, and keeps its
    traceback.
    """


def missing_package(requires: Mapping[str, str]) -> str | None:
    """Why something cannot be used here, where that is told before it is tried; None if it can.

    Args:
        requires: module → what pip installs for it.

    Returns:
        One line about the first module that is not there.

    >>> missing_package({"argparse": "python", "no_such_module": "'espnet_ext[demo]'"})
    "no_such_module is not installed: pip install 'espnet_ext[demo]'"
    """
    missing = next((module for module in requires if find_spec(module) is None), None)
    return None if missing is None else f"{missing} is not installed: pip install {requires[missing]}"


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
