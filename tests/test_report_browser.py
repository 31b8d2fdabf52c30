"""report.html in a real browser: it loads, plays, sorts, fits a phone, and can be read in light and dark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import page  # noqa: F401 (a fixture)
from test_report import html, judged  # noqa: F401 (the first is a fixture)
from test_score_stage import test_set, three_strategies  # noqa: F401 (the first is a fixture)

from espnet_ext.scoring.page.pareto_plot import plot
from espnet_ext.scoring.page.render import render
from espnet_ext.scoring.scores import ErrorRate, Mean

pytestmark = pytest.mark.browser

# The least contrast of any text with what is behind it, by the formula of WCAG 2.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const share = [0.2126, 0.7152, 0.0722];
  const light = (rgb) => share.reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const rgb = parse(getComputedStyle(node).backgroundColor);
      if (rgb.length < 4 || rgb[3] > 0) return rgb;
    }
    return [255, 255, 255];
  };
  let least = 99;
  for (const node of document.querySelectorAll("h1, h2, h3, p, li, th, td, small, a, button, summary, dt, dd, code")) {
    if (!node.checkVisibility()) continue;
    const one = light(parse(getComputedStyle(node).color)), other = light(behind(node));
    least = Math.min(least, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05));
  }
  return least;
}"""


@pytest.fixture
def opened(page: Any, html: str) -> Any:  # noqa: F811
    page.goto(Path("report.html").absolute().as_uri())
    return page


def column(page: Any, number: int) -> list[str]:  # noqa: F811
    return page.eval_on_selector_all(
        f"table.sortable tbody tr > :nth-child({number})", "all => all.map(x => x.innerText)"
    )


def test_report_loads_and_an_audio_element_plays(opened: Any) -> None:
    assert opened.title() == "Speech of codec language models"
    opened.eval_on_selector("audio", "audio => audio.play()")
    opened.wait_for_function("() => document.querySelector('audio').currentTime > 0.2", timeout=10_000)
    assert opened.eval_on_selector("audio", "audio => audio.duration") > 0.9


def test_table_sorts_by_mouse_and_by_keyboard_with_empty_cells_last(opened: Any) -> None:
    heads = opened.locator("table.sortable thead th")
    labels = heads.all_inner_texts()
    number = next(index for index, label in enumerate(labels) if label.startswith("RTF"))
    heads.nth(number).get_by_role("button").click()
    assert heads.nth(number).get_attribute("aria-sort") == "ascending"
    values = [cell.splitlines()[0] for cell in column(opened, number + 1)]
    known = [float(value) for value in values if value != "–"]
    assert known == sorted(known) and values[len(known) :] == ["–"] * (len(values) - len(known))
    heads.nth(0).get_by_role("button").focus()
    opened.keyboard.press("Enter")
    names = column(opened, 1)
    assert names == sorted(names)
    opened.keyboard.press("Enter")
    assert column(opened, 1) == names[::-1]
    assert heads.nth(0).get_attribute("aria-sort") == "descending"


def test_another_measure_shows_another_plot(opened: Any) -> None:
    shown = opened.locator("figure.plot:visible")
    assert shown.count() == 1 and shown.get_attribute("data-key") == "wer"
    opened.get_by_label("Quality measured by").select_option("frechet")
    assert shown.count() == 1 and shown.get_attribute("data-key") == "frechet"


def test_first_stop_of_the_keyboard_skips_to_the_results(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    opened.keyboard.press("Enter")
    assert opened.url.endswith("#main")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened: Any, scheme: str) -> None:
    opened.emulate_media(color_scheme=scheme)
    assert opened.evaluate(CONTRAST) >= 4.5
    dark = opened.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_page_fits_a_phone(opened: Any) -> None:
    opened.set_viewport_size({"width": 375, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 375


FADES = "() => getComputedStyle(document.querySelector('table.sortable').parentElement).maskImage"


def test_table_of_all_measures_fits_1200_pixels_and_fades_where_it_goes_on(page: Any, test_set: Path) -> None:  # noqa: F811
    """Fourteen measures with intervals were 1,550 pixels wide, and nothing said that they went on."""
    result = three_strategies()
    names = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "utmos", "mcd", "log_f0_rmse")
    more = {
        "measures": {name: Mean(12.345, (11.234, 13.456)) for name in names},
        "wer": ErrorRate(rate=1.247, interval=(1.184, 1.318)),
        "cer": ErrorRate(rate=1.247, interval=(1.184, 1.318)),
    }
    systems = {f"{name}_maskgit_adaptive": replace(one, **more) for name, one in result.systems.items()}
    result = replace(result, systems=systems, environment={"date": "2026-11-30"})
    Path("report.html").write_text(render([result], "title", "command", 0), encoding="utf-8")
    page.set_viewport_size({"width": 1200, "height": 900})
    page.goto(Path("report.html").absolute().as_uri())
    box = page.locator("table.sortable").locator("..")
    assert page.locator("table.sortable thead th").count() >= 15
    assert box.evaluate("box => box.scrollWidth - box.clientWidth") == 0
    assert page.evaluate(FADES) == "none" and not page.locator(".hint").is_visible()
    page.set_viewport_size({"width": 700, "height": 900})
    page.wait_for_function(f"() => ({FADES})() !== 'none'", timeout=5_000)
    assert page.locator(".hint").is_visible()
    box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    page.wait_for_function(f"() => ({FADES})() === 'none'", timeout=5_000)
    edges = "row => [row.cells[0].getBoundingClientRect().left, row.closest('.scroll').getBoundingClientRect().left]"
    name, left = page.locator("table.sortable tbody tr").first.evaluate(edges)
    assert name == pytest.approx(left, abs=2)  # the names of the systems stay


def test_names_in_the_plot_do_not_cover_each_other(page: Any, tmp_path: Path) -> None:  # noqa: F811
    systems = {
        f"s{1 + number % 4}_local_maskgit_n_rounds-{number}": judged(
            rtf=0.03 + 0.001 * (7 * number % 25), wer=ErrorRate(rate=0.1 + 0.01 * (number % 9), interval=(0.05, 0.25))
        )
        for number in range(25)
    }
    drawn = plot(systems, "wer")
    assert drawn is not None
    (tmp_path / "plot.html").write_text(f"<body style='width: 900px'>{drawn.svg}")
    page.goto((tmp_path / "plot.html").as_uri())
    boxes = page.eval_on_selector_all(
        "svg text",
        "all => all.filter(x => x.textContent.startsWith('s')).map(x => { const b = x.getBoundingClientRect();"
        " return [b.left + 1, b.top + 2, b.right - 1, b.bottom - 2]; })",
    )
    assert len(boxes) == len(systems) - len(drawn.unnamed) > 10
    for index, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_wide_screens_are_used(opened: Any) -> None:
    opened.set_viewport_size({"width": 1800, "height": 900})
    assert opened.locator("table.sortable").bounding_box()["width"] > 1600
    assert opened.locator("figure.plot:visible svg").bounding_box()["width"] > 1000
