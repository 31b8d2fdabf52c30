"""What must hold before ESPnet's trainer starts, each violation one line that names a file or an option."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from espnet_ext.data.ark import owners
from espnet_ext.data.datadir import read_scp, shown
from espnet_ext.data.kaldi import HEADER_BYTES, Header, check_owners, open_archive, place_of
from espnet_ext.errors import UserError
from espnet_ext.storage.checkpoint import check_weights, read_weights
from espnet_ext.storage.checksums import verify
from espnet_ext.storage.yaml_files import read_yaml
from espnet_ext.tokenizers.codec import INFO_NAME, read_codec_info
from espnet_ext.tokenizers.semantic import INFO_NAME as SEMANTIC_INFO_NAME
from espnet_ext.tokenizers.semantic import read_semantic_info

UNITS = ("semantic.scp", "prompt_semantic.scp")  # files of a token directory, where there are both infos


def check_earlier_run(
    output_dir: Path, facts: Mapping[str, Any], build: Callable[[], nn.Module], trust: bool = False
) -> None:
    """Refuse to continue a run of another model, text or codec; nothing of the earlier run is touched.

    Args:
        output_dir: where a checkpoint may lie.
        facts: what must be as it was, by its name in config.yaml.
        build: makes the model of this run.
        trust: read a checkpoint though that may run code.

    Raises:
        UserError: if a checkpoint is there and something differs, or reading it could run code.
    """
    checkpoint = output_dir / "checkpoint.pth"
    if not checkpoint.is_file():
        return
    earlier = {"g2p": "none", **read_yaml(output_dir / "config.yaml", "config.yaml")}  # the first version had no g2p
    for name, now in facts.items():
        before = earlier.get(name)
        if before != now:
            raise UserError(f"{name} must be {_short(before)} to continue {output_dir}, got {_short(now)}")
    state = read_weights(checkpoint, "checkpoint", trust)
    check_weights(build(), state.get("model", {}), checkpoint)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_names(data: list[tuple[str, str, str]], required: Iterable[str], part: str) -> None:
    """Refuse data that lack what the core LM reads.

    Args:
        data: path, name and type of each data file; none where nothing is to be read.
        required: names that must be there.
        part: "train" or "valid".

    Raises:
        UserError: naming the first that is missing.
    """
    names = [name for _, name, _ in data]
    for name in required:
        if names and name not in names:
            raise UserError(f"{part}_data_path_and_name_and_type must name {list(required)}, got {names}")


def check_gain_criteria(criteria: Iterable[Sequence[str]], heads: Sequence[str], stacking: int, rows: int) -> None:
    """Refuse to choose epochs by a wrong-text gain that there will not be: ESPnet would go on without a word.

    Args:
        criteria: `best_model_criterion`.
        heads: names of the model's heads.
        stacking: S.
        rows: most utterances of a batch of validation.

    Raises:
        UserError: naming the criterion.
    """
    known = [f"gain_{head}" for head in heads]
    if stacking > 1:
        known += [f"{gain}_frame{frame}" for gain in known for frame in range(stacking)]
    for criterion in criteria:
        if len(criterion) != 3 or not str(criterion[1]).startswith("gain_"):
            continue
        phase, statistic, mode = criterion
        if phase != "valid" or statistic not in known or mode != "max":
            raise UserError(
                f"best_model_criterion with a gain must be valid, one of {known}, max, got {phase}, {statistic}, {mode}"
            )
        if rows < 2:
            raise UserError(f"valid_batch_size must be at least 2 to choose epochs by {statistic}, got {rows}")


def check_data(data: list[tuple[str, str, str]], shape_files: list[str], fingerprints: Mapping[str, str]) -> None:
    """Refuse data files that lack utterances, whose archives are incomplete, or that another tokenizer made.

    Args:
        data: path, name and type of each data file.
        shape_files: tables whose first column is what will be read.
        fingerprints: name of data → fingerprint of the tokenizer that must have made them.

    Raises:
        FileNotFoundError: naming an archive or a codec_info.yaml that is missing.
        UserError: naming the file and the first utterance.
    """
    wanted = set(read_scp(shape_files[0])) if shape_files else set()
    for path, name, kind in data:
        table = read_scp(path, allow_empty=True)
        with open(path, "rb") as stream:  # ours reads it without; ESPnet's reader takes it for a part of the first key
            if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                raise UserError(f"{path} must not begin with a byte order mark: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}")
        lacking = sorted(wanted - set(table))
        if lacking:
            raise UserError(
                f"{path} must hold every utterance of {shape_files[0]}: no {shown(lacking[0])} ({len(lacking)} such)"
            )
        if name in fingerprints:
            check_maker(path, fingerprints[name])
        if kind == "kaldi_ark":
            table = read_scp(path, allow_empty=True, as_written=True)
            check_archives(path, table)
            check_owners(path, table, owners(path, table))


def check_maker(path: str, fingerprint: str) -> None:
    """Refuse codes or units that another tokenizer made than the model's.

    Args:
        path: scp file, beside which lies codec_info.yaml or semantic_info.yaml; in a token directory both, and units
            are in the files that say so.
        fingerprint: of the model's tokenizer.

    Raises:
        FileNotFoundError: if neither is there.
        UserError: naming both fingerprints, if they differ.
    """
    folder, has_units = Path(path).parent, Path(path).name in UNITS
    if (folder / SEMANTIC_INFO_NAME).is_file() and (has_units or not (folder / INFO_NAME).is_file()):
        kind, found = "units of semantic tokenizer", read_semantic_info(folder).fingerprint
    else:
        kind, found = "codes of codec", read_codec_info(folder).fingerprint
    if fingerprint != found:
        raise UserError(f"{path} must hold tokens of {fingerprint[:12]}…, got {kind} {found[:12]}…")


def check_archives(scp: str, table: Mapping[str, str]) -> None:
    """Refuse pointers at anything but vectors and matrices of numbers: kaldiio, with which ESPnet reads, runs commands.

    Args:
        scp: file the pointers come from, a line each.
        table: utterance → archive:offset, as ESPnet reads it.

    Raises:
        FileNotFoundError: if an archive is missing.
        UserError: naming file and line.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    line = 0
    try:
        for line, pointer in enumerate(table.values(), start=1):
            archive, offset = place_of(pointer)
            places.setdefault(archive, []).append((offset, line))
        for archive, entries in places.items():
            line = entries[0][1]
            verify(archive)
            with open_archive(archive) as stream:
                size = os.fstat(stream.fileno()).st_size
                for offset, line in sorted(entries):  # noqa: B007  # the message names it
                    try:
                        Header.of(os.pread(stream.fileno(), HEADER_BYTES, offset), size - offset)
                    except UserError as error:
                        raise UserError(f"must be numbers of {archive} at byte {offset}, got {error}") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"archive not found: {archive} (named by {scp}:{line})") from None
    except UserError as error:
        raise UserError(f"{scp}:{line}: {error}") from None
