"""Signing in, seen through a browser."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Page, expect

from ledger.keyring import DEFAULT_SCOPES
from ledger.ledger import Ledger
from ledger.master import load_master
from tests.api.server import Server, serving
from tests.pages.conftest import Open
from tests.pages.scenes import Scenes, put

Result = TypeVar("Result")


def new_key(server: Server, name: str, *scopes: str) -> str:
    """A key that another process makes, as `run-ledger keys create` does."""

    async def make() -> str:
        ledger = await Ledger.open(f"sqlite+aiosqlite:///{server.path}")
        try:
            owner = (await ledger.log("dev")).owner
            master = load_master(None, server.path)
            return (await ledger.keys.create(owner, master, name=name, scopes=scopes or DEFAULT_SCOPES)).text
        finally:
            await ledger.close()

    return elsewhere(make)


def revoke(server: Server, key: str) -> None:
    async def end() -> None:
        ledger = await Ledger.open(f"sqlite+aiosqlite:///{server.path}")
        try:
            await ledger.keys.revoke((await ledger.log("dev")).owner, key.split("_")[2])
        finally:
            await ledger.close()

    elsewhere(end)


def elsewhere(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine in a thread of its own: Playwright keeps this one's event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with API keys."""
    with serving(tmp_path_factory.mktemp("login") / "ledger.db", RUN_LEDGER_HEARTBEAT_S="0.2") as server:
        yield server


@pytest.fixture(scope="module")
def key(closed: Server) -> str:
    key = new_key(closed, "night-watch")
    scenes = Scenes(closed.url, key)
    scenes.create("guarded", metadata={"progress": 0.5}, tags=["secret"])
    scenes.create("plain", "other", metadata={"progress": 0.1})
    scenes.close()
    return key


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_who_signs_in_gets_to_the_page_that_was_asked_for_and_out_again(
    closed: Server, key: str, open_page: Open
) -> None:
    page = open_page(f"{closed.url}/runs/guarded?version=1", live=False)
    expect(page).to_have_url(re.compile(r"/login\?next=%2Fruns%2Fguarded%3Fversion%3D1$"))
    sign_in(page, key)
    expect(page).to_have_url(f"{closed.url}/runs/guarded?version=1")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator(".account")).to_contain_text("night-watch")
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("run_ledger_session", True, "Strict")
    assert key.rpartition("_")[2] not in cookie["value"]
    scenes = Scenes(closed.url, key)
    scenes.write("guarded", put("progress", 0.75))
    scenes.close()
    expect(page.locator("#scrub")).to_have_attribute("max", "2")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.context.cookies() == [] or "run_ledger_session" not in {
        one["name"] for one in page.context.cookies()
    }
    page.goto(f"{closed.url}/runs/guarded")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_wrong_key_is_said_to_be_one(closed: Server, key: str, open_page: Open) -> None:
    page = open_page(f"{closed.url}/login", live=False, quiet=False)
    for wrong in ("nonsense", key[:-1] + ("a" if key[-1] != "a" else "b")):
        sign_in(page, wrong)
        expect(page.get_by_role("alert")).to_contain_text("There is no such key")
        assert page.get_by_label("API key").input_value() == ""
    gone = new_key(closed, "gone")
    revoke(closed, gone)
    sign_in(page, gone)
    expect(page.get_by_role("alert")).to_contain_text("was revoked")
    assert "run_ledger_session" not in {one["name"] for one in page.context.cookies()}


def test_a_session_ends_when_its_key_is_revoked(closed: Server, key: str, open_page: Open) -> None:
    short = new_key(closed, "short", "read")
    page = open_page(f"{closed.url}/runs/plain", live=False, quiet=False)
    sign_in(page, short)
    expect(page.locator("#connection")).to_have_text("live")
    revoke(closed, short)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()  # By itself, at the next heartbeat.


def test_a_restricted_key_sees_its_runs_only(closed: Server, key: str, open_page: Open) -> None:
    narrow = new_key(closed, "narrow", "read:tags:secret")
    page = open_page(f"{closed.url}/", live=False, quiet=False)
    sign_in(page, narrow)
    expect(page.locator("main")).to_contain_text("guarded")
    assert "plain" not in page.locator("main").inner_text()
    expect(page.locator("#connection")).to_have_text("every few seconds")  # The events of all runs are not for it.
    scenes = Scenes(closed.url, key)
    scenes.create("another", metadata={"progress": 0.25}, tags=["secret"])
    scenes.create("hidden", metadata={"progress": 0.25})
    scenes.close()
    expect(page.locator(".runs > li")).to_have_count(2)
    assert "hidden" not in page.locator("main").inner_text()
    page.goto(f"{closed.url}/runs/plain")
    expect(page.get_by_role("heading")).to_have_text("No such run")
