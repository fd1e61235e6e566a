"""The examples of docs/live.md are run as they are written, the browser's in a browser."""

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.api.server import PATIENCE_S, environment, serving
from tests.api.test_live import Job

PAGE = (Path(__file__).parent.parent / "docs" / "live.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHOWN = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
BROWSER = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)


def test_no_block_was_left_out() -> None:
    assert [len(blocks) for blocks in (SHELL, PYTHON, SHOWN, BROWSER)] == [1, 2, 1, 1]
    assert PAGE.count("```") == 2 * 5


@pytest.mark.parametrize("language", ["sh", "python", "embedded"])
def test_an_example_prints_what_the_page_says(tmp_path: Path, language: str) -> None:
    with serving(tmp_path / "run-ledger.db") as server, closing(Job(server)) as job:
        job.create("nightly", task="import")
        example = {
            "sh": ["bash", "-euc", SHELL[0]],
            "python": [sys.executable, "-W", "error", "-u", "-c", PYTHON[0]],
            "embedded": [sys.executable, "-W", "error", "-u", "-c", PYTHON[1]],
        }[language]
        example[-1] = example[-1].replace("8420", str(server.port))
        with subprocess.Popen(
            example, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()  # It listens.
            job.write("nightly", {"type": "set", "key": "progress", "value": 0.5})
            job.move("COMPLETED", "nightly")
            printed = first + process.stdout.read()
            assert process.wait(PATIENCE_S) == 0
    if language == "sh":
        expected = SHOWN[0].strip().splitlines()
        for line, shown in zip(printed.strip().splitlines(), expected, strict=True):
            assert line.startswith(shown.partition("...")[0])
    else:
        steps = ["1 run.created", "2 metadata.set", "3 run.status_changed", "3 finished"]
        assert printed.splitlines() == steps[: 4 if language == "python" else 3]


def test_the_example_for_a_browser_shows_the_state_then_each_change_and_ends(
    tmp_path: Path, browser: Browser
) -> None:
    heard = """() => {
        window.heard = [];
        const show = (metadata) => window.heard.push(["show", metadata]);
        const change = (event) => window.heard.push([event.version, event.type]);
        %s
        window.live = live;
    }"""
    with (
        serving(tmp_path / "run-ledger.db") as server,
        closing(Job(server)) as job,
        closing(browser.new_page()) as page,
    ):
        page.set_default_timeout(PATIENCE_S * 1_000)
        job.create("nightly", task="import", metadata={"progress": 0})
        page.goto(f"{server.url}/healthz")  # Any page of the server will do: the example asks where it is.
        page.evaluate(heard % BROWSER[0])
        page.wait_for_function("heard.length === 1")
        job.write("nightly", {"type": "set", "key": "progress", "value": 0.5})
        page.wait_for_function("heard.length === 2")
        job.move("COMPLETED", "nightly")
        page.wait_for_function("live.readyState === EventSource.CLOSED")
        assert page.evaluate("heard") == [
            ["show", {"progress": 0}],
            [2, "metadata.set"],
            [3, "run.status_changed"],
        ]
