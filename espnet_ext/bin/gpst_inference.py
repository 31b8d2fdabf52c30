"""Speech of a GPST, in any of its modes, for a token directory, for single audio files, or out of nothing.

The same as `codec_lm_inference` with the mode named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from espnet_ext.bin import run
from espnet_ext.bin.speaking import add_decode_options
from espnet_ext.registries import modes

TEXT_MODES = ("text", "edit")  # of models that read text


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--mode", required=True, help=f"What to ask for: one of {[mode for mode in modes if mode not in TEXT_MODES]}"
    )
    add_decode_options(parser)
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Speak.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)

    from espnet_ext.inference.corpus import decode
    from espnet_ext.inference.options import begin_log, decode_options, find_voice, mode_class

    begin_log(args)
    find_voice(args, later=True)
    decode(args, decode_options(args, mode_class(args).options))


__all__ = ["get_parser", "main"]

if __name__ == "__main__":
    run(main)
