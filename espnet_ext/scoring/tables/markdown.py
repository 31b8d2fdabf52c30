"""Numbers and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ABSENT = "–"


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, or a dash for none."""
    return ABSENT if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no negative zero


def percent(value: float | None) -> str:
    """A share in percent, or a dash for none."""
    return number(None if value is None else 100 * value, 1)


def interval(ends: Sequence[float] | None, digits: int, factor: float = 1.0) -> str:
    """Both ends of an interval, or a dash for none."""
    return ABSENT if ends is None else " … ".join(number(factor * end, digits) for end in ends)


def plain(text: str) -> str:
    """A text of somebody else as a line of Markdown: no elements of HTML, no links and pictures, no further lines.

    >>> plain("a <b> ![](http://x)")
    'a &lt;b> ![]&#40;http://x)'
    """
    return " ".join(text.splitlines()).replace("<", "&lt;").replace("](", "]&#40;")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A Markdown table.

    Args:
        header: names of the columns; the first is of text, the others of numbers.
        rows: cells.

    Returns:
        Lines, each ended by a line feed.

    >>> print(table(["system", "Err"], [["one|two", "1.0"]]), end="")
    |system|Err|
    |---|---:|
    |one\|two|1.0|
    """
    lines = [[plain(name).replace("|", "\\|") for name in header], ["---", *["---:"] * (len(header) - 1)]]
    lines += [[plain(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"|{'|'.join(line)}|\n" for line in lines)
