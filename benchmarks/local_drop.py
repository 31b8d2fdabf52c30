"""Time and memory of a training step of GPST with local-drop p, for N codebooks and S frames per step.

python benchmarks/local_drop.py --out benchmarks/results/local_drop_cpu

Every measurement is one step (forward, backward, optimizer) in a process of its own; a round measures every cell once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from published import publish
from tokenization import processor

from espnet_ext.bin import run
from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import GPST
from espnet_ext.model.loss import LossWeights
from espnet_ext.tasks.cost import measure_step
from espnet_ext.tasks.espnet_model import ESPnetCodecLMModel

DROPS = (0.0, 0.5, 0.75, 0.9375)
CODEBOOKS = (8, 16)
STACKING = (1, 4)
PRIMARY = {"width": 512, "layers": 6, "heads": 8, "dropout": 0.0, "position": "learned", "max_positions": 2048}
LOCAL = {"width": 256, "layers": 4, "heads": 4}
UNITS = CodecSpec(num_codebooks=1, codebook_size=1000, frame_rate_hz=50.0, sample_rate_hz=16000)


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        codebooks: N, of 1024 codes at 75 frames per second.
        stacking: S.
        drop: p.
    """

    codebooks: int
    stacking: int
    drop: float


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results, without suffix: .json and .md are written")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of every cell; their median counts")
    parser.add_argument("--utterances", type=int, default=2, help="of the batch")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of an utterance")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # measure this one and print the costs
    return parser


def measure(
    cell: Cell, utterances: int, seconds: float, primary: dict[str, object] = PRIMARY, local: dict[str, object] = LOCAL
) -> dict[str, float]:
    """Costs of one training step on random tokens.

    Args:
        cell: what to measure.
        utterances: of the batch, all of the same length.
        seconds: their length.
        primary: options of the primary transformer.
        local: those of the local one.

    Returns:
        Seconds by phase, floating point operations, bytes that the backward pass needs, growth of the process in bytes.
    """
    torch.manual_seed(0)
    spec = CodecSpec(cell.codebooks, codebook_size=1024, frame_rate_hz=75.0, sample_rate_hz=24000)
    corelm = GPST(
        spec,
        UNITS,
        primary_conf=dict(primary),
        local_conf=local,
        frame_stacking_factor=cell.stacking,
        parallel_heads=False,
        local_drop=cell.drop,
    )
    model = ESPnetCodecLMModel(corelm, LossWeights(label_smoothing=0.1))
    batch = {
        "semantic": torch.randint(UNITS.codebook_size, (utterances, round(seconds * UNITS.frame_rate_hz))),
        "codes": torch.randint(spec.codebook_size, (utterances, round(seconds * spec.frame_rate_hz), cell.codebooks)),
    }
    batch |= {f"{name}_lengths": torch.full((utterances,), tokens.shape[1]) for name, tokens in batch.items()}
    optimizer = torch.optim.Adam(model.parameters())
    step = measure_step(model, optimizer, batch, 1.0, torch.autocast("cpu", enabled=False))
    costs = {**step.seconds, "step": sum(step.seconds.values()), "flops": step.flops}
    return costs | {"saved_bytes": step.memory["saved_for_backward"], "grown_bytes": step.peak_bytes}


def in_a_process(cell: Cell, args: argparse.Namespace) -> dict[str, float]:
    """`measure` in a new process, so that no cell inherits the memory of another one."""
    line = [sys.executable, __file__, "--cell", json.dumps(asdict(cell)), "--threads", str(args.threads)]
    line += ["--utterances", str(args.utterances), "--seconds", str(args.seconds)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{cell} must be measurable: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def summary(cells: Sequence[Cell], found: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, Any]]:
    """One row per cell: medians over the rounds, the range of the step's time, and ratios to the cell without drop.

    Args:
        cells: what was measured; the one without drop is among them for every N and S.
        found: costs of every cell in every round.

    Returns:
        The rows.
    """
    rows: list[dict[str, Any]] = []
    for cell, costs in zip(cells, found, strict=True):
        row = {**asdict(cell), **{name: statistics.median(cost[name] for cost in costs) for name in costs[0]}}
        times = [cost["step"] for cost in costs]
        rows.append(row | {"shortest_step": min(times), "longest_step": max(times)})
    whole = {(row["codebooks"], row["stacking"]): row for row in rows if row["drop"] == 0.0}
    for row in rows:
        without = whole[row["codebooks"], row["stacking"]]
        row |= {f"{name}_ratio": row[name] / without[name] for name in ("step", "flops", "saved_bytes", "grown_bytes")}
    return rows


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Local-drop on the CPU",
        "",
        f"`{result['command']}` on {result['processor']} ({result['threads']} of its cores used), {result['date']}, "
        f"Python {result['python']}, torch {result['torch']}. GPST of width {PRIMARY['width']} and "
        f"{PRIMARY['layers']} layers with a local transformer of width {LOCAL['width']} and {LOCAL['layers']} layers, "
        f"no parallel heads, float32; {result['utterances']} utterances of {result['seconds']:g} s, 75 frames and 50 "
        "units per second. Seconds of a step (forward, backward, Adam) are the median and the range over "
        f"{result['rounds']} rounds, each step in a process of its own. **Kept** is what the backward pass needs "
        "beside the weights; **grown** is by how much the process grew at most, gradients, optimizer and what the "
        "allocator does not give back included. The ratios (×) are to p = 0.",
        "",
        "| N | S | p | step, s | range | × | GFLOP | × | kept, MiB | × | grown, MiB | × |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        cells = [row["codebooks"], row["stacking"], f"{row['drop']:g}", f"{row['step']:.2f}"]
        cells += [f"{row['shortest_step']:.2f} – {row['longest_step']:.2f}", f"{row['step_ratio']:.2f}"]
        cells += [f"{row['flops'] / 1e9:.0f}", f"{row['flops_ratio']:.2f}"]
        for name in ("saved_bytes", "grown_bytes"):
            cells += [f"{row[name] / 2**20:.0f}", f"{row[f'{name}_ratio']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    if args.cell:
        sys.stdout.write(json.dumps(measure(Cell(**json.loads(args.cell)), args.utterances, args.seconds)))
        return
    if args.out is None:
        raise UserError("--out must be a path without suffix, got none")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cells = [Cell(*values) for values in itertools.product(CODEBOOKS, STACKING, DROPS)]
    found: list[list[dict[str, float]]] = [[] for _ in cells]
    for number in range(args.rounds):
        for cell, costs in zip(cells, found, strict=True):
            costs.append(in_a_process(cell, args))
            logging.info("round %d, %s: %.2f s", number + 1, cell, costs[-1]["step"])
    options = {name: getattr(args, name) for name in ("rounds", "utterances", "seconds", "threads")}
    result: dict[str, Any] = {
        "command": "benchmarks/local_drop.py " + " ".join(f"--{name} {value:g}" for name, value in options.items()),
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **options,
        "rows": summary(cells, found),
    }
    publish(args.out, result, page(result))
    logging.info("%s", args.out.with_suffix(".md"))


if __name__ == "__main__":
    run(main)
