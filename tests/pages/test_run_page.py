"""The page of one run, seen through a browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.api.server import Server, serving
from tests.pages.conftest import Open
from tests.pages.scenes import Scenes, add, put


def tree(page: Page) -> str:
    return page.locator('[data-part="tree"]').inner_text()


def leaf(page: Page, name: str) -> str:
    """The value of a top-level key as the tree shows it."""
    return page.locator(f'[data-part="tree"] .leaf:has(> .name:text-is("{name}")) .value').inner_text()


def slide(page: Page, keys: str) -> None:
    scrubber = page.locator("#scrub")
    scrubber.focus()
    for key in keys.split():
        scrubber.press(key)


def test_a_run_is_seen_moving_without_a_reload(shown: Server, scenes: Scenes, open_page: Open) -> None:
    scenes.create("moves", metadata={"progress": 0.1})
    page = open_page(f"{shown.url}/runs/moves")
    page.evaluate("window.stayed = true")
    scenes.write("moves", put("progress", 0.42), actor="someone-else")
    expect(page.locator('[data-part="tree"]')).to_contain_text("0.42")
    expect(page.locator('[data-part="head"] progress')).to_have_attribute("value", "0.42")
    newest = page.locator(".events > li").first
    expect(newest).to_contain_text("someone-else")
    expect(newest.locator("del")).to_contain_text("0.1")
    expect(newest.locator("ins")).to_contain_text("0.42")
    expect(page.locator("#scrub")).to_have_attribute("max", "2")
    scenes.move("moves", "COMPLETED")
    expect(page.locator('[data-part="head"] .status')).to_have_text("completed")
    assert page.evaluate("window.stayed")


def test_scrubbing_to_version_3_shows_the_old_value_and_the_address_brings_it_back(
    shown: Server, scenes: Scenes, open_page: Open
) -> None:
    scenes.create("scrubbed", metadata={"progress": 0})
    scenes.write("scrubbed", *(put("progress", step / 10) for step in range(1, 10)))
    scenes.move("scrubbed", "COMPLETED")  # So that the present does not move the chart on.
    page = open_page(f"{shown.url}/runs/scrubbed")
    assert leaf(page, "progress") == "0.9"
    slide(page, "Home ArrowRight ArrowRight")
    expect(page).to_have_url(re.compile(r"\?version=3$"))
    expect(page.locator('[data-part="tree"]')).to_contain_text("version 3")
    assert leaf(page, "progress") == "0.2"
    assert page.locator("#scrub").get_attribute("aria-valuetext") == "version 3 of 11"
    expect(page.locator('.events [aria-current="true"] .version')).to_have_text("3")
    expect(page.locator(".axis .at")).to_have_text("20 % since version 3")
    at = page.locator(".chart .marker line").get_attribute("x1")
    page.reload()
    assert leaf(page, "progress") == "0.2"
    assert page.locator("#scrub").input_value() == "3"
    assert page.locator(".chart .marker line").get_attribute("x1") == at
    page.get_by_role("link", name="Back to now").click()
    expect(page.locator('[data-part="tree"]')).to_contain_text("now")
    assert leaf(page, "progress") == "0.9"
    page.go_back()
    expect(page.locator('[data-part="tree"]')).to_contain_text("version 3")
    assert leaf(page, "progress") == "0.2"


def test_who_looks_at_the_past_keeps_it_while_the_run_goes_on(
    shown: Server, scenes: Scenes, open_page: Open
) -> None:
    scenes.create("goes-on", metadata={"n": 1})
    scenes.write("goes-on", put("n", 2), put("n", 3))
    page = open_page(f"{shown.url}/runs/goes-on?version=2")
    scenes.write("goes-on", put("n", 4))
    expect(page.locator("#scrub")).to_have_attribute("max", "4")
    assert leaf(page, "n") == "2"
    assert page.locator("#scrub").input_value() == "2"


def test_two_versions_are_compared(shown: Server, scenes: Scenes, open_page: Open) -> None:
    scenes.create("compared", metadata={"a": 1, "b": {"c": [1, 2]}, "gone": True})
    scenes.write("compared", put("$.b.c", [1, 2, 3]), put("a", "1"), {"type": "delete", "key": "gone"})
    page = open_page(f"{shown.url}/runs/compared")
    page.get_by_label("Compare with version").fill("1")
    page.get_by_role("button", name="Compare").click()
    lines = page.locator('[data-part="compare"] .lines li')
    expect(lines).to_have_count(3)
    told = [re.sub(r"\s+", " ", line) for line in lines.all_inner_texts()]
    assert sorted(told) == ["$.b.c.2 is now 3", 'a was 1 → is now "1"', "gone was true removed"]
    assert "compare=1" in page.url
    page.reload()
    expect(lines).to_have_count(3)


def test_a_value_is_explained(shown: Server, scenes: Scenes, open_page: Open) -> None:
    scenes.create("explained", metadata={"rows": 5, "other": 1})
    scenes.create("explained-child", "step", parentRunId="explained")
    scenes.write("explained", put("rows", 10), put("other", 2), actor="first")
    scenes.write("explained-child", parentOperations=[add("rows", 7)], actor="second")
    page = open_page(f"{shown.url}/runs/explained")
    page.locator(".leaf", has_text="rows").hover()
    page.get_by_role("link", name="Explain rows").click()
    causes = page.locator(".causes > li")
    expect(causes).to_have_count(3)
    newest, middle, oldest = causes.all_inner_texts()
    assert "incremented 7" in newest and "second" in newest and "from child explained-child" in newest  # noqa: PT018
    assert "set 10" in middle and "first" in middle and "17" in newest  # noqa: PT018
    assert "counts no more since version 2" in oldest
    expect(page.locator('[data-part="explain"] .big')).to_contain_text("17")
    page.locator('[data-part="explain"]').get_by_role("link", name="close").click()
    expect(causes).to_have_count(0)
    assert "explain=" not in page.url


def test_any_number_is_drawn(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/went-backwards")
    page.get_by_label("What to draw").select_option("loss")
    chart = page.locator("svg.chart")
    expect(chart).to_have_attribute("aria-label", re.compile("^loss over time: from 2.5 to 0.4145"))
    assert "chart=loss" in page.url
    assert chart.locator("path.line").get_attribute("d").count("V") == 59  # type: ignore[union-attr]
    page.reload()
    expect(chart).to_have_attribute("aria-label", re.compile("^loss over time"))


def test_stalls_regressions_and_the_expected_end_can_be_told_apart_without_colour(
    shown: Server, open_page: Open
) -> None:
    page = open_page(f"{shown.url}/runs/stalled-export")
    expect(page.locator("svg.chart rect.stall")).to_have_count(2)
    assert page.locator("svg.chart rect.stall").first.get_attribute("fill") == "url(#hatch)"
    assert "stalled: no movement" in page.locator(".legend").inner_text()
    assert "stalled at 36 %" in page.locator(".verdict").inner_text()
    expect(page.locator('[data-part="head"] .badge')).to_have_text("stalled")
    page = open_page(f"{shown.url}/runs/went-backwards")
    expect(page.locator("svg.chart path.back")).to_have_count(1)
    expect(page.locator("svg.chart rect.eta")).to_have_count(1)
    assert "went backwards" in page.locator(".legend").inner_text()
    assert "complete between" in page.locator(".legend").inner_text()


def test_refusals_attempts_and_what_children_did_are_marked(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/second-attempt")
    refusal = page.locator(".events > li.refusal")
    assert "refused" in refusal.inner_text()
    assert "of 4,096 bytes" in refusal.inner_text()
    assert "xxxx" not in refusal.inner_text()
    expect(page.locator(".chip.attempt")).to_have_text("attempt 2 begins")
    failed = page.locator(".events > li", has_text="disk full")
    assert "FAILED" in failed.inner_text()
    page = open_page(f"{shown.url}/runs/parent-pipeline")
    expect(page.locator(".events .chip")).to_have_text("from child child-0")


def test_a_run_is_shown_with_those_above_and_below_it_and_how_far_they_are(
    shown: Server, scenes: Scenes, open_page: Open
) -> None:
    page = open_page(f"{shown.url}/runs/parent-pipeline")
    family = page.locator(".family li")
    assert [" ".join(line.split()) for line in family.all_inner_texts()] == [
        "child executing child-2 step 0 %",
        "child executing child-1 step 40 %",
        "child completed child-0 step 100 %",
    ]
    scenes.create("grandchild", "part", parentRunId="child-1")
    family.nth(1).get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("child-1")
    expect(family).to_have_count(2)
    page.goto(f"{shown.url}/runs/grandchild")
    assert [" ".join(line.split()) for line in family.all_inner_texts()] == [
        "root executing parent-pipeline pipeline 33 %",
        "parent executing child-1 step 40 %",
    ]


@pytest.mark.parametrize(
    ("run", "badge", "meaning"),
    [
        ("moving-import", "verified", "every hash was recomputed"),
        ("erased-parts", "verified, with erased parts", "$.user.mail, erased by dpo (the person asked for it)"),
    ],
)
def test_the_proof_says_what_it_means(shown: Server, open_page: Open, run: str, badge: str, meaning: str) -> None:
    page = open_page(f"{shown.url}/runs/{run}")
    expect(page.locator(".proof .badge")).to_have_text(badge)
    assert meaning in page.locator(".proof").inner_text()


def test_a_path_is_copied(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/moving-import", permissions=["clipboard-read", "clipboard-write"])
    page.locator(".leaf", has_text="Eric").hover()
    page.get_by_role("button", name="Copy the path $.user.name").click()
    expect(page.get_by_role("button", name="Copy the path $.user.name")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == "$.user.name"


def test_times_are_in_the_viewers_zone_with_utc_on_hover(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/moving-import", timezone_id="Asia/Kolkata", locale="en-GB")
    time = page.locator('.facts time[data-as="full"]').first
    utc = time.get_attribute("title")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} UTC", str(utc))
    assert time.inner_text()[-8:] == page.evaluate(
        "at => new Date(at).toLocaleTimeString('en-GB', {timeZone: 'Asia/Kolkata'})",
        time.get_attribute("datetime"),
    )


def test_without_scripts_all_of_it_can_be_read(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/went-backwards?version=3", java_script_enabled=False, live=False)
    assert "version 3" in tree(page)
    page.get_by_role("link", name="One version on").click()
    assert "version 4" in tree(page)
    page.get_by_role("link", name="Check the proof now").click()
    assert page.locator(".proof .badge").inner_text() == "verified"
    page.get_by_label("Compare with version").fill("1")
    page.get_by_role("button", name="Compare").click()
    assert "From version 1 to 4" in page.locator('[data-part="compare"]').inner_text()


def test_ten_thousand_events_are_shown_a_page_at_a_time(shown: Server, scenes: Scenes, open_page: Open) -> None:
    scenes.create("ten-thousand", metadata={"progress": 0})
    scenes.write("ten-thousand", *(put("progress", step / 10_000) for step in range(1, 10_000)))
    page = open_page(f"{shown.url}/runs/ten-thousand")
    rows = page.locator(".events > li")
    expect(rows).to_have_count(50)
    expect(page.locator("#scrub")).to_have_attribute("max", "10000")
    assert page.locator("svg.chart path.line").get_attribute("d").count("V") < 400  # type: ignore[union-attr]
    page.get_by_role("link", name="Older events").click()
    expect(rows.first.locator(".version")).to_have_text("9950")
    page.locator("#scrub").fill("5000")
    expect(page.locator('.events [aria-current="true"] .version')).to_have_text("5000")
    assert leaf(page, "progress") == "0.4999"
    assert page.locator("main *").count() < 3_000
    expect(page.locator(".proof .badge")).to_have_text("verified")


def test_a_page_recovers_by_itself_when_the_server_was_restarted(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "ledger.db"
    with serving(path) as server:
        port = str(server.port)
        scenes = Scenes(server.url)
        scenes.create("survives", metadata={"n": 1})
        page = open_page(f"{server.url}/runs/survives", quiet=False)
        server.kill()
        expect(page.locator("#connection")).to_have_text("reconnecting…")
    with serving(path, "--port", port) as server:
        scenes.write("survives", put("n", 2))
        expect(page.locator('[data-part="tree"]')).to_contain_text("2")
        expect(page.locator("#connection")).to_have_text("live")
        scenes.write("survives", put("n", 3))
        expect(page.locator('[data-part="tree"] .leaf .value')).to_have_text("3")
        page.reload()
        expect(page.locator("#connection")).to_have_text("live")
        scenes.close()


def test_a_run_that_is_not_there_is_a_page_that_says_so(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/nowhere", quiet=False, live=False)
    assert page.get_by_role("heading").inner_text() == "No such run"
    page = open_page(f"{shown.url}/runs/moving-import?version=4000", quiet=False, live=False)
    assert "its last one is 61" in page.locator("main").inner_text()
