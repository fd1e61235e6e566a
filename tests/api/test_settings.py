"""Settings: what is unknown or bad stops the start with one clear line."""

import asyncio
from pathlib import Path

import pytest

from api.client import connect
from ledger import configure
from ledger.settings import BadSettings, load_settings, refuse_other_environment
from tests.api.server import Call, run_ledger, serving

BAD = [
    ("RUN_LEDGER_METADATA_BYTES_MAX", "262145"),
    ("RUN_LEDGER_METADATA_BYTES_MAX", "1"),
    ("RUN_LEDGER_METADATA_BYTES_MAX", "-1"),
    ("RUN_LEDGER_METADATA_BYTES_MAX", "many"),
    ("RUN_LEDGER_METADATA_BYTES_MAX", ""),
    ("RUN_LEDGER_METADATA_BYTES_MAX", "4096.5"),
    ("RUN_LEDGER_RATE_LIMIT", "-1"),
    ("RUN_LEDGER_RATE_LIMIT", "1000001"),
    ("RUN_LEDGER_LATE_WRITE_S", "-1"),
    ("RUN_LEDGER_LATE_WRITE_S", "1h"),
    ("RUN_LEDGER_LATE_WRITE_S", "9" * 30),
    ("RUN_LEDGER_ENVIRONMENT", ""),
    ("RUN_LEDGER_ENVIRONMENT", "Prod"),
    ("RUN_LEDGER_ENVIRONMENT", "1st"),
    ("RUN_LEDGER_ENVIRONMENT", "a" * 33),
    ("RUN_LEDGER_ENVIRONMENT", "dev\n"),
    ("RUN_LEDGER_ENVIRONMENT", "../dev"),
    ("RUN_LEDGER_URL", ""),
    ("RUN_LEDGER_URL", "127.0.0.1:8420"),
    ("RUN_LEDGER_URL", "ftp://127.0.0.1"),
    ("RUN_LEDGER_URL", "http://"),
    ("RUN_LEDGER_URL", "http://127.0.0.1:99999"),
    ("RUN_LEDGER_URL", "http://127.0.0.1:port"),
    ("RUN_LEDGER_URL", "http://[::1"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_with_its_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as raised:
        load_settings()
    assert str(raised.value).startswith(f"{name} is {value!r}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["RUN_LEDGER_METADATA_BYTES", "run_ledger_typo", "RUN_LEDGER_", "Run_Ledger_Hosts"]
)
def test_an_unknown_setting_is_refused_in_any_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadSettings) as raised:
        load_settings()
    assert str(raised.value) == (
        f"unknown setting {name}; there are RUN_LEDGER_ACTOR, RUN_LEDGER_API_KEY, RUN_LEDGER_CORS_ORIGINS, "
        "RUN_LEDGER_DATABASE_URL, RUN_LEDGER_ENVIRONMENT, RUN_LEDGER_FLUSH_INTERVAL_S, RUN_LEDGER_HEARTBEAT_S, RUN_LEDGER_LATE_WRITE_S, "
        "RUN_LEDGER_METADATA_BYTES_MAX, RUN_LEDGER_RATE_LIMIT, RUN_LEDGER_RUN_ATTEMPT, RUN_LEDGER_RUN_ID, "
        "RUN_LEDGER_RUN_PARENT, RUN_LEDGER_RUN_ROOT, RUN_LEDGER_SECRET, RUN_LEDGER_SPOOL_BYTES_MAX, "
        "RUN_LEDGER_SPOOL_DIR, RUN_LEDGER_STALLED_READER_S, RUN_LEDGER_STREAMS_MAX, RUN_LEDGER_URL"
    )


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_LEDGER_ENVIRONMENT", "prod")
    assert load_settings(environment=None).environment == "prod"
    assert load_settings(environment="test").environment == "test"
    with pytest.raises(BadSettings, match="--environment is 'Test'"):
        load_settings(environment="Test")


def test_the_defaults_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = load_settings()
    assert settings.model_dump() == {
        "database_url": "sqlite+aiosqlite:///run-ledger.db",
        "url": None,
        "api_key": None,
        "environment": "dev",
        "metadata_bytes_max": 4_096,
        "secret": None,
        "rate_limit": 1_000,
        "late_write_s": 3_600,
        "heartbeat_s": 15,
        "stalled_reader_s": 30,
        "streams_max": 1_000,
        "cors_origins": (),
        "actor": None,
        "flush_interval_s": 1.0,
        "spool_dir": tmp_path / "run-ledger" / "spool",
        "spool_bytes_max": 64 * 2**20,
        "run_id": None,
        "run_attempt": None,
        "run_parent": None,
        "run_root": None,
    }


@pytest.mark.parametrize("limit", ["2", "262144"])
def test_the_limits_of_a_limit_are_allowed(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv("RUN_LEDGER_METADATA_BYTES_MAX", limit)
    assert load_settings().metadata_bytes_max == int(limit)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"], ["get", "r"], ["runs"]])
def test_a_command_stops_with_exit_code_1_and_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.setenv("RUN_LEDGER_METADATA_BYTES_MAX", "a lot")
    done = call(*command)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: RUN_LEDGER_METADATA_BYTES_MAX is 'a lot': ")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


URLS = [
    ("nonsense", "not a database URL"),
    ("sqlite+aiosqlite://", "names no file"),
    ("sqlite+aiosqlite:///:memory:", "names no file"),
    ("sqlite+aiosqlite:///file:x.db?uri=true", "names no file"),
    ("sqlite+aiosqlite:////no/such/folder/x.db", "there is no folder /no/such/folder"),
    ("sqlite+aiosqlite:////", "cannot open /"),
    ("sqlite+aiosqlite:///x.db?timeout=abc", "a SQLite file takes none"),
    ("mysql://localhost/x", "mysql is not supported"),
]


@pytest.mark.parametrize(("url", "said"), URLS)
def test_a_database_that_cannot_be_used_is_one_line(call: Call, url: str, said: str) -> None:
    done = call("migrate", "--database-url", url)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("run-ledger: ")
    assert done.err.count("\n") == 1
    assert said in done.err


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 1_000)
    done = run_ledger("serve", "--port", "0", "--database-url", f"sqlite+aiosqlite:///{path}")
    assert done.returncode == 1
    assert f"run-ledger: cannot open {path}: file is not a database" in done.stderr
    assert path.read_text() == "Dear reader, " * 1_000


def test_a_raised_limit_holds_over_http(tmp_path: Path) -> None:
    with serving(tmp_path / "x.db", RUN_LEDGER_METADATA_BYTES_MAX="262144") as server, server.client() as http:
        big = {"task": "t", "id": "r", "metadata": {"a": "x" * 262_136}}
        assert http.post("/api/v1/runs", json=big).status_code == 201
        answer = http.get("/api/v1/runs/r/metadata").json()
        assert (answer["sizeBytes"], answer["limitBytes"]) == (262_144, 262_144)
        assert http.get("/api/v1/runs").json()["data"][0]["env"] == {"id": "dev", "name": "dev"}


def test_a_server_without_keys_serves_one_environment_and_says_so(tmp_path: Path) -> None:
    done = run_ledger("serve", "--port", "0", cwd=tmp_path, variables={"RUN_LEDGER_ENVIRONMENT": "prod"})
    assert done.returncode == 1
    assert done.stderr == (
        "run-ledger: RUN_LEDGER_ENVIRONMENT is prod: a ledger without API keys serves the environment dev only; "
        "make a key first: run-ledger keys create --environment prod\n"
    )
    assert list(tmp_path.iterdir()) == []


KEY = f"rl_prod_{'a' * 16}_{'b' * 43}"
CHOSEN = [
    (KEY, None, None),
    (KEY, "prod", None),
    (KEY, "dev", "RUN_LEDGER_API_KEY is a key of environment prod, not of dev; "),
    ("another program's key", "prod", None),
    (None, None, None),
    (None, "dev", None),
    (None, "prod", "a server without API keys serves the environment dev only, not prod; "),
]


@pytest.mark.parametrize(("key", "environment", "said"), CHOSEN)
def test_an_environment_other_than_the_keys_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, key: str | None, environment: str | None, said: str | None
) -> None:
    monkeypatch.setenv("RUN_LEDGER_URL", "http://127.0.0.1:1")
    if key is not None:
        monkeypatch.setenv("RUN_LEDGER_API_KEY", key)
    settings = load_settings(environment=environment)
    if said is None:
        refuse_other_environment(settings)
    else:
        with pytest.raises(BadSettings) as raised:
            refuse_other_environment(settings)
        assert str(raised.value).startswith(said)
        assert "b" * 43 not in str(raised.value)
        with pytest.raises(BadSettings):
            configure("http://127.0.0.1:1", api_key=key, environment=environment)


def test_the_key_of_a_server_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_LEDGER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RUN_LEDGER_API_KEY", "rl_dev_id_hidden")
    settings = load_settings()
    assert "hidden" not in repr(settings)

    async def headers() -> str:
        async with connect(settings) as client:
            return client._http.headers["authorization"]

    assert asyncio.run(headers()) == "Bearer rl_dev_id_hidden"
