"""Write an experiment in the format to share: weights as safetensors, no pickles, no paths of this machine.

The directory is an experiment itself: ``say``, ``codec_lm_inference``, ``gpst_inference``, the demo,
``Speaker.from_experiment`` and ``codec_lm_train --init_from`` take it, and say the same bit for bit.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.defaults import DTYPES


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment directory")
    parser.add_argument("--output_dir", type=Path, required=True, help="directory to write, which is not there yet")
    parser.add_argument("--model_file", help="weights inside of --exp; default: the average of the best epochs")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="of stored weights; in fewer bytes not the very same codes"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the directory and log what is in it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(arguments)

    from espnet_ext.sharing.export import export

    export(args.exp, args.output_dir, args.model_file, args.dtype)
    for path in sorted(path for path in args.output_dir.rglob("*") if path.is_file()):
        logging.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


if __name__ == "__main__":
    run(main)
