"""What a benchmark found: a JSON line and a row of a table for each case, and the machine it was found on."""

import json
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from benchmarks import cores
from benchmarks.servers import ROOT

OWN, PEERS = "results", "peers"  # the two tables of the README of the benchmarks
HEADING = "### "  # what the name of a benchmark stands behind
FSYNCS = 50  # writes to take the median of

Figure = float | int | str


@dataclass(frozen=True, slots=True)
class Case:
    """
    One row: what was asked of which workload, and the answer.

    Attributes:
        benchmark: Name of the module that asked.
        name: The workload as a sentence.
        figures: Value by name in the order of the columns; a name ends in its unit, as in `product_p99_ms`.
        problems: Why the figures must not be believed; empty for a valid case.
    """

    benchmark: str
    name: str
    figures: Mapping[str, Figure]
    problems: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether nothing went wrong while the figures were taken."""
        return not self.problems


def describe(directory: Path) -> dict[str, Figure]:
    """Describe the machine, the versions and the commit, and how long a durable write to *directory* takes."""
    return {
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "placement": cores.placement(),
        "fsync_ms": round(_fsync_ms(directory), 3),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "uvicorn": version("uvicorn"),
        "starlette": version("starlette"),
    }


def emit(case: Case, environment: Mapping[str, Figure], results: Path) -> None:
    """Print *case* as one JSON line and append the line to *results*; it can be read without any other line."""
    line = json.dumps(
        {
            "benchmark": case.benchmark,
            "case": case.name,
            **case.figures,
            "valid": case.valid,
            "problems": case.problems,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": dict(environment),
        }
    )
    print(line, flush=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def render(cases: Iterable[Case], environment: Mapping[str, Figure]) -> str:
    """A Markdown table for each benchmark, in the order the cases came, each with what it was measured on."""
    described = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in environment.items())
    sections = [
        f"{HEADING}{benchmark}\n\n{described}\n\n{_table(list(rows))}\n"
        for benchmark, rows in groupby(cases, key=lambda case: case.benchmark)
    ]
    return "\n".join(sections)


def write_between_markers(document: Path, text: str, table: str = OWN) -> None:
    """
    Put tables that `render` made between the two markers of *document*, where those of the same benchmarks are.

    Those of others stay; new ones come last.

    Raises:
        ValueError: A marker is missing; nothing is written.
    """
    begin, end = (f"<!-- {table}: {which} -->" for which in ("begin", "end"))
    before, begins, rest = document.read_text(encoding="utf-8").partition(begin)
    kept, ends, after = rest.partition(end)
    if not begins or not ends:
        raise ValueError(f"{document} must hold {begin} and, after it, {end}")
    sections = _sections(kept) | _sections(text)
    tables = "\n".join(sections.values())
    document.write_text(f"{before}{begins}\n\n{tables}\n{ends}{after}", encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    """Tables by their headings."""
    found = (f"{HEADING}{part.strip()}\n" for part in re.split(f"^{HEADING}", text, flags=re.MULTILINE)[1:])
    return {section.partition("\n")[0]: section for section in found}


def _table(cases: Sequence[Case]) -> str:
    # A dict keeps the first order; a case without figures still gets its row.
    names = list(dict.fromkeys(name for case in cases for name in case.figures))
    rows = [["case", *(_heading(name) for name in names), "valid"]]
    for case in cases:
        cells = [_text(case.figures[name]) if name in case.figures else "" for name in names]
        rows.append([case.name, *cells, "yes" if case.valid else f"NO: {'; '.join(case.problems)}"])
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:-1]), "-" * widths[-1]]
    return "\n".join(_row(cells, widths) for cells in (rows[0], rules, *rows[1:]))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, last = cells[0].ljust(widths[0]), cells[-1].ljust(widths[-1])
    between = (cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1], strict=True))
    return f"| {' | '.join((first, *between, last))} |"


def _heading(name: str) -> str:
    return name.replace("_per_s", "/s").replace("_", " ")


def _text(figure: Figure) -> str:
    if isinstance(figure, str):
        return figure.replace("|", "\\|")
    return f"{figure:,.0f}" if isinstance(figure, int) or figure >= 100 else f"{figure:.3g}"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return answer.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fsync_ms(directory: Path) -> float:
    """Median time in milliseconds to append 4 KiB to a file in *directory* and fsync it."""
    taken_ms = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(FSYNCS):
            started = time.perf_counter()
            file.write(bytes(4_096))
            os.fsync(file.fileno())
            taken_ms.append((time.perf_counter() - started) * 1_000)
    return statistics.median(taken_ms)
