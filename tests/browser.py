"""
The browser of the tests: a Chromium that is installed already, found in one place.

A test asks for the fixture `browser`; without a Chromium it fails and says what to do. `python -m tests.browser`,
which `make test` runs, installs one where it may: as root, on a system with apt-get. Best is the one without a
window, the headless shell: the same engine, and half the processor time for each page.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

SHELL = "chromium-headless-shell"  # the name of the program and of Debian's package
NAMES = (SHELL, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")
MISSING = (
    f"there is no Chromium on the PATH (looked for {', '.join(NAMES)}), and tests of pages need one; "
    f"install it, on Debian with: {' '.join(INSTALL)} {SHELL}"
)


def find_chromium() -> str | None:
    """The path of an installed Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the Chromium to run pages in."""
    path = find_chromium()
    if path is None:
        pytest.fail(MISSING)
    return path


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """
    A running Chromium; open pages with `browser.new_page()`, and close them.

    Playwright keeps an event loop of its own in this thread until the module is done, so its tests must not be
    coroutines, nor use the fixture `api`, which has another one; `server` is a process of its own.
    """
    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to start as root, as which containers run.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


def main() -> None:
    """Find a Chromium, or install one, or say what to install."""
    if shutil.which(SHELL) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update"], check=False)
        subprocess.run([*INSTALL, SHELL], check=False)
        if find_chromium() is None:  # Older systems have no package of the shell alone.
            subprocess.run([*INSTALL, "chromium"], check=False)
    sys.exit(None if find_chromium() else MISSING)


if __name__ == "__main__":
    main()
