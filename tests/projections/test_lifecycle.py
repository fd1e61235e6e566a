"""Statuses, what they mean, and the steps between them."""

import itertools

import pytest

from projections.errors import BadTransition
from projections.lifecycle import Status, decide_status, parse_status

UNFINISHED = ["PENDING_VERSION", "QUEUED", "DELAYED", "DEQUEUED", "EXECUTING", "WAITING"]
FINISHED = ["COMPLETED", "CANCELED", "FAILED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"]

LOWER, SAME, HIGHER = 1, 2, 3  # attempts, when the run is in attempt 2


def test_statuses_are_the_public_names() -> None:
    assert sorted(Status) == sorted(UNFINISHED + FINISHED)


@pytest.mark.parametrize(
    ("name", "is_queued", "is_executing", "is_completed", "is_finished"),
    [
        ("PENDING_VERSION", True, False, False, False),
        ("QUEUED", True, False, False, False),
        ("DELAYED", True, False, False, False),
        ("DEQUEUED", False, True, False, False),
        ("EXECUTING", False, True, False, False),
        ("WAITING", False, False, False, False),
        ("COMPLETED", False, False, True, True),
        ("CANCELED", False, False, True, True),
        ("FAILED", False, False, True, True),
        ("CRASHED", False, False, True, True),
        ("SYSTEM_FAILURE", False, False, True, True),
        ("EXPIRED", False, False, False, True),
        ("TIMED_OUT", False, False, False, True),
    ],
)
def test_status_means_what_the_reference_says(
    name: str, *, is_queued: bool, is_executing: bool, is_completed: bool, is_finished: bool
) -> None:
    status = Status(name)
    assert (status.is_queued, status.is_executing) == (is_queued, is_executing)
    assert (status.is_completed, status.is_finished) == (is_completed, is_finished)


@pytest.mark.parametrize("name", UNFINISHED + FINISHED)
def test_status_is_read_in_any_case(name: str) -> None:
    assert {parse_status(name), parse_status(name.lower()), parse_status(name.title())} == {Status(name)}
    assert parse_status(Status(name)) is Status(name)


@pytest.mark.parametrize(
    "name",
    ["", "DONE", " QUEUED", "QUEUED\n", "QUEUE", "COMPLETED_SUCCESSFULLY", "CANCELLED", None, 5, True, [], {}],
)
def test_unknown_status_is_refused_with_those_there_are(name: object) -> None:
    with pytest.raises(ValueError, match="unknown status; there are ") as caught:
        parse_status(name)
    for status in UNFINISHED + FINISHED:
        assert status in str(caught.value)


@pytest.mark.parametrize("status", [*Status])
@pytest.mark.parametrize("attempt", [LOWER, SAME, HIGHER])
def test_same_status_is_no_event(status: Status, attempt: int) -> None:
    assert decide_status(status, SAME, status, attempt) is False


@pytest.mark.parametrize(("current", "wanted"), [*itertools.permutations(UNFINISHED + FINISHED, 2)])
def test_run_takes_another_status_by_these_rules(current: str, wanted: str) -> None:
    allowed = {LOWER: False, SAME: current in UNFINISHED, HIGHER: current in UNFINISHED or wanted in UNFINISHED}
    for attempt, expected in allowed.items():
        if expected:
            assert decide_status(Status(current), SAME, Status(wanted), attempt) is True
        else:
            with pytest.raises(BadTransition) as caught:
                decide_status(Status(current), SAME, Status(wanted), attempt)
            assert (caught.value.current, caught.value.wanted) == (current, wanted)
            assert caught.value.code == "bad-transition"


@pytest.mark.parametrize(
    ("current", "wanted", "attempt", "reason"),
    [
        (Status.COMPLETED, Status.FAILED, SAME, "it is over; start a new attempt first"),
        (Status.COMPLETED, Status.FAILED, HIGHER, "it is over; start a new attempt first"),
        (Status.CANCELED, Status.QUEUED, SAME, "it is over; send an attempt above 2 to start it again"),
        (Status.EXECUTING, Status.WAITING, LOWER, "attempt 1 asks, and the run is in attempt 2"),
        (Status.FAILED, Status.EXECUTING, LOWER, "attempt 1 asks, and the run is in attempt 2"),
    ],
)
def test_refusal_says_the_rule_and_the_way_out(current: Status, wanted: Status, attempt: int, reason: str) -> None:
    with pytest.raises(BadTransition) as caught:
        decide_status(current, SAME, wanted, attempt)
    assert str(caught.value) == f"a run that is {current.value} cannot become {wanted.value}: {reason}"
