"""The progress audit over HTTP and on the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from projections.progress.keys import LOOKED_FOR
from tests.api.server import Call
from tests.api.service import BEGINNING, SECOND, Service, operation, problem, service

PROGRESS = "/api/v1/runs/r/metadata/progress"
MINUTE = 60 * SECOND


def audit(api: Service, query: str = "") -> Any:
    response = api.get(f"{PROGRESS}?{query}" if query else PROGRESS)
    assert response.status_code == 200, response.text
    return response.json()


def fill(api: Service) -> None:
    """To 0.3 in three minutes, 20 minutes at 0.3 under touches, back to 0.2, on to 0.5; still running."""
    api.now = BEGINNING
    state = {"state": "running", "progress": 0}
    api.create("r", metadata={"status": state, "rows": 0}, status="EXECUTING", actor="job")
    for n in range(1, 7):
        report(api, n * 0.05, 0.5)
    for _ in range(10):
        report(api, 0.3, 2, actor="poller")
    report(api, 0.2, 1)
    for n in range(1, 7):
        report(api, 0.2 + n * 0.05, 1)


def report(api: Service, value: float, minutes: float, actor: str = "job") -> None:
    api.now += round(minutes * MINUTE)
    body = {"operations": [operation("set", "$.status.progress", round(value, 4))], "actor": actor}
    assert api.put("r", body).status_code == 200


# --- over HTTP ---


def test_the_answer_has_exactly_these_members(api: Service) -> None:
    api.create("r", metadata={"progress": 0, "status": "on"}, status="EXECUTING", actor="job")
    report_one = {"operations": [operation("set", "progress", 0.5)], "actor": "job"}
    api.now += 10 * SECOND
    api.put("r", report_one)
    api.now += 5 * SECOND
    first = {
        "at": "2023-11-14T22:13:20.000000Z",
        "version": 1,
        "value": 0,
        "total": None,
        "fraction": 0,
        "actor": "job",
        "attempt": 1,
    }
    second = {**first, "at": "2023-11-14T22:13:30.000000Z", "version": 2, "value": 0.5, "fraction": 0.5}
    why = "it moved only once; 4 movements are needed to judge its pace"
    assert audit(api) == {
        "runId": "r",
        "version": 2,
        "status": "EXECUTING",
        "verdict": f"moving: 50 %, no telling when it ends ({why})",
        "condition": "moving",
        "attempt": 1,
        "lastAttempt": 1,
        "key": "progress",
        "keyIsGiven": False,
        "otherKeys": [],
        "lookedFor": [],
        "scale": {
            "kind": "fraction",
            "full": 1,
            "totalKey": None,
            "isGiven": False,
            "basis": "no value was above 1, so 1 means complete",
        },
        "isOpen": True,
        "end": "2023-11-14T22:13:35.000000Z",
        "start": first,
        "current": second,
        "netChange": 0.5,
        "lost": None,
        "counts": {
            "movements": 1,
            "touches": 0,
            "totalChanges": 0,
            "stalls": 0,
            "regressions": 0,
            "jumps": 0,
            "overComplete": 0,
            "belowZero": 0,
        },
        "rate": {
            "overall": pytest.approx(0.5 / 15),
            "recent": pytest.approx(0.5 / 15),
            "recentSince": "2023-11-14T22:13:20.000000Z",
        },
        "eta": None,
        "noEtaBecause": why,
        "stallAfter": {
            "seconds": 300,
            "isGiven": False,
            "basis": "one gap between movements shows no rhythm of the run's own yet",
        },
        "stalls": [],
        "regressions": [],
        "jumpOver": None,
        "jumps": [],
        "overComplete": [],
        "belowZero": [],
        "totalChanges": [],
        "touches": {"count": 0, "last": None},
        "states": {
            "key": "status",
            "values": [{"value": "on", "seconds": 15, "times": 1, "isCurrent": True}],
        },
        "changes": [{**second, "delta": 0.5, "movements": 1, "touches": 0}],
    }


def test_stalls_touches_regressions_and_the_end(api: Service) -> None:
    fill(api)
    found = audit(api)
    assert (found["key"], found["version"], found["condition"]) == ("$.status.progress", 24, "moving")
    (stall,) = found["stalls"]
    assert (stall["from"], stall["to"]) == ("2023-11-14T22:16:20.000000Z", "2023-11-14T22:37:20.000000Z")
    assert (stall["seconds"], stall["touches"], stall["isOpen"]) == (1_260, 10, False)
    (fall,) = found["regressions"]
    assert (fall["from"], fall["to"], fall["version"], fall["actor"]) == (0.3, 0.2, 18, "job")
    assert found["touches"]["last"]["actor"] == "poller"
    assert found["eta"]["movements"] == 6
    assert found["eta"]["earliest"] <= "2023-11-14T22:53:20.000000Z" <= found["eta"]["latest"]
    api.now += 120 * MINUTE
    found = audit(api)
    assert (found["condition"], found["stalls"][-1]["isOpen"], found["stalls"][-1]["to"]) == (
        "stalled",
        True,
        None,
    )
    api.move("r", "COMPLETED")
    finished = audit(api)
    api.now += 999 * MINUTE
    assert audit(api) == finished
    assert finished["condition"] == "incomplete"


def test_the_parameters(api: Service) -> None:
    fill(api)
    assert audit(api, "key=rows")["verdict"] == "stalled at 0 % for 30 min"
    assert audit(api, "key=$.status")["key"] == "$.status.progress"
    assert audit(api, "scale=percent")["current"]["fraction"] == 0.005
    assert audit(api, "scale=0.5")["condition"] == "complete"
    assert len(audit(api, "stallAfter=45.5")["stalls"]) == 7
    assert audit(api, "attempt=all")["attempt"] is None
    assert audit(api, "attempt=current") == audit(api, "attempt=1") == audit(api)
    assert audit(api, "attempt=3")["verdict"] == "attempt 3 has made no event; the last attempt is 1"


def test_a_run_without_a_progress_key_is_answered_plainly(api: Service) -> None:
    api.create("r", metadata={"rows": 3})
    found = audit(api)
    assert (found["key"], found["condition"], found["changes"]) == (None, "no-key", [])
    assert found["lookedFor"] == list(LOOKED_FOR)
    found = audit(api, "key=nothing")
    assert (found["verdict"], found["lookedFor"]) == ("nothing at nothing is a number", ["nothing"])


def test_an_unknown_run_is_404(api: Service) -> None:
    assert problem(api.get(PROGRESS), 404)["code"] == "run-not-found"


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("key=$.*", 400, "wildcards are not supported"),
        ("scale=", 400, "scale must be fraction, percent, ratio, or the number that means complete such as 250"),
        ("scale=nan", 400, "scale must be"),
        ("scale=-5", 400, "scale must be"),
        ("stallAfter=x", 400, "stallAfter must be a number of seconds, not 'x'"),
        ("stallAfter=1e3", 400, "stallAfter must be a number of seconds"),
        ("stallAfter=0", 422, "stallAfter must be more than 0 and at most 315360000 seconds, not 0"),
        ("stallAfter=-1", 422, "stallAfter must be more than 0"),
        ("stallAfter=315360001", 422, "stallAfter must be more than 0"),
        ("attempt=", 400, "attempt must be current, all, or a number, not ''"),
        ("attempt=last", 400, "attempt must be current, all, or a number, not 'last'"),
        ("attempt=0", 422, "attempt must lie within 1 and"),
        ("attempt=" + "9" * 19, 422, "attempt must lie within 1 and"),
        ("stall_after=1", 400, "unknown query parameter 'stall_after'"),
        ("key=a&key=b", 400, "'key' is given twice"),
    ],
)
def test_a_parameter_that_means_nothing_is_refused_and_named(
    api: Service, query: str, status: int, said: str
) -> None:
    api.create("r")
    assert said in problem(api.get(f"{PROGRESS}?{query}"), status)["detail"]


def test_a_run_longer_than_a_chunk_is_read_through(api: Service) -> None:
    api.create("r", metadata={"n": 0, "total": 5_000})
    for _ in range(5):
        api.now += SECOND
        api.put("r", {"operations": [operation("increment", "n", 1)] * 500})
    found = audit(api)
    assert (found["current"]["fraction"], found["counts"]["movements"]) == (0.5, 2_500)
    assert sum(change["delta"] for change in found["changes"]) == pytest.approx(0.5)
    assert len(found["changes"]) <= 1_000


def test_a_late_delivery_is_judged_by_when_things_happened(api: Service) -> None:
    api.now += 300 * MINUTE
    api.create("r", metadata={"progress": 0}, status="EXECUTING")
    operations = [
        {**operation("set", "progress", n / 10), "occurredAt": f"2023-11-14T22:{20 + n}:00Z"} for n in range(1, 11)
    ]
    api.put("r", {"operations": operations})
    api.move("r", "COMPLETED")
    found = audit(api)
    assert [change["at"] for change in found["changes"]] == [
        f"2023-11-14T22:{20 + n}:00.000000Z" for n in range(1, 11)
    ]
    assert (found["stalls"], found["end"]) == ([], "2023-11-14T22:30:00.000000Z")
    assert found["verdict"] == "complete: 100 % after 9 min"


# --- on the command line ---


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "run-ledger.db"
    with service(path) as api:
        fill(api)
        api.move("r", "COMPLETED")
        api.create("plain", metadata={"rows": 3, "stage": "load\x1b[2J"})
        evil = "ann\x1b[31m\nforged\t\u202e"
        api.create("n", metadata={"k\x9b.progress": 1, "status": evil}, actor=evil)
        api.put("n", {"operations": [operation("set", "k\x9b.progress", 0.5)], "actor": evil})
        api.put("n", {"operations": [operation("set", "k\x9b.progress", 120)], "actor": evil})
    return path


def test_the_verdict_comes_first_and_the_rest_in_lines(call: Call, filled: Path) -> None:
    done = call("progress", "r")
    assert (done.code, done.err) == (0, "")
    assert (
        done.out
        == """\
r: COMPLETED at 50 %, 50 % short; stood still for 21 min at 30 %; 1 regression
  chart        0 % ▁▁▂▂▂▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▂▂▂▂▃▃▃▃▃▃▄▄▄ 50 %
               2023-11-14 22:13:20 to 2023-11-14 22:43:20, 30 min
  key          $.status.progress, found by itself; read as fractions: no value was above 1, so 1 means complete
  reports      13 movements, 10 that said the same again; attempt 1 of 1, COMPLETED, version 25
  rate         1.67 % a minute on the whole, 5 % a minute since 2023-11-14 22:37:20
  eta          none: nothing more will come: the run, or this attempt of it, has ended
  stalls       1 of more than 5 min (5 times the usual gap of 1 min; three quarters of the 13 gaps between movements are no longer)
               2023-11-14 22:16:20 to 2023-11-14 22:37:20, 21 min at 30 %, 10 reports meanwhile, after version 7
  regressions  2023-11-14 22:37:20, from 0.3 to 0.2 in version 18 by job
  time in      $.status.state: running 30 min
"""
    )


def test_the_options_are_those_of_the_api(call: Call, filled: Path) -> None:
    shown = json.loads(call("progress", "r", "--json").out)
    assert (shown["key"], shown["counts"]["movements"], shown["stallAfter"]["isGiven"]) == (
        "$.status.progress",
        13,
        False,
    )
    options = ["--key", "rows", "--scale", "250", "--stall-after", "2.5", "--attempt", "all", "--json"]
    shown = json.loads(call("progress", "r", *options).out)
    assert (shown["key"], shown["scale"]["full"], shown["stallAfter"]["seconds"], shown["attempt"]) == (
        "rows",
        250,
        2.5,
        None,
    )


def test_a_run_without_a_key_says_what_was_looked_for(call: Call, filled: Path) -> None:
    done = call("progress", "plain")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "plain: no key tells the progress; name one"
    assert lines[1].split() == ["looked", "for", *", ".join(LOOKED_FOR).split()]
    assert re.fullmatch(r" +time in +stage: load\\u001b\[2J .* \(now\)", lines[2].removeprefix(" "))


def test_nothing_from_metadata_can_steer_a_terminal(call: Call, filled: Path) -> None:
    done = call("progress", "n")
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", done.out) == []
    assert all(re.match(r"n: |  [a-z0-9 %]{12} ", line) for line in done.out.splitlines())
    assert "by ann\\u001b[31m forged \\u202e" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "there is no run nobody; create it first, or check the id and the environment"),
        (["r", "--stall-after", "0"], "stallAfter must be more than 0 and at most 315360000 seconds, not 0"),
        (["r", "--attempt", "x"], "attempt must be current, all, or a number, not 'x'"),
        (["r", "--key", "$.*"], "key '$.*': wildcards are not supported; send one operation for each member"),
    ],
)
def test_what_fails_is_exit_code_1_and_one_line(call: Call, filled: Path, arguments: list[str], said: str) -> None:
    done = call("progress", *arguments)
    assert (done.code, done.out, done.err) == (1, "", f"run-ledger: {said}\n")
