"""A real browser without network, driven by Playwright: what a page asks for, and what it complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

__all__ = ["NEEDS_CHROMIUM", "Seen", "chromium", "opened"]

# The same engine without windows takes a third of the CPU time.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_PROGRAM = next((found for name in _NAMES if (found := shutil.which(name))), "")
NEEDS_CHROMIUM = pytest.mark.skipif(
    not _PROGRAM, reason="no Chromium here; on Debian: apt-get install chromium-headless-shell"
)
# A browser with windows loads a page of its own for the address bar of each, and starts a process ahead of each load:
# two thirds of its CPU time. The other names are Playwright's, whose own list this one replaces.
_SWITCHED_OFF = (
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "PreloadTopChromeWebUI",
    "SpareRendererForSitePerProcess", "AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect",
    "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "MediaRouter", "NetworkTimeServiceQuerying",
    "OptimizationHints", "PaintHolding", "PreconnectToSearch", "ThirdPartyStoragePartitioning",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """Starts the browser; one is enough for all tests of a module."""
    from playwright.sync_api import sync_playwright

    # A proxy that does not exist: a request that leaves the machine fails, and is seen.
    proxy = {"server": "127.0.0.1:9", "bypass": "127.0.0.1"}
    switches = ["--no-sandbox", "--disable-gpu", f"--disable-features={','.join(_SWITCHED_OFF)}"]
    options = {"args": switches, "proxy": proxy}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PROGRAM, **options)
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page, the addresses that it asked for, and what it said to the console, errors included."""

    page: Any
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Any, **options: Any) -> Iterator[Seen]:
    """Opens an empty page; `options` are those of Playwright's `new_page`."""
    page = browser.new_page(**options)
    seen = Seen(page)
    page.on("request", lambda request: seen.asked.append(request.url))
    page.on("console", lambda message: seen.said.append(message.text))
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    yield seen
    page.close()
