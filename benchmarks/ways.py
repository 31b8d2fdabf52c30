"""Ways to decode beside each other: passes, speed in turns, and with an evaluation what is heard. Others import it."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from published import publish
from tokenization import processor

from espnet_ext.bin import codec_lm_inference, evaluate
from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.inference.model_ref import ModelRef

HEARD = {"wer": ("rate", 100.0), "frechet": ("corrected", 1.0), "speaker": ("own", 1.0)}  # field, scale


class Way(NamedTuple):
    """How something is decoded.

    Attributes:
        name: of the row.
        exp: experiment.
        options: all of them.
    """

    name: str
    exp: Path
    options: DecodeOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every such command."""
    parser.add_argument("--data_dir", type=Path, required=True, help="codes of the test set")
    parser.add_argument("--timed", type=int, default=8, help="utterances whose seconds are taken, at batch 1 and all")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every way; their median counts")
    parser.add_argument("--work", type=Path, help="directory for speech and scores; without it only speed is measured")
    parser.add_argument(
        "--evaluate", default="", help="further options of bin.evaluate, such as '--asr faster_whisper'"
    )
    parser.add_argument("--out", type=Path, help="results, without suffix: .json and .md are written")


def measure(ways: Sequence[Way], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Passes and frames per second of every way, at batch 1 and all, as multiples of the first in the same round."""
    models = {exp: ModelRef(exp, None, "cpu").load() for exp in dict.fromkeys(way.exp for way in ways)}
    texts = list(read_scp(args.data_dir / "text").items())[: args.timed]
    names, said = [name for name, _ in texts], [text for _, text in texts]
    sizes = (1, len(texts))
    seconds: dict[tuple[Way, int], list[float]] = {(way, size): [] for way in ways for size in sizes}
    lines: dict[Way, dict[str, Any]] = {way: {"stacking": models[way.exp].corelm.stacking} for way in ways}
    for number in range(args.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            for size in sizes:
                began, made = time.process_time(), []
                for first in range(0, len(texts), size):
                    part = slice(first, first + size)
                    made.append(models[way.exp].codes(names[part], said[part], [None] * size, way.options))
                seconds[way, size].append((time.process_time() - began) / sum(int(one.lengths.sum()) for one in made))
            lines[way] |= {"way": way.name, **costs(made)}
    for way, size in seconds:
        mine = seconds[way, size]
        lines[way][f"frames_per_second_{size}"] = 1 / statistics.median(mine)
        ratios = [other / one for one, other in zip(mine, seconds[ways[0], size], strict=True)]
        lines[way][f"ratio_{size}"] = statistics.median(ratios)
    for line in lines.values():
        print(json.dumps(line), flush=True)  # noqa: T201
    return list(lines.values())


def costs(made: Sequence[Any]) -> dict[str, float]:
    """What `Generation`s have cost: steps per pass of the primary transformer, its layers, and passes of the local."""
    names = ("steps", "lengths", "primary_passes", "local_passes", "primary_layers")
    steps, frames, primary, local, layers = (sum(int(getattr(one, name).sum()) for one in made) for name in names)
    return {
        "steps_per_primary_pass": steps / primary,
        "local_passes_per_frame": local / frames,
        "layers_per_step": layers / steps,
    }


def hear(ways: Sequence[Way], lines: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """Decode the whole test set in every way, and put the scores into the lines."""
    systems = [f"s{line['stacking']}_{way.name}" for way, line in zip(ways, lines, strict=True)]
    command = ["--codec_info", str(args.data_dir / "codec_info.yaml"), "--reference", str(args.data_dir)]
    for way, system in zip(ways, systems, strict=True):
        output = args.work / way.exp.name / f"decode_{way.name}" / args.data_dir.name
        if not (output / "timing.json").is_file():
            how = codec_lm_inference.options_for(way.exp, args.data_dir, output, {"batch_size": 8})
            codec_lm_inference.decode(how, way.options)
        command += ["--system", f"{system}={output}"]
    evaluate.main([*command, "--output_dir", str(args.work / "scores"), *args.evaluate.split()])
    scores = json.loads((args.work / "scores" / "scores.json").read_text(encoding="utf-8"))
    for system, line in zip(systems, lines, strict=True):
        line["scores"] = {name: scores["systems"][system][name] for name in HEARD}


def with_interval(score: dict[str, Any] | None, field: str, scale: float) -> str:
    """A score with its interval; a dash for one that is not there."""
    if score is None:
        return "–"
    value, low, high = (f"{scale * number:.3g}" for number in (score[field], *score["interval"]))
    return f"{value} ({low} … {high})"


def page(title: str, result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"# {title}\n",
        f"`{result['command']}` on {result['processor']} (one of its cores used), {result['date']}, "
        f"torch {result['torch']}. × is the speed as a multiple of that of the first way in the same round, median of "
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


def compare(title: str, groups: Sequence[Sequence[Way]], args: argparse.Namespace) -> None:
    """Measure, hear, print and write.

    Args:
        title: of the page.
        groups: ways; the speed of each is a multiple of that of the first of its group.
        args: of the command.
    """
    torch.set_num_threads(1)
    lines = [line for ways in groups for line in measure(ways, args)]
    told = shlex.join(["python", *sys.argv])
    about = {"command": told, "date": datetime.now(UTC).date().isoformat(), "processor": processor()}
    result = {**about, "torch": torch.__version__, "timed": args.timed, "lines": lines}
    if args.work is not None:
        hear([way for ways in groups for way in ways], lines, args)
    if args.out is not None:
        publish(args.out, result, page(title, result))
