"""The past over HTTP: values before and after, refusals, diffs, explanations, and the list of runs as it stood."""

from typing import Any
from urllib.parse import quote

import jsonpatch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.service import SECOND, Service, operation, problem

RUN = "/api/v1/runs/r/metadata"
FIRST, LAST = "2023-11-14T22:13:20Z", "2023-11-14T22:13:23Z"


@pytest.fixture
def told(api: Service) -> Service:
    """A run and its child, in four seconds: each request is one second later than the one before."""
    api.create("r", metadata={"n": 1, "o": {"x": 1}}, actor="ann", tags=["x"])
    api.now += SECOND
    api.put("r", {"operations": [operation("increment", "n", 1), operation("set", "$.o.x", None)], "actor": "ann"})
    api.now += SECOND
    api.create("child", parentRunId="r")
    body = {"parentOperations": [operation("append", "n", 7)], "attempt": 2, "actor": "bob"}
    assert api.put("child", body).status_code == 200
    refused = api.put("r", {"operations": [operation("set", "s", "x" * 5_000)], "actor": "eve", "attempt": 3})
    assert refused.status_code == 413
    api.now += SECOND
    api.put("r", {"metadata": {"o": {"x": True}}, "actor": "ann"})
    api.move("r", "EXECUTING", actor="bob", attempt=2)
    return api


def versions(api: Service, query: str) -> list[int]:
    return [event["version"] for event in api.history("r", query)]


# --- history ---


def test_every_entry_says_what_was_there_before_and_after_and_the_size(told: Service) -> None:
    did = [
        (event["version"], event.get("before", "none"), event.get("after", "none"), event["sizeBytes"])
        for event in told.history()
    ]
    assert did == [
        (1, "none", {"n": 1, "o": {"x": 1}}, 19),
        (2, 1, 2, 19),
        (3, 1, None, 22),
        (4, 2, [2, 7], 26),
        (5, {"n": [2, 7], "o": {"x": None}}, {"o": {"x": True}}, 16),
        (6, "none", "none", 16),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("actor=ann", [1, 2, 3, 5]),
        ("actor=bob", [4, 6]),
        ("actor=", []),
        ("type=metadata.set", [3]),
        ("type=metadata.set,run.created", [1, 3]),
        ("type=run.status_changed", [6]),
        ("attempt=2", [6]),
        ("attempt=1", [1, 2, 3, 4, 5]),
        ("attempt=7", []),
        (f"to={FIRST}", [1]),
        (f"from={LAST}", [5, 6]),
        ("from=2023-11-14T22:13:21Z&to=2023-11-14T22:13:22Z", [2, 3, 4]),
        ("from=2023-11-14T22:13:20.000001Z&to=2023-11-14T22:13:20.999999Z", []),
        ("from=2023-11-15T00:13:23%2B02:00", [5, 6]),
        ("to=1999-01-01T00:00:00Z", []),
        ("key=n&actor=ann", [1, 2, 5]),
        ("key=$.o.x&actor=ann&order=desc&limit=2", [5, 3]),
        ("actor=ann&before=5&limit=2", [2, 3]),
        ("actor=ann&after=5&limit=2&order=desc", [3, 2]),
    ],
)
def test_filters(told: Service, query: str, expected: list[int]) -> None:
    assert versions(told, query) == expected


def test_refusals_are_shown_in_line_when_they_are_asked_for(told: Service) -> None:
    assert [event["type"] for event in told.history("r", "include=refusals")] == [
        "run.created",
        "metadata.incremented",
        "metadata.set",
        "metadata.appended",
        "refused",
        "metadata.updated",
        "run.status_changed",
    ]
    (refused,) = told.history("r", "include=refusals&after=3&order=asc&limit=1")[1:]
    assert refused == {
        "runId": "r",
        "version": 4,
        "type": "refused",
        "code": "metadata-too-large",
        "reason": "the value of one operation would be 5,002 bytes, the limit is 4,096; "
        "delete or shorten the largest keys first",
        "sizeBytes": 5_002,
        "limitBytes": 4_096,
        "actor": "eve",
        "attempt": 3,
        "headers": {},
        "recordedAt": "2023-11-14T22:13:22.000000Z",
    }
    assert "refused" not in [event["type"] for event in told.history()]


def test_a_page_that_ends_before_its_limit_says_where_it_goes_on(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create("r")
    api.put("r", {"operations": [operation("set", "k", "x" * 1_000)] * 30})
    monkeypatch.setattr("ledger.history.PAGE_BYTES_MAX", 20_000)
    seen: list[int] = []
    query = ""
    while True:
        page = api.get(f"{RUN}/history?limit=1000{query}").json()
        seen += [event["version"] for event in page["data"]]
        if "next" not in page["pagination"]:
            break
        assert len(page["data"]) < 10
        query = f"&after={page['pagination']['next']}"
    assert seen == list(range(1, 32))


BAD_HISTORY = [
    ("after=1&before=2", 400, "not for both"),
    ("before=x", 400, "before must be a whole number"),
    ("before=-1", 422, "before must lie within 0"),
    ("limit=1001", 422, "limit must lie within 1 and 1000"),
    ("type=metadata.sett", 400, "not 'metadata.sett'"),
    ("type=metadata.set,nope", 400, "not 'nope'"),
    ("type=", 400, "type: there are run.created"),
    ("type=,", 400, "type: there are run.created"),
    ("attempt=0", 422, "attempt must lie within 1"),
    ("attempt=two", 400, "attempt must be a whole number"),
    (f"attempt={2**31}", 422, "attempt must lie within 1"),
    ("from=yesterday", 400, "from: not an ISO 8601 time"),
    ("to=5", 400, "to: not an ISO 8601 time"),
    (f"from={LAST}&to={FIRST}", 400, "from lies behind to"),
    ("include=everything", 400, "include must be refusals"),
    ("include=", 400, "include must be refusals"),
    ("include=refusals&include=refusals", 400, "given twice"),
    ("actor=a&actor=b", 400, "given twice"),
    ("since=2023-11-14T22:13:20Z", 400, "unknown query parameter 'since'"),
]


@pytest.mark.parametrize(("query", "status", "words"), BAD_HISTORY)
def test_a_history_that_cannot_be_meant_is_refused(told: Service, query: str, status: int, words: str) -> None:
    assert words in problem(told.get(f"{RUN}/history?{query}"), status)["detail"]


# --- diff ---


def patch(api: Service, query: str = "", run: str = "r") -> Any:
    response = api.get(f"/api/v1/runs/{run}/metadata/diff?{query}")
    assert response.status_code == 200, response.text
    return response.json()


def test_a_diff_is_a_json_patch(told: Service) -> None:
    response = told.get(f"{RUN}/diff?from=1&to=3")
    assert response.json() == [
        {"op": "replace", "path": "/n", "value": 2},
        {"op": "replace", "path": "/o/x", "value": None},
    ]
    assert response.headers["content-type"] == "application/json-patch+json"
    assert (response.headers["from-version"], response.headers["to-version"]) == ("1", "3")
    assert patch(told, "from=3&to=3") == []
    assert patch(told, "from=5&to=1") == [
        {"op": "add", "path": "/n", "value": 1},
        {"op": "replace", "path": "/o/x", "value": 1},
    ]


def test_without_points_a_diff_goes_from_creation_to_now(told: Service) -> None:
    expected = [{"op": "remove", "path": "/n"}, {"op": "replace", "path": "/o/x", "value": True}]
    assert patch(told) == patch(told, "from=1") == patch(told, "to=6") == patch(told, "from=1&to=6") == expected


def test_the_points_of_a_diff_may_be_times(told: Service) -> None:
    assert patch(told, f"from={FIRST}&to=2023-11-14T22:13:21Z") == patch(told, "from=1&to=3")
    assert patch(told, f"from=2&to={LAST}") == patch(told, "from=2&to=6")


def test_every_pair_of_versions_gives_a_patch_that_fits(told: Service) -> None:
    states = {version: told.get(f"{RUN}?version={version}").json()["metadata"] for version in range(1, 7)}
    for start, before in states.items():
        for end, after in states.items():
            assert jsonpatch.apply_patch(before, patch(told, f"from={start}&to={end}")) == after


def test_two_runs_are_compared_as_they_are_now(told: Service) -> None:
    told.create("s", metadata={"o": {"x": 1}})
    response = told.get(f"{RUN}/diff?toRun=s")
    assert response.json() == [{"op": "replace", "path": "/o/x", "value": 1}]
    assert (response.headers["from-version"], response.headers["to-version"]) == ("6", "1")
    assert patch(told, "from=1&to=1&toRun=s") == [{"op": "remove", "path": "/n"}]
    assert patch(told, "toRun=r") == []


BAD_DIFF = [
    ("from=0", 422, "from must lie within 1"),
    ("to=-1", 422, "to must lie within 1"),
    ("from=99999999999999999999", 400, "from must be a whole number"),
    ("from=7", 404, "run r has no version 7"),
    ("to=2020-01-01T00:00:00Z", 404, "run r has no version at 2020-01-01T00:00:00.000000Z"),
    ("from=", 400, "from: not an ISO 8601 time"),
    ("from=1.0", 400, "from: not an ISO 8601 time"),
    ("from=\u0661", 400, "from: not an ISO 8601 time"),
    ("from=1&from=2", 400, "given twice"),
    ("version=1", 400, "unknown query parameter 'version'"),
    ("toRun=nobody", 404, "there is no run nobody"),
    ("toRun=a/b", 400, "toRun must be the id of a run"),
    ("toRun=", 400, "toRun must be the id of a run"),
]


@pytest.mark.parametrize(("query", "status", "words"), BAD_DIFF)
def test_a_diff_that_cannot_be_meant_is_refused(told: Service, query: str, status: int, words: str) -> None:
    assert words in problem(told.get(f"{RUN}/diff?{quote(query, safe='=&')}"), status)["detail"]


# --- explain ---


def test_an_explanation_tells_who_did_what_and_what_was_wiped(told: Service) -> None:
    told.put("r", {"operations": [{**operation("set", "n", 5), "occurredAt": "2023-11-14T22:00:00Z"}]})
    answer = told.get(f"{RUN}/explain?key=n").json()
    events = answer.pop("events")
    assert answer == {"runId": "r", "key": "n", "value": 5, "version": 7, "pagination": {}}
    common = {"occurredAt": None, "attempt": 1}
    assert events == [
        {
            **common,
            "version": 1,
            "type": "run.created",
            "actor": "ann",
            "recordedAt": "2023-11-14T22:13:20.000000Z",
            "valueAfter": 1,
            "wipedBy": 5,
        },
        {
            **common,
            "version": 2,
            "type": "metadata.incremented",
            "key": "n",
            "value": 1,
            "actor": "ann",
            "recordedAt": "2023-11-14T22:13:21.000000Z",
            "valueAfter": 2,
            "wipedBy": 5,
        },
        {
            **common,
            "version": 4,
            "type": "metadata.appended",
            "key": "n",
            "value": 7,
            "actor": "bob",
            "sourceRun": "child",
            "sourceAttempt": 2,
            "recordedAt": "2023-11-14T22:13:22.000000Z",
            "valueAfter": [2, 7],
            "wipedBy": 5,
        },
        {
            **common,
            "version": 5,
            "type": "metadata.updated",
            "actor": "ann",
            "recordedAt": "2023-11-14T22:13:23.000000Z",
            "wipedBy": 7,
        },
        {
            **common,
            "version": 7,
            "type": "metadata.set",
            "key": "n",
            "value": 5,
            "actor": "anonymous",
            "attempt": 2,
            "occurredAt": "2023-11-14T22:00:00.000000Z",
            "recordedAt": "2023-11-14T22:13:23.000000Z",
            "valueAfter": 5,
        },
    ]


def test_a_value_that_is_not_there_is_left_out_of_its_explanation(told: Service) -> None:
    answer = told.get(f"{RUN}/explain?key=n").json()
    assert "value" not in answer
    assert "valueAfter" not in answer["events"][-1]
    assert told.get(f"{RUN}/explain?key=$.o.x&version=3").json()["value"] is None
    nothing = told.get(f"{RUN}/explain?key=nothing").json()
    assert nothing == {"runId": "r", "key": "nothing", "version": 6, "events": [], "pagination": {}}


@pytest.mark.parametrize(
    ("query", "shown", "value", "previous"),
    [
        ("version=3", [1, 3], None, None),
        (f"at={FIRST}", [1], 1, None),
        ("limit=1", [5], True, "5"),
        ("limit=1&before=5", [3], True, "3"),
        ("limit=1&before=3", [1], True, None),
        ("before=1", [], True, None),
        ("version=3&before=3", [1], None, None),
    ],
)
def test_explanations_of_the_past_and_in_pages(
    told: Service, query: str, shown: list[int], value: Any, previous: str | None
) -> None:
    answer = told.get(f"{RUN}/explain?key=$.o.x&{query}").json()
    assert [event["version"] for event in answer["events"]] == shown
    assert answer["value"] is value or answer["value"] == value
    assert answer["pagination"] == ({} if previous is None else {"previous": previous})


def test_a_page_further_back_knows_what_wiped_its_events(told: Service) -> None:
    (first,) = told.get(f"{RUN}/explain?key=$.o.x&limit=1&before=3").json()["events"]
    assert first["wipedBy"] == 3


BAD_EXPLAIN = [
    ("", 400, "name the value to explain"),
    ("key=$.", 400, "the path names nothing"),
    ("key=__proto__", 400, "this name is forbidden"),
    ("key=$.a.*", 400, "wildcards are not supported"),
    ("key=a&version=0", 422, "version must lie within 1"),
    ("key=a&version=7", 404, "run r has no version 7"),
    (f"key=a&version=1&at={FIRST}", 400, "not for both"),
    ("key=a&at=2020-01-01T00:00:00Z", 404, "run r has no version at"),
    ("key=a&at=now", 400, "at: not an ISO 8601 time"),
    ("key=a&limit=0", 422, "limit must lie within 1"),
    ("key=a&before=x", 400, "before must be a whole number"),
    ("key=a&key=b", 400, "given twice"),
    ("key=a&order=asc", 400, "unknown query parameter 'order'"),
]


@pytest.mark.parametrize(("query", "status", "words"), BAD_EXPLAIN)
def test_an_explanation_that_cannot_be_meant_is_refused(
    told: Service, query: str, status: int, words: str
) -> None:
    assert words in problem(told.get(f"{RUN}/explain?{query}"), status)["detail"]


@pytest.mark.parametrize("what", ["history", "diff", "explain?key=a"])
def test_a_run_that_does_not_exist_has_no_past(api: Service, what: str) -> None:
    for run in ("nobody", "a%20b", "%00"):
        assert problem(api.get(f"/api/v1/runs/{run}/metadata/{what}"), 404)["code"] == "run-not-found"


@pytest.mark.parametrize("what", ["history", "diff", "explain"])
def test_the_past_can_only_be_read(told: Service, what: str) -> None:
    response = told.request("POST", f"{RUN}/{what}", json={})
    assert problem(response, 405)["detail"].endswith("allowed: GET, HEAD")


NAMES = ["after", "before", "limit", "order", "include", "key", "actor", "type", "attempt", "from", "to"]
NAMES += ["toRun", "version", "at", "asOf", "page[after]", "page[size]", "filter[status]"]
TEXTS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "-1", "1e3", "desc", "r", "$.a", "%", "_", FIRST, "9" * 30, "\x00", "\ud800", "'"]
    ),
    st.text(max_size=6),
)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([f"{RUN}/history", f"{RUN}/diff", f"{RUN}/explain", "/api/v1/runs"]),
    st.lists(st.tuples(st.sampled_from(NAMES), TEXTS), max_size=3),
)
def test_no_query_is_answered_with_a_fault_of_the_server(
    told: Service, path: str, query: list[tuple[str, str]]
) -> None:
    text = "&".join(f"{name}={quote(value.encode(errors='surrogatepass'))}" for name, value in query)
    response = told.get(f"{path}?{text}")
    assert response.status_code in {200, 400, 404, 422}, response.text


# --- the list of runs as it stood ---


def listed(api: Service, query: str) -> list[tuple[str, str, Any]]:
    runs = api.get(f"/api/v1/runs?{query}").json()["data"]
    return [(run["id"], run["status"], run["metadata"]) for run in runs]


def test_the_list_of_runs_shows_each_as_it_stood(told: Service) -> None:
    assert listed(told, "asOf=2023-11-14T22:13:19Z") == []
    assert listed(told, f"asOf={FIRST}") == [("r", "QUEUED", {"n": 1, "o": {"x": 1}})]
    assert listed(told, "asOf=2023-11-14T22:13:22.5Z") == [
        ("child", "QUEUED", {}),
        ("r", "QUEUED", {"n": [2, 7], "o": {"x": None}}),
    ]
    assert listed(told, f"asOf={LAST}") == listed(told, "") == listed(told, "asOf=9999-01-01T00:00:00Z")
    assert listed(told, "asOf=2023-11-14T22:13:22Z&filter[status]=EXECUTING") == []
    assert [run[0] for run in listed(told, f"asOf={LAST}&filter[status]=executing")] == ["r"]
    assert listed(told, f"asOf={LAST}&filter[taskIdentifier]=other") == []


def test_a_run_as_it_stood_has_the_members_of_a_run(told: Service) -> None:
    page = told.get("/api/v1/runs?asOf=2023-11-14T22:13:22Z").json()
    run = page["data"][1]
    now = told.get("/api/v1/runs").json()["data"][1]
    assert {name for name in now if name not in run} == {"startedAt"}
    assert (run["version"], run["attemptCount"], run["tags"]) == ("4", 1, ["x"])
    assert (run["createdAt"], run["updatedAt"]) == ("2023-11-14T22:13:20.000000Z", "2023-11-14T22:13:22.000000Z")
    assert page["pagination"] == {}


def test_pages_of_the_list_as_it_stood(api: Service) -> None:
    for number in range(5):
        api.create(f"r{number}")
    moment = FIRST
    api.now += SECOND
    api.create("later")
    api.put("r2", {"metadata": {"later": True}})
    seen, cursor = [], ""
    while True:
        page = api.get(f"/api/v1/runs?asOf={moment}&page[size]=2{cursor}").json()
        seen += [(run["id"], run["metadata"]) for run in page["data"]]
        if "next" not in page["pagination"]:
            break
        cursor = f"&page[after]={page['pagination']['next']}"
    assert seen == [(f"r{number}", {}) for number in (4, 3, 2, 1, 0)]
    back = api.get(f"/api/v1/runs?asOf={moment}&page[size]=2&page[before]=r1").json()
    assert [run["id"] for run in back["data"]] == ["r3", "r2"]
    assert back["pagination"] == {"next": "r2~1", "previous": "r3"}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("asOf=", "asOf: not an ISO 8601 time"),
        ("asOf=7", "asOf: not an ISO 8601 time"),
        (f"asOf={FIRST}&asOf={LAST}", "given twice"),
        (f"asOf={FIRST}&page[after]=nobody", "nobody"),
        (f"asOf={FIRST}&filter[status]=nope", "unknown status"),
    ],
)
def test_a_list_as_it_stood_that_cannot_be_meant_is_refused(told: Service, query: str, words: str) -> None:
    assert words in problem(told.get(f"/api/v1/runs?{query}"), 400)["detail"]
