"""How long utterances are for what is said in them, which tells how long speech may become."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_ext.data.datadir import read_scp

QUANTILE = 0.99  # of the utterances; the last hundredth has silence or a transcript of something else


def frames_per_token(shape_files: Sequence[str], read: str) -> float | None:
    """Frames of code per token that nearly all utterances keep below.

    Args:
        shape_files: of the training set, from the statistics: lengths by utterance, `codes_shape` among them.
        read: name of the data that the tokens are, which has a `{read}_shape`.

    Returns:
        The quotient; None where a file is missing.
    """
    paths = {Path(path).name: Path(path) for path in shape_files}
    tables = [paths.get(f"{name}_shape") for name in ("codes", read)]
    if not all(path is not None and path.is_file() for path in tables):
        return None
    frames, tokens = (
        {utterance: int(shape.partition(",")[0]) for utterance, shape in read_scp(path).items()}
        for path in tables
        if path is not None
    )
    found = [frames[utterance] / tokens[utterance] for utterance in frames if tokens.get(utterance)]
    return round(float(np.quantile(found, QUANTILE)), 4) if found else None
