"""The commands about the past of a run: history, diff and explain."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from api.client import Client, path_of
from api.terminal import (
    AsJson,
    DatabaseUrl,
    EnvironmentName,
    RunArgument,
    compact_json,
    local_time,
    one_line,
    print_json,
    print_table,
    run_work,
)
from projections.diff import Change, changes
from projections.metadata import Absent
from projections.paths import Path

VALUE_CHARACTERS_MAX = 24  # of a value in a table on a terminal, so that the one behind it can be seen

KeyOption = Annotated[str | None, typer.Option(help="Only changes to this key or path.")]


class Order(StrEnum):
    """Which end of a history comes first."""

    ASC = "asc"
    DESC = "desc"


def add_to(cli: typer.Typer) -> None:
    """Make these commands part of *cli*."""
    cli.command()(history)
    cli.command()(diff)
    cli.command()(explain)


def history(
    run_id: RunArgument,
    key: KeyOption = None,
    actor: Annotated[str | None, typer.Option(help="Only changes that this actor made.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Only these types, separated by commas, such as metadata.set.")
    ] = None,
    attempt: Annotated[int | None, typer.Option(help="Only what this attempt did.", min=1)] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only what was recorded at or after this time.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Only what was recorded at or before this time.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most this many events.", min=1, max=1_000)] = 100,
    after: Annotated[int | None, typer.Option(help="Begin behind this version.", min=0)] = None,
    before: Annotated[int | None, typer.Option(help="End in front of this version, instead.", min=0)] = None,
    order: Annotated[Order, typer.Option(help="Oldest first or newest first.")] = Order.ASC,
    refusals: Annotated[bool, typer.Option("--refusals", help="Show what was refused, too.")] = False,
    show_values: Annotated[
        bool, typer.Option("--values", help="Show the values before and after, and the size of the metadata.")
    ] = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Show what happened to a run: every event, with when and who."""
    query = {
        "key": key,
        "actor": actor,
        "type": type_,
        "attempt": attempt,
        "from": since,
        "to": until,
        "limit": limit,
        "after": after,
        "before": before,
        "order": order.value,
        "include": "refusals" if refusals else None,
    }

    async def work(client: Client) -> None:
        page = await client.get(path_of(run_id, "metadata/history"), query)
        if as_json:
            print_json(page)
            return
        if show_values:
            columns = ("version", "recorded", "actor", "event", "bytes", "before -> after")
            print_table(columns, [_value_cells(event) for event in page["data"]])
        else:
            rows = [event_cells(event) for event in page["data"]]
            print_table(("version", "recorded", "actor", "event", "what"), rows)
        _say_more(page, "next", "--after")

    run_work(work, database_url, environment)


def diff(
    run_id: RunArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another run, to compare with.", show_default=False)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="VERSION|TIME", help="The first state. (1, of two runs the current one.)"),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="VERSION|TIME", help="The second state. (The current one.)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON Patch (RFC 6902).")] = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Show what differs between two states of a run, or between two runs."""
    first = "1" if start is None and other is None else start

    async def work(client: Client) -> None:
        old = await client.get(path_of(run_id), _point(first))
        new = await client.get(path_of(other or run_id), _point(end))
        found = changes(old["metadata"], new["metadata"])
        if as_json:
            print_json([change.operation() for change in found])
            return
        if not sys.stdout.isatty():
            for change in found:
                print("\t".join((one_line(_key(change)), *_sides(change))))
            return
        console = Console()
        target = f"{other}, version {new['version']}" if other else new["version"]
        head = f"{run_id}, version {old['version']} -> {target}"
        console.print(Text(head, style="dim"))
        for change in found:
            line = Text(f"{one_line(_key(change))}: ", style="bold")
            console.print(line + Text(_arrow(*_sides(change)), style="not bold"), soft_wrap=True)
        if not found:
            console.print("No difference.")

    run_work(work, database_url, environment)


def explain(
    run_id: RunArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key, or a path such as $.status.state.")],
    version: Annotated[int | None, typer.Option(help="Its value after this many events.", min=1)] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Its value at a time, such as 2026-01-31T14:05:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most this many events, the last ones.", min=1, max=1_000)] = 100,
    before: Annotated[int | None, typer.Option(help="Only events in front of this version.", min=0)] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Show why a value is what it is: the events that made it, and those that a later one wiped."""
    query = {"key": key, "version": version, "at": at, "limit": limit, "before": before}

    async def work(client: Client) -> None:
        answer = await client.get(path_of(run_id, "metadata/explain"), query)
        if as_json:
            print_json(answer)
            return
        if sys.stdout.isatty():
            value = compact_json(answer["value"]) if "value" in answer else "not there"
            line = Text(f"{one_line(key)} is ") + Text(value, style="bold")
            console = Console()
            console.print(line, soft_wrap=True)
            console.print(Text(f"{run_id}, version {answer['version']}", style="dim"))
        columns = ("version", "recorded", "actor", "attempt", "through", "event", "wiped", "value after")
        print_table(columns, [_step_cells(event) for event in answer["events"]])
        _say_more(answer, "previous", "--before")

    run_work(work, database_url, environment)


def event_cells(event: dict[str, Any]) -> tuple[str, ...]:
    """An event of the wire as the cells of a table."""
    key, value = event.get("key", ""), compact_json(event.get("value"))
    match event["type"]:
        case "refused":
            what = event["reason"]
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
            what = f"task {event['data']['task']}, {compact_json(event['data']['metadata'])}"
        case _:
            what = ", ".join(f"{name} {compact_json(member)}" for name, member in event["data"].items())
    return (str(event["version"]), local_time(event["recordedAt"]), event["actor"], event["type"], what)


def _value_cells(event: dict[str, Any]) -> tuple[str, ...]:
    """An event with its values: key, before and after in cells of their own in a pipe, in one on a terminal."""
    version, recorded, actor, kind, what = event_cells(event)
    key = str(event.get("key", ""))
    size = f"{event['sizeBytes']:,}" if "sizeBytes" in event else ""
    before, after = (compact_json(event[name]) if name in event else "" for name in ("before", "after"))
    if kind == "refused":
        after = what
    if not sys.stdout.isatty():
        return (version, recorded, actor, kind, size, key, before, after)
    change = after if kind == "refused" or not (before or after) else _arrow(_shortened(before), _shortened(after))
    return (version, recorded, actor, kind, size, f"{key}: {change}" if key else change)


def _step_cells(event: dict[str, Any]) -> tuple[str, ...]:
    through = f"{event['sourceRun']}, attempt {event['sourceAttempt']}" if "sourceRun" in event else ""
    return (
        str(event["version"]),
        local_time(event["recordedAt"]),
        event["actor"],
        str(event["attempt"]),
        through,
        event["type"],
        f"by {event['wipedBy']}" if "wipedBy" in event else "",
        compact_json(event["valueAfter"]) if "valueAfter" in event else "",
    )


def _point(text: str | None) -> dict[str, Any]:
    """The query of a state that is named by a version or a time."""
    if text is None:
        return {}
    return {"version": text} if text.isdecimal() else {"at": text}


def _key(change: Change) -> str:
    """The place of a change as a user would write it."""
    return str(Path(change.names, literal=len(change.names) == 1))


def _sides(change: Change) -> tuple[str, str]:
    before, after = ("" if isinstance(value, Absent) else compact_json(value) for value in change[2:])
    return before, after


def _arrow(before: str, after: str) -> str:
    return f"{before or '(nothing)'} -> {after or '(nothing)'}"


def _shortened(text: str) -> str:
    """A value that leaves room for those behind it."""
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[: VALUE_CHARACTERS_MAX - 3]}..."


def _say_more(page: dict[str, Any], direction: str, option: str) -> None:
    if direction in page["pagination"] and sys.stdout.isatty():
        print(f"There is more: {option} {page['pagination'][direction]}")
