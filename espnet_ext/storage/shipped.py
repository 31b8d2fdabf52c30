"""What comes with the package, installed or not: configurations by name, and a voice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CONF, VOICES = "conf", "voices"


def shipped_folder(name: str) -> Path:
    """A folder inside of the installed package, or beside it in the sources; it may not be there.

    Args:
        name: of the folder.

    Returns:
        Its path.
    """
    inside = PACKAGE / name
    return inside if inside.is_dir() or not (PACKAGE.parent / "setup.py").is_file() else PACKAGE.parent / name


def shipped_config(given: str) -> str:
    """The path of a configuration that is named without folder and suffix, such as ``train_mini``.

    Args:
        given: what a user gave for a yaml.

    Returns:
        The path of the one that comes with the package; what was given where that is a file, a path or no name of one.
    """
    path = Path(given)
    if given != path.name or path.suffix or path.is_file():
        return given
    found = shipped_folder(CONF) / f"{given}.yaml"
    return str(found) if found.is_file() else given


def with_shipped_configs(words: Sequence[str], option: str) -> list[str]:
    """A command line in which an option's configuration is given by its path.

    Args:
        words: the command line.
        option: with its dashes.

    Returns:
        The command line.

    >>> with_shipped_configs(["--config", "mine.yaml", "--config=other/x"], "--config")
    ['--config', 'mine.yaml', '--config=other/x']
    """
    changed = list(words)
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            changed[place] = f"{option}={shipped_config(word.removeprefix(f'{option}='))}"
        elif place and words[place - 1] == option:
            changed[place] = shipped_config(word)
    return changed
