"""What the command line decides for every benchmark."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import ROOT


@dataclass(frozen=True, slots=True)
class Options:
    """
    Choices that hold for a whole run.

    Attributes:
        seconds: Measured time of one measurement; a warm-up of a quarter of it comes first.
        repetitions: Measurements of each server in each case.
        directory: Where databases are made; its disk decides what a durable write costs.
        results: File that gets one JSON line a case.
        only: The one benchmark to run, None for all.
        write: Whether to put the table into the README of the benchmarks.
        large: Whether to measure also what takes minutes to make: a million events, a million runs.
    """

    seconds: float
    repetitions: int
    directory: Path
    results: Path
    only: str | None
    write: bool
    large: bool = False

    @property
    def warm_up_s(self) -> float:
        """Seconds of load before the measured time."""
        return self.seconds / 4


def parse(arguments: Sequence[str] | None, benchmarks: Sequence[str]) -> Options:
    """Read *arguments*, those of the process if None; *benchmarks* are the names that --only takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument("--seconds", type=_positive, default=1.0, help="measured time of one measurement (1)")
    parser.add_argument(
        "--repetitions", type=_at_least_one, default=9, help="measurements per server and case (9)"
    )
    parser.add_argument("--only", choices=benchmarks, help="run one benchmark")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where databases are made"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results.jsonl", help="file to append JSON lines to"
    )
    parser.add_argument(
        "--write", action="store_true", help="replace the table in benchmarks/README.md by that of this run"
    )
    parser.add_argument(
        "--large", action="store_true", help="also measure a million events and a million runs (minutes to make)"
    )
    return Options(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return number


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
