"""How long utterances are for what is said in them, how long they pause and repeat themselves: what speech may do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from espnet_ext.codes import CodecSpec
from espnet_ext.data.ark import load_codes_entry
from espnet_ext.data.datadir import read_scp
from espnet_ext.tokenizers.semantic.units import deduplicate

MOST_READ = 2000  # utterances of a training whose codes are looked at
LONGEST_PERIOD_SEC = 1.0  # of a repetition
LEAST_SHARE = 0.01  # of the ends of utterances; rarer codes there are chance
QUANTILE = 0.99  # of the utterances; the last hundredth has silence or a transcript of something else


class Lengths(NamedTuple):
    """What the training set says about lengths.

    Attributes:
        frames_per_token: frames of code per token that nearly all utterances keep below.
        longest: most tokens of an utterance.
        most: frames per token of the utterance that has most.
    """

    frames_per_token: float | None = None
    longest: int | None = None
    most: float | None = None


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
        {utterance: int(shape.partition(",")[0]) for utterance, shape in read_scp(path, in_order=False).items()}
        for path in tables
        if path is not None
    )
    found = [frames[utterance] / tokens[utterance] for utterance in frames if tokens.get(utterance)]
    if not found:
        return Lengths()
    return Lengths(round(float(np.quantile(found, QUANTILE)), 4), max(tokens.values()), round(max(found), 4))


def speech_limits(
    tables: Iterable[str], spec: CodecSpec, frames_per_token: float | None, deduplicates: bool = False
) -> dict[str, Any]:
    """What no utterance of the training does, as `SpeechLimits` has it.

    Silent are the codes that are more frequent at both ends of utterances than in them: no codec is needed to find
    them, and it is the silence of these recordings. Where speech is cut closely they are other codes, whose longest run
    is a limit all the same.

    Args:
        tables: codes.scp of the training set.
        spec: the codec's facts.
        frames_per_token: of the utterance that has most; None where nobody knows.
        deduplicates: whether the model reads the codes without repetitions.

    Returns:
        Plain values by name.
    """
    places = [(name, place) for table in tables for name, place in read_scp(table).items()]
    some = places[:: -(-len(places) // MOST_READ) or 1]
    coarse = [load_codes_entry(place, spec.num_codebooks, name)[:, 0] for name, place in some]
    coarse = [deduplicate(codes).astype(np.int64) if deduplicates else codes for codes in coarse if len(codes)]
    if not coarse:
        return {"frames_per_token": frames_per_token}
    ends, everywhere = (
        np.bincount(np.concatenate(codes), minlength=spec.codebook_size) / sum(map(len, codes))
        for codes in ([one[[0, -1]] for one in coarse], coarse)
    )
    is_silent = (ends >= LEAST_SHARE) & (ends > everywhere)
    period = round(LONGEST_PERIOD_SEC * spec.frame_rate_hz)
    lags = range(1, period + 1)
    repeated = max(longest_run(codes[lag:] == codes[:-lag]) for codes in coarse for lag in lags)
    return {
        "frames_per_token": frames_per_token,
        "period": period,
        "repeated": repeated,
        "pause": max(longest_run(is_silent[codes]) for codes in coarse),
        "silence": is_silent.nonzero()[0].tolist(),
    }


def longest_run(mask: NDArray[np.bool_]) -> int:
    """Most neighbours that are all true, (T,) bool.

    >>> longest_run(np.array([True, False, True, True]))
    2
    """
    changes = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return int((changes[1::2] - changes[::2]).max(initial=0))
