"""The command that finds runs, and how a terminal spells a filter."""

import re
import sys
from typing import Annotated

import typer

from api.client import Client
from api.terminal import (
    AsJson,
    DatabaseUrl,
    EnvironmentName,
    compact_json,
    local_time,
    print_json,
    print_table,
    run_work,
)

_SIGNS = {"=": "eq", "!=": "ne", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_CONDITION = re.compile(r"(?P<key>.*?)(?P<sign>!=|>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_EXISTENCE = re.compile(r"(?P<key>.*?)(?P<sign>\?|!\?)", re.DOTALL)

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="CONDITION",
        help="Only runs whose metadata is so: KEY=VALUE, or with != > >= < <= in the place of =; KEY? where there "
        "is such a key, KEY!? where there is none; '[KEY][in]=a,b' and the like as over HTTP. A value reads as "
        "JSON, else as text. May be given several times.",
    ),
]
Stalled = Annotated[
    bool | None, typer.Option("--stalled/--not-stalled", help="Only runs that stand still, or not.")
]
Regressed = Annotated[
    bool | None, typer.Option("--regressed/--not-regressed", help="Only runs that went backwards, or not.")
]


def add_to(cli: typer.Typer) -> None:
    """Make the command part of *cli*."""
    cli.command()(runs)


def runs(
    status: Annotated[str | None, typer.Option(help="Only these statuses, separated by commas.")] = None,
    task: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with any of these tags, separated by commas.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="RUN", help="Only runs that this one started.")] = None,
    root: Annotated[str | None, typer.Option(metavar="RUN", help="Only runs below this topmost one.")] = None,
    created_from: Annotated[str | None, typer.Option(metavar="TIME", help="Created then or later.")] = None,
    created_to: Annotated[str | None, typer.Option(metavar="TIME", help="Created then or earlier.")] = None,
    updated_from: Annotated[str | None, typer.Option(metavar="TIME", help="Last changed then or later.")] = None,
    updated_to: Annotated[str | None, typer.Option(metavar="TIME", help="Last changed then or earlier.")] = None,
    filters: Filters = None,
    stalled: Stalled = None,
    regressed: Regressed = None,
    sort: Annotated[
        str | None,
        typer.Option(help="createdAt, -createdAt (the default), updatedAt or -updatedAt; - is newest first."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most this many runs.", min=1, max=100)] = 25,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on behind an earlier page.")] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="As they stood at a time, such as 2026-01-31T14:05:00Z.")
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Find runs, newest first unless sorted otherwise."""
    query: dict[str, str | int | list[str] | None] = {
        "filter[status]": status,
        "filter[taskIdentifier]": task,
        "filter[tag]": tag,
        "filter[parent]": parent,
        "filter[root]": root,
        "filter[createdAt][from]": created_from,
        "filter[createdAt][to]": created_to,
        "filter[updatedAt][from]": updated_from,
        "filter[updatedAt][to]": updated_to,
        "filter[stalled]": _truth(stalled),
        "filter[regressed]": _truth(regressed),
        **conditions(filters or []),
        "sort": sort,
        "page[size]": limit,
        "page[after]": after,
        "asOf": as_of,
    }

    async def work(client: Client) -> None:
        page = await client.get("/api/v1/runs", query)
        if as_json:
            print_json(page)
            return
        rows = [
            (
                run["id"],
                run["taskIdentifier"],
                run["status"],
                local_time(run["updatedAt"]),
                compact_json(run["metadata"]),
            )
            for run in page["data"]
        ]
        print_table(("run", "task", "status", "updated", "metadata"), rows)
        if "next" in page["pagination"] and sys.stdout.isatty():
            print(f"There is more: --after {page['pagination']['next']}")

    run_work(work, database_url, environment)


def conditions(filters: list[str]) -> dict[str, list[str]]:
    """
    Conditions on metadata as a query has them.

    Raises:
        BadParameter: One of them is no condition.
    """
    found: dict[str, list[str]] = {}
    for text in filters:
        name, value = _condition(text)
        found.setdefault(f"filter[metadata]{name}", []).append(value)
    return found


def _condition(text: str) -> tuple[str, str]:
    if text.startswith("[") and "]=" in text:
        name, _, value = text.partition("]=")
        return f"{name}]", value
    existence = _EXISTENCE.fullmatch(text)
    if existence is not None and not _CONDITION.fullmatch(text):
        return f"[{existence['key']}][exists]", "false" if existence["sign"] == "!?" else "true"
    condition = _CONDITION.fullmatch(text)
    if condition is None:
        raise typer.BadParameter(f"{text!r} is no condition; write KEY=VALUE, such as '$.status.state=running'")
    return f"[{condition['key']}][{_SIGNS[condition['sign']]}]", condition["value"]


def _truth(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()
