"""What a cache policy costs in quality and time, and what it saves: teacher-forced and decoded through the cache.

python benchmarks/cache_policies.py --exp EXP --data_dir DUMP/test --out benchmarks/results/cache_policies

The codes of every utterance of a test set are fed step by step through a cache of each kind, as `local_ar` draws them,
and scored among the legal ids: nats per code, the change against the exact cache with twice its standard error over
utterances, and bytes of all tensors of the cache, every place of which is filled in the end. Then the first utterances
are decoded by every kind in turns, to the same lengths; seconds are those of the process.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from precision_nll import batches, step_by_step
from published import publish
from tokenization import processor
from torch import Tensor
from tqdm import tqdm

from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding import build_strategy, generate
from espnet_ext.decoding.request import Decoding, together
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
from espnet_ext.inference import CodecLM
from espnet_ext.model.caches import CachePolicy, build_cache
from espnet_ext.options import parse_yaml
from espnet_ext.scoring.tables.markdown import table

KINDS = [
    "exact", "gear", "gear:rank=0,sparse=0", "gear:rank=2,sparse=2", "gear:buffer=32", "gear:bits=2",
    "gear:bits=2,rank=0,sparse=0", "gear:bits=2,rank=4,sparse=2",
]  # fmt: skip
PLACES, ROWS = (250, 1000, 3000), 18


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment with an autoregressive local transformer")
    parser.add_argument("--data_dir", type=Path, required=True, help="codes.scp, prompt.scp and text of a test set")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="policies, with options as gear:bits=2,rank=4")
    parser.add_argument("--utterances", type=int, default=1000, help="how many of the test set, at most")
    parser.add_argument("--timed", nargs="+", default=["exact", "gear", "gear:bits=2"], help="kinds that are timed")
    parser.add_argument("--frames", type=int, default=150, help="of utterances that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of time; their median counts")
    parser.add_argument("--out", type=Path, required=True, help="path of the results without their ending")
    return parser


def policy_of(kind: str) -> CachePolicy:
    """The policy of a name and its options."""
    name, _, options = kind.partition(":")
    pairs = [pair.split("=", 1) for pair in options.split(",") if pair]
    return build_cache(name, **{key: parse_yaml(value) for key, value in pairs})


def likelihood(args: argparse.Namespace, speak: CodecLM, names: list[str], kind: str) -> tuple[list[Tensor], int]:
    """Log-probabilities of the codes of every utterance, and bytes of all caches."""
    made: list[Tensor] = []
    size, total, model = 0, -(-len(names) // ROWS), speak.corelm
    for conditions, codes, lengths in tqdm(batches(args, speak, names, ROWS), desc=kind, total=total):
        logprobs, _, cache = step_by_step(speak, conditions, codes, lengths, policy_of(kind))
        made += logprobs.double().split((lengths // model.stacking * model.slots).tolist())
        size += cache.num_bytes()
    return made, size


def quality(args: argparse.Namespace, speak: CodecLM, names: list[str]) -> list[dict[str, Any]]:
    """Nats per code and bytes of every kind."""
    right, whole = likelihood(args, speak, names, "exact")
    counts = torch.tensor([len(part) for part in right], dtype=torch.float64)
    cells = []
    for kind in args.kinds:
        found, size = (right, whole) if kind == "exact" else likelihood(args, speak, names, kind)
        lost = torch.stack([(one - other).sum() for one, other in zip(right, found, strict=True)])
        change = float(lost.sum() / counts.sum())
        error = float((lost - change * counts).square().sum().sqrt() / counts.sum())
        nats = -float(torch.cat(found).mean())
        about = {"nats_per_code": nats, "change": change, "twice_error": 2 * error, "bytes": size}
        policy, shape = policy_of(kind), speak.corelm.step_transformers()[0]
        for places in PLACES:
            parts = [shape.new_cache(1, places, one).num_bytes() for one in (policy, policy_of("exact"))]
            about[f"share_of_{places}"] = parts[0] / parts[1]
        cells.append({"cache": kind, **about, "share": size / whole})
    return cells


def timed(args: argparse.Namespace, speak: CodecLM, names: list[str], rows: int) -> list[dict[str, Any]]:
    """Frames per second of every kind that is timed, decoded by `local_ar` with so many rows."""
    asked, frames = [], torch.tensor(args.frames)
    for number, (conditions, _, lengths) in enumerate(batches(args, speak, names[:rows])):
        sampler = Sampler(SamplingOptions(0.7, 80), row_generators(number, list(map(str, range(len(lengths))))))
        given = speak.corelm, conditions, build_strategy("local_ar"), sampler
        asked.append(Decoding(*given, max_frames=frames, min_frames=args.frames))
    seconds: dict[str, list[float]] = {kind: [] for kind in args.timed}
    for _ in range(args.rounds):
        for kind, mine in seconds.items():
            for one in asked:  # the same draws for all
                for generator, seed in zip(one.sampler.generators, range(rows), strict=False):
                    generator.manual_seed(seed)
            started = time.process_time()
            generate(*together(asked)._replace(cache=policy_of(kind)))
            mine.append(time.process_time() - started)
    ratios = {
        kind: statistics.median(one / other for one, other in zip(seconds[args.timed[0]], mine, strict=True))
        for kind, mine in seconds.items()
    }
    made = rows * args.frames
    return [
        {"cache": kind, "rows": rows, "frames_per_second": made / statistics.median(mine), "ratio": ratios[kind]}
        for kind, mine in seconds.items()
    ]


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    heads = ["cache", "nats per code", "change", "± 2 SE", "share of float32", *(f"of {one} places" for one in PLACES)]
    rows = [
        [
            f"`{cell['cache']}`", f"{cell['nats_per_code']:.5f}", f"{cell['change']:+.6f}",
            f"{cell['twice_error']:.6f}", f"{cell['share']:.3f}", *(f"{cell[f'share_of_{one}']:.3f}" for one in PLACES),
        ]
        for cell in result["quality"]
    ]  # fmt: skip
    speed = [
        [f"`{cell['cache']}`", str(cell["rows"]), f"{cell['frames_per_second']:.1f}", f"{cell['ratio']:.2f}"]
        for cell in result["speed"]
    ]
    return "\n".join(
        [
            "# Cache policies\n",
            f"`{result['command']}` on {result['processor']} (one of its cores used), {result['date']}, torch "
            f"{result['torch']}: {result['exp']}, {result['utterances']} utterances of {result['data']}, "
            f"{result['codes']} codes, {result['positions']:.0f} positions each on average. Change of the negative "
            "log-likelihood in nats; bytes are of all tensors of the cache, full at the end of an utterance, and of "
            "caches of one row with so many places.\n",
            table(heads, rows),
            f"`local_ar` decodes {result['frames']} frames of each utterance; kinds in turns, median of "
            f"{result['rounds']} rounds, seconds of the process.\n",
            table(["cache", "rows", "frames/s", "ratio"], speed),
        ]
    )


def main() -> None:
    """Measure, and write `--out`.json and `--out`.md."""
    args = get_parser().parse_args()
    torch.set_num_threads(1)
    speak = CodecLM.from_experiment(args.exp)
    names = sorted(read_scp(args.data_dir / "codes.scp"))[: args.utterances]
    cells = quality(args, speak, names)
    speed = [cell for rows in (1, 8) for cell in timed(args, speak, names, rows)]
    codes = positions = 0
    for conditions, _, lengths in batches(args, speak, names):
        given: Any = conditions
        codes += int((lengths // speak.corelm.stacking).sum()) * speak.corelm.slots
        positions += int((lengths + 1).sum()) // speak.corelm.stacking + int(given.prompt_lengths.sum())
    facts = {"exp": args.exp.name, "data": args.data_dir.name, "utterances": len(names), "codes": codes}
    facts |= {"positions": positions / len(names), "frames": args.frames, "rounds": args.rounds}
    facts |= {"processor": processor(), "python": platform.python_version(), "torch": torch.__version__}
    facts |= {"date": datetime.now(UTC).date().isoformat(), "command": shlex.join(["python", *sys.argv])}
    result = {**facts, "quality": cells, "speed": speed}
    publish(args.out, result, page(result), indent=2)
    print(page(result))  # noqa: T201


if __name__ == "__main__":
    main()
