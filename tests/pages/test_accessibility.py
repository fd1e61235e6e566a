"""What axe finds on each page, in both themes, and what it cannot: the keyboard, and narrow screens."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.api.server import Server, serving
from tests.pages.conftest import Open
from tests.pages.test_login_page import new_key
from tests.sdk.node import fetch

PAGES = {
    "list": "/?filter%5BcreatedAt%5D%5Bperiod%5D=1h",
    "nothing found": "/?filter%5Btag%5D=nowhere",
    "stalled run": "/runs/stalled-export",
    "run that went backwards": "/runs/went-backwards?chart=loss",
    "past, explained and compared": "/runs/moving-import?version=20&explain=progress&compare=5",
    "family": "/runs/parent-pipeline",
    "attempts and refusals": "/runs/second-attempt",
    "no such run": "/runs/nowhere",
}


@pytest.fixture(scope="session")
def axe() -> str:
    return (fetch() / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Pages of other servers: of an empty one, and of one that asks for a key."""
    folder = tmp_path_factory.mktemp("others")
    with serving(folder / "empty.db") as empty, serving(folder / "closed.db") as closed:
        new_key(closed, "first")
        yield {"empty": f"{empty.url}/", "sign in": f"{closed.url}/login"}


def faults(page: Page, axe: str, *rules: str) -> list[Any]:
    """What axe finds serious or critical, by all its rules or by some."""
    page.evaluate(axe)
    options = {"resultTypes": ["violations"], **({"runOnly": [*rules]} if rules else {})}
    found = page.evaluate("async options => (await axe.run(options)).violations", options)
    return [
        (one["id"], one["impact"], [(node["html"][:200], node["any"][:1]) for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]


def test_axe_finds_nothing_serious(shown: Server, others: dict[str, str], open_page: Open, axe: str) -> None:
    addresses = {name: shown.url + path for name, path in PAGES.items()} | others
    found = {}
    page = open_page(shown.url, color_scheme="light", bypass_csp=True, reduced_motion="reduce", quiet=False)
    for name, address in addresses.items():
        page.goto(address)
        if page.locator("main[data-page]").count():
            expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        if page.locator(".proof").count():
            expect(page.locator(".proof a")).to_have_count(0)  # The proof has come.
        found[name] = faults(page, axe)
        # A theme changes colours and nothing else.
        page.emulate_media(color_scheme="dark")
        found[f"{name}, dark"] = faults(page, axe, "color-contrast")
        page.emulate_media(color_scheme="light")
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_axe_sees_what_it_looks_for(shown: Server, open_page: Open, axe: str) -> None:
    page = open_page(f"{shown.url}/runs/lists", bypass_csp=True)
    page.evaluate("document.querySelector('#scrub').removeAttribute('aria-valuetext')")
    page.evaluate("document.querySelector('label[for=scrub]').remove()")
    assert [rule for rule, *_ in faults(page, axe)] == ["label"]


def test_all_of_it_can_be_done_with_the_keyboard(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    row = page.get_by_role("link", name="moving-import")
    row.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("live")
    page.locator("#scrub").focus()
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(f"{shown.url}/runs/moving-import?version=60")
    explain = page.get_by_role("link", name="Explain $.user.name")
    explain.focus()
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).opacity") == "1"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Why is $.user.name what it is?")).to_be_visible()


@pytest.mark.parametrize(
    "path",
    ["/", "/runs/stalled-export", "/runs/hostile", "/runs/moving-import?version=9&explain=progress&compare=2"],
)
def test_nothing_is_wider_than_a_narrow_screen(shown: Server, open_page: Open, path: str) -> None:
    hour = datetime.now(UTC).hour
    # Where it is just past midnight: what began an hour ago is shown with its date. (The signs are those of POSIX.)
    zone = f"Etc/GMT+{hour}" if hour <= 12 else f"Etc/GMT-{24 - hour}"
    page = open_page(shown.url + path, viewport={"width": 400, "height": 800}, timezone_id=zone)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
