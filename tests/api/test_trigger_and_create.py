"""Beginning a run: POST /api/v1/runs and POST /api/v1/tasks/{task}/trigger."""

import json
import re

import pytest

from tests.api.service import SECOND, Service, problem


def created_data(**members: object) -> dict[str, object]:
    """The data of a run.created event."""
    return {
        "task": "t",
        "parent": None,
        "root": None,
        "batch": None,
        "tags": [],
        "status": "QUEUED",
        "idempotencyKey": None,
        "payload": None,
        "payloadType": None,
        "metadata": {},
        **members,
    }


def test_create_answers_201_with_id_and_version(api: Service) -> None:
    response = api.post("/api/v1/runs", {"id": "r-1", "task": "t"})
    assert (response.status_code, response.json()) == (201, {"id": "r-1", "version": 1, "isCached": False})
    assert response.headers["content-type"] == "application/json"


def test_create_is_one_event_that_holds_everything(api: Service) -> None:
    api.create("parent")
    api.create(
        "child",
        parentRunId="parent",
        tags=["a", "b"],
        status="executing",
        attempt=3,
        payload={"rows": [1, None]},
        metadata={"n": 1},
        actor="ann",
    )
    (event,) = api.history("child")
    assert event["type"] == "run.created"
    assert (event["actor"], event["attempt"], event["version"]) == ("ann", 3, 1)
    assert event["data"] == created_data(
        parent="parent",
        root="parent",
        tags=["a", "b"],
        status="EXECUTING",
        payload={"rows": [1, None]},
        metadata={"n": 1},
    )


def test_create_makes_up_an_id_that_sorts_by_time(api: Service) -> None:
    ids = [api.post("/api/v1/runs", {"task": "t"}).json()["id"] for _ in range(20)]
    assert all(re.fullmatch(r"run_[0-9a-z]{25}", made) for made in ids)
    assert ids == sorted(set(ids))


def test_create_with_an_id_that_exists_finds_it_untouched(api: Service) -> None:
    api.create("r", metadata={"a": 1}, tags=["x"])
    api.put("r", {"metadata": {"a": 2}})
    before = api.contents()
    again = api.post("/api/v1/runs", {"id": "r", "task": "t", "metadata": {"a": 9}, "tags": ["y"]})
    assert (again.status_code, again.json()) == (200, {"id": "r", "version": 2, "isCached": True})
    assert api.metadata() == {"a": 2}
    assert api.contents() == before


@pytest.mark.parametrize("change", [{"task": "other"}, {"parentRunId": "above"}])
def test_create_with_the_id_of_another_task_or_parent_is_refused(api: Service, change: dict[str, str]) -> None:
    api.create("above")
    api.create("r")
    before = api.contents()
    body = problem(api.post("/api/v1/runs", {"id": "r", "task": "t", **change}), 422)
    assert body["code"] == "run-exists"
    assert "'t', without a parent" in body["detail"]
    assert api.contents() == before


def test_a_grandchild_has_the_topmost_run_as_root(api: Service) -> None:
    api.create("a")
    api.create("b", parentRunId="a")
    api.create("c", parentRunId="b")
    (event,) = api.history("c")
    assert (event["data"]["parent"], event["data"]["root"]) == ("b", "a")


@pytest.mark.parametrize("parent", ["nobody", "r"])
def test_an_unknown_parent_is_refused_and_so_is_the_run_itself(api: Service, parent: str) -> None:
    body = problem(api.post("/api/v1/runs", {"id": "r", "task": "t", "parentRunId": parent}), 422)
    assert body["code"] == "unknown-parent"
    assert parent in body["detail"]
    assert api.contents()["runs"] == 0


def test_metadata_is_never_copied_to_a_child(api: Service) -> None:
    api.create("a", metadata={"secret": 1})
    api.create("b", parentRunId="a")
    assert api.metadata("b") == {}


@pytest.mark.parametrize("status", ["COMPLETED", "timed_out", "Executing"])
def test_a_status_may_be_written_in_any_case(api: Service, status: str) -> None:
    api.create("r", status=status)
    assert api.get("/api/v3/runs/r").json()["status"] == status.upper()


def test_one_tag_may_stand_alone_and_blank_or_repeated_ones_are_dropped(api: Service) -> None:
    api.create("a", tags="solo")
    api.create("b", tags=["x", " ", "y", "", "x"])
    assert [api.get(f"/api/v3/runs/{run}").json()["tags"] for run in "ab"] == [["solo"], ["x", "y"]]


def test_ten_tags_of_128_characters_are_the_most(api: Service) -> None:
    tags = [f"{number}{'é' * 127}" for number in range(10)]
    api.create("r", tags=tags)
    assert api.get("/api/v3/runs/r").json()["tags"] == tags
    body = problem(api.post("/api/v1/runs", {"task": "t", "tags": [*tags, "x"]}), 422)
    assert body["detail"] == "tags: a run has at most 10 tags, these are 11"
    body = problem(api.post("/api/v1/runs", {"task": "t", "tags": ["x" * 129]}), 422)
    assert body["detail"] == "tags: a tag has at most 128 characters, one has 129"


def test_metadata_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(api: Service) -> None:
    api.create("fits", metadata={"a": "x" * 4_088})
    before = api.contents()
    body = problem(api.post("/api/v1/runs", {"task": "t", "metadata": {"a": "x" * 4_080, "b": 1234}}), 413)
    members = {name: body[name] for name in ("code", "sizeBytes", "limitBytes", "largestKeys")}
    assert members == {
        "code": "metadata-too-large",
        "sizeBytes": 4_097,
        "limitBytes": 4_096,
        "largestKeys": [{"key": "a", "bytes": 4_086}, {"key": "b", "bytes": 8}],
    }
    assert api.contents() == before


def test_a_payload_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(api: Service) -> None:
    api.create("fits", payload="x" * 524_286)
    assert api.get("/api/v3/runs/fits").json()["payload"] == "x" * 524_286
    body = problem(api.post("/api/v1/runs", {"task": "t", "payload": "x" * 524_287}), 413)
    assert body["detail"] == "payload: is 524289 bytes as JSON, at most 524288 are allowed"


# --- trigger ---


def trigger(api: Service, task: str = "t", **body: object) -> dict[str, object]:
    response = api.post(f"/api/v1/tasks/{task}/trigger", body)
    assert response.status_code == 200, response.text
    answer: dict[str, object] = response.json()
    return answer


def test_trigger_answers_the_id_of_a_queued_run(api: Service) -> None:
    answer = trigger(
        api, payload="hello", options={"payloadType": "text/plain", "metadata": {"a": 1}, "tags": "x"}
    )
    assert answer == {"id": answer["id"], "isCached": False, "version": 1}
    (event,) = api.history(str(answer["id"]))
    assert event["data"] == created_data(
        payload="hello", payloadType="text/plain", metadata={"a": 1}, tags=["x"], idempotencyKey=None
    )
    assert event["actor"] == "anonymous"


def test_trigger_with_an_empty_object_is_enough(api: Service) -> None:
    assert api.history(str(trigger(api)["id"]))[0]["data"] == created_data()


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("folder%2Fname", "folder/name"),
        ("a%2520b", "a%20b"),
        ("%C3%A9t%C3%A9%20%F0%9F%98%80", "été 😀"),
        ("trigger", "trigger"),
        ("x%2Ftrigger", "x/trigger"),
    ],
)
def test_a_task_in_the_path_is_decoded_once_slashes_included(api: Service, path: str, task: str) -> None:
    run = trigger(api, path)["id"]
    assert api.get(f"/api/v3/runs/{run}").json()["taskIdentifier"] == task


@pytest.mark.parametrize("path", ["%20", "%00", "a%09b", "x" * 257, "%20" * 256 + "a"])
def test_a_task_that_is_no_name_is_refused(api: Service, path: str) -> None:
    body = problem(api.post(f"/api/v1/tasks/{path}/trigger", {}), 400)
    assert body["detail"] == "a task has 1 to 256 printable characters"
    assert api.contents()["runs"] == 0


@pytest.mark.parametrize(
    ("payload", "kind", "shown"),
    [
        ('{"json":{"a":[1.0]},"meta":{"v":1}}', "application/super+json", {"a": [1]}),
        ('{"json":null}', "application/super+json", None),
        ('{"a":1}', "application/json", {"a": 1}),
        ("[1, 2]", "application/json", [1, 2]),
        ("plain {", "text/plain", "plain {"),
        ('{"a":1}', "text/plain", '{"a":1}'),
        ("{broken", "application/json", "{broken"),
        ("store/key", "application/store", "store/key"),
        ("false", "application/json", False),
    ],
)
def test_retrieve_shows_the_value_that_a_payload_packs(
    api: Service, payload: str, kind: str, shown: object
) -> None:
    run = trigger(api, payload=payload, options={"payloadType": kind})["id"]
    answer = api.get(f"/api/v3/runs/{run}").json()
    assert answer.get("payload") == shown
    assert ("payload" in answer) == (shown is not None)


@pytest.mark.parametrize(
    "packed",
    ["1e400", "[NaN]", '{"a":1,"a":2}', "9007199254740993", "1" * 5_000, "[" * 900 + "]" * 900, '"\\ud800"'],
)
def test_a_packed_payload_that_json_cannot_say_is_shown_as_the_text_it_came_in(api: Service, packed: str) -> None:
    payload = f'{{"json":{packed}}}'
    run = trigger(api, payload=payload, options={"payloadType": "application/super+json"})["id"]
    response = api.get(f"/api/v3/runs/{run}")
    assert response.status_code == 200
    assert response.json()["payload"] == payload


def test_the_same_key_and_task_lead_to_the_same_run(api: Service) -> None:
    first = trigger(api, options={"idempotencyKey": "k", "metadata": {"a": 1}})
    again = trigger(api, options={"idempotencyKey": "k", "metadata": {"a": 2}})
    assert again == {"id": first["id"], "isCached": True, "version": 1}
    assert api.metadata(str(first["id"])) == {"a": 1}
    assert trigger(api, "other", options={"idempotencyKey": "k"})["isCached"] is False
    assert api.get(f"/api/v3/runs/{first['id']}").json()["idempotencyKey"] == "k"


def test_a_key_leads_to_its_run_until_its_time_is_over(api: Service) -> None:
    options = {"idempotencyKey": "k", "idempotencyKeyTTL": "60s"}
    first = trigger(api, options=options)["id"]
    api.now += 59 * SECOND
    assert trigger(api, options=options)["id"] == first
    api.now += 2 * SECOND
    second = trigger(api, options=options)
    assert (second["isCached"], second["id"] != first) == (False, True)
    assert trigger(api, options=options) == {"id": second["id"], "isCached": True, "version": 1}


def test_a_time_to_live_beyond_ten_years_is_refused_and_harms_nobody(api: Service) -> None:
    body = {"options": {"idempotencyKey": "k", "idempotencyKeyTTL": "999999999w"}}
    answer = problem(api.post("/api/v1/tasks/t/trigger", body), 422)
    assert answer["detail"].startswith("options.idempotencyKeyTTL: is 604,799,999,395,200 seconds, at most")
    assert api.contents()["runs"] == 0
    trigger(api, options={"idempotencyKey": "k", "idempotencyKeyTTL": "3650d"})


@pytest.mark.parametrize("ttl", ["", "60", "s", "-1s", "1.5h", "1y", " 60s", "60S", "٦s", 60, {}, "1" * 30 + "s"])
def test_a_time_to_live_that_is_no_duration_is_refused(api: Service, ttl: object) -> None:
    body = problem(api.post("/api/v1/tasks/t/trigger", {"options": {"idempotencyKeyTTL": ttl}}), 400)
    assert body["detail"] == "options.idempotencyKeyTTL: must be a duration such as 60s, 15m, 24h or 7d"


def test_a_trigger_too_large_leaves_no_run_and_no_key(api: Service) -> None:
    options = {"idempotencyKey": "k", "metadata": {"a": "x" * 4_089}}
    assert problem(api.post("/api/v1/tasks/t/trigger", {"options": options}), 413)["sizeBytes"] == 4_097
    assert api.contents()["runs"] == 0
    assert trigger(api, options={"idempotencyKey": "k"})["isCached"] is False


def test_a_trigger_may_name_its_parent(api: Service) -> None:
    api.create("above")
    run = trigger(api, options={"parentRunId": "above"})["id"]
    assert api.history(str(run))[0]["data"]["parent"] == "above"


def test_options_of_the_sdk_that_mean_nothing_here_are_accepted(api: Service) -> None:
    options = {"queue": {"name": "q"}, "delay": "1h", "maxAttempts": 3, "machine": "small-1x", "test": True}
    trigger(api, options=options, context={"x": 1})


def test_every_member_that_json_can_say_survives(api: Service) -> None:
    value = {"nul": "\0", "emoji": "😀", "line": "\u2028", "deep": [[{"": None}]], "tiny": 1e-7, "big": 1e21}
    api.create("r", metadata=value, payload=value)
    shown = api.get("/api/v3/runs/r").json()
    assert (shown["metadata"], shown["payload"]) == (value, value)
    assert json.loads(json.dumps(value)) == value
