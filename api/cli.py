"""The command line: run-ledger."""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from api.client import Client, Failed, connect, path_of, without_controls
from ledger.errors import LedgerError, UnusableDatabase
from ledger.master import UnusableSecret
from ledger.settings import PREFIX, BadSettings, Settings, load_settings
from projections import values
from projections.errors import BadJson, BadValue
from projections.times import Microseconds

cli = typer.Typer(
    name="run-ledger",
    help="Live metadata for running jobs, with the full history of every change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

spool = typer.Typer(help="What could not be delivered to the ledger yet.", no_args_is_help=True)
cli.add_typer(spool, name="spool")

keys = typer.Typer(
    help="API keys: who may read and write over HTTP, in which environment. The first key closes an open ledger.",
    no_args_is_help=True,
)
cli.add_typer(keys, name="keys")

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Where the ledger is kept, such as sqlite+aiosqlite:///run-ledger.db (RUN_LEDGER_DATABASE_URL).",
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
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] KEY JSON",
            help="The run, the key or a path such as $.status.state, and its value as JSON: "
            """0.5, true, '"text"', '{"a": 1}'. Within 'run-ledger exec' the run is left out.""",
        ),
    ],
    actor: Annotated[str | None, typer.Option(help="Your name, for the history.")] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Set one key of a run's metadata."""
    if len(arguments) == 2:
        key, value = arguments
        _set_in_run(key, value, actor, database_url, environment)
        return
    if len(arguments) != 3:
        raise typer.BadParameter("set takes a run, a key and a value: run-ledger set RUN KEY JSON")
    run_id, key, value = arguments
    body: dict[str, Any] = {"operations": [{"type": "set", "key": key, "value": _json_argument(value)}]}
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


def _set_in_run(
    key: str, value: str, actor: str | None, database_url: str | None, environment: str | None
) -> None:
    from api.job_commands import set_in_run  # noqa: PLC0415 - Other commands need no handle.

    if "RUN_LEDGER_RUN_ID" not in os.environ:
        raise typer.BadParameter(
            "which run? write run-ledger set RUN KEY JSON; only within 'run-ledger exec' the run may be left out"
        )
    _choose(database_url, environment, actor)
    set_in_run(key, _json_argument(value))


@cli.command("exec")
def execute(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
    task: Annotated[str, typer.Option(help="What it executes, such as backup.")],
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="RUN", help="The run's id; a new one unless given.")
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be given up to ten times.")] = None,
    first: Annotated[
        str, typer.Option("--metadata", metavar="JSON", help="The run's first metadata, a JSON object.")
    ] = "{}",
    actor: Annotated[str | None, typer.Option(help="Your name, for the history.")] = None,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """
    Run any command as a run: its exit code becomes the run's status, and this command's exit code.

    Inside it, 'run-ledger set KEY JSON' and 'from ledger import metadata' find the run by themselves.
    """
    from api.job_commands import execute  # noqa: PLC0415 - As above.

    metadata = _json_argument(first)
    if not isinstance(metadata, dict):
        raise Failed(f"--metadata must be a JSON object, not {first[:40]}")
    _choose(database_url, environment, actor)
    try:
        code = execute(command, task=task, run_id=run_id, tags=tags or (), first=metadata)
    except ValueError as error:
        raise Failed(str(error)) from error
    sys.exit(code)


@spool.command("status")
def spool_status(as_json: AsJson = False) -> None:
    """Show what could not be delivered yet, and what was set aside."""
    from api.job_commands import count_members, spool_status  # noqa: PLC0415 - As above.

    counts = spool_status()
    if as_json:
        _print_json([count_members(count) for count in counts])
        return
    if not counts:
        print("nothing waits")
    for count in counts:
        members = count_members(count)
        since = f" since {_local(members['oldest'])}" if members["oldest"] else ""
        print(
            f"{count.file}: {count.waiting:,} requests ({count.operations:,} operations, {count.bytes:,} bytes) "
            f"wait for {without_controls(count.destination)}{since}"
        )
        for run_id, reason in count.set_aside:
            print(f"  set aside: run {run_id}: {without_controls(reason)}")


@spool.command("send")
def spool_send(database_url: DatabaseUrl = None, environment: EnvironmentName = None) -> None:
    """Deliver what waits; exit code 1 where something still waits or was set aside."""
    from api.job_commands import send_spool, spool_status  # noqa: PLC0415 - As above.

    _choose(database_url, environment, None)
    delivered, left, aside, problem = send_spool()
    print(f"{delivered:,} delivered, {left:,} wait, {aside:,} set aside")
    others = {count.destination for count in spool_status() if count.waiting}
    if problem is not None:
        raise Failed(f"not all could be sent: {problem}")
    if left or aside:
        raise Failed("see 'run-ledger spool status'")
    for destination in sorted(others):
        print(f"for another destination, set RUN_LEDGER_URL or RUN_LEDGER_DATABASE_URL to it: {destination}")


@spool.command("discard")
def spool_discard() -> None:
    """Forget what was set aside; what waits is not touched."""
    from api.job_commands import discard_set_aside  # noqa: PLC0415 - As above.

    print(f"{discard_set_aside():,} requests that were set aside are gone")


@keys.command("create")
def create_key(
    name: Annotated[
        str | None, typer.Option(help="What the history shows as the actor; the key's id unless given.")
    ] = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="What it may do: read, write, erase or admin, each alone or such as read:tasks:import or "
            "write:tags:nightly; may be given several times. Without it: read and write.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="30d, 12h, or a time such as 2027-01-31T00:00:00Z.")
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Make an API key. Its last line of output is the key, which is shown this once."""
    from api.key_commands import create_key, key_members  # noqa: PLC0415 - Loads the database driver.

    settings = _database_settings(database_url, environment)
    made = create_key(settings, name, scopes or ("read", "write"), expires, _now())
    members = key_members(made.key, _now())
    if as_json:
        _print_json({**members, "key": made.text})
        return
    until = f"until {_local(members['expiresAt'])}" if members["expiresAt"] else "until it is revoked"
    print(
        f"key {made.key.id} of environment {made.key.environment.name}, called {without_controls(made.key.name)}, "
        f"may {without_controls(', '.join(made.key.scopes))}, {until}"
    )
    if made.is_first:
        print("it is the first one: from now on every request to this ledger needs a key")
    print("keep it now, it is not shown again:")
    print(made.text)


@keys.command("list")
def list_keys(
    as_json: AsJson = False, database_url: DatabaseUrl = None, environment: EnvironmentName = None
) -> None:
    """Show the API keys of all environments, or of one; never their secrets."""
    from api.key_commands import key_members, list_keys  # noqa: PLC0415 - As above.

    now = _now()
    found = [key_members(key, now) for key in list_keys(_database_settings(database_url, environment))]
    if as_json:
        _print_json(found)
        return
    columns = ("id", "environment", "name", "state", "created", "last used", "scopes")
    _print_table(columns, [_key_cells(key) for key in found])


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as 'keys list' shows it.")],
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Let an API key open nothing any more, from the next request on. It cannot be undone."""
    from api.key_commands import key_members, revoke_key  # noqa: PLC0415 - As above.

    members = key_members(revoke_key(_database_settings(database_url, environment), key_id), _now())
    if as_json:
        _print_json(members)
        return
    print(f"key {members['id']} of environment {members['environment']} is revoked")


def _key_cells(key: dict[str, Any]) -> tuple[str, ...]:
    if key["revokedAt"]:
        state = f"revoked {_local(key['revokedAt'])}"
    elif key["expiresAt"]:
        state = f"{'expires' if key['isValid'] else 'expired'} {_local(key['expiresAt'])}"
    else:
        state = "valid"
    used = _local(key["lastUsedAt"]) if key["lastUsedAt"] else "never"
    scopes = ", ".join(key["scopes"])
    return (key["id"], key["environment"], key["name"], state, _local(key["createdAt"]), used, scopes)


def _database_settings(database_url: str | None, environment: str | None) -> Settings:
    """Settings for what only the database itself can do."""
    settings = load_settings(database_url=database_url, environment=environment)
    if settings.url is not None and "database_url" not in settings.model_fields_set:
        raise BadSettings(
            "RUN_LEDGER_URL names a server, but keys are made in its database; "
            "run this where the database is, and name it with --database-url"
        )
    return settings


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


def _json_argument(text: str) -> Any:
    try:
        return values.canonical(values.parse(text))
    except BadValue as error:
        raise Failed(f"the value cannot be kept: {error}") from error
    except BadJson as error:
        hint = f"""; put text in double quotes: '"{text}"'""" if text.replace("_", "").isalnum() else ""
        raise Failed(f"the value is not JSON: {error}{hint}") from error


def _choose(database_url: str | None, environment: str | None, actor: str | None) -> None:
    """Let this process, and those that it starts, report as the options say."""
    options = {"database_url": database_url, "environment": environment, "actor": actor}
    settings = load_settings(**options)
    _refuse_two_places(settings, database_url)
    os.environ.update({f"{PREFIX}{name.upper()}": value for name, value in options.items() if value is not None})


def _refuse_two_places(settings: Settings, database_url: str | None) -> None:
    if settings.url is not None and database_url is not None:
        raise BadSettings("--database-url names a database and RUN_LEDGER_URL a server; leave one of them out")


def _run(
    work: Callable[[Client], Coroutine[Any, Any, None]], database_url: str | None, environment: str | None
) -> None:
    settings = load_settings(database_url=database_url, environment=environment)
    _refuse_two_places(settings, database_url)
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


def _now() -> Microseconds:
    return time.time_ns() // 1_000


def _local(moment: str) -> str:
    """A time of the wire in this machine's zone, to the second."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def main() -> None:
    """Run the command line; what went wrong is one line on standard error and exit code 1."""
    try:
        _check_arguments(sys.argv[1:])
        cli()
    except (BadSettings, Failed, LedgerError, UnusableDatabase, UnusableSecret) as error:
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
