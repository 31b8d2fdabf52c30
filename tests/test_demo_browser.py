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
    timing = page.get_by_label("Timing")
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
    page.get_by_role("button", name="Speak").click()
    page.get_by_text("text must not be empty").wait_for(timeout=30_000)
