"""The realtime feeds' protocol: what each answer holds, how polls are held, and what is refused."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from api.app import create_app
from api.streams import StreamLimits
from ledger import reads
from ledger.states import PAGE_RUNS_MAX
from tests.api.keys import Keyed
from tests.api.server import PATIENCE_S, Server
from tests.api.service import MASTER, SECOND, Service, problem, service
from tests.api.test_tokens import bearer, token_of
from tests.strategies import thorough

Row = dict[str, Any]
UP_TO_DATE = {"headers": {"control": "up-to-date"}}


class Feed:
    """A reader as `@electric-sql/client` is one, without what it does with rows."""

    def __init__(self, api: Service, path: str, headers: dict[str, str] | None = None) -> None:
        self._api = api
        self.path = path + ("&" if "?" in path else "?")
        self._headers = headers
        self.handle = ""
        self.offset = "-1"
        self.is_up_to_date = False
        self.rows: dict[str, Row] = {}

    def query(self, live: bool = True) -> str:
        if self.offset == "-1":
            return f"{self.path}log=full&offset=-1"
        rest = "&cursor=1&live=true" if live and self.is_up_to_date else ""
        return f"{self.path}handle={self.handle}&log=full&offset={self.offset}{rest}"

    def take(self, answer: httpx2.Response) -> list[Row]:
        """What changed: whole rows, as the SDK would emit them."""
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["electric-schema"] == "{}"
        assert answer.headers["electric-cursor"].isdecimal()
        self.handle, self.offset = answer.headers["electric-handle"], answer.headers["electric-offset"]
        self.is_up_to_date = "electric-up-to-date" in answer.headers
        messages = answer.json()
        assert (messages[-1:] == [UP_TO_DATE]) == self.is_up_to_date
        changes = messages[:-1] if self.is_up_to_date else messages
        assert len({message["key"] for message in changes}) == len(changes)
        for message in changes:
            known = self.rows.get(message["key"], {})
            if message["headers"]["operation"] == "insert":
                assert not known
            self.rows[message["key"]] = {**known, **message["value"]}
        return [self.rows[message["key"]] for message in changes]

    def next(self, live: bool = True) -> list[Row]:
        return self.take(self._api.get(self.query(live), self._headers))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Service]:
    """An application whose polls are held for an instant only."""
    with service(tmp_path / "ledger.db") as made:
        hold(made, 0.01)
        yield made


def hold(api: Service, poll_s: float, **limits: Any) -> Starlette:
    app = create_app(
        api._ledger, api._log, master=lambda: MASTER, stream_limits=StreamLimits(poll_s=poll_s, **limits)
    )
    api._http._transport = httpx2.ASGITransport(app)
    return app


def counts(rows: list[Row]) -> list[Any]:
    return [json.loads(row["metadata"]).get("n") for row in rows]


def add(api: Service, run: str = "r", by: int = 1) -> None:
    answer = api.put(run, {"operations": [{"type": "increment", "key": "n", "value": by}]})
    assert answer.status_code == 200


# --- one run ---


def test_a_run_is_shown_with_all_columns(api: Service) -> None:
    api.create("r", tags=["a", "b"], metadata={"n": 1}, payload={"rows": 3})
    (row,) = Feed(api, "/realtime/v1/runs/r").next()
    time = "2023-11-14T22:13:20.000000"
    assert row == {
        "id": "r",
        "friendlyId": "r",
        "taskIdentifier": "t",
        "status": "PENDING",
        "createdAt": time,
        "updatedAt": time,
        "startedAt": None,
        "completedAt": None,
        "expiredAt": None,
        "queuedAt": time,
        "delayUntil": None,
        "metadata": '{"n":1}',
        "metadataType": "application/json",
        "payload": '{"rows":3}',
        "payloadType": "application/json",
        "output": None,
        "outputType": "application/json",
        "error": None,
        "runTags": ["a", "b"],
        "realtimeStreams": [],
        "usageDurationMs": 0,
        "costInCents": 0,
        "baseCostInCents": 0,
        "isTest": False,
        "idempotencyKey": None,
        "ttl": None,
    }


def test_a_payload_is_sent_as_the_trigger_gave_it(api: Service) -> None:
    text = '{"json":{"at":"2026-01-31"},"meta":{"values":{"at":["Date"]}}}'
    options = {"payloadType": "application/super+json", "idempotencyKey": "k"}
    run = api.post("/api/v1/tasks/t/trigger", {"payload": text, "options": options}).json()["id"]
    (row,) = Feed(api, f"/realtime/v1/runs/{run}").next()
    assert (row["payload"], row["payloadType"]) == (text, "application/super+json")
    assert row["idempotencyKey"] == "k"


STATUSES = {
    "QUEUED": "PENDING",
    "PENDING_VERSION": "PENDING_VERSION",
    "DELAYED": "DELAYED",
    "DEQUEUED": "DEQUEUED",
    "EXECUTING": "EXECUTING",
    "WAITING": "WAITING_TO_RESUME",
    "COMPLETED": "COMPLETED_SUCCESSFULLY",
    "FAILED": "COMPLETED_WITH_ERRORS",
    "CANCELED": "CANCELED",
    "CRASHED": "CRASHED",
    "SYSTEM_FAILURE": "SYSTEM_FAILURE",
    "EXPIRED": "EXPIRED",
    "TIMED_OUT": "TIMED_OUT",
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses_have_their_inner_names(api: Service, status: str) -> None:
    api.create("r", status=status)
    (row,) = Feed(api, "/realtime/v1/runs/r").next()
    assert row["status"] == STATUSES[status]
    is_over = status in {"COMPLETED", "FAILED", "CANCELED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"}
    assert (row["completedAt"] is not None) == is_over
    assert (row["expiredAt"] is not None) == (status == "EXPIRED")


def test_each_answer_carries_exactly_the_next_version(api: Service) -> None:
    api.create("r", metadata={"n": 0})
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    for _ in range(3):
        add(api)
    api.move("r", "EXECUTING")
    api.now += 2 * SECOND
    api.post("/api/v1/runs/r/tags", {"tags": ["late"]})
    api.move("r", "COMPLETED", output=[1], metadata={"x": 1})
    add(api)
    seen = [feed.next()[0].copy() for _ in range(7)]
    assert feed.next() == []
    assert counts(seen) == [1, 2, 3, 3, 3, 3, 4]
    assert [row["status"] for row in seen] == ["PENDING"] * 3 + ["EXECUTING"] * 2 + ["COMPLETED_SUCCESSFULLY"] * 2
    assert [row["runTags"] for row in seen] == [[]] * 4 + [["late"]] * 3
    assert [row["completedAt"] is not None for row in seen] == [False] * 5 + [True] * 2
    assert [row["output"] for row in seen] == [None] * 5 + ["[1]"] * 2
    assert [row["startedAt"] is not None for row in seen] == [False] * 3 + [True] * 4
    assert [row["usageDurationMs"] for row in seen] == [0] * 4 + [2_000] * 3


def test_a_new_attempt_begins_what_had_ended(api: Service) -> None:
    api.create("r")
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    api.move("r", "FAILED", error="no space")
    api.move("r", "EXECUTING", attempt=2)
    rows = [feed.next()[0].copy() for _ in range(2)]
    assert [row["status"] for row in rows] == ["COMPLETED_WITH_ERRORS", "EXECUTING"]
    assert [row["completedAt"] is None for row in rows] == [False, True]
    assert [row["error"] for row in rows] == [{"type": "STRING_ERROR", "raw": "no space"}, None]


def test_without_anything_new_the_offset_stays_and_the_cursor_changes(api: Service) -> None:
    api.create("r")
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    before = feed.offset
    cursors = set()
    for live in (True, True, False):
        answer = api.get(feed.query(live))
        assert answer.json() == [UP_TO_DATE]
        assert answer.headers["electric-offset"] == before
        cursors.add(answer.headers["electric-cursor"])
    assert len(cursors) == 3


def test_a_request_that_is_not_live_is_answered_with_the_next_version_too(api: Service) -> None:
    api.create("r", metadata={"n": 0})
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    add(api)
    add(api)
    assert counts(feed.next(live=False)) == [1]
    assert counts(feed.next(live=False)) == [2]
    assert feed.next(live=False) == []


def test_head_is_answered_at_once(api: Service) -> None:
    hold(api, PATIENCE_S * 10)
    api.create("r", tags=["a"])
    for path in ("/realtime/v1/runs/r", "/realtime/v1/runs?tags=a"):
        feed = Feed(api, path)
        feed.next()
        answer = api.request("HEAD", feed.query())
        assert answer.status_code == 200
        assert answer.headers["electric-offset"] == feed.offset


FOREIGN = ["0-" + "0" * 32, "x", "1-" + "f" * 32, "", "0" * 200]


@pytest.mark.parametrize("path", ["/realtime/v1/runs/r", "/realtime/v1/runs?tags=a"])
def test_whoever_has_another_handle_begins_anew(api: Service, path: str) -> None:
    api.create("r", tags=["a"])
    feed = Feed(api, path)
    feed.next()
    mine, offset = feed.handle, feed.offset
    other = Feed(api, path.replace("=a", "=b") if "tags" in path else "/realtime/v1/runs/other")
    api.create("other", tags=["b"])
    other.next()
    for handle in [*FOREIGN, other.handle]:
        feed.handle, feed.offset = handle, offset
        answer = api.get(feed.query())
        assert answer.status_code == 409
        assert answer.json() == [{"headers": {"control": "must-refetch"}}]
        assert answer.headers["electric-handle"]
        again = f"{feed.path}handle={answer.headers['electric-handle']}&log=full&offset=-1&expired_handle={handle}"
        assert [row["id"] for row in Feed(api, path).take(api.get(again))] == ["r"]
    feed.handle = mine
    assert feed.next() == []


@pytest.mark.parametrize("offset", ["2_17", "1_0", "1_33", "1_32", "0_0", "999999999999_16", "9" * 19 + "_17"])
def test_an_offset_that_was_never_given_begins_anew(api: Service, offset: str) -> None:
    api.create("r")
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    feed.offset = offset
    if offset in {"1_0", "1_33", "1_32", "0_0"}:
        add(api)
    assert api.get(feed.query()).status_code == 409


def test_an_offset_that_names_the_wrong_event_shows_nothing_that_never_was(api: Service) -> None:
    api.create("r", metadata={"n": 0})
    add(api)
    add(api)
    api.move("r", "COMPLETED")
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    feed.offset = "2_32"  # Version 2 gave no status.
    assert api.get(feed.query()).status_code == 409


@pytest.mark.parametrize(
    "query",
    [
        "offset=1",
        "offset=-2",
        "offset=1_",
        "offset=a_b",
        "offset=now",
        "offset=1_17",
        "offset=01_1&handle=x",
        "offset=",
    ],
)
def test_what_is_no_offset_is_refused(api: Service, query: str) -> None:
    api.create("r", tags=["a"])
    for path in ("/realtime/v1/runs/r?", "/realtime/v1/runs?tags=a&"):
        assert problem(api.get(path + query), 400)["code"] == "bad-offset"


def test_an_unknown_run_is_404_at_every_step(api: Service) -> None:
    for query in ("", "?offset=-1", "?offset=1_17&handle=x&live=true"):
        for run in ("nobody", "a%00b"):
            assert problem(api.get(f"/realtime/v1/runs/{run}{query}"), 404)["code"] == "run-not-found"


def test_columns_that_nobody_can_do_without_stay(api: Service) -> None:
    api.create("r", metadata={"n": 0}, payload=1)
    everything = "id,friendlyId,taskIdentifier,status,createdAt,updatedAt,metadata,payload,nonsense, output"
    feed = Feed(api, f"/realtime/v1/runs/r?skipColumns={everything}")
    add(api)
    for rows in (feed.next(), feed.next()):
        for row in rows:
            assert {
                "id",
                "friendlyId",
                "taskIdentifier",
                "status",
                "createdAt",
                "updatedAt",
                "runTags",
            } <= row.keys()
            assert not {"metadata", "payload", "output"} & row.keys()


def test_a_token_says_what_its_reader_may_not_see(api: Service) -> None:
    key = Keyed(api, scopes=["admin"])
    key.create("r", payload="secret", tags=["a"], metadata={"n": 0})
    token = token_of(api, key, "read", realtime={"skipColumns": ["payload", "metadata"]})
    for path in ("/realtime/v1/runs/r", "/realtime/v1/runs?tags=a", "/realtime/v1/runs/r?skipColumns=output"):
        feed = Feed(api, path, bearer(token))
        key.put("r")
        for row in [*feed.next(), *feed.next()]:
            assert not {"payload", "metadata"} & row.keys()
    answer = api.get("/realtime/v1/runs/r", bearer(token))
    assert "secret" not in answer.text


def test_an_erased_value_is_not_shown_to_who_comes_behind(api: Service) -> None:
    api.create("r")
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    secret = "a text that nobody else has"
    api.put("r", {"operations": [{"type": "set", "key": "name", "value": secret}]})
    add(api)
    assert api.post("/api/v1/runs/r/metadata/erase", {"key": "name", "reason": "asked for"}).status_code == 200
    rows = [feed.next()[0].copy() for _ in range(3)]
    assert secret not in json.dumps(rows)
    assert counts(rows) == [None, 1, 1]
    assert feed.next() == []


def test_what_was_folded_before_an_erasure_is_not_gone_on_from(api: Service) -> None:
    api.create("r")
    secret = "a text that nobody else has"
    api.put("r", {"operations": [{"type": "set", "key": "name", "value": secret}]})
    for _ in range(5):
        add(api)
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    feed.offset, feed.is_up_to_date = "2_16", True
    assert secret in json.dumps(feed.next())
    assert api.post("/api/v1/runs/r/metadata/erase", {"key": "name", "reason": "asked for"}).status_code == 200
    rows = [feed.next()[0].copy() for _ in range(5)]
    assert secret not in json.dumps(rows)
    assert counts(rows) == [2, 3, 4, 5, 5]


def test_the_next_version_costs_the_same_wherever_it_is(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    api.create("r", metadata={"n": 0})
    api.move("r", "EXECUTING")
    for _ in range(4):
        api.put("r", {"operations": [{"type": "increment", "key": "n", "value": 1}] * 1_000})
    api.move("r", "COMPLETED")
    folded: list[int] = []
    snapshot_at = reads.snapshot_at

    async def counting(reader: Any, environment_id: int, own: Any, version: int) -> Any:
        kept = await reads.kept_snapshot(reader, environment_id, own, version)
        folded.append(version - kept.version)
        return await snapshot_at(reader, environment_id, own, version)

    monkeypatch.setattr(reads, "snapshot_at", counting)
    feed = Feed(api, "/realtime/v1/runs/r")
    feed.next()
    for version in (2, 1_500, 3_999):
        feed.offset = f"{version}_{2 * 16}"
        feed.is_up_to_date = True
        (row,) = feed.next()
        assert (row["status"], counts([row])) == ("EXECUTING", [version - 1])
        assert feed.offset == f"{version + 1}_{2 * 16}"
        for _ in range(3):
            feed.next()
    assert len(folded) == 3
    assert max(folded) <= 1_000  # Within the request that wrote them, once; and never from the beginning.


def test_runs_that_lag_behind_a_long_request_are_folded_once(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create("r", metadata={"n": 0}, tags=["a"])
    feed = Feed(api, "/realtime/v1/runs?tags=a")
    feed.next()
    api.put("r", {"operations": [{"type": "increment", "key": "n", "value": 1}] * 1_000})
    folded: list[int] = []
    snapshot_at = reads.snapshot_at

    async def counting(reader: Any, environment_id: int, own: Any, version: int) -> Any:
        folded.append(version)
        return await snapshot_at(reader, environment_id, own, version)

    monkeypatch.setattr(reads, "snapshot_at", counting)
    assert [counts(feed.next()) for _ in range(20)] == [[n] for n in range(1, 21)]
    assert folded == [2]


# --- several runs ---


def test_tags_have_to_be_present_all_of_them(api: Service) -> None:
    api.create("both", tags=["a", "b", "c"])
    api.create("one", tags=["a"])
    api.create("none")
    ids = {
        query: sorted(row["id"] for row in Feed(api, f"/realtime/v1/runs?tags={query}").next())
        for query in ("a", "a,b", "b,a,c", "d", "a,", ",a,,b,")
    }
    assert ids == {
        "a": ["both", "one"],
        "a,b": ["both"],
        "b,a,c": ["both"],
        "d": [],
        "a,": ["both", "one"],
        ",a,,b,": ["both"],
    }


def test_an_answer_holds_no_two_versions_of_one_run(api: Service) -> None:
    for run in ("one", "two"):
        api.create(run, tags=["a"], metadata={"n": 0})
    feed = Feed(api, "/realtime/v1/runs?tags=a")
    feed.next()
    for run in ("one", "two", "two", "one", "one"):
        add(api, run)
    answers = [[(row["id"], counts([row])[0]) for row in feed.next()] for _ in range(4)]
    assert answers == [[("one", 1), ("two", 1)], [("two", 2), ("one", 2)], [("one", 3)], []]


def test_a_run_that_gains_a_tag_comes_whole(api: Service) -> None:
    api.create("r", payload={"rows": 3}, tags=["b"])
    feed = Feed(api, "/realtime/v1/runs?tags=a,b")
    assert feed.next() == []
    add(api)
    assert feed.next() == []
    api.post("/api/v1/runs/r/tags", {"tags": ["a"]})
    rows: list[Row] = []
    while not rows or rows[-1]["runTags"] != ["b", "a"]:
        rows += [row.copy() for row in feed.next()]
    assert rows[-1]["payload"] == '{"rows":3}'
    assert counts(rows)[-1] == 1


@pytest.mark.parametrize(
    ("window", "ids"),
    [("", ["young"]), ("&createdAt=1h", []), ("&createdAt=23h", ["young"]), ("&createdAt=2d", ["old", "young"])],
)
def test_runs_are_shown_that_are_young_enough(api: Service, window: str, ids: list[str]) -> None:
    api.create("old", tags=["a"])
    api.now += 23 * 3_600 * SECOND
    api.create("young", tags=["a"])
    api.now += 2 * 3_600 * SECOND
    feed = Feed(api, f"/realtime/v1/runs?tags=a{window}")
    assert sorted(row["id"] for row in feed.next()) == ids
    for run in ("old", "young"):
        add(api, run)
    assert sorted(row["id"] for row in feed.next()) == ids
    api.now += 365 * 86_400 * SECOND  # What was young enough at the beginning stays.
    add(api, "young")
    assert [row["id"] for row in feed.next()] == [run for run in ids if run == "young"]


@pytest.mark.parametrize("query", ["", "?tags=", "?tags=,", "?tags=%20"])
def test_a_feed_of_no_tags_is_refused(api: Service, query: str) -> None:
    assert problem(api.get(f"/realtime/v1/runs{query}"), 400)["code"] == "bad-parameter"


@pytest.mark.parametrize("window", ["1", "h", "-1h", "0h", "1x", "1h1h", "9" * 10 + "h"])
def test_a_window_that_is_none_is_refused(api: Service, window: str) -> None:
    assert problem(api.get(f"/realtime/v1/runs?tags=a&createdAt={window}"), 400)["code"] == "bad-parameter"


def test_more_tags_than_a_run_can_have_are_refused(api: Service) -> None:
    assert problem(api.get(f"/realtime/v1/runs?tags={','.join('abcdefghijk')}"), 422)["limit"] == 10


def test_pages_show_all_runs_as_they_stood_when_the_first_was_made(api: Service) -> None:
    count = 2 * PAGE_RUNS_MAX + 7
    for number in range(count):
        api.create(f"r{number}", tags=["a"], metadata={"n": 0})
    feed = Feed(api, "/realtime/v1/runs?tags=a")
    rows = [row.copy() for row in feed.next()]
    assert not feed.offset.endswith("_0")
    add(api, "r0")  # It is on the last page.
    api.move("r0", "COMPLETED", output=1)
    api.create("later", tags=["a"])
    while not feed.is_up_to_date:
        rows += [row.copy() for row in feed.next()]
    assert sorted(row["id"] for row in rows) == sorted(f"r{number}" for number in range(count))
    assert counts(rows) == [0] * count
    assert {row["status"] for row in rows} == {"PENDING"}
    more = [row.copy() for _ in range(3) for row in feed.next()]
    assert [(row["id"], row["status"]) for row in more] == [
        ("r0", "PENDING"),
        ("r0", "COMPLETED_SUCCESSFULLY"),
        ("later", "PENDING"),
    ]


def test_pages_are_bounded_in_bytes(api: Service) -> None:
    for number in range(5):
        api.create(f"r{number}", tags=["a"], payload="x" * 500_000)
    feed = Feed(api, "/realtime/v1/runs?tags=a")
    sizes = [len(feed.next())]
    while not feed.is_up_to_date:
        sizes.append(len(feed.next()))
    assert sizes == [2, 2, 1]


def test_a_batch_is_followed(api: Service) -> None:
    batch = api.post("/api/v3/batches", {"runCount": 2}).json()["id"]
    feed = Feed(api, f"/realtime/v1/batches/{batch}")
    assert feed.next() == []
    items = '{"index":0,"task":"t"}\n{"index":1,"task":"u"}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    assert api.request("POST", f"/api/v3/batches/{batch}/items", content=items, headers=headers).status_code == 200
    api.create("other")
    rows = feed.next()
    assert sorted(row["taskIdentifier"] for row in rows) == ["t", "u"]
    add(api, rows[0]["id"])
    assert [row["id"] for row in feed.next()] == [rows[0]["id"]]
    late = Feed(api, f"/realtime/v1/batches/{batch}").next()
    assert {row["id"] for row in late} == {row["id"] for row in rows}
    assert sorted(counts(late), key=str) == [1, None]


@pytest.mark.parametrize("batch", ["batch_" + "0" * 25, "x", "a%00b"])
def test_an_unknown_batch_is_404(api: Service, batch: str) -> None:
    assert problem(api.get(f"/realtime/v1/batches/{batch}"), 404)["code"] == "batch-not-found"


def test_a_restricted_key_follows_only_what_it_is_for(api: Service) -> None:
    everything = Keyed(api)
    batch = everything.request("POST", "/api/v3/batches", json={"runCount": 2}).json()["id"]
    items = '{"index":0,"task":"mine"}\n{"index":1,"task":"theirs"}\n'
    path = f"/api/v3/batches/{batch}/items"
    everything.request("POST", path, content=items, headers={"Content-Type": "application/x-ndjson"})
    for run in ("mine", "theirs"):
        everything.create(run, task=run, tags=["a"])
    key = Keyed(api, scopes=["read:tasks:mine"])
    feeds = [
        Feed(api, path, key.headers) for path in ("/realtime/v1/runs?tags=a", f"/realtime/v1/batches/{batch}")
    ]
    assert [{row["taskIdentifier"] for row in feed.next()} for feed in feeds] == [{"mine"}] * 2
    for run in [run["id"] for run in everything.get("/api/v1/runs").json()["data"]]:
        everything.put(run)
    assert [{row["taskIdentifier"] for row in feed.next()} for feed in feeds] == [{"mine"}] * 2
    other = Keyed(api, scopes=["read:tasks:nothing"])
    answers = [other.get(f"/realtime/v1/batches/{one}") for one in (batch, "batch_" + "0" * 25)]
    assert [problem(answer, 404)["code"] for answer in answers] == ["batch-not-found"] * 2
    foreign = Keyed(api, "prod")
    assert problem(foreign.get(f"/realtime/v1/batches/{batch}"), 404)
    assert Feed(api, "/realtime/v1/runs?tags=a", foreign.headers).next() == []


# --- everything at random ---

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(["x", "y"]), st.integers(1, 3)),
        st.tuples(st.just("tag"), st.sampled_from(["x", "y"]), st.sampled_from(["a", "b", "c"])),
        st.tuples(
            st.just("move"), st.sampled_from(["x", "y"]), st.sampled_from(["EXECUTING", "WAITING", "COMPLETED"])
        ),
        st.tuples(st.just("poll"), st.sampled_from(["x", "y", "a", "a,b"]), st.booleans()),
    ),
    max_size=25,
)


@settings(thorough, max_examples=25)
@given(steps=STEPS)
def test_whatever_happens_every_version_is_seen_once_and_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, Any]]
) -> None:
    with service(tmp_path_factory.mktemp("random") / "ledger.db") as api:
        hold(api, 0)
        past: dict[tuple[str, int], Row] = {}
        versions = {"x": 0, "y": 0}
        attempts = {"x": 1, "y": 1}

        def note(run: str) -> None:
            """What each version looked like, from the routes that know nothing of feeds."""
            current = api.get(f"/api/v3/runs/{run}").json()
            for version in range(versions[run] + 1, int(current["version"]) + 1):
                metadata = api.get(f"/api/v1/runs/{run}/metadata?version={version}").json()["metadata"]
                past[run, version] = {
                    "metadata": metadata,
                    "status": STATUSES[current["status"]],
                    "runTags": current["tags"],
                    "completedAt": current.get("finishedAt", None) and current["finishedAt"][:-1],
                }
            versions[run] = int(current["version"])

        for run in ("x", "y"):
            api.create(run, metadata={"n": 0}, tags=["a"] if run == "x" else [])
            note(run)
        feeds = {
            name: Feed(api, f"/realtime/v1/runs/{name}" if name in versions else f"/realtime/v1/runs?tags={name}")
            for name in ("x", "y", "a", "a,b")
        }
        seen: dict[str, list[Row]] = {name: [row.copy() for row in feed.next()] for name, feed in feeds.items()}
        for what, name, value in steps:
            if what == "poll":
                seen[name] += [row.copy() for row in feeds[name].next(value)]
                continue
            if what == "add":
                operations = [{"type": "increment", "key": "n", "value": 1}] * value
                assert api.put(name, {"operations": operations}).status_code == 200
            elif what == "tag":
                api.post(f"/api/v1/runs/{name}/tags", {"tags": [value]})
            else:
                attempts[name] += 1
                api.move(name, value, attempt=attempts[name])
            note(name)
            api.now += SECOND
        for name, feed in feeds.items():
            before = ""
            while feed.offset != before:
                before = feed.offset
                seen[name] += [row.copy() for row in feed.next()]
        for run, last in versions.items():
            shown = [_comparable(row) for row in seen[run]]
            assert shown == [past[run, version] for version in range(1, last + 1)]
        for tags in ("a", "a,b"):
            for run, last in versions.items():
                tagged = set(tags.split(",")) <= set(past[run, last]["runTags"])
                shown = [_comparable(row) for row in seen[tags] if row["id"] == run]
                if not tagged:
                    assert shown == []
                    continue
                # From the version on with which it had the tags, or some before it, none is missing.
                first = next(v for v in range(1, last + 1) if set(tags.split(",")) <= set(past[run, v]["runTags"]))
                since = [past[run, version] for version in range(first, last + 1)]
                assert _without_tags(shown)[-len(since) :] == _without_tags(since)


def _comparable(row: Row) -> Row:
    return {
        "metadata": json.loads(row["metadata"]),
        "status": row["status"],
        "runTags": row["runTags"],
        "completedAt": row["completedAt"],
    }


def _without_tags(rows: list[Row]) -> list[Row]:
    """A feed by tags goes by the present ones, so it shows these."""
    return [{name: value for name, value in row.items() if name != "runTags"} for row in rows]


# --- polls that are held ---


async def held(app: Starlette, count: int) -> None:
    """Wait until so many polls are held."""
    while len(app.state.streams._open) < count:  # noqa: ASYNC110 - Nobody tells.
        await asyncio.sleep(0.001)


def while_held(
    api: Service, paths: list[str], work: Callable[[], Awaitable[Any]], headers: Any = None
) -> list[Any]:
    """Answers to polls, all of which are held when *work* is done."""

    async def run() -> list[Any]:
        polls = [asyncio.create_task(api._http.get(path, headers=headers)) for path in paths]
        app = cast("Any", api._http._transport).app
        async with asyncio.timeout(PATIENCE_S):
            await held(app, len(paths))
            await work()
            return await asyncio.gather(*polls)

    return api._runner.run(run())


def test_a_held_poll_is_answered_as_soon_as_there_is_something(api: Service) -> None:
    api.create("r", tags=["a"], metadata={"n": 0})
    api.create("other", tags=["b"])
    hold(api, PATIENCE_S * 10)
    feeds = [Feed(api, path) for path in ("/realtime/v1/runs/r", "/realtime/v1/runs?tags=a")]
    for feed in feeds:
        feed.next()

    async def work() -> None:
        for run in ("other", "r", "r"):
            body = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
            await api._http.put(f"/api/v1/runs/{run}/metadata", json=body)

    answers = while_held(api, [feed.query() for feed in feeds], work)
    assert [counts(feed.take(answer)) for feed, answer in zip(feeds, answers, strict=True)] == [[1], [1]]
    assert [counts(feed.next()) for feed in feeds] == [[2], [2]]


def test_a_held_poll_is_answered_when_the_server_ends(api: Service) -> None:
    api.create("r", tags=["a"])
    app = hold(api, PATIENCE_S * 10)
    feeds = [Feed(api, path) for path in ("/realtime/v1/runs/r", "/realtime/v1/runs?tags=a")]
    for feed in feeds:
        feed.next()

    async def work() -> None:
        app.state.streams.close()

    answers = while_held(api, [feed.query() for feed in feeds], work)
    offsets = [feed.offset for feed in feeds]
    assert [feed.take(answer) for feed, answer in zip(feeds, answers, strict=True)] == [[], []]
    assert [feed.offset for feed in feeds] == offsets
    assert problem(api.get(feeds[0].query()), 503)["code"] == "closing"


def test_a_poll_whose_key_is_revoked_meanwhile_tells_nothing(api: Service) -> None:
    hold(api, PATIENCE_S * 10)
    writer, reader = Keyed(api), Keyed(api)
    writer.create("r", tags=["a"], metadata={"n": 0})
    feeds = [Feed(api, path, reader.headers) for path in ("/realtime/v1/runs/r", "/realtime/v1/runs?tags=a")]
    for feed in feeds:
        feed.next()

    async def work() -> None:
        await api._ledger.keys.revoke(api._log.owner, reader.id)
        body = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
        await api._http.put("/api/v1/runs/r/metadata", json=body, headers=writer.headers)

    for answer in while_held(api, [feed.query() for feed in feeds], work, reader.headers):
        assert problem(answer, 401)["code"] == "no-longer-admitted"


def test_a_poll_whose_token_expires_meanwhile_tells_nothing(api: Service) -> None:
    hold(api, PATIENCE_S * 10)
    key = Keyed(api)
    key.create("r", metadata={"n": 0})
    token = bearer(token_of(api, key, "read:runs:r"))
    feed = Feed(api, "/realtime/v1/runs/r", token)
    feed.next()

    async def work() -> None:
        api.now += 900 * SECOND
        body = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
        await api._http.put("/api/v1/runs/r/metadata", json=body, headers=key.headers)

    (answer,) = while_held(api, [feed.query()], work, token)
    assert problem(answer, 401)["code"] == "no-longer-admitted"


def test_only_so_many_polls_of_one_caller_are_held(api: Service) -> None:
    hold(api, PATIENCE_S * 10, per_caller=2)
    key = Keyed(api)
    key.create("r", metadata={"n": 0})
    feed = Feed(api, "/realtime/v1/runs/r", key.headers)
    feed.next()
    token = bearer(token_of(api, key, "read:runs:r"))
    refused: list[httpx2.Response] = []

    async def work() -> None:
        refused.append(await api._http.get(feed.query(), headers=key.headers))
        other = asyncio.create_task(
            api._http.get(feed.query(), headers=token)
        )  # Tokens have a bound of their own.
        await held(cast("Any", api._http._transport).app, 3)
        body = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
        await api._http.put("/api/v1/runs/r/metadata", json=body, headers=key.headers)
        assert (await other).status_code == 200

    answers = while_held(api, [feed.query()] * 2, work, key.headers)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert problem(refused[0], 429)["code"] == "too-many-streams"
    assert not cast("Any", api._http._transport).app.state.streams._seats


def test_readers_that_leave_are_noticed(server: Server) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t"})
        answer = http.get("/realtime/v1/runs/r")
        handle, offset = answer.headers["electric-handle"], answer.headers["electric-offset"]
        path = f"/realtime/v1/runs/r?handle={handle}&offset={offset}&live=true"
        idle = server.count_connections()
        sockets = [server.connect() for _ in range(5)]
        for one in sockets:
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        http.get("/healthz")
        for one in sockets:
            with closing(one):
                pass
        while server.count_connections() > idle:
            assert http.get("/healthz").status_code == 200
    assert server.terminate() == -signal.SIGTERM
