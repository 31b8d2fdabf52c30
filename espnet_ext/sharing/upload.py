"""A voice on the Hugging Face hub, or on a server that speaks its language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from espnet_ext.errors import UserError, needs_package
from espnet_ext.sharing.model_card import model_card
from espnet_ext.storage.pretrained import HUB_NAME
from espnet_ext.storage.voice_files import VOICE_NAME, check_list
from espnet_ext.storage.zip_files import unpack_zip

CARD_NAME = "README.md"


@contextmanager
def prepared(voice: Path, repo: str) -> Iterator[Path]:
    """A directory with all that is sent; it is removed when the block ends.

    Args:
        voice: file that ``espnet-ext pack`` wrote.
        repo: ``owner/name`` on the hub.

    Yields:
        The directory.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no packed voice, is damaged, or the name is none.
    """
    if not re.fullmatch(HUB_NAME, repo):
        raise UserError(f"repo must be owner/name, got {repo!a}")
    with TemporaryDirectory() as temporary:
        place = Path(temporary) / "voice"
        unpack_zip(voice, place)
        if not (place / VOICE_NAME).is_file():
            raise UserError(f"voice must be a file that espnet-ext pack wrote, got {voice} without {VOICE_NAME}")
        facts = check_list(place)
        (place / CARD_NAME).write_text(model_card(place, repo, facts), encoding="utf-8")
        yield place


def upload(place: Path, repo: str, private: bool = False, endpoint: str | None = None) -> str:
    """Send a directory; the user's own token, as ``hf auth login`` keeps it, says who sends it.

    Args:
        place: directory that `prepared` made.
        repo: ``owner/name``; it is made when missing.
        private: whether a new one can be seen by its owner alone.
        endpoint: address of another server than the hub.

    Returns:
        The address of what was sent.

    Raises:
        UserError: if the package is missing, or the server refuses.
    """
    with needs_package("upload", "'espnet_ext[hub]'"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # it is not listed there
    try:
        urlsplit(endpoint or "").port  # noqa: B018 (it raises for what is no address)
    except ValueError as error:
        raise UserError(f"endpoint must be an address, got {endpoint!a} ({error})") from None
    api = HfApi(endpoint=endpoint, library_name="espnet_ext")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        # what is left of an earlier voice would not be in the list of this one
        sent = api.upload_folder(
            repo_id=repo, folder_path=place, commit_message="Upload a voice of espnet_ext", delete_patterns="*"
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{repo} could not be sent: {type(error).__name__}: {reason}") from None
    return str(sent)
