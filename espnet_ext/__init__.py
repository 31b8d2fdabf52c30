"""Multi-codebook speech language models for ESPnet: local transformers, frame stacking, decoding strategies.

Shape legend, used by every docstring of the package:

    B   utterances in a batch              T   codec frames of an utterance
    N   codebooks of a frame               S   frames per step of the primary transformer (stacking factor)
    L   steps, ceil(T / S)                 M   slots of a step, S * N, frame-major (all codes of frame 0 first)
    U   text tokens                        P   valid steps of a batch, padding removed
    D   width of a transformer             V   ids of one codebook, specials included
    K   prompt steps                       C   positions a cache can hold

Codes are always ``(B, T, N)`` int64. A *step* is one position of the primary transformer, a *slot* one code
of a step, a *strategy* the way the slots of a step are filled.
"""

__version__ = "0.2.0"

import os as _os
import sys as _sys

from espnet_ext import moved as _moved  # noqa: F401 (former names of modules)


def _use_one_thread() -> None:
    """A forked process does not have the threads that torch would wait for without end."""
    torch = _sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):  # it may be half imported
        torch.set_num_threads(1)


_os.register_at_fork(after_in_child=_use_one_thread)
