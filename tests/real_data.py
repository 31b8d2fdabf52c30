"""Recordings and weights that are not part of the project: a test that needs them is skipped where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL_DATA = Path(os.environ.get("ESPNET_EXT_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data")


def need_real_data(name: str) -> Path:
    """A file or folder of the real data; without it the test is skipped."""
    if not (REAL_DATA / name).exists():
        pytest.skip(f"{REAL_DATA / name} is not there (ESPNET_EXT_DATA may name another folder)")
    return REAL_DATA / name
