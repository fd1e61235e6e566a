"""The command line: run-ledger."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from api import (
    backup_commands,
    finding_commands,
    history_commands,
    job_commands,
    key_commands,
    progress_commands,
    proof_commands,
    watch_commands,
)
from api.client import Client, Failed, path_of, without_controls
from api.terminal import AsJson, DatabaseUrl, EnvironmentName, RunArgument, pretty_json
from api.terminal import compact_json as _ascii
from api.terminal import print_json as _print_json
from api.terminal import run_work as _run
from ledger.errors import LedgerError, UnusableDatabase
from ledger.master import UnusableSecret
from ledger.settings import BadSettings, load_settings

WORKERS_MAX = 64  # processes; more than a machine that needs no second one has processors

cli = typer.Typer(
    name="run-ledger",
    help="Live metadata for running jobs, with the full history of every change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.", min=0, max=65_535)] = 8420,
    workers: Annotated[
        int, typer.Option(help="Processes that serve it together, on one database.", min=1, max=WORKERS_MAX)
    ] = 1,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the ledger over HTTP. Prints the address when it is ready; Ctrl-C stops it."""
    from api.server import serve as run_server  # noqa: PLC0415 - Other commands need no server.
    from api.workers import serve_together  # noqa: PLC0415
    from ledger.store import shown  # noqa: PLC0415

    settings = load_settings(database_url=database_url)
    of_workers = "" if workers == 1 else f", {workers} workers"

    def ready(url: str) -> None:
        print(
            f"Run Ledger is ready at {url} ({shown(settings.database_url)}{of_workers})",
            flush=True,
        )

    if workers == 1:
        run_server(settings, host, port, ready)
    else:
        serve_together(settings, host, port, workers, ready)


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


@cli.command()
def migrate(
    distribute: Annotated[
        bool,
        typer.Option("--distribute", help="Then distribute the tables by environment (PostgreSQL with Citus)."),
    ] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Bring the database's tables up to date. On SQLite, a server does this by itself when it starts."""
    from ledger import store  # noqa: PLC0415 - Loads the database driver.

    url = load_settings(database_url=database_url).database_url
    store.migrate(url)
    print(f"{store.shown(url)} is up to date")
    if distribute:
        tables = store.distribute(url)
        print(f"distributed now: {', '.join(tables)}" if tables else "every table was distributed already")


finding_commands.add_to(cli)
history_commands.add_to(cli)
progress_commands.add_to(cli)
watch_commands.add_to(cli)
job_commands.add_to(cli)
proof_commands.add_to(cli)
backup_commands.add_to(cli)
key_commands.add_to(cli)


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
