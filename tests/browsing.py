"""Pages in a real browser: Debian's chromium or Chrome, steered by playwright, which brings none of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@contextmanager
def launched() -> Iterator[Any]:
    """A browser; a test is skipped without playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (make test-web installs it)"
    )
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opening(
    browser: Any, address: str, *, ready: str = "body", patience: int = 30_000, minds: tuple[str, ...] = ()
) -> Iterator[Callable[..., Any]]:
    """Opens pages of an address; at the end nothing was asked of others, and nothing went wrong in the browser.

    Args:
        browser: as `launched`.
        address: of the site, without the slash behind it.
        ready: what is there once a page has been built.
        patience: milliseconds that anything may take.
        minds: kinds of messages in the console that are wrong; none for all of them.
    """
    pages: list[Any] = []
    wrong: list[str] = []

    def complain(text: str, *, unless: bool = False) -> None:
        if not unless:
            wrong.append(text)

    def open_page(name: str = "", width: int = 1280, dark: bool = False) -> Any:
        page = browser.new_page(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        page.set_default_timeout(patience)
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("console", lambda said: complain(said.text, unless=bool(minds) and said.type not in minds))
        # What was still on its way when a page was left was given up by the browser.
        page.on("requestfailed", lambda asked: complain(asked.url, unless=asked.failure == "net::ERR_ABORTED"))
        own = (address, "data:", "blob:")
        page.on("request", lambda asked: complain(asked.url, unless=asked.url.startswith(own)))
        page.goto(f"{address}/{name}")
        page.wait_for_selector(ready, state="attached")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not wrong
