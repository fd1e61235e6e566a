"""The browser that tests look through: one that is installed, found in one place."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# It runs as root in containers, without a graphics card, and asks nobody on the network for anything.
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str:
    """Where the browser is; without one the test fails and says what to install."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            "these tests look through Chromium, and there is none: apt-get install -y chromium", pytrace=False
        )
    return found


@contextmanager
def running() -> Iterator[Browser]:
    """
    A browser, until the block ends.

    Playwright keeps an event loop in the thread meanwhile, in which no coroutine test could run. So a browser lives
    as long as one file of tests, and not as long as the worker.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=[*OPTIONS])
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of a file."""
    with running() as browser:
        yield browser
