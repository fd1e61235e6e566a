"""What the tests of the pages share."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api.server import Server, serving
from tests.browser import browser, chromium
from tests.pages.scenes import Scenes, gallery

__all__ = ["browser", "chromium"]

PATIENCE_MS = 30_000  # milliseconds after which something that should have been seen never will be

Open = Callable[..., Page]

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a run of each kind."""
    with serving(tmp_path_factory.mktemp("pages") / "ledger.db") as server:
        scenes = Scenes(server.url)
        gallery(scenes)
        scenes.close()
        yield server


@pytest.fixture
def scenes(shown: Server) -> Iterator[Scenes]:
    made = Scenes(shown.url)
    yield made
    made.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """
    Opens pages, each in a browser of its own as far as it can tell.

    What a page complains of fails the test: an error on its console, a violation of its policy, a request to another
    host. *quiet=False* is for a test in which the server goes away.
    """
    with ExitStack() as stack:
        complaints: list[str] = []

        def open_one(url: str, *, quiet: bool = True, live: bool = True, **options: Any) -> Page:
            context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            if quiet:
                host = re.match(r"https?://[^/]+", url)
                assert host is not None
                page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
                page.on("pageerror", lambda error: complaints.append(str(error)))
                page.on(
                    "request",
                    lambda request: None if request.url.startswith(host[0]) else complaints.append(request.url),
                )
            page.goto(url)
            if live:
                expect(page.locator("#connection")).to_have_attribute("data-state", "live")
            return page

        yield open_one
        assert complaints == []
