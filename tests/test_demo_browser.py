"""The demo in a real browser: text in, sound, picture and figures out; bad input is answered on the page."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import page  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.browser, pytest.mark.espnet]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def address(corpus: Path, experiment: Path) -> Iterator[str]:
    """Where the demo of the tiny experiment can be reached."""
    pytest.importorskip("gradio", reason="gradio is not installed: make test-browser")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "espnet_ext.bin.demo",
        "--exp",
        str(experiment),
        "--data_dir",
        str(corpus / "train"),
    ]
    command += ["--conf_dir", str(ROOT / "conf"), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=1)
                break
            except OSError:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_text_becomes_sound_a_picture_and_figures(page: Any, address: str) -> None:  # noqa: F811
    page.goto(address)
    page.get_by_label("Text", exact=True).fill("abba")
    page.get_by_role("button", name="Speak").click()
    timing = page.get_by_label("Timing").first
    done = "() => [...document.querySelectorAll('textarea, input')].some(x => /RTF.*[^…]$/.test(x.value))"
    page.wait_for_function(done, timeout=60_000)
    assert "first audio after" in timing.input_value() and "local passes/frame" in timing.input_value()
    page.wait_for_selector("img[src*='/file=']", timeout=20_000)
    sounds = "[...document.querySelectorAll('audio')]"
    page.wait_for_function(f"() => {sounds}.some(x => x.duration > 0.1)", timeout=20_000)
    page.evaluate(f"() => {sounds}.find(x => x.duration > 0.1).play()")
    page.wait_for_function(f"() => {sounds}.some(x => x.currentTime > 0)", timeout=20_000)


def test_empty_text_is_answered_on_the_page(page: Any, address: str) -> None:  # noqa: F811
    page.goto(address)
    page.get_by_label("Text", exact=True).fill("")
    page.get_by_role("button", name="Speak").click()
    page.get_by_text("text must not be empty").wait_for(timeout=30_000)


def choose(page: Any, label: str, name: str) -> None:  # noqa: F811
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=name, exact=True).click()


def test_page_begins_with_a_text_and_the_strategy_of_the_experiment_and_its_options_alone(
    page: Any,  # noqa: F811
    address: str,
) -> None:
    page.goto(address)
    assert page.get_by_label("Text", exact=True).input_value()
    assert page.get_by_label("Strategy", exact=True).input_value() == "local_ar"
    page.get_by_role("button", name="Options").first.click()
    temperature = page.get_by_label("temperature", exact=True)
    assert temperature.input_value() == "0.4"  # of decode_local_ar.yaml
    assert page.get_by_label("cfg_scale", exact=True).input_value() == "1.5"
    assert page.get_by_label("n_rounds", exact=True).count() == 0
    choose(page, "Strategy", "local_maskgit")
    page.get_by_label("n_rounds", exact=True).wait_for(timeout=10_000)
    assert page.get_by_label("n_rounds", exact=True).input_value() == "3"


def test_two_strategies_speak_side_by_side_with_what_was_heard_and_what_is_unknown(
    page: Any,  # noqa: F811
    address: str,
) -> None:
    page.goto(address)
    page.get_by_label("Text", exact=True).fill("abx")
    assert page.get_by_label("Timing").count() == 1
    choose(page, "Beside it", "parallel")
    page.get_by_label("Timing").nth(1).wait_for(timeout=10_000)
    page.get_by_role("button", name="Speak").click()
    done = (
        "() => [...document.querySelectorAll('textarea, input')].filter(x => /RTF.*[^…]$/.test(x.value)).length === 2"
    )
    page.wait_for_function(done, timeout=60_000)
    first, second = (page.get_by_label("Timing").nth(number).bounding_box() for number in (0, 1))
    assert first["x"] + first["width"] <= second["x"]
    page.wait_for_function("() => document.body.innerText.match(/(Heard by|Not heard)/g)?.length === 2", timeout=60_000)
    unknown = page.get_by_label("Unknown")
    assert [unknown.nth(number).input_value() for number in (0, 1)] == ["The model does not know 'x' (1)"] * 2


def test_a_wrong_option_of_the_second_strategy_is_said_before_the_first_one_speaks(page: Any, address: str) -> None:  # noqa: F811
    page.goto(address)
    page.get_by_label("Text", exact=True).fill("abba")
    choose(page, "Beside it", "local_maskgit")
    page.get_by_role("button", name="Options").nth(1).click()
    page.get_by_label("order", exact=True).fill("nonsense")
    page.get_by_role("button", name="Speak").click()
    page.get_by_text("order must be one of").wait_for(timeout=30_000)
    assert page.get_by_label("Timing").first.input_value() == ""
