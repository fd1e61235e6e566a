"""The command line: run-ledger."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import ArgumentError

from api import proof_commands
from api.client import Client, Failed, connect, path_of, without_controls
from api.settings import BadSettings, Settings, load_settings
from ledger.errors import LedgerError, UnusableDatabase
from projections import values
from projections.errors import BadJson, BadValue

cli = typer.Typer(
    name="run-ledger",
    help="Live metadata for running jobs, with the full history of every change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Where the ledger is kept, such as sqlite+aiosqlite:///run-ledger.db (RUN_LEDGER_DATABASE_URL).",
        show_default=False,
    ),
]
EnvironmentName = Annotated[
    str | None,
    typer.Option("--environment", help="Which environment to work in (dev unless set).", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


class Order(StrEnum):
    """Which end of a history comes first."""

    ASC = "asc"
    DESC = "desc"


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.", min=0, max=65_535)] = 8420,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the ledger over HTTP. Prints the address when it is ready; Ctrl-C stops it."""
    from api.server import serve as run_server  # noqa: PLC0415 - Other commands need no server.

    settings = load_settings(database_url=database_url)

    def ready(url: str) -> None:
        print(
            f"Run Ledger is ready at {url} ({settings.database_url})",
            flush=True,
        )

    run_server(settings, host, port, ready)


@cli.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up afterwards, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port of the server; 0 takes any free one.", min=0, max=65_535)] = 8420,
    database: Annotated[str, typer.Option(help="File of the demo's database.")] = "run-ledger-demo.db",
) -> None:
    """Start a server, run a real job beside it, and show what the ledger knows of it."""
    from api.demo import run_demo  # noqa: PLC0415 - Other commands need no demo.

    run_demo(keep=keep, port=port, database=database)


@cli.command()
def get(
    run_id: RunArgument,
    version: Annotated[int | None, typer.Option(help="As it stood after this many events.", min=1)] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="As it stood at a time, such as 2026-01-31T14:05:00Z.")
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Show a run's metadata, current or past."""

    async def work(client: Client) -> None:
        answer = await client.get(path_of(run_id), {"version": version, "at": at})
        if as_json:
            _print_json(answer)
            return
        if sys.stdout.isatty():
            size = f"{answer['sizeBytes']:,} of {answer['limitBytes']:,} bytes"
            console = Console()
            console.print(Text(f"{run_id}, version {answer['version']}, {size}", style="dim"))
            console.print(pretty_json(answer["metadata"]), soft_wrap=True)
        else:
            print(_ascii(answer["metadata"]))

    _run(work, database_url, environment)


@cli.command("set")
def set_key(
    run_id: RunArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key, or a path such as $.status.state.")],
    value: Annotated[str, typer.Argument(metavar="JSON", help="""As JSON: 0.5, true, '"text"', '{"a": 1}'.""")],
    actor: Annotated[str | None, typer.Option(help="Your name, for the history.")] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Set one key of a run's metadata."""
    try:
        parsed = values.canonical(values.parse(value))
    except BadValue as error:
        raise Failed(f"the value cannot be kept: {error}") from error
    except BadJson as error:
        hint = f"""; put text in double quotes: '"{value}"'""" if value.replace("_", "").isalnum() else ""
        raise Failed(f"the value is not JSON: {error}{hint}") from error
    body: dict[str, Any] = {"operations": [{"type": "set", "key": key, "value": parsed}]}
    if actor is not None:
        body["actor"] = actor

    async def work(client: Client) -> None:
        answer = await client.send("PUT", path_of(run_id), body)
        if as_json:
            _print_json(answer)
            return
        for unapplied in answer["unapplied"]:
            raise Failed(f"nothing was set: {unapplied['reason']}")
        print(
            f"{run_id} is at version {answer['version']}, "
            f"{answer['sizeBytes']:,} of {answer['limitBytes']:,} bytes"
        )

    _run(work, database_url, environment)


@cli.command()
def history(
    run_id: RunArgument,
    key: Annotated[str | None, typer.Option(help="Only changes to this key or path.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many events.", min=1, max=1_000)] = 100,
    after: Annotated[int | None, typer.Option(help="Begin behind this version.", min=0)] = None,
    order: Annotated[Order, typer.Option(help="Oldest first or newest first.")] = Order.ASC,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Show what happened to a run: every event, with when and who."""
    query = {"key": key, "limit": limit, "after": after, "order": order.value}

    async def work(client: Client) -> None:
        page = await client.get(path_of(run_id, "metadata/history"), query)
        if as_json:
            _print_json(page)
            return
        rows = [event_cells(event) for event in page["data"]]
        _print_table(("version", "recorded", "actor", "event", "what"), rows)
        if "next" in page["pagination"] and sys.stdout.isatty():
            print(f"There is more: --after {page['pagination']['next']}")

    _run(work, database_url, environment)


@cli.command()
def runs(
    status: Annotated[str | None, typer.Option(help="Only these statuses, separated by commas.")] = None,
    task: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many runs.", min=1, max=100)] = 25,
    after: Annotated[str | None, typer.Option(metavar="RUN", help="Only runs older than this one.")] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """List runs, newest first."""
    query = {
        "filter[status]": status,
        "filter[taskIdentifier]": task,
        "page[size]": limit,
        "page[after]": after,
    }

    async def work(client: Client) -> None:
        page = await client.get("/api/v1/runs", query)
        if as_json:
            _print_json(page)
            return
        rows = [
            (run["id"], run["taskIdentifier"], run["status"], _local(run["updatedAt"]), _ascii(run["metadata"]))
            for run in page["data"]
        ]
        _print_table(("run", "task", "status", "updated", "metadata"), rows)
        if "next" in page["pagination"] and sys.stdout.isatty():
            print(f"There is more: --after {page['pagination']['next']}")

    _run(work, database_url, environment)


@cli.command()
def migrate(database_url: DatabaseUrl = None) -> None:
    """Bring the database's tables up to date. A server on SQLite does this by itself when it starts."""
    from ledger.ledger import Ledger  # noqa: PLC0415 - Loads the database driver.

    settings = load_settings(database_url=database_url)

    async def work() -> None:
        ledger = await Ledger.open(settings.database_url)
        await ledger.close()

    asyncio.run(work())
    print(f"{settings.database_url} is up to date")


def event_cells(event: dict[str, Any]) -> tuple[str, ...]:
    """An event of the wire as the cells of a table."""
    key, value = event.get("key", ""), _ascii(event.get("value"))
    match event["type"]:
        case kind if kind.startswith("metadata.") and "erased" in event["data"] and "value" not in event:
            what = f"{key} (erased)"
        case "run.erased":
            data = event["data"]
            what = f"{data['key']} erased from {len(data['redacted']):,} events: {data['reason']}"
        case "metadata.set":
            what = f"{key} = {value}"
        case "metadata.incremented":
            what = f"{key} {'-' if event['value'] < 0 else '+'} {value.lstrip('-')}"
        case "metadata.appended":
            what = f"{key} gains {value}"
        case "metadata.removed":
            what = f"{key} loses {value}"
        case "metadata.deleted":
            what = f"{key} is gone"
        case "metadata.updated":
            what = f"all = {value}"
        case "run.created":
            what = f"task {event['data']['task']}, {_ascii(event['data']['metadata'])}"
        case _:
            what = ", ".join(f"{name} {_ascii(member)}" for name, member in event["data"].items())
    return (str(event["version"]), _local(event["recordedAt"]), event["actor"], event["type"], what)


def _run(
    work: Callable[[Client], Coroutine[Any, Any, None]], database_url: str | None, environment: str | None
) -> None:
    settings = load_settings(database_url=database_url, environment=environment)
    if settings.url is not None and database_url is not None:
        raise BadSettings("--database-url names a database and RUN_LEDGER_URL a server; leave one of them out")
    asyncio.run(_connected(settings, work))


async def _connected(settings: Settings, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    logging.getLogger("ledger").setLevel(logging.ERROR)  # Warnings are for those who run a server.
    async with connect(settings) as client:
        try:
            await work(client)
        except (KeyError, TypeError) as error:
            if settings.url is None:  # Then the answer was our own.
                raise
            raise Failed(f"{settings.url} gave an answer that no Run Ledger server gives") from error


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on a terminal; lines of tab-separated cells in a pipe, each whole."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(map(_one_line, row)))
        return
    Console().print(table_of(columns, rows))


def table_of(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table for a terminal whose last column gives way when the terminal is narrow."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*(Text(_one_line(cell), no_wrap=True, overflow="ellipsis") for cell in row))
    return table


def pretty_json(value: Any) -> Text:
    """Indented and coloured JSON in which nothing can steer a terminal."""
    return JSONHighlighter()(without_controls(json.dumps(value, indent=2, ensure_ascii=False)))


def _one_line(cell: str) -> str:
    """A cell that cannot pass for several cells or rows."""
    return without_controls(cell).replace("\t", " ").replace("\n", " ")


def _print_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2))


def _ascii(value: Any) -> str:
    """Compact JSON in which nothing can steer a terminal."""
    return without_controls(values.dump(value))


def _local(time: str) -> str:
    """A time of the wire in this machine's zone, to the second."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


proof_commands.add_to(cli)


def main() -> None:
    """Run the command line; what went wrong is one line on standard error and exit code 1."""
    try:
        _check_arguments(sys.argv[1:])
        cli()
    except (BadSettings, Failed, LedgerError, UnusableDatabase, ArgumentError) as error:
        print(f"run-ledger: {without_controls(str(error))}", file=sys.stderr)
        sys.exit(1)


def _check_arguments(arguments: Sequence[str]) -> None:
    """What is not UTF-8 arrives as half characters, which no request can carry."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise Failed(f"the argument {argument!a} is not UTF-8 text") from error


if __name__ == "__main__":
    main()
