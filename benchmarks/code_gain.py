"""What knowing other codes of a step is worth to the local transformers of an experiment, in nats per code.

Every code of a data directory is scored by the parallel heads, by the AR local transformer, which knows the codes in
front of it, and by the MaskGIT one when it knows none, those in front of it, and all others. A local transformer that
has learned how codes depend on each other gains by knowing them. Written are a JSON object and a table.

    python benchmarks/code_gain.py --exp EXP … --data_dir DIR --out benchmarks/results/NAME
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from espnet_ext.data.inputs.batches import read_batches, utterances_by_length
from espnet_ext.inference.experiment import Experiment
from espnet_ext.model.heads import ARLocalTransformer, LocalInput, MaskGITLocalTransformer
from espnet_ext.scoring.tables.markdown import number, table
from espnet_ext.storage.atomic import atomic_path

ROWS = 16  # at once
COLUMNS = ("parallel", "AR", "MaskGIT: none", "in front", "all others")


def nats(logits: Tensor, codes: Tensor, real: Tensor) -> float:
    """The sum over the codes (P, m) that are real, of logits (P, m, V)."""
    return float(
        (F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none") * real.flatten()).sum()
    )


def known_codes(head: MaskGITLocalTransformer, inputs: LocalInput, codes: Tensor, real: Tensor) -> dict[str, float]:
    """Sums for the MaskGIT local transformer with three kinds of known codes."""
    nothing, sums = torch.full_like(codes, head.spec.mask_id), Counter[str]()
    for slot in range(head.slots):
        others, front = codes.clone(), nothing.clone()
        others[:, slot], front[:, :slot] = head.spec.mask_id, codes[:, :slot]
        for name, known in zip(COLUMNS[2:], (nothing, front, others), strict=True):
            one = slice(slot, slot + 1)
            sums[name] += nats(head.logits(inputs, known)[:, one], codes[:, one], real[:, one])
    return dict(sums)


@torch.no_grad()
def measure(exp: Path, data_dir: Path, utterances: int) -> dict[str, float | int | str]:
    """Means over evenly chosen utterances, and how many codes these are of."""
    experiment = Experiment.read(exp)
    model, inputs = experiment.load_corelm().eval(), experiment.inputs
    maskgit, ar = model.heads.of(MaskGITLocalTransformer), model.heads.of(ARLocalTransformer)
    given: dict[object, tuple[LocalInput, Tensor]] = {}
    for head in (maskgit, ar):
        head.register_forward_pre_hook(lambda module, arguments: given.update({module: arguments}))
    names = utterances_by_length(inputs, data_dir)
    names = names[:: max(1, len(names) // utterances)][:utterances]
    sums, count = Counter[str](), 0
    for _, batch in tqdm(read_batches(inputs, data_dir, names, ROWS), total=-(-len(names) // ROWS), desc=exp.name):
        model(**batch)
        steps, codes = given[maskgit]
        real = codes < maskgit.spec.codebook_size
        sums["parallel"] += nats(model.heads.base(steps.hidden), codes, real)
        sums["AR"] += nats(ar(*given[ar]).logits, given[ar][1], given[ar][1] < ar.spec.codebook_size)
        sums.update(known_codes(maskgit, steps, codes, real))
        count += int(real.sum())
    return {"experiment": exp.name, "codes": count, **{name: sums[name] / count for name in COLUMNS}}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, nargs="+", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=48)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    args = parser.parse_args()
    found = [measure(exp, args.data_dir, args.utterances) for exp in args.exp]
    rows = [[str(one["experiment"]), *(number(one[name], 3) for name in COLUMNS), str(one["codes"])] for one in found]
    with atomic_path(args.out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"data_dir": args.data_dir.name, "found": found}, indent=1) + "\n")
    with atomic_path(args.out.with_suffix(".md")) as temporary:
        temporary.write_text(table(["experiment", *COLUMNS, "codes"], rows))


if __name__ == "__main__":
    main()
