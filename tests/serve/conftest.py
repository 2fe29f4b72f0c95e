"""One server for all tests that do not stop it; a browser, and a page that neither complains nor asks another host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from groundup.language_model import LanguageModel
from running_server import Running, chat_model, cycle_model, random_model, running, served, slowly

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("no chromium; `apt-get install chromium` to run this test")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)
        yield browser
        browser.close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    """Open an address as ``visit(url, width=1280)`` and return the page, once it is ready.

    When the test ends, no page may have complained, run a foreign script, or asked another host.
    """
    contexts: list[Any] = []
    pages: list[Any] = []
    complaints: list[str] = []

    def opened(url: str, *, width: int = 1280, ready: bool = True, expected: tuple[str, ...] = ()) -> Any:
        phone = width < 600
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, is_mobile=phone, has_touch=phone, color_scheme="light",
            reduced_motion="reduce", permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        host = urlsplit(url).netloc

        def complain(text: str) -> None:
            if not any(part in text for part in expected):
                complaints.append(text)

        page.on("console", lambda said: complain(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("request", lambda asked: None if urlsplit(asked.url).netloc == host else complain(asked.url))
        page.goto(url)
        if ready:
            page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
        pages.append(page)
        return page

    yield opened
    assert complaints == []
    assert not any(page.evaluate("Boolean(window.hacked)") for page in pages)
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """Four models: "random", "cycle", "chat", and "slow", which takes 20 ms a token."""
    with running(
        served("random", random_model()),
        served("cycle", cycle_model()),
        served("chat", chat_model()),
        slowly(served("slow", random_model(), rows=4)),
    ) as found:
        yield found


@pytest.fixture(scope="session")
def random() -> LanguageModel:
    """The model "random", to be asked alone."""
    return random_model()
