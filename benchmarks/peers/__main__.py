"""Run the benchmarks beside the peers: `make bench-peers`, or `python -m benchmarks.peers --help`."""

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import report
from benchmarks.options import Options, parse
from benchmarks.peers import aggregates, beside_noop, hot_run, postgres, raw, tracking
from benchmarks.peers.plot import Bar, draw
from benchmarks.peers.postgres import Postgres
from benchmarks.report import Case, Figure
from benchmarks.servers import ROOT

PACKAGES = ("mlflow", "eventsourcing", "asyncpg", "psycopg", "sqlalchemy")
PICTURE = ROOT / "benchmarks" / "peers" / "writes.svg"


Question = Callable[[Options, Path, Postgres], Iterable[Case]]

QUESTIONS: dict[str, Question] = {
    "noop": beside_noop.main,
    "hot-run": hot_run.main,
    "mlflow": lambda options, folder, _: tracking.main(options, folder),
    "eventsourcing": aggregates.main,
    "raw": raw.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen questions and print their cases; 1 if any case is invalid, else 0."""
    options = parse(arguments, list(QUESTIONS))
    cases = []
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as directory:
        Path(directory).chmod(0o755)  # PostgreSQL runs as a user of its own if this is root.
        with postgres.running(Path(directory)) as database:
            environment = describe(options.directory, database)
            for name, question in QUESTIONS.items():
                if options.only not in (None, name):
                    continue
                folder = Path(directory) / name
                folder.mkdir()
                for case in question(options, folder, database):
                    report.emit(case, environment, options.results)
                    cases.append(case)
    table = report.render(cases, environment)
    print(f"\n{table}")
    if options.write:
        report.write_between_markers(ROOT / "benchmarks" / "README.md", table, report.PEERS)
        if options.only is None:
            PICTURE.write_text(picture(cases), encoding="utf-8")
    return 0 if all(case.valid for case in cases) else 1


def describe(directory: Path, database: Postgres) -> dict[str, Figure]:
    """Describe the machine and all that is compared."""
    versions = {name: version(name) for name in PACKAGES}
    settings = {f"postgresql {name}": value for name, value in database.settings.items()}
    return {**report.describe(directory), **versions, **settings}


def picture(cases: Iterable[Case]) -> str:
    """Draw the main figure: durable writes a second over HTTP."""
    bars = []
    for case in cases:
        figures, name = case.figures, case.name
        if case.benchmark == beside_noop.SQLITE and name.startswith("durable writes"):
            own = f"Run Ledger, {name.removeprefix('durable writes, ')}"
            bars.append(Bar(own, _rate(figures, "product"), is_own=True))
            if name == "durable writes, a run for each connection":
                bars.append(Bar("no-op, nothing written", _rate(figures, "noop")))
                bars.append(Bar("least possible durable write", _rate(figures, "least")))
        elif name.startswith("compare and swap"):
            waits = "without waits" if name.endswith("at once") else "with waits"
            bars.append(Bar(f"{name.partition(',')[0]}, {waits}", _rate(figures, "peer")))
        elif "set a tag" in name:
            bars.append(Bar(name, _rate(figures, "peer")))
    bars.sort(key=lambda bar: bar.value, reverse=True)
    return draw(
        "Durable writes a second over HTTP",
        "server on one core, 64 connections (MLflow 16); only the no-op does not wait for the disk; logarithmic",
        bars,
    )


def _rate(figures: Mapping[str, Figure], side: str) -> float:
    return float(figures.get(f"{side}_per_s", 1))  # A case that measured nothing has no rates.


if __name__ == "__main__":
    sys.exit(main())
