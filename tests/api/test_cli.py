"""The command line: what it prints on a terminal, in a pipe and as JSON, and how it fails."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from projections.lifecycle import Status
from tests.api.server import PATIENCE_S, ROOT, Call, Server, command, environment, run_ledger
from tests.api.service import Service, operation, service

COMMANDS = {
    "backup": "Copy a SQLite database while others work with it",
    "serve": "Serve the ledger over HTTP.",
    "exec": "Run any command as a run",
    "spool": "What could not be delivered",
    "keys": "API keys: who may read and write over HTTP",
    "demo": "Start a server, run a real job beside it",
    "get": "Show a run's metadata, current or past.",
    "set": "Set one key of a run's metadata.",
    "history": "Show what happened to a run",
    "progress": "Audit a run's progress",
    "diff": "Show what differs between two states of a run, or between two runs.",
    "explain": "Show why a value is what it is",
    "runs": "Find runs, newest first unless sorted otherwise.",
    "verify": "Verify every event, head and snapshot.",
    "checkpoint": "Sign how many events every log has",
    "erase": "Erase what ever stood at a key of a run",
    "rebuild": "Fold every run anew from its events",
    "migrate": "Bring the database's tables up to date.",
    "watch": "Watch a run until it finishes, or the runs of a task until Ctrl-C; goes on after a server restart.",
}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "original.db"
    with service(path) as api:
        api.create("other", task="x", status="COMPLETED")
        fill(api)
    return path


@pytest.fixture
def filled(original: Path, tmp_path: Path) -> Path:
    """A database with two runs, closed, where commands look for it by default."""
    return Path(shutil.copy(original, tmp_path / "run-ledger.db"))


def fill(api: Service) -> None:
    api.create("r", metadata={"n": 0, "l": [1], "o": {"p": "é"}}, actor="ann")
    operations = [
        operation("set", "$.o.p", 0.5),
        operation("increment", "n", -2),
        operation("append", "l", "x"),
        operation("remove", "l", 1),
        operation("delete", "n"),
        {"type": "update", "value": {"done": True}},
    ]
    api.put("r", {"operations": operations, "actor": "ann"})
    api.move("r", "WAITING", error="no", actor="bob")


HISTORY = [
    ("1", "ann", "run.created", 'task t, {"n":0,"l":[1],"o":{"p":"é"}}'),
    ("2", "ann", "metadata.set", "$.o.p = 0.5"),
    ("3", "ann", "metadata.incremented", "n - 2"),
    ("4", "ann", "metadata.appended", 'l gains "x"'),
    ("5", "ann", "metadata.removed", "l loses 1"),
    ("6", "ann", "metadata.deleted", "n is gone"),
    ("7", "ann", "metadata.updated", 'all = {"done":true}'),
    ("8", "bob", "run.status_changed", 'status "WAITING", error {"message":"no"}'),
]


class Terminal:
    """A terminal of *columns*, on which commands are run in this process."""

    def __init__(self, call: Call, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        self._call = call
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> str:
        """What a person sees; colours are left out, everything else is left in."""
        main, side = pty.openpty()
        with ThreadPoolExecutor() as pool, self._monkeypatch.context() as patch:
            seen = pool.submit(read_to_the_end, main)
            with open(side, "w", encoding="utf-8") as screen:  # noqa: PTH123 - A descriptor, no path.
                patch.setattr("sys.stdout", screen)
                assert self._call(*arguments).code == 0
            return without_colours(seen.result(PATIENCE_S))


def read_to_the_end(descriptor: int) -> bytes:
    seen = b""
    try:
        while piece := os.read(descriptor, 65_536):
            seen += piece
    except OSError:  # The other end is closed.
        pass
    finally:
        os.close(descriptor)
    return seen


def without_colours(seen: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r\n", "\n")


@pytest.fixture
def terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(call, monkeypatch, 100)


@pytest.fixture
def narrow(call: Call, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(call, monkeypatch, 70)


@pytest.fixture
def wide(call: Call, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(call, monkeypatch, 400)


# --- help ---


def test_help_lists_every_command_and_no_other(call: Call) -> None:
    done = call("--help")
    assert done.code == 0
    listed = re.findall(r"^│ ([a-z]+) ", done.out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_says_what_it_does(call: Call, name: str, flag: str) -> None:
    done = call(name, flag)
    assert (done.code, done.err) == (0, "")
    assert COMMANDS[name] in " ".join(done.out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["get"],
        ["get", "r", "--version", "0"],
        ["get", "r", "--version", "x"],
        ["get", "r", "--nope"],
        ["set", "r", "k"],
        ["history", "r", "--limit", "0"],
        ["history", "r", "--limit", "1001"],
        ["history", "r", "--order", "up"],
        ["history", "r", "--after", "-1"],
        ["runs", "--limit", "101"],
        ["serve", "--port", "65536"],
        ["serve", "--port", "-1"],
    ],
)
def test_wrong_usage_is_exit_code_2(call: Call, tmp_path: Path, arguments: list[str]) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert list(tmp_path.iterdir()) == []


# --- in a pipe ---


def test_get_in_a_pipe_is_one_line_of_json(call: Call, filled: Path) -> None:
    assert call("get", "r").out == '{"done":true}\n'
    assert call("get", "r", "--version", "2").out == '{"n":0,"l":[1],"o":{"p":0.5}}\n'
    assert call("get", "r", "--at", "2023-11-14T22:13:20Z").out == '{"done":true}\n'


def test_get_as_json_is_the_answer_of_the_api(call: Call, filled: Path) -> None:
    assert json.loads(call("get", "r", "--json").out) == {
        "metadata": {"done": True},
        "metadataType": "application/json",
        "version": 8,
        "sizeBytes": 13,
        "limitBytes": 4_096,
    }


def test_history_in_a_pipe_is_tab_separated(call: Call, filled: Path) -> None:
    done = call("history", "r")
    assert (done.code, done.err) == (0, "")
    cells = [line.split("\t") for line in done.out.splitlines()]
    assert [(version, actor, kind, what) for version, _, actor, kind, what in cells] == HISTORY
    assert all(re.fullmatch(r"2023-11-1\d \d\d:\d\d:20", row[1]) for row in cells)


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        (["--limit", "2"], [1, 2]),
        (["--after", "6"], [7, 8]),
        (["--order", "desc", "--limit", "2"], [8, 7]),
        (["--key", "n"], [1, 3, 6]),
        (["--key", "$.o.p"], [1, 2, 7]),
    ],
)
def test_history_takes_the_options_of_the_api(
    call: Call, filled: Path, options: list[str], versions: list[int]
) -> None:
    assert [int(line.split("\t")[0]) for line in call("history", "r", *options).out.splitlines()] == versions
    page = json.loads(call("history", "r", "--json", *options).out)
    assert [event["version"] for event in page["data"]] == versions


def test_runs_in_a_pipe_are_tab_separated(call: Call, filled: Path) -> None:
    cells = [line.split("\t") for line in call("runs").out.splitlines()]
    assert [(run, task, status, metadata) for run, task, status, _, metadata in cells] == [
        ("r", "t", "WAITING", '{"done":true}'),
        ("other", "x", "COMPLETED", "{}"),
    ]
    for options, found in [
        (["--status", "waiting"], ["r"]),
        (["--task", "x,y"], ["other"]),
        (["--limit", "1"], ["r"]),
        (["--after", "r"], ["other"]),
        (["--after", "other"], []),
    ]:
        assert [line.split("\t")[0] for line in call("runs", *options).out.splitlines()] == found
    assert [run["id"] for run in json.loads(call("runs", "--json").out)["data"]] == ["r", "other"]


def test_set_says_the_version_and_the_size(call: Call, filled: Path) -> None:
    assert (
        call("set", "r", "a b", '{"x": [1.0, "é"]}', "--actor", "eve").out
        == "r is at version 9, 34 of 4,096 bytes\n"
    )
    assert call("get", "r").out == '{"done":true,"a b":{"x":[1,"é"]}}\n'
    assert json.loads(call("set", "r", "$.done", "null", "--json").out)["metadata"]["done"] is None
    assert call("history", "r", "--after", "8", "--limit", "1").out.split("\t")[2] == "eve"


# --- on a terminal ---


def test_get_on_a_terminal_has_a_head_line_and_indented_json(filled: Path) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        command("get", "r"), cwd=filled.parent, env=environment(TERM="xterm"), stdin=side, stdout=side, stderr=side
    )
    os.close(side)
    seen = without_colours(read_to_the_end(main))
    assert (process.wait(PATIENCE_S), seen) == (0, 'r, version 8, 13 of 4,096 bytes\n{\n  "done": true\n}\n')


def test_history_on_a_terminal_is_a_table(terminal: Terminal, filled: Path) -> None:
    head, *rows = terminal("history", "r").splitlines()
    assert head.split() == ["version", "recorded", "actor", "event", "what"]
    assert [(row.split()[0], row.split(maxsplit=5)[5].strip()) for row in rows] == [
        (version, what) for version, _, _, what in HISTORY
    ]


def test_the_last_column_gives_way_on_a_narrow_terminal(narrow: Terminal, filled: Path) -> None:
    seen = narrow("history", "r")
    assert len(seen.splitlines()) == 9
    assert all(len(line) <= 70 for line in seen.splitlines())
    assert "…" in seen


def test_a_terminal_is_told_how_to_see_more_and_a_pipe_is_not(
    call: Call, terminal: Terminal, filled: Path
) -> None:
    assert terminal("history", "r", "--limit", "3").endswith("There is more: --after 3\n")
    assert terminal("runs", "--limit", "1").endswith("There is more: --after r\n")
    assert "There is more" not in call("runs", "--limit", "1").out


NASTY = {"task": "t\x1b]0;title\x07\nforged\trow\x9b31m\u202e", "actor": "bob\n9999\tforged\x1b[2J\x7f"}
NASTY_VALUE = {"esc\x1b": "\x1b[31m\x07\x9b\x7f\r\u202egnp", "line": "a\nb"}


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    path = tmp_path / "run-ledger.db"
    with service(path) as api:
        api.create("n:fire:", metadata=NASTY_VALUE, **NASTY)
        api.put("n:fire:", {"operations": [operation("set", "k\x1b[2J\n\t", "\x9b2J")], "actor": NASTY["actor"]})
    return path


@pytest.mark.parametrize("arguments", [["get", "n:fire:"], ["history", "n:fire:"], ["runs"]])
def test_nothing_from_metadata_can_steer_a_terminal(
    call: Call, wide: Terminal, nasty: Path, arguments: list[str]
) -> None:
    seen = wide(*arguments)
    assert CONTROL.findall(seen) == []
    assert "n:fire:" in seen or arguments[0] == "history"
    rows = {"get": None, "history": 3, "runs": 2}[arguments[0]]
    assert rows is None or len(seen.splitlines()) == rows
    piped = call(*arguments)
    assert CONTROL.findall(piped.out) == []
    if rows is not None:
        assert [line.count("\t") for line in piped.out.splitlines()] == [4] * (rows - 1)


def test_what_get_prints_is_json_whatever_it_holds(call: Call, terminal: Terminal, nasty: Path) -> None:
    expected = {**NASTY_VALUE, "k\x1b[2J\n\t": "\x9b2J"}
    assert json.loads(call("get", "n:fire:").out) == expected
    assert json.loads(call("get", "n:fire:", "--json").out)["metadata"] == expected
    seen = terminal("get", "n:fire:")
    head, _, shown = seen.partition("\n")
    assert head.startswith("n:fire:, version 2")
    assert json.loads(shown) == expected


# --- failures ---

FAILURES: list[tuple[list[str], str]] = [
    (["get", "nobody"], "there is no run nobody; create it first, or check the id and the environment"),
    (["history", "nobody"], "there is no run nobody; create it first, or check the id and the environment"),
    (["set", "nobody", "k", "1"], "there is no run nobody; create it first, or check the id and the environment"),
    (["get", "a b"], "there is no run a b; create it first, or check the id and the environment"),
    (["get", "r\x1b[2J"], "there is no run r\\u001b[2J; create it first, or check the id and the environment"),
    (["get", "r/metadata?x"], "there is nothing at /api/v1/runs/r/metadata?x/metadata"),
    (
        ["get", "r", "--version", "9"],
        "run r has no version 9; its versions are 1 to 8, since 2023-11-14T22:13:20.000000Z",
    ),
    (
        ["get", "r", "--version", "1", "--at", "2026-01-31T14:05:00Z"],
        "ask for a version or for a moment, not for both",
    ),
    (["get", "r", "--at", "now"], "at: not an ISO 8601 time with a zone, such as 2026-01-31T14:05:00Z"),
    (
        ["set", "r", "k", "hello"],
        "the value is not JSON: line 1, column 1: expecting value; put text in double quotes: '\"hello\"'",
    ),
    (
        ["set", "r", "k", "{'a': 1}"],
        "the value is not JSON: line 1, column 2: expecting property name enclosed in double quotes",
    ),
    (["set", "r", "k", '{"a": 1, "a": 2}'], "the value is not JSON: a: this key appears twice in one object"),
    (
        ["set", "r", "k", "[1e400]"],
        "the value cannot be kept: at [0]: inf is not a JSON number (numbers are doubles); send it as a string",
    ),
    (
        ["set", "r", "k", "9007199254740993"],
        "the value cannot be kept: a double cannot hold this integer exactly; send it as a string",
    ),
    (["set", "r", "k", '"\udcff"'], "the argument '\"\\udcff\"' is not UTF-8 text"),
    (["set", "r", "k\udcff", "1"], "the argument 'k\\udcff' is not UTF-8 text"),
    (["set", "r", "$.done.x", "1"], "nothing was set: the value above 'x' is neither an object nor a list"),
    (["set", "r", "$.*", "1"], "key '$.*': wildcards are not supported; send one operation for each member"),
    (
        ["set", "r", "k", '"' + "x" * 5_000 + '"'],
        "metadata would be 5,021 bytes, the limit is 4,096; delete or shorten the largest keys first",
    ),
    (["runs", "--status", "nope"], f"filter[status]: unknown status; there are {', '.join(Status)}"),
    (["runs", "--after", "nobody"], "there is nothing at the cursor 'nobody'; begin again without one"),
    (
        ["get", "r", "--environment", "No"],
        "--environment is 'No': string should match pattern '^[a-z][a-z0-9-]{0,31}$'",
    ),
    (
        ["get", "r", "--environment", "prod"],
        "there is no run r; create it first, or check the id and the environment",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "said"),
    FAILURES,
    ids=[" ".join(one[0])[:40].encode("ascii", "replace").decode() for one in FAILURES],
)
def test_what_fails_is_exit_code_1_and_one_line(call: Call, filled: Path, arguments: list[str], said: str) -> None:
    done = call(*arguments)
    if said.startswith("metadata would be"):
        assert (done.code, done.out) == (1, "")
        assert re.fullmatch(
            r"run-ledger: .* would be 5,0\d\d bytes, the limit is 4,096; delete or shorten .*\n", done.err
        )
        return
    assert (done.code, done.out, done.err) == (1, "", f"run-ledger: {said}\n")


@pytest.mark.parametrize("arguments", [["get", "r"], ["history", "r"], ["runs"], ["set", "r", "k", "1"]])
def test_a_missing_database_is_not_made(call: Call, tmp_path: Path, arguments: list[str]) -> None:
    done = call(*arguments, "--database-url", "sqlite+aiosqlite:///typo.db")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: there is no database typo.db; start one with 'run-ledger serve'")
    assert list(tmp_path.iterdir()) == []


def test_migrate_makes_a_database_and_may_be_repeated(call: Call, tmp_path: Path) -> None:
    for _ in range(2):
        done = call("migrate")
        assert (done.code, done.out) == (0, "sqlite+aiosqlite:///run-ledger.db is up to date\n")
    assert call("runs").out == ""
    assert (tmp_path / "run-ledger.db").exists()


# --- through a server ---


def test_commands_talk_to_the_server_that_is_named(
    call: Call, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"a": 1}, "actor": "ann"})
    monkeypatch.setenv("RUN_LEDGER_URL", server.url)
    assert call("set", "r", "b", "2").out == "r is at version 2, 13 of 4,096 bytes\n"
    assert call("get", "r").out == '{"a":1,"b":2}\n'
    assert json.loads(call("get", "r", "--json").out)["version"] == 2
    rows: list[Any] = [line.split("\t") for line in call("history", "r").out.splitlines()]
    assert [(row[0], *row[2:]) for row in rows] == [
        ("1", "ann", "run.created", 'task t, {"a":1}'),
        ("2", "anonymous", "metadata.set", "b = 2"),
    ]
    assert call("runs").out.startswith("r\tt\tQUEUED\t")
    done = call("get", "nobody")
    assert (done.code, done.err) == (
        1,
        "run-ledger: there is no run nobody; create it first, or check the id and the environment\n",
    )
    assert not (tmp_path / "run-ledger.db").exists()


def test_a_server_that_is_not_there_is_one_line(
    call: Call, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.terminate()
    monkeypatch.setenv("RUN_LEDGER_URL", server.url)
    done = call("get", "r")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"run-ledger: no answer from {server.url}: .+\n", done.err)


def test_a_command_and_a_server_may_share_a_database(call: Call, server: Server) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t"})
        done = call("set", "r", "a", "1", "--database-url", f"sqlite+aiosqlite:///{server.path}")
        assert done.out == "r is at version 2, 7 of 4,096 bytes\n"
        assert http.get("/api/v1/runs/r/metadata").json()["metadata"] == {"a": 1}


def test_a_taken_port_is_one_line(server: Server, tmp_path: Path) -> None:
    done = run_ledger("serve", "--port", str(server.port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"run-ledger: cannot listen on 127.0.0.1, port {server.port}: "
        "Address already in use; choose another --port\n"
    )
    assert list(tmp_path.glob("run-ledger.db*")) == []


def test_a_command_that_asks_a_server_loads_no_database() -> None:
    """It would take half of the time of every small command."""
    script = "import sys, api.cli; print(*sorted({'sqlalchemy', 'cryptography', 'starlette'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "\n"
