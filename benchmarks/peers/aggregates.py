"""
Question: how fast is one event made durable in process, next to the `eventsourcing` library?

Workload: an aggregate (here: a run) for each caller, one event with one number, saved in a transaction of its own;
the library from 1 and 16 threads, since it is synchronous, the product from 1 and 16 tasks. The library keeps an
event with its version; the product also keeps actor, salt and chain, and the metadata after it.
Durability: SQLite with WAL and synchronous=FULL, which the library sets or leaves so; PostgreSQL with its
defaults.
"""

from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from eventsourcing.application import Application  # type: ignore[import-not-found,unused-ignore]
from eventsourcing.domain import Aggregate, event  # type: ignore[import-not-found,unused-ignore]

from benchmarks import cores
from benchmarks.options import Options
from benchmarks.peers import embedded
from benchmarks.peers.embedded import Embedded
from benchmarks.peers.postgres import Postgres
from benchmarks.peers.rates import Rate, compare, of_calls
from benchmarks.report import Case
from projections.operations import Operation, Set

CALLERS = (1, 16)


class Run(Aggregate):  # type: ignore[misc,unused-ignore]
    """A run as an aggregate."""

    def __init__(self) -> None:
        self.progress = 0

    @event("ProgressSet")  # type: ignore[untyped-decorator,unused-ignore]
    def set_progress(self, progress: int) -> None:
        """Set the progress."""
        self.progress = progress


class Saves:
    """The library on one database."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._application: Any = Application(env=environment)
        self._runs = [Run() for _ in range(max(CALLERS))]
        for run in self._runs:
            self._application.save(run)
        self._numbers = count()

    def close(self) -> None:
        """Let the database go."""
        self._application.close()

    def measure(self, callers: int, options: Options) -> Rate:
        """How often one event is saved."""
        before = self._versions()
        rate = of_calls(self._save, callers, options)
        problems = () if self._versions() > before else ("nothing was saved",)
        return Rate(rate.per_s, rate.p50_ms, rate.p99_ms, (*rate.problems, *problems))

    def _save(self, caller: int) -> None:
        run = self._runs[caller]
        run.set_progress(next(self._numbers))
        self._application.save(run)

    def _versions(self) -> int:
        stored = (self._application.repository.get(run.id) for run in self._runs)
        return sum(run.version for run in stored)


def main(options: Options, folder: Path, postgres: Postgres) -> Iterator[Case]:
    """Measure both engines."""
    file = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "aggregates.db")}
    with cores.pinned(cores.for_server()):
        with closing(Saves(file)) as saves, embedded.sqlite(folder, "product") as product:
            yield from _cases("SQLite", saves, product, options)
        with (
            closing(Saves(_environment(postgres.add("aggregates")))) as saves,
            embedded.postgresql(postgres, folder, "product_beside_aggregates") as product,
        ):
            yield from _cases("PostgreSQL", saves, product, options)


def _environment(postgres: Postgres) -> dict[str, str]:
    parts = postgres.parts
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts["dbname"],
        "POSTGRES_HOST": parts["host"],
        "POSTGRES_PORT": "5432",
        "POSTGRES_USER": parts["user"],
        "POSTGRES_PASSWORD": "any",  # The server asks for none.
    }


def _cases(engine: str, saves: Saves, product: Embedded, options: Options) -> Iterator[Case]:
    product.make_runs(max(CALLERS))
    numbers = count()

    def operation() -> list[Operation]:
        return [Set(key="progress", value=next(numbers))]

    for callers in CALLERS:
        yield compare(
            f"eventsourcing {version('eventsourcing')} on {engine}: save one event",
            lambda callers=callers: saves.measure(callers, options),  # type: ignore[misc]
            lambda callers=callers: product.changes(operation, callers, options),  # type: ignore[misc]
            options,
            {"callers": callers, "product_on": product.engine},
        )
