"""Which strategy, stacking factor and rounds to use, from your own measurements, with the reasons.

Of the systems that keep to the limits, the target decides: latency takes the least RTF, throughput the most frames per
second, quality the least word error rate. Systems whose intervals overlap (speeds within 5 %) count as equal, and the
next measure decides: for speed the word error rate and the Fréchet distance, for quality the Fréchet distance, the
similarity of the voice, and at last the speed.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.scoring.scores import read_scores
from espnet_ext.scoring.tables.advice import TARGETS, Advice, Limit, advise

LIMITS = {  # option → measure
    "max_rtf": "rtf",
    "max_wer": "wer",
    "max_cer": "cer",
    "max_frechet": "frechet",
    "min_speaker": "speaker",
    "min_dnsmos": "dnsmos_ovrl",
    "min_frames_per_second": "frames_per_second",
}


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scores",
        type=Path,
        nargs="+",
        help="scores.json of espnet_ext.bin.sweep or .evaluate; of several the worst value counts",
    )
    parser.add_argument("--target", required=True, choices=TARGETS, help="what matters most")
    for option, key in LIMITS.items():
        unit = ", percent" if key in ("wer", "cer") else ""
        parser.add_argument(f"--{option}", type=float, metavar="X", help=f"limit of {key}{unit}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of sentences")
    return parser


def decode_yaml(advice: Advice) -> str:
    """The decode yaml of the system that was chosen; empty where nobody wrote down how it was decoded."""
    decoding = None if advice.chosen is None else advice.chosen.decoding
    if decoding is None:
        return ""
    content = {"decoding": decoding.name, "decoding_conf": decoding.conf, "sampling": decoding.sampling}
    more: dict[str, Any] = {"seed": next(iter(decoding.seeds), None)}
    more |= {name: getattr(decoding, name) for name in ("maxlenratio", "min_frames")}
    content |= {name: value for name, value in more.items() if value is not None}
    return yaml.safe_dump(content, sort_keys=False)


def as_json(advice: Advice) -> str:
    """The advice for programs."""
    chosen = advice.chosen
    found: dict[str, Any] = {
        "chosen": None if chosen is None else chosen.name,
        "values": {} if chosen is None else dict(chosen.values),
        "decoding": None if chosen is None else {} if chosen.decoding is None else asdict(chosen.decoding),
        "reasons": advice.reasons,
        "excluded": advice.excluded,
    }
    return json.dumps(found, ensure_ascii=False)


def as_text(advice: Advice) -> str:
    """The advice for people."""
    if advice.chosen is None:
        return "\n".join(["Nothing keeps to all limits.", *(f"- {line}" for line in advice.reasons)])
    decoding = advice.chosen.decoding
    how = f": S = {decoding.stacking}, {decoding.name}" if decoding else ""
    lines = [f"Use {advice.chosen.name}{how}."]
    lines += [f"- {line}" for line in advice.reasons]
    by_reason: dict[str, list[str]] = {}
    for name, reason in advice.excluded.items():
        by_reason.setdefault(reason.partition(":")[0], []).append(name)
    lines += [f"- excluded, {reason}: {len(names)} ({', '.join(names)})" for reason, names in by_reason.items()]
    content = decode_yaml(advice)
    if content:
        lines += ["", "Save as decode.yaml, for --inference_config decode.yaml:", "", content.rstrip()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the advice; a UserError if nothing keeps to the limits, or a file has nothing to choose from."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(arguments)
    results = [read_scores(path) for path in args.scores]
    chosen = {option: getattr(args, option) for option in LIMITS}
    limits = [Limit(LIMITS[option], value) for option, value in chosen.items() if value is not None]
    advice = advise(results, args.target, limits)
    print(as_json(advice) if args.json else as_text(advice))  # noqa: T201 (the result is what is asked for)
    if advice.chosen is None:
        raise UserError("limits must leave a system to recommend, got none that keeps to them")


if __name__ == "__main__":
    run(main)
