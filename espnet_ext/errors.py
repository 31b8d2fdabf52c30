"""What a user can mend, told apart from defects of the program."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text that gives a terminal no orders: escaped where it has characters that are not seen."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class UserError(ValueError):
    """An option, a file or a text that is not usable: names it, its value and what is allowed.

    Command lines print it as one line. Every other error is a defect, of this program or of a plug-in, and keeps its
    traceback.
    """
