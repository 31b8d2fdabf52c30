"""What every contract asks of an error that a user can mend: one line that says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial


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


def assert_no_other_option(build: Callable[..., object], name: str, conf: Mapping[str, object], option: str) -> None:
    """Options are the fields of the dataclass: an unknown one is refused with those there are.

    Args:
        build: makes an object of a registered name with its options.
        name: registered name.
        conf: options that it has.
        option: what its options are called.

    Raises:
        AssertionError: if it is not refused, or in other words.
    """
    message = f"{option} of {re.escape(name)} must be among .*, got .*no_option"
    assert_refused(partial(build, name, **conf, no_option=1), message)
