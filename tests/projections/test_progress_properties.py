"""Laws of the progress audit for any history, and how often its range holds the true end."""

import random
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from projections import values
from projections.events import Body, RunCreated, RunStatusChanged, RunTagged
from projections.lifecycle import Status
from projections.operations import Increment, Update
from projections.progress import ProgressAudit, ProgressFold
from projections.progress.course import UNUSUAL_MIN
from tests.projections.progress_histories import SECOND, START, Run, reported, stalls
from tests.strategies import History, histories, thorough

# --- any history at all ---


@st.composite
def hostile_runs(draw: st.DrawFn) -> Run:
    """Runs of any operations, steps, clocks and attempts, of which some set progress."""
    history: History = draw(histories(max_size=12))
    run = Run(
        {**history.metadata, **draw(progress_objects)}, status=draw(st.sampled_from(["QUEUED", "EXECUTING"]))
    )
    bodies: list[Body] = [*history.operations]
    bodies += draw(st.lists(progress_bodies, max_size=25))
    at = 0.0
    for body in draw(st.permutations(bodies)):
        at += draw(st.sampled_from([0, 0, 0.001, 1, 60, 4_000]))
        run.attempt = draw(st.sampled_from([run.attempt, run.attempt, run.attempt, run.attempt + 1, 1]))
        happened = draw(st.one_of(st.none(), st.floats(-1e6, at + 100), st.sampled_from([-6e10, 2e11])))
        run.step(body, at, happened=happened)
    return run


numbers = st.one_of(
    st.floats(0, 1),
    st.integers(0, 120),
    st.sampled_from([-1, 0, 1, 1e15, 1e16, 1e300, -1e15, 1e-300, 5e-324, 0.1]),
)
canonical = numbers.map(lambda number: values.number(float(number)))
progress_objects: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "progress": st.one_of(canonical, st.none(), st.just("x")),
        "o": st.fixed_dictionaries({}, optional={"progress": canonical, "n": canonical, "total": canonical}),
        "status": st.one_of(st.sampled_from(["a", "b"]), st.fixed_dictionaries({"state": st.just("c")})),
        "n": canonical,
        "total": canonical,
    },
)
progress_bodies: st.SearchStrategy[Body] = st.one_of(
    progress_objects.map(lambda value: Update(value=value)),
    st.tuples(st.sampled_from(["progress", "$.o.progress", "$.o.n", "$.o.total", "n", "total"]), canonical).map(
        lambda pair: Increment(key=pair[0], value=max(-1e15, min(pair[1], 1e15)))
    ),
    st.sampled_from(list(Status)).map(lambda status: RunStatusChanged(status=status)),
    st.just(RunTagged(tags=("x",))),
)


@thorough
@given(
    hostile_runs(),
    st.sampled_from([None, "fraction", "percent", "ratio", 0.5, 1e15]),
    st.sampled_from([None, 0.001, 60.0]),
    st.sampled_from(["current", "all", 1, 2, 9]),
    st.sampled_from([None, "o", "n", "$.o.total", "nothing"]),
    st.sampled_from([-1e9, 0, 1e5, 1e11]),
)
def test_any_history_has_a_sound_audit(
    run: Run, scale: Any, stall_after: float | None, attempt: Any, key: str | None, now: float
) -> None:
    options = {"key": key, "scale": scale, "stall_after_s": stall_after, "attempt": attempt}
    audit = run.audit(now=now, **options)
    assert_sound(audit)
    assert audit == run.audit(now=now, **options)
    values.dump(audit.answer())


@thorough
@given(hostile_runs(), st.sampled_from([0, 1, 299, 301, 5_000, 1e5, 1e9]))
def test_the_outlook_says_what_the_audit_would_say_at_any_later_moment(run: Run, later: float) -> None:
    fold = ProgressFold()
    for event in run.events:
        fold.add(event)
    outlook = fold.outlook()
    now = run.events[-1].recorded_at + round(later * SECOND)
    audit = fold.audit(now=now)
    assert outlook.is_stalled(now) is (audit.condition == "stalled")
    assert outlook.regressions == audit.counts.regressions
    assert outlook.key == audit.key
    assert outlook.fraction == (None if audit.current is None else audit.current.fraction)
    assert fold.outlook() == outlook
    if outlook.stalls_after is not None:
        for moment in (outlook.stalls_after, outlook.stalls_after + 1):
            if moment >= run.events[-1].recorded_at:
                assert outlook.is_stalled(moment) is (fold.audit(now=moment).condition == "stalled")


def assert_sound(audit: ProgressAudit) -> None:
    if audit.key is None:
        assert audit.condition == "no-key"
        return
    assert audit.start is not None
    assert audit.current is not None
    assert audit.stall_after is not None
    fractions = [audit.start.fraction, *(change.fraction for change in audit.changes)]
    largest = max(map(abs, fractions)) + 1
    assert sum(change.delta for change in audit.changes) == pytest.approx(audit.net_change, abs=1e-9 * largest)
    assert audit.net_change == pytest.approx(fractions[-1] - fractions[0], abs=1e-9 * largest)
    times = [audit.start.at, *(change.at for change in audit.changes)]
    assert times == sorted(times)
    assert times[-1] <= audit.end
    assert (audit.eta is None) != (audit.no_eta_because is None)
    if audit.eta is not None:
        assert audit.end <= audit.eta.earliest <= audit.eta.likeliest <= audit.eta.latest
    edges = [edge for one in audit.stalls for edge in (one.since, audit.end if one.until is None else one.until)]
    assert edges == sorted(edges)
    assert all(one.seconds > audit.stall_after.seconds for one in audit.stalls)
    assert audit.counts.stalls == len(audit.stalls)
    assert (audit.condition == "stalled") == any(one.is_open for one in audit.stalls)
    falls = sum(fall.after < fall.before for fall in audit.regressions)
    assert falls == audit.counts.regressions
    if audit.states is not None:
        assert all(one.seconds >= 0 for one in audit.states.values)


# --- plain histories: one report after another ---


steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 7, 60, 61, 2_000]), st.integers(0, 100)), min_size=1, max_size=30
)


def plain(course: list[tuple[float, int]], factor: float = 0.01, key: str = "progress") -> Run:
    times = [0.0]
    for wait, _ in course:
        times.append(times[-1] + wait)
    return reported([0, *(hundredths * factor for _, hundredths in course)], times, key)


def last_at(run: Run) -> float:
    return (run.events[-1].recorded_at - START) / SECOND


def with_touches(run: Run, places: list[float]) -> Run:
    """The same history with reports of the same value in between, at parts of the way from its first event on."""
    touched = Run()
    touched.events = []
    end = last_at(run) + 1_000
    at = sorted(place * end for place in places)
    value: Any = 0
    for event in run.events:
        recorded = (event.recorded_at - START) / SECOND
        while at and at[0] < recorded:
            touched.set("progress", value, at.pop(0))
        body = event.body
        value = body.metadata["progress"] if isinstance(body, RunCreated) else body.value  # type: ignore[union-attr]
        touched.step(body, recorded)  # type: ignore[arg-type]  # Nothing was erased.
    for late in at:
        touched.set("progress", value, late)
    return touched


@thorough
@given(steps, st.lists(st.floats(0, 1), max_size=20), st.sampled_from([None, 30.0, 60.0]))
def test_touches_change_neither_stalls_nor_movements(
    course: list[tuple[float, int]], places: list[float], stall_after: float | None
) -> None:
    run = plain(course)
    touched = with_touches(run, places)
    now = last_at(run) + 1_000
    bare, full = (one.audit(now=now, stall_after_s=stall_after) for one in (run, touched))
    assert stalls(full) == stalls(bare)
    assert full.counts.touches == bare.counts.touches + len(places)
    assert [(one.at, one.delta) for one in full.changes] == [(one.at, one.delta) for one in bare.changes]
    assert (full.rate, full.eta, full.stall_after) == (bare.rate, bare.eta, bare.stall_after)
    assert sum(one.touches for one in full.stalls) <= full.counts.touches


@thorough
@given(steps, st.data())
def test_a_touch_that_arrives_late_never_shortens_a_stall(
    course: list[tuple[float, int]], data: st.DataObject
) -> None:
    run = plain(course)
    end = last_at(run)
    happened = data.draw(st.floats(0, end + 500))
    touched = plain(course)
    touched.set("progress", course[-1][1] * 0.01, end + 500, happened=happened)
    for one in (run, touched):
        one.status("FAILED", end + 1_000)
    before, after = (one.audit(now=0, stall_after_s=50.0) for one in (run, touched))
    assert len(after.stalls) == len(before.stalls)
    assert all(long.seconds >= short.seconds for long, short in zip(after.stalls, before.stalls, strict=True))


@thorough
@given(steps)
def test_fractions_and_percentages_have_the_same_audit(course: list[tuple[float, int]]) -> None:
    assume(max(hundredths for _, hundredths in course) > 1)
    now = sum(wait for wait, _ in course) + 50
    fractions, percentages = plain(course).audit(now=now), plain(course, factor=1).audit(now=now)
    assert fractions.scale is not None
    assert percentages.scale is not None
    assert (fractions.scale.kind, percentages.scale.kind) == ("fraction", "percent")
    assert stalls(fractions) == stalls(percentages)
    assert fractions.verdict == percentages.verdict
    assert fractions.counts == percentages.counts
    assert [one.delta for one in fractions.changes] == pytest.approx([one.delta for one in percentages.changes])
    assert fractions.rate.overall == pytest.approx(percentages.rate.overall)
    assert fractions.no_eta_because == percentages.no_eta_because
    if fractions.eta is not None and percentages.eta is not None:
        assert abs(fractions.eta.latest - percentages.eta.latest) < 1_000
        assert abs(fractions.eta.earliest - percentages.eta.earliest) < 1_000


@thorough
@given(steps, st.integers(2, 1_000))
def test_time_stretched_stretches_the_audit(course: list[tuple[float, int]], factor: int) -> None:
    slow = plain([(wait * factor, hundredths) for wait, hundredths in course])
    stretched = slow.audit(now=last_at(slow), stall_after_s=30.0 * factor)
    short = plain(course)
    audit = short.audit(now=last_at(short), stall_after_s=30.0)
    assert [one.seconds for one in stretched.stalls] == pytest.approx(
        [one.seconds * factor for one in audit.stalls]
    )
    if audit.rate.overall is not None:
        assert stretched.rate.overall == pytest.approx(audit.rate.overall / factor)


# --- the range for the end ---

POINTS = 100
Noise = Callable[[random.Random], Iterator[tuple[float, float]]]


def jitter(size: float, *, rising: bool = False) -> Noise:
    """Reports at even times, each off the line by a little; perhaps never falling."""

    def course(chance: random.Random) -> Iterator[tuple[float, float]]:
        highest = 0.0
        for n in range(POINTS):
            value = n / POINTS + chance.gauss(0, size)
            highest = max(highest, value)
            yield n, highest if rising else value
        yield POINTS, 1.0

    return course


def rounded(noise: Noise) -> Noise:
    """Whole percentages."""

    def course(chance: random.Random) -> Iterator[tuple[float, float]]:
        for at, value in noise(chance):
            yield at, round(value, 2)

    return course


def uneven_steps(spread: float) -> Noise:
    """Reports at even times, each of which adds more or less."""

    def course(chance: random.Random) -> Iterator[tuple[float, float]]:
        value = at = 0.0
        while value < 1:
            yield at, value
            at += 1
            value += chance.gauss(1 / POINTS, spread / POINTS)
        yield at, value

    return course


def uneven_times(wait: Callable[[random.Random], float]) -> Noise:
    """Even steps after uneven times."""

    def course(chance: random.Random) -> Iterator[tuple[float, float]]:
        at = 0.0
        for n in range(POINTS + 1):
            yield at, n / POINTS
            at += wait(chance)

    return course


def both(size: float) -> Noise:
    """Jitter, at times that come at random."""

    def course(chance: random.Random) -> Iterator[tuple[float, float]]:
        at = 0.0
        while at < POINTS:
            yield at, at / POINTS + chance.gauss(0, size)
            at += chance.expovariate(1)
        yield POINTS, 1.0

    return course


@pytest.mark.parametrize(
    ("noise", "width"),
    [
        pytest.param(jitter(0.005), 0.1, id="a little jitter"),
        pytest.param(jitter(0.02), 0.3, id="jitter"),
        pytest.param(jitter(0.02, rising=True), 0.4, id="jitter that never falls"),
        pytest.param(rounded(jitter(0.005)), 0.15, id="rounded"),
        pytest.param(uneven_steps(0.1), 0.1, id="slightly uneven steps"),
        pytest.param(uneven_steps(0.5), 0.3, id="uneven steps"),
        pytest.param(uneven_steps(1), 0.6, id="very uneven steps"),
        pytest.param(uneven_times(lambda chance: chance.uniform(0.5, 1.5)), 0.2, id="uneven times"),
        pytest.param(uneven_times(lambda chance: chance.expovariate(1)), 0.7, id="random times"),
        pytest.param(both(0.02), 0.4, id="jitter at random times"),
    ],
)
def test_the_range_given_at_half_way_holds_the_true_end(noise: Noise, width: float) -> None:
    """In at least 80 of 100 runs, and it is no wider than said, as a part of the whole time."""
    held = 0
    widths = []
    for seed in range(100):
        course = list(noise(random.Random(seed)))
        half = course[-1][0] / 2
        seen = [(at, value) for at, value in course if at <= half]
        run = reported([value for _, value in seen], [at for at, _ in seen])
        audit = run.audit(now=half, scale="fraction")
        if audit.eta is None:
            continue
        earliest, latest = ((at - START) / SECOND for at in (audit.eta.earliest, audit.eta.latest))
        held += earliest <= course[-1][0] <= latest
        widths.append((latest - earliest) / course[-1][0])
    assert held >= 80
    assert median(widths) < width


def test_a_run_that_does_not_go_forward_has_no_eta() -> None:
    chance = random.Random(1)
    run = reported([0.5 + chance.gauss(0, UNUSUAL_MIN / 10) for _ in range(100)], list(range(100)))
    audit = run.audit(now=99)
    assert audit.eta is None
    assert audit.no_eta_because is not None
    assert "pace varies" in audit.no_eta_because or "not moved forward" in audit.no_eta_because


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            [0, 0.01, 0.02, 0.03, 0.73, 0.74, 0.75, 0.76, 0.77, 0.78],
            "its pace varies too much: it cannot be told from standing still",
        ),
        (
            [0.06, 0.12, 0.1, 0.11, 0.15, 0.25, 0.26, 0.28, 0.41, 0.46, 0.53],
            "its pace varies too much: the end may be 9 times as far away as it seems",
        ),
    ],
)
def test_a_range_that_is_no_help_is_not_given(values: list[float], why: str) -> None:
    audit = reported(values, list(range(len(values)))).audit(now=len(values) - 1)
    assert (audit.eta, audit.no_eta_because) == (None, why)


@pytest.mark.parametrize(
    ("values", "times", "why"),
    [
        ([0, 0.1, 0.2, 0.3], [0, 1, 2, 3], "it moved only 3 times; 4 movements are needed to judge its pace"),
        ([0.3], [0], "it moved not at all; 4 movements are needed to judge its pace"),
        ([0, 0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0, 0], "all its movements came at one moment, so they show no pace"),
        ([0.5, 0.49, 0.48, 0.47, 0.46], [0, 1, 2, 3, 4], "it has not moved forward on the whole"),
    ],
)
def test_without_an_eta_the_reason_is_said(values: list[float], times: list[float], why: str) -> None:
    audit = reported(values, times).audit(now=times[-1] + 1)
    assert (audit.eta, audit.no_eta_because) == (None, why)
