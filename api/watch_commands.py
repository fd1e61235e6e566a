"""The command that watches: one run to its end, or all runs of a task."""

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from api.client import Client, Failed, Message, path_of, without_controls
from api.finding_commands import Filters, conditions
from api.history_commands import event_cells
from api.terminal import (
    DatabaseUrl,
    EnvironmentName,
    compact_json,
    local_time,
    one_line,
    pretty_json,
    run_work,
)
from projections.events import load_body
from projections.history import metadata_after
from projections.values import JsonObject

LAST_EVENTS = 5  # events that are shown below the metadata of a run
RUNS_SHOWN = 20  # runs of a task that are shown, those that changed last
REFRESHES = 8  # times a second that the screen is drawn at most
AUDIT_S = 1.0  # seconds between two audits of progress
AUDIT_SHARE = 0.1  # and of the time at most this part is spent on them
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


def add_to(cli: typer.Typer) -> None:
    """Make the command part of *cli*."""
    cli.command()(watch)


def watch(
    context: typer.Context,
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="The run's id; or name a task.",
            envvar="RUN_LEDGER_RUN_ID",
            show_envvar=False,
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Watch all runs of this task.")] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="Only runs that have this tag; may be given several times.")
    ] = None,
    filters: Filters = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Watch a run until it finishes, or the runs of a task until Ctrl-C; goes on after a server restart."""
    follows_many = task is not None or bool(tags) or bool(filters)
    source = context.get_parameter_source("run_id")
    if follows_many and source is not None and source.name == "ENVIRONMENT":
        run_id = None  # Within a run it is only the default; one that was named is refused below.
    if (run_id is None) != follows_many:
        raise typer.BadParameter("watch takes a run, or --task, --tag and --filter: run-ledger watch RUN")

    wanted = conditions(filters or [])

    async def work(client: Client) -> None:
        if run_id is not None:
            await _watch_run(client, run_id, as_json=as_json)
        else:
            await _watch_runs(client, task, tags or [], wanted, as_json=as_json)

    try:
        run_work(work, database_url, environment)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not find that out again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass
class _Run:
    """
    What is known of a run.

    Attributes:
        last: Its last events, as cells.
        audit: What the progress audit said last, empty before.
        is_new: Something came that no audit has seen.
    """

    run_id: str
    version: int = 0
    status: str = ""
    task: str = ""
    updated: str = ""
    metadata: JsonObject = field(default_factory=dict)
    last: deque[tuple[str, ...]] = field(default_factory=lambda: deque(maxlen=LAST_EVENTS))
    audit: dict[str, Any] = field(default_factory=dict)
    is_new: bool = True

    def restart(self, state: dict[str, Any]) -> None:
        """Take over a whole state."""
        self.version, self.status, self.updated = int(state["version"]), state["status"], state["updatedAt"]
        self.task = state.get("task") or state.get("taskIdentifier", "")
        self.metadata = state["metadata"]
        self.is_new = True

    def take(self, event: dict[str, Any]) -> bool:
        """Take one more event; False where the state has to be asked for: events are missing, or were redacted."""
        if event["version"] <= self.version:
            return True
        if event["version"] != self.version + 1:
            return False
        kind, data = event["type"], event["data"]
        if kind == "run.erased" or "erased" in data:
            return False  # What is left of the metadata has to be asked for.
        if kind.startswith("metadata.") or kind == "run.created":
            self.metadata = metadata_after(self.metadata, load_body(kind, json.dumps(data)))
        self.version, self.updated = event["version"], event["recordedAt"]
        if kind.startswith("run."):
            self.status, self.task = data.get("status", self.status), data.get("task", self.task)
        self.last.append(event_cells(event))
        self.is_new = True
        return True


async def _watch_run(client: Client, run_id: str, *, as_json: bool) -> None:
    seen = _Run(run_id)
    query = {"snapshot": 1, "until": "finished"}
    show = _printer(as_json, event_cells)
    status = ""
    async with aclosing(client.live(path_of(run_id, "metadata/live"), query)) as messages:
        with _Screen(client, lambda: _run_view(seen), lambda: [seen], is_used=not as_json) as screen:
            async for message in messages:
                if message.kind == "snapshot":
                    seen.restart(message.data)
                elif message.kind == "message" and not seen.take(message.data):
                    seen.restart(await client.get(path_of(run_id, "", "v3")))
                elif message.kind == "finished":
                    status = message.data["status"]
                    if as_json:
                        show(message)
                    break
                if not screen.is_used:
                    show(message)
            await screen.finish()
    if not as_json:
        if not status:  # The server ended between the run's end and saying so.
            status = (await client.get(path_of(run_id, "", "v3")))["status"]
        print(f"{run_id} finished: {status}, version {seen.version}")


async def _watch_runs(
    client: Client, task: str | None, tags: list[str], wanted: dict[str, list[str]], *, as_json: bool
) -> None:
    runs: dict[str, _Run] = {}
    show = _printer(as_json, lambda event: (event["runId"], *event_cells(event)))
    async with aclosing(client.live("/api/v1/events/live", {"task": task, "tag": tags, **wanted})) as messages:
        with _Screen(client, lambda: _runs_view(runs), runs.values, is_used=not as_json) as screen:
            async for message in messages:
                if not screen.is_used:
                    show(message)
                elif message.kind == "open":
                    await _find_runs(client, task, tags, wanted, runs)
                elif message.kind == "message":
                    await _follow(client, runs, message.data)


async def _find_runs(
    client: Client, task: str | None, tags: list[str], wanted: dict[str, list[str]], runs: dict[str, _Run]
) -> None:
    """The newest runs as they are now."""
    query = {
        "filter[taskIdentifier]": None if task is None else json.dumps([task]),
        "filter[tag]": json.dumps(tags) if tags else None,  # Any of them; the list knows no other way.
        **wanted,
        "page[size]": RUNS_SHOWN,
    }
    page = await client.get("/api/v1/runs", query)
    for state in reversed(page["data"]):
        if task in {None, state["taskIdentifier"]} and {*tags} <= {*state["tags"]}:
            runs.setdefault(state["id"], _Run(state["id"])).restart(state)


async def _follow(client: Client, runs: dict[str, _Run], event: dict[str, Any]) -> None:
    """Take an event of any run; the one that changed last stands last."""
    run = runs.pop(event["runId"], None) or _Run(event["runId"])
    if not run.take(event):
        run.restart(await client.get(path_of(run.run_id, "", "v3")))
    runs[run.run_id] = run
    while len(runs) > RUNS_SHOWN:
        del runs[next(iter(runs))]


def _printer(as_json: bool, cells: Callable[[dict[str, Any]], tuple[str, ...]]) -> Callable[[Message], None]:
    """Print what comes as lines, each as soon as it is there."""

    def show(message: Message) -> None:
        if message.kind == "open":
            return
        data = message.data
        if as_json:
            print(json.dumps(data), flush=True)
            return
        if message.kind == "snapshot":
            row: tuple[str, ...] = (
                str(data["version"]),
                local_time(data["updatedAt"]),
                "",
                "snapshot",
                f"{data['status']} {compact_json(data['metadata'])}",
            )
        else:
            row = cells(data)
        print("\t".join(map(one_line, row)), flush=True)

    return show


class _Screen:
    """
    A picture on a terminal that follows what is known; nothing where there is no terminal.

    Args:
        client: Answers audits of progress.
        view: The picture.
        runs: What is in it.
        is_used: Whether it is wanted.
    """

    def __init__(
        self,
        client: Client,
        view: Callable[[], RenderableType],
        runs: Callable[[], Any],
        *,
        is_used: bool,
    ) -> None:
        self.is_used = is_used and sys.stdout.isatty()
        self._client = client
        self._runs = runs
        self._live = Live(get_renderable=view, console=Console(), refresh_per_second=REFRESHES)
        self._audits: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self.is_used:
            self._audits = asyncio.create_task(self._audit_for_ever())
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._audits is not None:
            self._audits.cancel()
            self._live.stop()

    async def finish(self) -> None:
        """Show how it ended."""
        if self._audits is not None:
            self._audits.cancel()
            await self._audit()

    async def _audit_for_ever(self) -> None:
        while True:
            begun = time.monotonic()
            await self._audit()
            await asyncio.sleep(max(AUDIT_S, (time.monotonic() - begun) / AUDIT_SHARE))

    async def _audit(self) -> None:
        for run in [run for run in self._runs() if run.is_new]:
            run.is_new = False
            run.audit = await _audit(self._client, run.run_id)


async def _audit(client: Client, run_id: str) -> dict[str, Any]:
    """What the progress audit says of a run; nothing where the server knows none, or does not answer now."""
    try:
        audit = await client.get(path_of(run_id, "metadata/progress"))
    except Failed:
        return {}
    return audit if isinstance(audit, dict) else {}


def _fraction(run: _Run) -> float | None:
    """How far a run is, from 0 to 1: as the audit says, else as `progress` or `status.progress` does."""
    current = run.audit.get("current")
    status = run.metadata.get("status")
    found = current.get("fraction") if isinstance(current, dict) else None
    for value in (
        found,
        run.metadata.get("progress"),
        status.get("progress") if isinstance(status, dict) else None,
    ):
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
    return None


def _run_view(run: _Run) -> RenderableType:
    if not run.version:
        return Text(f"{run.run_id}: waiting for the server", style="dim")
    parts: list[RenderableType] = [
        Text.assemble(
            (run.run_id, "bold"), f"  {one_line(run.task)}  ", (run.status, "cyan"), f"  version {run.version}"
        )
    ]
    fraction = _fraction(run)
    if fraction is not None:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1, completed=fraction, width=40), f"{fraction:.0%}")
        parts.append(bar)
    if run.audit.get("verdict"):
        parts.append(Text(without_controls(run.audit["verdict"]), style="dim"))
    parts.append(pretty_json(run.metadata))
    parts.extend(
        Text("  ".join(map(one_line, cells)), style="dim", no_wrap=True, overflow="ellipsis")
        for cells in [*run.last]
    )
    return Group(*parts)


def _runs_view(runs: dict[str, _Run]) -> RenderableType:
    if not runs:
        return Text("no such run yet", style="dim")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("run", "status", "progress", "", "version", "updated", "last change"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for run in reversed([*runs.values()]):
        fraction = _fraction(run)
        table.add_row(
            run.run_id,
            run.status,
            "" if fraction is None else ProgressBar(total=1, completed=fraction, width=20),
            "" if fraction is None else f"{fraction:.0%}",
            str(run.version),
            local_time(run.updated)[11:],
            Text(one_line(run.last[-1][-1]) if run.last else "", style="dim"),
        )
    return table
