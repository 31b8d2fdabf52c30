"""Stage semantic: make the semantic tokenizer of a corpus, and write semantic_info.yaml and the weights."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_ext.bin import run
from espnet_ext.bin.codec_fit import choose_utterances, first_rate, named_files, parse_options, read_waveforms
from espnet_ext.data.audio import read_wav
from espnet_ext.data.datadir import read_scp, skipped_summary, write_skipped
from espnet_ext.data.waveform import resampled
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record
from espnet_ext.jobs.workers import add_force_option
from espnet_ext.registries import semantic_tokenizers
from espnet_ext.storage.yaml_files import without_paths


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, help="yaml file of options; the command line overrides it")
    parser.add_argument("--semantic", default="mfcc_km", help=f"one of {list(semantic_tokenizers)}")
    parser.add_argument("--semantic_conf", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--wav_scp", type=Path, help="audio to learn the units from")
    parser.add_argument("--out", type=Path, help="directory for semantic_info.yaml and the weights")
    parser.add_argument(
        "--deduplicate", default="true", help="whether models see a unit that is repeated once: true or false"
    )
    parser.add_argument(
        "--max_minutes", type=float, default=float("inf"), help="learn from a random part of this length"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random part and of learning")
    parser.add_argument("--nj", type=int, default=1, help="threads that compute spectral features")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where features are computed")
    add_force_option(parser)
    parser.add_argument("--check", action="store_true", help="write nothing: only check that there is such a tokenizer")
    return parser


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked.

    Args:
        arguments: command line without the program name; None takes it from the process

    Returns:
        The options; `deduplicate` is a bool.

    Raises:
        UserError: if an option is unknown, missing or impossible
    """
    args = parse_options(get_parser(), arguments, "semantic_conf")

    from espnet_ext.tokenizers.semantic.learn import check_semantic_conf

    check_semantic_conf(args.semantic, args.semantic_conf)
    if args.out is None and not args.check:
        raise UserError("--out must be given")
    if str(args.deduplicate).lower() not in ("true", "false"):
        raise UserError(f"deduplicate must be true or false, got {args.deduplicate!r}")
    args.deduplicate = str(args.deduplicate).lower() == "true"
    if not args.max_minutes > 0:  # NaN is not
        raise UserError(f"max_minutes must be positive, got {args.max_minutes:g}")
    if args.nj < 1:
        raise UserError(f"nj must be at least 1, got {args.nj}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tokenizer; one that was made earlier by the same request is kept.

    Args:
        arguments: command line without the program name; None takes it from the process
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = parse_args(arguments)

    from espnet_ext.tokenizers.semantic import INFO_NAME
    from espnet_ext.tokenizers.semantic.learn import unlearned_semantic

    if args.check:
        unlearned_semantic(args.semantic, args.seed, args.semantic_conf)
        return
    kind = semantic_tokenizers[args.semantic]
    origin: dict[str, object] = {"semantic_conf": args.semantic_conf, "seed": args.seed}
    inputs = named_files(args.semantic_conf)  # weights that were trained further make another tokenizer
    wavs: dict[str, str] = {}
    if kind.learns(args.semantic_conf):
        if args.wav_scp is None:
            raise UserError(f"--wav_scp must be given: semantic tokenizer {args.semantic} learns units from audio")
        wavs = read_scp(args.wav_scp)
        origin["max_minutes"] = args.max_minutes
        inputs.append(args.wav_scp)
    request = {"semantic": args.semantic, "deduplicate": args.deduplicate, **origin}
    made = [args.out / INFO_NAME, args.out / kind.weights_name]
    Record.of(args.out, request, inputs).make(lambda: fit(args, wavs, origin), args.force, made)


def fit(args: argparse.Namespace, wavs: dict[str, str], origin: dict[str, object]) -> None:
    """Make the tokenizer.

    Args:
        args: the options
        wavs: utterance → audio file to learn from; empty for a tokenizer that does not learn
        origin: how it is made, for the reader of semantic_info.yaml
    """
    from espnet_ext.tokenizers.semantic import INFO_NAME, create_semantic, save_semantic

    kind = semantic_tokenizers[args.semantic]
    chosen, skipped = choose_utterances(wavs, args.max_minutes, args.seed)
    shuffled = [chosen[index] for index in np.random.default_rng(args.seed).permutation(len(chosen))]
    found_hz, _ = first_rate(wavs)

    def read(wav: str) -> np.ndarray:
        return resampled(read_wav(wav, found_hz), found_hz, kind.sample_rate_hz)

    waveforms = read_waveforms(wavs, shuffled, read, skipped)
    tokenizer = create_semantic(args.semantic, waveforms, args.seed, args.semantic_conf, args.nj, args.device)
    write_skipped(args.out / "skipped", skipped)
    info = save_semantic(tokenizer, args.semantic, args.out, without_paths(origin), args.deduplicate)
    if wavs:
        used = len(chosen) - len(skipped.keys() & set(chosen))
        logging.info("learned from %d of %d utterances; skipped: %s", used, len(wavs), skipped_summary(skipped))
    logging.info("%s: %s, fingerprint %s", args.out / INFO_NAME, info.spec, info.fingerprint[:12])


if __name__ == "__main__":
    run(main)
