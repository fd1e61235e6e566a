"""Every statement stays within one environment, so that a distributed database can send it to one server."""

import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from inspect import isfunction, unwrap
from itertools import product
from typing import Any, get_type_hints

import psycopg
import pytest
from sqlalchemy import (
    CheckConstraint,
    ClauseElement,
    Delete,
    Insert,
    Select,
    Table,
    Update,
    exists,
    select,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, ColumnClause
from sqlalchemy.sql.operators import and_, eq
from sqlalchemy.sql.schema import ColumnCollectionConstraint
from sqlalchemy.sql.selectable import Alias, FromClause, Join

from ledger import distribute, sqlite, statements
from ledger.errors import UnusableDatabase
from ledger.postgres.rows import ROWS_MAX, together
from ledger.postgres.texts import written
from ledger.statements import Narrowing
from ledger.store import distribute as distribute_database
from ledger.store import migrate
from ledger.tables import environments, events, runs, schema
from tests.ledger.support import Database

# What is asked of all environments at once, once in the life of a process or by a command of the operator; and where
# a key is, which is asked once for each key.
ACROSS = {"ANY_API_KEY", "ENVIRONMENTS_OF_API_KEY", "LOGS"}


def built() -> Iterator[tuple[str, ClauseElement]]:
    """The statements that are made for the filters of a request, each with all of its filters and with none."""
    every = Narrowing(frozenset({"status", "task", "tag", "parent_key", "root_key", "batch"}), reach=True)
    some = Narrowing(frozenset({"tag"}))
    branches: tuple[Any, ...] = ((), ((("status", "status_0"),),), ((("tag", "tag_0"),), (("task", "task_0"),)))
    for newest_first in (True, False):
        yield "last_events", statements.last_events(newest_first=newest_first)
        for narrowing, ways in product((every, some, Narrowing()), branches):
            yield "run_keys", statements.run_keys(narrowing, ways, newest_first=newest_first)
        for named in (True, False):
            asked: dict[str, Any] = dict.fromkeys(("by_actor", "by_attempt", "by_name"), named)
            types = ("a", "b") if named else ()
            yield "page_of_versions", statements.page_of_versions(newest_first=newest_first, types=types, **asked)
    for past, metadata_only, named in product((True, False), repeat=3):
        narrowing, patterns = (every, (2, 1)) if named else (Narrowing(), ())
        heads = statements.chosen_heads(narrowing, patterns, updated=named, past=past, metadata_only=metadata_only)
        yield "chosen_heads", heads
    yield "page_of_members", statements.page_of_members(tags=2, of_batch=True, reach=True)
    yield "page_of_members", statements.page_of_members(tags=0, of_batch=False, reach=False)


STATEMENTS = {
    name: statement
    for name, statement in vars(statements).items()
    if isinstance(statement, Select | Insert | Update | Delete)
} | {f"{name} {number}": statement for number, (name, statement) in enumerate(built())}


def tables_in(clause: FromClause) -> Iterator[FromClause]:
    """The tables of a FROM, each under the name it has there."""
    if isinstance(clause, Join):
        yield from tables_in(clause.left)
        yield from tables_in(clause.right)
    elif isinstance(clause, Table) or (isinstance(clause, Alias) and isinstance(clause.element, Table)):
        yield clause


def conditions(clause: ClauseElement | None) -> Iterator[BinaryExpression[Any]]:
    """What has to hold: the parts of an AND, never those of an OR."""
    if isinstance(clause, BinaryExpression):
        yield clause
    elif isinstance(clause, BooleanClauseList) and clause.operator is and_:
        for part in clause.clauses:
            yield from conditions(part)


def onclauses(clause: FromClause) -> Iterator[ClauseElement | None]:
    if isinstance(clause, Join):
        yield clause.onclause
        yield from onclauses(clause.left)
        yield from onclauses(clause.right)


def nearest_selects(clause: visitors.ExternallyTraversible) -> Iterator[Select[Any]]:
    """The subqueries of a clause, but not those within them."""
    for child in clause.get_children():
        if isinstance(child, Select):
            yield child
        else:
            yield from nearest_selects(child)


def unbound(statement: ClauseElement, outside: AbstractSet[FromClause] = frozenset()) -> list[str]:
    """
    The distributed tables of a statement whose environment is not given by a parameter, also by way of a join.

    Args:
        statement: The statement.
        outside: Where it stands in another one: the tables of that one whose environment is given.
    """
    if isinstance(statement, Insert):
        table = statement.table
        return [] if table is environments or distribute.COLUMN in table.c else [str(table)]
    if isinstance(statement, Select):
        froms = list(statement.get_final_froms())
        wheres: list[ClauseElement | None] = [statement.whereclause]
    else:
        assert isinstance(statement, Update | Delete)
        froms, wheres = [statement.table], [statement.whereclause]
    for clause in froms:
        wheres += onclauses(clause)
    pairs = [
        (one.left, one.right)
        for where in wheres
        for one in conditions(where)
        if one.operator is eq and isinstance(one.left, ColumnClause) and one.left.name == distribute.COLUMN
    ]
    bound = {left.table for left, right in pairs if isinstance(right, BindParameter)} | {*outside}
    while more := {
        side.table
        for left, right in pairs
        if isinstance(right, ColumnClause) and right.name == distribute.COLUMN
        for side, other in ((left, right), (right, left))
        if other.table in bound and side.table not in bound
    }:
        bound |= more
    used = [table for clause in froms for table in tables_in(clause)]
    base = {table: table.element if isinstance(table, Alias) else table for table in used}
    missing = [str(table) for table in used if base[table] is not environments and table not in bound]
    for inner in nearest_selects(statement):
        missing += unbound(inner, {table for table in inner._correlate or () if table in bound})
    return missing


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_every_statement_names_its_environment(name: str) -> None:
    assert bool(unbound(STATEMENTS[name])) == (name in ACROSS)


def test_every_function_that_makes_a_statement_is_walked() -> None:
    made = {
        name
        for name, value in vars(statements).items()
        if isfunction(unwrap(value)) and value.__module__ == statements.__name__
        if "Select" in str(get_type_hints(unwrap(value)).get("return"))
    }
    assert {name for name in made if not name.startswith("_")} == {name for name, _ in built()}


# What is sent with many rows at once. Whatever is missing here is sent row by row.
OF_MANY_ROWS = {
    *("ADD_API_KEY", "ADD_BATCHES", "ADD_BATCH_ITEMS", "ADD_CHECKPOINT", "ADD_EVENTS", "ADD_HEADS", "ADD_LOG"),
    *("ADD_REFUSALS", "ADD_RUN_TAGS", "ADD_SNAPSHOTS", "OPEN_ERASURE", "REMEMBER"),
    *(
        "CHANGE_BATCHES",
        "CHANGE_HEADS",
        "CHANGE_METADATA",
        "CHANGE_REFUSAL",
        "CHANGE_SNAPSHOT",
        "CHANGE_UNAPPLIED",
    ),
    *("REDACT_EVENT", "REPAIR_HEAD"),
}


def of_many_rows() -> Iterator[tuple[str, str]]:
    """The texts that are sent for several rows."""
    for name, statement in STATEMENTS.items():
        if (form := together(statement)) is not None:
            for number in (2, 4, ROWS_MAX):
                yield f"{name} {number}", form.text(number).decode()


TEXTS = dict(of_many_rows())
COLUMN = distribute.COLUMN


def reaches_past(text: str) -> bool:
    """Whether a text that writes many rows may touch those of an environment that no parameter of it names."""
    if text.startswith("INSERT INTO "):
        columns, _, rest = text.partition("(")[2].partition(")")
        rows = re.sub(r"\$\d+", "$", rest.removeprefix(" VALUES "))
        width = len(columns.split(", "))
        row = f"({', '.join('$' * width)})"
        return COLUMN not in columns.split(", ") or not re.fullmatch(
            re.escape(row) + rf"(, {re.escape(row)})*( ON CONFLICT DO NOTHING)?", rows
        )
    found = re.fullmatch(
        rf"UPDATE (\w+) SET [^()]+ FROM \(VALUES ([$\d:a-z(), ]+)\) AS v \([\w, ]+\) WHERE \1\.{COLUMN} = (\$\d+)(.*)",
        text,
    )
    if found is None or re.search(rf"{re.escape(found[3])}\b", found[2]):
        return True
    also = rf"( AND {found[1]}\.\w+ = v\.\w+ AND {found[1]}\.\w+ IN \([$\d, ]+\))+"
    return re.fullmatch(also, found[4]) is None


def test_what_is_sent_with_many_rows_is_what_should_be() -> None:
    assert {name for name, statement in STATEMENTS.items() if together(statement)} == OF_MANY_ROWS


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_every_text_for_many_rows_names_its_environment(name: str) -> None:
    assert not reaches_past(TEXTS[name])
    numbers = [int(number) for number in re.findall(r"\$(\d+)", TEXTS[name])]
    assert {*numbers} == {*range(1, max(numbers) + 1)}


_UPDATE, _INSERT = TEXTS["CHANGE_METADATA 2"], TEXTS["ADD_EVENTS 2"]
BAD_TEXTS = {
    "no environment": _UPDATE.replace(f"runs.{COLUMN} = $15 AND ", ""),
    "an environment of each row": _UPDATE.replace(f"{COLUMN} = $15", f"{COLUMN} = v.{COLUMN}"),
    "an environment among the rows": _UPDATE.replace(f"{COLUMN} = $15", f"{COLUMN} = $7"),
    "or another": _UPDATE.replace(" AND ", " OR "),
    "another table": _UPDATE.replace(" WHERE ", ", events WHERE "),
    "no environment in a row": _INSERT.replace(f"{COLUMN}, ", ""),
    "rows of a query": "INSERT INTO events (environment_id) SELECT environment_id FROM events",
    "a change on a conflict": _INSERT + " ON CONFLICT (position) DO UPDATE SET data = ''",
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_for_many_rows_that_reaches_past_its_environment_is_found(name: str) -> None:
    assert BAD_TEXTS[name] not in TEXTS.values()
    assert reaches_past(BAD_TEXTS[name])


@pytest.mark.only("postgresql")
def test_a_server_can_prepare_every_statement(database: Database) -> None:
    texts = [written(STATEMENTS[name])[0] for name in sorted(STATEMENTS)]
    with psycopg.connect(database.url, autocommit=True) as connection:
        for number, text in enumerate([*texts, *TEXTS.values()]):
            connection.execute(f"PREPARE statement_{number} AS {text}")
    assert database.value("SELECT count(*) FROM logs") == 0


BAD: dict[str, Callable[[], ClauseElement]] = {
    "no condition": lambda: select(events),
    "another condition": lambda: select(events).where(events.c.position == 1),
    "one of two": lambda: select(events).where(
        (events.c.environment_id == statements._environment) | (events.c.position == 1)
    ),
    "a join by the key alone": lambda: (
        select(events)
        .join(runs, runs.c.run_key == events.c.run_key)
        .where(events.c.environment_id == statements._environment)
    ),
    "a subquery that only looks like a part of the outer one": lambda: (
        select(runs)
        .where(runs.c.environment_id == statements._environment)
        .where(runs.c.run_key.in_(select(events.c.run_key).correlate(None)))
    ),
    "a subquery joined by the key alone": lambda: (
        select(runs)
        .where(runs.c.environment_id == statements._environment)
        .where(exists(select(events).where(events.c.run_key == runs.c.run_key).correlate(runs)))
    ),
    "a change": lambda: runs.update().where(runs.c.run_key == 1),
    "a deletion": runs.delete,
}


@pytest.mark.parametrize("name", BAD)
def test_a_statement_that_reaches_past_its_environment_is_found(name: str) -> None:
    assert unbound(BAD[name]())


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_every_statement_can_be_written_for_both_engines(name: str) -> None:
    for write in (sqlite._question, written):
        text, slots = write(STATEMENTS[name])
        assert "POSTCOMPILE" not in text
        assert text.count("?" if write is sqlite._question else "$") == sum(
            1 if isinstance(slot, str) else len(slot) for slot in slots
        )


def test_every_key_of_a_distributed_table_begins_with_the_environment() -> None:
    """Citus can keep no other unique key, and no other foreign key, on a distributed table."""
    for table in schema.sorted_tables:
        if table is environments:
            continue
        keys = [[*table.primary_key.columns], *([*index.columns] for index in table.indexes)]
        for one in table.constraints:
            if isinstance(one, ColumnCollectionConstraint) and not isinstance(one, CheckConstraint):
                keys.append([*one.columns])
        assert {columns[0].name for columns in keys} == {distribute.COLUMN}


def test_what_is_sent_to_citus() -> None:
    sent = distribute.distribute_statements()
    assert sent[:4] == [
        "SET LOCAL citus.enable_unsafe_triggers = on",
        "SELECT create_reference_table('environments')",
        f"SELECT create_distributed_table('{distribute.distributed()[0]}', 'environment_id')",
        (
            f"SELECT create_distributed_table('{distribute.distributed()[1]}', 'environment_id', "
            f"colocate_with => '{distribute.distributed()[0]}')"
        ),
    ]
    assert len(sent) == 1 + len(schema.tables)
    names = distribute.distributed()
    assert names.index("runs") < names.index("events") < names.index("erasures"), (
        "what others refer to comes first"
    )
    assert distribute.distribute_statements(schema.tables) == sent[:1]


@pytest.mark.only("postgresql")
def test_a_database_without_citus_is_not_distributed(database: Database) -> None:
    with pytest.raises(UnusableDatabase, match=r"has no citus extension.*CREATE EXTENSION citus"):
        distribute_database(database.url)
    with pytest.raises(UnusableDatabase, match="only PostgreSQL with the citus extension"):
        distribute_database("sqlite+aiosqlite:///x.db")
    migrate(database.url)
