"""Write an experiment as one file that speaks elsewhere: weights, codec, decoding, results, licences, checksums.

``espnet-ext say voice.zip "text" -o x.wav``, ``Speaker.from_pretrained("voice.zip")`` and the hub take it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.defaults import DTYPES, NOT_STATED


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exp", type=Path, help="experiment directory")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, NAME.zip")
    add_pack_options(parser)
    return parser


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Add what is to be told of an experiment."""
    parser.add_argument("--model_file", help="weights inside of it; default: the average of the best epochs")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="of stored weights; in fewer bytes not the very same codes",
    )
    parser.add_argument("--data_license", default=NOT_STATED, help="terms of the recordings that it was trained on")
    parser.add_argument("--results", type=Path, help="a RESULTS.md; default: the one beside the experiment")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file and log its size."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.sharing.pack import pack

    if args.data_license == NOT_STATED:
        logging.warning("data_license is not given: whoever gets the voice will not know what may be done with it")
    pack(args.exp, args.output, args.model_file, args.dtype, args.data_license, args.results)
    logging.info("%s: %.1f MB", args.output, args.output.stat().st_size / 1e6)


if __name__ == "__main__":
    run(main)
