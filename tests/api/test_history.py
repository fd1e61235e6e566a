"""The history of a run: its events on the wire, paging, the key filter."""

import re

import pytest

from tests.api.service import SECOND, Service, operation, problem


def test_an_event_has_exactly_these_members(api: Service) -> None:
    api.create("r", metadata={"a": 1})
    api.now += SECOND
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    operations = [
        {**operation("set", "k", [1]), "occurredAt": "2023-11-14T23:00:00+01:00"},
        operation("delete", "k"),
        {"type": "update", "value": {"z": 0}},
    ]
    api.put("r", {"operations": operations, "actor": "ann", "attempt": 2}, {"traceparent": trace})
    api.move("r", "COMPLETED", output={"ok": True}, actor="bob")
    events = api.history()
    did = [
        {name: event.pop(name) for name in ("before", "after", "sizeBytes") if name in event} for event in events
    ]
    assert did == [
        {"after": {"a": 1}, "sizeBytes": 7},
        {"after": [1], "sizeBytes": 15},
        {"before": [1], "sizeBytes": 7},
        {"before": {"a": 1}, "after": {"z": 0}, "sizeBytes": 7},
        {"sizeBytes": 7},
    ]
    hashes = [event.pop("hash") for event in events]
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes)
    assert len(set(hashes)) == 5
    changed = {
        "runId": "r",
        "actor": "ann",
        "attempt": 2,
        "headers": {"traceparent": trace},
        "occurredAt": None,
        "recordedAt": "2023-11-14T22:13:21.000000Z",
    }
    assert events == [
        {
            "position": 1,
            "runId": "r",
            "version": 1,
            "type": "run.created",
            "data": {
                "task": "t",
                "parent": None,
                "root": None,
                "batch": None,
                "tags": [],
                "status": "QUEUED",
                "idempotencyKey": None,
                "payload": None,
                "payloadType": None,
                "metadata": {"a": 1},
            },
            "actor": "anonymous",
            "attempt": 1,
            "headers": {},
            "occurredAt": None,
            "recordedAt": "2023-11-14T22:13:20.000000Z",
        },
        {
            **changed,
            "position": 2,
            "version": 2,
            "type": "metadata.set",
            "key": "k",
            "value": [1],
            "data": {"key": "k", "value": [1]},
            "occurredAt": "2023-11-14T22:00:00.000000Z",
        },
        {**changed, "position": 3, "version": 3, "type": "metadata.deleted", "key": "k", "data": {"key": "k"}},
        {
            **changed,
            "position": 4,
            "version": 4,
            "type": "metadata.updated",
            "value": {"z": 0},
            "data": {"value": {"z": 0}},
        },
        {
            **changed,
            "position": 5,
            "version": 5,
            "type": "run.status_changed",
            "data": {"status": "COMPLETED", "output": {"ok": True}},
            "actor": "bob",
            "attempt": 1,
            "headers": {},
        },
    ]


@pytest.mark.parametrize(
    "trace", ["", "garbage", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\x0b", "é"]
)
def test_a_broken_trace_context_is_ignored(api: Service, trace: str) -> None:
    api.create("r")
    headers = [(b"traceparent", trace.encode("latin-1"))]
    body = {"operations": [operation("set", "a", 1)]}
    assert api.request("PUT", "/api/v1/runs/r/metadata", json=body, headers=headers).status_code == 200
    assert api.history()[-1]["headers"] == {}


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2023-11-14T22:13:20.1234569Z", "2023-11-14T22:13Z"],
)
def test_every_moment_that_is_accepted_can_be_read_back(api: Service, moment: str) -> None:
    api.create("r")
    body = {"operations": [{**operation("set", "a", 1), "occurredAt": moment}]}
    assert api.put("r", body).status_code == 200
    shown = api.history()[-1]["occurredAt"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shown)
    assert shown.startswith(moment[:16])


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"])
def test_a_moment_that_utc_cannot_write_is_refused_before_it_is_stored(api: Service, moment: str) -> None:
    api.create("r")
    body = {"operations": [{**operation("set", "a", 1), "occurredAt": moment}]}
    answer = problem(api.put("r", body), 400)
    assert answer["detail"].startswith("operations[0].occurredAt: ")
    assert answer["detail"].endswith("the time lies outside the years 1 to 9999 in UTC")
    assert len(api.history()) == 1


@pytest.fixture
def long(api: Service) -> Service:
    api.create("other")
    api.create("r", metadata={"n": 0})
    for number in range(1, 24):
        api.put("r", {"operations": [operation("set", "odd" if number % 2 else "even", number)]})
        api.put("other", {"operations": [operation("set", "x", number)]})
    return api


@pytest.mark.parametrize("limit", [1, 5, 23, 24, 25, 1_000])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_paging_to_the_end_shows_every_event_once(long: Service, limit: int, order: str) -> None:
    query = f"limit={limit}&order={order}"
    seen, pages, cursor = [], 0, ""
    while True:
        page = long.get(f"/api/v1/runs/r/metadata/history?{query}{cursor}").json()
        versions = [event["version"] for event in page["data"]]
        seen += versions
        pages += 1
        assert page["pagination"].get("previous") == (None if pages == 1 else str(versions[0]))
        if "next" not in page["pagination"]:
            break
        assert page["pagination"]["next"] == str(seen[-1])
        cursor = f"&after={page['pagination']['next']}"
    assert seen == (list(range(1, 25)) if order == "asc" else list(range(24, 0, -1)))
    assert pages == -(-24 // limit)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_paging_with_a_key_shows_its_events_only(long: Service, order: str) -> None:
    seen, cursor = [], ""
    while True:
        page = long.get(f"/api/v1/runs/r/metadata/history?limit=4&key=odd&order={order}{cursor}").json()
        seen += [event["value"] for event in page["data"]]
        if "next" not in page["pagination"]:
            break
        cursor = f"&after={page['pagination']['next']}"
    odd = list(range(1, 24, 2))
    assert seen == (odd if order == "asc" else odd[::-1])


def test_the_default_page_is_the_first_hundred_oldest_first(api: Service) -> None:
    api.create("r")
    api.put("r", {"operations": [operation("increment", "n", 1)] * 100})
    page = api.get("/api/v1/runs/r/metadata/history").json()
    assert [event["version"] for event in page["data"]] == list(range(1, 101))
    assert page["pagination"] == {"next": "100"}


@pytest.mark.parametrize(
    ("query", "versions", "pagination"),
    [
        ("after=0&limit=2", [1, 2], {"next": "2"}),
        ("after=24", [], {}),
        ("after=999", [], {}),
        (f"after={2**53}", [], {}),
        ("after=0&order=desc", [], {}),
        ("after=1&order=desc", [], {}),
        ("after=999&order=desc&limit=2", [24, 23], {"next": "23"}),
        ("after=22", [23, 24], {"previous": "23"}),
        ("before=1", [], {}),
        ("before=0", [], {}),
        ("before=3", [1, 2], {"next": "2"}),
        ("before=10&limit=2", [8, 9], {"next": "9", "previous": "8"}),
        (f"before={2**53}&limit=2", [23, 24], {"previous": "23"}),
        ("before=24&order=desc", [], {}),
        ("before=22&order=desc", [24, 23], {"next": "23"}),
        ("before=3&order=desc&limit=2", [5, 4], {"next": "4", "previous": "5"}),
        ("key=nothing", [], {}),
        ("key=n", [1], {}),
    ],
)
def test_a_page_at_the_edge(long: Service, query: str, versions: list[int], pagination: dict[str, str]) -> None:
    page = long.get(f"/api/v1/runs/r/metadata/history?{query}").json()
    assert [event["version"] for event in page["data"]] == versions
    assert page["pagination"] == pagination


def test_a_key_finds_what_it_holds_and_what_holds_it(api: Service) -> None:
    api.create("r", metadata={"a": {"b": {"c": 1}}, "z": 1})
    operations = [
        operation("set", "$.a.b.c", 2),  # 2: itself
        operation("set", "$.a.x", 1),  # 3: a neighbour
        operation("set", "$.a.b", {"c": 2}),  # 4: what holds it, though equal
        operation("set", "$.a.b.c", {"d": 1}),  # 5: itself
        operation("set", "$.a.b.c.d", 2),  # 6: what it holds
        operation("set", "a.b.c", 0),  # 7: a literal key of that name
        operation("delete", "$.a.b.c"),  # 8: a literal key that only looks like it
        {"type": "update", "value": {"a": {"b": {"c": {"d": 2}}}}},  # 9: replaced by an equal value
        {"type": "update", "value": {}},  # 10: gone
        operation("delete", "a"),  # 11: what holds it, though gone
    ]
    api.put("r", {"operations": operations})
    api.move("r", "EXECUTING")

    def versions(key: str) -> list[int]:
        return [event["version"] for event in api.history("r", f"key={key}")]

    assert versions("$.a.b.c") == [1, 2, 4, 5, 6, 10, 11]
    assert versions("a.b.c") == [7, 9]
    assert versions("%24.a.b.c.d") == [2, 4, 5, 6, 10, 11]
    assert versions("a") == [1, 2, 3, 4, 5, 6, 9, 10, 11]
    assert versions("") == []


@pytest.mark.parametrize("key", ["$.", "$.*", "__proto__", "$.a.[0:1]", "$.a\\.b", "$.x.constructor"])
def test_a_key_that_no_operation_may_use_is_400(api: Service, key: str) -> None:
    api.create("r")
    response = api.request("GET", "/api/v1/runs/r/metadata/history", params={"key": key})
    assert problem(response, 400)["code"] == "bad-path"


@pytest.mark.parametrize("limit", ["0", "-1", "1001"])
def test_a_limit_past_its_bounds_is_422(api: Service, limit: str) -> None:
    api.create("r")
    assert problem(api.get(f"/api/v1/runs/r/metadata/history?limit={limit}"), 422)["limit"] == 1_000
