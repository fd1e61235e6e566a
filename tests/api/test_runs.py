"""Runs as the Trigger.dev SDK retrieves and lists them."""

from itertools import pairwise
from typing import Any

import pytest

from tests.api.service import SECOND, Service, operation, problem

T0 = "2023-11-14T22:13:20.000000Z"

FLAGS = ["isQueued", "isExecuting", "isWaiting", "isCompleted", "isSuccess", "isFailed", "isCancelled"]


def run_members(run: str, **members: Any) -> dict[str, Any]:
    """A queued run that was just made."""
    return {
        "id": run,
        "status": "QUEUED",
        "taskIdentifier": "t",
        "version": "1",
        **dict.fromkeys(FLAGS, False),
        "isQueued": True,
        "isTest": False,
        "createdAt": T0,
        "updatedAt": T0,
        "tags": [],
        "costInCents": 0,
        "baseCostInCents": 0,
        "durationMs": 0,
        "attemptCount": 1,
        "metadata": {},
        **members,
    }


DETAILS = {"depth": 0, "triggerFunction": "trigger", "relatedRuns": {}}


def test_retrieve_answers_exactly_what_the_sdk_wants_and_no_null(api: Service) -> None:
    api.create("r")
    assert api.get("/api/v3/runs/r").json() == {**run_members("r"), **DETAILS}


def test_retrieve_shows_payload_output_error_and_times(api: Service) -> None:
    api.create("r", payload=[0], tags=["x"], metadata={"none": None})
    api.now += SECOND
    api.move("r", "EXECUTING")
    api.now += 1_500_000
    api.move("r", "COMPLETED", output=False)
    executing = {"isQueued": False, "startedAt": "2023-11-14T22:13:21.000000Z"}
    ended = {"finishedAt": "2023-11-14T22:13:22.500000Z", "updatedAt": "2023-11-14T22:13:22.500000Z"}
    assert api.get("/api/v3/runs/r").json() == {
        **run_members("r", status="COMPLETED", version="3", tags=["x"], metadata={"none": None}, durationMs=1_500),
        **executing,
        **ended,
        "isCompleted": True,
        "isSuccess": True,
        "payload": [0],
        "output": False,
        **DETAILS,
    }


def test_output_and_error_are_those_of_the_last_status(api: Service) -> None:
    api.create("r")
    api.move("r", "FAILED", error={"message": "no", "name": "E", "stackTrace": "at x"}, output=1)
    api.put("r", {"metadata": {"a": 1}})
    shown = api.get("/api/v3/runs/r").json()
    assert (shown["error"], shown["output"]) == ({"message": "no", "name": "E", "stackTrace": "at x"}, 1)
    api.move("r", "EXECUTING", attempt=2)
    shown = api.get("/api/v3/runs/r").json()
    assert {"error", "output", "finishedAt"} & shown.keys() == set()
    assert shown["attemptCount"] == 2


def test_related_runs_carry_the_fields_of_a_run(api: Service) -> None:
    for run, parent in (("a", None), ("b", "a"), ("c", "b")):
        api.create(run, parentRunId=parent, tags=[run])
    related = {
        name: {**run_members(name, tags=[name]), "depth": depth, "triggerFunction": "trigger"}
        for depth, name in enumerate("ab")
    }
    assert api.get("/api/v3/runs/c").json() == {
        **run_members("c", tags=["c"]),
        "depth": 2,
        "triggerFunction": "trigger",
        "relatedRuns": {"parent": related["b"], "root": related["a"]},
    }
    child = {**run_members("c", tags=["c"]), "depth": 2, "triggerFunction": "trigger"}
    assert api.get("/api/v3/runs/b").json()["relatedRuns"] == {
        "parent": related["a"],
        "root": related["a"],
        "children": [child],
    }
    assert api.get("/api/v3/runs/a").json()["relatedRuns"] == {"children": [related["b"]]}


TRUE_FLAGS = {
    "PENDING_VERSION": ["isQueued"],
    "QUEUED": ["isQueued"],
    "DELAYED": ["isQueued"],
    "DEQUEUED": ["isExecuting"],
    "EXECUTING": ["isExecuting"],
    "WAITING": ["isWaiting"],
    "COMPLETED": ["isCompleted", "isSuccess"],
    "CANCELED": ["isCompleted", "isFailed", "isCancelled"],
    "FAILED": ["isCompleted", "isFailed"],
    "CRASHED": ["isCompleted", "isFailed"],
    "SYSTEM_FAILURE": ["isCompleted", "isFailed"],
    "EXPIRED": [],
    "TIMED_OUT": [],
}


@pytest.mark.parametrize("status", TRUE_FLAGS)
def test_the_booleans_of_a_status_are_those_of_the_reference(api: Service, status: str) -> None:
    api.create("r", status=status)
    shown = api.get("/api/v3/runs/r").json()
    assert [flag for flag in FLAGS if shown[flag]] == TRUE_FLAGS[status]
    assert ("finishedAt" in shown) == (status in {*list(TRUE_FLAGS)[6:]})


# --- list ---


def ids(page: Any) -> list[str]:
    return [run["id"] for run in page["data"]]


def listed(api: Service, **query: Any) -> Any:
    """One page; `size`, `after`, `before`, `status` and `task` stand for the SDK's parameters."""
    names = {
        "size": "page[size]",
        "after": "page[after]",
        "before": "page[before]",
        "status": "filter[status]",
        "task": "filter[taskIdentifier]",
    }
    response = api.request("GET", "/api/v1/runs", params={names[name]: value for name, value in query.items()})
    assert response.status_code == 200, response.text
    return response.json()


def test_an_empty_list_has_no_pages_around_it(api: Service) -> None:
    assert listed(api) == {"data": [], "pagination": {}}


def test_an_item_has_the_fields_of_a_run_and_its_environment(api: Service) -> None:
    api.create("r", metadata={"a": 1}, payload=1)
    environment = {"id": "dev", "name": "dev"}
    assert listed(api) == {"data": [{**run_members("r", metadata={"a": 1}), "env": environment}], "pagination": {}}


@pytest.fixture
def seven(api: Service) -> Service:
    for number in range(7):
        api.create(f"r{number}", task="odd" if number % 2 else "even")
    return api


NEWEST_FIRST = [f"r{number}" for number in range(6, -1, -1)]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 100])
def test_paging_forward_and_back_again_shows_every_run_once(seven: Service, size: int) -> None:
    pages = [listed(seven, size=size)]
    while "next" in pages[-1]["pagination"]:
        pages.append(listed(seven, size=size, after=pages[-1]["pagination"]["next"]))
    assert [run for page in pages for run in ids(page)] == NEWEST_FIRST
    assert all(page["data"] for page in pages)
    assert "previous" not in pages[0]["pagination"]
    back = [pages[-1]]
    while "previous" in back[0]["pagination"]:
        back.insert(0, listed(seven, size=size, before=back[0]["pagination"]["previous"]))
    assert [run for page in back for run in ids(page)] == NEWEST_FIRST
    assert all(page["data"] for page in back)
    assert "next" not in pages[-1]["pagination"]
    for earlier, later in pairwise(back):
        assert earlier["pagination"]["next"] == f"{ids(earlier)[-1]}~1"  # The walk turned round before it.
        assert later["pagination"]["previous"] == ids(later)[0]


def test_a_page_before_a_run_holds_its_nearest_neighbours(seven: Service) -> None:
    page = listed(seven, before="r2", size=2)
    assert (ids(page), page["pagination"]) == (["r4", "r3"], {"next": "r3~1", "previous": "r4"})


def test_nothing_lies_before_the_newest_or_after_the_oldest(seven: Service) -> None:
    assert listed(seven, before="r6") == {"data": [], "pagination": {}}
    assert listed(seven, after="r0") == {"data": [], "pagination": {}}


def test_no_page_is_promised_that_the_filter_leaves_empty(seven: Service) -> None:
    """The cursor is a run that does not match: what was behind it need not exist."""
    newest = listed(seven, after="r6", task="odd", size=2)
    assert (ids(newest), newest["pagination"]) == (["r5", "r3"], {"next": "r3"})
    oldest = listed(seven, before="r0", task="odd", size=2)
    assert (ids(oldest), oldest["pagination"]) == (["r3", "r1"], {"previous": "r3"})


def test_no_page_is_promised_back_to_runs_that_have_another_status_now(seven: Service) -> None:
    first = listed(seven, status="QUEUED", size=2)
    assert (ids(first), first["pagination"]) == (["r6", "r5"], {"next": "r5"})
    for run in ("r6", "r5"):
        seven.move(run, "EXECUTING")
    second = listed(seven, status="QUEUED", size=2, after="r5")
    assert (ids(second), second["pagination"]) == (["r4", "r3"], {"next": "r3"})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"task": "odd"}, ["r5", "r3", "r1"]),
        ({"task": "odd,even"}, NEWEST_FIRST),
        ({"task": "nobody"}, []),
        ({"task": "ODD"}, []),
        ({"status": "EXECUTING"}, ["r3", "r2"]),
        ({"status": "executing,COMPLETED"}, ["r4", "r3", "r2"]),
        ({"status": "EXECUTING", "task": "odd"}, ["r3"]),
        ({"status": "FAILED"}, []),
        ({"status": ""}, NEWEST_FIRST),
    ],
)
def test_filters_are_any_of_within_and_all_of_between(
    seven: Service, query: dict[str, str], expected: list[str]
) -> None:
    for run in ("r2", "r3"):
        seven.move(run, "EXECUTING")
    seven.move("r4", "COMPLETED")
    page = listed(seven, **query)
    assert (ids(page), page["pagination"]) == (expected, {})


def test_the_default_page_is_25_runs_and_the_largest_100(api: Service) -> None:
    for number in range(101):
        api.create(f"r{number}")
    assert (len(listed(api)["data"]), len(listed(api, size=100)["data"])) == (25, 100)
    for size in ("0", "101", "-1"):
        response = api.request("GET", "/api/v1/runs", params={"page[size]": size})
        assert problem(response, 422)["limit"] == 100


@pytest.mark.parametrize("name", ["page[after]", "page[before]"])
@pytest.mark.parametrize("cursor", ["nobody", "", "a b", "x" * 129, "é"])
def test_a_cursor_that_leads_nowhere_is_400(seven: Service, name: str, cursor: str) -> None:
    assert problem(seven.request("GET", "/api/v1/runs", params={name: cursor}), 400)["code"] == "bad-cursor"


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [
        ("r3", "r5", ["r6"]),
        ("r3~1", "r5", ["r2", "r1", "r0"]),
        ("r3~1", "r5~1", ["r6"]),
        ("r3~1", "r5~2", ["r6"]),
        ("r3~10", "r5~2", ["r2", "r1", "r0"]),
    ],
)
def test_of_both_cursors_the_later_one_counts(
    seven: Service, after: str, before: str, expected: list[str]
) -> None:
    """The SDK sends both once it has turned round."""
    response = seven.request("GET", "/api/v1/runs", params={"page[after]": after, "page[before]": before})
    assert ids(response.json()) == expected


def test_an_unknown_status_is_400_and_lists_those_there_are(api: Service) -> None:
    body = problem(api.request("GET", "/api/v1/runs", params={"filter[status]": "QUEUED,NOPE"}), 400)
    assert "there are PENDING_VERSION, QUEUED, DELAYED" in body["detail"]


def test_metadata_writes_leave_the_order_of_runs_alone(seven: Service) -> None:
    seven.put("r0", {"operations": [operation("set", "a", 1)]})
    assert ids(listed(seven)) == NEWEST_FIRST


@pytest.mark.parametrize("run", [".", "..", "a:b", "A@b+c=d-e_f.g", "x" * 128])
def test_odd_ids_are_ids(api: Service, run: str) -> None:
    api.create(run)
    assert ids(listed(api)) == [run]
    if not run.strip("."):  # Clients take such a name for a step in the path.
        return
    assert api.metadata(run) == {}
