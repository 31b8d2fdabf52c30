"""The releases of ESPnet that the tasks are tested with."""

from __future__ import annotations

import re

from espnet_ext.errors import UserError

OLDEST, NEWEST = 202511, 202699  # setup.py says which of them on which Python


def check_espnet(version: str) -> None:
    """Refuse a release that the tasks are not tested with, before it fails somewhere inside.

    >>> check_espnet("202610.post2")
    >>> check_espnet("202506")
    Traceback (most recent call last):
    espnet_ext.errors.UserError: espnet must be 202511 to 202699, got 202506: pip install 'espnet>=202511,<202700'

    Args:
        version: of ESPnet; a date, and whatever a release or a checkout adds to it.

    Raises:
        UserError: if it is an older or a newer one.
    """
    date = re.match(r"\d{6}(?!\d)", version)
    if not date or not OLDEST <= int(date[0]) <= NEWEST:
        wish = f"pip install 'espnet>={OLDEST},<{NEWEST + 1}'"
        raise UserError(f"espnet must be {OLDEST} to {NEWEST}, got {version}: {wish}")
