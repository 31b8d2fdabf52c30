"""All commands under one name: ``espnet-ext COMMAND …`` is ``python -m espnet_ext.bin.COMMAND …``."""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_ext import __version__
from espnet_ext.bin import run
from espnet_ext.errors import UserError

PROGRAM = "espnet-ext"
SHORT = {"codec_lm_train": "train", "codec_lm_inference": "infer", "gpst_inference": "gpst-infer"}
NO_COMMANDS = ("command", "speaking")


def commands() -> dict[str, str]:
    """Name → module in `espnet_ext.bin`, by the alphabet; no module is imported.

    >>> commands()["train"], commands()["token-list"]
    ('codec_lm_train', 'token_list')
    """
    modules = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    named = {SHORT.get(name, name.replace("_", "-")): name for name in modules if name not in NO_COMMANDS}
    return dict(sorted(named.items()))


def summary(module: str) -> str:
    """The first sentence of a command's documentation, read without importing it: imports would take seconds.

    Args:
        module: its name in `espnet_ext.bin`.

    Returns:
        One line.
    """
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    paragraph = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).partition(": ``python -m")[0].rstrip(".")


def help_text() -> str:
    """What ``espnet-ext --help`` prints."""
    lines = [f"usage: {PROGRAM} [--help] [--version] COMMAND …", "", "commands"]
    lines += [f"  {name:18}{summary(module)}" for name, module in commands().items()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help has the options of each."])


def module_of(name: str) -> str:
    """The module of a command.

    Args:
        name: of the command, or of its module; dashes and underscores are the same.

    Returns:
        The name in `espnet_ext.bin`.

    Raises:
        UserError: if there is none, naming those there are, or the one that was meant.
    """
    known = commands()
    wanted = name.replace("_", "-")
    names = {**{module.replace("_", "-"): module for module in known.values()}, **known}
    if wanted in names:
        return names[wanted]
    near = difflib.get_close_matches(wanted, names, n=1)
    allowed = f"{near[0]!r}, perhaps" if near else f"one of {list(known)}"
    raise UserError(f"command must be {allowed}, got {name!r}; {PROGRAM} --help lists all")


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the command that is named first with the options behind it.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    words = sys.argv[1:] if cmd is None else list(cmd)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())  # noqa: T201
    elif words[0] == "--version":
        print(f"{PROGRAM} {__version__}")  # noqa: T201
    else:
        module = module_of(words[0])
        given, sys.argv = sys.argv, [f"{PROGRAM} {words[0]}", *words[1:]]  # how usage and errors name the program
        try:
            importlib.import_module(f"espnet_ext.bin.{module}").main(words[1:])
        finally:
            sys.argv = given


def script() -> None:
    """The console script ``espnet-ext``."""
    run(main)


if __name__ == "__main__":
    script()
