"""Speech of a trained experiment, in any mode of its core LM: codes, waveforms, scores, timing.

Most often for the texts of a data directory. With --jobs one process makes many of them, of several strategies,
configurations and data directories, and loads each model once for all jobs that follow each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_ext.bin import add_jobs_option, run, several
from espnet_ext.bin.speaking import add_decode_options
from espnet_ext.registries import modes

if TYPE_CHECKING:
    from espnet_ext.decoding.options import DecodeOptions


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_jobs_option(parser)
    parser.add_argument(
        "--mode", help=f"What to ask for: one of {list(modes)}; default: what the experiment's core LM is for"
    )
    add_decode_options(parser)
    return parser


def options_for(exp: Path, data_dir: Path, output_dir: Path, how: Mapping[str, object]) -> argparse.Namespace:
    """The options of this command for another one that decodes with it.

    Args:
        exp: experiment directory.
        data_dir: what to speak.
        output_dir: directory of the output.
        how: further options by name; those that are None, false or empty are left out.

    Returns:
        The options; only warnings are logged.
    """
    command = ["--exp", str(exp), "--data_dir", str(data_dir), "--output_dir", str(output_dir)]
    given = {name: value for name, value in how.items() if value is not None and value is not False and value != ""}
    command += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return get_parser().parse_args([*command, "--log_level", "WARNING"])


def decode(args: argparse.Namespace, options: DecodeOptions) -> None:
    """Decode a corpus with given options, whatever `args` says of them."""
    from espnet_ext.inference.corpus import decode as decode_corpus

    decode_corpus(args, options)


def main(cmd: Sequence[str] | None = None) -> None:
    """Decode as the command line says.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    if several(main, cmd):
        return
    args = get_parser().parse_args(cmd)

    from espnet_ext.inference.options import begin_log, decode_options, find_voice, mode_class

    begin_log(args)
    find_voice(args, later=True)
    decode(args, decode_options(args, mode_class(args).options))


__all__ = ["decode", "get_parser", "main", "options_for"]

if __name__ == "__main__":
    run(main)
