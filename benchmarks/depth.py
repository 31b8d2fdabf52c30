"""What layers of the primary transformer are worth: nats per code without each, and as the part `routers` chooses.

python benchmarks/depth.py --exp EXP --data_dir DUMP/test --out benchmarks/results/depth

The codes of every utterance are teacher-forced, layers left out for prompt and steps, and scored by the autoregressive
local transformer: aligned with the text, as in training, and from the state that decoding begins with, where a prior
expects them along its own path. Twice the standard error is over utterances.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from precision_nll import batches
from published import publish
from tokenization import processor
from torch import Tensor

from espnet_ext.bin import run
from espnet_ext.codes import length_mask
from espnet_ext.data.datadir import read_scp
from espnet_ext.decoding import Routed
from espnet_ext.decoding.rows import legal_ids
from espnet_ext.inference import CodecLM
from espnet_ext.model.heads import ARLocalTransformer
from espnet_ext.model.layers import LayerPass, RowLayers
from espnet_ext.scoring.tables.markdown import table

ROWS = 18


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment with part routers and a local ar")
    parser.add_argument("--data_dir", type=Path, required=True, help="codes.scp, prompt.scp and text of a test set")
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.5, 0.9, 0.95])
    parser.add_argument("--utterances", type=int, default=54, help="how many of the test set, at most")
    parser.add_argument("--out", type=Path, required=True, help="path of the results without their ending")
    return parser


def layers_of(model: Any, conditions: Any, kind: str) -> Tensor:
    """What each row uses, (B, layers) bool: all, all but one, or what routers choose."""
    used = torch.ones(len(conditions.given), model.layers, dtype=torch.bool)
    if kind.startswith("without"):
        used[:, int(kind.split()[1])] = False
    elif kind.startswith("routed"):
        used = Routed(float(kind.split()[1])).choose(model, conditions).used
    return used


@torch.no_grad()
def likelihood(speak: CodecLM, batch: tuple[Any, Tensor, Tensor], kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Nats of the codes of each utterance, aligned and along the expected path, and how many layers it uses: (B,)."""
    conditions, codes, lengths = batch
    model = speak.corelm
    targets = model.targets(codes, lengths)
    steps, _ = model.inputs(targets, model.spec.bos_id)
    rows = RowLayers(layers_of(model, conditions, kind))
    aligned = model._hidden(*model._read(conditions, steps, targets, lengths), LayerPass(rows=rows)).hidden
    along = model.extend(steps, model.prefill(conditions, steps.shape[1], layers=rows))
    real, local = length_mask(lengths // model.stacking, steps.shape[1]), model.heads.of(ARLocalTransformer)
    legal = legal_ids(model.spec, model.layout, steps.shape[1], 1)
    made = []
    for hidden in (aligned, along):
        logits, _ = local(model.heads.inputs(local, hidden[real]), targets[real])
        logprobs = logits.double().masked_fill(~legal, -torch.inf).log_softmax(-1)
        nats = torch.zeros(real.shape, dtype=torch.float64)
        nats[real] = -logprobs.gather(-1, targets[real][..., None]).flatten(1).sum(1)
        made.append(nats.sum(1))
    return made[0], made[1], rows.count()


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Nats per code, their change with its error, and layers per step of every kind."""
    speak = CodecLM.from_experiment(args.exp)
    names = sorted(read_scp(args.data_dir / "codes.scp"))[: args.utterances]
    every = list(batches(args, speak, names, ROWS))
    counts = torch.cat([lengths for _, _, lengths in every]).double() * speak.corelm.spec.num_codebooks
    kinds = ["full", *(f"without {one}" for one in range(speak.corelm.layers))]
    kinds += [f"routed {one}" for one in args.thresholds]
    cells: list[dict[str, Any]] = []
    first: list[Tensor] = []
    for kind in kinds:
        made = [likelihood(speak, batch, kind) for batch in every]
        *nats, layers = (torch.cat([one[place] for one in made]) for place in range(3))
        first = first or nats
        cells.append({"depth": kind, "layers_per_step": float((layers * counts).sum() / counts.sum())})
        for name, mine, right in zip(("aligned", "along"), nats, first, strict=True):
            change = float((mine - right).sum() / counts.sum())
            error = float((mine - right - change * counts).square().sum().sqrt() / counts.sum())
            about = {"nats_per_code": float(mine.sum() / counts.sum()), "change": change, "twice_error": 2 * error}
            cells[-1] |= {f"{key}_{name}": value for key, value in about.items()}
        print(cells[-1], flush=True)  # noqa: T201
    return cells


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `--out`.json and `--out`.md."""
    args = get_parser().parse_args(argv)
    torch.set_num_threads(1)
    cells = measure(args)
    told = {"command": shlex.join(["python", *sys.argv]), "date": datetime.now(UTC).date().isoformat()}
    rows = [
        [one["depth"], f"{one['layers_per_step']:.2f}", *(
            cell for name in ("aligned", "along")
            for cell in (f"{one[f'nats_per_code_{name}']:.3f}",
                         f"{one[f'change_{name}']:+.3f} ± {one[f'twice_error_{name}']:.3f}")
        )]
        for one in cells
    ]  # fmt: skip
    page = f"# Layers\n\n`{told['command']}`, {told['date']}, {processor()}, torch {torch.__version__}\n\n"
    heads = ["depth", "layers per step", "nats per code, aligned", "change ± 2 SE", "along the expected path"]
    page += table([*heads, "change ± 2 SE"], rows) + "\n"
    publish(args.out, {**told, "utterances": args.utterances, "cells": cells}, page)


if __name__ == "__main__":
    run(main)
