"""What was tried to tune the sampling of strategies, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espnet_ext.scoring.tables.markdown import ABSENT, interval, number, percent, table

HEADER = ["sampling", "WER %", "95 %", "worse than the fewest by", "codec FD", "95 %"]


def tuning_table(cells: Mapping[str, Mapping[str, Any]], chosen: str) -> str:
    """The settings of one strategy.

    Args:
        cells: name → what came of it, from tuned.json.
        chosen: name of the one that was taken.

    Returns:
        The table; the chosen one is bold.
    """
    rows = []
    for name, cell in cells.items():
        wer, frechet = cell["wer"], cell["frechet"]
        row = [cell["sampling_in_words"], percent(wer["rate"]), interval(wer["interval"], 1, 100)]
        row.append(interval(cell["difference"], 1, 100) if any(cell["difference"] or ()) else ABSENT)
        row += [number(frechet["corrected"], 3), interval(frechet["interval"], 3)]
        rows.append([f"**{text}**" for text in row] if name == chosen else row)
    return table(HEADER, rows)


def tuning_page(tuned: Mapping[str, Any]) -> str:
    """The page of all strategies, from the contents of tuned.json."""
    about = f"{tuned['utterances']} utterances of `{tuned['data_dir']}`, words heard by {tuned['recogniser']}"
    lines = [f"# Sampling of {tuned['experiment']}", "", f"{about}.", *(f"- {one}" for one in tuned["remarks"]), ""]
    for strategy, found in tuned["strategies"].items():
        lines += [f"## {strategy}", "", found["why"], ""]
        if found["cells"]:
            lines += [tuning_table(found["cells"], found["chosen"])]
    lines += [f"- {strategy} is left out: {why}" for strategy, why in tuned["left_out"].items()]
    return "\n".join(lines).rstrip() + "\n"
