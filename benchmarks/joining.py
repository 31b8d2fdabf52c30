"""Throughput of rows that join a running batch against fixed batches, at the same bound on rows.

python benchmarks/joining.py --out benchmarks/results/joining_cpu

Utterances of mixed lengths, which are given, from a random model of the size of the mini recipe's. Every way decodes
the same utterances to the same lengths, all ways in turns; seconds are those of the process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from published import publish
from tokenization import processor
from torch import Tensor

from espnet_ext.bin import run
from espnet_ext.codes import CodecSpec
from espnet_ext.decoding import Generation, build_strategy, generate, plain_step
from espnet_ext.decoding.request import Decoding
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.model.core_lm import TextCoreLM

SPEC = CodecSpec(num_codebooks=8, codebook_size=256, frame_rate_hz=50.0, sample_rate_hz=16000)
SIZES: dict[str, Any] = {
    "width": 192, "layers": 4, "heads": 4, "text_layers": 2, "context_layers": 1, "dropout": 0.0,
    "prior_conf": {"spread": 0.7, "moves": True},
}  # fmt: skip
LOCAL = {"width": 128, "layers": 1, "heads": 4, "residual": True}
TOKENS, PROMPT_FRAMES, FRAMES_PER_TOKEN = 60, 20, 4


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results, without suffix: .json and .md are written")
    parser.add_argument("--strategies", nargs="+", default=["parallel", "local_ar"])
    parser.add_argument("--utterances", type=int, default=384)
    parser.add_argument("--rows", type=int, default=16, help="that are generated at once, at most")
    parser.add_argument("--frames", type=int, nargs=2, default=[15, 105], help="of the shortest and the longest one")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every way; their median counts")
    return parser


def random_model(sizes: dict[str, Any] | None = None, local: dict[str, Any] | None = None) -> TextCoreLM:
    """A model with random weights that ends nothing by itself, of the mini recipe's size unless others are given."""
    torch.manual_seed(0)
    given = sizes or SIZES, "ar", local or LOCAL
    model = TextCoreLM(SPEC, TOKENS, "cross_attention", *given, frame_tables="tied").eval()
    head: Any
    for head in model.heads.values():
        head.heads.bias.data.view(-1, SPEC.vocab_size)[:, SPEC.eos_id] = -1e4
    return model


def corpus(model: TextCoreLM, strategy: str, utterances: int, frames: tuple[int, int]) -> tuple[Decoding, Tensor]:
    """Utterances whose lengths are uniform and whose texts and limits go with them, and the lengths."""
    drawn = torch.Generator().manual_seed(1)
    lengths = torch.randint(frames[0], frames[1] + 1, (utterances,), generator=drawn)
    tokens = -(-lengths // FRAMES_PER_TOKEN)
    text = torch.randint(TOKENS, (utterances, int(tokens.max())), generator=drawn)
    prompt = torch.randint(SPEC.codebook_size, (utterances, PROMPT_FRAMES, SPEC.num_codebooks), generator=drawn)
    conditions = model.conditions(text, tokens, prompt, torch.full((utterances,), PROMPT_FRAMES))
    sampler = Sampler(SamplingOptions(0.8, 80), row_generators(0, list(map(str, range(utterances)))))
    return Decoding(model, conditions, build_strategy(strategy), sampler, lengths), lengths


def joining(asked: Decoding, lengths: Tensor, rows: int) -> list[Generation]:
    """Rows that join where others are finished."""
    return [generate(*asked._replace(most_rows=rows))]


def fixed(asked: Decoding, lengths: Tensor, rows: int) -> list[Generation]:
    """Batches of so many, in the order of the corpus; finished rows leave, and nobody comes."""
    return [generate(*asked.rows(part.tolist())) for part in torch.arange(len(lengths)).split(rows)]


def fixed_by_length(asked: Decoding, lengths: Tensor, rows: int) -> list[Generation]:
    """The same in the order of their lengths, as if these were known."""
    return [generate(*asked.rows(part.tolist())) for part in lengths.argsort(stable=True).split(rows)]


WAYS: dict[str, Callable[[Decoding, Tensor, int], list[Generation]]] = {
    "joining": joining,
    "fixed": fixed,
    "fixed_by_length": fixed_by_length,
}


def measure(model: TextCoreLM, strategy: str, way: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the process, frames, passes of the primary transformer and bytes of its keys and values at most."""
    asked, lengths = corpus(model, strategy, args.utterances, args.frames)
    passes, most = [], [0]

    def step(model: Any, strategy: Any, codes: Any, state: Any, sampler: Any) -> Any:
        passes.append(len(codes))
        most[0] = max(most[0], 2 * state.cache.keys.numel() * state.cache.keys.element_size())
        return plain_step(model, strategy, codes, state, sampler)

    started = time.process_time()
    made = WAYS[way](asked._replace(step=step), lengths, args.rows)
    seconds = time.process_time() - started
    frames = sum(int(one.lengths.sum()) for one in made)
    assert frames == int(lengths.sum()), "every utterance has the length that it was given"
    return {"seconds": seconds, "frames": frames, "passes": len(passes), "rows": sum(passes), "cache_bytes": most[0]}


def summary(strategy: str, found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A line for every way, with its throughput as a multiple of the fixed batches' in the same round."""
    lines = []
    for way, several in found.items():
        ratios = [
            other["seconds"] / one["seconds"] for one, other in zip(several, found["fixed"], strict=True)
        ]  # of the same frames
        seconds = statistics.median(one["seconds"] for one in several)
        about = {name: several[0][name] for name in ("passes", "cache_bytes")}
        about["rows_per_pass"] = several[0]["rows"] / several[0]["passes"]
        speed = {"seconds": seconds, "frames_per_second": several[0]["frames"] / seconds}
        ratio = {"ratio": statistics.median(ratios), "ratios": ratios}
        lines.append({"strategy": strategy, "way": way, **speed, **about, **ratio})
    return lines


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    low, high = result["frames"]
    lines = [
        "# Rows that join\n",
        f"`{result['command']}` on {result['processor']} (one of its cores used), {result['date']}, torch "
        f"{result['torch']}. {result['utterances']} utterances of {low} to {high} frames from a random model of the "
        f"mini recipe's size, at most {result['rows']} rows at once, float32; seconds of the process, median of "
        f"{result['rounds']} rounds in turns. × is the throughput as a multiple of that of fixed batches in the order "
        "of the corpus, in the same round; lengths are not known in front of the decoding.\n",
        "| strategy | way | s | frames/s | × | of all rounds | passes | rows per pass | keys and values, MiB |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for one in result["lines"]:
        ratios = f"{min(one['ratios']):.2f} – {max(one['ratios']):.2f}"
        lines.append(
            f"| {one['strategy']} | {one['way']} | {one['seconds']:.1f} | {one['frames_per_second']:.0f} "
            f"| {one['ratio']:.2f} | {ratios} | {one['passes']} | {one['rows_per_pass']:.1f} "
            f"| {one['cache_bytes'] / 2**20:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    torch.set_num_threads(1)
    model, lines = random_model(), []
    for strategy in args.strategies:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(args.rounds):
            for way in list(WAYS) if number % 2 == 0 else list(reversed(WAYS)):
                found[way].append(measure(model, strategy, way, args))
        lines += summary(strategy, found)
        print(json.dumps(lines[-len(WAYS) :], indent=1), flush=True)  # noqa: T201
    options = {name: value for name, value in vars(args).items() if name not in ("out", "strategies")}
    told = f"benchmarks/joining.py --utterances {args.utterances} --rows {args.rows} --rounds {args.rounds} "
    told += f"--frames {args.frames[0]} {args.frames[1]} --strategies {' '.join(args.strategies)}"
    about = {"command": told, "date": datetime.now(UTC).date().isoformat(), "processor": processor()}
    result = {**about, "python": platform.python_version(), "torch": torch.__version__, **options, "lines": lines}
    if args.out is not None:
        publish(args.out, result, page(result))


if __name__ == "__main__":
    run(main)
