"""A page in a real Chromium, without a screen, that fails on errors and on requests that leave this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

OPTIONS = ["--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
LOCAL = ("file://", "data:", "blob:", "http://127.0.0.1", "http://localhost", "ws://127.0.0.1", "about:")


@pytest.fixture
def page() -> Iterator[object]:
    """A page; what it complained of and what it asked others for is checked at the end."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    complaints: list[str] = []
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=OPTIONS)
        found = browser.new_page(viewport={"width": 1280, "height": 900})
        found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.on("request", lambda sent: None if sent.url.startswith(LOCAL) else complaints.append(sent.url))
        yield found
        browser.close()
    assert complaints == []
