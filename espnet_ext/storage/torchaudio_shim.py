"""The one place that makes `import torchaudio` work where its compiled extension cannot be loaded.

PyPI's torchaudio for Linux is linked against CUDA. Beside a CPU-only torch its import dies with an OSError about a
missing shared library, and takes `espnet2.tasks.abs_task` and `encodec` with it. Nothing that this package uses
(resampling, mel spectrograms, filter banks) lives in the compiled extension, so it can be left out.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

_EXTENSION = "torchaudio._extension"


def _forget_torchaudio() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _fail_if_no_align(function: F) -> Callable[..., object]:
    """Forced alignment is compiled code: calling it says so, having it defined is harmless."""

    def unavailable(*_args: object, **_options: object) -> object:
        raise RuntimeError(f"torchaudio's {function.__name__} needs its compiled extension, which does not load here")

    return unavailable


def _without_extension() -> ModuleType:
    """A stand-in for `torchaudio._extension` that reports that nothing compiled is available."""
    stub = ModuleType(_EXTENSION)
    # set through vars(): the attributes are those that torchaudio's own modules look up
    vars(stub).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=_fail_if_no_align)
    return stub


def import_torchaudio() -> ModuleType:
    """The torchaudio module, without its compiled extension where that cannot be loaded.

    Call it before importing a third-party module that imports torchaudio. Where torchaudio loads by itself
    this is a plain import.

    Returns:
        The module; later `import torchaudio` statements give the same one.

    Raises:
        ModuleNotFoundError: if torchaudio is not installed.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        logging.getLogger(__name__).debug("torchaudio without its compiled extension: %s", error)
    _forget_torchaudio()
    sys.modules[_EXTENSION] = _without_extension()
    try:
        return importlib.import_module("torchaudio")
    except Exception:
        _forget_torchaudio()
        raise
