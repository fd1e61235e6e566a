"""Any command as a run: its exit code, its signals, and what it reports from inside."""

import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api import jobs
from tests.api.server import PATIENCE_S, command, environment, run_ledger

PYTHON = sys.executable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, with a `run-ledger` on the path as an installation has one."""
    program = tmp_path / "bin" / "run-ledger"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {PYTHON} -P -m api.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def variables(folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{folder.parent / 'bin'}:{Path(PYTHON).parent}:{os.environ['PATH']}",
        "RUN_LEDGER_SPOOL_DIR": str(folder.parent / "spool"),
    }


def execute(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run_ledger("exec", *arguments, cwd=folder, variables={**variables(folder), **more})


def history(folder: Path, run: str) -> list[Any]:
    done = run_ledger("history", run, "--json", cwd=folder, variables=variables(folder))
    assert done.returncode == 0, done.stderr
    events: list[Any] = json.loads(done.stdout)["data"]
    return events


def test_a_script_reports_to_the_run_it_is_without_naming_it(folder: Path) -> None:
    script = """
    echo working; read line; echo "$line"
    run-ledger set progress 0.5
    run-ledger set '$.status.state' '"half"' || exit 9
    cd / && python -P -c "from ledger import metadata, run; metadata.append('by', run.id)"
    """
    done = subprocess.run(
        command(
            "exec",
            "--task",
            "backup",
            "--id",
            "b",
            "--tag",
            "night",
            "--metadata",
            '{"status":{}}',
            "--",
            "sh",
            "-c",
            script,
        ),
        cwd=folder,
        env=environment(**variables(folder)),
        input="from outside\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (0, "working\nfrom outside\n"), done.stderr
    events = history(folder, "b")
    assert [event["type"] for event in events] == [
        "run.created",
        "metadata.set",
        "metadata.set",
        "metadata.appended",
        "run.status_changed",
    ]
    assert events[0]["data"]["task"] == "backup"
    assert events[0]["data"]["tags"] == ["night"]
    assert events[0]["data"]["status"] == "EXECUTING"
    assert [event.get("value") for event in events[1:4]] == [0.5, "half", "b"]
    assert events[4]["data"] == {"status": "COMPLETED", "output": {"exitCode": 0}}


def test_an_exit_code_ends_the_run_and_this_command(folder: Path) -> None:
    done = execute(folder, "--task", "t", "--id", "r", "--", "sh", "-c", "exit 7")
    assert done.returncode == 7
    assert history(folder, "r")[-1]["data"] == {
        "status": "FAILED",
        "output": {"exitCode": 7},
        "error": {"message": "the command ended with exit code 7", "name": "ExitCode"},
    }
    again = execute(folder, "--task", "t", "--id", "r", "--", "true")
    assert again.returncode == 0
    last = history(folder, "r")[-2:]
    assert [(event["data"]["status"], event["attempt"]) for event in last] == [("EXECUTING", 2), ("COMPLETED", 2)]


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/", 126)])
def test_a_program_that_cannot_be_started_is_said(folder: Path, program: str, code: int) -> None:
    done = execute(folder, "--task", "t", "--id", "r", "--", program)
    assert done.returncode == code
    assert done.stderr.startswith(f"run-ledger: {program}: ")
    assert history(folder, "r")[-1]["data"]["status"] == "FAILED"


def test_a_command_that_crashes_is_a_crashed_run(folder: Path) -> None:
    done = execute(folder, "--task", "t", "--id", "r", "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 128 + signal.SIGKILL
    assert history(folder, "r")[-1]["data"]["status"] == "CRASHED"
    assert history(folder, "r")[-1]["data"]["error"]["name"] == "SIGKILL"


def test_a_signal_that_comes_while_the_command_starts_is_passed_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def told_at_once(arguments: list[str], **options: Any) -> Any:
        process = start(arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    def unheeded(*_: object) -> None:
        raise AssertionError("the signal was not taken for the command")

    for name, value in variables(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("api.jobs.subprocess.Popen", told_at_once)
    before = signal.signal(signal.SIGTERM, unheeded)
    try:
        code = jobs.execute(["sleep", "1000"], task="t", run_id="r", tags=(), first={})
        assert signal.getsignal(signal.SIGTERM) is unheeded
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert history(folder, "r")[-1]["data"]["status"] == "CANCELED"


def test_a_signal_is_passed_on_and_the_run_is_canceled(folder: Path) -> None:
    with subprocess.Popen(
        command("exec", "--task", "t", "--id", "r", "--", "sh", "-c", "echo ready; exec sleep 1000"),
        cwd=folder,
        env=environment(**variables(folder)),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert history(folder, "r")[-1]["data"]["status"] == "CANCELED"


def test_a_command_runs_also_where_nothing_can_be_recorded(folder: Path) -> None:
    away = {"RUN_LEDGER_URL": "http://127.0.0.1:9"}
    done = execute(folder, "--task", "t", "--id", "r", "--", "sh", "-c", "run-ledger set a 1 && echo done", **away)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "no answer from http://127.0.0.1:9" in done.stderr
    too_large = execute(folder, "--task", "t", "--metadata", json.dumps({"a": "x" * 5_000}), "--", "echo", "done")
    assert (too_large.returncode, too_large.stdout) == (0, "done\n")
    assert "not recorded: metadata would be 5,008 bytes" in too_large.stderr
    wrong = execute(folder, "--task", "t", "--", "echo", "done", RUN_LEDGER_FLUSH_INTERVAL_S="soon")
    assert wrong.returncode == 1, "a setting that cannot be used stops the start, before anything is done"
    assert wrong.stderr.startswith("run-ledger: RUN_LEDGER_FLUSH_INTERVAL_S is 'soon'")


def test_what_could_not_be_delivered_is_shown_and_sent_later(folder: Path) -> None:
    away = {"RUN_LEDGER_URL": "http://127.0.0.1:9"}
    execute(folder, "--task", "t", "--id", "r", "--", "run-ledger", "set", "a", "1", **away)
    status = run_ledger("spool", "status", cwd=folder, variables=variables(folder))
    assert "3 requests (1 operations" in status.stdout
    assert "wait for http://127.0.0.1:9#dev since " in status.stdout
    (members,) = json.loads(
        run_ledger("spool", "status", "--json", cwd=folder, variables=variables(folder)).stdout
    )
    assert (members["waiting"], members["operations"], members["setAside"]) == (3, 1, [])
    still = run_ledger("spool", "send", cwd=folder, variables={**variables(folder), **away})
    assert still.returncode == 1
    assert "0 delivered, 3 wait, 0 set aside" in still.stdout
    assert "no answer from http://127.0.0.1:9" in still.stderr
    elsewhere = run_ledger("spool", "send", cwd=folder, variables=variables(folder))
    assert elsewhere.returncode == 0
    assert (
        "for another destination, set RUN_LEDGER_URL or RUN_LEDGER_DATABASE_URL to it: http://127.0.0.1:9#dev"
        in elsewhere.stdout
    )


def test_set_says_which_run_it_lacks(folder: Path) -> None:
    alone = run_ledger("set", "key", "1", cwd=folder, variables=variables(folder))
    assert alone.returncode == 2
    assert "which run?" in " ".join(alone.stderr.split())
    few = run_ledger("set", "key", cwd=folder, variables=variables(folder))
    assert few.returncode == 2
    assert "set takes a run, a key and a value" in " ".join(few.stderr.split())


def test_a_refusal_inside_a_script_is_an_error_of_the_script(folder: Path) -> None:
    done = execute(folder, "--task", "t", "--id", "r", "--", "run-ledger", "set", "a", json.dumps("x" * 5_000))
    assert done.returncode == 1
    assert "the value of one operation would be 5,002 bytes" in done.stderr
    assert "Traceback" not in done.stderr
