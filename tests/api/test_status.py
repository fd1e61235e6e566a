"""The life of a run over HTTP: POST /api/v1/runs/{id}/status."""

import pytest

from tests.api.service import SECOND, Service, problem

FINISHED = ["COMPLETED", "CANCELED", "FAILED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"]
UNFINISHED = ["PENDING_VERSION", "QUEUED", "DELAYED", "DEQUEUED", "EXECUTING", "WAITING"]


def test_a_new_status_is_one_event(api: Service) -> None:
    api.create("r")
    response = api.move("r", "executing", actor="ann")
    assert (response.status_code, response.json()) == (200, {"id": "r", "status": "EXECUTING", "version": 2})
    assert response.headers["etag"] == '"2"'
    event = api.history()[-1]
    assert (event["type"], event["data"], event["actor"]) == (
        "run.status_changed",
        {"status": "EXECUTING"},
        "ann",
    )


def test_the_same_status_is_no_event_whatever_comes_with_it(api: Service) -> None:
    api.create("r", status="EXECUTING")
    for members in ({}, {"attempt": 5}, {"output": 1}):
        assert api.move("r", "EXECUTING", **members).json() == {"id": "r", "status": "EXECUTING", "version": 1}
    assert len(api.history()) == 1


def test_a_status_leaves_the_metadata_alone(api: Service) -> None:
    api.create("r", metadata={"a": 1})
    api.move("r", "COMPLETED", output={"big": "x" * 10_000})
    assert api.metadata() == {"a": 1}


@pytest.mark.parametrize("before", UNFINISHED)
def test_an_unfinished_run_may_take_any_status(api: Service, before: str) -> None:
    for after in UNFINISHED + FINISHED:
        run = f"to-{after}"
        api.create(run, status=before)
        assert api.move(run, after).json() == {"id": run, "status": after, "version": 1 + (before != after)}


@pytest.mark.parametrize("before", FINISHED)
def test_a_finished_run_ends_once(api: Service, before: str) -> None:
    api.create("r", status=before)
    for after in FINISHED:
        response = api.move("r", after, attempt=2)
        if after == before:
            assert response.json()["version"] == 1
        else:
            body = problem(response, 422)
            assert body["code"] == "bad-transition"
            assert body["detail"] == (
                f"a run that is {before} cannot become {after}: it is over; start a new attempt first"
            )
    assert len(api.history()) == 1
    assert {one.code for one in api.refusals()} == {"bad-transition"}


def test_a_finished_run_begins_again_only_with_a_higher_attempt(api: Service) -> None:
    api.create("r", attempt=3, status="FAILED")
    for members in ({}, {"attempt": 3}, {"attempt": 2}):
        assert problem(api.move("r", "EXECUTING", **members), 422)["runId"] == "r"
    assert api.move("r", "EXECUTING", attempt=4).json()["version"] == 2
    shown = api.get("/api/v3/runs/r").json()
    assert (shown["attemptCount"], shown["status"]) == (4, "EXECUTING")
    assert "finishedAt" not in shown
    assert problem(api.move("r", "COMPLETED", attempt=3), 422)["code"] == "bad-transition"
    assert api.move("r", "COMPLETED").json()["version"] == 3


def test_a_new_attempt_opens_a_run_for_late_writes_again(api: Service) -> None:
    api.create("r", status="FAILED")
    api.now += 9_999 * SECOND
    problem(api.put("r", {"metadata": {"a": 1}}), 422)
    api.move("r", "EXECUTING", attempt=2)
    assert api.put("r", {"metadata": {"a": 1}}).status_code == 200


def test_an_error_may_be_a_text_or_an_object(api: Service) -> None:
    api.create("a")
    api.create("b")
    api.move("a", "FAILED", error="broken")
    api.move("b", "FAILED", error={"message": "m", "extra": 1})
    assert [api.get(f"/api/v3/runs/{run}").json()["error"] for run in "ab"] == [
        {"message": "broken"},
        {"message": "m"},
    ]


def test_an_output_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(api: Service) -> None:
    api.create("r")
    problem(api.move("r", "COMPLETED", output="x" * 524_287), 413)
    assert api.move("r", "COMPLETED", output="x" * 524_286).status_code == 200


def test_an_error_over_the_limit_is_413_too(api: Service) -> None:
    api.create("r")
    body = problem(api.move("r", "FAILED", error={"message": "m", "stackTrace": "x" * 524_288}), 413)
    assert "at most 524288" in body["detail"]
    assert len(api.history()) == 1


def test_an_unknown_run_is_404(api: Service) -> None:
    assert problem(api.move("nobody", "EXECUTING"), 404)["code"] == "run-not-found"
