"""Live updates over HTTP, from a real server."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sse_starlette.event import ServerSentEvent

from api.app import create_app
from api.client import Client
from api.in_process import InProcess
from api.streams import frame
from ledger.ledger import Ledger
from tests.api.server import Server, run_ledger, serving
from tests.api.service import JSON, Service, problem
from tests.api.sse import PATIENCE_S, Message, Reader

ADD = {"type": "increment", "key": "n", "value": 1}


class Job:
    """Writes to a server."""

    def __init__(self, server: Server) -> None:
        self._http = server.client()

    def close(self) -> None:
        self._http.close()

    def create(self, run_id: str = "r", **members: Any) -> None:
        assert self._http.post("/api/v1/runs", json={"id": run_id, "task": "t", **members}).status_code == 201

    def write(self, run_id: str = "r", *operations: Any) -> int:
        answer = self._http.put(f"/api/v1/runs/{run_id}/metadata", json={"operations": [*operations] or [ADD]})
        assert answer.status_code == 200, answer.text
        version: int = answer.json()["version"]
        return version

    def move(self, status: str, run_id: str = "r", **members: Any) -> None:
        answer = self._http.post(f"/api/v1/runs/{run_id}/status", json={"status": status, **members})
        assert answer.status_code == 200, answer.text

    def get(self, path: str) -> Any:
        answer = self._http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def job(server: Server) -> Iterator[Job]:
    with closing(Job(server)) as made:
        yield made


@pytest.fixture
def follow(server: Server) -> Iterator[Any]:
    """Opens live answers, and closes them in the end."""
    opened: list[Reader] = []

    def open_one(path: str = "runs/r/metadata/live", **options: Any) -> Reader:
        opened.append(Reader(f"{server.url}/api/v1/{path}", **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def versions(messages: list[Message]) -> list[int]:
    return [message.data["version"] for message in messages]


def test_the_events_of_a_run_come_with_their_version_as_id(job: Job, follow: Any) -> None:
    job.create()
    reader = follow()
    assert reader.status == 200
    assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reader.headers["cache-control"] == "no-store"
    job.write("r", ADD, {"type": "set", "key": "text", "value": "a\r\nb\u2028c\x85"})
    messages = reader.take(2)
    assert [(message.id, message.kind) for message in messages] == [("2", "message"), ("3", "message")]
    recorded = job.get("/api/v1/runs/r/metadata/history?after=1")["data"]
    assert [{**entry, **message.data} for entry, message in zip(recorded, messages, strict=True)] == recorded


BEGINNINGS = [
    ("", "", [5]),
    ("?from=now", "", [5]),
    ("?from=start", "", [1, 2, 3, 4, 5]),
    ("?from=1", "", [1, 2, 3, 4, 5]),
    ("?from=3", "", [3, 4, 5]),
    ("?from=5", "", [5]),
    ("?after=0", "", [1, 2, 3, 4, 5]),
    ("?after=3", "", [4, 5]),
    ("?after=4", "", [5]),
    ("", "2", [3, 4, 5]),
    ("?from=start", "2", [3, 4, 5]),
    ("?after=1", "2", [3, 4, 5]),
    ("?from=now&snapshot=1", "2", [3, 4, 5]),
]


def test_a_stream_of_a_run_begins_where_it_is_told(job: Job, follow: Any) -> None:
    for number, (query, last_id, expected) in enumerate(BEGINNINGS):
        run_id = f"r{number}"
        job.create(run_id)
        job.write(run_id, ADD, ADD, ADD)
        reader = follow(f"runs/{run_id}/metadata/live{query}", last_id=last_id)
        job.write(run_id)
        assert versions(reader.take(len(expected))) == expected, query
        job.write(run_id)
        assert versions(reader.take(1)) == [6]


def test_a_stream_that_is_cut_off_before_anything_happened_resumes_from_its_beginning(
    job: Job, follow: Any
) -> None:
    job.create()
    for path in ("runs/r/metadata/live", "events/live"):
        first = follow(path)
        first.wait_for_id()
        first.close()
        version = job.write()
        assert versions(follow(path, last_id=first.last_id).take(1)) == [version]


def test_the_state_as_it_is_comes_first_when_it_is_asked_for(job: Job, follow: Any) -> None:
    job.create(metadata={"a": 1}, tags=["x"])
    job.write()
    reader = follow("runs/r/metadata/live?snapshot=1")
    (snapshot,) = reader.take(1)
    assert (snapshot.id, snapshot.kind) == ("2", "snapshot")
    state = snapshot.data
    updated = state.pop("updatedAt")
    assert state == {
        "runId": "r",
        "task": "t",
        "status": "QUEUED",
        "tags": ["x"],
        "version": 2,
        "metadata": {"a": 1, "n": 1},
        "sizeBytes": 13,
    }
    assert updated == job.get("/api/v1/runs/r/metadata/history?after=1")["data"][0]["recordedAt"]
    job.write()
    assert [(message.kind, message.id) for message in reader.take(1)] == [("message", "3")]


def test_a_stream_outlives_its_run_unless_it_is_asked_not_to(job: Job, follow: Any) -> None:
    job.create()
    stays, ends = follow(), follow("runs/r/metadata/live?until=finished&snapshot=1")
    job.write()
    job.move("COMPLETED", output={"rows": 1})
    messages = ends.all()
    assert [(message.kind, message.id) for message in messages] == [
        ("snapshot", "1"),
        ("message", "2"),
        ("message", "3"),
        ("finished", "3"),
    ]
    assert messages[-1].data == {"runId": "r", "version": 3, "status": "COMPLETED"}
    job.write()
    assert versions(stays.take(3)) == [2, 3, 4]


def test_an_erasure_beside_the_server_reaches_its_readers_and_who_resumes_reads_redacted_data(
    server: Server, job: Job, follow: Any
) -> None:
    job.create()
    in_step, of_all = follow(), follow("events/live")
    of_all.wait_for_id()
    begin = of_all.last_id
    job.write("r", {"type": "set", "key": "name", "value": "Ann"})
    for reader in (in_step, of_all):
        assert reader.take(1)[0].data["value"] == "Ann"
    database = {"RUN_LEDGER_DATABASE_URL": f"sqlite+aiosqlite:///{server.path}"}
    done = run_ledger("erase", "r", "--key", "name", "--reason", "asked", variables=database)
    assert done.returncode == 0, done.stderr
    for reader in (in_step, of_all):
        (told,) = reader.take(1)
        assert (told.data["type"], told.data["version"]) == ("run.erased", 3)
        assert (told.data["data"]["key"], told.data["data"]["reason"]) == ("name", "asked")
    for resumed in (follow(last_id="1"), follow("events/live", last_id=begin)):
        redacted, told = resumed.take(2)
        assert redacted.data["data"] == {"key": "name", "erased": True}
        assert "Ann" not in redacted.text
        assert told.data["type"] == "run.erased"
    assert job.get("/api/v1/events?after=" + begin)["data"] == [redacted.data, told.data]


def test_a_stream_of_a_finished_run_tells_what_is_left_and_ends(job: Job, follow: Any) -> None:
    job.create()
    job.move("FAILED")
    job.write()
    for query, last_id, expected in (
        ("&snapshot=1", "", ["snapshot", "finished"]),
        ("", "", ["finished"]),
        ("&from=start", "", ["message", "message", "message", "finished"]),
        ("", "1", ["message", "message", "finished"]),
        ("", "2", ["message", "finished"]),
    ):
        messages = follow(f"runs/r/metadata/live?until=finished{query}", last_id=last_id).all()
        assert [message.kind for message in messages] == expected
        assert (messages[-1].id, messages[-1].data["status"]) == ("3", "FAILED")
    done = follow("runs/r/metadata/live?until=finished", last_id="3")
    assert done.status == 204  # Nothing is left; an EventSource does not come back after this.


def test_an_attempt_that_failed_before_is_not_the_end(job: Job, follow: Any) -> None:
    job.create()
    job.move("FAILED")
    job.move("EXECUTING", attempt=2)
    reader = follow("runs/r/metadata/live?until=finished&from=start")
    assert versions(reader.take(3)) == [1, 2, 3]
    job.move("COMPLETED", attempt=2)
    assert [message.kind for message in reader.all()] == ["message", "finished"]


def test_a_stream_about_a_key_leaves_out_the_rest(job: Job, follow: Any) -> None:
    job.create()
    reader = follow("runs/r/metadata/live?key=$.status.state")
    status = {"type": "set", "key": "status", "value": {"state": "running"}}
    job.write("r", ADD, status, ADD)
    job.write("r", {"type": "set", "key": "$.status.other", "value": 1})
    job.write("r", {"type": "update", "value": {}})
    assert versions(reader.take(2)) == [3, 6]


def test_the_feed_carries_all_runs_with_a_cursor_as_id(job: Job, follow: Any) -> None:
    reader = follow("events/live")
    job.create("a")
    job.create("b")
    job.write("a")
    messages = reader.take(3)
    page = job.get("/api/v1/events")
    assert [message.data for message in messages] == page["data"]
    assert page["pagination"] == {"next": messages[-1].id, "hasMore": False}
    for n, message in enumerate(messages):
        rest = job.get(f"/api/v1/events?after={message.id}")
        assert rest["data"] == page["data"][n + 1 :]
        resumed = follow("events/live", last_id=message.id)
        job.write("b")
        assert [one.data["position"] for one in resumed.take(3 - n)] == list(range(n + 2, 5))[: 3 - n]
        if n == 0:
            break
    assert [m.data["position"] for m in follow("events/live?from=start").take(4)] == [1, 2, 3, 4]


def test_the_feed_is_filtered_by_task_tag_run_and_key(job: Job, follow: Any) -> None:
    readers = {
        query: follow(f"events/live?{query}")
        for query in ("task=u", "tag=x", "tag=x&tag=y", "run=a", "key=n", "task=t&tag=x&run=b&key=n")
    }
    job.create("a", task="u", tags=["x"])
    job.create("b", tags=["x", "y"])
    for run_id in "ab":
        job.write(run_id, ADD, {"type": "set", "key": "m", "value": 1})
    expected = {
        "task=u": [1, 3, 4],
        "tag=x": [1, 2, 3, 4, 5, 6],
        "tag=x&tag=y": [2, 5, 6],
        "run=a": [1, 3, 4],
        "key=n": [3, 5],
        "task=t&tag=x&run=b&key=n": [5],
    }
    for query, reader in readers.items():
        assert [message.data["position"] for message in reader.take(len(expected[query]))] == expected[query]
        paged = [event["position"] for event in job.get(f"/api/v1/events?{query}")["data"]]
        assert paged == expected[query]


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("runs/absent/metadata/live", {}, 404, "run-not-found"),
        ("runs/r/metadata/live?after=2", {}, 400, "bad-cursor"),
        ("runs/r/metadata/live?after=-1", {}, 400, "bad-cursor"),
        ("runs/r/metadata/live?after=x", {}, 400, "bad-cursor"),
        ("runs/r/metadata/live?after=99999999999999999999", {}, 400, "bad-cursor"),
        ("runs/r/metadata/live", {"Last-Event-ID": "7"}, 400, "bad-cursor"),
        ("runs/r/metadata/live", {"Last-Event-ID": "YWI6NQ"}, 400, "bad-cursor"),
        ("runs/r/metadata/live?from=3", {}, 400, "bad-cursor"),
        ("runs/r/metadata/live?from=0", {}, 400, "bad-parameter"),
        ("runs/r/metadata/live?from=now&after=1", {}, 400, "bad-parameter"),
        ("runs/r/metadata/live?from=start&snapshot=1", {}, 400, "bad-parameter"),
        ("runs/r/metadata/live?snapshot=yes", {}, 400, "bad-parameter"),
        ("runs/r/metadata/live?until=never", {}, 400, "bad-parameter"),
        ("runs/r/metadata/live?until=finished&key=a", {}, 400, "bad-parameter"),
        ("runs/r/metadata/live?key=$.*", {}, 400, "bad-path"),
        ("runs/r/metadata/live?task=t", {}, 400, "unknown-parameter"),
        ("runs/r/metadata/live?after=1&after=1", {}, 400, "repeated-parameter"),
        ("events/live?after=1", {}, 400, "bad-cursor"),
        ("events/live?after=YWI6NQ", {}, 400, "bad-cursor"),
        ("events/live", {"Last-Event-ID": "7"}, 400, "bad-cursor"),
        ("events/live?from=3", {}, 400, "bad-parameter"),
        ("events/live?run=a%20b", {}, 400, "bad-parameter"),
        ("events/live?key=$.*", {}, 400, "bad-path"),
        ("events/live?snapshot=1", {}, 400, "unknown-parameter"),
        ("events/live?task=t&task=u", {}, 400, "repeated-parameter"),
        ("events?after=YWI6NQ", {}, 400, "bad-cursor"),
        ("events?after=", {}, 400, "bad-cursor"),
        ("events?limit=0", {}, 422, "out-of-bounds"),
        ("events?limit=1001", {}, 422, "out-of-bounds"),
        ("events?limit=x", {}, 400, "bad-parameter"),
        ("events?from=now", {}, 400, "unknown-parameter"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_the_answer_begins(
    api: Service, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    api.create()
    assert problem(api.get(f"/api/v1/{path}", headers), status)["code"] == code
    assert not api.app.state.streams._seats


def test_a_method_that_is_none_of_theirs_is_refused(api: Service) -> None:
    api.create()
    for path in ("runs/r/metadata/live", "events", "events/live"):
        assert problem(api.request("POST", f"/api/v1/{path}", content="{}", headers=JSON), 405)


def test_head_answers_the_headers_and_ends(job: Job, follow: Any) -> None:
    job.create()
    for path in ("runs/r/metadata/live", "events/live"):
        reader = follow(path, method="HEAD")
        assert (reader.status, reader.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert follow("runs/absent/metadata/live", method="HEAD").status == 404


def test_the_pages_of_the_feed_lead_through_all_of_it(api: Service) -> None:
    empty = api.get("/api/v1/events").json()
    assert empty == {"data": [], "pagination": {"next": empty["pagination"]["next"], "hasMore": False}}
    api.create()
    api.put("r", {"operations": [ADD] * 4})
    cursor, found, more = empty["pagination"]["next"], [], True
    while more:
        page = api.get(f"/api/v1/events?limit=2&after={cursor}").json()
        assert len(page["data"]) <= 2
        found += page["data"]
        cursor, more = page["pagination"]["next"], page["pagination"]["hasMore"]
    assert [{**entry, **event} for entry, event in zip(api.history(), found, strict=True)] == api.history()
    last = api.get(f"/api/v1/events?after={cursor}").json()
    assert last == {"data": [], "pagination": {"next": cursor, "hasMore": False}}


def test_a_silence_is_broken_by_heartbeats_that_move_the_id_on(tmp_path: Path) -> None:
    with serving(tmp_path / "l.db", RUN_LEDGER_HEARTBEAT_S="0.05") as server, closing(Job(server)) as job:
        job.create()
        run = Reader(f"{server.url}/api/v1/runs/r/metadata/live")
        feed = Reader(f"{server.url}/api/v1/events/live?task=other")
        with closing(run), closing(feed):
            run.wait_for_comment("heartbeat")
            feed.wait_for_comment("heartbeat")
            for _ in range(3):
                job.write()
            end = job.get("/api/v1/events")["pagination"]["next"]
            while feed.last_id != end:
                feed.comments.clear()
                feed.wait_for_comment("heartbeat")
            assert versions(run.take(3)) == [2, 3, 4]


def test_a_reader_that_takes_no_bytes_is_dropped_and_resumes(tmp_path: Path) -> None:
    with serving(tmp_path / "l.db", RUN_LEDGER_STALLED_READER_S="0.5") as server, closing(Job(server)) as job:
        job.create()
        url = f"{server.url}/api/v1/runs/r/metadata/live"
        stalled, quick = Reader(url, receive_bytes=4_096), Reader(url)
        text = {"type": "set", "key": "text", "value": "x" * 4_000}
        seen: list[int] = []

        def read() -> None:
            with suppress(OSError):
                while (message := quick.next()) is not None:
                    seen.append(message.data["version"])

        reading = threading.Thread(target=read)
        reading.start()
        with closing(stalled), closing(quick):
            last = 1
            # The kernel takes some megabytes for the reader before the server notices anything.
            while server.count_connections() > 2:
                last = job.write("r", *[text] * 100)
                assert last < 100_000, "the reader was never dropped"
            deadline = time.monotonic() + PATIENCE_S
            while len(seen) < last - 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert seen == list(range(2, last + 1))
            taken: list[int] = []
            with suppress(ConnectionError):
                while (message := stalled.next()) is not None:
                    taken.append(message.data["version"])
            assert not stalled.ended
            assert taken == list(range(2, len(taken) + 2))
            assert len(taken) < last - 1
            quick.shut()
            reading.join(PATIENCE_S)
        with closing(Reader(url, last_id=str(len(taken) + 1))) as again:
            assert versions(again.take(last - 1 - len(taken))) == list(range(len(taken) + 2, last + 1))


def test_a_caller_has_a_bounded_number_of_streams(tmp_path: Path) -> None:
    with serving(tmp_path / "l.db", RUN_LEDGER_STREAMS_MAX="2") as server, closing(Job(server)) as job:
        job.create()
        url = f"{server.url}/api/v1/runs/r/metadata/live"
        first, second = Reader(url), Reader(f"{server.url}/api/v1/events/live")
        with closing(second):
            with closing(first), closing(Reader(url)) as refused:
                assert (refused.status, refused.headers["retry-after"]) == (429, "5")
                body = json.loads(refused.body())
                assert (body["code"], body["limit"]) == ("too-many-streams", 2)
                assert "RUN_LEDGER_STREAMS_MAX" in body["detail"]
            while True:  # Until the server has seen that the first one left.
                with closing(Reader(url)) as again:
                    if again.status == 200:
                        break


def test_streams_end_with_the_server_even_if_their_readers_stall(tmp_path: Path) -> None:
    with serving(tmp_path / "l.db") as server, closing(Job(server)) as job:
        job.create()
        readers = [Reader(f"{server.url}/api/v1/{path}") for path in ("runs/r/metadata/live", "events/live")]
        stalled = Reader(f"{server.url}/api/v1/events/live", receive_bytes=4_096)
        for _ in range(10):
            job.write("r", *[{"type": "set", "key": "text", "value": "x" * 4_000}] * 300)
        job.close()
        count = 3_000
        for reader in readers:
            reader.take(count)
        server.process.send_signal(signal.SIGTERM)
        for reader in readers:
            assert reader.all() == []
            assert reader.ended
            reader.close()
        assert server.wait() == -signal.SIGTERM
        assert "graceful shutdown exceeded" not in server.errors()
        stalled.close()


def test_killed_and_restarted_in_the_middle_nobody_misses_or_repeats_anything(tmp_path: Path) -> None:
    path, count = tmp_path / "l.db", 120
    found: list[list[tuple[str, int]]] = [[] for _ in range(8)]
    addresses: list[str] = []
    moved = threading.Condition()

    def read(n: int) -> None:
        last_id, generation = "", 0
        live = "events/live?from=start" if n % 2 else "runs/r/metadata/live?from=start"
        while len(found[n]) < count + 1:
            with moved:
                moved.wait_for(partial(lambda seen: len(addresses) > seen, generation), PATIENCE_S)
                url, generation = addresses[-1], len(addresses)
            with closing(Reader(f"{url}/api/v1/{live}", last_id=last_id)) as reader:
                try:
                    while len(found[n]) < count + 1 and (message := reader.next()) is not None:
                        found[n].append((message.id, message.data["version"]))
                except ConnectionError:
                    pass  # As expected.
                last_id = reader.last_id

    def announce(server: Server) -> None:
        with moved:
            addresses.append(server.url)
            moved.notify_all()

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    with serving(path) as server, closing(Job(server)) as job:
        job.create()
        for thread in threads:
            thread.start()
        announce(server)
        for _ in range(count // 2):
            job.write()
        server.kill()
    with serving(path) as server, closing(Job(server)) as job:
        for _ in range(count // 4):
            job.write()
        announce(server)
        for _ in range(count // 4):
            job.write()
        for thread in threads:
            thread.join(PATIENCE_S)
    for n, messages in enumerate(found):
        assert [version for _, version in messages] == list(range(1, count + 2)), n
        assert len({last_id for last_id, _ in messages}) == count + 1


def test_many_subscribers_each_see_every_version_once(server: Server, job: Job) -> None:
    job.create()
    readers = [Reader(f"{server.url}/api/v1/runs/r/metadata/live") for _ in range(30)]
    writers = [threading.Thread(target=lambda: [job.write() for _ in range(25)]) for _ in range(4)]
    for thread in writers:
        thread.start()
    for reader in readers:
        assert versions(reader.take(100)) == list(range(2, 102))
        reader.close()
    for thread in writers:
        thread.join(PATIENCE_S)


def test_what_another_process_writes_comes_too(server: Server, job: Job, follow: Any) -> None:
    job.create()
    reader = follow()
    with serving(server.path) as other, closing(Job(other)) as another:
        for version in range(2, 12):
            (job if version % 2 else another).write()
            assert versions(reader.take(1)) == [version]


async def _streams_that_are_left(path: Path) -> None:
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{path}")
    app = create_app(ledger, await ledger.log("dev"))
    before = asyncio.all_tasks()
    async with httpx2.AsyncClient(transport=InProcess(app), base_url="http://localhost", timeout=None) as http:
        client = Client(http)
        await client.send("POST", "/api/v1/runs", {"id": "r", "task": "t"})
        for live in ("runs/r/metadata/live", "events/live"):
            messages = client.live(f"/api/v1/{live}", {"from": "start"})
            assert (await anext(messages)).kind == "open"
            assert (await anext(messages)).data["version"] == 1
            assert app.state.streams._seats == {"dev": 1}
            await messages.aclose()
            assert not app.state.streams._seats
            assert not app.state.streams._open
    tails = ledger._subscriptions._tails
    assert not any(tail.members for tail in tails.values())
    async with asyncio.timeout(PATIENCE_S):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110 - What is waited for has no event.
            await asyncio.sleep(0)
    await ledger.close()


def test_a_reader_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    asyncio.run(_streams_that_are_left(tmp_path / "l.db"))


def test_a_reader_that_leaves_is_noticed_by_the_server(server: Server, job: Job, follow: Any) -> None:
    job.create()
    before = server.count_connections()
    for _ in range(5):
        follow().close()
    deadline = time.monotonic() + PATIENCE_S
    while server.count_connections() > before:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("data", "id", "event"),
    [("{}", "1", None), ('{"a":1}', "MTox", "snapshot"), (None, "3", None), ("x", None, None)],
)
def test_a_frame_is_what_the_library_for_it_would_send(
    data: str | None,
    id: str | None,  # noqa: A002 - As the standard has it.
    event: str | None,
) -> None:
    theirs = ServerSentEvent(data, id=id, event=event, sep="\n").encode()
    assert frame(data, id=id, event=event).encode() == theirs
