"""What no sound client sends: each answer is a 4xx that says where, and nothing changes."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.service import JSON, Service, problem, service

CREATE, TRIGGER = "/api/v1/runs", "/api/v1/tasks/t/trigger"
STATUS, METADATA = "/api/v1/runs/r/status", "/api/v1/runs/r/metadata"
WRITES = [("POST", CREATE), ("POST", TRIGGER), ("POST", STATUS), ("PUT", METADATA)]
READS = [
    "/api/v3/runs/r",
    "/api/v1/runs",
    "/api/v1/runs/r/metadata",
    "/api/v1/runs/r/metadata/history",
    "/api/v1/runs/r/metadata/progress",
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One run, `r`, which no test of this module may change."""
    with service(tmp_path_factory.mktemp("malformed") / "x.db") as made:
        made.create("r", metadata={"a": 1, "l": [1], "n": None})
        yield made


def refused(
    app: Service, method: str, path: str, content: bytes | str, status: int = 400, **headers: str
) -> dict[str, Any]:
    """Send *content* and get the problem; nothing may have been written."""
    before = app.contents()
    given = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    response = app.request(method, path, content=content, headers=given)
    body = problem(response, status)
    assert app.contents() == before
    return body


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


# Bodies that are wrong for every route, with words that the answer must hold.
BODIES: list[tuple[str, bytes | str, str]] = [
    ("empty", "", "the request body is empty"),
    ("blank", "  \n", "expecting value"),
    ("a word", "hello", "line 1, column 1"),
    ("an open object", '{"a":', "line 1, column 6"),
    ("a comma too many", '{"a": 1,}', "line 1, column 9"),
    ("two values", "{} {}", "line 1, column 4: extra data"),
    ("single quotes", "{'a': 1}", "line 1, column 2"),
    ("a comment", "{} // no", "line 1, column 4"),
    ("a control character in a string", '{"a": "\n"}', "line 1, column 8"),
    ("a list", "[]", "the body must be an object"),
    ("a full list", "[{}]", "the body must be an object"),
    ("null", "null", "the body must be an object"),
    ("true", "true", "the body must be an object"),
    ("a number", "5", "the body must be an object"),
    ("a string", '"{}"', "the body must be an object"),
    ("not UTF-8", b'{"a": "\xff"}', "byte 7: not UTF-8"),
    ("a surrogate in UTF-8", b'{"a": "\xed\xa0\x80"}', "byte 7: not UTF-8"),
    ("overlong UTF-8", b'{"a": "\xc0\xaf"}', "byte 7: not UTF-8"),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), "byte 0: not UTF-8"),
    ("UTF-16 without a mark", '{"a": 1}'.encode("utf-16-le"), "line 1, column 2"),
    ("UTF-32", '{"a": 1}'.encode("utf-32-be"), "line 1, column 1"),
    ("a byte order mark", b"\xef\xbb\xbf{}", "line 1, column 1"),
    ("nothing but NUL", b"\0", "line 1, column 1"),
    ("NaN", '{"a": NaN}', "a: NaN is not JSON"),
    ("Infinity", '{"a": [0, Infinity]}', "a[1]: Infinity is not JSON"),
    ("-Infinity", '{"a": {"b": -Infinity}}', "a.b: -Infinity is not JSON"),
    ("a key twice", '{"a": 1, "a": 1}', "a: this key appears twice"),
    ("a key twice, escaped", '{"a": 1, "\\u0061": 2}', "a: this key appears twice"),
    ("a key twice at depth", '{"x": [{"y": {"z": 1, "z": 2}}]}', "x[0].y.z: this key appears twice"),
    ("half a character", '{"a": "\\ud800"}', "a: unpaired surrogate \\ud800"),
    ("half a character at depth", '{"a": [{"b": "x\\udfffy"}]}', "a[0].b: unpaired surrogate \\udfff"),
    ("half a character in a key", '{"a": {"\\ud83d": 1}}', "a: unpaired surrogate \\ud83d"),
    ("halves in the wrong order", '{"a": "\\ude00\\ud83d"}', "a: unpaired surrogate \\ude00"),
    ("5,000 digits", '{"a": ' + "9" * 5_000 + "}", "too many digits"),
    ("5,000 digits at the top", "-" + "9" * 5_000, "too many digits"),
    ("100,000 levels", nested(100_000), "nested deeper than 64"),
    ("100,000 open brackets", "[" * 100_000, "nested deeper than 64"),
    ("100,000 objects", '{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper than 64"),
    ("a syntax error behind NaN", '{"a": NaN, ', "line 1, column"),
    ("a syntax error behind a key twice", '[{"a": 1, "a": 2}, ]', "line 1, column"),
    ("nesting behind a key twice", '[{"a": 1, "a": 2}, ' + nested(100_000) + "]", "nested deeper than 64"),
    ("5,000 digits behind NaN", "[NaN, " + "9" * 5_000 + "]", "too many digits"),
    ("NaN at 900 levels", "[" * 900 + "NaN" + "]" * 900, "NaN is not JSON"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(("content", "words"), [body[1:] for body in BODIES], ids=[body[0] for body in BODIES])
def test_a_body_that_is_no_strict_json_object_is_400(
    app: Service, method: str, path: str, content: bytes | str, words: str
) -> None:
    assert words in refused(app, method, path, content)["detail"]


# Values that JSON, or a JavaScript number, cannot hold, wherever a value may stand.
VALUES: list[tuple[str, str]] = [
    ("1e400", "inf is not a JSON number"),
    ("-1e400", "-inf is not a JSON number"),
    ("9007199254740993", "a double cannot hold this integer exactly"),
    ("-123456789012345678901", "a double cannot hold this integer exactly"),
    ("9" * 4_000, "a double cannot hold this integer exactly"),
    (nested(65), "nested deeper than 64 levels"),
    ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
]
PLACES = [
    ("POST", CREATE, '{"task": "t", "metadata": {"k": {"j": [0, %s]}}}', "metadata: at .k.j[1]"),
    ("POST", CREATE, '{"task": "t", "payload": [0, %s]}', "payload: at [1]"),
    ("POST", TRIGGER, '{"payload": {"k": %s}}', "payload: at .k"),
    ("POST", TRIGGER, '{"options": {"metadata": {"k": %s}}}', "options.metadata: at .k"),
    ("POST", STATUS, '{"status": "EXECUTING", "output": {"k": %s}}', "output: at .k"),
    ("PUT", METADATA, '{"metadata": {"k": %s}}', "metadata: at .k"),
    (
        "PUT",
        METADATA,
        '{"operations": [{"type": "set", "key": "k", "value": [%s]}]}',
        "operations[0].value: at [0]",
    ),
    ("PUT", METADATA, '{"operations": [{"type": "update", "value": {"k": %s}}]}', "operations[0].value: at .k"),
    (
        "PUT",
        METADATA,
        '{"operations": [], "rootOperations": [{"type": "append", "key": "k", "value": {"a": %s}}]}',
        "rootOperations[0].value: at .a",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "place"), PLACES)
@pytest.mark.parametrize(("value", "words"), VALUES, ids=range(len(VALUES)))
def test_a_value_that_cannot_be_held_is_400_and_named_by_its_place(
    app: Service, method: str, path: str, body: str, place: str, value: str, words: str
) -> None:
    detail = refused(app, method, path, body % value)["detail"]
    assert detail.startswith(place)
    assert words in detail


def operations(*listed: str) -> str:
    return '{"operations": [%s]}' % ", ".join(listed)  # noqa: UP031 - Braces are JSON's here.


# Sound JSON that says something impossible, with the place and the words of the first fault.
BAD: list[tuple[str, str, str, str]] = [
    ("PUT", METADATA, '{"metadata": null}', "metadata: must be an object"),
    ("PUT", METADATA, '{"metadata": []}', "metadata: must be an object"),
    ("PUT", METADATA, '{"metadata": "{}"}', "metadata: must be an object"),
    ("PUT", METADATA, '{"operations": null}', "operations: must be a list"),
    ("PUT", METADATA, '{"operations": {}}', "operations: must be a list"),
    ("PUT", METADATA, '{"operations": [], "parentOperations": null}', "parentOperations: must be a list"),
    ("PUT", METADATA, '{"rootOperations": "x"}', "rootOperations: must be a list"),
    ("PUT", METADATA, '{"operations": [], "metadata": 5}', "metadata: must be an object"),
    ("PUT", METADATA, '{"attempt": 0}', "attempt: "),
    ("PUT", METADATA, '{"attempt": "1"}', "attempt: must be a whole number"),
    ("PUT", METADATA, '{"attempt": true}', "attempt: must be a whole number"),
    ("PUT", METADATA, '{"attempt": 1.5}', "attempt: must be a whole number"),
    ("PUT", METADATA, '{"attempt": 2147483648}', "attempt: Input should be less than or equal to 2147483647"),
    ("PUT", METADATA, '{"attempt": %s}' % ("9" * 4_000), "attempt: "),
    ("PUT", METADATA, '{"actor": ""}', "actor: must not be empty"),
    ("PUT", METADATA, '{"actor": " \\t"}', "actor: must not be empty"),
    ("PUT", METADATA, '{"actor": 5}', "actor: must be a string"),
    ("PUT", METADATA, '{"actor": "\\ud800"}', "actor: unpaired surrogate"),
    ("PUT", METADATA, operations("null"), "operations[0]: must be an object"),
    ("PUT", METADATA, operations("[]"), "operations[0]: must be an object"),
    ("PUT", METADATA, operations("{}"), "operations[0]: lacks a type"),
    ("PUT", METADATA, operations('{"type": "nope", "key": "a"}'), "operations[0]: has an unknown type"),
    ("PUT", METADATA, operations('{"type": null, "key": "a"}'), "operations[0]: has an unknown type"),
    ("PUT", METADATA, operations('{"type": ["set"], "key": "a"}'), "operations[0]: has an unknown type"),
    ("PUT", METADATA, operations('{"type": "SET", "key": "a", "value": 1}'), "operations[0]: has an unknown type"),
    ("PUT", METADATA, operations('{"type": %s}' % nested(900)), "operations[0]: has an unknown type"),  # noqa: UP031
    ("PUT", METADATA, operations('{"type": "set", "value": 1}'), "operations[0].key: is missing"),
    ("PUT", METADATA, operations('{"type": "set", "key": 1, "value": 1}'), "operations[0].key: must be a string"),
    (
        "PUT",
        METADATA,
        operations('{"type": "set", "key": null, "value": 1}'),
        "operations[0].key: must be a string",
    ),
    ("PUT", METADATA, operations('{"type": "set", "key": "a"}'), "operations[0].value: is missing"),
    ("PUT", METADATA, operations('{"type": "append", "key": "a"}'), "operations[0].value: is missing"),
    ("PUT", METADATA, operations('{"type": "remove", "key": "a"}'), "operations[0].value: is missing"),
    ("PUT", METADATA, operations('{"type": "increment", "key": "a"}'), "operations[0].value: is missing"),
    ("PUT", METADATA, operations('{"type": "update"}'), "operations[0].value: is missing"),
    ("PUT", METADATA, operations('{"type": "delete"}'), "operations[0].key: is missing"),
    *(
        (
            "PUT",
            METADATA,
            operations(f'{{"type": "increment", "key": "a", "value": {value}}}'),
            f"operations[0].value: {said}",
        )
        for value, said in [
            ('"1"', "must be a number"),
            ("null", "must be a number"),
            ("true", "must be a number"),
            ("[1]", "must be a number"),
            ("1e400", "inf is not a JSON number"),
            ("9007199254740993", "a double cannot hold"),
        ]
    ),
    *(
        (
            "PUT",
            METADATA,
            operations(f'{{"type": "update", "value": {value}}}'),
            "operations[0].value: must be an object",
        )
        for value in ("null", "[]", '"x"', "1")
    ),
    (
        "PUT",
        METADATA,
        operations('{"type": "set", "key": "\\ud800", "value": 1}'),
        "operations[0].key: unpaired surrogate \\ud800",
    ),
    (
        "PUT",
        METADATA,
        operations('{"type": "set", "key": "a", "value": 1}', '{"type": "delete"}'),
        "operations[1].key: is missing",
    ),
    *(
        (
            "PUT",
            METADATA,
            operations(f'{{"type": "set", "key": "a", "value": 1, "occurredAt": {moment}}}'),
            "operations[0].occurredAt: ",
        )
        for moment in [
            '"2026-01-31T14:05:00"',
            '"2026-01-31"',
            '"now"',
            '""',
            "0",
            "1700000000",
            "true",
            "[]",
            '"0000-01-01T00:00:00Z"',
            '"2026-02-30T00:00:00Z"',
            '"2026-01-31T24:05:00Z"',
            '"2026-01-31T14:05:00+99:00"',
            '"\u0662\u0660\u0662\u0666-01-31T14:05:00Z"',
            '"9999-12-31T23:59:59-23:59"',
            '"2026-01-31T14:05:00Z\\n"',
        ]
    ),
    ("POST", STATUS, "{}", "status: is missing"),
    ("POST", STATUS, '{"status": "DONE"}', "status: unknown status; there are PENDING_VERSION"),
    ("POST", STATUS, '{"status": null}', "status: unknown status"),
    ("POST", STATUS, '{"status": 5}', "status: unknown status"),
    ("POST", STATUS, '{"status": ["COMPLETED"]}', "status: unknown status"),
    ("POST", STATUS, '{"status": %s}' % nested(900), "status: unknown status"),  # noqa: UP031
    ("POST", STATUS, '{"status": "FAILED", "error": 5}', "error: must be an object"),
    ("POST", STATUS, '{"status": "FAILED", "error": []}', "error: must be an object"),
    ("POST", STATUS, '{"status": "FAILED", "error": {}}', "error.message: is missing"),
    ("POST", STATUS, '{"status": "FAILED", "error": {"message": 1}}', "error.message: must be a string"),
    ("POST", STATUS, '{"status": "FAILED", "error": "\\ud800"}', "error: unpaired surrogate"),
    ("POST", STATUS, '{"status": "FAILED", "attempt": -1}', "attempt: "),
    ("POST", CREATE, "{}", "task: is missing"),
    ("POST", CREATE, '{"task": null}', "task: must be a string"),
    ("POST", CREATE, '{"task": ""}', "task: must not be empty"),
    ("POST", CREATE, '{"task": "\\ud800"}', "task: unpaired surrogate"),
    ("POST", CREATE, '{"task": "t", "tags": null}', "tags: must be a string or a list of strings"),
    ("POST", CREATE, '{"task": "t", "tags": [1]}', "tags: must be a string or a list of strings"),
    ("POST", CREATE, '{"task": "t", "tags": {"a": 1}}', "tags: must be a string or a list of strings"),
    ("POST", CREATE, '{"task": "t", "tags": ["\\udc00"]}', "tags[0]: unpaired surrogate"),
    ("POST", CREATE, '{"task": "t", "metadata": null}', "metadata: must be an object"),
    ("POST", CREATE, '{"task": "t", "status": "nope"}', "status: unknown status"),
    ("POST", CREATE, '{"task": "t", "parentRunId": ""}', "parentRunId: a run id has 1 to 128"),
    ("POST", CREATE, '{"task": "t", "parentRunId": 5}', "parentRunId: must be a string"),
    *(
        ("POST", CREATE, json.dumps({"task": "t", "id": run}), "id: ")
        for run in [
            "",
            " ",
            "a b",
            "a/b",
            "a%2Fb",
            "a\0",
            "é",
            "x" * 129,
            "x" * 200,
            "a\n",
            "r?",
            "#",
            5,
            [],
            {},
            True,
            "\uff11",
        ]
    ),
    ("POST", TRIGGER, '{"options": []}', "options: must be an object"),
    ("POST", TRIGGER, '{"options": "x"}', "options: must be an object"),
    ("POST", TRIGGER, '{"options": {"metadata": []}}', "options.metadata: must be an object"),
    ("POST", TRIGGER, '{"options": {"metadata": "{}"}}', "options.metadata: must be an object"),
    ("POST", TRIGGER, '{"options": {"tags": 5}}', "options.tags: must be a string or a list"),
    ("POST", TRIGGER, '{"options": {"idempotencyKey": ""}}', "options.idempotencyKey: "),
    ("POST", TRIGGER, '{"options": {"idempotencyKey": 5}}', "options.idempotencyKey: must be a string"),
    ("POST", TRIGGER, '{"options": {"parentRunId": "a b"}}', "options.parentRunId: a run id has"),
    ("POST", TRIGGER, '{"options": {"payloadType": 5}}', "options.payloadType: must be a string"),
]


@pytest.mark.parametrize(
    ("method", "path", "content", "said"), BAD, ids=[f"{bad[1][-8:]}-{bad[2][:50]}" for bad in BAD]
)
def test_a_body_that_says_something_impossible_is_400_and_named_by_its_place(
    app: Service, method: str, path: str, content: str, said: str
) -> None:
    assert refused(app, method, path, content)["detail"].startswith(said)


PAST_BOUNDS = [
    ("POST", CREATE, json.dumps({"task": "x" * 257}), 422, "task: at most 256 characters"),
    ("PUT", METADATA, json.dumps({"actor": "x" * 257}), 422, "actor: at most 256 characters"),
    (
        "POST",
        TRIGGER,
        json.dumps({"options": {"idempotencyKey": "x" * 2_049}}),
        422,
        "options.idempotencyKey: at most",
    ),
    (
        "PUT",
        METADATA,
        operations('{"type": "delete", "key": "%s"}' % ("x" * 1_025)),
        413,
        "operations[0].key: is 1025",
    ),
]


@pytest.mark.parametrize(("method", "path", "content", "status", "said"), PAST_BOUNDS)
def test_past_a_bound_is_413_for_bytes_and_422_for_the_rest(
    app: Service, method: str, path: str, content: str, status: int, said: str
) -> None:
    assert refused(app, method, path, content, status)["detail"].startswith(said)


def test_many_faults_are_counted_and_the_first_ten_are_listed(app: Service) -> None:
    body = refused(app, "PUT", METADATA, operations(*["{}"] * 25))
    assert body["detail"].endswith("; and 22 more")
    assert [fault["place"] for fault in body["errors"]] == [f"operations[{index}]" for index in range(10)]


def test_an_answer_does_not_grow_with_the_keys_it_names(app: Service) -> None:
    content = '{"metadata": {"%s": NaN}}' % ("k" * 100_000)
    assert len(refused(app, "PUT", METADATA, content)["detail"]) < 1_000


# --- the body as a whole ---


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "json",
        "application/json, text/plain",
        "application/x-ndjson",
        "text/json",
        "*/*",
    ],
)
def test_a_body_that_is_not_called_json_is_415(app: Service, method: str, path: str, content_type: str) -> None:
    body = refused(app, method, path, "{}", 415, Content_Type=content_type)
    assert body["detail"].startswith("Content-Type is ")


def test_a_body_without_a_content_type_is_415(app: Service) -> None:
    response = app.request("PUT", METADATA, content="{}")
    assert problem(response, 415)["detail"].startswith("Content-Type is missing; send the body as JSON")


@pytest.mark.parametrize(
    "content_type", ["application/json;charset=utf-8", "Application/JSON", "application/merge-patch+json"]
)
def test_json_by_another_name_is_json(app: Service, content_type: str) -> None:
    assert app.request("PUT", METADATA, content="{}", headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
def test_a_compressed_body_is_415_and_never_inflated(app: Service, method: str, path: str, encoding: str) -> None:
    content = gzip.compress(b" " * 50_000_000 + b"{}", 1) if encoding == "gzip" else b"{}"
    assert "uncompressed" in refused(app, method, path, content, 415, Content_Encoding=encoding)["detail"]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_body_of_one_byte_over_two_mebibytes_is_413(app: Service, method: str, path: str) -> None:
    body = refused(app, method, path, b"{" + b" " * 2_097_151 + b"}", 413)
    assert (body["code"], body["limitBytes"]) == ("body-too-large", 2_097_152)


def test_a_body_of_exactly_two_mebibytes_is_read(app: Service) -> None:
    response = app.request("PUT", METADATA, content=b"{" + b" " * 2_097_150 + b"}", headers=JSON)
    assert response.status_code == 200


@pytest.mark.parametrize("length", ["2097153", "9" * 19, "9" * 5_000])
def test_a_body_that_is_only_announced_too_large_is_413_and_closes(app: Service, length: str) -> None:
    response = app.request("PUT", METADATA, content=b"{}", headers={**JSON, "Content-Length": length})
    assert problem(response, 413)["limitBytes"] == 2_097_152
    assert response.headers["connection"] == "close"


def test_a_body_too_large_in_pieces_without_a_length_is_413(app: Service) -> None:
    read = 0

    async def pieces() -> Any:
        nonlocal read
        for _ in range(1_000):
            read += 65_536
            yield b" " * 65_536

    response = app.request("PUT", METADATA, content=pieces(), headers=JSON)
    problem(response, 413)


# --- queries ---

QUERIES: list[tuple[str, str, int, str]] = [
    *((path, "unknown=1", 400, "unknown query parameter 'unknown'") for path in READS),
    *((path, "%00=1", 400, "unknown query parameter '\\x00'") for path in READS),
    *((path, "=1", 400, "unknown query parameter ''") for path in READS),
    *((path, "%FF=%FE", 400, "unknown query parameter") for path in READS),
    ("/api/v1/runs", "page%5Bsize%5D=5&page%5Bsize%5D=6", 400, "'page[size]' is given twice"),
    (
        "/api/v1/runs",
        "filter%5Bstatus%5D=QUEUED&filter%5Bstatus%5D=FAILED",
        400,
        "'filter[status]' is given twice",
    ),
    ("/api/v1/runs", "page%5Bsize%5D=abc", 400, "page[size] must be a whole number"),
    ("/api/v1/runs", "page%5Bsize%5D=", 400, "page[size] must be a whole number"),
    ("/api/v1/runs", "page%5Bsize%5D=5.0", 400, "page[size] must be a whole number"),
    ("/api/v1/runs", "page%5Bsize%5D=" + "9" * 5_000, 400, "page[size] must be a whole number"),
    ("/api/v1/runs", "filter%5Bstatus%5D=%00", 400, "filter[status]: unknown status"),
    *(
        (METADATA, f"version={version}", 400, "version must be a whole number, not")
        for version in [
            "",
            "x",
            "1.5",
            "1e3",
            "0x1",
            "%2B1",
            "+1",
            " 1",
            "1%00",
            "9" * 20,
            "9" * 5_000,
            "NaN",
            "1_0",
            "%D9%A1",
        ]
    ),
    (METADATA, "version=1&version=1", 400, "'version' is given twice"),
    (METADATA, "version=1&at=2026-01-31T14:05:00Z", 400, "not for both"),
    *(
        (METADATA, f"at={moment}", 400, "at: ")
        for moment in [
            "",
            "now",
            "2026-01-31",
            "2026-01-31T14:05:00",
            "1700000000",
            "0000-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "0001-01-01T00:00:00%2B23:59",
            "9999-12-31T23:59:59-23:59",
            "10000-01-01T00:00:00Z",
            "2026-01-31T14:05:00%2B99:99",
            "2026-01-31T25:00:00Z",
            "-2026-01-31T14:05:00Z",
            "2026-01-31T14:05:00Z%00",
            "%D9%A2%D9%A0%D9%A2%D9%A6-01-31T14:05:00Z",
            "2026-01-31T14:05:00.Z",
            "2026-W05-6T14:05:00Z",
        ]
    ),
    (METADATA + "/history", "after=x", 400, "after must be a whole number"),
    (METADATA + "/history", "after=-1", 422, "after must lie within 0 and"),
    (METADATA + "/history", "after=" + "9" * 20, 400, "after must be a whole number"),
    (METADATA + "/history", "limit=", 400, "limit must be a whole number"),
    (METADATA + "/history", "order=up", 400, "order must be asc or desc, not 'up'"),
    (METADATA + "/history", "order=", 400, "order must be asc or desc"),
    (METADATA + "/history", "order=ASC", 400, "order must be asc or desc"),
    (METADATA + "/history", "key=$.*", 400, "wildcards are not supported"),
    (METADATA + "/history", "key=a&key=b", 400, "'key' is given twice"),
]


@pytest.mark.parametrize(
    ("path", "query", "status", "said"), QUERIES, ids=[f"{q[0][-8:]}?{q[1][:40]}" for q in QUERIES]
)
def test_a_query_that_means_nothing_is_refused_and_named(
    app: Service, path: str, query: str, status: int, said: str
) -> None:
    assert said in problem(app.get(f"{path}?{query}"), status)["detail"]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_write_takes_no_query(app: Service, method: str, path: str) -> None:
    body = refused(app, method, f"{path}?version=1", "{}")
    assert body["detail"] == "unknown query parameter 'version'; this route takes none"


# --- fuzz ---

KEYS = st.one_of(
    st.sampled_from(["a", "l", "$.a", "$.l.0", "$.l.3", "$.x.y", "$.", "$.a.*", "__proto__", "", "\0"]),
    st.text(max_size=8),
)
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([1e308, -1e308, 2**53, 2**53 + 1, 10**25, 1e21, -0.0])
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=12,
)
KINDS = st.sampled_from(["set", "delete", "append", "remove", "increment", "update"])
OPERATIONS = st.one_of(
    st.fixed_dictionaries({"type": KINDS}, optional={"key": KEYS, "value": ANYTHING}),
    st.fixed_dictionaries({"type": st.sampled_from(["set", "append", "remove"]), "key": KEYS, "value": ANYTHING}),
    st.fixed_dictionaries({"type": st.just("increment"), "key": KEYS, "value": NUMBERS}),
    ANYTHING,
)
LISTS = st.one_of(st.lists(OPERATIONS, max_size=4), ANYTHING)
OBJECTS = st.dictionaries(st.text(max_size=6), ANYTHING, max_size=5)
BODY = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "metadata": st.one_of(OBJECTS, ANYTHING),
            "operations": LISTS,
            "parentOperations": LISTS,
            "rootOperations": LISTS,
            "attempt": st.one_of(st.integers(1, 9), ANYTHING),
            "actor": st.one_of(st.just("ann"), ANYTHING),
        },
    ),
    st.fixed_dictionaries({"metadata": OBJECTS}),
    ANYTHING,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    path: Path = tmp_path_factory.mktemp("fuzz") / "x.db"
    with service(path) as made:
        yield made


def as_doubles(value: Any) -> Any:
    """As JavaScript holds it: every number a double, and one zero."""
    if isinstance(value, dict):
        return {key: as_doubles(member) for key, member in value.items()}
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    return value if isinstance(value, bool) or not isinstance(value, int | float) else float(value) + 0.0


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODY, as_ascii=st.booleans())
def test_whatever_is_put_is_refused_cleanly_or_reads_back_equal(
    fuzzed: Service, body: Any, as_ascii: bool
) -> None:
    fuzzed.post("/api/v1/runs", {"id": "r", "task": "t"})
    fuzzed.put("r", {"metadata": {"a": 1, "l": [1, "x", None]}})
    before = fuzzed.get(METADATA).json()
    content = json.dumps(body, ensure_ascii=as_ascii).encode(errors="surrogatepass")
    response = fuzzed.request("PUT", METADATA, content=content, headers=JSON)
    after = fuzzed.get(METADATA).json()
    if response.status_code != 200:
        assert response.status_code in {400, 413, 422}, (response.status_code, body)
        problem(response, response.status_code)
        assert after == before
        return
    answer = response.json()
    assert same(answer["metadata"], after["metadata"])
    assert (
        answer["version"]
        == after["version"]
        == before["version"] + len(fuzzed.history("r", f"after={before['version']}"))
    )
    assert after["sizeBytes"] == len(
        fuzzed.get(METADATA).text.partition('"metadata":')[2].partition(',"metadataType"')[0].encode()
    )
    if isinstance(body, dict) and body.keys() == {"metadata"}:
        assert same(as_doubles(after["metadata"]), as_doubles(body["metadata"]))
