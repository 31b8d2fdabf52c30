"""How often speech runs away: the rate over many sentences, by strategy and S, with and without end guard and retry.

cd egs2/mini_libritts/codec_lm1  # where the paths of an experiment begin
python ../../../benchmarks/runaway.py --exp exp/…_s1 exp/…_s2 --out ../../../benchmarks/results/runaway

The sentences are new ones of the mini corpus' grammar, none of those that it holds; experiments of the same S take
chunks of them in turn. Voices are utterances of --voices in turn. Only codes are made.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import logging
import math
import platform
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from published import publish
from tokenization import processor

from espnet_ext.bin import run
from espnet_ext.data.ark import read_codes
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs.lengths import speech_limits, training_lengths
from espnet_ext.data.streams import Streams
from espnet_ext.decoding import Generation, Runaway, SpeechLimits
from espnet_ext.decoding.retry import generate_with_retries
from espnet_ext.inference import CodecLM
from espnet_ext.inference.listener import NO_UNITS
from espnet_ext.inference.requests import Request

GRAMMAR = Path(__file__).resolve().parents[1] / "egs2/mini_libritts/codec_lm1/local/grammar.py"
SETS = ("train", "dev", "test_seen", "test_unseen")
CONFIDENCE = 1.959964  # standard deviations of the 95 % interval
# temperature, end guard in seconds, and of how many chunks one is decoded so: what an experiment keeps first of all
WAYS = ((None, 0.0, 1), (0.7, 0.0, 2), (None, 1.0, 8), (0.7, 1.0, 8))
PUBLISHED = (207, 60424)  # runaways and sentences that a public system reports


class Way(NamedTuple):
    """How a row of the table is decoded.

    Attributes:
        decoding: the strategy.
        temperature: None for that of the experiment's decode yaml.
        end_guard: seconds; 0 for no guard.
        every: of so many chunks of sentences one is decoded so.
    """

    decoding: str
    temperature: float | None
    end_guard: float
    every: int


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, nargs="+", required=True, help="those of the same S are one row")
    parser.add_argument("--out", type=Path, required=True, help="results, without suffix: .json and .md are written")
    parser.add_argument("--decodings", nargs="+", default=["parallel", "local_ar", "local_maskgit"])
    parser.add_argument("--sentences", type=int, default=2000, help="of every row, if there is time")
    parser.add_argument("--minutes", type=float, default=600, help="after which no further chunk is begun")
    parser.add_argument("--chunk", type=int, default=120, help="sentences of a row that are decoded at once")
    parser.add_argument("--seed", type=int, default=0, help="of the sentences; draws have the seed of the decode yaml")
    parser.add_argument("--voices", type=Path, default=Path("dump/codec_world_vq/train"))
    return parser


def sentences(args: argparse.Namespace) -> list[str]:
    """New sentences of the grammar of the mini corpus: no two are the same, and none is in the corpus."""
    spec = importlib.util.spec_from_file_location("grammar", GRAMMAR)
    assert spec is not None and spec.loader is not None
    grammar = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grammar)
    tables = [Path("data") / name / "text" for name in SETS]
    known = {text for table in tables if table.is_file() for text in read_scp(table).values()}
    made = grammar.unique_sentences(args.sentences + len(known), random.Random(args.seed))
    return [text for text in made if text not in known][: args.sentences]


def wilson(found: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927).

    >>> [round(share, 4) for share in wilson(0, 2000)]
    [0.0, 0.0019]
    """
    share, square = found / count, CONFIDENCE**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = CONFIDENCE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def limits_of(speak: CodecLM) -> SpeechLimits:
    """What no speech of the training exceeds: as the experiment keeps it, or as a training would find it by now."""
    if speak.inputs.speech_limits is not None:
        return speak.limits
    args = speak.inputs.args
    lengths = training_lengths(args.train_shape_file, "text")
    tables = [path for path, name, _ in args.train_data_path_and_name_and_type if name == "codes"]
    return SpeechLimits.of(speech_limits(tables, speak.corelm.spec, lengths.most))


def decode(speak: CodecLM, texts: dict[int, str], way: Way, voices: Mapping[str, Any]) -> Generation:
    """The codes of sentences by their numbers, runaways decoded once more.

    Args:
        speak: who speaks.
        texts: number → sentence.
        way: how they are decoded.
        voices: utterance → codes of a prompt.

    Returns:
        The codes.
    """
    ids, mode = list(voices), speak.text_mode(True)
    options = speak.options(mode, decoding=way.decoding).changed(retries=1, end_guard=way.end_guard)
    if way.temperature is not None:
        options = options.changed(temperature=way.temperature)
    requests = [
        Request(prompt=Streams(NO_UNITS, voices[ids[number % len(ids)]]), text=text) for number, text in texts.items()
    ]
    *_, decoding = speak._prepare(mode, [str(number) for number in texts], requests, options)
    return generate_with_retries(decoding, options.seed, 1)


@dataclass
class Row:
    """What was found of the models of one S, decoded in one way.

    Attributes:
        stacking: S.
        way: how they are decoded.
        sentences: so far.
        reasons: of first attempts that ran away.
        after_retry: sentences whose second attempt ran away, too.
        seconds: of work.
    """

    stacking: int
    way: Way
    sentences: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    after_retry: int = 0
    seconds: float = 0.0

    def add(self, speak: CodecLM, texts: dict[int, str], voices: Mapping[str, Any]) -> None:
        """Decode some more sentences with one of the models."""
        begin = time.perf_counter()
        made = decode(speak, texts, self.way, voices)
        self.reasons.update(map(str, made.failed[: sum(made.retries)]))
        self.after_retry += sum(reason is not None for reason in made.runaway)
        self.sentences += len(texts)
        self.seconds += time.perf_counter() - begin

    def plain(self) -> dict[str, Any]:
        """Everything by name, with the intervals."""
        found = sum(self.reasons.values())
        intervals = {"interval": wilson(found, self.sentences)}
        intervals["interval_after_retry"] = wilson(self.after_retry, self.sentences)
        # `asdict` would count the pairs of a Counter
        return {**asdict(self), "reasons": dict(self.reasons), "runaways": found, **intervals}


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    low, high = wilson(*PUBLISHED)
    lines = [
        "# Speech that runs away",
        "",
        f"`{result['command']}` on {result['processor']}, {result['date']}, torch {result['torch']}. "
        f"Trainings of the mini corpus for the first S: {result['models']}; they take chunks of sentences in turn, the "
        f"first one by the first alone. Sentences with seed {result['seed']}, "
        f"draws with that of each decode yaml. Limits of training: "
        + "; ".join(sorted({json.dumps(limits) for limits in result["limits"]}))
        + f". Intervals are Wilson's, 95 %. A public system reports {PUBLISHED[0]} of {PUBLISHED[1]:,} "
        f"({PUBLISHED[0] / PUBLISHED[1]:.2%}, {low:.2%} … {high:.2%}).",
        "",
        "| S | strategy | temperature | end guard, s | n | ran away | % | 95 % | reasons | after a retry | % | 95 % |",
        "|---:|---|---:|---:|---:|---:|---:|---|---|---:|---:|---|",
    ]
    for row in result["rows"]:
        decoding, temperature, guard, _ = row["way"]
        cells = [row["stacking"], decoding, "kept" if temperature is None else temperature, guard or "-"]
        cells.append(row["sentences"])
        for name, interval in (("runaways", "interval"), ("after_retry", "interval_after_retry")):
            low, high = row[interval]
            told = [row[name], f"{100 * row[name] / row['sentences']:.2f}", f"{100 * low:.2f} … {100 * high:.2f}"]
            if name == "runaways":
                told.append(", ".join(f"{row['reasons'][why]} {why}" for why in Runaway if why in row["reasons"]))
            cells += told
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write; what is there is written after every row."""
    args = get_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    by_stacking: dict[int, list[CodecLM]] = {}
    for exp in args.exp:
        speak = CodecLM.from_experiment(exp)
        speak.limits = limits_of(speak)
        by_stacking.setdefault(speak.corelm.stacking, []).append(speak)
    everyone = [speak for models in by_stacking.values() for speak in models]
    told = " ".join(f"--{name} {getattr(args, name):g}" for name in ("sentences", "seed", "chunk", "minutes"))
    result: dict[str, Any] = {
        "command": f"benchmarks/runaway.py {told}",
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": args.seed,
        "models": len(by_stacking[min(by_stacking)]),
        "limits": [vars(speak.limits) for speak in everyone],
        "published": PUBLISHED,
        "rows": [],
    }
    ways = [Way(decoding, *way) for way in WAYS for decoding in args.decodings]
    rows = [Row(stacking, way) for way in ways for stacking in sorted(by_stacking)]
    voices, texts = read_codes(args.voices / "codes.scp", everyone[0].corelm.spec.num_codebooks), sentences(args)
    begin = time.perf_counter()
    for number, row in itertools.product(range(-(-len(texts) // args.chunk)), rows):
        if number % row.way.every or time.perf_counter() - begin > 60 * args.minutes:
            continue
        first = number * args.chunk
        models = by_stacking[row.stacking]
        row.add(models[number % len(models)], dict(enumerate(texts[first : first + args.chunk], first)), voices)
        result["rows"] = [row.plain() for row in rows if row.sentences]
        logging.info("S %d, %s: %d of %d ran away", row.stacking, row.way, sum(row.reasons.values()), row.sentences)
        publish(args.out, result, page(result))


if __name__ == "__main__":
    run(main)
