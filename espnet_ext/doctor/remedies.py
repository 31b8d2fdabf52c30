"""The command that made a directory, as its record has it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from espnet_ext.jobs.finished import DONE_NAME, STARTED_NAME, read_request

# commands that keep what is finished unless they are told otherwise
FORCED = (
    *("codec_fit", "codec_tokens", "semantic_fit", "semantic_tokens", "codec_resynthesis", "codec_lm_inference"),
    *("gpst_inference", "evaluate", "sweep", "tune", "format_wav.py"),
)
# programs that recipes run; what else a record names was written by somebody else
KNOWN = re.compile(r"-m espnet(_ext|2)\.bin\.\w+|(.+/)?local/\w+\.(py|sh)")
MAKERS = {
    "config.yaml": "codec_lm_train",
    "codec_info.yaml": "codec_fit",
    "semantic_info.yaml": "semantic_fit",
    "codes.scp": "codec_tokens",
    "timing.json": "codec_lm_inference",
    "semantic.scp": "semantic_tokens",
}


def command_for(directory: Path) -> str:
    """What makes a directory again.

    Args:
        directory: with a record of a recipe, with another one, or without any.

    Returns:
        The command, from the recipe's directory, as far as that is known.
    """
    for name in (DONE_NAME, STARTED_NAME):
        command = read_request(directory, name).get("command")
        if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
            continue
        if KNOWN.fullmatch(" ".join(command[: 1 + (command[:1] == ["-m"])])):
            return _command(directory, command)
    names = [name for file, name in MAKERS.items() if (directory / file).is_file()]
    if not names:
        return "run again what made it"
    return f"python -m espnet_ext.bin.{names[-1]} …" + (" --force" if names[-1] in FORCED else "")


def _command(directory: Path, command: list[str]) -> str:
    programs = [Path(word).name.rpartition("espnet_ext.bin.")[2] for word in command[:3]]
    words = ["python" if command[0] == "-m" or command[0].endswith(".py") else "bash", *command]
    words += ["--force"] if any(name in FORCED for name in programs) else []
    recipe = next((place for place in directory.resolve().parents if (place / "run.sh").is_file()), None)
    return ("" if recipe is None else f"cd {shlex.quote(str(recipe))} && ") + shlex.join(words)
