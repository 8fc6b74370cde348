"""A real Chromium for tests of pages: what it shows at a width, light or dark, with script or without, and what axe-core finds.

Test files that use it import the fixture `chromium` and are slow; without Chromium or Playwright they are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# A page needs no network, and a browser without one is not to look for its maker's hosts.
SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
OWN = ("file:", "data:", "blob:")
WIDE, NARROW = 1280, 390
"""Widths of a desk and of a telephone, px."""


class Chromium:
    """A browser that runs; `page` opens a file in it."""

    def __init__(self, browser: Any, axe: Path) -> None:
        self.browser, self.axe = browser, axe

    @contextmanager
    def page(self, path: Path, width: int = WIDE, *, dark: bool = False, script: bool = True) -> Iterator[Any]:
        """Yield Playwright's page of a file. Fails at the end if the page's script raised an error or asked for the network."""
        scheme = "dark" if dark else "light"
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script, reduced_motion="reduce"
        )
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(f"error: {error}"))
        page.on(
            "request", lambda asked: errors.append(asked.url) if not asked.url.startswith(("file:", "data:", "blob:")) else None
        )
        page.goto(path.resolve().as_uri())
        try:
            yield page
        finally:
            context.close()
        assert not errors, errors

    def violations(self, page: Any) -> list[str]:
        """Return what axe-core finds wrong with a page (WCAG 2.1 A and AA, and best practices), each with the first place."""
        page.evaluate(self.axe.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(result => result.violations)")
        return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found]


@pytest.fixture(scope="module")  # each module that imports it has its own, and two browsers of Playwright cannot run at once
def chromium() -> Iterator[Chromium]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium; `make browser` installs it where apt-get may")
    playwright = pytest.importorskip("playwright.sync_api")
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).parent / "axe.min.js"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=list(SWITCHES))
        yield Chromium(browser, axe)
        browser.close()
