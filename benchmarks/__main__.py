"""Run the benchmarks: `python -m benchmarks --help`."""

import sys
from collections.abc import Callable, Iterable, Sequence

from benchmarks import finding, growth, handle, http, past, report, runs, storage
from benchmarks.options import Options, parse
from benchmarks.report import Case
from benchmarks.servers import ROOT

BENCHMARKS: dict[str, Callable[[Options], Iterable[Case]]] = {
    "http": http.main,
    "growth": growth.main,
    "handle": handle.main,
    "past": past.main,
    "finding": finding.main,
    "runs": runs.main,
    "storage": storage.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks and print their cases; 1 if any case is invalid, else 0."""
    options = parse(arguments, list(BENCHMARKS))
    environment = report.describe(options.directory)
    cases = []
    for name, run in BENCHMARKS.items():
        if options.only in (None, name):
            for case in run(options):
                report.emit(case, environment, options.results)
                cases.append(case)
    table = report.render(cases, environment)
    print(f"\n{table}")
    if options.write:
        report.write_between_markers(ROOT / "benchmarks" / "README.md", table)
    return 0 if all(case.valid for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
