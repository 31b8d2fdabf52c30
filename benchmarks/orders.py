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
    parser.add_argument("--causal", type=Path, required=True, help="experiment of a causal model")
    parser.add_argument("--masked", type=Path, help="experiment of a masked one")
    parser.add_argument("--window", type=Path, help="experiment of one of blocks")
    parser.add_argument("--inference_config", type=Path, required=True, help="of all ways, but for the order")
    parser.add_argument("--rounds_of_masked", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0], help="of the confidence in a round")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8], help="of a window")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.5, 1.1], help="above 1: one step a turn")
    add_options(parser)
    return parser


def ways(args: argparse.Namespace) -> list[Way]:
    """All ways, `causal` first."""
    base = DecodeOptions.from_yaml(args.inference_config)
    found = [Way("causal", args.causal, base)]
    for rounds, temperature in itertools.product(args.rounds_of_masked, args.temperatures) if args.masked else ():
        conf = {"rounds": rounds, "choice": "confidence", "temperature": temperature}
        name = f"masked_{rounds}" + (f"_{temperature:g}" if len(args.temperatures) > 1 else "")
        found.append(Way(name, args.masked, base.changed(order="masked", order_conf=conf)))
    for width, threshold in itertools.product(args.widths, args.thresholds) if args.window else ():
        conf = {"width": width, "threshold": threshold}
        name = f"window_{width}_{threshold:g}"
        found.append(Way(name, args.window, base.changed(order="window", order_conf=conf)))
    return found


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    compare("Orders", [ways(args)], args)


if __name__ == "__main__":
    run(main)
