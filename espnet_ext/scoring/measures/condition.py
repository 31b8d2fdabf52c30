"""What can be wrong with audio that is there: silence and clipping."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SILENCE = 1e-5  # root mean square, full scale 1, which is -100 dB: below the noise of any recording
CLIP_LEVEL = 0.999  # of full scale; 16-bit files that were clipped hold 32767 / 32768 and -1
CLIP_RUN = 3  # samples in a row: a peak that just touches full scale has one or two
CLIP_SHARE = 1e-3  # of all samples; a few clipped peaks are not heard


def is_silent(samples: NDArray[np.floating]) -> bool:
    """Whether there is nothing to hear in samples (samples,) at full scale 1, at least one."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) < SILENCE


def clipped_share(samples: NDArray[np.floating]) -> float:
    """Share, 0 to 1, of the samples that lie in a run at full scale.

    >>> clipped_share(np.array([0.0, 1.0, 1.0, 1.0, 0.5, 1.0, -1.0, 0.2]))
    0.375
    """
    full = np.abs(samples) >= CLIP_LEVEL
    sign = np.where(samples > 0, 1, -1) * full  # a run has one sign
    starts = np.flatnonzero(np.diff(sign, prepend=sign[0] + 1))
    lengths = np.diff(np.append(starts, len(sign)))
    return float(lengths[(sign[starts] != 0) & (lengths >= CLIP_RUN)].sum() / len(samples))


def conditions(samples: NDArray[np.floating]) -> list[str]:
    """What is wrong with audio at full scale 1: "silent", "clipped", both or nothing."""
    found = {"silent": is_silent(samples), "clipped": clipped_share(samples) > CLIP_SHARE}
    return [name for name, wrong in found.items() if wrong]
