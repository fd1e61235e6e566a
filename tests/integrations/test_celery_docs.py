"""What docs/celery.md shows is run as it stands; only the broker is another one, which needs no server."""

import re
import subprocess
import sys
from pathlib import Path

from ledger import configure, runs
from ledger.handle.records import RunRecord
from tests.api.server import ROOT, environment, serving
from tests.integrations.workers import eventually, working

PAGE = (ROOT / "docs" / "celery.md").read_text()
TASKS, NIGHTLY, LOOK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BROKER = """
import sys
from pathlib import Path
sys.path[:0] = [{folder!r}, {root!r}]
from tests.integrations.jobs import connected
from tasks import app
connected(app, Path({folder!r}))
"""


def is_done(run: RunRecord) -> bool:
    return run.is_finished and run.metadata.get("done") == 20


def test_the_example_does_what_the_page_says(tmp_path: Path) -> None:
    with serving(tmp_path / "ledger.db") as server:
        work = tmp_path / "work"
        work.mkdir()
        (work / "tasks.py").write_text(TASKS)
        (work / "broker.py").write_text(BROKER.format(folder=str(work), root=str(ROOT)))
        (work / "nightly.py").write_text("import broker\n" + NIGHTLY)
        (work / "look.py").write_text(LOOK)

        def python(*arguments: str) -> str:
            variables = {"RUN_LEDGER_URL": server.url, "RUN_LEDGER_SPOOL_DIR": str(tmp_path / "spool")}
            return subprocess.run(
                [sys.executable, *arguments],
                cwd=work,
                env=environment(**variables),
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout

        path = f"{work}:{ROOT}"
        configure(server.url, spool_dir=tmp_path / "spool")
        try:
            with working(work, app="broker", count=3, RUN_LEDGER_URL=server.url, PYTHONPATH=path) as worker:
                job = python("nightly.py").strip()
                eventually(
                    lambda: [run for run in runs.list_sync() if run.id == job and is_done(run)],
                    "all twenty are done",
                    worker.log,
                )
                looked = python("look.py", job).splitlines()
        finally:
            configure(None)
    assert looked[0] in PAGE
    assert looked[0] == "tasks.import_all COMPLETED {'total': 20, 'done': 20}"
    increments = [line.split() for line in looked[1:] if "incremented" in line]
    assert len({run for _, _, run, _ in increments}) == 20
    assert {attempt for *_, attempt in increments} == {"1"}


def test_the_page_names_the_extra_that_installs_celery() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (name,) = re.findall(r'^name = "(.*)"', project, re.MULTILINE)
    assert f"pip install '{name}[celery]'" in PAGE
    assert re.search(r"^celery = \[", project, re.MULTILINE)
