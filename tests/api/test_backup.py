"""`run-ledger backup`: a sound copy of a live database, whole or not there at all."""

import resource
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.api.server import Call, run_ledger, serving
from tests.api.service import service
from tests.ledger.support import check_sound
from tests.postgres import Server

SOUND = "sound: every hash, head, snapshot and position is what the events make\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backup") / "original.db"
    with service(path) as api:
        api.create("r", metadata={"n": 0})
    return path


@pytest.fixture
def filled(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "run-ledger.db"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}


def test_a_copy_of_a_database_that_is_being_written_is_sound_and_can_be_served(tmp_path: Path) -> None:
    database, copy = tmp_path / "ledger.db", tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    put = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
    ended = threading.Event()
    acknowledged = []

    def write(url: str) -> None:
        with httpx2.Client(base_url=url) as client:
            while not ended.is_set():
                client.put("/api/v1/runs/r/metadata", json=put).raise_for_status()
                acknowledged.append(1)

    with serving(database) as server:
        httpx2.post(f"{server.url}/api/v1/runs", json={"id": "r", "task": "t"}).raise_for_status()
        writers = [threading.Thread(target=write, args=(server.url,)) for _ in range(4)]
        for writer in writers:
            writer.start()
        while len(acknowledged) < 50:
            ended.wait(0.01)
        before = len(acknowledged)
        done = run_ledger("backup", "--out", str(copy), "--database-url", f"sqlite+aiosqlite:///{database}")
        after = len(acknowledged)
        ended.set()
        for writer in writers:
            writer.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(SOUND)
    check_sound(copy)
    with serving(copy) as server:
        copied = httpx2.get(f"{server.url}/api/v1/runs/r/metadata").json()
        assert before <= copied["metadata"]["n"] <= after + len(writers)
        httpx2.put(f"{server.url}/api/v1/runs/r/metadata", json=put).raise_for_status()
    check_sound(database)


def test_a_copy_has_the_rights_of_the_database_and_nothing_else_is_left(filled: Path, call: Call) -> None:
    filled.chmod(0o640)
    (filled.parent / "copy.db.unfinished").write_text("of a copy that was broken off")
    done = call("backup", "--out", str(filled.parent / "copy.db"))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"copied run-ledger.db to {filled.parent / 'copy.db'}\n")
    assert names(filled.parent) == {"run-ledger.db", "copy.db"}
    assert (filled.parent / "copy.db").stat().st_mode & 0o777 == 0o640


def test_no_file_is_written_over(filled: Path, call: Call) -> None:
    (filled.parent / "copy.db").write_text("mine")
    done = call("backup", "--out", "copy.db")
    assert (done.code, done.out) == (1, "")
    assert done.err == "run-ledger: copy.db exists; give the copy another name\n"
    assert (filled.parent / "copy.db").read_text() == "mine"


@pytest.mark.parametrize("out", ["nowhere/copy.db", "run-ledger.db/copy.db"])
def test_where_nothing_can_be_written_that_is_said(filled: Path, call: Call, out: str) -> None:
    done = call("backup", "--out", out)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"run-ledger: there is no copy: cannot write {out}.unfinished: ")


def test_where_there_is_no_room_no_part_of_a_copy_is_left(filled: Path, call: Call, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        done = call("backup", "--out", "copy.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: there is no copy: ")
    assert names(filled.parent) == {"run-ledger.db"}


def test_a_copy_of_what_is_not_sound_is_kept_and_said_so(filled: Path, call: Call) -> None:
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("UPDATE runs SET metadata = '{\"n\":1}'")
        connection.commit()
    done = call("backup", "--out", "copy.db")
    assert done.code == 1
    assert "NOT sound" in done.err
    assert names(filled.parent) == {"run-ledger.db", "copy.db"}


def test_who_has_keys_is_told_that_their_secret_is_not_in_it(filled: Path, call: Call) -> None:
    assert call("keys", "create").code == 0
    done = call("backup", "--out", "copy.db")
    assert done.out.splitlines()[:2] == [
        "copied run-ledger.db to copy.db",
        "its API keys work with run-ledger.db.secret only, which is not in it: keep that too, elsewhere",
    ]


def test_of_postgres_it_says_what_to_take(postgres_server: Server, call: Call) -> None:
    with postgres_server.database() as url:
        done = call("backup", "--out", "copy.db", "--database-url", url)
    assert (done.code, done.out) == (1, "")
    assert "pg_dump" in done.err
