"""Utterances of a data directory in batches, as a training reads them for validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from espnet_ext.data.ark import read_codes
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs.base import Inputs
from espnet_ext.data.inputs.checks import check_maker
from espnet_ext.data.preprocess import collate
from espnet_ext.errors import UserError


def utterances_by_length(inputs: Inputs, data_dir: Path) -> list[str]:
    """The utterances of a directory, long ones first, as the batches of a training are ordered.

    Args:
        inputs: of the model.
        data_dir: a data or token directory.

    Returns:
        Their ids.

    Raises:
        FileNotFoundError: if it has no codes.
    """
    codes = read_codes(data_dir / inputs.files["codes"], 1)
    return sorted(codes, key=lambda name: -len(codes[name]))


def read_batches(
    inputs: Inputs, data_dir: Path, names: Sequence[str], batch_size: int
) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Ids and arguments of the core LM, so many utterances at a time.

    Args:
        inputs: of the model.
        data_dir: a data or token directory.
        names: utterances, in their order.
        batch_size: of them at once.

    Yields:
        A batch.

    Raises:
        FileNotFoundError: if the directory lacks what the model reads.
        UserError: if another tokenizer made the codes than that of the training, or an utterance is not all there.
    """
    preprocess, fingerprints = inputs.preprocessor(train=False), inputs.fingerprints
    tables: dict[str, Mapping[str, str | NDArray[np.int64]]] = {}
    for name, file in inputs.files.items():
        path = data_dir / file
        if name not in inputs.required and not path.is_file():
            continue
        if name in fingerprints:
            check_maker(str(path), fingerprints[name])
        tables[name] = read_codes(path, 1) if path.suffix == ".scp" else read_scp(path, allow_empty=True)
    for first in range(0, len(names), batch_size):
        rows = []
        for utterance in names[first : first + batch_size]:
            lacking = [name for name in inputs.required if utterance not in tables[name]]
            if lacking:
                raise UserError(
                    f"data_dir must hold {lacking[0]} of every utterance, got {data_dir} without {utterance}"
                )
            found = {name: table[utterance] for name, table in tables.items() if utterance in table}
            flat = {name: value if isinstance(value, str) else value.reshape(-1) for name, value in found.items()}
            rows.append((utterance, preprocess(utterance, flat)))
        yield collate(rows)
