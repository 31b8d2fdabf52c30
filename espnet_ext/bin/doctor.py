"""What is wrong with an experiment, a codec, a data directory or all of a dump or exp directory, and what mends it.

``python -m espnet_ext.bin.doctor PATH`` checks records and checksums, tables and pointers, every entry of the archives,
weights, configurations, fingerprints, and what killed runs left. Status 1 means that something is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import MADE_NAME, vouch


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="directory to look at, with all below it")
    parser.add_argument(
        "--accept", action="store_true", help="instead: take the files of this directory as they are, changes included"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, and print what is wrong.

    Args:
        arguments: command line without the program name; None takes it from the process.

    Raises:
        UserError: if a directory is to be accepted that has no list of what was made.
    """
    args = get_parser().parse_args(arguments)

    from espnet_ext.doctor import check_tree

    if args.accept:
        if not (args.path / MADE_NAME).is_file():
            raise UserError(f"--accept must be for a directory with a {MADE_NAME}, got {args.path}")
        vouch(args.path)
        return
    checkup = check_tree(args.path)
    for finding in checkup.findings:
        sys.stdout.write(f"{finding}\n")
    sys.stdout.write(f"{checkup.summary()}\n")
    if checkup.findings:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
