"""What the commands of the command line share: their options, the way to a run, and safe output on a terminal."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from api.client import Client, Failed, connect, without_controls
from ledger.settings import PREFIX, BadSettings, Settings, load_settings
from projections import values
from projections.errors import BadJson, BadValue

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Where the ledger is kept, such as sqlite+aiosqlite:///run-ledger.db or "
        "postgresql://user@host/run_ledger (RUN_LEDGER_DATABASE_URL).",
        show_default=False,
    ),
]
EnvironmentName = Annotated[
    str | None,
    typer.Option(
        "--environment", help="Which environment to work in (dev unless set, or the key's).", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run's id; within a run it may be left out.",
        envvar="RUN_LEDGER_RUN_ID",
        show_envvar=False,
    ),
]


def run_work(
    work: Callable[[Client], Coroutine[Any, Any, None]], database_url: str | None, environment: str | None
) -> None:
    """
    Carry out *work* with a client of the server or the database that the options and settings name.

    Raises:
        Failed: It was refused, or there was no answer.
        BadSettings: The options and settings contradict each other.
    """
    settings = load_settings(database_url=database_url, environment=environment)
    _refuse_two_places(settings, database_url)
    asyncio.run(_connected(settings, work))


def choose(database_url: str | None, environment: str | None, actor: str | None) -> None:
    """
    Let this process, and those that it starts, report as the options say.

    Raises:
        BadSettings: The options and settings contradict each other.
    """
    options = {"database_url": database_url, "environment": environment, "actor": actor}
    settings = load_settings(**options)
    _refuse_two_places(settings, database_url)
    os.environ.update({f"{PREFIX}{name.upper()}": value for name, value in options.items() if value is not None})


def json_argument(text: str) -> JsonValue:
    """
    A value that was given as JSON.

    Raises:
        Failed: It is none, or cannot be kept.
    """
    try:
        return values.canonical(values.parse(text))
    except BadValue as error:
        raise Failed(f"the value cannot be kept: {error}") from error
    except BadJson as error:
        hint = f"""; put text in double quotes: '"{text}"'""" if text.replace("_", "").isalnum() else ""
        raise Failed(f"the value is not JSON: {error}{hint}") from error


def _refuse_two_places(settings: Settings, database_url: str | None) -> None:
    if settings.url is not None and database_url is not None:
        raise BadSettings("--database-url names a database and RUN_LEDGER_URL a server; leave one of them out")


async def _connected(settings: Settings, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    logging.getLogger("ledger").setLevel(logging.ERROR)  # Warnings are for those who run a server.
    async with connect(settings) as client:
        try:
            await work(client)
        except (KeyError, TypeError) as error:
            if settings.url is None:  # Then the answer was our own.
                raise
            raise Failed(f"{settings.url} gave an answer that no Run Ledger server gives") from error


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on a terminal; lines of tab-separated cells in a pipe, each whole."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(map(one_line, row)))
        return
    Console().print(table_of(columns, rows))


def table_of(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table for a terminal whose last column gives way when the terminal is narrow."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*(Text(one_line(cell), no_wrap=True, overflow="ellipsis") for cell in row))
    return table


def pretty_json(value: Any) -> Text:
    """Indented and coloured JSON in which nothing can steer a terminal."""
    return JSONHighlighter()(without_controls(json.dumps(value, indent=2, ensure_ascii=False)))


def one_line(cell: str) -> str:
    """A cell that cannot pass for several cells or rows."""
    return without_controls(cell).replace("\t", " ").replace("\n", " ")


def print_json(answer: Any) -> None:
    """An answer as indented JSON, of ASCII alone."""
    print(json.dumps(answer, indent=2))


def compact_json(value: Any) -> str:
    """Compact JSON in which nothing can steer a terminal."""
    return without_controls(values.dump(value))


def local_time(time: str) -> str:
    """A time of the wire in this machine's zone, to the second."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
