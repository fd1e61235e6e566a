"""Keys: their form, their scopes, and that the database knows no secret."""

import asyncio
import multiprocessing
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import KeyNotFound, KeyRefused
from ledger.keys import (
    ACTIONS,
    EVERYTHING,
    SCOPES_MAX,
    ApiKey,
    Grant,
    Reach,
    derive_key,
    describe,
    environment_of,
    new_key_id,
    parse_scopes,
    read_key,
    read_scopes,
    scopes_text,
)
from ledger.ledger import Ledger
from ledger.master import UnusableSecret, load_master, secret_file
from ledger.writes import Environment
from tests.ledger.support import Clock, Database
from tests.strategies import thorough

MASTER = b"m" * 32
ENVIRONMENTS = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
IDS = st.text(string.ascii_lowercase + string.digits, min_size=16, max_size=16)
# What can be printed: to filter whole texts for that throws most of them away.
PRINTABLE = st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" ")
TASKS = st.text(PRINTABLE, min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
SCOPES = st.one_of(
    st.sampled_from(ACTIONS),
    st.builds("{}:{}:{}".format, st.sampled_from(ACTIONS), st.sampled_from(["tasks", "tags"]), TASKS),
)


def test_a_key_is_derived_as_it_is_described() -> None:
    # Computed apart from this program: base62 of HMAC-SHA256(32 times "m", "run-ledger/api-key/1\0prod\0" and the id).
    assert derive_key(MASTER, "prod", "0123456789abcdef") == (
        "rl_prod_0123456789abcdef_RwOPN3x9gxVWoQkg1LduZUJKe7n4H3JL5vkT5n6mK0c"
    )


@thorough
@given(master=st.binary(min_size=1), environment=ENVIRONMENTS, key_id=IDS)
def test_a_derived_key_can_be_read(master: bytes, environment: str, key_id: str) -> None:
    text = derive_key(master, environment, key_id)
    shown = read_key(text)
    assert shown is not None
    assert (shown.environment, shown.id, len(shown.digest)) == (environment, key_id, 32)
    assert environment_of(text) == environment
    assert derive_key(master, environment, key_id) == text
    assert derive_key(master + b"x", environment, key_id) != text


@thorough
@given(
    text=st.one_of(
        st.text(), st.text("rl_abz09-_ZA", max_size=130), st.binary().map(lambda b: b.decode("latin-1"))
    )
)
def test_any_text_is_read_as_a_key_or_as_none(text: str) -> None:
    shown = read_key(text)
    if shown is not None:
        assert text.isascii()
        assert text.startswith(f"rl_{shown.environment}_{shown.id}_")


@given(environment=ENVIRONMENTS, key_id=IDS, end=st.sampled_from(["\n", " ", "\0", "x", "é"]))
def test_nothing_may_stand_behind_a_key(environment: str, key_id: str, end: str) -> None:
    text = derive_key(MASTER, environment, key_id)
    assert read_key(text + end) is read_key(end + text) is None


def test_ids_are_not_repeated() -> None:
    ids = {new_key_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(len(key_id) == 16 and key_id.isalnum() and key_id.islower() | key_id.isdigit() for key_id in ids)


@thorough
@given(
    scopes=st.lists(SCOPES, min_size=1, max_size=8).map(tuple),
    task=TASKS,
    tags=st.lists(TASKS, max_size=3),
    data=st.data(),
)
def test_a_reach_holds_what_some_scope_allows(
    scopes: tuple[str, ...], task: str, tags: list[str], data: st.DataObject
) -> None:
    named = [scope.split(":", 2)[2] for scope in scopes if ":" in scope]
    if named:  # Else a random run would seldom be one that a scope names.
        task = data.draw(st.sampled_from([task, *named]))
        tags = [*tags, *data.draw(st.lists(st.sampled_from(named), max_size=2))]
    assert read_scopes(scopes_text(scopes)) == scopes
    grant = parse_scopes(scopes)
    for action in ACTIONS:
        granted = [scope.split(":", 2) for scope in scopes if scope.split(":")[0] in {action, "admin"}]
        allowed = any(
            len(parts) == 1 or (parts[2] == task if parts[1] == "tasks" else parts[2] in tags) for parts in granted
        )
        assert grant.reach(action).holds(task, tags) is allowed
        assert grant.reach(action).is_empty is (not granted)


@thorough
@given(text=st.text(max_size=30))
def test_any_text_is_a_scope_or_refused(text: str) -> None:
    action = text.partition(":")[0]
    try:
        grant = parse_scopes((text,))
    except ValueError:
        assert text not in ACTIONS
    else:
        assert action in ACTIONS
        assert not grant.reach(action).is_empty


def test_a_scope_may_name_a_task_with_colons_and_commas() -> None:
    assert parse_scopes(("read:tasks:eu:import, nightly",)).read == Reach(tasks=frozenset({"eu:import, nightly"}))
    assert (
        describe(parse_scopes(("read:tasks:b", "read:tags:a")).read) == "runs of the task 'b' or with the tag 'a'"
    )
    assert parse_scopes(("admin",)) == EVERYTHING


def test_a_scope_of_a_newer_release_grants_nothing() -> None:
    owner = Environment(1, "dev")
    assert ApiKey(owner, "a" * 16, "n", ("read", "fly:moon"), 0).grant == parse_scopes(("read",))
    assert ApiKey(owner, "a" * 16, "n", ("fly",), 0).grant == Grant()


def test_the_number_of_scopes_is_bounded() -> None:
    many = tuple(f"read:tasks:{number}" for number in range(SCOPES_MAX))
    assert len(parse_scopes(many).read.tasks) == SCOPES_MAX
    for scopes in ((), (*many, "read")):
        with pytest.raises(ValueError, match="a key has 1 to 32 scopes"):
            parse_scopes(scopes)


async def test_a_key_is_admitted_until_it_is_revoked_and_by_every_open_ledger(
    ledger: Ledger, database: Database, clock: Clock
) -> None:
    other = await Ledger.open(database.url, clock=clock)
    owner = (await ledger.log("prod")).owner
    assert [await one.keys.is_open() for one in (ledger, other)] == [True, True]
    made = await ledger.keys.create(owner, MASTER, name="ci")
    assert (made.is_first, made.text) == (True, derive_key(MASTER, "prod", made.key.id))
    assert [await one.keys.is_open() for one in (ledger, other)] == [False, False]
    key = await other.keys.admit(made.text)
    assert key == ApiKey(owner, made.key.id, "ci", ("read", "write"), clock.now)
    assert await other.keys.is_valid(key)
    assert await other.keys.list(owner) == [made.key]
    revoked = await ledger.keys.revoke(owner, key.id)
    assert revoked.revoked_at == clock.now
    clock.advance(1)
    assert await ledger.keys.revoke(owner, key.id) == revoked
    assert not await other.keys.is_valid(key)
    for keys in (ledger.keys, other.keys):
        with pytest.raises(KeyRefused, match="was revoked at 2027-01-15T08:00:00"):
            await keys.admit(made.text)
    assert [await one.keys.is_open() for one in (ledger, other)] == [False, False]
    assert not (await ledger.keys.create(owner, MASTER)).is_first
    await other.close()


async def test_a_key_is_revoked_in_its_own_environment_only(ledger: Ledger) -> None:
    mine, theirs = [(await ledger.log(name)).owner for name in ("mine", "theirs")]
    made = await ledger.keys.create(mine, MASTER)
    with pytest.raises(KeyNotFound):
        await ledger.keys.revoke(theirs, made.key.id)
    assert await ledger.keys.admit(made.text) == made.key
    assert await ledger.keys.list(theirs) == []


async def test_a_key_whose_digest_is_of_another_environment_opens_neither(
    ledger: Ledger, database: Database
) -> None:
    """Even with the same id in two environments, each key opens its own only."""
    mine, theirs = [(await ledger.log(name)).owner for name in ("mine", "theirs")]
    made = await ledger.keys.create(mine, MASTER)
    forged = derive_key(MASTER, "theirs", made.key.id)
    with pytest.raises(KeyRefused):
        await ledger.keys.admit(forged)
    assert (await ledger.environments()) == [mine, theirs]


async def test_what_is_remembered_of_a_key_gives_way_to_what_the_database_says(
    ledger: Ledger, database: Database, clock: Clock
) -> None:
    made = await ledger.keys.create((await ledger.log("dev")).owner, MASTER, expires_at=clock.now + 10_000_000)
    assert (await ledger.keys.admit(made.text)).scopes == ("read", "write")
    database.rows("UPDATE api_keys SET scopes = ?, name = ?", ['["read"]', "renamed"])
    await asyncio.sleep(0)  # Within one turn of the event loop nothing is looked at twice.
    assert (await ledger.keys.admit(made.text)).scopes == ("read",)
    assert (await ledger.keys.admit(made.text)).name == "renamed"
    clock.advance(10)
    with pytest.raises(KeyRefused, match="expired at"):
        await ledger.keys.admit(made.text)
    database.rows("UPDATE api_keys SET expires_at = NULL, digest = ?", [bytes(32)])
    await asyncio.sleep(0)
    with pytest.raises(KeyRefused, match="no API key of this ledger"):
        await ledger.keys.admit(made.text)


@pytest.mark.parametrize("name", ["", " ", "a\x00", "x" * 257, "a\u2028b"])
async def test_a_name_that_cannot_be_shown_is_refused(ledger: Ledger, name: str) -> None:
    owner = (await ledger.log("dev")).owner
    with pytest.raises(ValueError, match="a key's name has 1 to 256 printable characters"):
        await ledger.keys.create(owner, MASTER, name=name)
    assert await ledger.keys.is_open()


async def test_the_last_use_that_is_recorded_never_goes_back(
    ledger: Ledger, database: Database, clock: Clock
) -> None:
    made = await ledger.keys.create((await ledger.log("dev")).owner, MASTER)
    other = await Ledger.open(database.url, clock=lambda: clock.now - 1_000_000)
    await ledger.keys.admit(made.text)
    await other.keys.admit(made.text)
    await ledger.close()
    await other.close()
    assert database.value("SELECT last_used_at FROM api_keys") == clock.now


# --- the master secret ---


def _load(path: str, results: "multiprocessing.SimpleQueue[bytes]", start: str) -> None:
    while not Path(start).exists():
        pass
    results.put(load_master(None, Path(path)))


def test_processes_that_need_the_first_secret_at_once_get_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    start = tmp_path / "start"
    database = tmp_path / "x.db"
    processes = [context.Process(target=_load, args=(str(database), results, str(start))) for _ in range(6)]
    for process in processes:
        process.start()
    start.touch()
    found = {results.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["start", "x.db.secret"]


def test_without_a_file_to_lie_beside_the_secret_must_be_set() -> None:
    with pytest.raises(UnusableSecret, match="set RUN_LEDGER_SECRET, the same on all nodes"):
        load_master(None, None)
    assert load_master("s" * 32, None) == b"s" * 32


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableSecret, match="No such file or directory; mend that"):
        load_master(None, tmp_path / "none" / "x.db")
    assert secret_file(tmp_path / "x.db").name == "x.db.secret"
