"""Batches over HTTP: places, lines, and what a stream that broke off leaves behind."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.keys import Keyed
from tests.api.server import PATIENCE_S, serving
from tests.api.service import SECOND, Service, contents, empty, problem, service

NDJSON = {"Content-Type": "application/x-ndjson"}


def line(index: Any, task: Any = "t", **members: Any) -> bytes:
    return json.dumps({"index": index, "task": task, **members}).encode() + b"\n"


def make(api: Service | Keyed, count: int = 3, **members: Any) -> str:
    response = api.request("POST", "/api/v3/batches", json={"runCount": count, **members})
    assert response.status_code in {200, 201}, response.text
    return str(response.json()["id"])


def add(api: Service | Keyed, batch: str, *lines: bytes, headers: dict[str, str] = NDJSON) -> httpx2.Response:
    return api.request("POST", f"/api/v3/batches/{batch}/items", content=b"".join(lines), headers=headers)


def retrieved(api: Service | Keyed, batch: str) -> Any:
    response = api.get(f"/api/v2/batches/{batch}")
    assert response.status_code == 200, response.text
    return response.json()


def wait_for_runs(path: Path, count: int) -> None:
    """Look until there are so many runs."""
    end = time.monotonic() + PATIENCE_S
    while contents(path)["runs"] < count:
        assert time.monotonic() < end, f"{count} runs never came"
        time.sleep(0.02)


def counts(response: httpx2.Response) -> tuple[int, int, bool]:
    assert response.status_code == 200, response.text
    body = response.json()
    return body["itemsAccepted"], body["itemsDeduplicated"], body["sealed"]


# --- a batch and its places ---


def test_a_batch_fills_up_and_ends_with_its_last_run(api: Service) -> None:
    batch = make(api)
    begun = {
        "id": batch,
        "status": "PENDING",
        "createdAt": "2023-11-14T22:13:20.000000Z",
        "updatedAt": "2023-11-14T22:13:20.000000Z",
        "runCount": 3,
        "runs": [],
        "processing": {"errors": []},
    }
    assert retrieved(api, batch) == begun
    api.now += SECOND
    partly = add(api, batch, line(2), line(0, payload={"a": 1}, options={"metadata": {"n": 1}, "tags": ["x"]}))
    assert partly.json() == {
        "id": batch,
        "itemsAccepted": 2,
        "itemsDeduplicated": 0,
        "sealed": False,
        "enqueuedCount": 2,
        "expectedCount": 3,
    }
    assert retrieved(api, batch)["status"] == "PENDING"
    assert counts(add(api, batch, line(0), line(1), line(2))) == (1, 2, True)
    found = retrieved(api, batch)
    assert (found["status"], found["updatedAt"]) == ("PROCESSING", "2023-11-14T22:13:21.000000Z")
    run = api.get(f"/api/v3/runs/{found['runs'][0]}").json()
    assert (run["payload"], run["metadata"], run["tags"]) == ({"a": 1}, {"n": 1}, ["x"])
    (created,) = api.history(run["id"])
    assert created["data"]["batch"] == batch
    for number, one in enumerate(found["runs"]):
        assert "completedAt" not in retrieved(api, batch)["processing"]
        api.now += SECOND
        assert api.move(one, ["COMPLETED", "FAILED", "EXPIRED"][number]).status_code == 200
    done = retrieved(api, batch)
    assert (done["status"], done["processing"]["completedAt"]) == ("COMPLETED", done["updatedAt"])


def test_what_comes_first_for_a_place_keeps_it(api: Service) -> None:
    batch = make(api, 2)
    assert counts(add(api, batch, line(0, task="first"), line(0, task="second"))) == (1, 1, False)
    assert counts(add(api, batch, line(0, task="third"), line(1, task="fourth"))) == (1, 1, True)
    tasks = [api.get(f"/api/v3/runs/{run}").json()["taskIdentifier"] for run in retrieved(api, batch)["runs"]]
    assert tasks == ["first", "fourth"]
    before = api.contents()
    assert counts(add(api, batch, line(1), line(0))) == (0, 2, True)
    assert api.contents() == before


def test_an_item_whose_key_leads_to_a_run_takes_its_place_with_that_run(api: Service) -> None:
    options = {"idempotencyKey": "k"}
    earlier = api.post("/api/v1/tasks/t/trigger", {"options": options}).json()["id"]
    batch = make(api, 2)
    assert counts(add(api, batch, line(0, options=options), line(1, options=options))) == (2, 0, True)
    assert retrieved(api, batch)["runs"] == [earlier, earlier]
    assert api.contents()["runs"] == 1


def test_a_parent_and_the_rest_of_the_family_are_known_to_an_item(api: Service) -> None:
    api.create("root")
    api.create("parent", parentRunId="root")
    batch = make(api, 1)
    assert counts(add(api, batch, line(0, options={"parentRunId": "parent"}))) == (1, 0, True)
    (run,) = retrieved(api, batch)["runs"]
    related = api.get(f"/api/v3/runs/{run}").json()["relatedRuns"]
    assert (related["parent"]["id"], related["root"]["id"]) == ("parent", "root")


# --- making one ---


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "runCount: is missing"),
        ({"runCount": 0}, 400, "runCount"),
        ({"runCount": 1_001}, 422, "a batch has at most 1,000 runs, this one 1,001"),
        ({"runCount": "3"}, 400, "runCount: must be a whole number"),
        ({"runCount": True}, 400, "runCount: must be a whole number"),
        ({"runCount": 1, "idempotencyKey": ""}, 400, "idempotencyKey"),
        ({"runCount": 1, "idempotencyKey": "k" * 2_049}, 422, "idempotencyKey"),
        ({"runCount": 1, "idempotencyKey": "a\0"}, 400, "idempotencyKey"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(api: Service, body: Any, status: int, words: str) -> None:
    assert words in problem(api.post("/api/v3/batches", body), status)["detail"]


def test_what_the_sdk_says_besides_is_accepted(api: Service) -> None:
    more = {"taskIdentifiers": ["t"], "parentRunId": "run_x", "resumeParentOnCompletion": False}
    body = {"runCount": 1, **more, "idempotencyKey": "k", "idempotencyKeyOptions": {"key": "k", "scope": "run"}}
    made = api.post("/api/v3/batches", body)
    assert made.status_code == 201
    assert made.json() == {"id": made.json()["id"], "runCount": 1, "isCached": False, "idempotencyKey": "k"}


def test_a_key_leads_to_its_batch_which_is_cached_once_it_is_complete(api: Service) -> None:
    batch = make(api, 2, idempotencyKey="k")
    body = {"runCount": 2, "idempotencyKey": "k"}
    for sent, is_cached in ((line(0), False), (line(1), True)):
        add(api, batch, sent)
        again = api.post("/api/v3/batches", body)
        assert again.json() == {"id": batch, "runCount": 2, "isCached": is_cached, "idempotencyKey": "k"}
        assert again.status_code == (200 if is_cached else 201)
    assert make(api, 5, idempotencyKey="k") == batch
    assert make(api, 2, idempotencyKey="other") != batch


def test_a_key_of_a_batch_of_another_size_that_is_not_complete_is_refused(api: Service) -> None:
    batch = make(api, 2, idempotencyKey="k")
    refused = problem(api.post("/api/v3/batches", {"runCount": 3, "idempotencyKey": "k"}), 422)
    assert refused["code"] == "batch-unfinished"
    assert batch in refused["detail"]


def test_a_key_expires_after_thirty_days(api: Service) -> None:
    batch = make(api, 1, idempotencyKey="k")
    api.now += 30 * 86_400 * SECOND - 1
    assert make(api, 1, idempotencyKey="k") == batch
    api.now += 1
    newer = make(api, 1, idempotencyKey="k")
    assert newer != batch
    assert make(api, 1, idempotencyKey="k") == newer


def test_the_same_request_makes_one_batch_and_another_under_its_key_is_refused(api: Service) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/api/v3/batches", {"runCount": 2}, key)
    add(api, first.json()["id"], line(0), line(1))
    again = api.post("/api/v3/batches", {"runCount": 2}, key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert problem(api.post("/api/v3/batches", {"runCount": 3}, key), 422)["code"] == "idempotency-key-reused"
    refused = api.post("/api/v1/runs", {"task": "t"}, key)
    assert problem(refused, 422)["code"] == "idempotency-key-reused"
    api.create("r")
    assert api.put("r", {"metadata": {}}, {"Idempotency-Key": "other"}).status_code == 200
    refused = api.post("/api/v3/batches", {"runCount": 2}, {"Idempotency-Key": "other"})
    assert problem(refused, 422)["code"] == "idempotency-key-reused"


# --- lines ---


@pytest.mark.parametrize(
    ("bad", "status", "words"),
    [
        (b"{\n", 400, "line 2: column 2: "),
        (b"7\n", 400, "line 2: the body must be an object"),
        (b'{"task": "t"}\n', 400, "line 2: index: is missing"),
        (b'{"index": 1}\n', 400, "line 2: task: is missing"),
        (line(-1), 400, "line 2: index"),
        (line(1.5), 400, "line 2: index: must be a whole number"),
        (line(True), 400, "line 2: index: must be a whole number"),
        (line("1"), 400, "line 2: index: must be a whole number"),
        (line(3), 422, "created for 3 runs, so an index is at most 2, and this one is 3"),
        (line(1_000), 400, "line 2: index"),
        (line(1, task=" "), 400, "line 2: task: a task has 1 to 256 printable characters"),
        (line(1, task="a\nb"), 400, "line 2: task"),
        (line(1, options={"metadata": []}), 400, "line 2: options.metadata: must be an object"),
        (line(1, options={"metadata": {"t": "x" * 5_000}}), 413, "line 2: metadata would be 5,008 bytes"),
        (line(1, options={"tags": [str(n) for n in range(11)]}), 422, "line 2: options.tags"),
        (line(1, options={"parentRunId": "nobody"}), 422, "line 2: there is no run nobody to be the parent"),
        (line(1, payload="x" * 600_000), 413, "line 2: payload: is 600002 bytes as JSON"),
        (b'{"index": 1, "task": "t", "payload": NaN}\n', 400, "line 2: "),
        (b'{"index": 1, "index": 2, "task": "t"}\n', 400, "line 2: "),
        (b'{"index": 1, "task": "\xff"}\n', 400, "line 2: "),
        (b" " * (2**21 + 1) + b"\n", 413, "line 2: it has more than 2,097,152 bytes"),
        (b"x" * (2**21 + 1), 413, "line 2: it has more than 2,097,152 bytes"),
    ],
)
def test_a_bad_line_is_named_and_those_before_it_stay(api: Service, bad: bytes, status: int, words: str) -> None:
    batch = make(api)
    refused = problem(add(api, batch, line(0), bad), status)
    assert words in refused["detail"]
    assert refused["line"] == 2
    assert (refused["itemsAccepted"], refused["itemsDeduplicated"], refused["enqueuedCount"]) == (1, 0, 1)
    assert "1 items were accepted" in refused["detail"]
    assert len(retrieved(api, batch)["runs"]) == 1
    assert counts(add(api, batch, *(line(index) for index in range(3)))) == (2, 1, True)


def test_the_first_bad_line_is_the_one_that_is_named(api: Service) -> None:
    batch = make(api)
    large = {"metadata": {"t": "x" * 5_000}}
    refused = problem(add(api, batch, line(0, options=large), line(1, options=large), b"{"), 413)
    assert refused["line"] == 1


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n \n", b""])
def test_lines_may_end_as_they_like(api: Service, ending: bytes) -> None:
    batch = make(api, 2)
    assert counts(add(api, batch, line(0).strip() + (ending or b"\n") + line(1).strip() + ending)) == (2, 0, True)


@pytest.mark.parametrize("kind", ["application/x-ndjson; charset=utf-8", "application/ndjson", "application/json"])
def test_lines_may_be_called_what_they_are(api: Service, kind: str) -> None:
    assert counts(add(api, make(api, 1), line(0), headers={"Content-Type": kind})) == (1, 0, True)


def test_another_form_an_empty_body_and_a_compressed_one_are_refused(api: Service) -> None:
    batch = make(api)
    assert problem(add(api, batch, line(0), headers={"Content-Type": "text/csv"}), 415)
    assert problem(add(api, batch, line(0), headers={}), 415)
    assert problem(add(api, batch, line(0), headers={**NDJSON, "Content-Encoding": "gzip"}), 415)
    assert problem(add(api, batch), 400)["code"] == "empty-body"
    many = [b'{"index": 0, "task": "t"}\n'] * 2_001
    refused = problem(add(api, batch, *many), 400)
    assert (refused["code"], refused["line"], refused["itemsAccepted"]) == ("too-many-lines", 2_001, 1)


@pytest.mark.parametrize("batch", ["batch_x", "nope", "batch_" + "0" * 25, "a%00b"])
def test_a_batch_that_does_not_exist_is_not_found(api: Service, batch: str) -> None:
    assert problem(api.get(f"/api/v2/batches/{batch}"), 404)["code"] == "batch-not-found"
    assert problem(add(api, batch, line(0)), 404)["code"] == "batch-not-found"


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    sent=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=4),
)
def test_however_a_stream_is_cut_each_place_is_taken_once(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[int], sent: list[list[int]]
) -> None:
    async def cut(body: bytes) -> AsyncIterator[bytes]:
        for size in chunks * len(body):
            if not body:
                return
            yield body[:size]
            body = body[size:]

    with service(tmp_path_factory.mktemp("cut") / "ledger.db") as api:
        batch = make(api, 6)
        taken: dict[int, int] = {}
        for number, indexes in enumerate(sent):
            body = b"".join(line(index, payload=number) for index in indexes)
            response = api.request("POST", f"/api/v3/batches/{batch}/items", content=cut(body), headers={**NDJSON})
            new = set(indexes) - set(taken)
            assert counts(response) == (len(new), len(indexes) - len(new), len({*taken, *new}) == 6)
            taken |= dict.fromkeys(new, number)
        runs = retrieved(api, batch)["runs"]
        payloads = [api.get(f"/api/v3/runs/{run}").json()["payload"] for run in runs]
        assert payloads == [taken[index] for index in sorted(taken)]
        assert api.contents()["runs"] == len(taken)


def test_two_streams_at_once_take_each_place_once(api: Service) -> None:
    batch = make(api, 50)
    body = b"".join(line(index) for index in range(50))

    async def send() -> httpx2.Response:
        return await api._http.post(f"/api/v3/batches/{batch}/items", content=body, headers=NDJSON)

    async def thrice() -> list[httpx2.Response]:
        return await asyncio.gather(*(send() for _ in range(3)))

    answers = [counts(answer) for answer in api._runner.run(thrice())]
    assert sum(accepted for accepted, _, _ in answers) == 50
    assert sum(known for _, known, _ in answers) == 100
    assert api.contents()["runs"] == 50


def test_a_stream_that_is_sent_again_after_a_crash_makes_no_run_twice(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(empty())
    lines = [line(index, payload=index) for index in range(400)]
    with serving(path) as server, server.client() as http:
        batch = http.post("/api/v3/batches", json={"runCount": 400}).json()["id"]

        def half() -> Iterable[bytes]:
            yield b"".join(lines[:300])
            wait_for_runs(path, 1)  # The server is killed in the middle of the stream.
            server.process.kill()
            yield b"".join(lines[300:])

        with pytest.raises(httpx2.TransportError):
            http.post(f"/api/v3/batches/{batch}/items", content=half(), headers=NDJSON)
        server.wait()
    before = contents(path)["runs"]
    assert before > 0
    with serving(path) as server, server.client() as http:
        answer = http.post(f"/api/v3/batches/{batch}/items", content=b"".join(lines), headers=NDJSON)
        assert counts(answer) == (400 - before, before, True)
        assert len(set(http.get(f"/api/v2/batches/{batch}").json()["runs"])) == 400
    assert contents(path)["runs"] == 400


def test_a_client_that_goes_away_leaves_what_was_accepted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(empty())
    with serving(path) as server, server.client() as http:
        batch = http.post("/api/v3/batches", json={"runCount": 300}).json()["id"]
        sent = b"".join(line(index) for index in range(299))
        head = f"POST /api/v3/batches/{batch}/items HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        with server.connect() as connection:
            connection.sendall(
                f"{head}Content-Type: application/x-ndjson\r\n\r\n{len(sent):x}\r\n".encode() + sent
            )
            wait_for_runs(path, 1)  # Then it goes away.
        wait_for_runs(path, 299)  # What had arrived is carried out.
        again = http.post(f"/api/v3/batches/{batch}/items", content=sent + line(299), headers=NDJSON)
        assert counts(again) == (1, 299, True)


# --- the older form ---


def test_the_older_form_makes_a_batch_and_its_runs_at_once(api: Service) -> None:
    body = {"items": [{"task": "a", "payload": 1}, {"task": "b", "options": {"tags": "x"}}]}
    key = {"Idempotency-Key": "once"}
    first = api.post("/api/v2/tasks/batch", body, key)
    assert first.json() == {"id": first.json()["id"], "runCount": 2, "isCached": False}
    again = api.post("/api/v2/tasks/batch", body, key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    runs = retrieved(api, first.json()["id"])["runs"]
    assert [api.get(f"/api/v3/runs/{run}").json()["taskIdentifier"] for run in runs] == ["a", "b"]
    assert api.contents()["runs"] == 2


@pytest.mark.parametrize(
    ("items", "status", "words"),
    [
        ([], 400, "items"),
        ([{"task": "t"}] * 1_001, 422, "items: has 1001 items, at most 1000 are allowed"),
        ([{"task": "t"}, {}], 400, "items[1].task: is missing"),
        ([{"task": "t"}, {"task": "t", "options": {"parentRunId": "nobody"}}], 422, "items[1]: there is no run"),
    ],
)
def test_an_older_form_that_cannot_be_is_refused(api: Service, items: Any, status: int, words: str) -> None:
    assert words in problem(api.post("/api/v2/tasks/batch", {"items": items}), status)["detail"]


# --- keys ---


def test_each_item_is_judged_by_the_restriction_of_the_key(api: Service) -> None:
    key = Keyed(api, scopes=["read:tasks:mine", "write:tasks:mine"])
    batch = make(key, 2)
    refused = problem(add(key, batch, line(0, task="mine"), line(1, task="other")), 403)
    assert (refused["code"], refused["line"], refused["itemsAccepted"]) == ("restricted-scope", 2, 1)
    assert counts(add(key, batch, line(1, task="mine"))) == (1, 0, True)
    assert len(retrieved(key, batch)["runs"]) == 2


def test_a_restricted_key_sees_its_runs_of_a_batch_and_no_batch_without_any(api: Service) -> None:
    key = Keyed(api, scopes=["read:tasks:mine"])
    everything = Keyed(api)
    batch, other = make(everything, 2), make(everything, 1)
    assert counts(add(everything, batch, line(0, task="mine"), line(1, task="other"))) == (2, 0, True)
    assert counts(add(everything, other, line(0, task="other"))) == (1, 0, True)
    assert retrieved(key, batch)["runs"] == retrieved(everything, batch)["runs"][:1]
    assert problem(key.get(f"/api/v2/batches/{other}"), 404)["code"] == "batch-not-found"


def test_an_item_whose_key_leads_to_a_foreign_run_takes_no_place(api: Service) -> None:
    options = {"idempotencyKey": "k", "tags": ["mine"]}
    everything = Keyed(api)
    foreign = {"options": {"idempotencyKey": "k"}}
    assert everything.request("POST", "/api/v1/tasks/t/trigger", json=foreign).status_code == 200
    key = Keyed(api, scopes=["read:tags:mine", "write:tags:mine"])
    batch = make(key, 1)
    refused = problem(add(key, batch, line(0, options=options)), 422)
    assert (refused["code"], refused["enqueuedCount"]) == ("run-exists", 0)
    assert retrieved(everything, batch)["runs"] == []


def test_a_key_that_leads_to_a_batch_with_foreign_runs_is_taken(api: Service) -> None:
    everything = Keyed(api)
    batch = make(everything, 1, idempotencyKey="k")
    add(everything, batch, line(0, task="other"))
    key = Keyed(api, scopes=["read:tasks:mine", "write:tasks:mine"])
    body = {"runCount": 1, "idempotencyKey": "k"}
    assert problem(key.request("POST", "/api/v3/batches", json=body), 422)["code"] == "batch-exists"


def test_a_batch_of_another_environment_does_not_exist(api: Service) -> None:
    ours, theirs = Keyed(api, "ours"), Keyed(api, "theirs")
    batch = make(ours, 1, idempotencyKey="k")
    assert problem(theirs.get(f"/api/v2/batches/{batch}"), 404)["code"] == "batch-not-found"
    assert problem(add(theirs, batch, line(0)), 404)["code"] == "batch-not-found"
    assert make(theirs, 1, idempotencyKey="k") != batch
