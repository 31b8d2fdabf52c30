"""What this user keeps between runs: compiled code, which runs when it is loaded, and voices of others, unpacked."""

from __future__ import annotations

import os
from pathlib import Path

from espnet_ext.errors import UserError


def own_cache() -> Path:
    """The directory, which is made when missing.

    Returns:
        The directory, which nobody else can write to.

    Raises:
        UserError: if it is another user's.
    """
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "espnet_ext"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.geteuid():
        raise UserError(f"{place} must be your own directory, as code is loaded from there: set XDG_CACHE_HOME")
    if place.stat().st_mode & 0o022:
        place.chmod(0o700)
    return place


def is_own(path: Path) -> bool:
    """Whether a file in it is there and was written by this user, and no other user can change it."""
    if path.is_symlink() or not path.is_file():
        return False
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
