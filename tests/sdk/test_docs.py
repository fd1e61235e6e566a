"""What docs/trigger-sdk.md shows is run as it stands."""

import re
import subprocess
from pathlib import Path

from tests.api.server import PATIENCE_S, ROOT, Server, environment
from tests.sdk.node import binaries, fetch

PAGE = (ROOT / "docs" / "trigger-sdk.md").read_text()
(EXAMPLE,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
(SHOWN,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_prints_what_the_page_says(tmp_path: Path, fresh: Server) -> None:
    (tmp_path / "node_modules").symlink_to(fetch())
    (tmp_path / "report.mjs").write_text(EXAMPLE.replace("8420", str(fresh.port)))
    done = subprocess.run(
        [binaries().node, "report.mjs"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.stdout, done.returncode) == (SHOWN, 0), done.stderr
    with fresh.client() as http:
        *_, first = http.get("/api/v1/runs").json()["data"]
        events = http.get(f"/api/v1/runs/{first['id']}/metadata/history").json()["data"]
    assert [event["type"] for event in events] == [
        "run.created",
        "metadata.set",
        "metadata.incremented",
        "metadata.appended",
        "metadata.set",
        "run.status_changed",
    ]
