"""Keys on the command line: the key is shown once, on the last line, and everything else is clear."""

import json
import re
import stat
from pathlib import Path

import pytest

from ledger.keys import derive_key, read_key
from tests.api.server import Call
from tests.api.service import contents, service


def created(call: Call, *options: str) -> str:
    done = call("keys", "create", *options)
    assert (done.code, done.err) == (0, "")
    text = done.out.splitlines()[-1]
    assert read_key(text) is not None
    assert done.out.count(text) == 1
    return text


def test_the_key_is_the_last_line_and_works(call: Call, tmp_path: Path) -> None:
    done = call("keys", "create", "--environment", "prod", "--name", "ci")
    lines = done.out.splitlines()
    assert re.fullmatch(
        r"key [a-z0-9]{16} of environment prod, called ci, may read, write, until it is revoked", lines[0]
    )
    assert lines[1:3] == [
        "it is the first one: from now on every request to this ledger needs a key",
        "keep it now, it is not shown again:",
    ]
    assert len(lines) == 4
    with service(tmp_path / "run-ledger.db") as api:
        assert api.get("/api/v1/runs").status_code == 401
        listed = api.get("/api/v1/runs", {"Authorization": f"Bearer {lines[3]}"})
        assert listed.status_code == 200
    assert len(call("keys", "create").out.splitlines()) == 3


def test_the_master_lies_beside_the_database_for_its_owner_only(call: Call, tmp_path: Path) -> None:
    text = created(call)
    path = tmp_path / "run-ledger.db.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    master = path.read_bytes().strip()
    assert len(master) == 64
    shown = read_key(text)
    assert shown is not None
    assert derive_key(master, "dev", shown.id) == text
    created(call)
    assert path.read_bytes().strip() == master
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run-ledger.db", "run-ledger.db.secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_a_secret_that_others_may_read_is_refused(call: Call, tmp_path: Path, mode: int) -> None:
    created(call)
    path = tmp_path / "run-ledger.db.secret"
    path.chmod(mode)
    done = call("keys", "create")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"run-ledger: others may use {path.name}, its mode is {mode:o}; run: chmod 600 {path.name}\n"
    )


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_a_file_without_a_secret_is_refused(call: Call, tmp_path: Path, content: str) -> None:
    path = tmp_path / "run-ledger.db.secret"
    path.write_text(content)
    path.chmod(0o600)
    done = call("keys", "create")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: run-ledger.db.secret holds no secret; ")


def test_a_folder_in_its_place_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run-ledger.db.secret").mkdir(mode=0o600)
    done = call("keys", "create")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "mend that, or set RUN_LEDGER_SECRET instead" in done.err


def test_the_secret_of_the_settings_comes_first(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_LEDGER_SECRET", "s" * 32)
    text = created(call)
    shown = read_key(text)
    assert shown is not None
    assert derive_key(b"s" * 32, "dev", shown.id) == text
    assert not (tmp_path / "run-ledger.db.secret").exists()


def test_a_secret_that_is_too_short_is_refused_without_showing_it(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_LEDGER_SECRET", "hunter2")
    done = call("keys", "create")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: RUN_LEDGER_SECRET cannot be used: ")
    assert "fewer than 32 characters" in done.err
    assert "hunter2" not in done.err
    assert list(tmp_path.iterdir()) == []


BAD = [
    (["--scope", "all"], "'all' is no scope; there are read, write, erase, admin"),
    (["--scope", "read write"], "'read write' is no scope"),
    (["--scope", "read:tasks"], "'read:tasks' is no scope"),
    (["--scope", "read:tasks:"], "'read:tasks:' is no scope"),
    (["--scope", "read:runs:r"], "'read:runs:r' is no scope"),
    (["--scope", "READ"], "'READ' is no scope"),
    (["--scope", ""], "'' is no scope"),
    (["--name", ""], "a key's name has 1 to 256 printable characters"),
    (["--name", "a\nb"], "a key's name has 1 to 256 printable characters"),
    (["--name", "x" * 257], "a key's name has 1 to 256 printable characters"),
    (["--expires", "soon"], "--expires is 'soon': write 30d, 12h or a time"),
    (["--expires", "0d"], "a key expires at a time in the future"),
    (["--expires", "999999w"], "a key expires at a time in the future, before the year 9999"),
    (["--expires", "2020-01-01T00:00:00Z"], "a key expires at a time in the future"),
    (["--environment", "Prod"], "--environment is 'Prod'"),
    (["--database-url", "nonsense"], "not a database URL"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_a_key_that_cannot_be_made_leaves_nothing_behind(
    call: Call, tmp_path: Path, options: list[str], said: str
) -> None:
    done = call("keys", "create", *options)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_keys_are_listed_and_revoked(call: Call, tmp_path: Path) -> None:
    first = read_key(created(call, "--name", "one", "--scope", "read", "--scope", "write:tasks:nightly import"))
    second = read_key(created(call, "--environment", "prod", "--expires", "30d"))
    assert first is not None
    assert second is not None
    rows = [line.split("\t") for line in call("keys", "list").out.splitlines()]
    assert [row[:3] for row in rows] == [[first.id, "dev", "one"], [second.id, "prod", second.id]]
    assert [row[-1] for row in rows] == ["read, write:tasks:nightly import", "read, write"]
    assert rows[0][3] == "valid"
    assert rows[1][3].startswith("expires ")
    assert len(call("keys", "list", "--environment", "prod").out.splitlines()) == 1
    elsewhere = call("keys", "revoke", first.id, "--environment", "prod")
    assert (
        elsewhere.err
        == f"run-ledger: there is no API key with the id {first.id}; 'run-ledger keys list' shows all\n"
    )
    done = call("keys", "revoke", first.id)
    assert (done.code, done.out) == (0, f"key {first.id} of environment dev is revoked\n")
    listed = json.loads(call("keys", "list", "--json").out)
    assert [key["isValid"] for key in listed] == [False, True]
    again = json.loads(call("keys", "revoke", first.id, "--json").out)
    assert again["revokedAt"] == listed[0]["revokedAt"]
    assert "digest" not in again
    assert contents(tmp_path / "run-ledger.db")["events"] == 0


def test_as_json_the_key_is_a_member(call: Call) -> None:
    members = json.loads(call("keys", "create", "--json", "--scope", "admin").out)
    shown = read_key(members["key"])
    assert shown is not None
    assert (shown.id, members["scopes"], members["name"]) == (members["id"], ["admin"], members["id"])


def test_what_is_not_there_is_one_line(call: Call, tmp_path: Path) -> None:
    for command in (["list"], ["revoke", "x"]):
        done = call("keys", *command)
        assert (done.code, done.out) == (1, "")
        assert done.err == "run-ledger: there is no database run-ledger.db; name another with --database-url\n"
    assert list(tmp_path.iterdir()) == []


def test_keys_are_not_made_through_a_server(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_LEDGER_URL", "http://127.0.0.1:1")
    done = call("keys", "create")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: RUN_LEDGER_URL names a server, but keys are made in its database; ")
    assert list(tmp_path.iterdir()) == []
    created(call, "--database-url", "sqlite+aiosqlite:///run-ledger.db")
