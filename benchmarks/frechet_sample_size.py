"""How much of a codec Fréchet distance is sampling alone: distances between disjoint sets of the same recordings."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_ext.bin import run
from espnet_ext.data.ark import read_codes
from espnet_ext.data.datadir import read_scp
from espnet_ext.scoring.measures.bootstrap import corrected, resample_weights
from espnet_ext.scoring.measures.frechet import distance_draws, frame_statistics, frechet_distance
from espnet_ext.scoring.tables.markdown import number, table
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.tokenizers.codec import load_codec

RECIPE = Path("egs2/mini_libritts/codec_lm1")
SIZES = (6, 12, 24, 48, 96, 192, 384)


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="directory that paths in archives start at")
    parser.add_argument("--data_dir", default="dump/codec_world_vq/train", help="codes of recordings, in the recipe")
    parser.add_argument("--draws", type=int, default=10, help="pairs of sets of every size")
    parser.add_argument("--out", type=Path, required=True, help="files to write, without their suffix")
    return parser


def measure(vectors: Sequence[np.ndarray], speakers: Sequence[str], size: int, draws: int) -> dict[str, float]:
    """Distances between sets of `size` utterances that have nothing in common.

    Args:
        vectors: (T, F) frames of every utterance.
        speakers: of every utterance.
        size: utterances of a set.
        draws: pairs.

    Returns:
        Means and spread over the pairs.
    """
    generator = np.random.default_rng(size)
    origin = np.concatenate(vectors).mean(axis=0)
    plain, without = [], []
    frames = 0.0
    for _ in range(draws):
        chosen = generator.permutation(len(vectors))[: 2 * size]
        first, second = (
            frame_statistics([vectors[i] for i in half], origin) for half in (chosen[:size], chosen[size:])
        )
        one, other = first.gaussian(), second.gaussian()
        if one is None or other is None:
            continue
        frames += float(first.frames.sum()) / draws
        plain.append(frechet_distance(one, other))
        weights = resample_weights([speakers[i] for i in chosen[:size]], 100, seed=0)
        found = corrected(plain[-1], distance_draws(first, {"x": second}, weights, paired=False)["x"])
        without.append(np.nan if found is None else found[0])
    return {
        "utterances": size,
        "frames": round(frames),
        "distance": float(np.mean(plain)),
        "spread": float(np.std(plain)),
        "corrected": float(np.nanmean(without)),
        "corrected_spread": float(np.nanstd(without)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write both files.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    args = get_parser().parse_args(arguments)
    out = args.out.absolute()
    os.chdir(args.recipe)
    folder = Path(args.data_dir)
    codec, utt2spk = load_codec(folder / "codec_info.yaml"), read_scp(folder / "utt2spk")
    codes = read_codes(folder / "codes.scp", codec.spec.num_codebooks)
    names = list(codes)
    vectors = [codec.dequantise(torch.from_numpy(np.array(codes[name]))).double().numpy() for name in names]
    sizes = [size for size in SIZES if 2 * size <= len(vectors)]
    rows = [measure(vectors, [utt2spk[name] for name in names], size, args.draws) for size in sizes]
    width = vectors[0].shape[1]
    result = {"dimensions": width, "draws": args.draws, "rows": rows}
    with atomic_path(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    header = ["utterances of each set", "frames", "frames / dimension", "distance", "±", "bias-corrected", "±"]
    cells = [
        [str(row["utterances"]), str(row["frames"]), number(row["frames"] / width, 1), number(row["distance"], 3)]
        + [number(row[key], 3) for key in ("spread", "corrected", "corrected_spread")]
        for row in rows
    ]
    about = f"Two disjoint sets of recordings of the same voices, {width} dimensions, {args.draws} pairs of each size;"
    page = f"# What sampling alone makes of a codec Fréchet distance\n\n{about} the true distance is 0."
    page += " `make bench-frechet`\n\n"
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(page + table(header, cells), encoding="utf-8")


if __name__ == "__main__":
    run(main)
