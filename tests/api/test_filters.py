"""Finding runs over HTTP: what the query may say, and what is wrong with what it may not."""

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from api.filters import PARAMETERS, run_filter
from api.parameters import Query
from projections import values
from projections.filters import MetadataCondition, RunFilter, Span
from projections.paths import Path
from tests.api.service import BEGINNING, SECOND, Service, operation, problem
from tests.strategies import json_values, keys

MILLISECONDS = BEGINNING // 1_000


def listed(api: Service, *pairs: tuple[str, str], **named: str) -> list[str]:
    """Ids of the runs of a page; filters as pairs, or by the last part of their names."""
    query = [*pairs, *((f"filter[{name}]", value) for name, value in named.items())]
    response = api.get(f"/api/v1/runs?{urlencode(query)}")
    assert response.status_code == 200, response.text
    return [run["id"] for run in response.json()["data"]]


def where(key: str, value: str, operator: str | None = None) -> tuple[str, str]:
    return f"filter[metadata][{key}]" + ("" if operator is None else f"[{operator}]"), value


def read(query: str) -> RunFilter:
    request = Request({"type": "http", "query_string": query.encode(), "headers": []})
    return run_filter(Query(*PARAMETERS).of(request), lambda: 0)


@pytest.fixture
def told(api: Service) -> Service:
    """Four runs, each a second after the one before."""
    for number, state in enumerate(("running", "done", "5", "running")):
        api.create(
            f"r{number}",
            task="a,b" if number == 2 else "import",
            tags=[f"t{number}", "all", "x,y"] if number == 2 else [f"t{number}", "all"],
            parentRunId="r0" if number in {1, 3} else None,
            status="EXECUTING" if number % 2 else "QUEUED",
            metadata={
                "n": number,
                "status": {"state": state},
                "a][ne": number,
                "rows": ["x", number],
                "none": None,
            },
        )
        api.now += SECOND
    return api


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("filter[tag]", "t1,t2")], "21"),
        ([("filter[tag]", '["x,y"]')], "2"),
        ([("filter[taskIdentifier]", '["a,b"]')], "2"),
        ([("filter[taskIdentifier]", "a,b")], ""),
        ([("filter[parent]", "r0")], "31"),
        ([("filter[parent]", "r0,r1")], "31"),
        ([("filter[parent]", "nobody")], ""),
        ([("filter[root]", "r0")], "31"),
        ([("filter[batch]", "b")], ""),
        ([("filter[status]", "executing"), ("filter[tag]", "t1")], "1"),
        ([("filter[createdAt][from]", str(MILLISECONDS + 1_000))], "321"),
        ([("filter[createdAt][to]", str(MILLISECONDS + 1_000))], "10"),
        ([("filter[createdAt][to]", "2023-11-14T22:13:21Z")], "10"),
        (
            [("filter[createdAt][from]", "2023-11-14T22:13:21+00:00"), ("filter[createdAt][to]", "2023-11-15")],
            "321",
        ),
        ([("filter[createdAt][from]", "2023-11-15")], ""),
        ([("filter[createdAt][period]", "2s")], "32"),
        ([("filter[updatedAt][period]", "3s")], "321"),
        ([("filter[updatedAt][to]", str(MILLISECONDS))], "0"),
        ([("asOf", "2023-11-14T22:13:21Z"), ("filter[createdAt][period]", "1s")], "10"),
        ([("filter[isTest]", "false")], "3210"),
        ([("filter[isTest]", "true")], ""),
        ([("filter[queue]", "q")], ""),
        ([("filter[queue]", "")], "3210"),
        ([("filter[machine]", "m"), ("filter[status]", "QUEUED")], ""),
        ([("filter[region]", "eu")], ""),
        ([("filter[version]", "1")], ""),
        ([("filter[schedule]", "s")], ""),
        ([("filter[bulkAction]", "b")], ""),
        ([("sort", "createdAt")], "0123"),
        ([("sort", "-createdAt")], "3210"),
        ([("sort", "updatedAt")], "0123"),
        ([("sort", "-updatedAt")], "3210"),
        ([("sort", "createdAt"), ("asOf", "2023-11-14T22:13:21Z")], "01"),
        ([where("$.status.state", "running")], "30"),
        ([where("$.status.state", "running", "eq")], "30"),
        ([where("$.status.state", "running", "ne")], "21"),
        ([where("$.status.state", "5")], ""),
        ([where("$.status.state", '"5"')], "2"),
        ([where("n", "1.0")], "1"),
        ([where("n", '"1"')], ""),
        ([where("n", "true")], ""),
        ([where("n", "1", "gte"), where("n", "3", "lt")], "21"),
        ([where("n", "1", "ne"), where("n", "2", "ne")], "30"),
        ([where("n", "1,2,x", "in")], "21"),
        ([where("n", "true", "exists")], "3210"),
        ([where("gone", "true", "exists")], ""),
        ([where("gone", "false", "exists")], "3210"),
        ([where("gone", "1", "ne")], "3210"),
        ([where("none", "null")], "3210"),
        ([where("none", "true", "exists")], "3210"),
        ([where("$.rows.1", "2")], "2"),
        ([where("rows", '["x", 2]')], "2"),
        ([where("a][ne", "2", "eq")], "2"),
        ([where("a", "2", "ne")], "3210"),
        ([where("a][ne", "2", "ne")], "310"),
    ],
)
def test_the_list_shows_what_is_asked_for(told: Service, pairs: list[tuple[str, str]], expected: str) -> None:
    assert listed(told, *pairs) == [f"r{number}" for number in expected]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("filter[nope]=1", "unknown query parameter 'filter[nope]'; there are"),
        ("filter[metadata]=1", "unknown query parameter"),
        ("filter[metadata=1", "unknown query parameter"),
        ("filter[metadata][a=1", "a closing bracket is missing"),
        ("filter[metadata][a][gtee]=1", "no operator 'gtee'; there are eq, ne"),
        ("filter[metadata][a][b][c]=1", "a key that holds ][ has to be followed by its operator"),
        ("filter[metadata][$.a.*]=1", "wildcards are not supported"),
        ("filter[metadata][a][gt]=true", "filter[metadata][a][gt]: 'true' has no order"),
        ("filter[metadata][a][exists]=maybe", "exists is true or false"),
        ("filter[metadata][a][in]=", "1 to 100 values"),
        ("&".join(f"filter[metadata][a{number}]=1" for number in range(21)), "at most 20 conditions"),
        ("filter[tag]=" + ",".join(map(str, range(101))), "at most 100 names"),
        ("filter[tag]=a&filter[tag]=b", "given twice"),
        ("filter[parent]=a%20b", "filter[parent]: 'a b' cannot be the id of a run"),
        ("filter[isTest]=1", "filter[isTest] is true or false"),
        ("filter[createdAt][from]=noon", "filter[createdAt][from]: not an ISO 8601 time"),
        ("filter[createdAt][to]=2026-02-30", "filter[createdAt][to]:"),
        ("filter[createdAt][from]=99999999999999999", "epoch milliseconds will do"),
        ("filter[createdAt][period]=7", "write a number with s, m, h, d or w"),
        ("filter[createdAt][period]=0d", "is no period"),
        ("filter[createdAt][period]=999999999w", "is no period"),
        ("filter[updatedAt][period]=1d&filter[updatedAt][from]=1", "both say where it begins"),
        ("sort=oldest", "sort must be createdAt or -createdAt or updatedAt or -updatedAt"),
        ("sort=updatedAt&asOf=2023-11-14T22:13:21Z", "sort by createdAt"),
        ("sort=updatedAt&page[after]=r1", "r1"),
    ],
)
def test_a_bad_filter_is_400_and_says_what_to_write(told: Service, query: str, words: str) -> None:
    assert words.lower() in problem(told.get(f"/api/v1/runs?{query}"), 400)["detail"].lower()


def test_pages_of_a_filter_go_on_where_they_ended(told: Service) -> None:
    for sort, expected in (
        ("-createdAt", "320"),
        ("updatedAt", "023"),
        ("-updatedAt", "320"),
        ("createdAt", "023"),
    ):
        found, cursor = [], ""
        for _ in expected:
            path = f"/api/v1/runs?sort={sort}&page[size]=1&filter[metadata][n][ne]=1{cursor}"
            page = told.get(path).json()
            found += [run["id"] for run in page["data"]]
            cursor = f"&page[after]={page['pagination'].get('next')}"
        assert found == [f"r{number}" for number in expected]
        assert "next" not in page["pagination"]
        assert "previous" in page["pagination"]


texts = st.one_of(
    keys(), st.text(max_size=6), st.sampled_from(["a][ne", "]", "[", "a]", "[eq]", "][", "][eq", "é[", "a=b&c"])
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=texts.filter(lambda key: not key.startswith("$.") and key != "__proto__"), value=json_values())
@pytest.mark.parametrize("operator", ["eq", "ne"])
def test_any_key_and_value_can_be_asked_for(operator: str, key: str, value: Any) -> None:
    query = f"filter[metadata]%5B{quote(key, safe='')}]%5B{operator}]={quote(values.dump(value), safe='')}"
    (condition,) = read(query).metadata
    assert (condition.path, condition.operator) == (Path((key,), literal=True), operator)
    assert values.equal(condition.value, value)


def test_a_condition_may_be_made_of_a_path() -> None:
    (condition,) = read("filter[metadata][$.a.0.b][in]=1,x").metadata
    assert condition == MetadataCondition(Path(("a", "0", "b"), literal=False), "in", [1, "x"])


def test_an_empty_list_asks_for_nothing() -> None:
    assert read("filter[status]=&filter[tag]=,&filter[taskIdentifier]=[]&filter[batch]=") == RunFilter()


def test_the_end_of_a_time_in_milliseconds_holds_all_of_it() -> None:
    assert read("filter[createdAt][from]=5&filter[createdAt][to]=5").created == Span(5_000, 5_999)


# --- progress ---


def with_progress(api: Service, query: str = "") -> dict[str, Any]:
    response = api.get(f"/api/v1/runs?include=progress{query}")
    assert response.status_code == 200, response.text
    return {run["id"]: run["progress"] for run in response.json()["data"]}


@pytest.fixture
def going(api: Service) -> Service:
    """A run that moves, one that stands still after it went back, and one without progress."""
    api.create("moving", status="EXECUTING", metadata={"progress": 0})
    api.create("stuck", status="EXECUTING")
    api.create("none")
    for step in range(1, 5):
        api.now += 10 * SECOND
        api.put("moving", {"operations": [operation("set", "progress", step / 10)], "actor": "ann"})
        if step < 4:
            value = 0.1 if step == 3 else step / 10
            api.put("stuck", {"operations": [operation("set", "progress", value)]})
    api.now += 300 * SECOND
    api.put("moving", {"operations": [operation("set", "progress", 0.5)], "actor": "ann"})
    return api


def test_the_list_shows_the_progress_of_each_run_where_it_is_asked_for(going: Service) -> None:
    found = with_progress(going)
    assert found["moving"] == {
        "pending": False,
        "key": "progress",
        "fraction": 0.5,
        "stalled": False,
        "regressed": False,
        "regressions": 0,
        "stillSince": "2023-11-14T22:19:00.000000Z",
        "lastEvent": {
            "version": 6,
            "type": "metadata.set",
            "key": "progress",
            "actor": "ann",
            "recordedAt": "2023-11-14T22:19:00.000000Z",
        },
    }
    assert {name: found["stuck"][name] for name in ("fraction", "stalled", "regressed", "regressions")} == {
        "fraction": 0.1,
        "stalled": True,
        "regressed": True,
        "regressions": 1,
    }
    assert {"key", "fraction", "stillSince"} & found["none"].keys() == set()
    assert found["none"]["lastEvent"]["type"] == "run.created"
    assert all("progress" not in run for run in going.get("/api/v1/runs").json()["data"])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("filter[stalled]", "true")], ["stuck"]),
        ([("filter[stalled]", "false")], ["none", "moving"]),
        ([("filter[regressed]", "true")], ["stuck"]),
        (
            [("filter[regressed]", "false"), ("filter[stalled]", "false"), ("sort", "createdAt")],
            ["moving", "none"],
        ),
        ([("filter[regressed]", "true"), ("filter[stalled]", "false")], []),
        ([("filter[stalled]", "true"), ("sort", "-updatedAt")], ["stuck"]),
        ([("filter[stalled]", "true"), ("filter[status]", "COMPLETED")], []),
    ],
)
def test_verdicts_of_the_audit_are_filters(
    going: Service, pairs: list[tuple[str, str]], expected: list[str]
) -> None:
    assert listed(going, *pairs) == expected
    assert [*with_progress(going, f"&{urlencode(pairs)}")] == expected


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("include=metadata", "include must be progress, not 'metadata'"),
        ("include=progress&asOf=2023-11-14T22:13:20Z", "leave out asOf"),
        ("filter[stalled]=true&asOf=2023-11-14T22:13:20Z", "leave out asOf"),
        ("filter[regressed]=yes", "filter[regressed] is true or false"),
    ],
)
def test_progress_is_asked_for_in_one_way_only(going: Service, query: str, words: str) -> None:
    assert words in problem(going.get(f"/api/v1/runs?{query}"), 400)["detail"]


# --- the feed ---


def fed(api: Service, query: str) -> list[tuple[str, int]]:
    """Run and version of every event of the feed that is wanted, page by page."""
    found: list[tuple[str, int]] = []
    after = ""
    while True:
        response = api.get(f"/api/v1/events?limit=3{after}&{query}")
        assert response.status_code == 200, response.text
        page = response.json()
        found += [(event["runId"], event["version"]) for event in page["data"]]
        if not page["pagination"]["hasMore"]:
            return found
        after = f"&after={page['pagination']['next']}"


def test_the_feed_takes_the_filters_of_the_list_and_judges_runs_as_they_stand(told: Service) -> None:
    told.put("r1", {"operations": [operation("set", "$.status.state", "running")]})
    told.put("r0", {"operations": [operation("set", "$.status.state", "done")]})
    running = urlencode([where("$.status.state", "running")])
    assert fed(told, running) == [("r1", 1), ("r3", 1), ("r1", 2)]
    assert fed(told, f"{running}&filter[status]=executing&tag=t3") == [("r3", 1)]
    assert fed(told, f"{running}&run=r0") == []
    assert fed(told, f"{running}&run=r1") == [("r1", 1), ("r1", 2)]
    assert fed(told, f"{running}&key=$.status.state&filter[tag]=t1,t0") == [("r1", 1), ("r1", 2)]
    assert fed(told, "filter[parent]=r0&filter[updatedAt][period]=4s") == [("r1", 1), ("r3", 1), ("r1", 2)]
    assert fed(told, "filter[queue]=q") == []
    assert fed(told, "filter[stalled]=true") == []
    assert [run for run, _ in fed(told, "filter[regressed]=false")] == ["r0", "r1", "r2", "r3", "r1", "r0"]


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/events/live"])
def test_a_bad_filter_of_the_feed_is_400(told: Service, path: str) -> None:
    for query in ("filter[metadata][a][gtee]=1", "filter[status]=nope", "filter[nope]=1", "sort=createdAt"):
        problem(told.get(f"{path}?{query}"), 400)
