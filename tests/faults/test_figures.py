"""The page of figures: rows are added up, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults.figures import BEGIN, END, count, fault, main

ROOT = Path(__file__).resolve().parent.parent.parent


def test_figures_of_a_row_are_added_up_and_replace_those_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT_FIGURES", str(tmp_path / "figures"))
    for _ in range(2):
        with fault("a full disk"):
            pass
    with pytest.raises(OSError, match="lost"), fault("a full disk"):
        raise OSError("lost")
    count("readers", "yaml", 4000, 0)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        main(str(tmp_path / "figures"), str(page))
    text = page.read_text()
    assert "| a full disk | 3 | 2 |" in text and "| **together** | 4,000 | 0 |" in text
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text


def test_the_page_names_tests_that_are_there() -> None:
    named = re.findall(r"`(test_\w+\.py)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 8
    assert not [name for name in named if not list(ROOT.glob(f"tests/**/{name}"))]
