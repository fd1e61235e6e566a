"""Trees, changes and charts as the pages draw them, without a browser."""

import re

from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from api.pages.changes import lines_between
from api.pages.charts import FULL, POINTS_MAX, number_chart, progress_chart
from api.pages.tree import MEMBERS_MAX, NODES_MAX, Node, tree_of
from api.pages.words import compact, cut, grouped, percent, shown
from projections.metadata import ABSENT
from projections.numbers import NumberAt
from projections.operations import Set
from projections.progress import audit_progress
from projections.values import JsonObject
from tests.projections.test_history import recorded
from tests.strategies import json_values, metadata_objects, thorough

SECOND = 1_000_000
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def nodes(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children for inner in nodes(child))]


@thorough
@given(metadata_objects(), metadata_objects())
def test_a_tree_shows_everything_and_marks_what_changed(before: JsonObject, after: JsonObject) -> None:
    tree = tree_of(after, before)
    assert [child.count for child in tree.children] == [
        len(value) if isinstance(value, dict | list) else 0 for value in after.values()
    ]
    assert not any(node.is_changed for node in nodes(tree_of(after, after)))
    assert not any(node.is_changed for node in nodes(tree_of(after, None)))
    for name, child in zip(after, tree.children, strict=True):
        if name not in before:
            assert child.is_changed
        assert not UNSEEN.search(child.name + child.text)


def test_a_tree_of_very_much_shows_a_part_and_says_how_much_is_missing() -> None:
    wide = tree_of({"list": list(range(5_000))}, None).children[0]
    assert (wide.count, len(wide.children), wide.hidden) == (5_000, MEMBERS_MAX, 5_000 - MEMBERS_MAX)
    many: JsonObject = {str(one): {str(two): two for two in range(150)} for one in range(150)}
    assert len(nodes(tree_of(many, None))) <= NODES_MAX + 1


@thorough
@given(json_values(), json_values(), st.integers(1, 5))
def test_as_many_changes_are_told_as_are_asked_for(before: JsonValue, after: JsonValue, most: int) -> None:
    lines, more = lines_between(("k",), before, after, most)
    assert 1 <= len(lines) <= most
    assert more == 0 or len(lines) == most
    assert all(len(line.before) <= 120 and len(line.after) <= 120 for line in lines)
    assert all(not UNSEEN.search(line.label + line.before + line.after) for line in lines)


def test_changes_are_told_as_a_person_would() -> None:
    long = "a" * 300
    lines, more = lines_between(("s",), {"x": 1, "y": long + "b" + long}, {"x": 2, "y": long + "c" + long}, 6)
    assert more == 0
    assert [(line.label, line.before, line.after) for line in lines] == [
        ("$.s.x", "1", "2"),
        ("$.s.y", f"…{'a' * 16}b{'a' * 16}…", f"…{'a' * 16}c{'a' * 16}…"),
    ]
    assert lines_between(("k",), ABSENT, {"a": 1, "b": 2}, 6)[0][1].label == "$.k.b"
    assert [line.kind for line in lines_between(("k",), 1, ABSENT, 6)[0]] == ["remove"]
    assert [line.kind for line in lines_between(("k",), 0.8, 0.8, 6)[0]] == ["same"]
    assert lines_between(("k",), ABSENT, ABSENT, 6) == ([], 0)


@thorough
@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e9, 1e9)), min_size=1, max_size=50))
def test_every_chart_lies_within_its_frame(course: list[tuple[int, float]]) -> None:
    times = sorted(at for at, _ in course)
    changes = [
        NumberAt(at, version, value) for version, (at, (_, value)) in enumerate(zip(times, course, strict=True), 1)
    ]
    chart = number_chart("n", changes, times[-1] + 1, len(changes))
    assert chart is not None
    numbers = [float(number) for number in re.findall(r"[MHV ](-?[\d.]+)", chart.line)]
    assert all(0 <= number <= FULL for number in numbers)
    assert all(0 <= tick.y <= FULL for tick in chart.ticks)
    assert chart.marker is not None
    assert chart.points.count(":") == 3 * len(changes)


def test_a_chart_of_a_long_run_has_few_steps_and_keeps_its_extremes() -> None:
    events = recorded([Set(key="progress", value=0.5 if step == 3_333 else step / 5_000) for step in range(5_000)])
    audit = audit_progress(events, now=events[-1].recorded_at + SECOND)
    chart = progress_chart(audit, 2_500)
    assert chart is not None
    assert len(chart.changes) <= POINTS_MAX + 4
    assert chart.marker is not None
    assert 2_400 <= chart.marker.version <= 2_500
    assert progress_chart(audit, 0).marker is None  # type: ignore[union-attr]


def test_numbers_are_written_for_people() -> None:
    assert [percent(part) for part in (0, 0.00001, 0.5, 0.996, 0.99999, 1, 1.2)] == [
        "0 %",
        "0.00 %",
        "50 %",
        "99.60 %",
        "99.99 %",
        "100 %",
        "120 %",
    ]
    assert [grouped(one) for one in (0, 1234567, 0.25, -3.5, 1e20, 0.00001)] == [
        "0",
        "1,234,567",
        "0.25",
        "-3.5",
        "1e+20",
        "1e-05",
    ]
    assert [compact(one) for one in (0, 999, 1_500, 102_273_533, 0.25)] == ["0", "999", "1.5k", "102M", "0.25"]
    assert cut("abcdef", 4) == "abc…"
    assert shown("a\u202eb\u0000c\u200dd é字🦉") == "a\\u202eb\\u0000c\u200dd é字🦉"
