"""What every contract asks of an error that a user can mend: one line that says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable


def assert_refused(call: Callable[[], object], message: str) -> None:
    """A call raises a ValueError, of which UserError is one, of one line.

    Args:
        call: what is refused.
        message: regular expression that is found in the error.

    Raises:
        AssertionError: if it is not refused, or in other words.
    """
    try:
        call()
    except ValueError as error:
        said = str(error)
        assert re.search(message, said), f"the error must say {message!r}, got {said!r}"
        assert "\n" not in said, f"the error must be one line, got {said!r}"
        return
    raise AssertionError(f"an error must say {message!r}, got none")
