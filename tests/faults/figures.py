"""What the suite found, one JSON line for each count in the file that FAULT_FIGURES names, and the page made of them.

python tests/faults/figures.py FIGURES docs/reliability.md
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEGIN, END = "<!-- figures: made by `make test-faults` -->", "<!-- end of figures -->"
HEADS = {
    "faults": ("fault", "injected", "survived"),
    "readers": ("reader", "damaged inputs", "uncaught errors, hangs"),
    "hostile": ("hostile input", "tried", "code ran"),
}


def count(table: str, row: str, tried: int, found: int) -> None:
    """Note figures; those of a row are added up."""
    if path := os.environ.get("FAULT_FIGURES"):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps([table, row, tried, found]) + "\n")


@contextmanager
def fault(row: str, number: int = 1) -> Iterator[None]:
    """Faults that are survived if the block ends without an error."""
    survived = 0
    try:
        yield
        survived = number
    finally:
        count("faults", row, number, survived)


def tables(lines: list[str]) -> str:
    """The figures as the page shows them."""
    tried, found = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for line in lines:
        table, row, some, what = json.loads(line)
        tried[table, row] += some
        found[table, row] += what
    parts = []
    for table, head in HEADS.items():
        rows = [(row, tried[table, row], found[table, row]) for name, row in sorted(tried) if name == table]
        rows.append(("**together**", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        parts.append(
            "\n".join([f"| {' | '.join(head)} |", "|---|---:|---:|", *(f"| {a} | {b:,} | {c:,} |" for a, b, c in rows)])
        )
    return "\n\n".join(parts)


def main(figures: str, page: str) -> None:
    """Put the figures into the page."""
    text = Path(page).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    made = tables(Path(figures).read_text(encoding="utf-8").splitlines())
    Path(page).write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
