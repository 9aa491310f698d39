"""A real browser, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_NAMES = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
"""No sandbox, as containers have none; nothing goes out; evil.example is this machine; a microphone that beeps."""
Visit = Callable[..., Page]
"""Opens a page: its path, and a context's settings."""
FAILED_LOAD = "Failed to load resource"
"""Said by the browser of every answer that is an error."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    assert path is not None, "there is no Chromium: run scripts/programs"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield started
        started.close()


def watched(context: BrowserContext, address: str) -> tuple[Page, list[str]]:
    """A new page, and what goes wrong in it: errors, and requests to anywhere but the service."""
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    context.on("request", lambda sent: wrong.append(sent.url) if not _inside(sent.url, address) else None)
    return page, wrong


def _inside(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "data:", f"blob:{address}/"))
