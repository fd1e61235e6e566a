"""How often two sides do the same thing, measured in turn, and a case made of it."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks import load
from benchmarks.http import load_problems
from benchmarks.options import Options
from benchmarks.report import Case, Figure


@dataclass(frozen=True, slots=True)
class Rate:
    """
    What one side did in one turn.

    Attributes:
        per_s: Times a second.
        p50_ms: Median time of one in milliseconds; so for p99_ms.
        problems: Why that must not be believed.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    problems: tuple[str, ...] = ()


Turn = Callable[[], Rate]


def compare(name: str, peer: Turn, product: Turn, options: Options, about: Mapping[str, Figure]) -> Case:
    """
    Measure both sides in turn, *options.repetitions* times.

    Args:
        name: The workload as a sentence.
        peer: A turn of the peer.
        product: A turn of the product.
        options: How often.
        about: Further figures, which the case ends with.
    """
    rounds = [(peer(), product()) for _ in range(options.repetitions)]
    problems = tuple(problem for pair in rounds for side in pair for problem in side.problems)
    if not all(side.per_s for pair in rounds for side in pair):
        return Case("peers", name, dict(about), (*problems, "a side did nothing at all"))
    ratios = [product.per_s / peer.per_s for peer, product in rounds]
    figures = {
        "peer_per_s": statistics.median(peer.per_s for peer, _ in rounds),
        "product_per_s": statistics.median(product.per_s for _, product in rounds),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "peer_p50_ms": statistics.median(peer.p50_ms for peer, _ in rounds),
        "peer_p99_ms": statistics.median(peer.p99_ms for peer, _ in rounds),
        "product_p50_ms": statistics.median(product.p50_ms for _, product in rounds),
        "product_p99_ms": statistics.median(product.p99_ms for _, product in rounds),
    }
    return Case("peers", name, {key: round(value, 3) for key, value in figures.items()} | dict(about), problems)


def of_load(where: str, outcome: load.Outcome) -> Rate:
    """The rate that a load saw; its problems begin with *where*."""
    problems = tuple(load_problems(where, outcome))
    return Rate(outcome.requests_per_s, outcome.p50_ms, outcome.p99_ms, problems)


def of_calls(work: Callable[[int], None], callers: int, options: Options) -> Rate:
    """Call *work* with the number of a caller, over and over, from a thread for each."""
    measured_from = time.perf_counter() + options.warm_up_s
    stop_at = measured_from + options.seconds
    taken: list[float] = []

    def repeat(caller: int) -> None:
        now = time.perf_counter()
        while now < stop_at:
            started = now
            work(caller)
            now = time.perf_counter()
            if measured_from <= now < stop_at:
                taken.append(now - started)

    if callers == 1:
        repeat(0)
    else:
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(repeat, range(callers)))
    return _rate(taken, options)


async def of_tasks(work: Callable[[int], Awaitable[object]], callers: int, options: Options) -> Rate:
    """Await *work* with the number of a caller, over and over, in a task for each."""
    measured_from = time.perf_counter() + options.warm_up_s
    stop_at = measured_from + options.seconds
    taken: list[float] = []

    async def repeat(caller: int) -> None:
        now = time.perf_counter()
        while now < stop_at:
            started = now
            await work(caller)
            now = time.perf_counter()
            if measured_from <= now < stop_at:
                taken.append(now - started)

    await asyncio.gather(*(repeat(caller) for caller in range(callers)))
    return _rate(taken, options)


def _rate(taken_s: list[float], options: Options) -> Rate:
    if not taken_s:
        return Rate(0, 0, 0, ("nothing was done in the measured time",))
    taken_s.sort()
    p99 = taken_s[int(len(taken_s) * 0.99)]
    return Rate(len(taken_s) / options.seconds, statistics.median(taken_s) * 1e3, p99 * 1e3)
