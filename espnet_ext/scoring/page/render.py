"""The page from its template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from espnet_ext.scoring.page.content import advices, curves, section
from espnet_ext.scoring.page.heard import LEGEND
from espnet_ext.scoring.scores import Scores
from espnet_ext.scoring.tables.report import newest

FOLDER = Path(__file__).parent


def render(results: Sequence[Scores], title: str, command: str, num_sentences: int) -> str:
    """One HTML page that needs no other file.

    Args:
        results: of several test sets; the environment is that of the newest.
        title: of the page.
        command: that made it, to be shown.
        num_sentences: sentences to listen to, of each test set.

    Returns:
        The page.

    Raises:
        UserError: if the directory of a system is gone.
    """
    loader = jinja2.FileSystemLoader(FOLDER)
    # names and texts come from files of users: everything is escaped but what is ours
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["breakable"] = lambda name: Markup.escape(name).replace("_", Markup("_<wbr>"))
    made = newest(results).environment
    systems = {name for result in results for name, scores in result.systems.items() if scores.timing}
    return environment.get_template("page.html.j2").render(
        title=title,
        summary=f"{len(systems)} systems on {len(results)} test set{'s' if len(results) > 1 else ''}, "
        f"{made['date'][:10]}.",
        sections=[section(result, num_sentences) for result in results],
        advices=advices(results),
        curves=curves(results),
        heard_legend=LEGEND,
        environment=made,
        command=command,
        style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "script.js").read_text(encoding="utf-8")),
    )
