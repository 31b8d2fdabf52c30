"""The benchmark of local-drop on a model that costs nothing: what must shrink with p does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("espnet2")
pytest.importorskip("psutil")
pytestmark = pytest.mark.espnet
FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SMALL = {"width": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def benchmark_script():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("local_drop")
    finally:
        sys.path.remove(str(FOLDER))


def test_what_the_local_transformer_does_and_keeps_shrinks_with_the_drop_rate(benchmark_script):
    cells = [benchmark_script.Cell(8, 1, drop) for drop in benchmark_script.DROPS]
    found = [[benchmark_script.measure(cell, 2, 1.0, {**SMALL, "dropout": 0.0}, SMALL)] for cell in cells]
    rows = benchmark_script.summary(cells, found)
    for name in ("flops", "saved_bytes"):
        ratios = [row[f"{name}_ratio"] for row in rows]
        assert ratios[0] == 1.0 and ratios == sorted(ratios, reverse=True) and ratios[-1] < 0.5
    # of 76 steps 39, 20 and 5 are kept: what is left besides the local transformer is the same in all four
    flops = [row["flops"] for row in rows]
    kept = [76, 39, 20, 5]
    slopes = [(flops[0] - flops[i]) / (kept[0] - kept[i]) for i in (1, 2, 3)]
    assert max(slopes) == pytest.approx(min(slopes), rel=0.01)


def test_the_page_has_a_line_for_every_cell_with_medians(benchmark_script):
    cells = [benchmark_script.Cell(8, 1, drop) for drop in (0.0, 0.5)]
    costs = {"flops": 4e9, "saved_bytes": 2**21, "grown_bytes": 2**22}
    found = [[{**costs, "step": step} for step in (2.0, 9.0, 3.0)], [{**costs, "step": 1.5}] * 3]
    rows = benchmark_script.summary(cells, found)
    names = ("command", "processor", "threads", "date", "python", "torch", "utterances", "rounds")
    page = benchmark_script.page({**dict.fromkeys(names, "?"), "seconds": 5.0, "rows": rows})
    assert "| 8 | 1 | 0 | 3.00 | 2.00 – 9.00 | 1.00 | 4 | 1.00 | 2 | 1.00 | 4 | 1.00 |" in page
    assert "| 8 | 1 | 0.5 | 1.50 | 1.50 – 1.50 | 0.50 | 4 | 1.00 | 2 | 1.00 | 4 | 1.00 |" in page
