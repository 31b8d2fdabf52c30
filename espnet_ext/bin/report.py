"""One self-contained HTML page of one or several scores.json: advice, plot, sortable table, sound, curves, facts."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.options import check_number
from espnet_ext.scoring.page.confined import confined_figures
from espnet_ext.scoring.scores import read_scores
from espnet_ext.storage.atomic import atomic_path


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="scores.json files of espnet_ext.bin.evaluate or .sweep")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write")
    parser.add_argument("--title", default="Speech of codec language models", help="heading of the page")
    parser.add_argument("--num_sentences", type=int, default=3, help="sentences to listen to, of each test set")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page; a UserError if a file is not a scores.json, or a directory that it names is gone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(arguments)
    check_number("num_sentences", args.num_sentences, least=0, whole=True)
    results = [confined_figures(read_scores(path), path.parent) for path in args.scores]
    from espnet_ext.scoring.page.render import render  # here: --help should not wait for the plots

    words = sys.argv[1:] if arguments is None else arguments
    page = render(results, args.title, f"python -m espnet_ext.bin.report {shlex.join(words)}", args.num_sentences)
    with atomic_path(args.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    logging.info("%s: %.1f MB, open it in a browser", args.out, len(page.encode()) / 1e6)


if __name__ == "__main__":
    run(main)
