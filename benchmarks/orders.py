"""Orders of models that were trained for them beside `causal`: passes, speed, and with an evaluation what is heard.

python benchmarks/orders.py --causal EXP --masked EXP --window EXP --data_dir dump/…/test --out NAME

All ways decode the same texts, in turns, each with the same seeds; seconds are those of the process. The speech is
left in --work, with the scores of `bin.evaluate` if --evaluate gives its options.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from ways import Way, add_options, compare

from espnet_ext.bin import run
from espnet_ext.decoding.options import DecodeOptions


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--causal", type=Path, nargs="+", required=True, help="experiments of causal models")
    parser.add_argument("--masked", type=Path, nargs="+", default=[], help="of masked ones, each behind the same base")
    parser.add_argument("--window", type=Path, nargs="+", default=[], help="of those of blocks, likewise")
    parser.add_argument("--inference_config", type=Path, required=True, help="of all ways, but for the order")
    parser.add_argument("--rounds_of_masked", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0], help="of the confidence in a round")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8], help="of a window")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.5, 1.1], help="above 1: one step a turn")
    add_options(parser)
    return parser


def ways(number: int, args: argparse.Namespace) -> list[Way]:
    """All ways of one training of each kind, `causal` first."""
    base = DecodeOptions.from_yaml(args.inference_config)
    end = f"_training{number + 1}" if len(args.causal) > 1 else ""
    found = [Way(f"causal{end}", args.causal[number], base)]
    for rounds, temperature in itertools.product(args.rounds_of_masked, args.temperatures):
        conf = {"rounds": rounds, "choice": "confidence", "temperature": temperature}
        name = f"masked_{rounds}" + (f"_{temperature:g}" if len(args.temperatures) > 1 else "")
        found += [
            Way(name + end, exp, base.changed(order="masked", order_conf=conf)) for exp in args.masked[number:][:1]
        ]
    for width, threshold in itertools.product(args.widths, args.thresholds):
        how = base.changed(order="window", order_conf={"width": width, "threshold": threshold})
        found += [Way(f"window_{width}_{threshold:g}{end}", exp, how) for exp in args.window[number:][:1]]
    return found


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    compare("Orders", [ways(number, args) for number in range(len(args.causal))], args)


if __name__ == "__main__":
    run(main)
