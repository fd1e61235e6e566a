"""Verify over HTTP, and the commands that prove, erase and rebuild."""

import io
import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.server import PATIENCE_S, Call, Server, command, environment, run_ledger
from tests.api.service import Service, operation, problem, service

SECRET = "e7c1-unique-text-of-32-bytes-90b"


def fill(api: Service) -> None:
    api.create("r", metadata={"user": {"email": SECRET, "name": "N"}}, actor="ann")
    api.put(
        "r", {"operations": [operation("set", "$.user.email", f"new {SECRET}"), operation("increment", "n", 1)]}
    )
    api.create("s", parentRunId="r")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proof") / "original.db"
    with service(path) as api:
        fill(api)
    return path


@pytest.fixture
def filled(original: Path, tmp_path: Path) -> Path:
    """A database with two runs, closed, where commands look for it by default."""
    return Path(shutil.copy(original, tmp_path / "run-ledger.db"))


def alter(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def files_with(path: Path, text: str) -> list[str]:
    return [file.name for file in path.parent.glob(f"{path.name}*") if text.encode() in file.read_bytes()]


BAD_EVENT = """UPDATE events SET data = '{"key":"n","value":2}' WHERE run_key = 1 AND version = 3"""
FAULT = "its hash is not that of its contents and the event before it"

# --- over HTTP ---


def test_a_run_that_is_sound_is_said_so(api: Service) -> None:
    fill(api)
    answer = api.get("/api/v1/runs/r/verify")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json() == {
        "runId": "r",
        "version": 3,
        "verified": True,
        "events": 3,
        "erased": [],
        "faultCount": 0,
        "faults": [],
    }


def test_the_first_fault_of_a_run_is_named(api: Service) -> None:
    fill(api)
    alter(api.path, BAD_EVENT)
    body = api.get("/api/v1/runs/r/verify").json()
    assert (body["verified"], body["faultCount"]) == (False, 1)
    assert body["fault"] == {"version": 3, "what": FAULT}
    assert body["faults"] == [{"environment": "dev", "runId": "r", "version": 3, "what": FAULT}]
    assert api.get("/api/v1/runs/s/verify").json()["verified"] is True


def test_what_cannot_be_verified_is_a_problem(api: Service) -> None:
    assert problem(api.get("/api/v1/runs/nobody/verify"), 404)["code"] == "run-not-found"
    assert problem(api.get("/api/v1/runs/a%20b/verify"), 404)["code"] == "run-not-found"
    assert problem(api.get("/api/v1/runs/r/verify?x=1"), 400)["code"] == "unknown-parameter"


def test_an_erased_value_is_gone_from_every_answer_and_the_event_says_so(call: Call, filled: Path) -> None:
    assert call("erase", "r", "--key", "$.user.email", "--reason", "asked", "--actor", "dpo").code == 0
    with service(filled) as api:
        texts = [
            api.get(f"/api/v1/runs/r/{rest}").text
            for rest in ("metadata", "metadata?version=1", "metadata?version=2", "metadata/history", "verify")
        ] + [api.get("/api/v3/runs/r").text, api.get("/api/v1/runs").text]
        assert SECRET not in "".join(texts)
        history = api.history()
        assert history[0]["data"]["metadata"] == {"user": {"name": "N"}}
        assert history[0]["data"]["erased"] is True
        assert {name: history[1][name] for name in ("type", "key", "erased")} == {
            "type": "metadata.set",
            "key": "$.user.email",
            "erased": True,
        }
        assert "value" not in history[1]
        assert (history[3]["type"], history[3]["actor"]) == ("run.erased", "dpo")
        assert [event["version"] for event in api.history(query="key=$.user.email")] == [2, 4]
        (told,) = api.get("/api/v1/runs/r/verify").json()["erased"]
        assert {name: told[name] for name in ("key", "reason", "actor", "events")} == {
            "key": "$.user.email",
            "reason": "asked",
            "actor": "dpo",
            "events": 2,
        }


# --- verify ---


def test_verify_says_what_it_read_and_that_it_is_sound(call: Call, filled: Path) -> None:
    done = call("verify")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "4 events of 2 runs in dev\nsound: every hash, head, snapshot and position is what the events make\n"
    )
    assert call("verify", "r").out == "r is sound: version 3, 3 events\n"
    assert json.loads(call("verify", "--json").out) == {
        "verified": True,
        "environments": ["dev"],
        "runs": 2,
        "events": 4,
        "erased": [],
        "faultCount": 0,
        "faults": [],
    }
    assert json.loads(call("verify", "s", "--json").out)["version"] == 1


def test_verify_fails_with_the_first_bad_event(call: Call, filled: Path) -> None:
    alter(filled, BAD_EVENT, "UPDATE logs SET last_run_key = 9")
    done = call("verify")
    assert done.code == 1
    assert done.err == f"run-ledger: NOT sound, 2 faults, the first: run r (dev), version 3: {FAULT}\n"
    assert done.out.splitlines()[1:] == [
        f"run r (dev), version 3: {FAULT}",
        "the log of dev: its last run key is 9, and the last run has 2",
    ]
    one = call("verify", "r")
    assert (one.code, one.out, one.err) == (1, "", f"run-ledger: NOT sound, 1 fault: run r, version 3: {FAULT}\n")
    assert call("verify", "s").code == 0
    told = call("verify", "--json")
    assert (told.code, json.loads(told.out)["faultCount"]) == (1, 2)
    told = call("verify", "r", "--json")
    assert (told.code, json.loads(told.out)["fault"]["version"]) == (1, 3)


def test_verify_finds_what_only_the_file_shows(call: Call, filled: Path) -> None:
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("INSERT INTO snapshots VALUES (7, 1, 1, '{}')")
        connection.commit()
    done = call("verify")
    assert (done.code, sorted(done.out.splitlines()[1:])) == (
        1,
        [
            f"the file: a row of snapshots refers to a row of {table} that does not exist"
            for table in ("environments", "runs")
        ],
    )
    assert done.err.startswith(
        "run-ledger: NOT sound, 2 faults, the first: the file: a row of snapshots refers to"
    )


def test_verify_of_a_file_that_is_cut_is_no_traceback(call: Call, filled: Path) -> None:
    raw = filled.read_bytes()
    filled.write_bytes(raw[: len(raw) // 2])
    done = call("verify")
    assert done.code == 1
    assert re.match(
        r"run-ledger: NOT sound, 1 fault: the file: it cannot be read to its end: .*malformed", done.err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "nobody"], "there is no run nobody; create it first, or check the id and the environment"),
        (["verify", "r", "--environment", "prod"], "there is no run r; create it first, or check the id"),
        (["verify", "--environment", "prod"], "--environment says where a run is; without a run, every"),
        (["verify", "r", "--checkpoint", "x"], "a checkpoint is of the whole log; leave out the run"),
        (["verify", "--public-key", "x"], "--public-key is for --checkpoint FILE, which is missing"),
        (["verify", "--checkpoint", "x"], "which key was the checkpoint signed with? Name it with --public-key"),
        (["verify", "--checkpoint", "x", "--public-key", "y"], "cannot read y: No such file or directory"),
        (["verify", "--checkpoint", "x", "--public-key", "a+b"], "this is no public key; one looks like"),
        (["checkpoint", "--out", "run-ledger.db"], "run-ledger.db exists; an older checkpoint is evidence"),
        (["checkpoint", "--out", "no/folder"], "cannot write no/folder: No such file or directory"),
        (["checkpoint", "--out", "x", "--key", "y"], "cannot read the key y: No such file or directory"),
        (["erase"], "say what to erase and why: run-ledger erase RUN --key KEY --reason TEXT"),
        (["erase", "r", "--key", "n"], "say what to erase and why"),
        (["erase", "r", "--key", "$.*", "--reason", "x"], "key '$.*': wildcards are not supported"),
        (["erase", "r", "--key", "zz", "--reason", "x"], "run r holds nothing at zz, now or in its history"),
        (["erase", "r", "--key", "n", "--reason", " "], "a reason has 1 to 1,000 characters"),
        (["erase", "nobody", "--key", "n", "--reason", "x"], "there is no run nobody"),
        (["erase", "r", "--key", "n", "--reason", "x", "--environment", "prod"], "there is no run r"),
        (["erase", "r", "--sweep"], "--sweep erases nothing by itself"),
    ],
)
def test_what_cannot_be_done_is_exit_code_1_and_one_line(
    call: Call, filled: Path, arguments: list[str], said: str
) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"run-ledger: {said}")
    assert done.err.count("\n") == 1
    with closing(sqlite3.connect(filled)) as connection:
        assert connection.execute(
            "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM environments)"
        ).fetchone() == (4, 1)


COMMANDS = [
    ["verify"],
    ["verify", "r"],
    ["checkpoint", "--out", "x"],
    ["erase", "r", "--key", "n", "--reason", "x"],
    ["erase", "--sweep"],
    ["rebuild"],
    ["rebuild", "--repair"],
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_missing_database_is_an_error_and_not_made(call: Call, tmp_path: Path, arguments: list[str]) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err == "run-ledger: there is no database run-ledger.db; name another with --database-url\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_url_that_names_no_database_is_one_line(call: Call, tmp_path: Path, arguments: list[str]) -> None:
    for url in ("nonsense", "sqlite://"):
        done = call(*arguments, "--database-url", url)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


# --- through a server ---


def test_a_run_is_verified_by_the_server_and_everything_by_the_database(
    call: Call, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"a": 1}})
    monkeypatch.setenv("RUN_LEDGER_URL", server.url)
    assert call("verify", "r").out == "r is sound: version 1, 1 event\n"
    assert json.loads(call("verify", "r", "--json").out)["verified"] is True
    assert "there is no run nobody" in call("verify", "nobody").err
    for arguments in COMMANDS:
        if arguments not in (["verify", "r"], ["erase", "r", "--key", "n", "--reason", "x"]):
            done = call(*arguments)
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith(
                "run-ledger: this needs the database itself, and RUN_LEDGER_URL names a server"
            )
    alter(server.path, "UPDATE runs SET status = 'FAILED'")
    assert call("verify", "r").err == (
        "run-ledger: NOT sound, 1 fault: run r: its head's status is not what its events make "
        "('FAILED' and not 'QUEUED')\n"
    )


def test_the_server_erases_where_one_is_named(call: Call, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"$.a": SECRET, "b": 1}})
    monkeypatch.setenv("RUN_LEDGER_URL", server.url)
    erase = ("erase", "r", "--reason", "asked", "--key")
    assert "run r holds nothing at zz" in call(*erase, "zz").err
    assert "reason: at most 1000 characters" in call("erase", "r", "--key", "b", "--reason", "x" * 1_001).err
    done = call(*erase, "$.a", "--literal", "--actor", "dpo")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "erased $.a from 1 event of r, which is at version 2 now\n"
        "The server's files may hold it still, in free pages: there, stop the server and run: "
        "run-ledger erase --sweep\n"
        "Backups, exports and copies of them still hold it, and so may logs of programs that read it.\n"
    )
    with server.client() as http:
        told = http.get("/api/v1/runs/r/metadata/history").json()["data"]
    assert told[0]["data"]["metadata"] == {"b": 1}
    assert (told[1]["type"], told[1]["actor"], told[1]["data"]["reason"]) == ("run.erased", "dpo", "asked")
    both = call(*erase, "b", "--database-url", "sqlite+aiosqlite:///x.db")
    assert "leave one of them out" in both.err


def test_the_database_of_a_running_server_can_be_verified_and_signed(call: Call, server: Server) -> None:
    url = f"sqlite+aiosqlite:///{server.path}"
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"a": 1, "b": SECRET}})
        assert call("checkpoint", "--out", "cp", "--database-url", url).code == 0
        http.put("/api/v1/runs/r/metadata", json={"operations": [operation("set", "a", 2)]})
        done = call("verify", "--checkpoint", "cp", "--database-url", url)
        assert done.out.splitlines()[1] == "dev still begins with the 1 event of the checkpoint"
        assert call("rebuild", "--database-url", url).code == 0
        erased = call("erase", "r", "--key", "b", "--reason", "x", "--database-url", url)
        assert erased.code == 0
        assert "Stop that process, then run: run-ledger erase --sweep" in erased.out
        assert http.get("/api/v1/runs/r/metadata").json()["metadata"] == {"a": 2}
        assert http.get("/api/v1/runs/r/verify").json()["verified"] is True
        done = call("erase", "--sweep", "--database-url", url)
        assert "Stop that process" in done.out
    server.terminate()
    done = call("erase", "--sweep", "--database-url", url)
    assert done.out.endswith("was written anew; nothing of it is left in the file, its -wal or its -shm\n")
    assert files_with(server.path, SECRET) == []
    assert call("verify", "--checkpoint", "cp", "--database-url", url).code == 0


# --- checkpoint ---


def test_a_checkpoint_is_signed_kept_and_verified(call: Call, filled: Path, tmp_path: Path) -> None:
    done = call("checkpoint", "--out", "cp.txt")
    assert (done.code, done.err) == (0, "")
    first, kept, told, public = done.out.splitlines()
    assert re.fullmatch(r"dev: 4 events, root [0-9a-f]{64}", first)
    assert kept == "written to cp.txt; keep it where nobody who can write to run-ledger.db can change it"
    assert told == "public key (also in run-ledger.db.checkpoint-key.pub), to keep with it:"
    assert Path("run-ledger.db.checkpoint-key.pub").read_text() == f"{public}\n"
    assert Path("run-ledger.db.checkpoint-key").stat().st_mode & 0o777 == 0o600
    assert public.split("+")[0] == Path("cp.txt").read_text().splitlines()[0]
    call("set", "r", "later", "1")
    shutil.move("run-ledger.db.checkpoint-key", "elsewhere")
    for key in (public, "run-ledger.db.checkpoint-key.pub"):
        done = call("verify", "--checkpoint", "cp.txt", "--public-key", key)
        assert (done.code, done.out.splitlines()[1]) == (0, "dev still begins with the 4 events of the checkpoint")
    again = call("checkpoint", "--out", "cp2.txt", "--key", "elsewhere", "--json")
    assert [(one["environment"], one["size"], one["publicKey"]) for one in json.loads(again.out)] == [
        ("dev", 5, public)
    ]
    assert not Path("run-ledger.db.checkpoint-key").exists()
    assert Path("elsewhere.pub").read_text() == f"{public}\n"


def test_a_log_that_was_cut_fails_its_checkpoint(call: Call, filled: Path) -> None:
    assert call("checkpoint", "--out", "cp").code == 0
    public = Path("run-ledger.db.checkpoint-key.pub").read_text()
    alter(
        filled,
        "DELETE FROM events WHERE position = 4",
        "DELETE FROM runs WHERE run_key = 2",
        "UPDATE logs SET last_position = 3, last_run_key = 1",
        "DELETE FROM checkpoints",
    )
    assert call("verify").code == 0
    done = call("verify", "--checkpoint", "cp", "--public-key", public)
    assert (done.code, done.err) == (
        1,
        "run-ledger: NOT sound, 1 fault: the log of dev: it has 3 events, and the checkpoint was made of 4\n",
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-9], "was cut"),
        (lambda text: text.replace("\n4\n", "\n5\n"), "somebody altered it"),
        (lambda text: text + "\n" + text, "speaks twice"),
        (lambda text: "", "is empty"),
        (lambda text: "x" * 11_000_000, "is over 10,000,000 bytes"),
    ],
)
def test_a_forged_checkpoint_is_refused_before_anything_is_read(
    call: Call, filled: Path, damage: Callable[[str], str], said: str
) -> None:
    assert call("checkpoint", "--out", "cp").code == 0
    file = Path("cp")
    file.write_text(damage(file.read_text()))
    done = call("verify", "--checkpoint", "cp")
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    file.write_bytes(b"\xff\xfe")
    assert call("verify", "--checkpoint", "cp").err == "run-ledger: cp is not UTF-8 text\n"


# --- erase ---


def test_erase_leaves_nothing_in_the_files_and_says_what_remains(call: Call, filled: Path) -> None:
    assert files_with(filled, SECRET) == ["run-ledger.db"]
    done = call("erase", "r", "--key", "$.user.email", "--reason", "asked", "--actor", "dpo")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "erased $.user.email from 2 events of r, which is at version 4 now\n"
        "run-ledger.db was written anew; nothing of it is left in the file, its -wal or its -shm\n"
        "Backups, exports and copies of this file still hold it, and so may logs of programs that read it.\n"
    )
    assert files_with(filled, SECRET) == []
    assert call("get", "r").out == '{"user":{"name":"N"},"n":1}\n'
    lines = [line.split("\t")[4] for line in call("history", "r").out.splitlines()]
    assert lines == [
        'task t, {"user":{"name":"N"}}',
        "$.user.email (erased)",
        "n + 1",
        "$.user.email erased from 2 events: asked",
    ]
    assert call("rebuild").code == 0
    verified = call("verify").out.splitlines()
    assert re.fullmatch(
        r"run r \(dev\): \$\.user\.email was erased from 2 events at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d by dpo: asked",
        verified[1],
    )
    assert verified[1].endswith(call("verify", "r").out.splitlines()[0])


def test_a_literal_key_is_erased_literally(call: Call, tmp_path: Path) -> None:
    with service(tmp_path / "run-ledger.db") as api:
        api.create("r", metadata={"$.a": 1, "a": 2})
    assert call("erase", "r", "--key", "$.a", "--literal", "--reason", "x").code == 0
    assert call("get", "r").out == '{"a":2}\n'


def ask(filled: Path, answer: str, *options: str) -> tuple[int, str]:
    """Erase on a terminal, and say this when asked."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        command("erase", "r", "--key", "n", "--reason", "x", *options),
        cwd=filled.parent,
        env=environment(TERM="xterm", COLUMNS="200"),
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    os.write(main, answer.encode())
    seen = b""
    try:
        while piece := os.read(main, 65_536):
            seen += piece
    except OSError:  # The other end is closed.
        pass
    os.close(main)
    return process.wait(PATIENCE_S), seen.decode()


def test_a_person_is_asked_first(filled: Path, call: Call) -> None:
    code, seen = ask(filled, "n\n")
    assert (code, "Erase n from every event of r? It cannot be undone." in seen) == (1, True)
    assert "nothing was erased" in seen
    assert call("get", "r").out.endswith('"n":1}\n')
    code, seen = ask(filled, "y\n")
    assert (code, "erased n from 1 event of r" in seen) == (0, True)


def test_a_person_who_said_yes_is_not_asked(filled: Path) -> None:
    code, seen = ask(filled, "", "--yes")
    assert code == 0
    assert "cannot be undone" not in seen


# --- rebuild ---


def test_rebuild_shows_what_differs_and_repairs_it_on_request(call: Call, filled: Path) -> None:
    assert call("rebuild").out == "every head and snapshot is what its events make\n"
    alter(filled, "UPDATE runs SET status = 'FAILED', metadata = '{}' WHERE run_id = 'r'")
    lines = [
        "run r (dev): its head's metadata is not what its events make",
        "run r (dev): its head's status is not what its events make ('FAILED' and not 'QUEUED')",
    ]
    done = call("rebuild")
    assert (done.code, sorted(done.out.splitlines())) == (1, sorted(lines))
    assert (
        done.err
        == "run-ledger: 1 run differs from its events; run-ledger rebuild --repair puts right what it can\n"
    )
    done = call("rebuild", "--repair")
    assert (done.code, done.out.splitlines()[-1], done.err) == (0, "repaired 1 run", "")
    assert call("verify").code == 0
    assert SECRET in call("get", "r").out


def test_rebuild_does_not_cover_up_what_was_done_to_events(call: Call, filled: Path) -> None:
    alter(filled, BAD_EVENT, "UPDATE runs SET depth = 4 WHERE run_id = 's'")
    done = call("rebuild", "--repair")
    assert done.code == 1
    assert done.out.splitlines()[-1] == "repaired 1 run"
    assert done.err == (
        "run-ledger: 1 of 2 runs cannot be repaired, because the events do not verify; see run-ledger verify\n"
    )
    assert call("rebuild").err == "run-ledger: 1 run differs from its events; none of them can be repaired\n"


# --- bars ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("arguments", [["verify"], ["rebuild"]])
def test_long_work_shows_a_bar_on_a_terminal_and_none_in_a_pipe(
    call: Call, filled: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    assert call(*arguments).err == ""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    assert call(*arguments).code == 0
    assert {"verify": "verifying", "rebuild": "folding"}[arguments[0]] in screen.getvalue()


def test_a_pipe_gets_the_same_from_a_process_of_its_own(filled: Path) -> None:
    done = run_ledger("verify", cwd=filled.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 events of 2 runs in dev\n")


def test_verify_while_a_server_is_written_to(server: Server) -> None:
    """Each verify sees one moment."""
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t"})
        answers: list[Any] = []
        for number in range(30):
            http.put("/api/v1/runs/r/metadata", json={"operations": [operation("increment", "n", 1)] * 5})
            response: httpx2.Response = http.get("/api/v1/runs/r/verify")
            answers.append(response.json())
            assert answers[-1]["events"] == answers[-1]["version"] == 1 + 5 * (number + 1)
    assert all(answer["verified"] for answer in answers)
