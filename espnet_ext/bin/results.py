"""One RESULTS.md from the scores of several test sets, and the shortest summary of them for the terminal."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.scoring.tables.report import results_page, terminal_summary
from espnet_ext.storage.atomic import atomic_path

REQUIRED = {"title", "environment", "systems", "reference", "figures", "unavailable"}


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="scores.json files of espnet_ext.bin.evaluate")
    parser.add_argument("--out", type=Path, default=Path("RESULTS.md"), help="page to write")
    return parser


def read_scores(path: Path) -> Mapping[str, Any]:
    """Contents of a scores.json.

    Args:
        path: the file.

    Returns:
        The contents.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it was not written by espnet_ext.bin.evaluate.
    """
    if not path.is_file():
        raise FileNotFoundError(f"scores not found: {path} (espnet_ext.bin.evaluate writes it)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"scores must be JSON: {path}: {error}") from None
    if not isinstance(content, dict) or not content.keys() >= REQUIRED:
        raise UserError(f"scores must be a file written by espnet_ext.bin.evaluate, got {path}")
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and log a summary.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(arguments)
    results = [read_scores(path) for path in args.scores]
    with atomic_path(args.out) as temporary:
        temporary.write_text(results_page(results, args.out.parent), encoding="utf-8")
    logging.info("%s", terminal_summary(results))
    logging.info("results: %s", args.out)


if __name__ == "__main__":
    run(main)
