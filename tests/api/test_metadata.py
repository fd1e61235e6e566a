"""A run's metadata: GET now and as it stood, PUT in both forms."""

from pathlib import Path
from typing import Any

import pytest

from tests.api.service import SECOND, Service, operation, problem, service


def answer(metadata: object, version: int, size: int, unapplied: object = ()) -> dict[str, Any]:
    return {
        "metadata": metadata,
        "version": version,
        "sizeBytes": size,
        "limitBytes": 4_096,
        "unapplied": list(unapplied),  # type: ignore[call-overload]  # A list or nothing.
    }


def test_current_metadata_comes_with_version_size_and_limit(api: Service) -> None:
    api.create("r", metadata={"é": 1})
    response = api.get("/api/v1/runs/r/metadata")
    assert response.status_code == 200
    assert response.headers["etag"] == '"1"'
    assert response.json() == {
        "metadata": {"é": 1},
        "metadataType": "application/json",
        "version": 1,
        "sizeBytes": 8,
        "limitBytes": 4_096,
    }


def test_a_run_without_metadata_has_an_empty_object(api: Service) -> None:
    api.create("r")
    assert api.metadata() == {}


@pytest.mark.parametrize("path", ["metadata", "metadata?version=1", "metadata/history"])
def test_an_unknown_run_is_404_everywhere(api: Service, path: str) -> None:
    body = problem(api.get(f"/api/v1/runs/nobody/{path}"), 404)
    assert body["detail"] == "there is no run nobody; create it first, or check the id and the environment"
    assert body["code"] == "run-not-found"


def test_put_to_an_unknown_run_makes_none(api: Service) -> None:
    assert problem(api.put("nobody", {"metadata": {"a": 1}}), 404)["code"] == "run-not-found"
    assert api.contents()["runs"] == 0


# --- the past ---


def test_every_version_can_be_read_as_it_stood(api: Service) -> None:
    api.create("r", metadata={"n": 0})
    for number in range(1, 30):
        api.put("r", {"operations": [operation("increment", "n", 1), operation("set", "pad", "x" * number * 9)]})
    for version in range(1, 60):
        got = api.get(f"/api/v1/runs/r/metadata?version={version}")
        assert got.headers["etag"] == f'"{version}"'
        number = version // 2
        padded = version - version % 2 - (1 if version % 2 == 0 else 0)
        pad = {"pad": "x" * (padded // 2) * 9} if padded > 1 else {}
        assert got.json()["metadata"] == {"n": number, **pad}
        assert got.json()["version"] == version


def test_a_version_that_is_not_there_is_404_with_the_last_one(api: Service) -> None:
    api.create("r")
    body = problem(api.get("/api/v1/runs/r/metadata?version=2"), 404)
    assert (body["code"], body["lastVersion"]) == ("version-not-found", 1)
    assert body["detail"] == "run r has no version 2; its versions are 1 to 1, since 2023-11-14T22:13:20.000000Z"


@pytest.mark.parametrize("version", ["0", "-1", str(2**53 + 1), "9" * 19])
def test_a_version_past_its_bounds_is_422_with_the_bound(api: Service, version: str) -> None:
    api.create("r")
    body = problem(api.get(f"/api/v1/runs/r/metadata?version={version}"), 422)
    assert body["limit"] == 2**53


def test_a_moment_is_inclusive_and_ends_with_the_last_event_by_then(api: Service) -> None:
    api.create("r", metadata={"n": 1})
    for number in (2, 3):
        api.now += SECOND
        api.put("r", {"metadata": {"n": number}})

    def at(time: str) -> Any:
        return api.get(f"/api/v1/runs/r/metadata?at={time}").json()["metadata"]["n"]

    assert at("2023-11-14T22:13:20Z") == 1
    assert at("2023-11-14T22:13:20.9999999Z") == 1
    assert at("2023-11-14T22:13:21Z") == 2
    assert at("2023-11-14 22:13:21.999999Z") == 2
    assert at("2023-11-14T22:13:22,000000Z") == 3
    assert at("9999-12-31T23:59:59Z") == 3
    assert at("2023-11-14t23:13:21%2B01:00") == 2
    assert at("2023-11-14T23:13:21+01:00") == 2  # The plus arrives as a space.
    assert at("2023-11-14T23:13:21+0100") == 2
    assert at("2023-11-14T17:13:21-05") == 2


def test_events_of_one_moment_are_all_seen_at_it(api: Service) -> None:
    api.create("r")
    api.put("r", {"operations": [operation("set", "a", 1), operation("set", "b", 2)]})
    assert api.get("/api/v1/runs/r/metadata?at=2023-11-14T22:13:20Z").json()["version"] == 3


def test_a_moment_before_the_run_is_404(api: Service) -> None:
    api.create("r")
    body = problem(api.get("/api/v1/runs/r/metadata?at=2023-11-14T22:13:19.999999Z"), 404)
    assert body["code"] == "version-not-found"
    assert "has no version at 2023-11-14T22:13:19.999999Z" in body["detail"]


def test_a_clock_that_goes_back_does_not_disturb_the_past(api: Service) -> None:
    api.create("r", metadata={"n": 1})
    api.now -= 3_600 * SECOND
    api.put("r", {"metadata": {"n": 2}})
    assert [event["recordedAt"] for event in api.history()] == ["2023-11-14T22:13:20.000000Z"] * 2


# --- changing ---


def test_put_metadata_replaces_everything(api: Service) -> None:
    api.create("r", metadata={"a": 1, "b": 2})
    response = api.put("r", {"metadata": {"c": [1.0, -0.0, 1e21, 1e-7]}})
    assert (response.status_code, response.json()) == (200, answer({"c": [1, 0, 1e21, 1e-7]}, 2, 22))
    assert response.text.startswith('{"metadata":{"c":[1,0,1e+21,1e-7]}')
    assert response.headers["etag"] == '"2"'
    assert "idempotency-replayed" not in response.headers


def test_put_operations_is_one_event_each_in_order(api: Service) -> None:
    api.create("r", metadata={"l": [1, 2, 1], "o": {"p": 1}})
    operations = [
        operation("set", "a", None),
        operation("increment", "n", 0.1),
        operation("increment", "n", 0.2),
        operation("append", "l", [3]),
        operation("remove", "l", 1.0),
        operation("set", "$.o.p", True),
        operation("delete", "a"),
        {"type": "update", "value": {"x": 1}},
        operation("append", "x", 2),
    ]
    response = api.put("r", {"operations": operations})
    assert response.json() == answer({"x": [1, 2]}, 10, 11)
    past = [api.get(f"/api/v1/runs/r/metadata?version={version}").json()["metadata"] for version in range(2, 11)]
    o, l1 = {"p": 1}, [1, 2, 1]
    assert past == [
        {"l": l1, "o": o, "a": None},
        {"l": l1, "o": o, "a": None, "n": 0.1},
        {"l": l1, "o": o, "a": None, "n": 0.30000000000000004},
        {"l": [1, 2, 1, [3]], "o": o, "a": None, "n": 0.30000000000000004},
        {"l": [2, [3]], "o": o, "a": None, "n": 0.30000000000000004},
        {"l": [2, [3]], "o": {"p": True}, "a": None, "n": 0.30000000000000004},
        {"l": [2, [3]], "o": {"p": True}, "n": 0.30000000000000004},
        {"x": 1},
        {"x": [1, 2]},
    ]


@pytest.mark.parametrize(
    "body", [{}, {"operations": []}, {"operations": [], "metadata": {"a": 9}}, {"unknown": 1}]
)
def test_a_body_that_asks_for_nothing_answers_the_true_state_and_writes_nothing(
    api: Service, body: object
) -> None:
    api.create("r", metadata={"a": 1})
    before = api.contents()
    response = api.put("r", body)
    assert (response.status_code, response.json()) == (200, answer({"a": 1}, 1, 7))
    assert api.contents() == before


def test_metadata_beside_operations_is_ignored_and_beside_parent_operations_is_not(api: Service) -> None:
    api.create("r", metadata={"a": 1})
    api.put("r", {"operations": [operation("set", "b", 1)], "metadata": {"z": 1}})
    assert api.metadata() == {"a": 1, "b": 1}
    api.put("r", {"parentOperations": [operation("set", "p", 1)], "metadata": {"z": 1}})
    assert api.metadata() == {"z": 1, "p": 1}


def test_own_then_parent_then_root_in_one_transaction(api: Service) -> None:
    for run, parent in (("root", None), ("mid", "root"), ("leaf", "mid")):
        api.create(run, parentRunId=parent)
    body = {
        "operations": [operation("set", "own", 1)],
        "parentOperations": [operation("append", "from", "leaf"), operation("remove", "nothing", 1)],
        "rootOperations": [operation("increment", "done", 1)],
        "actor": "ann",
        "attempt": 2,
    }
    unapplied = {
        "list": "parentOperations",
        "index": 1,
        "key": "nothing",
        "reason": "there is no list to remove from",
    }
    assert api.put("leaf", body).json() == answer({"own": 1}, 2, 9, [unapplied])
    assert [api.metadata(run) for run in ("root", "mid", "leaf")] == [{"done": 1}, {"from": ["leaf"]}, {"own": 1}]
    events = [api.history(run)[-1] for run in ("leaf", "mid", "root")]
    source = {"sourceRun": "leaf", "sourceAttempt": 2}
    assert [event["headers"] for event in events] == [{}, source, source]
    assert [event["actor"] for event in events] == ["ann"] * 3
    assert [event["position"] for event in events] == [4, 5, 6]
    assert len({event["recordedAt"] for event in events}) == 1


def test_a_run_without_parent_is_its_own_parent_and_root(api: Service) -> None:
    api.create("r")
    body = {
        "rootOperations": [operation("append", "l", "root")],
        "parentOperations": [operation("append", "l", "parent")],
        "operations": [operation("append", "l", "own")],
    }
    assert api.put("r", body).json()["metadata"] == {"l": ["own", "parent", "root"]}


def test_one_refused_list_refuses_all_three_and_names_the_run(api: Service) -> None:
    api.create("above", metadata={"pad": "x" * 4_000})
    api.create("r", parentRunId="above")
    before = api.contents()
    body = problem(
        api.put(
            "r", {"operations": [operation("set", "a", 1)], "parentOperations": [operation("set", "b", "y" * 100)]}
        ),
        413,
    )
    assert (body["runId"], body["sizeBytes"], body["limitBytes"]) == ("above", 4_117, 4_096)
    assert body["largestKeys"] == [{"key": "pad", "bytes": 4_008}, {"key": "b", "bytes": 106}]
    assert api.contents() == before
    assert [(one.code, one.size_bytes, one.headers) for one in api.refusals("above")] == [
        ("metadata-too-large", 4_117, '{"sourceRun":"r","sourceAttempt":1}')
    ]
    assert [(one.code, one.size_bytes, one.headers) for one in api.refusals("r")] == [
        ("metadata-too-large", 4_117, "{}")
    ]


def test_what_cannot_apply_is_listed_and_the_rest_is_done(api: Service) -> None:
    api.create("r", metadata={"n": None, "s": "text", "l": []})
    operations = [
        operation("remove", "s", 1),
        operation("set", "$.missing.a", 1),
        operation("increment", "$.n", 1),
        operation("set", "$.s.x", 1),
        operation("set", "$.l.name", 1),
        operation("set", "done", True),
    ]
    got = api.put("r", {"operations": operations}).json()
    assert (got["version"], got["metadata"]) == (2, {"n": None, "s": "text", "l": [], "done": True})
    assert got["unapplied"] == [
        {"list": "operations", "index": index, "key": operations[index]["key"], "reason": reason}
        for index, reason in enumerate(
            [
                "there is no list to remove from",
                "$.missing does not exist; set it first",
                "$.n is null, which a path cannot change; set the top-level key by its literal name",
                "the value above 'x' is neither an object nor a list",
                "'name' is not an index of the list",
            ]
        )
    ]


def test_what_applies_and_changes_nothing_is_an_event(api: Service) -> None:
    api.create("r", metadata={"a": 1, "l": [1]})
    body = {"operations": [operation("set", "a", 1), operation("delete", "zz"), operation("remove", "l", True)]}
    assert api.put("r", body).json() == answer({"a": 1, "l": [1]}, 4, 15)


# --- limits ---


def test_exactly_the_limit_is_taken(api: Service) -> None:
    api.create("r")
    assert api.put("r", {"metadata": {"a": "é" * 2_044}}).json()["sizeBytes"] == 4_096


def test_one_byte_over_the_limit_is_refused_and_leaves_only_a_refusal(api: Service) -> None:
    api.create("r", metadata={"keep": 1, "b": "y" * 3_000})
    before = api.contents()
    body = problem(
        api.put("r", {"operations": [operation("set", "c", "z" * 1_000), operation("set", "a", "x" * 66)]}), 413
    )
    assert body == {
        "type": "urn:run-ledger:problem:metadata-too-large",
        "title": "The metadata would be too large",
        "status": 413,
        "detail": "metadata would be 4,097 bytes, the limit is 4,096; delete or shorten the largest keys first",
        "error": "metadata would be 4,097 bytes, the limit is 4,096; delete or shorten the largest keys first",
        "code": "metadata-too-large",
        "sizeBytes": 4_097,
        "limitBytes": 4_096,
        "largestKeys": [
            {"key": "b", "bytes": 3_006},
            {"key": "c", "bytes": 1_006},
            {"key": "a", "bytes": 72},
            {"key": "keep", "bytes": 8},
        ],
        "runId": "r",
    }
    assert api.contents() == before
    (refused,) = api.refusals()
    assert (refused.code, refused.version, refused.size_bytes, refused.limit_bytes) == (
        "metadata-too-large",
        1,
        4_097,
        4_096,
    )
    assert "zzz" not in repr(refused)


def test_a_value_over_the_limit_is_refused_though_the_result_would_fit(api: Service) -> None:
    api.create("r")
    body = problem(
        api.put("r", {"operations": [operation("set", "a", "x" * 4_095), operation("delete", "a")]}), 413
    )
    assert (body["sizeBytes"], body["place"]) == (4_097, "operations[0]")
    assert body["largestKeys"] == [{"key": "a", "bytes": 4_097}]
    assert api.history()[-1]["version"] == 1


def test_the_metadata_between_two_operations_may_be_over_the_limit(api: Service) -> None:
    api.create("r", metadata={"a": "x" * 4_000})
    operations = [operation("set", "b", "y" * 4_000), operation("delete", "a")]
    assert api.put("r", {"operations": operations}).json()["sizeBytes"] == 4_008


def test_the_limit_can_be_raised_to_262144(tmp_path: Path) -> None:
    with service(tmp_path / "x.db", metadata_bytes_max=262_144) as api:
        api.create("r")
        response = api.put("r", {"metadata": {"a": "x" * 262_136}})
        assert (response.status_code, response.json()["sizeBytes"]) == (200, 262_144)
        assert response.json()["limitBytes"] == 262_144
        body = problem(api.put("r", {"metadata": {"a": "x" * 262_137}}), 413)
        assert (body["sizeBytes"], body["limitBytes"]) == (262_145, 262_144)
        assert api.get("/api/v1/runs/r/metadata").json()["sizeBytes"] == 262_144


def test_an_oversize_run_can_be_read_and_shrunk_after_the_limit_was_lowered(tmp_path: Path) -> None:
    with service(tmp_path / "x.db", metadata_bytes_max=262_144) as api:
        api.create("r", metadata={"a": "x" * 10_000})
    with service(tmp_path / "x.db") as api:
        assert api.get("/api/v1/runs/r/metadata").json()["sizeBytes"] == 10_008
        problem(api.put("r", {"operations": [operation("set", "b", 1)]}), 413)
        assert api.put("r", {"operations": [operation("delete", "a")]}).json()["sizeBytes"] == 2


def test_ten_thousand_operations_are_taken_and_one_more_is_not(api: Service) -> None:
    api.create("r")
    one = operation("increment", "n", 1)
    lists = {"operations": [one] * 4_000, "parentOperations": [one] * 3_000, "rootOperations": [one] * 3_000}
    assert api.put("r", lists).json() == answer({"n": 10_000}, 10_001, 11)
    lists["rootOperations"].append(one)
    body = problem(api.put("r", lists), 422)
    assert body["detail"] == "the body has 10001 operations over its three lists, at most 10000 are allowed"
    body = problem(api.put("r", {"operations": [one] * 10_001}), 422)
    assert body["detail"] == "operations: has 10001 items, at most 10000 are allowed"
    assert api.metadata() == {"n": 10_000}


def test_a_key_of_1024_bytes_is_taken_and_one_more_is_not(api: Service) -> None:
    api.create("r")
    assert api.put("r", {"operations": [operation("set", "é" * 512, 1)]}).status_code == 200
    body = problem(api.put("r", {"operations": [operation("set", "é" * 512 + "x", 1)]}), 413)
    assert body["detail"] == "operations[0].key: is 1025 bytes, at most 1024 are allowed"


def test_a_list_index_of_65535_is_taken_and_one_more_is_not(tmp_path: Path) -> None:
    with service(tmp_path / "x.db", metadata_bytes_max=262_144) as api:
        api.create("r", metadata={"l": [], "m": []})
        assert api.put("r", {"operations": [operation("set", "$.l.65535", 1)]}).status_code == 413
        api.put("r", {"operations": [operation("set", "$.l.40000", 1)]})
        assert len(api.metadata()["l"]) == 40_001
        body = problem(api.put("r", {"operations": [operation("set", "$.m.65536", 1)]}), 422)
        assert (body["limit"], body["place"], body["runId"]) == (65_535, "operations[0]", "r")


def test_sums_past_a_double_are_refused_with_their_place(api: Service) -> None:
    api.create("r", metadata={"n": 1.7e308})
    body = problem(
        api.put("r", {"operations": [operation("set", "a", 1), operation("increment", "n", 1e308)]}), 422
    )
    assert (body["place"], body["code"]) == ("operations[1]", "out-of-bounds")
    assert "key 'n'" in body["detail"]
    assert api.history()[-1]["version"] == 1


def test_nesting_of_64_levels_is_taken_and_65_is_refused_also_when_built_up(api: Service) -> None:
    def nested(levels: int) -> Any:
        value: Any = []
        for _ in range(levels - 1):
            value = [value]
        return value

    api.create("r", metadata={"a": nested(63)})
    assert problem(api.put("r", {"metadata": {"a": nested(64)}}), 400)["detail"].startswith("metadata: at .a[0]")
    body = problem(api.put("r", {"operations": [operation("append", "$.a" + ".0" * 61, nested(2))]}), 422)
    assert (body["limit"], body["runId"]) == (64, "r")
    assert api.metadata() == {"a": nested(63)}


BAD_KEYS = [
    "__proto__",
    "$.",
    "$..",
    "$.a.*",
    "$.*",
    "$.a.[0:2]",
    "$.a\\.b",
    "$.a~1b",
    "$.__proto__",
    "$.a.constructor.b",
    "$.prototype",
    "$.a['__proto__']",
    "$.l.length",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_no_operation_may_use_refuses_the_whole_request(api: Service, key: str) -> None:
    api.create("r", metadata={"a": {}, "l": [1]})
    before = api.contents()
    operations = [operation("set", "b", 1), operation("set", key, 1)]
    body = problem(api.put("r", {"operations": operations}), 400)
    assert (body["code"], body["place"], body["runId"]) == ("bad-path", "operations[1]", "r")
    assert repr(key) in body["detail"]
    assert api.contents() == before
    assert [(one.code, one.key) for one in api.refusals()] == [("bad-path", key)]


@pytest.mark.parametrize(
    "key", ["", "$", "$x", "$[0]", "a.b", "constructor", "a.__proto__", "toString", "\0", "😀"]
)
def test_odd_literal_keys_are_ordinary(api: Service, key: str) -> None:
    api.create("r")
    assert api.put("r", {"operations": [operation("set", key, 1)]}).json()["metadata"] == {key: 1}
    assert api.put("r", {"operations": [operation("delete", key)]}).json()["metadata"] == {}


def test_delete_takes_its_key_literally(api: Service) -> None:
    api.create("r", metadata={"a": {"b": 1}, "$.a.b": 2})
    assert api.put("r", {"operations": [operation("delete", "$.a.b")]}).json()["metadata"] == {"a": {"b": 1}}


# --- finished runs ---


def test_late_writes_are_taken_for_an_hour_and_refused_after(api: Service) -> None:
    api.create("r")
    api.move("r", "COMPLETED")
    api.now += 3_600 * SECOND
    assert api.put("r", {"operations": [operation("set", "a", 1)]}).status_code == 200
    api.now += 1
    body = problem(api.put("r", {"operations": [operation("set", "a", 2)]}), 422)
    assert body["code"] == "late-write"
    assert body["detail"].startswith("run r finished at 2023-11-14T22:13:20.000000Z; writes are accepted for 3600")
    assert [one.code for one in api.refusals()] == ["late-write"]
    assert api.metadata() == {"a": 1}


def test_only_the_named_run_is_judged_for_lateness(api: Service) -> None:
    api.create("above")
    api.create("r", parentRunId="above")
    api.move("above", "FAILED")
    api.now += 9_999 * SECOND
    body = {"parentOperations": [operation("set", "p", 1)], "rootOperations": [operation("set", "q", 1)]}
    assert api.put("r", body).status_code == 200
    assert api.metadata("above") == {"p": 1, "q": 1}


def test_a_hundred_refusals_are_kept_and_all_are_counted(api: Service) -> None:
    api.create("r")
    for _ in range(103):
        api.put("r", {"operations": [operation("set", "$.", 1)]})
    assert [one.number for one in api.refusals()] == list(range(4, 104))
