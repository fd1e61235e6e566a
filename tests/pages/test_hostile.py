"""Hostile keys and values, which the pages show as the text that they are."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.api.server import Server
from tests.pages.conftest import Open
from tests.pages.scenes import HOSTILE, Scenes, put


def seen(page: Page) -> str:
    return page.locator("main").inner_text()


def assert_harmless(page: Page) -> None:
    """Nothing that came in became markup, and nothing of it ran."""
    assert (
        page.evaluate(
            "document.querySelectorAll('main script, main img, main b:not(.progress b, output b), main i:not(.kind i)').length"
        )
        == 0
    )
    assert page.evaluate("typeof window.hacked") == "undefined"


def test_hostile_metadata_is_text_wherever_it_is_shown(shown: Server, open_page: Open) -> None:
    for query in ("", "?explain=%3Cscript%3Ealert(1)%3C%2Fscript%3E", "?compare=1", "?version=1"):
        page = open_page(f"{shown.url}/runs/hostile{query}")
        text = seen(page)
        assert "<script>alert(1)</script>" in text, query
        assert "<script>task</script>" in text
        assert "\\u202eltr\\u202c" in text
        assert "abc\\u202edcb\\u2066\\u200f" in text
        assert "{{ 7*7 }} ${7*7} </script></textarea>" in text
        assert "👩‍👩‍👧‍👦" in text
        assert "\\u0000" in text
        assert "\u202e" not in text
        assert_harmless(page)
    page = open_page(shown.url)
    assert "<script>task</script>" in seen(page)
    assert_harmless(page)


def test_hostile_metadata_that_arrives_live_is_text_too(shown: Server, scenes: Scenes, open_page: Open) -> None:
    scenes.create("arrives", metadata={"progress": 0.5})
    page = open_page(f"{shown.url}/runs/arrives")
    scenes.write(
        "arrives",
        *(put(key, value) for key, value in HOSTILE.items()),
        actor="<img src=x onerror='window.hacked=1'>\u202e",
    )
    expect(page.locator('[data-part="tree"]')).to_contain_text("<img src=x onerror=alert(2)>")
    expect(page.locator('[data-part="timeline"]')).to_contain_text("onerror='window.hacked=1'>\\u202e")
    assert_harmless(page)


def test_keys_that_mean_something_to_javascript_are_keys(shown: Server, scenes: Scenes, open_page: Open) -> None:
    names = [
        "constructor",
        "toString",
        "hasOwnProperty",
        "prototype",
        "innerHTML",
        "dataset",
        "version",
        "main",
        "",
    ]
    scenes.create("javascript", metadata={name: {"deep": name} for name in names})
    scenes.write("javascript", put("hasOwnProperty", 1), put("valueOf", {"a": 2}))
    page = open_page(f"{shown.url}/runs/javascript")
    for name in [*names[:-1], "valueOf", '""']:
        assert page.locator(".tree .name", has_text=re.compile(f"^{re.escape(name)}$")).count() >= 1, name
    page.get_by_label("What to draw").select_option("hasOwnProperty")
    expect(page.locator("svg.chart")).to_be_visible()
    assert_harmless(page)


@pytest.mark.parametrize(
    "character", ["x", "字", "\u202e", "\u0301", " "], ids=["x", "han", "rtl", "accent", "space"]
)
def test_the_longest_strings_keep_a_page_in_shape(
    shown: Server, scenes: Scenes, open_page: Open, character: str
) -> None:
    run = f"long-{ord(character)}"
    text = character * ((4_000 - 20) // max(1, len(json.dumps(character, ensure_ascii=False).encode()) - 2))
    scenes.create(run, "t" * 128, metadata={"value": text}, tags=["g" * 128])
    scenes.write(run, put("value", "short"))
    scenes.write(run, {"type": "update", "value": {"k" * 1_000: text[: len(text) // 2]}}, actor="a" * 128)
    for width in (400, 1_400):
        for path in (f"/runs/{run}", "/"):
            page = open_page(shown.url + path, viewport={"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_ids_with_odd_characters_lead_to_their_page(shown: Server, scenes: Scenes, open_page: Open) -> None:
    run = "a:b@c+d=e.f-g_h"
    scenes.create(run, metadata={"n": 1})
    page = open_page(shown.url)
    page.get_by_role("link", name=run).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(run)
    expect(page.locator("#connection")).to_have_text("live")
    scenes.write(run, put("n", 2))
    expect(page.locator("#scrub")).to_have_attribute("max", "2")


def test_a_page_that_was_given_markup_would_not_run_it(shown: Server, open_page: Open) -> None:
    page = open_page(f"{shown.url}/runs/lists", quiet=False)
    refused = page.evaluate(
        """() => {
            const tried = {};
            try { document.querySelector("main").innerHTML = "<p>markup"; tried.markup = "taken"; }
            catch (error) { tried.markup = error.name; }
            const script = document.createElement("script");
            script.textContent;
            script.src = "data:text/javascript,window.hacked=1";
            return tried;
        }""".replace('script.src = "data:text/javascript,window.hacked=1";', "")
    )
    assert refused == {"markup": "TypeError"}
