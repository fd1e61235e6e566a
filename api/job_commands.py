"""The commands for use around and inside jobs: exec, set and spool."""

import os
import sys
from typing import Annotated, Any

import typer

from api.client import Client, Failed, path_of, without_controls
from api.terminal import (
    AsJson,
    DatabaseUrl,
    EnvironmentName,
    choose,
    json_argument,
    local_time,
    print_json,
    run_work,
)


def add_to(cli: typer.Typer) -> None:
    """Make these commands part of *cli*."""
    cli.command("set")(set_key)
    cli.command("exec")(execute)
    spool = typer.Typer(help="What could not be delivered to the ledger yet.", no_args_is_help=True)
    spool.command("status")(spool_status)
    spool.command("send")(spool_send)
    spool.command("discard")(spool_discard)
    cli.add_typer(spool, name="spool")


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
    body: dict[str, Any] = {"operations": [{"type": "set", "key": key, "value": json_argument(value)}]}
    if actor is not None:
        body["actor"] = actor

    async def work(client: Client) -> None:
        answer = await client.send("PUT", path_of(run_id), body)
        if as_json:
            print_json(answer)
            return
        for unapplied in answer["unapplied"]:
            raise Failed(f"nothing was set: {unapplied['reason']}")
        print(
            f"{run_id} is at version {answer['version']}, "
            f"{answer['sizeBytes']:,} of {answer['limitBytes']:,} bytes"
        )

    run_work(work, database_url, environment)


def _set_in_run(
    key: str, value: str, actor: str | None, database_url: str | None, environment: str | None
) -> None:
    from api.jobs import set_in_run  # noqa: PLC0415 - Other commands need no handle.

    if "RUN_LEDGER_RUN_ID" not in os.environ:
        raise typer.BadParameter(
            "which run? write run-ledger set RUN KEY JSON; only within 'run-ledger exec' the run may be left out"
        )
    choose(database_url, environment, actor)
    set_in_run(key, json_argument(value))


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
    from api.jobs import execute  # noqa: PLC0415 - As above.

    metadata = json_argument(first)
    if not isinstance(metadata, dict):
        raise Failed(f"--metadata must be a JSON object, not {first[:40]}")
    choose(database_url, environment, actor)
    try:
        code = execute(command, task=task, run_id=run_id, tags=tags or (), first=metadata)
    except ValueError as error:
        raise Failed(str(error)) from error
    sys.exit(code)


def spool_status(as_json: AsJson = False) -> None:
    """Show what could not be delivered yet, and what was set aside."""
    from api.jobs import count_members, spool_status  # noqa: PLC0415 - As above.

    counts = spool_status()
    if as_json:
        print_json([count_members(count) for count in counts])
        return
    if not counts:
        print("nothing waits")
    for count in counts:
        members = count_members(count)
        since = f" since {local_time(members['oldest'])}" if members["oldest"] else ""
        print(
            f"{count.file}: {count.waiting:,} requests ({count.operations:,} operations, {count.bytes:,} bytes) "
            f"wait for {without_controls(count.destination)}{since}"
        )
        for run_id, reason in count.set_aside:
            print(f"  set aside: run {run_id}: {without_controls(reason)}")


def spool_send(database_url: DatabaseUrl = None, environment: EnvironmentName = None) -> None:
    """Deliver what waits; exit code 1 where something still waits or was set aside."""
    from api.jobs import send_spool, spool_status  # noqa: PLC0415 - As above.

    choose(database_url, environment, None)
    delivered, left, aside, problem = send_spool()
    print(f"{delivered:,} delivered, {left:,} wait, {aside:,} set aside")
    others = {count.destination for count in spool_status() if count.waiting}
    if problem is not None:
        raise Failed(f"not all could be sent: {problem}")
    if left or aside:
        raise Failed("see 'run-ledger spool status'")
    for destination in sorted(others):
        print(f"for another destination, set RUN_LEDGER_URL or RUN_LEDGER_DATABASE_URL to it: {destination}")


def spool_discard() -> None:
    """Forget what was set aside; what waits is not touched."""
    from api.jobs import discard_set_aside  # noqa: PLC0415 - As above.

    print(f"{discard_set_aside():,} requests that were set aside are gone")
