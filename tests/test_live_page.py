"""The examples of docs/live.md are run as they are written. (Not the browser's: it needs a browser.)"""

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

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
