"""A server that is away, hangs, loses answers or is another program's: nothing is lost, nothing counts twice."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger import configure, metadata, run, runs, task
from ledger.errors import NotKept, Unreachable, WriteRefused
from ledger.handle import http, reporter, spool
from tests.handle.places import QUICK_S, Place, rows, until, waiting
from tests.handle.proxy import Proxy, free_port, proxy


@pytest.fixture
def between(served: tuple[str, Path]) -> Iterator[Proxy]:
    """A proxy before the module's server."""
    with proxy(int(served[0].rpartition(":")[2])) as made:
        yield made


@pytest.fixture
def away(
    between: Proxy, served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Where this process reports to: the module's server behind the proxy. It is asked again without long waits."""
    monkeypatch.setattr(reporter, "RETRY_S", 0.02)
    monkeypatch.setattr(reporter, "RETRY_MAX_S", 0.1)
    place = Place("server", between.url, served[1], tmp_path / "spool")
    configure(place.target, spool_dir=place.spool, flush_interval_s=QUICK_S)
    yield place
    configure(None)


def emptied(place: Place) -> bool:
    return until(lambda: not waiting(place.spool), "the spool is delivered") is True


def gone(between: Proxy) -> None:
    between.mode = "reset"
    between.cut()


def back(between: Proxy) -> None:
    between.mode = "pass"
    between.cut()


def test_what_is_reported_while_the_server_is_away_is_delivered_once_in_order(
    away: Place, between: Proxy, warnings: pytest.LogCaptureFixture
) -> None:
    with run("t") as r:
        for number in range(300):
            metadata.set("x", number).increment("n")
            if number % 20 == 10:
                metadata.flush()
            if number == 100:
                gone(between)
            if number == 200:
                assert waiting(away.spool)
                back(between)
        assert metadata.get("n") == 300
    emptied(away)
    assert away.values(r.id, "x") == list(range(300))
    assert until(lambda: away.status(r.id) == "COMPLETED")
    assert away.metadata(r.id)["n"] == 300
    said = [record.getMessage() for record in warnings.records]
    assert len([text for text in said if "what is reported is kept in" in text]) == 1, said
    assert len([text for text in said if "answers again" in text]) == 1, said
    assert len(said) == 2, said


def test_awaiting_while_the_server_is_away_is_durable_in_the_spool(away: Place, between: Proxy) -> None:
    async def main() -> str:
        async with run("t") as r:
            gone(between)
            await metadata.set("x", 1)
            assert [json.loads(entry["body"])["operations"][0]["value"] for entry in waiting(away.spool)] == [1]
            await metadata.set("x", 2)
            assert len(waiting(away.spool)) == 2
        return r.id

    run_id = asyncio.run(main())
    back(between)
    emptied(away)
    assert away.values(run_id, "x") == [1, 2]


def test_a_run_may_begin_and_end_while_the_server_is_away(away: Place, between: Proxy) -> None:
    gone(between)

    @task
    def work(payload: Any) -> Any:
        metadata.set("seen", payload)
        metadata.parent.increment("done")
        return payload

    with run("top", metadata={"a": 1}) as r:
        assert (run.attempt, metadata.get("a")) == (1, 1)
        handles = [work.trigger_sync(number) for number in range(3)]
        assert [handle.wait_sync(60).unwrap() for handle in handles] == [0, 1, 2]
        assert metadata.current() == {"a": 1}
    with pytest.raises(Unreachable):
        runs.retrieve_sync(r.id)
    back(between)
    emptied(away)
    assert away.metadata(r.id) == {"a": 1, "done": 3}
    assert away.status(r.id) == "COMPLETED"
    for number, handle in enumerate(handles):
        assert away.metadata(handle.id) == {"seen": number}
        assert away.status(handle.id) == "COMPLETED"


def test_answers_that_are_lost_count_once(away: Place, between: Proxy) -> None:
    """The server carried the request out and nobody heard of it."""
    with run("t") as r:
        between.limit = 12
        between.mode = "drop answers"
        for number in range(100):
            metadata.increment("n").append("x", number).root.increment("n")
            if number % 10 == 0:
                metadata.flush()
        until(lambda: between.dropped == 12)
    emptied(away)
    assert between.dropped == 12
    assert away.metadata(r.id) == {"n": 200, "x": list(range(100))}
    assert away.types(r.id).count("metadata.incremented") == 200
    assert away.statuses(r.id) == [(1, "COMPLETED")]


def test_a_creation_whose_answer_is_lost_creates_one_run(away: Place, between: Proxy) -> None:
    between.limit = 3
    between.mode = "drop answers"
    with run("t", id="lost-answer") as r:
        metadata.set("a", 1)
    emptied(away)
    assert between.dropped == 3
    assert away.types(r.id) == ["run.created", "metadata.set", "run.status_changed"]


FOREIGN = [
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull",
    b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"version": "7"}\n',
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    + b'{"detail": "no"}'[:15],
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 422 Unprocessable\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"detail": []}',
    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=nope\r\nContent-Length: 4\r\n\r\n\xff\xfe{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x00\x01\x02",
    b"",
]


def test_the_answers_of_another_program_are_none(
    away: Place, between: Proxy, warnings: pytest.LogCaptureFixture
) -> None:
    between.mode = "answer"
    with run("t") as r:
        for answer in FOREIGN:
            between.answer = answer
            between.cut()
            metadata.increment("n").flush()
            with pytest.raises(Unreachable):
                runs.retrieve_sync(r.id)
    said = [record.getMessage() for record in warnings.records if record.levelname != "WARNING"]
    assert said == []
    assert len(warnings.records) == 1
    back(between)
    emptied(away)
    assert away.metadata(r.id) == {"n": len(FOREIGN)}
    assert away.types(r.id).count("metadata.incremented") == len(FOREIGN)


@pytest.mark.parametrize("mode", ["hang", "dribble"])
def test_a_server_that_hangs_blocks_no_longer_than_the_deadline(
    away: Place, between: Proxy, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 0.3)
    configure(away.target, spool_dir=away.spool, flush_interval_s=QUICK_S)
    between.mode = mode
    with run("t") as r:  # It would take for ever.
        metadata.set("a", 1).flush()
        metadata.set("a", 2)
        with pytest.raises(Unreachable):
            runs.retrieve_sync(r.id)
    assert waiting(away.spool)
    back(between)
    emptied(away)
    assert away.values(r.id, "a") == [1, 2]


def test_nothing_in_the_job_waits_for_a_server_that_hangs(away: Place, between: Proxy) -> None:
    with run("t") as r:
        between.mode = "hang"
        between.cut()
        with pytest.raises(TimeoutError):
            metadata.set("a", 1).flush(timeout_s=0.2)
        for number in range(1_000):
            metadata.set("b", number)
        assert metadata.get("b") == 999
        back(between)
    emptied(away)
    assert away.values(r.id, "a") == [1]
    assert away.values(r.id, "b") == list(range(1_000))


def test_nobody_listens_at_the_address(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    configure(f"http://127.0.0.1:{free_port()}", spool_dir=tmp_path / "s", flush_interval_s=QUICK_S)
    with run("t"):
        for number in range(50):
            metadata.set("x", number).flush()
    configure(None)
    said = [record.getMessage() for record in warnings.records]
    assert len(said) == 1, said
    assert [json.loads(entry["body"]).get("status", "change") for entry in waiting(tmp_path / "s")] == [
        "EXECUTING",
        *["change"] * 50,
        "COMPLETED",
    ]
    assert {entry["sent_at"] for entry in waiting(tmp_path / "s")} == {None}


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1:1", "[::1]:1", "\u00e9.invalid"])
def test_an_address_that_leads_nowhere_harms_nothing(tmp_path: Path, host: str) -> None:
    configure(f"http://{host}", spool_dir=tmp_path / "s", flush_interval_s=QUICK_S)
    with run("t"):
        metadata.set("x", 1).flush()
    configure(None)
    assert len(waiting(tmp_path / "s")) == 3


def test_a_full_spool_refuses_the_newest_and_says_so(
    away: Place, between: Proxy, warnings: pytest.LogCaptureFixture
) -> None:
    configure(away.target, spool_dir=away.spool, flush_interval_s=QUICK_S, spool_bytes_max=65_536)
    with run("t") as r:
        gone(between)
        refused, said = [], ""
        for number in range(60):
            try:
                metadata.set("x", [number, "y" * 2_000]).flush()
            except NotKept as error:
                refused.append(number)
                said = str(error)
        assert refused
        assert "full" in said
        assert "RUN_LEDGER_SPOOL_BYTES_MAX" in said
        assert refused == list(range(refused[0], 60))  # What came first is kept.
        assert len(warnings.records) == 2
        assert sum(path.stat().st_size for path in away.spool.iterdir()) < 200_000
        back(between)
        until(lambda: not waiting(away.spool))
        metadata.set("x", ["after"]).flush()
    assert [value[0] for value in away.values(r.id, "x")] == [*range(refused[0]), "after"]


def test_a_spool_that_cannot_be_written_refuses_and_warns_once(
    away: Place, between: Proxy, warnings: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    configure(away.target, spool_dir=blocked / "spool", flush_interval_s=QUICK_S)
    with run("t") as r:
        metadata.set("x", 0).flush()
        gone(between)
        for number in range(1, 10):
            with pytest.raises(NotKept, match="cannot be written"):
                metadata.set("x", number).flush()
        said = [record.getMessage() for record in warnings.records]
        assert len(said) == 2, said
        back(between)
        metadata.set("x", 10).flush()
    assert away.values(r.id, "x") == [0, 10]
    assert away.status(r.id) == "COMPLETED"
    assert "answers again" not in "".join(said)


@pytest.mark.parametrize("contents", [b"this is no database" * 100, b"", b"SQLite format 3\0" + b"\xff" * 5_000])
def test_a_spool_that_is_damaged_stands_in_nobodys_way(
    away: Place, between: Proxy, contents: bytes, warnings: pytest.LogCaptureFixture
) -> None:
    """Neither another's, which is looked at first, nor one with this process's own name."""
    away.spool.mkdir(exist_ok=True)
    own = spool.Spool.of_this_group(away.spool, 2**20).path
    for path in (away.spool / "spool-1.db", own):
        path.write_bytes(contents)
    with run("t") as r:
        metadata.set("x", 1).flush()
        assert away.values(r.id, "x") == [1]
        gone(between)
        metadata.set("x", 2).flush()
        metadata.set("x", 3).flush()
        back(between)
    until(lambda: away.values(r.id, "x") == [1, 2, 3])
    until(lambda: away.status(r.id) == "COMPLETED")
    configure(None)
    assert len(warnings.records) < 8, [record.getMessage() for record in warnings.records]
    for path in away.spool.iterdir():
        path.unlink()


def test_one_wrong_report_takes_no_other_with_it(place: Place, warnings: pytest.LogCaptureFixture) -> None:
    with run("t") as r:
        for number in range(1_000):
            metadata.set("x", "y" * 5_000 if number == 667 else number)
        with pytest.raises(WriteRefused, match="limit is 4,096") as raised:
            metadata.flush()
        assert raised.value.code == "metadata-too-large"
        assert raised.value.run_id == r.id
        assert not hasattr(raised.value, "__notes__")
        metadata.flush()  # It is raised once.
    assert place.values(r.id, "x") == [number for number in range(1_000) if number != 667]
    said = [record.getMessage() for record in warnings.records]
    assert len(said) == 1, said
    assert r.id in said[0]


async def test_a_refusal_is_raised_where_it_is_awaited(place: Place) -> None:
    async with run("t") as r:
        metadata.set("x", "y" * 5_000).set("x", 1)
        with pytest.raises(WriteRefused):
            await metadata.set("x", 2)
        metadata.set("a", "y" * 5_000).set("b", "z" * 5_000)
        with pytest.raises(WriteRefused) as raised:
            await metadata.flush()
        assert raised.value.__notes__ == ["1 more reports about this run were not accepted"]
    assert place.metadata(r.id) == {"x": 2}


def test_refusals_that_nobody_asks_for_are_logged_once(place: Place, warnings: pytest.LogCaptureFixture) -> None:
    with run("t") as r:
        for _ in range(50):
            metadata.set("x", "y" * 5_000)
        metadata.set("ok", True)
    assert place.metadata(r.id) == {"ok": True}
    assert len(warnings.records) == 1
    assert place.rows("SELECT count(*) AS n FROM refusals") != [{"n": 0}]


def test_a_refusal_of_what_only_the_ledger_can_know_is_raised(place: Place) -> None:
    with run("t", metadata={"l": [], "n": 1.7e308}) as r:
        for change, key, value in (
            (metadata.set, "$.l.65536", 1),
            (metadata.increment, "n", 1.7e308),
            (metadata.set, "$.l.length", 1),
        ):
            change(key, value)
            with pytest.raises(WriteRefused):
                metadata.flush()
        metadata.set("ok", 1).flush()
    assert place.metadata(r.id) == {"l": [], "n": 1.7e308, "ok": 1}


def test_a_run_that_does_not_exist_is_said(apart: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**apart.variables, "RUN_LEDGER_RUN_ID": "nobody"}.items():
        monkeypatch.setenv(name, value)
    configure(None)
    metadata.set("a", 1)
    with pytest.raises(WriteRefused, match="there is no run nobody") as raised:
        metadata.flush()
    assert raised.value.code == "run-not-found"
    configure(None)
    assert not list(apart.spool.glob("*"))


def test_large_reports_are_divided(place: Place) -> None:
    """A request may have 2 MiB; characters may take four bytes."""
    for text in ("x", "\u4e2d", "\U0001f600", "\x00"):
        with run("t") as r:
            value = text * 600
            for _ in range(3_000):
                metadata.set("x", value)
            metadata.set("x", None).flush()
        assert place.types(r.id).count("metadata.set") == 3_001
    assert not waiting(place.spool)


def test_a_value_that_no_request_can_carry_is_refused_and_takes_nothing_with_it(place: Place) -> None:
    with run("t") as r:
        metadata.set("a", 1).set("x", "y" * 5_000_000).set("a", 2)
        with pytest.raises(WriteRefused):
            metadata.flush()
    assert place.values(r.id, "a") == [1, 2]
    assert place.status(r.id) == "COMPLETED"


def test_a_queue_that_is_full_refuses_the_newest(
    away: Place, between: Proxy, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporter, "QUEUE_OPERATIONS_MAX", 100)
    with run("t") as r:
        between.mode = "hang"
        between.cut()
        for number in range(200):
            metadata.set("x", number)
        assert metadata.get("x") == 99
        back(between)
        with pytest.raises(NotKept, match="queue in memory is full") as raised:
            metadata.flush()
        assert raised.value.__notes__ == ["99 more reports about this run were not accepted"]
        metadata.set("x", 200)
    emptied(away)
    assert away.values(r.id, "x") == [*range(100), 200]
    assert len([record for record in warnings.records if "not kept" in record.getMessage()]) == 1


def test_what_could_count_twice_is_set_aside_and_said(
    away: Place, between: Proxy, warnings: pytest.LogCaptureFixture
) -> None:
    with run("t") as r:
        between.limit = 1
        between.mode = "drop answers"
        metadata.increment("n").flush()
        gone(between)
        metadata.increment("n", 10).flush()
        configure(None)
    (path,) = away.spool.glob("spool-*.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        longer_ago = (spool.SENT_AGE_MAX_S + 1) * 1_000_000
        changed = connection.execute("UPDATE entries SET sent_at = sent_at - ? WHERE number = 1", [longer_ago])
        assert changed.rowcount == 1
    back(between)
    configure(away.target, spool_dir=away.spool, flush_interval_s=QUICK_S)
    with run("another"):
        metadata.set("a", 1).flush()
        until(
            lambda: any(one["set_aside"] for one in waiting(away.spool))
        )  # It is in no spool while it is taken over.
        until(lambda: len(waiting(away.spool)) == 1)
    assert away.metadata(r.id) == {"n": 11}
    (entry,) = waiting(away.spool)
    assert "could count twice" in entry["set_aside"]
    assert "could count twice" in warnings.text
    path.unlink()


def test_what_was_refused_after_it_waited_is_set_aside_and_raised(away: Place, between: Proxy) -> None:
    with run("t") as r:
        gone(between)
        metadata.set("x", 1).set("x", "y" * 5_000).set("x", 3).flush()
        back(between)
        until(lambda: away.values(r.id, "x") == [1, 3])
        with pytest.raises(WriteRefused, match="limit is 4,096"):
            until(metadata.flush)
    (entry,) = [entry for entry in waiting(away.spool) if entry["set_aside"]]
    assert "metadata-too-large" in entry["set_aside"]
    configure(None)
    for path in away.spool.iterdir():
        path.unlink()


def test_what_waits_for_one_place_is_not_sent_to_another(
    away: Place, between: Proxy, served: tuple[str, Path]
) -> None:
    with run("t") as r:
        gone(between)
        metadata.set("x", 1)
    configure(served[0], spool_dir=away.spool, flush_interval_s=QUICK_S)
    with run("u"):
        metadata.set("x", 2).flush()
    assert away.values(r.id, "x") == []
    assert len(waiting(away.spool)) == 2
    configure(away.target, spool_dir=away.spool, flush_interval_s=QUICK_S)
    back(between)
    with run("u"):
        until(lambda: not waiting(away.spool))
    assert away.values(r.id, "x") == [1]


def test_a_database_that_another_process_locks_loses_nothing(tmp_path: Path, place: Place) -> None:
    with run("t") as r:
        metadata.set("x", 0).flush()
        with closing(sqlite3.connect(place.path, isolation_level=None, timeout=30)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for number in range(1, 100):
                metadata.set("x", number)
            with pytest.raises(TimeoutError):
                metadata.flush(timeout_s=0.2)
            connection.execute("ROLLBACK")
        metadata.flush()
    assert place.values(r.id, "x") == list(range(100))


def test_two_threads_and_a_flapping_server(away: Place, between: Proxy) -> None:
    ended = threading.Event()

    def flap() -> None:
        while not ended.wait(0.05):
            between.mode = {"pass": "drop answers", "drop answers": "reset", "reset": "pass"}[between.mode]  # type: ignore[assignment]
            between.cut()

    def report(name: str) -> None:
        for number in range(150):
            metadata.append(name, number)
            metadata.increment("n")
            if number % 10 == 0:
                metadata.flush()
            time.sleep(0.002)

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        with run("t") as r:
            reporting = [threading.Thread(target=report, args=(name,)) for name in "ab"]
            for thread in reporting:
                thread.start()
            for thread in reporting:
                thread.join()
    finally:
        ended.set()
        flapping.join()
        back(between)
    emptied(away)
    assert away.metadata(r.id) == {"a": list(range(150)), "b": list(range(150)), "n": 300}
    assert away.statuses(r.id) == [(1, "COMPLETED")]
    assert len(rows(away.path, "SELECT 1 FROM runs WHERE run_id = ?", r.id)) == 1
