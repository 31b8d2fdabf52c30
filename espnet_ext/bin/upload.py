"""Put a packed voice on the Hugging Face hub with a model card of its results; --dry_run shows what would be sent."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voice", type=Path, help="file that espnet-ext pack wrote")
    parser.add_argument("repo", help="owner/name on the hub")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner alone")
    parser.add_argument("--endpoint", help="address of another server than the hub")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, and send nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Send it, or show what would be sent."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.sharing.upload import CARD_NAME, prepared, upload

    with prepared(args.voice, args.repo) as place:
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            logging.info("%s: %.1f kB", path.relative_to(place).as_posix(), path.stat().st_size / 1e3)
        if args.dry_run:
            logging.info("the card:\n%s", (place / CARD_NAME).read_text(encoding="utf-8"))
            logging.info("--dry_run: nothing was sent to %s", args.repo)
            return
        logging.info("sent: %s", upload(place, args.repo, args.private, args.endpoint))


if __name__ == "__main__":
    run(main)
