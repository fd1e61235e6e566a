"""If-Match on writes, If-None-Match on reads."""

import pytest

from tests.api.service import Service, operation, problem

NEXT = {"operations": [operation("increment", "n", 1)]}


@pytest.fixture
def api_at_7(api: Service) -> Service:
    api.create("r", metadata={"n": 0})
    api.put("r", {"operations": [operation("increment", "n", 1)] * 6})
    return api


@pytest.mark.parametrize(
    "condition",
    [
        '"7"',
        "*",
        " * ",
        '"3", "7"',
        '"3","7","9"',
        'W/"3", "7"',
        '"x", "7"',
        '"7",',
        '\t"7" ',
        '"", "7"',
        '"é", "7"',
    ],
)
def test_a_condition_that_holds_lets_the_write_through(api_at_7: Service, condition: str) -> None:
    response = api_at_7.request(
        "PUT",
        "/api/v1/runs/r/metadata",
        json=NEXT,
        headers=[(b"If-Match", condition.encode("latin-1"))],
    )
    assert (response.status_code, response.json()["version"]) == (200, 8)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('"6"', [6]),
        ('"8"', [8]),
        ('"3", "5"', [3, 5]),
        ('W/"7"', []),
        ('"0"', []),
        ('"07"', []),
        ('"-7"', []),
        ('"7.0"', []),
        ('"+7"', []),
        ('" 7"', None),
        ('""', []),
        ('"*"', []),
        ('"seven"', []),
        ('"\u00b2"', []),
        ('"' + "7" * 5_000 + '"', []),
        ('"' + "1" * 18 + '"', [int("1" * 18)]),
    ],
)
def test_a_condition_that_fails_is_412_with_both_versions(
    api_at_7: Service, condition: str, expected: list[int] | None
) -> None:
    before = api_at_7.contents()
    response = api_at_7.request(
        "PUT", "/api/v1/runs/r/metadata", json=NEXT, headers=[(b"If-Match", condition.encode("latin-1"))]
    )
    if expected is None:
        problem(response, 400)
    else:
        body = problem(response, 412)
        assert (body["expected"], body["actual"], body["runId"]) == (expected, 7, "r")
        assert "found 7; read it again and retry" in body["detail"]
    assert api_at_7.contents() == before


GARBAGE = [
    "",
    " ",
    "7",
    '"7',
    '7"',
    "'7'",
    '"3" "7"',
    '"7";',
    'w/"7"',
    "W/",
    'W/ "7"',
    '*, "7"',
    '"7", *',
    ',,"7"',
    "null",
]


@pytest.mark.parametrize("condition", GARBAGE)
def test_a_condition_that_is_garbage_is_400(api_at_7: Service, condition: str) -> None:
    before = api_at_7.contents()
    body = problem(api_at_7.put("r", NEXT, {"If-Match": condition}), 400)
    assert body["code"] == "bad-condition"
    assert body["detail"].startswith("if-match")
    assert problem(api_at_7.get("/api/v1/runs/r/metadata", {"If-None-Match": condition}), 400)["code"] == (
        "bad-condition"
    )
    assert api_at_7.contents() == before


def test_several_lines_of_one_header_are_one_list(api_at_7: Service) -> None:
    lines = [("If-Match", '"3"'), ("If-Match", '"7"')]
    response = api_at_7.request("PUT", "/api/v1/runs/r/metadata", json=NEXT, headers=lines)
    assert response.status_code == 200
    lines = [("If-None-Match", '"3"'), ("If-None-Match", '"8"')]
    assert api_at_7.request("GET", "/api/v1/runs/r/metadata", headers=lines).status_code == 304


@pytest.mark.parametrize("condition", ['"7"', "*", '"1", W/"7"', 'W/"7"'])
def test_who_has_this_version_already_gets_304_without_a_body(api_at_7: Service, condition: str) -> None:
    for path in ("/api/v1/runs/r/metadata", "/api/v1/runs/r/metadata?version=7"):
        response = api_at_7.get(path, {"If-None-Match": condition})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"7"')


@pytest.mark.parametrize("condition", ['"6"', '"07"', '"77"', 'W/"70"'])
def test_who_has_another_version_gets_the_metadata(api_at_7: Service, condition: str) -> None:
    response = api_at_7.get("/api/v1/runs/r/metadata", {"If-None-Match": condition})
    assert (response.status_code, response.json()["version"]) == (200, 7)


def test_an_unknown_run_is_404_whatever_the_condition(api: Service) -> None:
    for condition in ("*", '"1"'):
        problem(api.put("nobody", NEXT, {"If-Match": condition}), 404)
        problem(api.get("/api/v1/runs/nobody/metadata", {"If-None-Match": condition}), 404)


def test_the_condition_is_about_the_named_run_only(api: Service) -> None:
    api.create("above")
    api.create("r", parentRunId="above")
    body = {"parentOperations": [operation("set", "a", 1)]}
    assert api.put("r", body, {"If-Match": '"1"'}).status_code == 200
    assert api.put("r", body, {"If-Match": '"1"'}).status_code == 200
    assert api.put("above", {}, {"If-Match": '"3"'}).status_code == 200


def test_status_moves_the_version_and_obeys_the_condition(api_at_7: Service) -> None:
    path = "/api/v1/runs/r/status"
    assert problem(api_at_7.post(path, {"status": "EXECUTING"}, {"If-Match": '"6"'}), 412)["actual"] == 7
    moved = api_at_7.post(path, {"status": "EXECUTING"}, {"If-Match": '"7"'})
    assert (moved.json(), moved.headers["etag"]) == ({"id": "r", "status": "EXECUTING", "version": 8}, '"8"')
    assert problem(api_at_7.put("r", NEXT, {"If-Match": '"7"'}), 412)["actual"] == 8


def test_a_stale_version_is_told_before_lateness_and_size(api_at_7: Service) -> None:
    api_at_7.move("r", "COMPLETED")
    api_at_7.now += 10**12
    problem(api_at_7.put("r", {"operations": [operation("set", "a", "x" * 5_000)]}, {"If-Match": '"1"'}), 412)
    assert api_at_7.refusals() == []


def test_of_many_writers_with_one_version_one_wins(api_at_7: Service) -> None:
    statuses = [api_at_7.put("r", NEXT, {"If-Match": '"7"'}).status_code for _ in range(5)]
    assert statuses == [200, 412, 412, 412, 412]
