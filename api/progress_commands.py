"""The command that audits a run's progress."""

from typing import Annotated

import typer

from api.client import Client, path_of
from api.terminal import (
    AsJson,
    DatabaseUrl,
    EnvironmentName,
    RunArgument,
    local_time,
    one_line,
    print_json,
    run_work,
)


def add_to(cli: typer.Typer) -> None:
    """Make the command part of *cli*."""
    cli.command()(progress)


def progress(
    run_id: RunArgument,
    key: Annotated[str | None, typer.Option(help="Where the progress is; found by itself otherwise.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="fraction, percent, ratio, or the number that means complete.")
    ] = None,
    stall_after: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Seconds without movement that make a stall.")
    ] = None,
    attempt: Annotated[str | None, typer.Option(help="current, all, or the number of one.")] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Audit a run's progress: how far, how fast, where it stood still, when it went backwards."""
    from api.progress_text import audit_lines  # noqa: PLC0415 - Other commands print no audit.

    query = {"key": key, "scale": scale, "stallAfter": stall_after, "attempt": attempt}

    async def work(client: Client) -> None:
        audit = await client.get(path_of(run_id, "metadata/progress"), query)
        if as_json:
            print_json(audit)
            return
        for line in audit_lines(audit, local_time):
            print(one_line(line))

    run_work(work, database_url, environment)
