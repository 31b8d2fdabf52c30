"""The SentencePiece model of an experiment: copied into it when training starts, read from there ever after."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path

BPE_NAME = "bpe.model"


def check_bpe(args: Namespace) -> None:
    """Refuse an output directory that holds another SentencePiece model.

    Args:
        args: parsed options.

    Raises:
        UserError: if it does.
    """
    target = Path(args.output_dir) / BPE_NAME
    if args.token_type == "bpe" and target.is_file() and target.read_bytes() != Path(args.bpemodel).read_bytes():
        raise UserError(f"bpemodel must be the same as {target}, got {args.bpemodel}: use another output_dir")


def copy_bpe(args: Namespace) -> None:
    """Put the SentencePiece model of `token_type` bpe into the output directory.

    Args:
        args: parsed options.
    """
    if args.token_type == "bpe":
        with atomic_path(Path(args.output_dir) / BPE_NAME) as temporary:
            shutil.copyfile(args.bpemodel, temporary)


def bpe_of_experiment(directory: Path, named: str | None) -> str | None:
    """The SentencePiece model to use with an experiment: its own copy, wherever the experiment was moved.

    Args:
        directory: the experiment.
        named: what its config.yaml names.

    Returns:
        The copy; what config.yaml names where there is no copy, in experiments of the first version.
    """
    copy = directory / BPE_NAME
    return str(copy) if named is not None and copy.is_file() else named
