"""What a user can mend, told apart from defects of the program."""

from __future__ import annotations


class UserError(ValueError):
    """An option, a file or a text that is not usable: names it, its value and what is allowed.

    Command lines print it as one line. Every other error is a defect, of this program or of a plug-in, and keeps its
    traceback.
    """
