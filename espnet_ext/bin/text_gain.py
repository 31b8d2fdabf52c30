"""What the text is worth to each head of an experiment: the wrong-text gain on a data directory, by frame of a step."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.options import check_number
from espnet_ext.scoring.tables.markdown import number, table
from espnet_ext.storage.atomic import atomic_path

if TYPE_CHECKING:
    import torch

    from espnet_ext.inference.experiment import Experiment
    from espnet_ext.model.text_gain import TextNats


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", type=Path, required=True, help="Experiment directory")
    parser.add_argument("--model_file", help="Weights inside of it; default: the average that the training chose")
    parser.add_argument("--data_dir", type=Path, required=True, help="Data or token directory")
    parser.add_argument("--batch_size", type=int, default=16, help="Utterances that exchange their texts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="Where the language model runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def measure(experiment: Experiment, args: argparse.Namespace) -> dict[str, TextNats]:
    """What the codes of the whole directory cost each head.

    Args:
        experiment: with the model.
        args: the command's options.

    Returns:
        Sums by the name of the head.

    Raises:
        UserError: if a head never had another text to compare with, or the model reads none.
    """
    import torch

    from espnet_ext.data.inputs.batches import read_batches, utterances_by_length
    from espnet_ext.model.text_gain import text_nats

    inputs = experiment.inputs
    names = utterances_by_length(inputs, args.data_dir)
    model = experiment.load_corelm().eval().to(args.device)
    sums: dict[str, TextNats] = {}
    total = -(-len(names) // args.batch_size)
    for _, batch in tqdm(read_batches(inputs, args.data_dir, names, args.batch_size), total=total):
        moved = {name: values.to(args.device) for name, values in batch.items()}
        with torch.no_grad():
            found = text_nats(model, moved, model(**moved))
        sums = {name: sums[name].plus(nats) if name in sums else nats for name, nats in found.items()}
    if not any(int(nats.codes.sum()) for nats in sums.values()):
        raise UserError(f"data_dir must hold utterances with different texts, got {args.data_dir}")
    return sums


def cell(right: torch.Tensor, wrong: torch.Tensor, codes: torch.Tensor) -> dict[str, float | int | None]:
    """Means in nats per code; None where there is no code."""
    count = int(codes)
    means = [float(nats / codes) if count else None for nats in (right, wrong, wrong - right)]
    return {**dict(zip(("right", "wrong", "gain"), means, strict=True)), "codes": count}


def main(cmd: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write `--out`.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    args = get_parser().parse_args(cmd)

    from espnet_ext.inference.experiment import Experiment

    check_number("batch_size", args.batch_size, least=2, whole=True)
    experiment = Experiment.read(args.exp, args.model_file)
    heads: dict[str, Any] = {}
    for name, nats in measure(experiment, args).items():
        frames = [cell(*parts) for parts in zip(*nats, strict=True)]
        heads[name] = {**cell(*(part.sum() for part in nats)), "frames": frames}
    rows = []
    for name, head in heads.items():
        frames = head["frames"] if len(head["frames"]) > 1 else []
        for frame, means in [("all", head), *((str(index), means) for index, means in enumerate(frames))]:
            numbers = [number(means[part], 3) for part in ("right", "wrong", "gain")]
            rows.append([name, frame, *numbers, str(means["codes"])])
    print(table(["head", "frame", "NLL right", "NLL wrong", "gain", "codes"], rows), end="")  # noqa: T201
    if args.out is not None:
        content = {
            "exp": args.exp.name,
            "model_file": experiment.model_file,
            "data_dir": args.data_dir.name,
            "batch_size": args.batch_size,
            "heads": heads,
        }
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
