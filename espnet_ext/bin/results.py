"""One RESULTS.md from the scores of several test sets, and the shortest summary of them for the terminal."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.scoring.scores import read_scores
from espnet_ext.storage.atomic import atomic_path


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="scores.json files of espnet_ext.bin.evaluate")
    parser.add_argument("--out", type=Path, default=Path("RESULTS.md"), help="page to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and log a summary."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.scoring.tables.report import results_page, terminal_summary

    results = [read_scores(path) for path in args.scores]
    with atomic_path(args.out) as temporary:
        temporary.write_text(results_page(results, args.out.parent), encoding="utf-8")
    logging.info("%s", terminal_summary(results))
    logging.info("results: %s", args.out)


if __name__ == "__main__":
    run(main)
