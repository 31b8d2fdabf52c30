"""Speculation over steps beside one step after the other: passes, speed, and with an evaluation what is heard.

python benchmarks/speculation.py --exp EXP … --data_dir dump/codec_lyra/test --out benchmarks/results/speculation_cpu

All ways decode the same texts, in turns, each with the same seeds; seconds are those of the process. The speech is
left in --work, with the scores of `bin.evaluate` if --evaluate gives its options.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from published import publish
from tokenization import processor

from espnet_ext.bin import codec_lm_inference, evaluate, run
from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.inference.model_ref import ModelRef
from espnet_ext.inference.sweep import Checkpoint

CAUSAL = "causal"
LOSSY = {
    "tolerance": {"delta": 0.5},
    "lantern": {"k": 32, "delta": 0.5},
    "pcg": {"groups": 16},
}
NO_NAME = str.maketrans(":,=", "___")  # of a directory
HEARD = {"wer": ("rate", 100.0), "frechet": ("corrected", 1.0), "speaker": ("own", 1.0)}  # field, scale


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, nargs="+", required=True, help="experiments, one for each S")
    parser.add_argument("--data_dir", type=Path, required=True, help="codes of the test set")
    parser.add_argument("--inference_config", type=Path, required=True, help="of all ways, but for the order")
    parser.add_argument("--drafters", nargs="+", default=["repeat", "jacobi", "ngram"])
    parser.add_argument(
        "--acceptances", nargs="+", default=["gumbel", "exact", "block", *LOSSY],
        help="with options of one's own where wanted: pcg:groups=4,vectors=codec",
    )  # fmt: skip
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--timed", type=int, default=8, help="utterances whose seconds are taken, at batch 1 and 8")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every way; their median counts")
    parser.add_argument("--work", type=Path, help="directory for speech and scores; without it only speed is measured")
    parser.add_argument(
        "--evaluate", default="", help="further options of bin.evaluate, such as '--asr faster_whisper'"
    )
    parser.add_argument("--out", type=Path, help="results, without suffix: .json and .md are written")
    return parser


def ways(args: argparse.Namespace) -> dict[str, DecodeOptions]:
    """Name → options of every way."""
    base = DecodeOptions.from_yaml(args.inference_config)
    found = {CAUSAL: base}
    for drafter in args.drafters:
        for told in args.acceptances:
            acceptance, own = accepting(told)
            conf = {"drafter": drafter, "acceptance": acceptance, "width": args.width, "exact": acceptance not in LOSSY}
            conf["acceptance_conf"] = own
            found[f"{drafter}_{told}".translate(NO_NAME)] = base.changed(order="speculative", order_conf=conf)
    return found


def accepting(told: str) -> tuple[str, dict[str, object]]:
    """The name and the options of an acceptance.

    >>> accepting("pcg:groups=4,vectors=codec")
    ('pcg', {'groups': 4, 'vectors': 'codec'})
    """
    name, _, own = told.partition(":")
    pairs = (pair.partition("=") for pair in own.split(",") if pair)
    return name, {key: yaml.safe_load(value) for key, _, value in pairs} or LOSSY.get(name, {})


def measure(exp: Path, options: dict[str, DecodeOptions], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Passes and frames per second of every way, at batch 1 and 8, as multiples of `causal` in the same round."""
    speak, texts = ModelRef(exp, None, "cpu").load(), list(read_scp(args.data_dir / "text").items())[: args.timed]
    names, said = [name for name, _ in texts], [text for _, text in texts]
    seconds: dict[tuple[str, int], list[float]] = {(way, size): [] for way in options for size in (1, len(texts))}
    lines: dict[str, dict[str, Any]] = {way: {} for way in options}
    for number in range(args.rounds):
        for way in list(options) if number % 2 == 0 else list(reversed(options)):
            for size in (1, len(texts)):
                began, made = time.process_time(), []
                for first in range(0, len(texts), size):
                    part = slice(first, first + size)
                    made.append(speak.codes(names[part], said[part], [None] * size, options[way]))
                seconds[way, size].append((time.process_time() - began) / sum(int(one.lengths.sum()) for one in made))
            steps, frames = (sum(int(getattr(one, name).sum()) for one in made) for name in ("steps", "lengths"))
            primary, local = (
                sum(int(getattr(one, f"{name}_passes").sum()) for one in made) for name in ("primary", "local")
            )
            lines[way] |= {"steps_per_primary_pass": steps / primary, "local_passes_per_frame": local / frames}
            lines[way]["layers_per_step"] = sum(int(one.primary_layers.sum()) for one in made) / steps
    for way, size in seconds:
        mine = seconds[way, size]
        lines[way][f"frames_per_second_{size}"] = 1 / statistics.median(mine)
        ratios = [other / one for one, other in zip(mine, seconds[CAUSAL, size], strict=True)]
        lines[way][f"ratio_{size}"] = statistics.median(ratios)
    return lines


def speech(exp: Path, options: dict[str, DecodeOptions], args: argparse.Namespace) -> list[str]:
    """Decode the whole set in every way: the systems for `bin.evaluate`."""
    systems = []
    for way, how in options.items():
        name = f"s{Checkpoint.read(exp).stacking}_{way}"
        output = args.work / exp.name / f"decode_{way}" / args.data_dir.name
        if not (output / "timing.json").is_file():
            codec_lm_inference.decode(
                codec_lm_inference.options_for(exp, args.data_dir, output, {"batch_size": 8}), how
            )
        systems += ["--system", f"{name}={output}"]
    return systems


def heard(args: argparse.Namespace, systems: Sequence[str]) -> dict[str, Any]:
    """Scores of every system."""
    command = ["--codec_info", str(args.data_dir / "codec_info.yaml"), "--reference", str(args.data_dir)]
    evaluate.main([*command, "--output_dir", str(args.work / "scores"), *systems, *args.evaluate.split()])
    scores: dict[str, Any] = json.loads((args.work / "scores" / "scores.json").read_text(encoding="utf-8"))
    return scores


def with_interval(score: dict[str, Any] | None, field: str, scale: float) -> str:
    """A score with its interval; a dash for one that is not there."""
    if score is None:
        return "–"
    value, low, high = (f"{scale * number:.3g}" for number in (score[field], *score["interval"]))
    return f"{value} ({low} … {high})"


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Speculation over steps\n",
        f"`{result['command']}` on {result['processor']} (one of its cores used), {result['date']}, "
        f"torch {result['torch']}. × is the speed as a multiple of that of `causal` in the same round, median of "
        "the rounds.\n",
        "| S | way | steps per primary pass | layers per step | local passes per frame | frames/s, batch 1 | × | "
        f"frames/s, batch {result['timed']} | × | WER % | codec FD | speaker |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for one in result["lines"]:
        size = result["timed"]
        cells = [f"{one[name]:.3f}" for name in ("steps_per_primary_pass", "layers_per_step")]
        cells.append(f"{one['local_passes_per_frame']:.2f}")
        for count in (1, size):
            cells += [f"{one[f'frames_per_second_{count}']:.0f}", f"{one[f'ratio_{count}']:.2f}"]
        cells += [with_interval(one.get("scores", {}).get(name), *how) for name, how in HEARD.items()]
        lines.append(f"| {one['stacking']} | {one['way']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    torch.set_num_threads(1)
    options, lines, systems = ways(args), [], []
    for exp in args.exp:
        stacking = Checkpoint.read(exp).stacking
        for way, found in measure(exp, options, args).items():
            lines.append({"stacking": stacking, "way": way, **found})
            print(json.dumps(lines[-1]), flush=True)  # noqa: T201
        if args.work is not None:
            systems += speech(exp, options, args)
    if args.work is not None:
        scores = heard(args, systems)
        for line in lines:
            system = scores["systems"][f"s{line['stacking']}_{line['way']}"]
            line["scores"] = {name: system[name] for name in HEARD}
    told = f"benchmarks/speculation.py --width {args.width} --timed {args.timed} --rounds {args.rounds}"
    about = {"command": told, "date": datetime.now(UTC).date().isoformat(), "processor": processor()}
    result = {**about, "torch": torch.__version__, "timed": args.timed, "lines": lines}
    if args.out is not None:
        publish(args.out, result, page(result))


if __name__ == "__main__":
    run(main)
