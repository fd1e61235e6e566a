"""The demo: a real job's numbers, checked against the same files."""

import hashlib
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.server import PATIENCE_S, Server, command, environment, run_ledger
from tests.api.service import service

DEMO_S = 240  # seconds that the job may take where other work shares the processor


def counted() -> dict[str, Any]:
    """What the job must find: every file of the standard library, counted in another way."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    digest = hashlib.sha256()
    lines = size = files = 0
    distinct: set[bytes] = set()
    per_file = []
    for path in sorted(path for path in folder.glob("**/*") if path.is_file()):
        name = path.relative_to(folder)
        if "site-packages" in name.parts or "__pycache__" in name.parts:
            continue
        content = path.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        found = content.splitlines()
        distinct.update(found)
        per_file.append((len(content), name.as_posix()))
        files, lines, size = files + 1, lines + len(found), size + len(content)
    return {
        "files": files,
        "lines": lines,
        "bytes": size,
        "distinctLines": len(distinct),
        "sha256": digest.hexdigest(),
        "largest": [{"file": name, "bytes": length} for length, name in sorted(per_file, reverse=True)[:5]],
    }


def test_the_demo_shows_what_the_ledger_knows_and_its_numbers_are_true(tmp_path: Path) -> None:
    shadow = tmp_path / "api"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("raise SystemExit('somebody else owns this package')")
    done = run_ledger(
        "demo",
        *("--port", "0", "--database", "[x]:fire:.db"),
        cwd=tmp_path,
        variables={"COLUMNS": "200"},
        patience_s=DEMO_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert re.search(r"^Server: http://127\.0\.0\.1:\d+   Database: \[x\]:fire:\.db$", out, re.MULTILINE)

    found = re.search(r"^Metadata of (run_\w+) now, version (\d+):\n(\{.*?\n\})$", out, re.MULTILINE | re.DOTALL)
    assert found is not None
    run, version, shown = found[1], int(found[2]), json.loads(found[3])
    expected = counted()
    assert {key: shown[key] for key in expected} == expected
    assert shown["user"] == {"name": "Eric", "id": "user_1234"}
    assert shown["status"] == {
        "state": "complete",
        "progress": 1,
        "message": f"read {expected['files']:,} files",
    }

    rows = re.findall(r"^(\d+) +\d\d:\d\d:\d\d +demo-job +([a-z._]+) ", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [*range(1, 5), *range(version - 3, version + 1)]
    assert (rows[0][1], rows[-1][1]) == ("run.created", "run.status_changed")
    assert f"Its history, {version} versions:" in out
    assert f"... {version - 8} more" in out
    assert f"get {run} --version {version // 2} --database-url sqlite+aiosqlite:///[x]:fire:.db" in out

    with service(tmp_path / "[x]:fire:.db") as api:
        events = api.history(run)
        assert [event["version"] for event in events] == list(range(1, version + 1))
        for counter in ("files", "lines", "bytes", "distinctLines"):
            assert expected[counter] == sum(
                event["value"]
                for event in events
                if event["type"] == "metadata.incremented" and event["key"] == counter
            )
        details = api.get(f"/api/v3/runs/{run}").json()
        assert (details["status"], details["output"]) == ("COMPLETED", {"sha256": expected["sha256"]})
        assert details["tags"] == ["demo", f"python-{sys.version_info.major}.{sys.version_info.minor}"]
        assert details["metadata"] == shown


def test_a_taken_port_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    done = run_ledger("demo", "--port", str(server.port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("run-ledger: the server did not start. ")
    assert f"cannot listen on 127.0.0.1, port {server.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_does_not_outlive_a_demo_that_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("demo", "--port", "0", "--keep"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Server: http://127.0.0.1:"), line
        url = line.split()[1]
        assert httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200
        process.terminate()
        process.stdout.read()
        assert process.wait(PATIENCE_S) == 143
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/healthz", trust_env=False)
