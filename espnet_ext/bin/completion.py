"""Print what makes a shell complete ``espnet-ext``: its commands and all their options.

``eval "$(espnet-ext completion bash)"`` in ~/.bashrc asks every time; written to a file, it answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence
from typing import Any

from espnet_ext.bin import run
from espnet_ext.bin.command import PROGRAM, commands, summary
from espnet_ext.errors import needs_package

SHELLS = ("bash", "zsh", "tcsh")


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=SHELLS, help="which shell is to complete")
    return parser


def parser_of(module: str) -> argparse.ArgumentParser:
    """The options of one command.

    Args:
        module: its name in `espnet_ext.bin`.

    Returns:
        The parser.
    """
    command: Any = importlib.import_module(f"espnet_ext.bin.{module}")
    parser: argparse.ArgumentParser = command.get_parser()
    return parser


def all_commands() -> argparse.ArgumentParser:
    """One parser with every command, as a shell sees them."""
    parser = argparse.ArgumentParser(PROGRAM)
    chosen = parser.add_subparsers(dest="command")
    for name, module in commands().items():
        described = summary(module).replace("%", "%%")
        chosen.add_parser(
            name, help=described, parents=[parser_of(module)], conflict_handler="resolve"
        )  # each has a --help
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the script."""
    args = get_parser().parse_args(arguments)
    with needs_package("completion", "'espnet_ext[completion]'"):
        import shtab
    logging.disable()
    print(shtab.complete(all_commands(), args.shell))  # noqa: T201


if __name__ == "__main__":
    run(main)
