"""What packed weights cost in quality: the negative log-likelihood of a test set in the very steps that decode.

The codes of every utterance are fed through the primary and the autoregressive local transformer one by one, as
`local_ar` draws them, and scored among the legal ids. Written are a JSON object and a table: nats per code, the change
against the weights as they were trained, and how often the most likely code is the same.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from published import publish
from torch import Tensor
from tqdm import tqdm

from espnet_ext.codes import length_mask
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs.batches import read_batches
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions
from espnet_ext.inference import CodecLM
from espnet_ext.inference.experiment import Experiment
from espnet_ext.model.cache import KVCache
from espnet_ext.model.caches import EXACT, CachePolicy
from espnet_ext.model.heads import ARLocalTransformer
from espnet_ext.scoring.tables.markdown import table

KINDS = "float32 fp16 int8 float32:native bf16:native int8:native"
ROWS = 3  # at once


def batches(
    args: argparse.Namespace, speak: CodecLM, names: list[str], rows: int = ROWS
) -> Iterator[tuple[object, Tensor, Tensor]]:
    """Conditions, codes (B, T, N) and lengths of utterances, a few at a time."""
    for _, batch in read_batches(Experiment.read(args.exp).inputs, args.data_dir, names, rows):
        codes, lengths = batch.pop("codes"), batch.pop("codes_lengths")
        yield speak.corelm.conditions(**batch), codes, lengths


@torch.no_grad()
def step_by_step(
    speak: CodecLM, conditions: object, codes: Tensor, lengths: Tensor, policy: CachePolicy = EXACT
) -> tuple[Tensor, Tensor, KVCache]:
    """Log-probability of every code that counts, and the most likely one in its place, (P,) each; the cache behind."""
    model, local = speak.corelm, speak.corelm.heads.of(ARLocalTransformer)
    targets = model.targets(codes, lengths)
    steps, _ = model.inputs(targets, model.spec.bos_id)
    state = model.prefill(conditions, targets.shape[1], policy)
    logprobs, best = [], []
    for step in range(targets.shape[1]):
        hidden, cache = model.step(steps[:, step], state), local.new_cache(len(targets))
        inputs = model.heads.inputs(local, hidden)
        before, legal = torch.empty(len(targets), 0, dtype=torch.int64), legal_ids(model.spec, model.layout, step, 1)
        for slot in range(model.slots):
            logits = local.logits(inputs, before, cache)[:, 0].float().masked_fill(~legal[slot], -torch.inf)
            before = targets[:, step, slot : slot + 1]
            logprobs.append(logits.log_softmax(-1).gather(1, before)[:, 0])
            best.append(logits.argmax(-1))
    frames = torch.arange(targets.shape[1]) * model.stacking + model.stacking - 1
    real = length_mask(lengths, int(frames[-1]) + 1)[:, frames]  # steps whose frames all exist
    counted = real.repeat_interleave(model.slots, dim=1)
    return torch.stack(logprobs, dim=1)[counted], torch.stack(best, dim=1)[counted], state.cache


def measure(args: argparse.Namespace, kind: str) -> tuple[Tensor, Tensor]:
    """Log-probabilities and most likely codes of the whole test set with weights of a kind."""
    speak = CodecLM.from_experiment(args.exp)
    if speak.corelm.layout.max_delay:
        raise UserError(f"exp must be a model without delays, got {list(speak.corelm.layout.delays)}")
    if kind != "reference":
        precision, _, native = kind.partition(":")
        speak.accelerate(FastOptions(precision, native=bool(native)), ROWS)
    names = sorted(read_scp(args.data_dir / "codes.scp"))[: args.utterances]
    total = -(-len(names) // ROWS)
    parts = [step_by_step(speak, *batch) for batch in tqdm(batches(args, speak, names), desc=kind, total=total)]
    return torch.cat([part[0] for part in parts]).double(), torch.cat([part[1] for part in parts])


def main() -> None:
    """Measure, and write `--out`.json and `--out`.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment with an autoregressive local transformer")
    parser.add_argument("--data_dir", type=Path, required=True, help="codes.scp, prompt.scp and text of a test set")
    parser.add_argument("--kinds", default=KINDS, help="precisions, :native for the native kernel")
    parser.add_argument("--utterances", type=int, default=24, help="how many of the test set")
    parser.add_argument("--out", type=Path, required=True, help="path of the results without their ending")
    args = parser.parse_args()
    right, right_best = measure(args, "reference")
    cells = [{"weights": "as trained", "nats_per_code": -float(right.mean()), "change": 0.0, "same_best": 1.0}]
    for kind in args.kinds.split():
        found, best = measure(args, kind)
        cells.append(
            {
                "weights": kind,
                "nats_per_code": -float(found.mean()),
                "change": float((right - found).mean()),
                "same_best": float((best == right_best).double().mean()),
            }
        )
    facts = {"exp": args.exp.name, "data": args.data_dir.name, "utterances": args.utterances, "codes": len(right)}
    rows = [
        [cell["weights"], f"{cell['nats_per_code']:.5f}", f"{cell['change']:+.6f}", f"{100 * cell['same_best']:.2f}"]
        for cell in cells
    ]
    head = ", ".join(f"{name} {value}" for name, value in facts.items())
    page = f"`{shlex.join(['python', *sys.argv])}`\n\n{head}\n\n"
    page += table(["weights", "nats per code", "change", "same most likely code (%)"], rows)
    publish(args.out, {**facts, "cells": cells}, page, indent=2)
    print(page)  # noqa: T201


if __name__ == "__main__":
    main()
