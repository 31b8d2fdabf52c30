"""Speculation over steps beside one step after the other: passes, speed, and with an evaluation what is heard.

python benchmarks/speculation.py --exp EXP … --data_dir dump/codec_lyra/test --out benchmarks/results/speculation_cpu

All ways decode the same texts, in turns, each with the same seeds; seconds are those of the process. The speech is
left in --work, with the scores of `bin.evaluate` if --evaluate gives its options.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from ways import Way, add_options, compare

from espnet_ext.bin import run
from espnet_ext.decoding.options import DecodeOptions

LOSSY = {
    "tolerance": {"delta": 0.5},
    "lantern": {"k": 32, "delta": 0.5},
    "pcg": {"groups": 16},
}
NO_NAME = str.maketrans(":,=", "___")  # of a directory


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, nargs="+", required=True, help="experiments, one for each S")
    parser.add_argument("--inference_config", type=Path, required=True, help="of all ways, but for the order")
    parser.add_argument("--drafters", nargs="+", default=["repeat", "jacobi", "ngram"])
    parser.add_argument(
        "--acceptances", nargs="+", default=["gumbel", "exact", "block", *LOSSY],
        help="with options of one's own where wanted: pcg:groups=4,vectors=codec",
    )  # fmt: skip
    parser.add_argument("--width", type=int, default=3)
    add_options(parser)
    return parser


def ways(exp: Path, args: argparse.Namespace) -> list[Way]:
    """All ways of an experiment, `causal` first."""
    base = DecodeOptions.from_yaml(args.inference_config)
    found = [Way("causal", exp, base)]
    for drafter in args.drafters:
        for told in args.acceptances:
            acceptance, own = accepting(told)
            conf = {"drafter": drafter, "acceptance": acceptance, "width": args.width, "exact": acceptance not in LOSSY}
            conf["acceptance_conf"] = own
            name = f"{drafter}_{told}".translate(NO_NAME)
            found.append(Way(name, exp, base.changed(order="speculative", order_conf=conf)))
    return found


def accepting(told: str) -> tuple[str, dict[str, object]]:
    """The name and the options of an acceptance.

    >>> accepting("pcg:groups=4,vectors=codec")
    ('pcg', {'groups': 4, 'vectors': 'codec'})
    """
    name, _, own = told.partition(":")
    pairs = (pair.partition("=") for pair in own.split(",") if pair)
    return name, {key: yaml.safe_load(value) for key, _, value in pairs} or LOSSY.get(name, {})


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    compare("Speculation over steps", [ways(exp, args) for exp in args.exp], args)


if __name__ == "__main__":
    run(main)
