"""history, diff, explain and runs --as-of on the command line: in a pipe, as JSON, and on a terminal."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from tests.api.server import Call, Server
from tests.api.service import SECOND, operation, service
from tests.api.test_cli import CONTROL, NASTY, NASTY_VALUE, Terminal

FIRST = "2023-11-14T22:13:20Z"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "original.db"
    with service(path) as api:
        api.create("r", metadata={"n": 1, "o": {"p": "é"}}, actor="ann")
        api.now += SECOND
        api.put(
            "r", {"operations": [operation("increment", "n", 2), operation("set", "$.o.p", 0.5)], "actor": "ann"}
        )
        api.put("r", {"operations": [operation("set", "s", "x" * 5_000)], "actor": "eve"})
        api.create("child", parentRunId="r", metadata={"n": 3})
        api.put("child", {"parentOperations": [operation("increment", "n", 1)], "attempt": 2, "actor": "bob"})
        api.now += SECOND
        api.put("r", {"metadata": {"n": True}, "actor": "ann"})
        api.move("r", "WAITING", actor="bob")
        api.create("n:fire:", metadata=NASTY_VALUE, **NASTY)
        nasty = [operation("set", "k\x1b[2J\n\t", "\x9b2J"), operation("set", "esc\x1b", "\x1b]0;title\x07")]
        api.put("n:fire:", {"operations": nasty, "actor": NASTY["actor"]})
        api.put("n:fire:", {"operations": [operation("set", "k\x1b[2J", "x" * 5_000)], "actor": NASTY["actor"]})
    return path


@pytest.fixture
def filled(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "run-ledger.db"))


@pytest.fixture
def terminal(call: Call, filled: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(call, monkeypatch, 120)


@pytest.fixture
def piped(call: Call, filled: Path) -> Call:
    return call


def cells(done: Any) -> list[list[str]]:
    assert (done.code, done.err) == (0, "")
    return [line.split("\t") for line in done.out.splitlines()]


# --- history ---


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        (["--actor", "ann"], [1, 2, 3, 5]),
        (["--type", "metadata.set,metadata.updated"], [3, 5]),
        (["--attempt", "2"], []),
        (["--from", "2023-11-14T22:13:21Z", "--to", "2023-11-14T22:13:21Z"], [2, 3, 4]),
        (["--before", "4", "--limit", "2"], [2, 3]),
        (["--before", "4", "--order", "desc"], [6, 5]),
        (["--key", "n", "--actor", "bob"], [4]),
    ],
)
def test_history_takes_every_filter_of_the_api(piped: Call, options: list[str], versions: list[int]) -> None:
    assert [int(row[0]) for row in cells(piped("history", "r", *options))] == versions


def test_history_shows_refusals_between_the_events(piped: Call) -> None:
    rows = cells(piped("history", "r", "--refusals"))
    assert [row[3] for row in rows][2:5] == ["metadata.set", "refused", "metadata.incremented"]
    assert rows[3][2] == "eve"
    assert rows[3][4].startswith("the value of one operation would be 5,002 bytes, the limit is 4,096")


def test_history_with_values_has_the_value_before_and_after(piped: Call, terminal: Terminal) -> None:
    rows = cells(piped("history", "r", "--values", "--refusals"))
    assert [(row[0], *row[4:]) for row in rows] == [
        ("1", "22", "", "", '{"n":1,"o":{"p":"é"}}'),
        ("2", "22", "n", "1", "3"),
        ("3", "21", "$.o.p", '"é"', "0.5"),
        ("3", "5,002", "", "", rows[3][7]),
        ("4", "21", "n", "3", "4"),
        ("5", "10", "", '{"n":4,"o":{"p":0.5}}', '{"n":true}'),
        ("6", "10", "", "", ""),
    ]
    assert rows[3][7].startswith("the value of one operation would be 5,002 bytes")
    head, *lines = terminal("history", "r", "--values").splitlines()
    assert head.split() == ["version", "recorded", "actor", "event", "bytes", "before", "->", "after"]
    assert [" ".join(line.split()[5:]) for line in lines] == [
        '22 (nothing) -> {"n":1,"o":{"p":"é"}}',
        "22 n: 1 -> 3",
        '21 $.o.p: "é" -> 0.5',
        "21 n: 3 -> 4",
        '10 {"n":4,"o":{"p":0.5}} -> {"n":true}',
        "10",
    ]


# --- diff ---


def test_diff_in_a_pipe_is_a_line_for_each_change(piped: Call) -> None:
    assert cells(piped("diff", "r")) == [["o", '{"p":"é"}', ""], ["n", "1", "true"]]
    assert cells(piped("diff", "r", "--from", "1", "--to", "3")) == [["n", "1", "3"], ["$.o.p", '"é"', "0.5"]]
    assert cells(piped("diff", "r", "--from", "5", "--to", FIRST)) == [["n", "true", "1"], ["o", "", '{"p":"é"}']]
    assert cells(piped("diff", "r", "--from", "5")) == []


def test_diff_of_two_runs_compares_them_as_they_are(piped: Call) -> None:
    assert cells(piped("diff", "child", "r")) == [["n", "3", "true"]]
    assert cells(piped("diff", "child", "r", "--to", "2")) == [["o", "", '{"p":"é"}']]


@pytest.mark.parametrize("arguments", [["r"], ["r", "--from", "3"], ["child", "r"], ["n:fire:", "r"]])
def test_diff_as_json_is_a_patch_that_fits(piped: Call, arguments: list[str]) -> None:
    patch = json.loads(piped("diff", *arguments, "--json").out)
    start = ["--version", "3"] if "--from" in arguments else [] if len(arguments) == 2 else ["--version", "1"]
    before = json.loads(piped("get", arguments[0], *start).out)
    assert jsonpatch.apply_patch(before, patch) == {"n": True}


def test_diff_on_a_terminal_reads_path_before_after(terminal: Terminal) -> None:
    assert terminal("diff", "r").splitlines() == [
        "r, version 1 -> 6",
        'o: {"p":"é"} -> (nothing)',
        "n: 1 -> true",
    ]
    assert terminal("diff", "child", "r").splitlines()[0] == "child, version 1 -> r, version 6"
    assert terminal("diff", "r", "--from", "6").splitlines()[1:] == ["No difference."]


# --- explain ---


def test_explain_in_a_pipe_has_who_through_what_and_what_came_of_it(piped: Call) -> None:
    rows = cells(piped("explain", "r", "n"))
    assert [(row[0], *row[2:]) for row in rows] == [
        ("1", "ann", "1", "", "run.created", "by 5", "1"),
        ("2", "ann", "1", "", "metadata.incremented", "by 5", "3"),
        ("4", "bob", "1", "child, attempt 2", "metadata.incremented", "by 5", "4"),
        ("5", "ann", "1", "", "metadata.updated", "", "true"),
    ]
    assert [row[0] for row in cells(piped("explain", "r", "n", "--version", "3"))] == ["1", "2"]
    assert [row[0] for row in cells(piped("explain", "r", "n", "--at", FIRST))] == ["1"]
    assert [row[0] for row in cells(piped("explain", "r", "n", "--limit", "1", "--before", "5"))] == ["4"]


def test_explain_as_json_is_the_answer_of_the_api(piped: Call) -> None:
    answer = json.loads(piped("explain", "r", "$.o.p", "--json").out)
    assert (answer["key"], answer["version"], "value" in answer) == ("$.o.p", 6, False)
    assert [event.get("valueAfter") for event in answer["events"]] == ["é", 0.5, None]


def test_explain_on_a_terminal_begins_with_the_value(terminal: Terminal) -> None:
    shown = terminal("explain", "r", "n").splitlines()
    assert shown[:2] == ["n is true", "r, version 6"]
    assert shown[2].split() == [
        *("version", "recorded", "actor", "attempt", "through", "event", "wiped", "value", "after")
    ]
    assert len(shown) == 7
    assert terminal("explain", "r", "$.o.p").startswith("$.o.p is not there\n")
    assert terminal("explain", "r", "n", "--limit", "1").endswith("There is more: --before 5\n")


# --- runs as of ---


def test_runs_as_of_a_time_shows_them_as_they_stood(piped: Call) -> None:
    rows = cells(piped("runs", "--as-of", "2023-11-14T22:13:21Z"))
    assert [(row[0], row[2], row[4]) for row in rows] == [
        ("child", "QUEUED", '{"n":3}'),
        ("r", "QUEUED", '{"n":4,"o":{"p":0.5}}'),
    ]
    assert cells(piped("runs", "--as-of", "2020-01-01T00:00:00Z")) == []
    assert [row[0] for row in cells(piped("runs", "--as-of", FIRST, "--status", "queued"))] == ["r"]


# --- safety and failures ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "n:fire:", "--values", "--refusals"],
        ["diff", "n:fire:"],
        ["diff", "child", "n:fire:"],
        ["explain", "n:fire:", "esc\x1b"],
        ["explain", "n:fire:", "k\x1b[2J\n\t"],
    ],
)
def test_nothing_from_a_run_can_steer_a_terminal(
    call: Call, filled: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    seen = Terminal(call, monkeypatch, 400)(*arguments)
    assert CONTROL.findall(seen) == []
    done = call(*arguments)
    assert CONTROL.findall(done.out) == []
    assert len({line.count("\t") for line in done.out.splitlines()}) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["diff", "nobody"], "there is no run nobody"),
        (["diff", "r", "nobody"], "there is no run nobody"),
        (["diff", "r", "--from", "9"], "run r has no version 9"),
        (["diff", "r", "--to", "later"], "at: not an ISO 8601 time"),
        (["explain", "nobody", "n"], "there is no run nobody"),
        (["explain", "r", "$.*"], "wildcards are not supported"),
        (["explain", "r", "n", "--version", "1", "--at", FIRST], "not for both"),
        (["history", "r", "--type", "set"], "type: there are run.created"),
        (["history", "r", "--from", "noon"], "from: not an ISO 8601 time"),
        (["history", "r", "--after", "1", "--before", "3"], "not for both"),
        (["runs", "--as-of", "noon"], "asOf: not an ISO 8601 time"),
    ],
)
def test_what_went_wrong_is_one_line(piped: Call, arguments: list[str], words: str) -> None:
    done = piped(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: ")
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["diff"], ["explain", "r"], ["explain", "r", "n", "--limit", "0"], ["history", "r", "--attempt", "0"]],
)
def test_wrong_usage_is_exit_code_2(call: Call, arguments: list[str]) -> None:
    assert call(*arguments).code == 2


def test_the_commands_ask_a_server_that_is_named(
    call: Call, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"a": 1}, "actor": "ann"})
        http.put("/api/v1/runs/r/metadata", json={"metadata": {"a": 2}, "actor": "ann"})
    monkeypatch.setenv("RUN_LEDGER_URL", server.url)
    assert call("diff", "r").out == "a\t1\t2\n"
    assert [row[0] for row in cells(call("explain", "r", "a"))] == ["1", "2"]
    assert [row[-2:] for row in cells(call("history", "r", "--values"))] == [
        ["", '{"a":1}'],
        ['{"a":1}', '{"a":2}'],
    ]
    assert cells(call("runs", "--as-of", "9999-01-01T00:00:00Z"))[0][0] == "r"
