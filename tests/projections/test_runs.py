"""A run is what the fold of its events says."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.events import Body, Event, RunCreated, RunStatusChanged, RunTagged, new_event
from projections.lifecycle import Status
from projections.metadata import fold
from projections.operations import AppendItem, Delete, Increment, RemoveItem, Set
from projections.runs import Run, evolve_run
from projections.snapshot import Snapshot
from tests.strategies import History, histories, thorough


@dataclass(frozen=True)
class Step:
    """What happened, in which attempt, when."""

    body: Body
    attempt: int = 1
    at: int = 0


def recorded(steps: Sequence[Step]) -> list[Event]:
    """The steps as the stream of one run; a step without a time is recorded at 1000 times its version."""
    return [
        Event(
            position=100 + 3 * version,
            run_id="run_1",
            version=version,
            type=new_event(step.body).type,
            data=new_event(step.body).data,
            actor="ci",
            attempt=step.attempt,
            headers="{}",
            occurred_at=5,
            recorded_at=step.at or 1_000 * version,
            hash=bytes(32),
        )
        for version, step in enumerate(steps, start=1)
    ]


def folded(*steps: Step) -> Run:
    run: Run | None = None
    for event in recorded(steps):
        run = evolve_run(run, event)
    assert run is not None
    return run


def status(name: Status, attempt: int = 1) -> Step:
    return Step(RunStatusChanged(status=name), attempt)


CREATED = Step(RunCreated(task="t", metadata={"a": 1}))


def test_created_run_is_what_its_first_event_says() -> None:
    body = RunCreated(
        task="t",
        parent="run_p",
        root="run_r",
        batch="b",
        tags=("x", "y"),
        idempotency_key="k",
        payload=[1],
        metadata={"é": 1e-7},
    )
    assert folded(Step(body, attempt=3, at=50)) == Run(
        id="run_1",
        task="t",
        parent="run_p",
        root="run_r",
        batch="b",
        status=Status.QUEUED,
        status_version=1,
        attempt=3,
        tags=("x", "y"),
        idempotency_key="k",
        snapshot=Snapshot({"é": 1e-7}, 1, '{"é":1e-7}', 11),
        created_at=50,
        updated_at=50,
        started_at=None,
        finished_at=None,
    )


def test_life_of_a_run_is_folded_to_its_state() -> None:
    run = folded(
        CREATED,
        Step(RunTagged(tags=("x",))),
        status(Status.DEQUEUED),
        status(Status.EXECUTING),
        Step(Increment(key="a", value=0.5)),
        Step(Set(key="$.b", value=[None])),
        Step(RunTagged(tags=("y", "x", "z", "y"))),
        status(Status.WAITING),
        status(Status.EXECUTING),
        Step(Delete(key="a"), attempt=9),
        Step(RunStatusChanged(status=Status.COMPLETED, output={"large": "output"}), attempt=2),
        Step(AppendItem(key="$.b", value=1)),
    )
    assert run == Run(
        id="run_1",
        task="t",
        parent=None,
        root=None,
        batch=None,
        status=Status.COMPLETED,
        status_version=11,
        attempt=2,
        tags=("x", "y", "z"),
        idempotency_key=None,
        snapshot=Snapshot({"b": [None, 1]}, 12, '{"b":[null,1]}', 14),
        created_at=1_000,
        updated_at=12_000,
        started_at=4_000,
        finished_at=11_000,
    )
    assert run.version == 12


@pytest.mark.parametrize("name", [*Status])
def test_run_may_begin_in_any_status(name: Status) -> None:
    run = folded(Step(RunCreated(task="t", status=name)))
    assert run.status is name
    assert run.started_at == (1_000 if name is Status.EXECUTING else None)
    assert run.finished_at == (1_000 if name.is_finished else None)


@pytest.mark.parametrize("name", [*Status])
def test_status_sets_started_and_finished_times(name: Status) -> None:
    run = folded(CREATED, status(name))
    assert (run.status, run.status_version, run.version) == (name, 2, 2)
    assert run.started_at == (2_000 if name is Status.EXECUTING else None)
    assert run.finished_at == (2_000 if name.is_finished else None)
    assert (run.created_at, run.updated_at) == (1_000, 2_000)


def test_new_attempt_clears_the_finished_time_and_keeps_the_first_start() -> None:
    first = [CREATED, status(Status.EXECUTING), status(Status.FAILED)]
    assert (folded(*first).started_at, folded(*first).finished_at) == (2_000, 3_000)
    again = folded(*first, status(Status.EXECUTING, attempt=2))
    assert (again.started_at, again.finished_at, again.attempt) == (2_000, None, 2)
    over = folded(*first, status(Status.EXECUTING, attempt=2), status(Status.CANCELED, attempt=2))
    assert (over.started_at, over.finished_at, over.attempt) == (2_000, 5_000, 2)


def test_tags_and_status_move_the_version_and_leave_the_metadata_alone() -> None:
    run = folded(CREATED)
    for step in (Step(RunTagged(tags=("x",))), status(Status.EXECUTING)):
        after = folded(CREATED, step)
        assert after.snapshot == Snapshot({"a": 1}, 2, '{"a":1}', 7)
        assert after.snapshot.metadata == run.snapshot.metadata


def test_change_of_metadata_moves_nothing_else() -> None:
    before = folded(CREATED, status(Status.COMPLETED))
    after = folded(CREATED, status(Status.COMPLETED), Step(Set(key="a", value=2), attempt=7))
    assert after.snapshot == Snapshot({"a": 2}, 3, '{"a":2}', 7)
    assert after.updated_at == 3_000
    assert (after.status, after.status_version, after.attempt) == (before.status, 2, 1)
    assert (after.created_at, after.started_at, after.finished_at) == (1_000, None, 2_000)


def test_operation_that_has_nothing_to_work_on_still_counts_as_an_event() -> None:
    run = folded(CREATED, Step(RemoveItem(key="a", value=1)))
    assert run.snapshot == Snapshot({"a": 1}, 2, '{"a":1}', 7)


def test_tags_of_a_run_do_not_repeat() -> None:
    assert folded(Step(RunCreated(task="t", tags=("b", "a", "b")))).tags == ("b", "a")
    assert folded(CREATED, Step(RunTagged(tags=("b", "b"))), Step(RunTagged(tags=("a", "b")))).tags == ("b", "a")


@pytest.mark.parametrize(
    "body", [Set(key="a", value=1), RunTagged(tags=("a",)), RunStatusChanged(status=Status.WAITING)]
)
def test_stream_that_does_not_begin_with_its_creation_is_no_run(body: Body) -> None:
    with pytest.raises(AssertionError, match=r"a stream begins with run\.created"):
        folded(Step(body))


def test_earlier_state_is_not_changed_by_later_events() -> None:
    events = recorded([CREATED, Step(Set(key="l", value=[1])), Step(AppendItem(key="l", value=2))])
    first = evolve_run(None, events[0])
    second = evolve_run(first, events[1])
    evolve_run(second, events[2])
    assert first == folded(CREATED)
    assert second.snapshot == Snapshot({"a": 1, "l": [1]}, 2, '{"a":1,"l":[1]}', 15)


@thorough
@given(histories(), st.integers(0, 10))
def test_fold_of_a_run_holds_the_fold_of_its_operations(history: History, split: int) -> None:
    operations = history.operations
    steps = [Step(RunCreated(task="t", metadata=history.metadata)), *map(Step, operations)]
    steps.insert(1 + min(split, len(operations)), status(Status.EXECUTING))
    events = recorded(steps)
    run = folded(*steps)
    assert run.snapshot == Snapshot.of(fold(history.metadata, operations), len(events))
    assert run.updated_at == events[-1].recorded_at
    half = reduce(evolve_run, events[1 : split + 1], evolve_run(None, events[0]))
    assert reduce(evolve_run, events[split + 1 :], half) == run
