"""Codes on disk: Kaldi archives of flattened int32, written through kaldiio or omniio, whichever is there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from espnet_ext.data.datadir import read_if_there, read_scp, write_scp
from espnet_ext.data.kaldi import check_owners, place_of, read_entry
from espnet_ext.data.speaker_prompt import PROMPTS_NAME
from espnet_ext.errors import UserError
from espnet_ext.storage.atomic import atomic_path
from espnet_ext.storage.checksums import verify

Write = Callable[[str, np.ndarray], None]

# the one that ESPnet reads with on this Python comes first; what they write is the same to the byte
LIBRARIES = ("kaldiio", "omniio.kaldi") if sys.version_info < (3, 12) else ("omniio.kaldi", "kaldiio")


def _backend() -> ModuleType:
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UserError("codes need omniio or kaldiio: pip install omniio")


@contextmanager
def _archive_writer(directory: Path, name: str, lengths_name: str, what: str, axes: int) -> Iterator[Write]:
    ark, scp = directory / f"{name}.ark", directory / f"{name}.scp"
    if "," in str(directory) or str(directory) != str(directory).strip():
        raise UserError(
            f"directory of {name} must have no comma and no outer space in its name, got {str(directory)!r}"
        )
    lengths: dict[str, int] = {}
    with atomic_path(scp) as new_scp:
        with (
            atomic_path(ark) as new_ark,
            _backend().WriteHelper(f"ark,scp:{new_ark},{new_scp}") as archive,
        ):

            def write(utterance: str, rows: np.ndarray) -> None:
                if rows.ndim != axes or not rows.size:
                    shape = "(T, N)" if axes == 2 else "(T,)"
                    raise UserError(f"{what} of {utterance} must be {shape} with T > 0, got shape {rows.shape}")
                if lengths and utterance <= next(reversed(lengths)):
                    raise UserError(
                        f"{name} must be written in C-locale order, got {utterance} after {next(reversed(lengths))}"
                    )
                # a Kaldi archive holds integers as int32 vectors only
                archive[utterance] = np.ascontiguousarray(rows, dtype=np.int32).reshape(-1)
                lengths[utterance] = len(rows)

            yield write
            # between the two renames old offsets would point into the new archive
            archive.close()
            scp.unlink(missing_ok=True)
        text = new_scp.read_text(encoding="utf-8")
        new_scp.write_text(text.replace(f" {new_ark}:", f" {ark}:"), encoding="utf-8")
        write_scp(directory / lengths_name, lengths)


def codes_writer(directory: Path) -> AbstractContextManager[Write]:
    """Write codes.ark, codes.scp and utt2num_frames; they appear when the block ends without an error.

    Args:
        directory: made when missing; codes.scp names codes.ark by this path

    Returns:
        The block; it gets a function of an utterance id and its (T, N) integer codes; ids come sorted as in the C
        locale. Its `UserError` tells of codes of another shape, ids out of order, and a path that a Kaldi specifier
        cannot hold.
    """
    return _archive_writer(directory, "codes", "utt2num_frames", "codes", axes=2)


def units_writer(directory: Path) -> AbstractContextManager[Write]:
    """Write semantic.ark, semantic.scp and utt2num_units, (T,) each, as `codes_writer` does for codes."""
    return _archive_writer(directory, "semantic", "utt2num_units", "units", axes=1)


def load_codes_entry(pointer: str, num_codebooks: int, utterance: str = "") -> np.ndarray:
    """Codes that an scp entry points to: (T, N) int64.

    Args:
        pointer: such as ``dump/train/codes.ark:1234``
        num_codebooks: N
        utterance: whose codes they are, for errors

    Returns:
        The codes.

    Raises:
        FileNotFoundError: if the archive is missing
        UserError: if the pointer is no archive:offset, or there are no codes of N codebooks at that place
    """
    what = f"codes of {utterance}" if utterance else "codes"
    try:
        archive, _ = place_of(pointer)
    except UserError as error:
        raise UserError(f"{what} {error}") from None
    if not Path(archive).exists():
        raise FileNotFoundError(f"codes archive not found: {archive} (with {what})")
    verify(archive)
    try:
        flat = read_entry(pointer)
    except UserError as error:
        raise UserError(f"{what} must be readable at {pointer}, got a damaged archive ({error})") from None
    if flat.ndim != 1 or flat.dtype.kind != "i" or flat.size % num_codebooks:
        raise UserError(f"{what} at {pointer} must be integers of {num_codebooks} codebooks, got another array")
    return flat.reshape(-1, num_codebooks).astype(np.int64)


class CodesTable(Mapping[str, np.ndarray]):
    """Utterance id → (T, N) int64 codes, read when looked up.

    Args:
        pointers: utterance id → place in an archive
        num_codebooks: N
    """

    def __init__(self, pointers: Mapping[str, str], num_codebooks: int) -> None:
        self.pointers = dict(pointers)
        self.num_codebooks = num_codebooks

    def __getitem__(self, utterance: str) -> np.ndarray:
        return load_codes_entry(self.pointers[utterance], self.num_codebooks, utterance)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pointers)

    def __len__(self) -> int:
        return len(self.pointers)


def read_codes(scp: Path | str, num_codebooks: int) -> CodesTable:
    """The codes that a codes.scp lists, read lazily.

    Args:
        scp: file written by `codes_writer`, or a part of it
        num_codebooks: N, from the codec_info.yaml beside it

    Returns:
        The table, in the order of the file.

    Raises:
        UserError: see `read_pointers`.
    """
    return CodesTable(read_pointers(scp), num_codebooks)


def read_pointers(scp: Path | str) -> dict[str, str]:
    """Utterance → place of its entry in an archive, or, in the tables of prompts, of that of its prompt.

    Args:
        scp: codes.scp, semantic.scp, prompt.scp, prompt_semantic.scp, or a part of one.

    Returns:
        The table, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: naming file and line, if it is no such table, or places were exchanged.
    """
    table = read_scp(scp)
    check_owners(scp, table, owners(scp, table))
    return table


def owners(scp: Path | str, table: Iterable[str]) -> dict[str, str]:
    """Utterance → the one whose entry a table means: itself, or its prompt, as far as utt2prompt beside it tells."""
    if not Path(scp).name.startswith("prompt"):
        return {utterance: utterance for utterance in table}
    return read_if_there(Path(scp).with_name(PROMPTS_NAME)) or {}
