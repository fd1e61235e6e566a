"""The progress audit of histories whose answers were written down by hand, rule by rule."""

from typing import Any

import pytest

from projections.operations import Delete, Increment, Update
from projections.progress import ProgressAudit, parse_scale
from projections.progress.judgement import CHANGES_MAX, NOTED_MAX
from projections.progress.keys import LOOKED_FOR
from projections.progress.verdict import percent
from projections.times import format_span
from tests.projections.progress_histories import MINUTE, Run, moment, reported, stalls, time

HOUR = 3_600


def moves(audit: ProgressAudit) -> list[tuple[int, float, float]]:
    """Version, value and delta of every change."""
    return [(change.version, change.value, change.delta) for change in audit.changes]


# --- whole histories ---


def test_a_smooth_run() -> None:
    """A tenth a minute from 0 to 1, then COMPLETED after five seconds."""
    run = reported([n / 10 for n in range(11)], [n * MINUTE for n in range(11)])
    audit = run.status("COMPLETED", 605).audit(now=99 * HOUR)
    assert audit.verdict == "complete: 100 % after 10 min"
    assert (audit.condition, audit.is_open, audit.status) == ("complete", False, "COMPLETED")
    assert (audit.key, audit.key_is_given, audit.other_keys) == ("progress", False, ())
    assert audit.scale is not None
    assert (audit.scale.kind, audit.scale.full, audit.scale.is_given) == ("fraction", 1, False)
    assert moves(audit) == [(n + 1, n / 10, 0.1) for n in range(1, 11)]
    assert [change.at for change in audit.changes] == [moment(n * MINUTE) for n in range(1, 11)]
    assert {change.actor for change in audit.changes} == {"job"}
    assert audit.net_change == 1
    assert audit.end == moment(605)
    assert audit.rate.overall == pytest.approx(1 / 600)
    assert audit.rate.recent == pytest.approx(1 / 600)
    assert (audit.eta, audit.no_eta_because) == (None, "it is complete")
    assert audit.stall_after is not None
    assert audit.stall_after.seconds == 300
    assert audit.stall_after.basis == (
        "5 times the usual gap of 1 min; three quarters of the 10 gaps between movements are no longer"
    )
    assert (audit.stalls, audit.regressions, audit.jumps, audit.over_complete) == ((), (), (), ())
    assert audit.counts.movements == 10


def test_a_smooth_run_at_half_way() -> None:
    run = reported([n / 100 for n in range(51)], [n * MINUTE for n in range(51)])
    audit = run.audit(now=50 * MINUTE)
    assert audit.condition == "moving"
    assert audit.eta is not None
    assert abs(audit.eta.likeliest - moment(100 * MINUTE)) < 1_000
    assert audit.eta.earliest <= moment(100 * MINUTE) <= audit.eta.latest
    assert audit.eta.latest - audit.eta.earliest < 2 * MINUTE * 1_000_000
    # The report that completes it may come one gap after the work is done.
    assert audit.eta.latest - audit.eta.likeliest >= MINUTE * 999_999
    assert audit.verdict.startswith("moving: 50 %, ")


def test_a_stall_of_ten_minutes_under_repeated_touches() -> None:
    """A hundredth a minute; from minute 30 to minute 40 only the same value again, every 20 seconds."""
    run = Run({"status": {"state": "running", "progress": 0}})
    for n in range(1, 31):
        run.set("$.status.progress", n / 100, n * MINUTE)
    for n in range(1, 30):
        run.set("status", {"state": "waiting", "progress": 0.3}, 30 * MINUTE + n * 20, actor="poller")
    for n in range(31, 51):
        run.set("$.status.progress", n / 100, (n + 9) * MINUTE)
    audit = run.audit(now=59 * MINUTE)
    assert audit.key == "$.status.progress"
    assert stalls(audit) == [(30 * MINUTE, 40 * MINUTE, 0.3)]
    (stall,) = audit.stalls
    assert (stall.seconds, stall.touches, stall.is_open) == (600, 29, False)
    assert (stall.after_version, stall.until_version) == (31, 61)
    assert (audit.counts.movements, audit.counts.touches) == (50, 29)
    assert audit.touches.last is not None
    assert (audit.touches.last.at, audit.touches.last.actor) == (moment(30 * MINUTE + 29 * 20), "poller")
    assert [change.touches for change in audit.changes] == [0] * 29 + [29] + [0] * 20
    assert audit.states is not None
    assert audit.states.key == "$.status.state"
    assert [(one.value, one.seconds, one.times) for one in audit.states.values] == [
        ("running", 1_820, 1),
        ("waiting", 1_720, 1),
    ]
    assert "stood still for 10 min at 30 %" in audit.verdict


def test_a_run_that_restarts_at_a_fifth() -> None:
    """To 0.6 in six minutes, back to 0.2, on at the same pace."""
    values = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    run = reported(values, [n * MINUTE for n in range(13)])
    audit = run.audit(now=12 * MINUTE)
    (fall,) = audit.regressions
    assert (fall.before, fall.after, fall.version, fall.actor) == (0.6, 0.2, 8, "job")
    assert (fall.at, fall.delta) == (moment(7 * MINUTE), -0.4)
    assert audit.net_change == 0.7
    assert sum(change.delta for change in audit.changes) == pytest.approx(0.7)
    assert audit.eta is not None
    assert audit.eta.movements == 5
    assert abs(audit.eta.likeliest - moment(15 * MINUTE)) < 1_000
    assert audit.rate.overall == pytest.approx(0.7 / 720)
    assert audit.stalls == ()
    assert "1 regression" in audit.verdict


def test_a_run_in_percent() -> None:
    """One value above 1 makes all of them percentages, the 1 and the 0.5 too."""
    run = reported([0, 0.5, 1, 40, 110], [0, 10, 20, 30, 40], key="percent")
    audit = run.audit(now=41)
    assert audit.key == "percent"
    assert audit.scale is not None
    assert (audit.scale.kind, audit.scale.full) == ("percent", 100)
    assert audit.scale.basis == (
        "a value reached 110, which is above 1, so 100 means complete; "
        "if it counts something, say with the scale which number means complete"
    )
    assert [change.fraction for change in audit.changes] == [0.005, 0.01, 0.4, 1.1]
    assert [(one.version, one.value, one.fraction) for one in audit.over_complete] == [(5, 110, 1.1)]
    assert audit.condition == "complete"


def test_a_count_whose_total_grows() -> None:
    """50 of 100, then the total doubles: nothing went backwards, and nothing moved either."""
    run = Run({"epoch": {"n": 0, "total": 100}})
    run.set("$.epoch.n", 25, 60).set("$.epoch.n", 50, 120)
    run.set("$.epoch.total", 200, 150, actor="planner")
    run.set("epoch", {"n": 75, "total": 250}, 180).set("$.epoch.n", 100, 240)
    audit = run.audit(now=240)
    assert audit.key == "$.epoch.n"
    assert audit.scale is not None
    assert (audit.scale.kind, audit.scale.full, audit.scale.total_key) == ("ratio", 250, "$.epoch.total")
    assert moves(audit) == [(2, 25, 0.25), (3, 50, 0.25), (4, 50, -0.25), (5, 75, 0.05), (6, 100, 0.1)]
    assert [change.total for change in audit.changes] == [100, 100, 200, 250, 250]
    assert audit.regressions == ()
    assert [(one.before, one.after, one.version, one.actor) for one in audit.total_changes] == [
        (100, 200, 4, "planner")
    ]
    assert (audit.counts.movements, audit.counts.total_changes) == (4, 1)
    assert audit.net_change == 0.4
    assert audit.rate.overall == pytest.approx(100 / 250 / 240)


def test_a_run_that_was_spooled_and_delivered_late() -> None:
    """A tenth a minute at the beginning; all of it was recorded five hours later, the end too."""
    late = 5 * HOUR
    run = Run({"progress": 0, "stage": "load"}, status="QUEUED", at=late).status("EXECUTING", late)
    for n in range(1, 11):
        run.set("progress", n / 10, late + 1, happened=n * MINUTE)
        run.set("log", n, late + 1, happened=n * MINUTE + 1)
    run.status("COMPLETED", late + 2)
    audit = run.audit(now=9 * HOUR)
    assert [change.at for change in audit.changes] == [moment(n * MINUTE) for n in range(1, 11)]
    assert audit.start is not None
    assert audit.start.at == moment(MINUTE)  # No later than the first that is known.
    assert audit.end == moment(10 * MINUTE + 2)
    assert audit.stalls == ()
    assert audit.verdict == "complete: 100 % after 9 min"
    assert audit.states is not None
    assert [one.seconds for one in audit.states.values] == [9 * MINUTE + 2]
    assert audit.rate.recent == pytest.approx(0.1 / 60)


def test_a_late_delivery_that_ends_short_did_not_stall_until_it_was_delivered() -> None:
    late = 5 * HOUR
    run = Run({"progress": 0}, at=late)
    for n in range(1, 8):
        run.set("progress", n / 10, late + 1, happened=n * MINUTE)
    audit = run.status("FAILED", late + 2).audit(now=9 * HOUR)
    assert audit.end == moment(7 * MINUTE + 1)
    assert audit.stalls == ()
    assert audit.verdict == "FAILED at 70 %, 30 % short"


def test_a_run_that_lost_its_network_half_way_ended_when_it_ended() -> None:
    run = reported([0, 0.1, 0.2, 0.3], [0, 60, 120, 180])
    for n in range(4, 8):
        run.set("progress", n / 10, 5 * HOUR, happened=n * MINUTE)
    audit = run.status("FAILED", 5 * HOUR + 1).audit(now=9 * HOUR)
    assert (audit.end, audit.stalls) == (moment(7 * MINUTE + 1), ())


def test_a_run_that_ends_at_97_percent() -> None:
    """A hundredth a second up to 0.97, then nothing for a minute, then COMPLETED."""
    run = reported([n / 100 for n in range(98)], list(range(98)))
    audit = run.status("COMPLETED", 157).audit(now=HOUR)
    assert (audit.condition, audit.is_open) == ("incomplete", False)
    assert audit.current is not None
    assert (audit.current.value, audit.current.version) == (0.97, 98)
    assert stalls(audit) == [(97, 157, 0.97)]
    (stall,) = audit.stalls
    assert (stall.until_version, stall.is_open) == (None, False)
    assert audit.verdict == "COMPLETED at 97 %, 3 % short; stood still for 1 min at 97 %"
    assert (audit.eta, audit.no_eta_because) == (
        None,
        "nothing more will come: the run, or this attempt of it, has ended",
    )


# --- which key ---


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({"progress": 0.1}, "progress"),
        ({"percent": 3, "progress": 0.1, "n": 1, "total": 5}, "progress"),
        ({"a": {"b": {"progress": 1}}}, "$.a.b.progress"),
        ({"a": {"b": {"progress": 1}}, "c": {"progress": 2}}, "$.c.progress"),
        ({"percent": 3, "a": {"progress": 2}}, "$.a.progress"),
        ({"job.progress": 2}, "job.progress"),
        ({"percent": 3, "n": 1, "total": 5}, "percent"),
        ({"percentage": 3}, "percentage"),
        ({"a": {"percentage": 3}}, "$.a.percentage"),
        ({"n": 1, "total": 5}, "n"),
        ({"a": {"step": 1, "total": 5}}, "$.a.step"),
        ({"a": {"completed": 1, "total": 5}}, "$.a.completed"),
        ({"progress": {"current": 1, "total": 5}, "percent": 1}, "$.progress.current"),
        ({"n": 1, "total": "5", "percent": 1}, "percent"),
        ({"progress": True, "percent": 1}, "percent"),
        ({"progress": "half", "percent": 1}, "percent"),
        ({"progress": 1e200, "percent": 1}, "percent"),
        ({"l": [{"progress": 1}], "percent": 1}, "percent"),
        ({"a.b": {"progress": 1}, "percent": 1}, "percent"),
        ({"$.progress": 1, "percent": 1}, "percent"),
    ],
)
def test_the_key_is_found(metadata: dict[str, Any], key: str) -> None:
    assert Run(metadata).audit().key == key


@pytest.mark.parametrize(
    "metadata",
    [{}, {"a": 1}, {"progress": None}, {"n": 1}, {"total": 1}, {"n": 1, "total": True}, {"l": [{"progress": 1}]}],
)
def test_without_a_key_the_answer_says_what_was_looked_for(metadata: dict[str, Any]) -> None:
    audit = Run(metadata).set("note", "x", 5).audit(now=9)
    assert (audit.condition, audit.key, audit.current, audit.eta) == ("no-key", None, None, None)
    assert audit.looked_for == LOOKED_FOR
    assert audit.verdict == "no key tells the progress; name one"
    assert audit.version == 2
    assert audit.changes == ()


def test_what_moved_is_taken_before_what_never_did() -> None:
    run = Run({"progress": 0, "percent": 1, "epoch": {"progress": 0}}).set("percent", 20, 5)
    audit = run.audit(now=9)
    assert audit.key == "percent"
    assert audit.other_keys == ("progress", "$.epoch.progress")


def test_a_key_may_be_named() -> None:
    run = Run({"progress": 0.5, "rows": 10, "job": {"state": "x", "progress": 0.2}, "l": [3]})
    run.set("rows", 20, 10).set("$.job.progress", 0.3, 20).set("$.l.0", 4, 30)
    for key, found, values in [
        ("rows", "rows", [10, 20]),
        ("job", "$.job.progress", [0.2, 0.3]),
        ("$.job.progress", "$.job.progress", [0.2, 0.3]),
        ("$.l.0", "$.l.0", [3, 4]),
        ("$.progress", "$.progress", [0.5]),
    ]:
        audit = run.audit(now=30, key=key)
        assert (audit.key, audit.key_is_given) == (found, True)
        assert audit.start is not None
        assert [audit.start.value, *(change.value for change in audit.changes)] == values


def test_a_named_object_or_number_is_read_with_its_total() -> None:
    run = Run({"load": {"done": 5, "total": 20}, "n": 1}).set("$.load.done", 10, 5).set("total", 4, 6)
    for key in ("load", "$.load.done"):
        audit = run.audit(now=6, key=key)
        assert audit.key == "$.load.done"
        assert audit.current is not None
        assert audit.current.fraction == 0.5
    audit = run.audit(now=6, key="n")
    assert audit.start is not None
    assert (audit.start.total, audit.start.fraction) == (4, 0.25)  # Read with the first total that came.


def test_a_named_key_that_holds_no_number_is_said() -> None:
    audit = Run({"a": "x"}).audit(key="a")
    assert (audit.condition, audit.verdict, audit.looked_for) == ("no-key", "nothing at a is a number", ("a",))


def test_more_keys_than_are_followed_leave_the_best() -> None:
    metadata: dict[str, Any] = {f"k{n}": {"deep": {"progress": 0}} for n in range(30)}
    audit = Run({**metadata, "job": {"progress": 0}}).audit()
    assert audit.key == "$.job.progress"
    assert len(audit.other_keys) == 7


# --- how it is read ---


@pytest.mark.parametrize(
    ("values", "scale", "kind", "fractions"),
    [
        ([0, 0.5, 1], None, "fraction", [0, 0.5, 1]),
        ([0, 0.5, 1.5], None, "percent", [0, 0.005, 0.015]),
        ([0, 1.0000000000000002], None, "fraction", [0, 1]),
        ([0, -1, 1], None, "fraction", [0, -1, 1]),
        ([0, 0.5, 1], "percent", "percent", [0, 0.005, 0.01]),
        ([0, 50], "fraction", "fraction", [0, 50]),
        ([0, 50], 200.0, "number", [0, 0.25]),
        ([0, 50], "ratio", "percent", [0, 0.5]),
        ([0, 0.5], "ratio", "fraction", [0, 0.5]),
    ],
)
def test_the_scale(values: list[float], scale: Any, kind: str, fractions: list[float]) -> None:
    audit = reported(values, list(range(len(values)))).audit(now=9, scale=scale)
    assert audit.scale is not None
    assert audit.start is not None
    assert audit.scale.kind == kind
    assert audit.scale.is_given == (scale is not None and scale != "ratio")
    assert [audit.start.fraction, *(change.fraction for change in audit.changes)] == pytest.approx(fractions)


def test_a_number_as_the_scale_takes_the_place_of_the_total() -> None:
    run = Run({"n": 0, "total": 100}).set("n", 50, 5).set("total", 500, 6).set("n", 60, 7)
    audit = run.audit(now=9, scale=80.0)
    assert [change.fraction for change in audit.changes] == [0.625, 0.75]
    assert (audit.counts.movements, audit.counts.touches, audit.total_changes) == (2, 1, ())


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1e16", "Percent", "percent "])
def test_a_scale_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"scale must be fraction, percent, ratio, or the number"):
        parse_scale(text)


@pytest.mark.parametrize(("text", "scale"), [("fraction", "fraction"), ("ratio", "ratio"), ("2.5e2", 250.0)])
def test_a_scale_as_text(text: str, scale: Any) -> None:
    assert parse_scale(text) == scale


def test_values_of_an_earlier_attempt_count_for_the_scale() -> None:
    run = Run({"progress": 0}).set("progress", 80, 10).status("FAILED", 20)
    run.attempt = 2
    audit = run.status("EXECUTING", 30).set("progress", 0.5, 40).audit(now=50)
    assert audit.scale is not None
    assert audit.scale.kind == "percent"
    assert audit.current is not None
    assert audit.current.fraction == 0.005


# --- ways to report ---


def test_every_way_to_set_the_value_counts() -> None:
    run = Run({"status": {"progress": 0}})
    run.set("status", {"state": "x", "progress": 0.1}, 10)
    run.set("$.status.progress", 0.2, 20)
    run.step(Increment(key="$.status.progress", value=0.1), 30)
    run.step(Update(value={"status": {"progress": 0.4}, "other": 1}), 40)
    run.step(Update(value={"status": {"progress": 0.4}, "other": 2}), 50)
    run.set("other", 3, 60)
    audit = run.audit(now=60)
    assert [(change.version, change.delta) for change in audit.changes] == [(n, 0.1) for n in range(2, 6)]
    assert audit.counts.touches == 0  # What replaces the whole object is about the value only if it changed it.


def test_equal_values_and_rounding_are_touches() -> None:
    run = Run({"progress": 0.3}).set("progress", 0.1 + 0.2, 10).set("progress", 0.3, 20)
    run.step(Increment(key="progress", value=0), 30)
    audit = run.audit(now=30)
    assert (audit.changes, audit.counts.touches) == ((), 3)
    assert (audit.condition, audit.verdict) == ("still", "at 30 %, not moved yet")


def test_large_counts_move_by_one() -> None:
    run = Run({"n": 10**13, "total": 10**14}).set("n", 10**13 + 1, 10)
    assert run.audit(now=30).counts.movements == 1


def test_a_number_that_is_gone_is_said_and_may_come_back() -> None:
    run = Run({"progress": 0.3}).set("progress", 0.4, 10).step(Delete(key="progress"), 20, actor="eve")
    run.set("note", "x", 25)
    audit = run.audit(now=30)
    assert audit.lost is not None
    assert (audit.lost.version, audit.lost.at, audit.lost.actor) == (3, moment(20), "eve")
    assert audit.current is not None
    assert audit.current.value == 0.4
    assert audit.verdict.endswith("; the number is gone since version 3")
    audit = run.set("progress", 0.5, 40).audit(now=40)
    assert audit.lost is None
    assert moves(audit) == [(2, 0.4, 0.1), (5, 0.5, 0.1)]


def test_jumps_and_values_below_zero() -> None:
    values = [-0.01, 0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.5, 0.51]
    audit = reported(values, list(range(9))).audit(now=9)
    assert audit.jump_over == pytest.approx(0.06)
    (jump,) = audit.jumps
    assert (jump.before, jump.after, jump.version, jump.delta) == (0.05, 0.5, 8, 0.45)
    assert [report.value for report in audit.below_zero] == [-0.01]
    assert "1 jump" in audit.verdict
    assert "1 value below 0" in audit.verdict


def test_few_movements_show_no_jump() -> None:
    audit = reported([0, 0.1, 1], [0, 1, 2]).audit(now=9)
    assert (audit.jump_over, audit.jumps) == (None, ())


# --- stalls ---


def test_an_open_stall() -> None:
    run = reported([n / 100 for n in range(11)], [n * MINUTE for n in range(11)])
    assert run.audit(now=15 * MINUTE).stalls == ()
    audit = run.set("progress", 0.1, 20 * MINUTE).audit(now=30 * MINUTE)
    assert stalls(audit) == [(10 * MINUTE, None, 0.1)]
    (stall,) = audit.stalls
    assert (stall.seconds, stall.is_open, stall.until_version, stall.touches) == (1_200, True, None, 1)
    assert audit.verdict == "stalled at 10 % for 20 min under 1 touch"
    assert (audit.condition, audit.no_eta_because) == ("stalled", "it has stood still for 20 min")


@pytest.mark.parametrize(("given", "found"), [(59.999, 3), (60, 0), (1e6, 0), (0.001, 3)])
def test_a_stall_is_longer_than_the_threshold_that_is_given(given: float, found: int) -> None:
    audit = reported([0, 0.1, 0.2, 0.3], [0, 60, 120, 180]).audit(now=180, stall_after_s=given)
    assert len(audit.stalls) == found
    assert audit.stall_after is not None
    assert (audit.stall_after.seconds, audit.stall_after.is_given) == (given, True)
    assert audit.stall_after.basis == "as given"


@pytest.mark.parametrize(
    ("times", "seconds", "basis"),
    [
        ([0], 300, "no gaps between movements show no rhythm of the run's own yet"),
        ([0, 1], 300, "one gap between movements shows no rhythm of the run's own yet"),
        ([0, 100, 4_000], 500, "2 gaps between movements show no rhythm of the run's own yet"),
        ([0, 0.5, 1, 1.75], 5, "nothing shorter counts, though the usual gap is 500 ms"),
        ([0, 60, 120, 180, 2_000], 300, "5 times the usual gap of 1 min; three quarters of the 4 gaps"),
        ([0, 10, 20, 30, 40, 60, 80, 100], 100, "5 times the usual gap of 20 s; three quarters of the 7 gaps"),
        ([0, 60, 60, 60, 120, 180], 300, "5 times the usual gap of 1 min; three quarters of the 3 gaps"),
    ],
)
def test_the_threshold_comes_from_the_rhythm(times: list[float], seconds: float, basis: str) -> None:
    audit = reported([n / 100 for n in range(len(times))], times).audit(now=times[-1])
    assert audit.stall_after is not None
    assert audit.stall_after.seconds == pytest.approx(seconds)
    assert audit.stall_after.basis.startswith(basis)


def test_what_is_complete_does_not_stall() -> None:
    run = reported([0, 0.5, 1], [0, 10, 20])
    assert run.audit(now=HOUR, stall_after_s=15).stalls == ()
    assert run.set("progress", 0.9, 2 * HOUR).audit(now=2 * HOUR, stall_after_s=15).stalls == ()


def test_a_total_that_grows_turns_what_was_complete_into_a_stall() -> None:
    run = Run({"n": 5, "total": 5}).set("total", 10, 1_000).set("n", 6, 1_100)
    assert stalls(run.audit(now=1_100, stall_after_s=50)) == [(1_000, 1_100, 0.5)]


def test_waiting_in_a_queue_is_no_stall() -> None:
    run = Run({"progress": 0}, status="QUEUED").status("EXECUTING", 2 * HOUR)
    run.set("progress", 0.5, 2 * HOUR + 10)
    audit = run.audit(now=2 * HOUR + 20)
    assert audit.stalls == ()
    assert audit.rate.overall == pytest.approx(0.5 / 20)


# --- time ---


def test_a_clock_that_goes_back_gives_no_negative_time() -> None:
    run = Run({"progress": 0})
    for at, happened, value in [(10, 10, 0.1), (20, 20, 0.2), (30, 12, 0.3), (40, 999, 0.4), (50, None, 0.5)]:
        run.set("progress", value, at, happened=happened)
    audit = run.audit(now=50)
    assert [change.at for change in audit.changes] == [moment(at) for at in (10, 20, 20, 40, 50)]
    assert audit.rate.overall == pytest.approx(0.01)
    assert audit.regressions == ()


def test_one_late_operation_on_another_key_moves_nothing() -> None:
    run = Run({"progress": 0}).set("progress", 0.1, 100).set("progress", 0.2, 200)
    run.set("log", "late", 300, happened=1).status("COMPLETED", 300)
    audit = run.audit(now=900)
    assert [change.at for change in audit.changes] == [moment(100), moment(200)]
    assert audit.end == moment(300)


def test_now_matters_only_while_the_run_is_unfinished() -> None:
    run = reported([0, 0.1, 0.2], [0, 10, 20])
    assert run.audit(now=30).end == moment(30)
    assert run.audit(now=5).end == moment(20)
    run.status("FAILED", 25)
    assert run.audit(now=30) == run.audit(now=10**6) == run.audit(now=0)


def test_times_in_the_answer_are_iso_8601() -> None:
    answer = reported([0, 0.5], [0, 1.5]).audit(now=2).answer()
    assert answer["end"] == time(2)
    changes: Any = answer["changes"]
    assert changes == [
        {
            "at": "2023-11-14T22:13:21.500000Z",
            "version": 2,
            "value": 0.5,
            "total": None,
            "fraction": 0.5,
            "actor": "job",
            "attempt": 1,
            "delta": 0.5,
            "movements": 1,
            "touches": 0,
        }
    ]
    moved: Any = reported([0, 0.5, 0.4], [0, 1, 2]).audit(now=2).answer()["regressions"]
    assert [(one["from"], one["to"]) for one in moved] == [(0.5, 0.4)]


# --- attempts ---


@pytest.fixture
def retried() -> Run:
    """Fails at 0.4 after 40 s; the second attempt begins an hour later and starts again at 0.1."""
    run = Run({"progress": 0})
    for n in range(1, 5):
        run.set("progress", n / 10, n * 10)
    run.status("FAILED", 45)
    run.attempt = 2
    run.status("EXECUTING", HOUR)
    for n in range(1, 4):
        run.set("progress", n / 10, HOUR + n * 10)
    return run


def test_the_last_attempt_is_looked_at_by_default(retried: Run) -> None:
    audit = retried.audit(now=HOUR + 30)
    assert (audit.attempt, audit.last_attempt, audit.is_open) == (2, 2, True)
    assert audit.start is not None
    assert (audit.start.at, audit.start.value) == (moment(HOUR + 10), 0.1)
    assert moves(audit) == [(9, 0.2, 0.1), (10, 0.3, 0.1)]
    assert audit.regressions == ()
    assert audit == retried.audit(now=HOUR + 30, attempt=2)


def test_an_earlier_attempt_by_number(retried: Run) -> None:
    audit = retried.audit(now=HOUR + 30, attempt=1)
    assert (audit.attempt, audit.is_open, audit.end) == (1, False, moment(45))
    assert moves(audit) == [(n + 1, n / 10, 0.1) for n in range(1, 5)]
    assert audit.verdict == "attempt 1 ended at 40 %, 60 % short"


def test_all_attempts_as_one(retried: Run) -> None:
    audit = retried.audit(now=HOUR + 30, attempt="all")
    assert audit.attempt is None
    assert [(fall.before, fall.after, fall.attempt) for fall in audit.regressions] == [(0.4, 0.1, 2)]
    assert audit.net_change == 0.3
    assert audit.stalls == ()  # Nothing ran in the hour between.
    assert audit.rate.overall == pytest.approx(0.3 / 75)


def test_a_stall_ends_with_its_attempt(retried: Run) -> None:
    audit = retried.audit(now=HOUR + 30, attempt="all", stall_after_s=4)
    assert stalls(audit)[4:6] == [(40, 45, 0.4), (HOUR, HOUR + 10, 0.4)]


def test_an_attempt_may_end_after_the_next_has_begun() -> None:
    run = Run({"progress": 0}).set("progress", 0.1, 10)
    run.attempt = 2
    run.set("progress", 0.2, 20)
    run.attempt = 1
    run.status("FAILED", 30)
    assert run.audit(now=99, attempt=1).end == moment(30)


def test_attempts_that_were_delivered_late_are_judged_by_when_they_ran() -> None:
    """Two attempts of five minutes each, an hour between them, all of it recorded ten hours later."""
    late = 10 * HOUR
    run = Run({"progress": 0}, at=late)
    for n in range(1, 6):
        run.set("progress", n / 10, late, happened=n * MINUTE)
    run.status("FAILED", late)
    run.attempt = 2
    run.status("EXECUTING", late)
    for n in range(6, 11):
        run.set("progress", n / 10, late, happened=HOUR + n * MINUTE)
    audit = run.status("COMPLETED", late).audit(now=late, attempt="all")
    assert (audit.stalls, audit.end) == ((), moment(HOUR + 10 * MINUTE))
    assert audit.rate.overall == pytest.approx(1 / (8 * MINUTE))


def test_an_attempt_that_does_not_exist_is_said(retried: Run) -> None:
    audit = retried.audit(now=HOUR + 30, attempt=7)
    assert (audit.condition, audit.attempt) == ("no-key", 7)
    assert audit.verdict == "attempt 7 has made no event; the last attempt is 2"


def test_an_attempt_without_a_report_shows_what_it_found(retried: Run) -> None:
    retried.events = retried.events[:7]
    audit = retried.audit(now=2 * HOUR)
    assert audit.start is not None
    assert (audit.start.value, audit.start.actor, audit.start.at) == (0.4, None, moment(HOUR))
    assert stalls(audit) == [(HOUR, None, 0.4)]
    assert audit.changes == ()


def test_a_late_report_of_an_earlier_attempt_is_not_the_last_ones(retried: Run) -> None:
    retried.attempt = 1
    retried.set("progress", 0.9, HOUR + 35)
    retried.attempt = 2
    retried.set("progress", 0.4, HOUR + 40)
    audit = retried.audit(now=HOUR + 40)
    assert moves(audit) == [(9, 0.2, 0.1), (10, 0.3, 0.1), (12, 0.4, 0.1)]
    assert moves(retried.audit(now=HOUR + 40, attempt=1))[-1] == (11, 0.9, 0.5)


# --- bounds ---


def test_a_long_history_is_put_together_and_nothing_of_it_is_lost() -> None:
    count = CHANGES_MAX * 3 + 5
    run = Run({"progress": 0})
    for n in range(1, count + 1):
        run.set("progress", (n if n % 10 else n - 5) / count, n)
    audit = run.audit(now=count)
    assert len(audit.changes) <= CHANGES_MAX
    assert sum(change.movements for change in audit.changes) == count == audit.counts.movements
    assert sum(change.delta for change in audit.changes) == pytest.approx(audit.net_change)
    assert audit.counts.regressions == count // 10
    assert len(audit.regressions) == NOTED_MAX
    assert [fall.version for fall in audit.regressions] == sorted(fall.version for fall in audit.regressions)


def test_an_end_beyond_all_calendars_is_no_eta() -> None:
    run = reported([n * 1e-9 for n in range(20)], [n * 86_400 for n in range(20)])
    audit = run.audit(now=20 * 86_400, scale="fraction")
    assert (audit.eta, audit.no_eta_because) == (None, "at its pace it would take more than a hundred years")


# --- states ---


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({"state": "a", "status": "b"}, "status"),
        ({"status": {"state": "a"}, "stage": "b"}, "$.status.state"),
        ({"status": {"stage": "a"}, "phase": "b"}, "phase"),
        ({"step": "load"}, "step"),
        ({"step": 3}, None),
        ({"status": None}, None),
    ],
)
def test_the_state_key(metadata: dict[str, Any], key: str | None) -> None:
    states = Run(metadata).audit(now=5).states
    assert (None if states is None else states.key) == key


def test_time_in_each_state_adds_up() -> None:
    run = Run({"stage": "load", "progress": 0}).set("stage", "train", 10).set("stage", "train", 15)
    run.set("stage", "load", 30).set("stage", None, 40).set("stage", "save", 45).status("COMPLETED", 50)
    states = run.audit(now=HOUR).states
    assert states is not None
    assert [(one.value, one.seconds, one.times, one.is_current) for one in states.values] == [
        ("load", 20, 2, False),
        ("train", 20, 1, False),
        ("save", 5, 1, True),
    ]


def test_texts_without_end_are_no_states() -> None:
    run = Run({"status": "0" * 500, "progress": 0})
    for n in range(1, 300):
        run.set("status", str(n), n)
    states = run.audit(now=300).states
    assert states is not None
    assert len(states.values) == 101
    assert states.values[0].value == "0" * 200
    assert states.values[-1].value == "(others)"
    assert sum(one.seconds for one in states.values) == 300


# --- words ---


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0 %"),
        (-0.0, "0 %"),
        (0.43, "43 %"),
        (0.435, "43.5 %"),
        (0.4351, "43.51 %"),
        (1 / 3, "33.33 %"),
        (0.99999, "just under 100 %"),
        (1, "100 %"),
        (1.5, "150 %"),
        (-0.1, "-10 %"),
        (1e-9, "0 %"),
        (50, "5,000 %"),
    ],
)
def test_percent(fraction: float, text: str) -> None:
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.04, "40 ms"),
        (0.9996, "1 s"),
        (3.24, "3.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (860, "14 min 20 s"),
        (3_600, "1 h"),
        (7_510, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_span_in_words(seconds: float, text: str) -> None:
    assert format_span(seconds) == text
