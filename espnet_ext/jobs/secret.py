"""A key of this user alone, with which work that was finished is told from what somebody else put there."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from espnet_ext.errors import UserError

KEY_BYTES = 32


def key_file() -> Path:
    """Where the key lies: in the user's own cache, never beside what it vouches for."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "espnet_ext" / "shards.key"


@functools.cache
def user_key(path: Path) -> bytes:
    """The key in a file, which is made when missing.

    Args:
        path: the file.

    Returns:
        The key; one for this process alone where there is no place for a file.

    Raises:
        UserError: if others could read or write the file.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)  # which only the user can read
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(KEY_BYTES))
            with suppress(FileExistsError):  # another process was faster
                os.link(name, path)
            os.unlink(name)
        with path.open("rb") as stream:
            state, key = os.fstat(stream.fileno()), stream.read(KEY_BYTES)
    except OSError as error:
        logging.warning(
            "%s cannot be used (%s): what is finished now will not be found by a later command", path, error
        )
        return secrets.token_bytes(KEY_BYTES)
    if state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & 0o077 or len(key) != KEY_BYTES:
        raise UserError(f"{path} must be {KEY_BYTES} bytes that only you can read: remove it")
    return key


def key_of(name: str) -> bytes:
    """The key of one thing, which tells nothing about the user's own."""
    return hmac.digest(user_key(key_file()), name.encode(), hashlib.sha256)
