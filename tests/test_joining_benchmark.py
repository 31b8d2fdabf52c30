"""The benchmark of joining rows on a model that costs nothing: every way decodes all, and the page says how fast."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("psutil")
FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SMALL = {"width": 16, "layers": 1, "heads": 2, "text_layers": 1, "context_layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("joining")
    finally:
        sys.path.remove(str(FOLDER))


def test_joining_rows_need_fewer_passes_for_the_same_frames(script):
    model = script.random_model(SMALL, {"width": 8, "layers": 1, "heads": 2})
    args = Namespace(utterances=24, frames=[2, 20], rows=4)
    found = {way: script.measure(model, "parallel", way, args) for way in script.WAYS}
    assert len({one["frames"] for one in found.values()}) == 1
    assert found["joining"]["passes"] < found["fixed"]["passes"]
    assert found["joining"]["rows"] / found["joining"]["passes"] > 3.6
    # the longest row of all decides what a cache holds, in either way; one eighth more is free
    assert found["joining"]["cache_bytes"] <= 1.25 * found["fixed"]["cache_bytes"]


def test_the_page_has_a_line_for_every_way(script):
    one = {"seconds": 2.0, "frames": 100, "passes": 8, "rows": 20, "cache_bytes": 2**20}
    found = {"joining": [{**one, "seconds": 1.0}, one], "fixed": [one, {**one, "seconds": 3.0}]}
    lines = script.summary("parallel", found)
    names = ("command", "processor", "date", "torch", "utterances", "rows", "rounds")
    page = script.page({**dict.fromkeys(names, "?"), "frames": [1, 9], "lines": lines})
    assert "| parallel | joining | 1.5 | 67 | 1.75 | 1.50 – 2.00 | 8 | 2.5 | 1.0 |" in page
    assert "| parallel | fixed | 2.5 | 40 | 1.00 | 1.00 – 1.00 | 8 | 2.5 | 1.0 |" in page
