"""How long utterances are for what is said in them, which tells how long speech may become."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_ext.data.datadir import read_scp

QUANTILE = 0.99  # of the utterances; the last hundredth has silence or a transcript of something else


class Lengths(NamedTuple):
    """What the training set says about lengths.

    Attributes:
        frames_per_token: frames of code per token that nearly all utterances keep below.
        longest: most tokens of an utterance.
    """

    frames_per_token: float | None = None
    longest: int | None = None


def training_lengths(shape_files: Sequence[str], read: str) -> Lengths:
    """Lengths of the training set.

    Args:
        shape_files: of its statistics: lengths by utterance, `codes_shape` among them.
        read: name of the data that the tokens are, which has a `{read}_shape`.

    Returns:
        The lengths; none where a file is missing.
    """
    paths = {Path(path).name: Path(path) for path in shape_files}
    tables = [paths.get(f"{name}_shape") for name in ("codes", read)]
    if not all(path is not None and path.is_file() for path in tables):
        return Lengths()
    frames, tokens = (
        {utterance: int(shape.partition(",")[0]) for utterance, shape in read_scp(path).items()}
        for path in tables
        if path is not None
    )
    found = [frames[utterance] / tokens[utterance] for utterance in frames if tokens.get(utterance)]
    return Lengths(round(float(np.quantile(found, QUANTILE)), 4), max(tokens.values())) if found else Lengths()
