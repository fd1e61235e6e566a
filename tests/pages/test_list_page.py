"""The list of runs, seen through a browser."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.api.server import Server, serving
from tests.pages.conftest import Open
from tests.pages.scenes import Scenes, gallery, put


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a run of each kind, and none of another test file."""
    with serving(tmp_path_factory.mktemp("list") / "ledger.db") as server:
        scenes = Scenes(server.url)
        gallery(scenes)
        scenes.close()
        yield server


def test_an_empty_ledger_says_how_to_record_the_first_run_and_shows_it_by_itself(
    tmp_path: Path, open_page: Open
) -> None:
    with serving(tmp_path / "ledger.db") as server:
        page = open_page(server.url)
        expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        assert f"curl {server.url}/api/v1/runs" in page.locator("pre").first.inner_text()
        scenes = Scenes(server.url)
        scenes.create("first", "hello", metadata={"progress": 0})
        row = page.locator(".runs > li")
        expect(row).to_contain_text("first")
        scenes.write("first", put("progress", 0.5), actor="a-job")
        expect(row).to_contain_text("50 %")
        expect(row).to_contain_text("a-job")
        scenes.close()


def test_the_list_tells_of_each_run_what_matters_at_night(listed: Server, open_page: Open) -> None:
    page = open_page(listed.url)
    rows = page.locator(".runs > li")
    expect(rows.first).to_contain_text("lists")  # The newest.
    stalled = rows.filter(has_text="stalled-export")
    told = " ".join(stalled.inner_text().split())
    assert re.fullmatch(
        r"stalled-export export nightly eu executing stalled 36 % set progress importer, .+ 35 of 4,096 B", told
    ), told
    assert "went backwards" in rows.filter(has_text="went-backwards").inner_text()
    assert stalled.get_by_role("progressbar", name="progress of stalled-export").get_attribute("value") == "0.36"


def test_runs_are_found_by_metadata_and_the_address_is_that_of_the_api(listed: Server, open_page: Open) -> None:
    page = open_page(listed.url)
    page.get_by_label("Key").fill("$.user.name")
    page.get_by_label("Value").fill("Eric")
    page.get_by_role("button", name="Find").click()
    rows = page.locator(".runs > li .id")
    expect(rows).to_have_text(["erased-parts", "moving-import"])
    expression = "filter%5Bmetadata%5D%5B%24.user.name%5D%5Beq%5D=Eric"
    assert page.url == f"{listed.url}/?{expression}"
    answered = page.request.get(f"{listed.url}/api/v1/runs?{expression}").json()
    assert [run["id"] for run in answered["data"]] == rows.all_inner_texts()
    page.get_by_label("Status").select_option("EXECUTING")
    expect(rows).to_have_text(["moving-import"])
    page.reload()
    expect(rows).to_have_text(["moving-import"])
    page.get_by_role("link", name="Take away: $.user.name is Eric").click()
    expect(rows.filter(has_text="went-backwards")).to_have_count(1)
    assert page.url == f"{listed.url}/?filter%5Bstatus%5D=EXECUTING"
    page.go_back()
    expect(rows).to_have_text(["moving-import"])


def test_runs_are_found_by_task_tag_and_verdict(listed: Server, open_page: Open) -> None:
    page = open_page(f"{listed.url}/?filter%5Btag%5D=eu")
    rows = page.locator(".runs > li .id")
    expect(rows).to_have_text(["stalled-export", "queued-import"])
    page.get_by_role("combobox", name="Stalled").select_option("true")
    expect(rows).to_have_text(["stalled-export"])
    page.get_by_role("link", name="take all away").click()
    expect(rows).not_to_have_count(1)  # What is typed before the answer belongs to the page that goes away.
    page.get_by_role("textbox", name="Task").fill("train")
    page.get_by_role("textbox", name="Task").press("Enter")
    expect(rows).to_have_text(["went-backwards"])
    page.get_by_label("Order").select_option("createdAt")
    expect(page).to_have_url(
        re.compile("sort=createdAt$")
    )  # The address of the answer; that of the form is longer.
    page.get_by_role("textbox", name="Task").fill("import")
    page.get_by_role("textbox", name="Task").press("Enter")
    expect(rows).to_have_text(["queued-import", "moving-import"])


def test_a_condition_that_cannot_be_meant_says_why(listed: Server, open_page: Open) -> None:
    page = open_page(f"{listed.url}/?filter%5Bstatus%5D=SLEEPING", quiet=False)
    expect(page.get_by_role("alert")).to_contain_text("there are PENDING_VERSION")
    page.get_by_role("link", name="Take away: status: sleeping").click()
    expect(page.locator(".runs > li").first).to_be_visible()
    page.get_by_role("textbox", name="Task").fill("none of them")
    page.get_by_role("textbox", name="Task").press("Enter")
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()


def test_who_types_is_not_disturbed_by_what_happens(listed: Server, open_page: Open) -> None:
    scenes = Scenes(listed.url)
    page = open_page(listed.url)
    page.get_by_label("Value").fill("half typed")
    page.get_by_label("Key").fill("$.a")
    scenes.write("queued-import", put("n", 1), actor="disturber")
    expect(page.locator(".runs > li", has_text="queued-import")).to_contain_text("disturber")
    assert page.get_by_label("Value").input_value() == "half typed"
    assert page.get_by_label("Key").input_value() == "$.a"
    scenes.close()


def test_without_scripts_runs_are_found_too(listed: Server, open_page: Open) -> None:
    page = open_page(listed.url, java_script_enabled=False, live=False)
    page.get_by_text("Find runs").click()
    page.get_by_label("Key").fill("epoch")
    page.get_by_label("Condition").select_option("gte")
    page.get_by_label("Value").fill("1")
    page.get_by_role("button", name="Find").click()
    assert page.locator(".runs > li .id").all_inner_texts() == ["went-backwards"]
    assert page.url == f"{listed.url}/?filter%5Bmetadata%5D%5Bepoch%5D%5Bgte%5D=1"


def test_a_thousand_runs_are_shown_a_page_at_a_time(tmp_path: Path, open_page: Open) -> None:
    with serving(tmp_path / "ledger.db") as server:
        scenes = Scenes(server.url)
        with ThreadPoolExecutor(16) as several:
            list(several.map(lambda number: scenes.create(f"run-{number:04}"), range(940)))
        for number in range(940, 1_000):
            scenes.create(f"run-{number:04}", metadata={"progress": number / 1_000})
        page = open_page(server.url)
        rows = page.locator(".runs > li .id")
        expect(rows).to_have_count(25)
        expect(rows.first).to_have_text("run-0999")
        page.get_by_role("link", name="Next page").click()
        expect(rows.first).to_have_text("run-0974")
        page.get_by_role("link", name="Previous page").click()
        expect(rows.first).to_have_text("run-0999")
        page.goto(f"{server.url}/?sort=-updatedAt")
        expect(page.locator("#connection")).to_have_text("live")
        scenes.write("run-0003", put("progress", 1))
        expect(rows.first).to_have_text("run-0003")  # It moved, by itself.
        scenes.close()


def test_the_first_page_takes_less_than_100_kilobytes(listed: Server, open_page: Open) -> None:
    page = open_page(listed.url, live=False)
    received: list[int] = []
    page.on("response", lambda answer: received.append(len(answer.body()) if "live" not in answer.url else 0))
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    assert len(received) >= 3
    assert 20_000 < sum(received) < 100_000
