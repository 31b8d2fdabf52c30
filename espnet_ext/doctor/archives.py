"""Tables of pointers: every entry is read and held against codec, lengths and names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from espnet_ext.codes import CodecSpec
from espnet_ext.data.ark import load_codes_entry, read_pointers
from espnet_ext.data.datadir import read_counts, shown
from espnet_ext.doctor.checkup import Checkup
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec import codec_files
from espnet_ext.tokenizers.semantic import semantic_files

# table → the table of its lengths, empty where there is none, and whether it is of units
POINTERS = {
    "codes.scp": ("utt2num_frames", False),
    "semantic.scp": ("utt2num_units", True),
    "prompt.scp": ("", False),
    "prompt_semantic.scp": ("", True),
}


def check_pointers_of(checkup: Checkup, path: Path) -> None:
    """Read every entry that a table points at.

    Args:
        checkup: gets what is found.
        path: the table.
    """
    table = checkup.ask("tables", path, partial(read_pointers, path))
    lengths_name, units = POINTERS[path.name]
    files = semantic_files if units or not (path.parent / codec_files.file).is_file() else codec_files
    spec = None
    if (path.parent / files.file).is_file():
        info = checkup.ask("descriptions", path.parent / files.file, partial(files.read, path.parent))
        spec = None if info is None else info.spec
    lengths: dict[str, int] | None = None
    if lengths_name and (path.parent / lengths_name).is_file():
        lengths = checkup.ask(
            "descriptions", path.parent / lengths_name, partial(read_counts, path.parent / lengths_name)
        )
    for utterance, pointer in (table or {}).items():
        checkup.ask("entries", path, partial(_check_entry, utterance, pointer, spec, lengths))


def _check_entry(utterance: str, pointer: str, spec: CodecSpec | None, lengths: dict[str, int] | None) -> None:
    codes = load_codes_entry(pointer, 1 if spec is None else spec.num_codebooks, utterance)
    if spec is not None:
        try:
            spec.check(torch.from_numpy(codes))
        except UserError as error:
            raise UserError(f"codes of {shown(utterance)} at {pointer}: {error}") from None
    if spec is not None and lengths is not None and lengths.get(utterance, -1) != len(codes):
        told = lengths.get(utterance, "none")
        raise UserError(f"length of {shown(utterance)} must be {len(codes)} as at {pointer}, got {told}")
